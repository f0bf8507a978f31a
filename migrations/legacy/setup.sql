-- Why: what `lamplighter migrate legacy` works with. The new tables grow in the schema `lamplighter_new`, filled in batches
-- while the old application goes on; what it writes meanwhile is noted in `changes`; one short transaction then puts the
-- old tables into `legacy` and the new ones in their place. All that is known of a run stands here, so that the next one
-- goes on where this one was killed.
-- What older code sees: nothing until that transaction, then its tables in the schema `legacy`, for reading.

CREATE SCHEMA lamplighter_upgrade;

CREATE TABLE lamplighter_upgrade.state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema_name text NOT NULL,
    zone text NOT NULL,
    copy_reports boolean NOT NULL,
    -- Whether numeric uptimes are shares of one, not percentages.
    uptime_is_share boolean NOT NULL,
    legacy_made boolean NOT NULL,
    -- Relations of others that have the names of ours: they go to `legacy` as well.
    in_the_way text[] NOT NULL DEFAULT '{}',
    -- Tables that are not upgraded.
    others text[] NOT NULL,
    began_at timestamptz NOT NULL DEFAULT now(),
    switched_at timestamptz,
    finished_at timestamptz,
    report jsonb
);

-- There while an upgrade is not finished; its comment is the name of the schema. Readable from the catalogue alone.
CREATE TABLE lamplighter_upgrade.unfinished ();

CREATE TABLE lamplighter_upgrade.tables (
    part text PRIMARY KEY,
    name text NOT NULL,
    total bigint NOT NULL DEFAULT 0,
    seen bigint NOT NULL DEFAULT 0,
    begun boolean NOT NULL DEFAULT false,
    done_to bigint,
    up_to bigint,
    loaded boolean NOT NULL DEFAULT false
);

-- Indexes and keys of the largest table that are made when it is filled.
CREATE TABLE lamplighter_upgrade.deferred (n bigserial PRIMARY KEY, sql text NOT NULL);

-- Foreign keys of others that point at the new tables by now; no outcome: their rows have not been looked at.
CREATE TABLE lamplighter_upgrade.followed (child text NOT NULL, shown text NOT NULL, name text NOT NULL, outcome text);

-- Ids of old rows that were written during the run; null: the table was emptied.
CREATE TABLE lamplighter_upgrade.changes (n bigserial PRIMARY KEY, part text NOT NULL, id bigint);

-- The right to call a trigger function is asked for when the trigger is made: whoever writes to the old tables needs none.
CREATE FUNCTION lamplighter_upgrade.capture() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO lamplighter_upgrade.changes (part, id) VALUES (TG_ARGV[0], NULL);
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' AND OLD.id IS NOT NULL THEN
        INSERT INTO lamplighter_upgrade.changes (part, id) VALUES (TG_ARGV[0], OLD.id);
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.id IS NOT NULL AND (TG_OP = 'INSERT' OR NEW.id IS DISTINCT FROM OLD.id) THEN
        INSERT INTO lamplighter_upgrade.changes (part, id) VALUES (TG_ARGV[0], NEW.id);
    END IF;
    RETURN NULL;
END
$$;

-- After the switch nobody would look at what is written to the old tables.
CREATE FUNCTION lamplighter_upgrade.refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION '%.% is kept for reading since the upgrade', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'read_only_sql_transaction', HINT = 'Write to the new tables; the integer key is their legacy_id.';
END
$$;

-- Integers out of numbers and texts; null for what is none.
CREATE FUNCTION lamplighter_upgrade.big(value text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value ~ '^\s*[-+]?\d{1,18}(\.0{1,30})?\s*$' THEN value::numeric::bigint END
$$;
CREATE FUNCTION lamplighter_upgrade.whole(value text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN v.number BETWEEN -2147483648 AND 2147483647 THEN v.number::integer END
    FROM (SELECT round(substring(value FROM '^\s*([-+]?\d{1,18}(?:\.\d{1,30})?)\s*(?:ms)?\s*$')::numeric) AS number) v
$$;
-- A percentage as text, with or without its sign; null for what is none.
CREATE FUNCTION lamplighter_upgrade.percentage(value text) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN v.number <= 100 THEN v.number END
    FROM (SELECT substring(value FROM '^\s*(\d{1,3}(?:\.\d{1,30})?)\s*%?\s*$')::numeric AS number) v
$$;

-- Seconds since 1970, or milliseconds when they would be later than the year 5138.
CREATE FUNCTION lamplighter_upgrade.since_1970(value numeric) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value BETWEEN -1e10 AND 1e11 THEN timestamptz '1970-01-01 00:00:00+00' + value::double precision * interval '1 second'
        WHEN value BETWEEN 1e11 AND 1e14 THEN timestamptz '1970-01-01 00:00:00+00' + value::double precision * interval '1 millisecond' END
$$;
-- A time out of text: with its own offset, else in the zone; null for what is none.
CREATE FUNCTION lamplighter_upgrade.moment(value text, zone text) RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    -- Not `now`, `today` and their like.
    IF value !~ '^\s*\d{4}-\d' THEN
        RETURN NULL;
    ELSIF value ~* '\d:\d.*(z|utc|[-+]\d\d(:?\d\d)?)\s*$' THEN
        RETURN value::timestamptz;
    END IF;
    RETURN value::timestamp AT TIME ZONE zone;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- The host of a URL, without user and port; the text itself when it has none.
CREATE FUNCTION lamplighter_upgrade.host(url text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(substring(url FROM '^\s*(?:[A-Za-z][A-Za-z0-9+.-]*:(?://)?)?(?:[^/?#@]*@)?(\[[^\]/?#]*\]|[^]\[/:?#@\s]+)'), url)
$$;

CREATE FUNCTION lamplighter_upgrade.monitor_status(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN s IN ('up', 'online', 'ok', 'healthy', 'operational', 'success') THEN 'up'
        WHEN s IN ('down', 'offline', 'error', 'failed', 'failure', 'critical', 'unhealthy') THEN 'down'
        WHEN s IN ('degraded', 'warning', 'slow') THEN 'degraded'
        WHEN s IN ('paused', 'inactive', 'disabled', 'stopped') THEN 'paused'
        WHEN s = 'maintenance' THEN 'maintenance'
        WHEN s IN ('', 'pending', 'new', 'checking', 'active') THEN 'pending'
        ELSE 'unknown' END
    FROM (SELECT lower(btrim(coalesce(value, ''))) AS s) v
$$;
CREATE FUNCTION lamplighter_upgrade.incident_status(value text, has_end boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN s IN ('active', 'open', 'ongoing', 'new', 'investigating', 'identified', 'monitoring', 'down') THEN 'open'
        WHEN s IN ('acknowledged', 'acked', 'ack') THEN 'acknowledged'
        WHEN s IN ('resolved', 'closed', 'fixed', 'done', 'ended', 'inactive') THEN 'resolved'
        WHEN has_end THEN 'resolved'
        ELSE 'open' END
    FROM (SELECT lower(btrim(coalesce(value, ''))) AS s) v
$$;
