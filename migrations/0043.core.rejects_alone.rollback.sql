SET LOCAL lock_timeout = '5s';

ALTER TABLE penstock.rejects DROP COLUMN place;
ALTER TABLE penstock.loads DROP COLUMN rejects_of;
