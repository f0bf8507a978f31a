-- Why: response times of a window, and the roll-up of an hour, got ready for every partition of monitor_checks to read a few;
-- hours were looked through for those without latency where none are left; and shares were counted in numeric.
-- What older code sees: lamplighter_roll asks for the bounds of its pieces; all else answers as before.

DROP FUNCTION lamplighter_roll(uuid[], timestamptz[], timestamptz[]);

-- Raw rows of pieces of time, [from_at, to_at) of a monitor each, rolled up by piece and region. The one place that says what a
-- roll-up holds. Without settings of its own, so that it becomes part of the statement that names it; and over many pieces at
-- once, because that takes half the time. The pieces lie in [earliest, latest): bounds that are known before the statement
-- begins, so that it need not get ready for every partition.
CREATE FUNCTION lamplighter_roll(
    ids uuid[], from_at timestamptz[], to_at timestamptz[], earliest timestamptz, latest timestamptz)
RETURNS TABLE (
    monitor_id uuid, at timestamptz, region varchar, checks integer, good integer,
    timed integer, sum_ms bigint, min_ms integer, max_ms integer, latency integer[])
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT b.id, b.at, b.region, sum(b.checks)::integer, sum(b.good)::integer,
        coalesce(sum(b.checks) FILTER (WHERE b.bucket IS NOT NULL), 0)::integer,
        coalesce(sum(b.sum_ms) FILTER (WHERE b.bucket IS NOT NULL), 0)::bigint,
        min(b.min_ms) FILTER (WHERE b.bucket IS NOT NULL), max(b.max_ms) FILTER (WHERE b.bucket IS NOT NULL),
        array_agg(ARRAY[b.bucket, b.checks] ORDER BY b.bucket) FILTER (WHERE b.bucket IS NOT NULL)
    FROM (
        SELECT n.id, n.from_at AS at, c.region,
            CASE WHEN c.status THEN lamplighter_latency_bucket(c.response_time_ms) END AS bucket,
            count(*)::integer AS checks, (count(*) FILTER (WHERE c.status))::integer AS good,
            sum(c.response_time_ms) AS sum_ms, min(c.response_time_ms) AS min_ms, max(c.response_time_ms) AS max_ms
        FROM unnest($1, $2, $3) AS n (id, from_at, to_at)
        CROSS JOIN LATERAL (
            SELECT k.region, k.status, k.response_time_ms FROM monitor_checks k
            WHERE k.monitor_id = n.id AND k.checked_at >= n.from_at AND k.checked_at < n.to_at
                AND k.checked_at >= $4 AND k.checked_at < $5
            -- Keeps the planner from anything but a range of the index for each piece.
            OFFSET 0
        ) c
        GROUP BY 1, 2, 3, 4
    ) b
    GROUP BY b.id, b.at, b.region
$$;

-- As before, but for those bounds: what lamplighter_counts adds up, with latency, as parts: `at` is the begin of each. In hours
-- only if `by_hour`.
CREATE OR REPLACE FUNCTION lamplighter_parts(
    monitor_id uuid, from_at timestamptz, to_at timestamptz, by_hour boolean, only_region varchar)
