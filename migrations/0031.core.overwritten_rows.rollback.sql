SET LOCAL lock_timeout = '5s';

ALTER TABLE penstock.loads
    DROP COLUMN lost_uris,
    DROP COLUMN rows_lost;
ALTER TABLE penstock.objects
    DROP COLUMN overwrote,
    DROP COLUMN overwrote_rows;
