-- pg_trgm stays: it may have been there before, and others may use it.
SELECT 1;
