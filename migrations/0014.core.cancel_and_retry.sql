-- A load may be cancelled, and tried again on request: one more state, one more trigger.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-constraint
ALTER TABLE penstock.loads DROP CONSTRAINT loads_state_check;
-- squawk-ignore ban-drop-constraint
ALTER TABLE penstock.loads DROP CONSTRAINT loads_trigger_check;
-- Wider than before, so the rows that are there fit unseen.
ALTER TABLE penstock.loads ADD CONSTRAINT loads_state_check CHECK (
    state IN (
        'RUNNING', 'SUCCEEDED', 'FAILED', 'ALREADY_APPLIED', 'SUPERSEDED', 'SKIPPED', 'VALIDATED', 'ABANDONED', 'CANCELLED'
    )
) NOT VALID;
ALTER TABLE penstock.loads ADD CONSTRAINT loads_trigger_check CHECK (
    trigger IN ('EVENT', 'POPULATE', 'UNLOAD', 'RETRY')
) NOT VALID;
