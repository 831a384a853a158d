SET LOCAL lock_timeout = '5s';

DROP TRIGGER note_change ON penstock.loads;
DROP FUNCTION penstock.note_load_change();
ALTER TABLE penstock.loads DROP COLUMN changed_xid;
