SET LOCAL lock_timeout = '5s';

ALTER TABLE penstock.loads DROP CONSTRAINT loads_state_check;
ALTER TABLE penstock.loads DROP CONSTRAINT loads_trigger_check;
UPDATE penstock.loads SET state = 'FAILED' WHERE state = 'CANCELLED';
UPDATE penstock.loads SET trigger = 'POPULATE' WHERE trigger = 'RETRY';
ALTER TABLE penstock.loads ADD CONSTRAINT loads_state_check CHECK (
    state IN (
        'RUNNING', 'SUCCEEDED', 'FAILED', 'ALREADY_APPLIED', 'SUPERSEDED', 'SKIPPED', 'VALIDATED', 'ABANDONED'
    )
);
ALTER TABLE penstock.loads ADD CONSTRAINT loads_trigger_check CHECK (trigger IN ('EVENT', 'POPULATE', 'UNLOAD'));
