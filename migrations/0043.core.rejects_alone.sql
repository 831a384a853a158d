-- The rows that a load left out may be loaded alone, under another contract: which load a load is the rejects of, and where
-- in the object each rejected row stands. NULL where that is not known, as of all rejects from before.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.loads ADD COLUMN rejects_of uuid;
ALTER TABLE penstock.rejects ADD COLUMN place bigint;
