-- A check that was validated stays so: the rollback of the migration before replaces it.
SELECT 1;
