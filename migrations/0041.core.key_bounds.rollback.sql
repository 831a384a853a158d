SET LOCAL lock_timeout = '5s';

ALTER TABLE penstock.datasets DROP COLUMN key_bounds;
