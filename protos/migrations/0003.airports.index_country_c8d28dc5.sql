-- airports: index country_c8d28dc5.
-- transactional: false
SET lock_timeout = '30min';
SET statement_timeout = 0;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
DROP INDEX CONCURRENTLY IF EXISTS "data"."airports__country_c8d28dc5";

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS "airports__country_c8d28dc5" ON "data"."airports" USING btree ("country", "elevation_ft" DESC, "icao");
