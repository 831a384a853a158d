SET LOCAL lock_timeout = '5s';

ALTER TABLE penstock.datasets DROP COLUMN deleted_horizon;
