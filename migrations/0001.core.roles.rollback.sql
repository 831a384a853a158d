-- Roles that another database still uses, or that somebody else made, stay.
SET LOCAL lock_timeout = '5s';

DO $roles$
DECLARE
    role_name text;
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM penstock_migrate, penstock_ingest, penstock_query', current_database());
    FOREACH role_name IN ARRAY ARRAY['penstock_query', 'penstock_migrate', 'penstock_ingest'] LOOP
        BEGIN
            EXECUTE format('DROP ROLE IF EXISTS %I', role_name);
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN
            RAISE NOTICE 'role % stays: %', role_name, SQLERRM;
        END;
    END LOOP;
END
$roles$;
