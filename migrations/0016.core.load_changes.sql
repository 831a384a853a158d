-- Every change of a load's state can be found again, and rings a bell: WatchLoads. In a trigger, so that no statement
-- that changes a state can forget it. Transaction ids and not times: they alone tell what may still be committing.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.loads ADD COLUMN changed_xid xid8;

CREATE FUNCTION penstock.note_load_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = ''
AS $$
BEGIN
    NEW.changed_xid := pg_current_xact_id();
    PERFORM pg_notify('penstock_loads', '');
    RETURN NEW;
END
$$;

ALTER FUNCTION penstock.note_load_change() OWNER TO penstock_migrate;

CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OF state ON penstock.loads
FOR EACH ROW EXECUTE FUNCTION penstock.note_load_change();
