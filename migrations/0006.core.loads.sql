-- The ledger: every attempt to load or unload an object, newest first by (created_at, id).
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE penstock.loads (
    id uuid PRIMARY KEY,
    dataset text COLLATE "C" NOT NULL,
    bucket text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version_id text COLLATE "C",
    etag text COLLATE "C",
    last_modified timestamptz,
    size_bytes bigint,
    sequencer text COLLATE "C",
    trigger text COLLATE "C" NOT NULL CHECK (trigger IN ('EVENT', 'POPULATE', 'UNLOAD')),
    state text COLLATE "C" NOT NULL CHECK (
        state IN (
            'RUNNING', 'SUCCEEDED', 'FAILED', 'ALREADY_APPLIED', 'SUPERSEDED', 'SKIPPED', 'VALIDATED', 'ABANDONED'
        )
    ),
    phase text COLLATE "C",
    reason text COLLATE "C",
    message text COLLATE "C",
    request_id uuid,
    force boolean NOT NULL DEFAULT false,
    validate_only boolean NOT NULL DEFAULT false,
    dataset_version bigint NOT NULL DEFAULT 0,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_inserted bigint NOT NULL DEFAULT 0,
    rows_updated bigint NOT NULL DEFAULT 0,
    rows_unchanged bigint NOT NULL DEFAULT 0,
    rows_deleted bigint NOT NULL DEFAULT 0,
    rows_rejected bigint NOT NULL DEFAULT 0,
    rows_duplicate bigint NOT NULL DEFAULT 0,
    bytes_read bigint NOT NULL DEFAULT 0,
    unknown_columns text [] COLLATE "C" NOT NULL DEFAULT '{}',
    keys_unreadable bigint NOT NULL DEFAULT 0,
    owner text COLLATE "C",
    heartbeat_at timestamptz,
    trace_id text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz
);

CREATE INDEX loads_by_time ON penstock.loads (created_at, id);
CREATE INDEX loads_by_dataset ON penstock.loads (dataset, created_at, id);
CREATE INDEX loads_by_object ON penstock.loads (bucket, key, created_at, id);
CREATE INDEX loads_by_state ON penstock.loads (state, created_at, id);
CREATE INDEX loads_by_request ON penstock.loads (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX loads_running ON penstock.loads (heartbeat_at) WHERE state = 'RUNNING';

ALTER TABLE penstock.loads OWNER TO penstock_migrate;
GRANT SELECT, INSERT, UPDATE, DELETE ON penstock.loads TO penstock_ingest;
