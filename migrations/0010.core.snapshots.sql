-- SNAPSHOT datasets: the object (penstock.objects.id) whose rows are the whole truth now; null before the first one.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.datasets ADD COLUMN snapshot_object bigint;
GRANT UPDATE (snapshot_object) ON penstock.datasets TO penstock_ingest;
