SET LOCAL lock_timeout = '5s';

ALTER TABLE penstock.loads DROP CONSTRAINT loads_trigger_check;
UPDATE penstock.loads SET trigger = 'POPULATE' WHERE trigger = 'RECONCILE';
ALTER TABLE penstock.loads ADD CONSTRAINT loads_trigger_check CHECK (
    trigger IN ('EVENT', 'POPULATE', 'UNLOAD', 'RETRY')
);
ALTER TABLE penstock.loads DROP COLUMN fingerprint;
