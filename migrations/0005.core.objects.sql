-- The newest version of each object that was applied to a dataset, for ever. Rows in data name their object by id.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE penstock.objects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset text COLLATE "C" NOT NULL REFERENCES penstock.datasets (name) ON DELETE CASCADE,
    bucket text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version_id text COLLATE "C",
    etag text COLLATE "C",
    last_modified timestamptz,
    size_bytes bigint,
    sequencer text COLLATE "C",
    removed boolean NOT NULL DEFAULT false,
    fingerprint text COLLATE "C",
    load_id uuid,
    dataset_version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (dataset, bucket, key)
);

ALTER TABLE penstock.objects OWNER TO penstock_migrate;
GRANT SELECT, INSERT, UPDATE, DELETE ON penstock.objects TO penstock_ingest;
