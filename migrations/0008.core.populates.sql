-- Populate requests, so that the same request_id attaches to the work that is under way or done.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE penstock.populates (
    request_id uuid PRIMARY KEY,
    request bytea NOT NULL,
    owner text COLLATE "C",
    state text COLLATE "C" NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE')),
    heartbeat_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
);

CREATE INDEX populates_running ON penstock.populates (heartbeat_at) WHERE state = 'RUNNING';

ALTER TABLE penstock.populates OWNER TO penstock_migrate;
GRANT SELECT, INSERT, UPDATE, DELETE ON penstock.populates TO penstock_ingest;
