-- Why: uptime of many monitors in one statement, at a fraction of what as many calls cost; checks of a span of time without
-- asking for each monitor; no second computing of roll-ups in a database that never had older ones.
-- What older code sees: calculate_uptime_percentage answers as before; lamplighter_window_counts is gone.
-- The index reads each partition once, while nothing can be written.

-- Rows come in the order of their time, so a range of pages says by its first and last time whether it is worth reading:
-- some tens of bytes for 32 pages, where a second index of rows would cost as much again for every row.
CREATE INDEX monitor_checks_time ON monitor_checks USING brin (checked_at)
    WITH (pages_per_range = 32, autosummarize = on);

-- Nothing here was rolled up before there was latency.
UPDATE rollup_backfill SET finished_at = now()
WHERE finished_at IS NULL AND last_day IS NULL AND NOT EXISTS (SELECT FROM monitor_rollups);

-- Whether `rollup_backfill` is finished, beside what else everybody may read who may ask for uptime.
ALTER TABLE rollup_progress ADD COLUMN backfilled boolean NOT NULL DEFAULT false;
UPDATE rollup_progress SET backfilled = true WHERE NOT EXISTS (SELECT FROM rollup_backfill WHERE finished_at IS NULL);

DROP FUNCTION lamplighter_window_counts(uuid, timestamptz, timestamptz);

