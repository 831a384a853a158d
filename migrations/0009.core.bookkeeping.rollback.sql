SET LOCAL lock_timeout = '5s';

REVOKE ALL ON ALL TABLES IN SCHEMA penstock_migrations FROM penstock_migrate;
REVOKE ALL ON SCHEMA penstock_migrations FROM penstock_migrate;
