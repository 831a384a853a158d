-- One row a dataset: its version, and the contract its table was made for. A contract's migration writes the row.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE penstock.datasets (
    name text COLLATE "C" PRIMARY KEY,
    epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    version bigint NOT NULL DEFAULT 0,
    row_count bigint NOT NULL DEFAULT 0,
    contract jsonb NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    loaded_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE penstock.datasets OWNER TO penstock_migrate;
-- Ingest may bump the version, never touch the contract; query checks fingerprints and reads versions.
GRANT SELECT ON penstock.datasets TO penstock_ingest, penstock_query;
GRANT UPDATE (version, row_count, loaded_at, updated_at) ON penstock.datasets TO penstock_ingest;
