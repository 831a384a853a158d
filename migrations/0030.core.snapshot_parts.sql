-- A snapshot may come as several objects: the load of their marker says how many, how large and which, and a rejected
-- row names its object. The applied marker keeps the digest, so that the same parts are not loaded again.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.loads
    ADD COLUMN parts_count bigint,
    ADD COLUMN parts_bytes bigint,
    ADD COLUMN parts_digest text COLLATE "C";
ALTER TABLE penstock.objects ADD COLUMN parts_digest text COLLATE "C";
ALTER TABLE penstock.rejects ADD COLUMN part text COLLATE "C" NOT NULL DEFAULT '';
