-- Takes back: airports: drop index_version_94c532e2.
-- transactional: false
SET lock_timeout = '30min';
SET statement_timeout = 0;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
DROP INDEX CONCURRENTLY IF EXISTS "data"."airports__version_94c532e2";

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS "airports__version_94c532e2" ON "data"."airports" USING btree ("_version");
