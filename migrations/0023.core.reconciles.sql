-- What the last reconcile of each dataset found, whichever process ran it, who is at one now, and the epoch for which the
-- queue's retention window was looked through last: another one means that the database may have lost loads.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE penstock.reconciles (
    dataset text COLLATE "C" PRIMARY KEY REFERENCES penstock.datasets (name) ON DELETE CASCADE,
    epoch uuid NOT NULL,
    owner text COLLATE "C",
    heartbeat_at timestamptz,
    ended_at timestamptz,
    missing bigint NOT NULL DEFAULT 0,
    outdated bigint NOT NULL DEFAULT 0,
    gone bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0
);

ALTER TABLE penstock.reconciles OWNER TO penstock_migrate;
GRANT SELECT, INSERT, UPDATE, DELETE ON penstock.reconciles TO penstock_ingest;