-- Checks and good checks of these monitors in [from_at, to_at), equal to counting raw rows while they last: roll-ups of whole
-- clean days and hours, raw rows of the rest. Where raw rows are gone the window begins at a whole hour, where hours are gone
-- at a whole day. A row for each id, in no order; an id may be named once. STABLE: all its statements see one snapshot.
CREATE FUNCTION lamplighter_counts(ids uuid[], from_at timestamptz, to_at timestamptz)
RETURNS TABLE (monitor_id uuid, checks bigint, good bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET timezone = 'UTC'
SET plan_cache_mode = 'force_generic_plan'
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    first_hour timestamptz := date_trunc('hour', $2);
    last_hour timestamptz := least(date_trunc('hour', $3), (SELECT closed_to FROM rollup_progress));
    first_day timestamptz;
    last_day timestamptz;
    -- Days before it may have hours and no row of their own. Of all others: without a row nothing was checked, or an hour
    -- of them is dirty.
    unsummed_to timestamptz;
    -- Of all monitors.
    whole timestamptz[];
    -- What is dirty of any: bounds that are known before the statement begins, so that it need not get ready for every
    -- partition. That was most of what one monitor cost.
    dirty_from timestamptz;
    dirty_to timestamptz;
BEGIN
    IF first_hour < $2 THEN
        first_hour := first_hour + interval '1 hour';
    END IF;
    last_hour := greatest(last_hour, first_hour);
    first_day := date_trunc('day', first_hour);
    IF first_day < first_hour THEN
        first_day := least(first_day + interval '1 day', last_hour);
    END IF;
    last_day := greatest(date_trunc('day', last_hour), first_day);
    SELECT CASE WHEN p.backfilled
            THEN least(coalesce(date_trunc('day', p.hourly_from) + interval '1 day', first_day), last_day) ELSE last_day END
        INTO unsummed_to FROM rollup_progress p;
    whole := ARRAY(SELECT hour FROM rollup_dirty WHERE monitor_id IS NULL AND hour >= first_hour AND hour < last_hour);
    SELECT least(min(d.hour), (SELECT min(h) FROM unnest(whole) h)),
        greatest(max(d.hour), (SELECT max(h) FROM unnest(whole) h)) + interval '1 hour'
        INTO dirty_from, dirty_to
        FROM rollup_dirty d WHERE d.monitor_id = ANY ($1) AND d.hour >= first_hour AND d.hour < last_hour;
    RETURN QUERY
    -- MATERIALIZED: made once for each monitor, not for each row that is compared.
    WITH dirty AS MATERIALIZED (
        SELECT n.id, whole || ARRAY(
            SELECT d.hour FROM rollup_dirty d
            WHERE d.monitor_id = n.id AND d.hour >= first_hour AND d.hour < last_hour AND d.hour <> ALL (whole)) AS hours
        FROM unnest($1) n (id)
    ), one AS MATERIALIZED (
        SELECT d.id, d.hours,
            ARRAY(SELECT DISTINCT h::date FROM unnest(d.hours) h WHERE h >= first_day AND h < last_day) AS days
        FROM dirty d
    )
    SELECT i.id, sum(part.checks)::bigint, coalesce(sum(part.good), 0)::bigint
    FROM one i
    CROSS JOIN LATERAL (
        SELECT count(*) AS checks, count(*) FILTER (WHERE c.status) AS good
        FROM monitor_checks c WHERE c.monitor_id = i.id AND c.checked_at >= $2 AND c.checked_at < least(first_hour, $3)
        UNION ALL
        SELECT sum(d.checks), sum(d.good)
        FROM monitor_rollups_daily d WHERE d.monitor_id = i.id AND d.day >= first_day::date AND d.day < last_day::date
            AND d.day <> ALL (i.days)
        UNION ALL
        SELECT sum(r.checks), sum(r.good)
        FROM monitor_rollups r WHERE r.monitor_id = i.id AND r.hour >= first_hour AND r.hour < first_day
            AND r.hour <> ALL (i.hours)
        UNION ALL
        SELECT sum(r.checks), sum(r.good)
        FROM monitor_rollups r WHERE r.monitor_id = i.id AND r.hour >= last_day AND r.hour < last_hour
            AND r.hour <> ALL (i.hours)
        UNION ALL
        SELECT sum(hours.checks), sum(hours.good)
        FROM (
            SELECT u.day::timestamptz FROM unnest(i.days) u (day)
            UNION ALL
            SELECT s.day FROM generate_series(first_day, unsummed_to - interval '1 day', interval '1 day') s (day)
            WHERE s.day::date <> ALL (i.days) AND NOT EXISTS (
                SELECT FROM monitor_rollups_daily d WHERE d.monitor_id = i.id AND d.day = s.day::date)
        ) g (day)
        CROSS JOIN LATERAL (
            SELECT sum(r.checks) AS checks, sum(r.good) AS good
            FROM monitor_rollups r WHERE r.monitor_id = i.id AND r.hour >= g.day AND r.hour < g.day + interval '1 day'
                AND r.hour <> ALL (i.hours)
        ) hours
        UNION ALL
        SELECT sum(raw.checks), sum(raw.good)
        FROM unnest(i.hours) h (hour)
        CROSS JOIN LATERAL (
            SELECT count(*) AS checks, count(*) FILTER (WHERE c.status) AS good
            FROM monitor_checks c
            WHERE c.monitor_id = i.id AND c.checked_at >= h.hour AND c.checked_at < h.hour + interval '1 hour'
                AND c.checked_at >= dirty_from AND c.checked_at < dirty_to
        ) raw
        UNION ALL
        SELECT count(*), count(*) FILTER (WHERE c.status)
        FROM monitor_checks c WHERE c.monitor_id = i.id AND c.checked_at >= last_hour AND c.checked_at < $3
    ) part
    GROUP BY i.id;
END
$$;

CREATE OR REPLACE FUNCTION lamplighter_uptime_counts(monitor_id uuid, days integer, OUT checks bigint, OUT good bigint)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path FROM CURRENT
AS $$
    -- As long as so many days of 24 hours, whatever the session's zone.
    SELECT c.checks, c.good
    FROM lamplighter_counts(ARRAY[$1], now() - make_interval(hours => 24 * $2), 'infinity') c
$$;

-- As before, without a function between: one that is not inlined costs as much as the rest.
CREATE OR REPLACE FUNCTION calculate_uptime_percentage(monitor_id uuid, days integer) RETURNS numeric
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path FROM CURRENT
AS $$
DECLARE
    counts record;
BEGIN
    SELECT c.checks, c.good INTO counts
    FROM lamplighter_counts(ARRAY[$1], now() - make_interval(hours => 24 * $2), 'infinity') c;
    RETURN 100.0 * counts.good / nullif(counts.checks, 0);
END
$$;
