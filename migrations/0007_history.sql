-- Why: roll-ups tell latency too (sums, extremes, a histogram), days are made of hours, and history is kept for a time only.
-- What older code sees: new columns that it leaves null, new tables; calculate_uptime_percentage answers as before.
-- Nothing here reads a large table: hours rolled up before get their latency later, see rollup_backfill.

-- `timed` counts the good checks with a response time, and the columns behind it are of those: null in hours that were rolled
-- up before there were such columns. `latency` is {{bucket, checks}, ...}, ascending, see lamplighter_latency_bucket; null
-- without such checks.
ALTER TABLE monitor_rollups
    ADD COLUMN timed integer,
    ADD COLUMN sum_ms bigint,
    ADD COLUMN min_ms integer,
    ADD COLUMN max_ms integer,
    ADD COLUMN latency integer[];

-- UTC days, each the sum of its hours: written with the recomputing of any hour of a day that is over, in its transaction.
CREATE TABLE monitor_rollups_daily (
    monitor_id uuid NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
    day date NOT NULL,
    region varchar NOT NULL,
    checks bigint NOT NULL,
    good bigint NOT NULL,
    timed bigint NOT NULL,
    sum_ms bigint NOT NULL,
    min_ms integer,
    max_ms integer,
    latency integer[],
    PRIMARY KEY (monitor_id, day, region)
);

-- Raw rows begin at `raw_from` and hourly roll-ups at `hourly_from`, as far as retention has removed what was before (null:
-- nothing yet). `thinned_to`: raw rows before it went for want of room and not by their age.
ALTER TABLE rollup_progress
    ADD COLUMN raw_from timestamptz,
    ADD COLUMN hourly_from timestamptz,
    ADD COLUMN thinned_to timestamptz;

-- Days whose hours are recomputed for their latency, newest first: `next_day` down to `last_day` (null: not looked for yet).
-- `done_to` is how far the monitors of `next_day` are.
CREATE TABLE rollup_backfill (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    first_day date NOT NULL,
    next_day date NOT NULL,
    last_day date,
    done_to uuid,
    finished_at timestamptz
);
INSERT INTO rollup_backfill (first_day, next_day)
SELECT day, day FROM (SELECT ((closed_to - interval '1 hour') AT TIME ZONE 'UTC')::date AS day FROM rollup_progress) p;

-- For retention: gaps that have ended.
CREATE INDEX monitor_gaps_end ON monitor_gaps (to_at);

-- Buckets of whole milliseconds: 0, then each 7 % wider than the one before, so that a figure read from a bucket is less than
-- 7 % off. Numbers of empty buckets (between 1 and 14 ms whole numbers lie further apart) do not occur.
CREATE FUNCTION lamplighter_latency_bucket(ms integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE WHEN $1 < 1 THEN 0 ELSE 1 + floor(ln($1::float8) / ln(1.07::float8))::integer END $$;

-- The least and the greatest whole millisecond of a bucket.
CREATE FUNCTION lamplighter_bucket_least(bucket integer) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE WHEN $1 < 1 THEN 0 ELSE ceil(power(1.07::float8, $1 - 1)) END $$;
CREATE FUNCTION lamplighter_bucket_most(bucket integer) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE WHEN $1 < 1 THEN 0 ELSE ceil(power(1.07::float8, $1)) - 1 END $$;

-- A histogram as rows.
CREATE FUNCTION lamplighter_buckets(latency integer[]) RETURNS TABLE (bucket integer, checks integer)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT $1[i][1], $1[i][2] FROM generate_subscripts($1, 1) i $$;

-- Raw rows of pieces of time, [from_at, to_at) of a monitor each, rolled up by piece and region. The one place that says what a
-- roll-up holds. Without settings of its own, so that it becomes part of the statement that names it; and over many pieces at
-- once, because that takes half the time.
CREATE FUNCTION lamplighter_roll(ids uuid[], from_at timestamptz[], to_at timestamptz[]) RETURNS TABLE (
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
            -- Keeps the planner from anything but a range of the index for each piece.
            OFFSET 0
        ) c
        GROUP BY 1, 2, 3, 4
    ) b
    GROUP BY b.id, b.at, b.region
$$;

