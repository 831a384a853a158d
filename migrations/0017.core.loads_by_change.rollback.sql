-- transactional: false
DROP INDEX CONCURRENTLY IF EXISTS penstock.loads_by_change;
