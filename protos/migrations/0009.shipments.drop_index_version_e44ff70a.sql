-- shipments: drop index_version_e44ff70a.
-- transactional: false
SET lock_timeout = '30min';
SET statement_timeout = 0;

-- squawk-ignore ban-concurrent-index-creation-in-transaction
DROP INDEX CONCURRENTLY IF EXISTS "data"."shipments__version_e44ff70a";