RETURNS TABLE (at timestamptz, checks bigint, good bigint, timed bigint, sum_ms bigint, min_ms integer, max_ms integer,
    latency integer[])
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
    open_to timestamptz := date_trunc('hour', now()) + interval '1 hour';
    raw_hours timestamptz[];
    hourly_days date[];
    -- Whether hours may be without latency; and days before it may have hours and no row of their own.
    backfilled boolean;
    unsummed_to timestamptz;
    edge record;
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
    IF by_hour THEN
        first_day := last_hour;
        last_day := last_hour;
    END IF;
    SELECT p.backfilled, CASE WHEN p.backfilled
            THEN least(coalesce(date_trunc('day', p.hourly_from) + interval '1 day', first_day), last_day) ELSE last_day END
        INTO backfilled, unsummed_to FROM rollup_progress p;
    raw_hours := ARRAY(
        SELECT hour FROM rollup_dirty WHERE monitor_id = $1 AND hour >= first_hour AND hour < last_hour
        UNION
        SELECT hour FROM rollup_dirty WHERE monitor_id IS NULL AND hour >= first_hour AND hour < last_hour);
    hourly_days := ARRAY(
        SELECT DISTINCT h::date FROM unnest(raw_hours) h WHERE h >= first_day AND h < last_day
        UNION
        SELECT g.day::date FROM generate_series(first_day, unsummed_to - interval '1 day', interval '1 day') g (day)
        WHERE NOT EXISTS (SELECT FROM monitor_rollups_daily d WHERE d.monitor_id = $1 AND d.day = g.day::date));
    IF NOT backfilled THEN
        -- Hours of before there was latency, as far as they would be read.
        raw_hours := raw_hours || ARRAY(
            SELECT DISTINCT r.hour FROM (
                SELECT first_hour AS begin_at, first_day AS end_at
                UNION ALL SELECT last_day, last_hour
                UNION ALL SELECT u.day::timestamptz, u.day::timestamptz + interval '1 day' FROM unnest(hourly_days) u (day)
            ) span
            JOIN monitor_rollups r ON r.monitor_id = $1 AND r.hour >= span.begin_at AND r.hour < span.end_at
            WHERE r.timed IS NULL AND r.hour <> ALL (raw_hours)
                AND r.hour >= coalesce((SELECT raw_from FROM rollup_progress), '-infinity'));
    END IF;
    -- What is read from raw rows: both edges, and the hours of above. Each by itself, since it lies on few days, and all of
    -- them on as many as the window has. Future rows are one piece.
    FOR edge IN
        SELECT array_agg(piece.a) AS begins, array_agg(piece.b) AS ends, min(piece.a) AS earliest, max(piece.b) AS latest
        FROM (
            SELECT 1 AS which, $2 AS a, least(first_hour, $3) AS b
            UNION ALL SELECT 2, h, h + interval '1 hour' FROM unnest(raw_hours) h
            UNION ALL SELECT 3, h, least(h + interval '1 hour', $3)
                FROM generate_series(last_hour, least($3, open_to) - interval '1 microsecond', interval '1 hour') h
            UNION ALL SELECT 3, greatest(open_to, last_hour), $3
        ) piece
        WHERE piece.a < piece.b
        GROUP BY piece.which
    LOOP
        RETURN QUERY
        SELECT c.at, c.checks::bigint, c.good::bigint, c.timed::bigint, c.sum_ms, c.min_ms, c.max_ms, c.latency
        FROM lamplighter_roll(
            array_fill($1, ARRAY[cardinality(edge.begins)]), edge.begins, edge.ends, edge.earliest, edge.latest) c
        WHERE only_region IS NULL OR c.region = only_region;
    END LOOP;
    RETURN QUERY
    SELECT p.at, p.checks, p.good, p.timed, p.sum_ms, p.min_ms, p.max_ms, p.latency
    FROM (
        SELECT d.day::timestamptz AS at, d.region, d.checks, d.good, d.timed, d.sum_ms, d.min_ms, d.max_ms, d.latency
        FROM monitor_rollups_daily d WHERE d.monitor_id = $1 AND d.day >= first_day::date AND d.day < last_day::date
            AND d.day <> ALL (hourly_days)
        UNION ALL
        SELECT r.hour, r.region, r.checks, r.good, coalesce(r.timed, 0), coalesce(r.sum_ms, 0), r.min_ms, r.max_ms, r.latency
        FROM monitor_rollups r WHERE r.monitor_id = $1 AND r.hour >= first_hour AND r.hour < first_day
            AND r.hour <> ALL (raw_hours)
        UNION ALL
        SELECT r.hour, r.region, r.checks, r.good, coalesce(r.timed, 0), coalesce(r.sum_ms, 0), r.min_ms, r.max_ms, r.latency
        FROM monitor_rollups r WHERE r.monitor_id = $1 AND r.hour >= last_day AND r.hour < last_hour
            AND r.hour <> ALL (raw_hours)
        UNION ALL
        SELECT r.hour, r.region, r.checks, r.good, coalesce(r.timed, 0), coalesce(r.sum_ms, 0), r.min_ms, r.max_ms, r.latency
        FROM unnest(hourly_days) u (day)
        JOIN monitor_rollups r ON r.monitor_id = $1 AND r.hour >= u.day::timestamptz
            AND r.hour < u.day::timestamptz + interval '1 day'
        WHERE r.hour <> ALL (raw_hours)
    ) p
    WHERE only_region IS NULL OR p.region = only_region;
