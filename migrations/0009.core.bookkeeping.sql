-- Whoever is penstock_migrate may go on from here. `penstock migrate` makes this schema before the first migration.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

GRANT USAGE ON SCHEMA penstock_migrations TO penstock_migrate;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA penstock_migrations TO penstock_migrate;
