SET LOCAL lock_timeout = '5s';

ALTER TABLE penstock.objects DROP COLUMN unloaded;
