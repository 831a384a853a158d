-- Roles of the three processes. Roles belong to the cluster: another database may have made them, even at this moment.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DO $roles$
DECLARE
    role_name text;
BEGIN
    IF NOT has_database_privilege(current_database(), 'CREATE') THEN
        RAISE EXCEPTION '% may not create schemas in database %', current_user, current_database()
            USING HINT = 'run penstock migrate as the owner of the database or as a superuser';
    END IF;
    FOREACH role_name IN ARRAY ARRAY['penstock_migrate', 'penstock_ingest', 'penstock_query'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL; -- the migration of another database was faster
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION '% may not create role %', current_user, role_name
                    USING HINT = 'run penstock migrate as a superuser or a role with CREATEROLE, or create the roles '
                        'penstock_migrate, penstock_ingest and penstock_query beforehand';
        END;
    END LOOP;
END
$roles$;

-- penstock_migrate changes tables that penstock_ingest owns; whoever migrates acts as penstock_migrate. Since Postgres 16
-- the creator of a role may administer it and nothing more, so even the creator needs the grant.
DO $members$
BEGIN
    IF NOT pg_has_role('penstock_migrate', 'penstock_ingest', 'MEMBER') THEN
        BEGIN
            GRANT penstock_ingest TO penstock_migrate;
        EXCEPTION WHEN unique_violation THEN
            NULL; -- the migration of another database was faster
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'penstock_migrate', 'USAGE') THEN
        BEGIN
            EXECUTE format('GRANT penstock_migrate TO %I', current_user);
        EXCEPTION WHEN unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'penstock_ingest', 'USAGE') THEN
        RAISE EXCEPTION '% does not inherit the rights of penstock_migrate', current_user
            USING HINT = 'give the migrating role INHERIT';
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'the Penstock roles exist and % may not grant them', current_user
        USING HINT = format('as a superuser run: GRANT penstock_ingest TO penstock_migrate; GRANT penstock_migrate TO %I',
            current_user);
END
$members$;

-- Loads stage into temporary tables, which a hardened database allows nobody.
DO $temporary$
BEGIN
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO penstock_ingest', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO penstock_query', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO penstock_migrate', current_database());
END
$temporary$;
