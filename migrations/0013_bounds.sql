-- Why: response times of a window, and the roll-up of an hour, got ready for every partition of monitor_checks to read a few;
-- hours were looked through for those without latency where none are left; ranks were counted in numeric; and a window was read
-- once more for its steps.
-- What older code sees: all answers as before. But for hours of a daemon from before there was latency that goes on beside a
-- newer one: once the backfill has passed their day, they stay without.

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

-- As before, for who knows no bounds: an older daemon, while a newer one stands by.
CREATE OR REPLACE FUNCTION lamplighter_roll(ids uuid[], from_at timestamptz[], to_at timestamptz[]) RETURNS TABLE (
    monitor_id uuid, at timestamptz, region varchar, checks integer, good integer,
    timed integer, sum_ms bigint, min_ms integer, max_ms integer, latency integer[])
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT * FROM lamplighter_roll($1, $2, $3, '-infinity', 'infinity') $$;

-- As before, but for those bounds: what lamplighter_counts adds up, with latency, as parts: `at` is the begin of each. In hours
-- only if `by_hour`.
CREATE OR REPLACE FUNCTION lamplighter_parts(
    monitor_id uuid, from_at timestamptz, to_at timestamptz, by_hour boolean, only_region varchar)
RETURNS TABLE (at timestamptz, checks bigint, good bigint, timed bigint, sum_ms bigint, min_ms integer, max_ms integer,
    latency integer[])
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET timezone = 'UTC'
SET plan_cache_mode = 'force_generic_plan'
SET jit = 'off'
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

-- Where in its bucket the check of this rank lies, in milliseconds, when `upto` checks lie in it and below, and `checks` in it.
CREATE FUNCTION lamplighter_in_bucket(bucket integer, rank float8, upto float8, checks float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT lamplighter_bucket_least($1)
        + (lamplighter_bucket_most($1) - lamplighter_bucket_least($1)) * (($2 - ($3 - $4) - 0.5) / $4)
$$;

-- Response times of good checks in [from_at, to_at): from roll-ups and raw rows, less than 7 % off, in milliseconds. For
-- each of `steps`: 'hour' or 'day' (of UTC), one row for each that had checks; null, one row. Days and the whole are read once
-- for both. Ranks are counted in float8, which is exact for numbers of checks and costs a part of what numeric does.
CREATE FUNCTION lamplighter_latency(
    monitor_id uuid, from_at timestamptz, to_at timestamptz, steps text[], region varchar)
RETURNS TABLE (step text, at timestamptz, checks bigint, good bigint, timed bigint, avg_ms float8, min_ms integer,
    max_ms integer, p50_ms float8, p95_ms float8, p99_ms float8)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET timezone = 'UTC'
SET plan_cache_mode = 'force_generic_plan'
-- The planner, which does not know how few rows there are, would have it compiled: a second for some milliseconds of work.
SET jit = 'off'
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH part AS MATERIALIZED (
        SELECT s.nr, CASE WHEN s.step IS NULL THEN $2 ELSE date_trunc(s.step, p.at) END AS at,
            p.checks, p.good, p.timed, p.sum_ms, p.min_ms, p.max_ms, p.latency
        -- Days last longer than hours: a window is not read by the hour where only its hours are asked for so.
        FROM (SELECT DISTINCT u.step IS NOT DISTINCT FROM 'hour' FROM unnest($4) u (step)) h (by_hour)
        CROSS JOIN LATERAL lamplighter_parts(
            -- Days are numbered one by one, which has no end from the infinite.
            $1, CASE WHEN $2 IS NOT NULL THEN least(greatest($2, '1970-01-01 00:00+00'), '9999-01-01 00:00+00') END, $3,
            h.by_hour, $5) p
        JOIN unnest($4) WITH ORDINALITY s (step, nr) ON (s.step IS NOT DISTINCT FROM 'hour') = h.by_hour
    ), whole AS MATERIALIZED (
        SELECT part.nr, part.at, sum(part.checks)::bigint AS checks, sum(part.good)::bigint AS good,
            sum(part.timed)::bigint AS timed, sum(part.sum_ms) AS sum_ms, min(part.min_ms) AS min_ms, max(part.max_ms) AS max_ms
        FROM part GROUP BY part.nr, part.at
        UNION ALL
        SELECT s.nr, $2, 0, 0, 0, NULL, NULL, NULL
        FROM unnest($4) WITH ORDINALITY s (step, nr)
        WHERE s.step IS NULL AND NOT EXISTS (SELECT FROM part WHERE part.nr = s.nr)
    ), bucket AS (
        SELECT part.nr, part.at, b.bucket, sum(b.checks)::float8 AS checks
        FROM part, LATERAL lamplighter_buckets(part.latency) b GROUP BY part.nr, part.at, b.bucket
    ), ranked AS (
        SELECT b.nr, b.at, b.bucket, b.checks, sum(b.checks) OVER (PARTITION BY b.nr, b.at ORDER BY b.bucket) AS upto
        FROM bucket b
    ), wanted AS (
        -- The checks of these ranks are looked for. Buckets have the timed ones, and no others.
        SELECT w.nr, w.at, greatest(ceil(w.timed::float8 * 50 / 100), 1) AS p50,
            greatest(ceil(w.timed::float8 * 95 / 100), 1) AS p95, greatest(ceil(w.timed::float8 * 99 / 100), 1) AS p99
        FROM whole w
    ), figures AS (
        SELECT r.nr, r.at,
            max(lamplighter_in_bucket(r.bucket, w.p50, r.upto, r.checks))
                FILTER (WHERE w.p50 <= r.upto AND w.p50 > r.upto - r.checks) AS p50,
            max(lamplighter_in_bucket(r.bucket, w.p95, r.upto, r.checks))
                FILTER (WHERE w.p95 <= r.upto AND w.p95 > r.upto - r.checks) AS p95,
            max(lamplighter_in_bucket(r.bucket, w.p99, r.upto, r.checks))
                FILTER (WHERE w.p99 <= r.upto AND w.p99 > r.upto - r.checks) AS p99
        FROM ranked r JOIN wanted w ON w.nr = r.nr AND w.at = r.at
        GROUP BY r.nr, r.at
    )
    SELECT ($4)[w.nr], w.at, w.checks, w.good, w.timed, (w.sum_ms / nullif(w.timed, 0))::float8, w.min_ms, w.max_ms,
        least(greatest(f.p50, w.min_ms), w.max_ms), least(greatest(f.p95, w.min_ms), w.max_ms),
        least(greatest(f.p99, w.min_ms), w.max_ms)
    FROM whole w LEFT JOIN figures f ON f.nr = w.nr AND f.at = w.at
    ORDER BY w.nr, w.at;
END
$$;

-- As before.
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
    SELECT l.at, l.checks, l.good, l.timed, l.avg_ms, l.min_ms, l.max_ms, l.p50_ms, l.p95_ms, l.p99_ms
    FROM lamplighter_latency($1, $2, $3, ARRAY[step], $5) l;
END
$$;
