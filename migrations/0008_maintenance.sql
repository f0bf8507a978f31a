-- Why: maintenance windows: what others may write, the spans that windows became, the mark of incidents.
-- What older code sees: three new tables, and a column of incidents that it leaves alone. Quick: nothing is rewritten.

-- One sequence, as that of monitors: a revision is never given twice.
CREATE SEQUENCE maintenances_revision AS bigint;

-- Applications write here. Neither monitors nor tags: all monitors of the user. A recurrence (RFC 5545) repeats the local
-- time of starts_at in the zone. The rows of source 'file' are the file's.
CREATE TABLE maintenances (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    source varchar NOT NULL DEFAULT 'database',
    key varchar,
    name varchar NOT NULL,
    description text,
    monitors uuid[] NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    starts_at timestamptz NOT NULL,
    duration_seconds integer NOT NULL,
    rrule text,
    timezone varchar NOT NULL DEFAULT 'UTC',
    exclude_from_uptime boolean NOT NULL DEFAULT true,
    invalid_reason text,
    revision bigint NOT NULL DEFAULT nextval('maintenances_revision'),
    archived_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX maintenances_source_key ON maintenances (source, key);
CREATE INDEX maintenances_user ON maintenances (user_id);

-- Written by the daemon only: history, which outlives the definitions.
CREATE TABLE maintenance_spans (
    maintenance_id uuid NOT NULL,            -- no foreign key: history outlives the definition
    monitor_id uuid NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,              -- planned end while it runs; true end afterwards
    excluded boolean NOT NULL,               -- uptime leaves it out
    PRIMARY KEY (monitor_id, from_at, maintenance_id),
    CHECK (from_at < to_at)
);
-- What runs, of all monitors.
CREATE INDEX maintenance_spans_to ON maintenance_spans (to_at);

-- Up to when the windows of a region's daemon have become spans.
CREATE TABLE maintenance_progress (
    scope varchar PRIMARY KEY,
    done_to timestamptz NOT NULL
);

ALTER TABLE incidents ADD COLUMN IF NOT EXISTS maintenance_id uuid;

-- For each row, and not for each statement: the merge of the file, which changes nothing most of the time, must not wake
-- whoever merges.
CREATE FUNCTION lamplighter_notify_maintenance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY lamplighter_maintenances;
    RETURN NULL;
END
$$;

CREATE TRIGGER lamplighter_notify AFTER INSERT OR DELETE OR UPDATE OF
    id, user_id, source, key, name, monitors, tags, starts_at, duration_seconds, rrule, timezone, exclude_from_uptime, archived_at
ON maintenances FOR EACH ROW EXECUTE FUNCTION lamplighter_notify_maintenance();
CREATE TRIGGER lamplighter_notify_truncate AFTER TRUNCATE ON maintenances
FOR EACH STATEMENT EXECUTE FUNCTION lamplighter_notify_maintenance();

CREATE FUNCTION lamplighter_revise_maintenance() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.revision := nextval('maintenances_revision');
    RETURN NEW;
END
$$;

CREATE TRIGGER lamplighter_revise BEFORE UPDATE ON maintenances FOR EACH ROW WHEN (
    (OLD.id, OLD.user_id, OLD.source, OLD.key, OLD.name, OLD.description, OLD.monitors, OLD.tags, OLD.starts_at,
        OLD.duration_seconds, OLD.rrule, OLD.timezone, OLD.exclude_from_uptime, OLD.archived_at)
    IS DISTINCT FROM
    (NEW.id, NEW.user_id, NEW.source, NEW.key, NEW.name, NEW.description, NEW.monitors, NEW.tags, NEW.starts_at,
        NEW.duration_seconds, NEW.rrule, NEW.timezone, NEW.exclude_from_uptime, NEW.archived_at)
) EXECUTE FUNCTION lamplighter_revise_maintenance();
