-- Keys that cut the rows of a dataset into parts of about one size, for Streams of a partition. They change with the
-- version only.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.datasets ADD COLUMN key_bounds jsonb;
GRANT UPDATE (key_bounds) ON penstock.datasets TO penstock_ingest;
