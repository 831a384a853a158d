-- penstock: what the services know about loads. data: one table a dataset, made by the contracts' own migrations.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE SCHEMA penstock AUTHORIZATION penstock_migrate;
CREATE SCHEMA data AUTHORIZATION penstock_migrate;

-- CREATE on data: ingest owns the tables there and re-creates their indexes after a bulk load.
GRANT USAGE ON SCHEMA penstock TO penstock_ingest, penstock_query;
GRANT USAGE, CREATE ON SCHEMA data TO penstock_ingest;
GRANT USAGE ON SCHEMA data TO penstock_query;