END
$$;

-- As before, but that shares are counted in float8, which is exact for numbers of checks and costs a part of what numeric does.
-- Response times of good checks in [from_at, to_at): from roll-ups and raw rows, less than 7 % off, in milliseconds. With
-- `step` 'hour' or 'day' (of UTC) one row for each that had checks, else one row.
CREATE OR REPLACE FUNCTION calculate_latency(
    monitor_id uuid, from_at timestamptz, to_at timestamptz, step text DEFAULT NULL, region varchar DEFAULT NULL)
RETURNS TABLE (at timestamptz, checks bigint, good bigint, timed bigint, avg_ms float8, min_ms integer, max_ms integer,
    p50_ms float8, p95_ms float8, p99_ms float8)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET timezone = 'UTC'
SET plan_cache_mode = 'force_generic_plan'
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
BEGIN
    IF step IS NOT NULL AND step NOT IN ('hour', 'day') THEN
        RAISE EXCEPTION 'calculate_latency: step may be hour, day or null, not %', step
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH part AS MATERIALIZED (
        SELECT CASE WHEN step IS NULL THEN $2 ELSE date_trunc(step, p.at) END AS at,
            p.checks, p.good, p.timed, p.sum_ms, p.min_ms, p.max_ms, p.latency
        FROM lamplighter_parts($1, $2, $3, step IS NOT DISTINCT FROM 'hour', $5) p
    ), whole AS (
        SELECT part.at, sum(part.checks)::bigint AS checks, sum(part.good)::bigint AS good, sum(part.timed)::bigint AS timed,
            sum(part.sum_ms) AS sum_ms, min(part.min_ms) AS min_ms, max(part.max_ms) AS max_ms
        FROM part GROUP BY part.at
    ), bucket AS (
        SELECT part.at, b.bucket, sum(b.checks)::float8 AS checks
        FROM part, LATERAL lamplighter_buckets(part.latency) b GROUP BY part.at, b.bucket
    ), ranked AS (
        SELECT b.at, b.bucket, b.checks, sum(b.checks) OVER (PARTITION BY b.at ORDER BY b.bucket) AS upto,
            sum(b.checks) OVER (PARTITION BY b.at) AS total
        FROM bucket b
    ), share AS (
        -- The check of this rank lies in the bucket; where in it, its rank among the bucket's checks says.
        SELECT r.at, s.share, lamplighter_bucket_least(r.bucket)
            + (lamplighter_bucket_most(r.bucket) - lamplighter_bucket_least(r.bucket))
                * ((s.rank - (r.upto - r.checks) - 0.5) / r.checks) AS ms
        FROM ranked r
        CROSS JOIN LATERAL (SELECT q AS share, greatest(ceil(r.total * q / 100), 1) AS rank
            FROM unnest(ARRAY[50, 95, 99]::float8[]) q) s
        WHERE s.rank <= r.upto AND s.rank > r.upto - r.checks
    ), figures AS (
        SELECT s.at, max(s.ms) FILTER (WHERE s.share = 50) AS p50, max(s.ms) FILTER (WHERE s.share = 95) AS p95,
            max(s.ms) FILTER (WHERE s.share = 99) AS p99
        FROM share s GROUP BY s.at
    )
    SELECT w.at, w.checks, w.good, w.timed, (w.sum_ms / nullif(w.timed, 0))::float8, w.min_ms, w.max_ms,
        least(greatest(f.p50, w.min_ms), w.max_ms), least(greatest(f.p95, w.min_ms), w.max_ms),
        least(greatest(f.p99, w.min_ms), w.max_ms)
    FROM whole w LEFT JOIN figures f ON f.at = w.at
    ORDER BY w.at;
    IF step IS NULL AND NOT FOUND THEN
        RETURN QUERY SELECT $2, 0::bigint, 0::bigint, 0::bigint, NULL::float8, NULL::integer, NULL::integer, NULL::float8,
            NULL::float8, NULL::float8;
    END IF;
END
$$;
