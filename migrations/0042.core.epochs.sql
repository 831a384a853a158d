-- Which history of the database an epoch belongs to: cluster and timeline. A promotion or a restore begins another one, in
-- which the numbers of versions that were lost come again; the first load then begins an epoch too. NULL before any load.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.datasets ADD COLUMN history text COLLATE "C";
GRANT UPDATE (epoch, history) ON penstock.datasets TO penstock_ingest;
