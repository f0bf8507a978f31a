-- Why: a daemon renews its lease also while its results wait; who takes over must know from when on nothing is recorded.
-- What older code sees: new columns with defaults, which it leaves alone.

-- `recorded_to` is the time up to which everything seen is recorded, but for what waits for rows of single monitors: those
-- are named in `waiting`, each with its time in `waiting_since`. When another daemon takes over they move to `lost`, where
-- they stay until it has them as gaps of its own.
ALTER TABLE daemon_lease
    ADD COLUMN recorded_to timestamptz,
    ADD COLUMN waiting uuid[] NOT NULL DEFAULT '{}',
    ADD COLUMN waiting_since timestamptz[] NOT NULL DEFAULT '{}',
    ADD COLUMN lost uuid[] NOT NULL DEFAULT '{}',
    ADD COLUMN lost_since timestamptz[] NOT NULL DEFAULT '{}';

-- The latest time of what the batch tells. After an outage it is long before `recorded_at`.
ALTER TABLE recorded_batches ADD COLUMN seen_to timestamptz;
