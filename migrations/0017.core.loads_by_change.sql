-- transactional: false
-- Alone, as CONCURRENTLY needs it. Interrupted, it leaves an index that is not valid: DROP INDEX penstock.loads_by_change
-- and migrate again.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, require-timeout-settings, prefer-robust-stmts
CREATE INDEX CONCURRENTLY loads_by_change ON penstock.loads (changed_xid, id);
