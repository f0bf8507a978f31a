-- Why: API tokens; how many checks an uptime figure rests on; incidents of everybody, newest first.
-- What older code sees: a new table and a new index. calculate_uptime_percentage answers as before, from the new function.

-- Only hashes: the secret is shown once, and is too long to be guessed from its SHA-256. A token never gets a second life,
-- so revoking is a time and not a flag. Deleting a user ends that user's tokens.
CREATE TABLE tokens (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name varchar NOT NULL,
    scope varchar NOT NULL CHECK (scope IN ('read', 'write', 'admin')),
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
CREATE INDEX tokens_user ON tokens (user_id);

-- Pages of all users' incidents; those of one user or monitor have their indexes.
CREATE INDEX incidents_started ON incidents (started_at, id);

-- What calculate_uptime_percentage counts: roll-ups of clean closed hours, raw rows of the rest. STABLE: all its
-- statements see one snapshot.
CREATE FUNCTION lamplighter_uptime_counts(monitor_id uuid, days integer, OUT checks bigint, OUT good bigint)
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
BEGIN
    IF first_hour < from_at THEN
        first_hour := first_hour + interval '1 hour';
    END IF;
    open_hour := greatest(open_hour, first_hour);
    SELECT coalesce(sum(part.checks), 0), coalesce(sum(part.good), 0) INTO checks, good
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
END
$$;

CREATE OR REPLACE FUNCTION calculate_uptime_percentage(monitor_id uuid, days integer) RETURNS numeric
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path FROM CURRENT
AS $$
DECLARE
    counts record;
BEGIN
    SELECT c.checks, c.good INTO counts FROM lamplighter_uptime_counts($1, $2) c;
    RETURN 100.0 * counts.good / nullif(counts.checks, 0);
END
$$;