-- Checks and good checks in [from_at, to_at), equal to counting raw rows while they last: roll-ups of whole clean days and
-- hours, raw rows of the rest. Where raw rows are gone the window begins at a whole hour, where hours are gone at a whole
-- day. STABLE: all its statements see one snapshot.
CREATE FUNCTION lamplighter_window_counts(
    monitor_id uuid, from_at timestamptz, to_at timestamptz, OUT checks bigint, OUT good bigint)
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
    dirty timestamptz[];
    dirty_days date[];
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
    dirty := ARRAY(
        SELECT hour FROM rollup_dirty WHERE monitor_id = $1 AND hour >= first_hour AND hour < last_hour
        UNION
        SELECT hour FROM rollup_dirty WHERE monitor_id IS NULL AND hour >= first_hour AND hour < last_hour);
    dirty_days := ARRAY(SELECT DISTINCT h::date FROM unnest(dirty) h WHERE h >= first_day AND h < last_day);
    SELECT coalesce(sum(part.checks), 0), coalesce(sum(part.good), 0) INTO checks, good
    FROM (
        SELECT count(*) AS checks, count(*) FILTER (WHERE c.status) AS good
        FROM monitor_checks c WHERE c.monitor_id = $1 AND c.checked_at >= $2 AND c.checked_at < least(first_hour, $3)
        UNION ALL
        SELECT sum(d.checks), sum(d.good)
        FROM monitor_rollups_daily d WHERE d.monitor_id = $1 AND d.day >= first_day::date AND d.day < last_day::date
            AND d.day <> ALL (dirty_days)
        UNION ALL
        SELECT sum(r.checks), sum(r.good)
        FROM monitor_rollups r WHERE r.monitor_id = $1 AND r.hour >= first_hour AND r.hour < first_day
            AND r.hour <> ALL (dirty)
        UNION ALL
        SELECT sum(r.checks), sum(r.good)
        FROM monitor_rollups r WHERE r.monitor_id = $1 AND r.hour >= last_day AND r.hour < last_hour
            AND r.hour <> ALL (dirty)
        UNION ALL
        -- Days that are not rolled up: nothing was checked, an hour of them is dirty, or the backfill has yet to come there.
        SELECT sum(h.checks), sum(h.good)
        FROM generate_series(first_day, last_day - interval '1 day', interval '1 day') g (day)
        CROSS JOIN LATERAL (
            SELECT sum(r.checks) AS checks, sum(r.good) AS good
            FROM monitor_rollups r WHERE r.monitor_id = $1 AND r.hour >= g.day AND r.hour < g.day + interval '1 day'
                AND r.hour <> ALL (dirty)
        ) h
        WHERE g.day::date = ANY (dirty_days)
            OR NOT EXISTS (SELECT FROM monitor_rollups_daily d WHERE d.monitor_id = $1 AND d.day = g.day::date)
        UNION ALL
        SELECT sum(raw.checks), sum(raw.good)
        FROM unnest(dirty) d (hour)
        CROSS JOIN LATERAL (
            SELECT count(*) AS checks, count(*) FILTER (WHERE c.status) AS good
            FROM monitor_checks c
            WHERE c.monitor_id = $1 AND c.checked_at >= d.hour AND c.checked_at < d.hour + interval '1 hour'
        ) raw
        UNION ALL
        SELECT count(*), count(*) FILTER (WHERE c.status)
        FROM monitor_checks c WHERE c.monitor_id = $1 AND c.checked_at >= last_hour AND c.checked_at < $3
    ) part;
END
$$;

CREATE OR REPLACE FUNCTION lamplighter_uptime_counts(monitor_id uuid, days integer, OUT checks bigint, OUT good bigint)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path FROM CURRENT
AS $$
    -- As long as so many days of 24 hours, whatever the session's zone.
    SELECT c.checks, c.good
    FROM lamplighter_window_counts($1, now() - make_interval(hours => 24 * $2), 'infinity') c
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
    FROM lamplighter_window_counts($1, now() - make_interval(hours => 24 * $2), 'infinity') c;
    RETURN 100.0 * counts.good / nullif(counts.checks, 0);
END
$$;

