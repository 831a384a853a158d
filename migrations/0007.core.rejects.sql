-- Rejected rows of a load in file order; they go with their load.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE penstock.rejects (
    load_id uuid NOT NULL REFERENCES penstock.loads (id) ON DELETE CASCADE,
    ordinal bigint NOT NULL,
    line bigint NOT NULL,
    field text COLLATE "C" NOT NULL,
    rule text COLLATE "C" NOT NULL,
    message text COLLATE "C" NOT NULL,
    raw bytea NOT NULL,
    PRIMARY KEY (load_id, ordinal)
);

ALTER TABLE penstock.rejects OWNER TO penstock_migrate;
GRANT SELECT, INSERT, UPDATE, DELETE ON penstock.rejects TO penstock_ingest;
