-- Up to which version the deletions of a dataset may have been forgotten: Watch tells changes after it only.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.datasets ADD COLUMN deleted_horizon bigint NOT NULL DEFAULT 0;
GRANT UPDATE (deleted_horizon) ON penstock.datasets TO penstock_ingest;
