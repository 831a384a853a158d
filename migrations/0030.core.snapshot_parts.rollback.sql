SET LOCAL lock_timeout = '5s';

ALTER TABLE penstock.rejects DROP COLUMN part;
ALTER TABLE penstock.objects DROP COLUMN parts_digest;
ALTER TABLE penstock.loads
    DROP COLUMN parts_digest,
    DROP COLUMN parts_bytes,
    DROP COLUMN parts_count;
