-- Loads that a reconcile starts, and the contract under which each load was tried: what failed for good is tried again
-- when the contract is another. Validated in the next migration, so that no lock is held for the scan.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.loads ADD COLUMN fingerprint text COLLATE "C";

-- squawk-ignore ban-drop-constraint
ALTER TABLE penstock.loads DROP CONSTRAINT loads_trigger_check;
ALTER TABLE penstock.loads ADD CONSTRAINT loads_trigger_check CHECK (
    trigger IN ('EVENT', 'POPULATE', 'UNLOAD', 'RETRY', 'RECONCILE')
) NOT VALID;