-- What lamplighter_window_counts adds up, with latency, as parts: `at` is the begin of each. In hours only if `by_hour`.
CREATE FUNCTION lamplighter_parts(
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
    begins timestamptz[];
    ends timestamptz[];
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
    raw_hours := ARRAY(
        SELECT hour FROM rollup_dirty WHERE monitor_id = $1 AND hour >= first_hour AND hour < last_hour
        UNION
        SELECT hour FROM rollup_dirty WHERE monitor_id IS NULL AND hour >= first_hour AND hour < last_hour);
    hourly_days := ARRAY(
        SELECT DISTINCT h::date FROM unnest(raw_hours) h WHERE h >= first_day AND h < last_day
        UNION
        SELECT g.day::date FROM generate_series(first_day, last_day - interval '1 day', interval '1 day') g (day)
        WHERE NOT EXISTS (SELECT FROM monitor_rollups_daily d WHERE d.monitor_id = $1 AND d.day = g.day::date));
    -- Hours of before there was latency, as far as they would be read.
    raw_hours := raw_hours || ARRAY(
        SELECT DISTINCT r.hour FROM (
            SELECT first_hour AS begin_at, first_day AS end_at
            UNION ALL SELECT last_day, last_hour
            UNION ALL SELECT d, d + interval '1 day' FROM unnest(hourly_days) u (day), LATERAL (SELECT u.day::timestamptz) v (d)
        ) span
        JOIN monitor_rollups r ON r.monitor_id = $1 AND r.hour >= span.begin_at AND r.hour < span.end_at
        WHERE r.timed IS NULL AND r.hour <> ALL (raw_hours)
            AND r.hour >= coalesce((SELECT raw_from FROM rollup_progress), '-infinity'));
    -- What is read from raw rows: the edges, and the hours of above. Future rows are one piece.
    SELECT array_agg(piece.a ORDER BY piece.a), array_agg(piece.b ORDER BY piece.a) INTO begins, ends
    FROM (
        SELECT $2 AS a, least(first_hour, $3) AS b
        UNION ALL SELECT h, h + interval '1 hour' FROM unnest(raw_hours) h
        UNION ALL SELECT h, least(h + interval '1 hour', $3)
            FROM generate_series(last_hour, least($3, open_to) - interval '1 microsecond', interval '1 hour') h
        UNION ALL SELECT greatest(open_to, last_hour), $3
    ) piece
    WHERE piece.a < piece.b;
    begins := coalesce(begins, '{}');
    RETURN QUERY
    SELECT p.at, p.checks, p.good, p.timed, p.sum_ms, p.min_ms, p.max_ms, p.latency
    FROM (
        SELECT c.at, c.region, c.checks::bigint AS checks, c.good::bigint AS good, c.timed::bigint AS timed, c.sum_ms, c.min_ms,
            c.max_ms, c.latency
        FROM lamplighter_roll(array_fill($1, ARRAY[cardinality(begins)]), begins, ends) c
        UNION ALL
        SELECT d.day::timestamptz, d.region, d.checks, d.good, d.timed, d.sum_ms, d.min_ms, d.max_ms, d.latency
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

-- Response times of good checks in [from_at, to_at): from roll-ups and raw rows, less than 7 % off, in milliseconds. With
-- `step` 'hour' or 'day' (of UTC) one row for each that had checks, else one row.
CREATE FUNCTION calculate_latency(
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
        SELECT part.at, b.bucket, sum(b.checks) AS checks
        FROM part, LATERAL lamplighter_buckets(part.latency) b GROUP BY part.at, b.bucket
    ), ranked AS (
        SELECT b.at, b.bucket, b.checks, sum(b.checks) OVER (PARTITION BY b.at ORDER BY b.bucket) AS upto,
            sum(b.checks) OVER (PARTITION BY b.at) AS total
        FROM bucket b
    ), share AS (
        -- The check of this rank lies in the bucket; where in it, its rank among the bucket's checks says.
        SELECT r.at, s.share, lamplighter_bucket_least(r.bucket)
            + (lamplighter_bucket_most(r.bucket) - lamplighter_bucket_least(r.bucket))
                * ((s.rank - (r.upto - r.checks) - 0.5) / r.checks)::float8 AS ms
        FROM ranked r
        CROSS JOIN LATERAL (SELECT q AS share, greatest(ceil(r.total * q / 100), 1) AS rank
            FROM unnest(ARRAY[50, 95, 99]::numeric[]) q) s
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

-- Drops the partition of one UTC day, if everything in it is rolled up; says whether it did. Under a lock_timeout, and shorter
-- than the patience of a batch, because batches queue behind our wait. `thin`: for want of room.
CREATE FUNCTION lamplighter_drop_partition(day date, thin boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET timezone = 'UTC'
SET lock_timeout = '250ms'
SET search_path FROM CURRENT
AS $$
DECLARE
    partition text := 'monitor_checks_' || to_char($1, 'YYYYMMDD');
    begin_at timestamptz := $1::timestamptz;
    end_at timestamptz := ($1 + 1)::timestamptz;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'monitor_checks'::regclass AND c.relname = partition
    ) THEN
        RETURN false;
    END IF;
    -- Whoever writes a late row marks its hour under a lock that this one waits for.
    LOCK TABLE ONLY monitor_checks IN ACCESS EXCLUSIVE MODE;
    IF (SELECT p.closed_to < end_at FROM rollup_progress p)
        OR EXISTS (SELECT FROM rollup_dirty d WHERE d.hour >= begin_at AND d.hour < end_at)
        OR EXISTS (SELECT FROM rollup_backfill b WHERE b.finished_at IS NULL AND b.next_day >= $1)
    THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', partition);
    UPDATE rollup_progress SET raw_from = greatest(raw_from, end_at),
        thinned_to = CASE WHEN thin THEN greatest(thinned_to, end_at) ELSE thinned_to END;
    RETURN true;
END
$$;

-- As before, and history that others bring back counts in place of what its roll-ups said.
CREATE OR REPLACE FUNCTION ensure_check_partitions(from_at timestamptz, to_at timestamptz) RETURNS integer
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
    UPDATE rollup_progress SET raw_from = date_trunc('day', from_at) WHERE raw_from > from_at;
    SELECT closed_to INTO closed FROM rollup_progress;
    -- An hour that is being recomputed begins again.
    INSERT INTO rollup_dirty (hour)
    SELECT h FROM generate_series(date_trunc('hour', from_at), least(to_at, closed - interval '1 hour'), interval '1 hour') h
    ORDER BY h
    ON CONFLICT (hour) WHERE monitor_id IS NULL DO UPDATE SET done_to = NULL, marked_at = now();
    RETURN made;
END
$$;
