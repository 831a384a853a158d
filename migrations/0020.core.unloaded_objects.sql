-- Objects whose rows somebody took back, told from those that are gone from their bucket: a reconcile loads what lies in
-- the bucket, but not what Unload took away.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE penstock.objects ADD COLUMN unloaded boolean NOT NULL DEFAULT false;

-- Removals from a bucket have the sequencer of their event.
UPDATE penstock.objects SET unloaded = true
FROM penstock.loads
WHERE loads.id = objects.load_id AND objects.removed AND loads.trigger = 'UNLOAD' AND loads.sequencer IS NULL;
