-- An object may replace rows of others under MERGE, which an Unload of it cannot bring back: how many, and whose.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

-- A load's statement asks for the owner that a row had before (RETURNING old), which no server before 18 can tell.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer < 180000 THEN
        RAISE EXCEPTION 'Penstock needs Postgres 18 or newer, this is %', current_setting('server_version');
    END IF;
END
$$;

ALTER TABLE penstock.objects
    ADD COLUMN overwrote_rows bigint NOT NULL DEFAULT 0,
    ADD COLUMN overwrote bigint [] NOT NULL DEFAULT '{}';
ALTER TABLE penstock.loads
    ADD COLUMN rows_lost bigint NOT NULL DEFAULT 0,
    ADD COLUMN lost_uris text [] COLLATE "C" NOT NULL DEFAULT '{}';
