-- Why: the three public functions: uptime as the user defined it, and partitions for history written by others.
-- What older code sees: three new functions. They name their own schema and zone, so any session may call them.

-- Equal to 100.0 * SUM(CASE WHEN status THEN 1 ELSE 0 END) / COUNT(*) over the last `days` days at any moment while raw
-- rows last: roll-ups of clean closed hours, raw rows of the rest. STABLE: all its statements see one snapshot.
CREATE FUNCTION calculate_uptime_percentage(monitor_id uuid, days integer) RETURNS numeric
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET timezone = 'UTC'
SET plan_cache_mode = 'force_generic_plan'
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    from_at timestamptz := now() - make_interval(days => $2);
    first_hour timestamptz := date_trunc('hour', from_at);
    open_hour timestamptz := (SELECT closed_to FROM rollup_progress);
    total bigint;
    good_total bigint;
BEGIN
    IF first_hour < from_at THEN
        first_hour := first_hour + interval '1 hour';
    END IF;
    open_hour := greatest(open_hour, first_hour);
    SELECT sum(part.checks), sum(part.good) INTO total, good_total
    FROM (
        SELECT count(*) AS checks, count(*) FILTER (WHERE c.status) AS good
        FROM monitor_checks c WHERE c.monitor_id = $1 AND c.checked_at >= from_at AND c.checked_at < first_hour
        UNION ALL
        SELECT sum(r.checks), sum(r.good)
        FROM monitor_rollups r WHERE r.monitor_id = $1 AND r.hour >= first_hour AND r.hour < open_hour
            AND NOT EXISTS (SELECT FROM rollup_dirty d WHERE d.hour = r.hour AND d.monitor_id = $1)
            AND NOT EXISTS (SELECT FROM rollup_dirty d WHERE d.hour = r.hour AND d.monitor_id IS NULL)
        UNION ALL
        SELECT sum(raw.checks), sum(raw.good)
        FROM (
            SELECT hour FROM rollup_dirty WHERE monitor_id = $1 AND hour >= first_hour AND hour < open_hour
            UNION
            SELECT hour FROM rollup_dirty WHERE monitor_id IS NULL AND hour >= first_hour AND hour < open_hour
        ) dirty
        CROSS JOIN LATERAL (
            SELECT count(*) AS checks, count(*) FILTER (WHERE c.status) AS good
            FROM monitor_checks c
            WHERE c.monitor_id = $1 AND c.checked_at >= dirty.hour AND c.checked_at < dirty.hour + interval '1 hour'
        ) raw
        UNION ALL
        SELECT count(*), count(*) FILTER (WHERE c.status)
        FROM monitor_checks c WHERE c.monitor_id = $1 AND c.checked_at >= open_hour
    ) part;
    RETURN 100.0 * good_total / nullif(total, 0);
END
$$;

-- 30 days, rounded down; without rows nothing changes.
CREATE FUNCTION update_uptime_percentage(monitor_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    percentage numeric := calculate_uptime_percentage($1, 30);
BEGIN
    UPDATE monitors SET uptime_percentage = floor(percentage)::integer,
        uptime = to_char(trunc(percentage, 2), 'FM990.00') || '%'
    WHERE id = $1 AND percentage IS NOT NULL;
END
$$;

-- Makes the partition of one UTC day, if it is not there; says whether it did. By CREATE and ATTACH, which readers and
-- writers do not notice, under a lock_timeout; bounds with +00, whatever the session's zone.
CREATE FUNCTION lamplighter_make_partition(day date) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET timezone = 'UTC'
SET lock_timeout = '2s'
SET search_path FROM CURRENT
AS $$
DECLARE
    partition text := 'monitor_checks_' || to_char(day, 'YYYYMMDD');
BEGIN
    -- One at a time: two callers of one day would both see it missing. Released at the end of the transaction.
    PERFORM pg_advisory_xact_lock('monitor_checks'::regclass::oid::bigint);
    IF EXISTS (
        SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'monitor_checks'::regclass AND c.relname = partition
    ) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE monitor_checks INCLUDING ALL)', partition);
    EXECUTE format('ALTER TABLE monitor_checks ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition,
        to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
    RETURN true;
END
$$;

-- Makes the daily partitions of [from_at, to_at] and marks their closed hours dirty; says how many it made.
CREATE FUNCTION ensure_check_partitions(from_at timestamptz, to_at timestamptz) RETURNS integer
LANGUAGE plpgsql VOLATILE
SET timezone = 'UTC'
SET search_path FROM CURRENT
AS $$
DECLARE
    made integer;
    closed timestamptz;
BEGIN
    IF from_at IS NULL OR to_at IS NULL OR NOT isfinite(from_at) OR NOT isfinite(to_at)
        OR to_at - from_at > interval '7400 days' THEN
        RAISE EXCEPTION 'ensure_check_partitions: a span of at most 20 years is needed, not % to %', from_at, to_at
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT count(*) FILTER (WHERE lamplighter_make_partition(day::date)) INTO made
    FROM generate_series(date_trunc('day', from_at), to_at, interval '1 day') day;
    SELECT closed_to INTO closed FROM rollup_progress;
    -- An hour that is being recomputed begins again.
    INSERT INTO rollup_dirty (hour)
    SELECT h FROM generate_series(date_trunc('hour', from_at), least(to_at, closed - interval '1 hour'), interval '1 hour') h
    ORDER BY h
    ON CONFLICT (hour) WHERE monitor_id IS NULL DO UPDATE SET done_to = NULL, marked_at = now();
    RETURN made;
END
$$;
