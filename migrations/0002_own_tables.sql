-- Why: what the daemon remembers: states, gaps, roll-ups, recorded batches, its lease.
-- What older code sees: nothing; no public table changes.

-- What survives a restart. `state` is the whole of it; the columns beside it are copies for people and for joins.
CREATE TABLE monitor_state (
    monitor_id uuid NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
    region varchar NOT NULL,
    state jsonb NOT NULL,
    status varchar NOT NULL,
    since timestamptz,
    failures integer NOT NULL DEFAULT 0,
    incident uuid,
    last_checked timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (monitor_id, region)
) WITH (fillfactor = 80);

-- What was not observed. A null monitor means every monitor of the region.
CREATE TABLE monitor_gaps (
    id bigserial PRIMARY KEY,
    monitor_id uuid REFERENCES monitors (id) ON DELETE CASCADE,
    region varchar NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,
    reason varchar NOT NULL,
    CHECK (from_at <= to_at)
);
-- Two indexes, because NULLS NOT DISTINCT is not in PostgreSQL 14.
CREATE UNIQUE INDEX monitor_gaps_one ON monitor_gaps (monitor_id, region, reason, from_at) WHERE monitor_id IS NOT NULL;
CREATE UNIQUE INDEX monitor_gaps_all ON monitor_gaps (region, reason, from_at) WHERE monitor_id IS NULL;

-- Hourly counts of `monitor_checks`; only hours before rollup_progress.closed_to have rows, and only monitors that had
-- checks in them. A latency histogram will be a further column, days a further table of the same shape.
CREATE TABLE monitor_rollups (
    monitor_id uuid NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
    hour timestamptz NOT NULL,
    region varchar NOT NULL,
    checks integer NOT NULL,
    good integer NOT NULL,
    PRIMARY KEY (monitor_id, hour, region)
);

-- Hours before `closed_to` are served from roll-ups unless they stand in `rollup_dirty`. It only ever moves forward, and
-- only under a SHARE lock on monitor_checks, so that no writer is left who took a closed hour for an open one.
CREATE TABLE rollup_progress (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    closed_to timestamptz NOT NULL
);
INSERT INTO rollup_progress (closed_to) VALUES (date_trunc('hour', now(), 'UTC'));

-- Closed hours whose roll-ups are not to be trusted: of one monitor, or (null) of all. `done_to` is how far an hour of all
-- monitors has been recomputed. No foreign key: a mark must never wait for somebody's lock on a monitor.
CREATE TABLE rollup_dirty (
    hour timestamptz NOT NULL,
    monitor_id uuid,
    done_to uuid,
    marked_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX rollup_dirty_one ON rollup_dirty (monitor_id, hour) WHERE monitor_id IS NOT NULL;
CREATE UNIQUE INDEX rollup_dirty_all ON rollup_dirty (hour) WHERE monitor_id IS NULL;

-- Written with the batch it names: a COMMIT whose answer was lost is recognised, and answered as it was the first time.
CREATE TABLE recorded_batches (
    id uuid PRIMARY KEY,
    scope varchar NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    checks integer NOT NULL,
    dropped integer NOT NULL,
    delayed uuid[] NOT NULL DEFAULT '{}'
);

-- Who is the active daemon of a region. The unique index on the epoch makes changing it conflict with FOR KEY SHARE, which
-- writers hold, while renewing does not: nobody takes over in the middle of a batch, and renewals never wait for one.
CREATE TABLE daemon_lease (
    scope varchar PRIMARY KEY,
    holder varchar NOT NULL,
    epoch bigint NOT NULL,
    acquired_at timestamptz NOT NULL DEFAULT now(),
    renewed_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    down_since timestamptz
);
CREATE UNIQUE INDEX daemon_lease_epoch ON daemon_lease (scope, epoch);
