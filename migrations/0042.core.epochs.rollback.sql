SET LOCAL lock_timeout = '5s';

REVOKE UPDATE (epoch) ON penstock.datasets FROM penstock_ingest;
ALTER TABLE penstock.datasets DROP COLUMN history;
