-- Why: time-weighted uptime needs the moment from which a monitor was watched, what ended in a window, and a gap for the
-- time that a monitor was archived; objectives (SLOs) need a memory of their status.
-- What older code sees: two columns that may be null, three indexes, a trigger and a table. Quick: one look at an index for each
-- row of monitor_state, and indexes of two small tables.

-- The first check in a region. Kept here, because roll-ups and raw rows go with retention, and rows that somebody imported
-- are no sign that this daemon watched. Set once, with the first state that tells of a check.
ALTER TABLE monitor_state ADD COLUMN observed_from timestamptz;
UPDATE monitor_state s SET observed_from = least(s.since, s.last_checked, (
    SELECT r.hour FROM monitor_rollups r WHERE r.monitor_id = s.monitor_id AND r.region = s.region ORDER BY r.hour LIMIT 1))
WHERE s.last_checked IS NOT NULL;

-- Incidents and gaps that ended before it are removed (retention): of the time before nothing is known any more. Null: all are
-- there.
ALTER TABLE rollup_progress ADD COLUMN incidents_from timestamptz;

-- A window asks for what ends after its beginning; what began before it may be years of history.
CREATE INDEX incidents_ended ON incidents (monitor_id, resolved_at);
CREATE INDEX monitor_gaps_ended ON monitor_gaps (monitor_id, to_at) WHERE monitor_id IS NOT NULL;
CREATE INDEX monitor_gaps_all_ended ON monitor_gaps (region, to_at) WHERE monitor_id IS NULL;

-- A monitor that was archived was not watched: whoever brings it back, that time is a gap in every region that knew it.
CREATE FUNCTION lamplighter_unarchived() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO monitor_gaps AS g (monitor_id, region, from_at, to_at, reason)
    SELECT NEW.id, s.region, OLD.archived_at, now(), 'paused' FROM monitor_state s
    WHERE s.monitor_id = NEW.id AND s.observed_from IS NOT NULL AND OLD.archived_at < now() AND isfinite(OLD.archived_at)
    ORDER BY s.region
    ON CONFLICT (monitor_id, region, reason, from_at) WHERE monitor_id IS NOT NULL
    DO UPDATE SET to_at = greatest(g.to_at, excluded.to_at);
    RETURN NULL;
END
$$;
CREATE TRIGGER lamplighter_unarchived AFTER UPDATE OF archived_at ON monitors FOR EACH ROW
WHEN (OLD.archived_at IS NOT NULL AND NEW.archived_at IS NULL)
EXECUTE FUNCTION lamplighter_unarchived();

-- What the last evaluation of an objective found. Written by the active daemon of a region, and read by the API, on a standby
-- too. `user_id` is whose all its monitors are; null when they are several people's, or none.
CREATE TABLE slo_state (
    region varchar NOT NULL,
    id varchar NOT NULL,
    user_id uuid REFERENCES users (id) ON DELETE CASCADE,
    status varchar NOT NULL,
    since timestamptz NOT NULL,
    calmer_since timestamptz,
    evaluated_at timestamptz NOT NULL,
    report jsonb NOT NULL,
    PRIMARY KEY (region, id)
);
