-- Why: the tables that web applications read and write directly. Names, types and defaults are promises.
-- What older code sees: applications written for the uuid schema find every column they know; new ones have defaults.
-- IF NOT EXISTS, because a database that another tool brought to this schema is adopted: adoption/before.sql has then
-- added the missing columns.

CREATE TABLE IF NOT EXISTS users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    clerk_id varchar UNIQUE,
    email varchar UNIQUE,
    name varchar,
    avatar text,
    plan varchar NOT NULL DEFAULT 'free',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    legacy_id bigint,
    legacy jsonb
);
-- Owners of the file are found by e-mail, whatever its case.
CREATE INDEX IF NOT EXISTS users_email_lower ON users (lower(email));

-- Owns what has no owner; the uuid is model::SYSTEM_USER.
INSERT INTO users (id, name, plan) VALUES ('00000000-0000-4000-8000-000000000001', 'Lamplighter', 'system')
ON CONFLICT (id) DO NOTHING;

-- One sequence for all monitors: a revision is never given twice, so "equal" always means "unchanged".
CREATE SEQUENCE IF NOT EXISTS monitors_revision AS bigint;

CREATE TABLE IF NOT EXISTS monitors (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name varchar NOT NULL,
    url varchar NOT NULL,
    status varchar NOT NULL DEFAULT 'pending',
    uptime varchar DEFAULT '100%',
    interval_seconds integer NOT NULL DEFAULT 300,
    timeout_seconds integer NOT NULL DEFAULT 10,
    is_active boolean NOT NULL DEFAULT true,
    uptime_percentage integer NOT NULL DEFAULT 100,
    kind varchar,
    spec jsonb DEFAULT '{}',
    tags text[] DEFAULT '{}',
    source varchar NOT NULL DEFAULT 'database',
    key varchar,
    invalid_reason text,
    revision bigint NOT NULL DEFAULT nextval('monitors_revision'),
    archived_at timestamptz,
    last_checked timestamptz,
    response_time integer,
    ssl_expiry timestamptz,
    legacy_id bigint,
    legacy jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX IF NOT EXISTS monitors_source_key ON monitors (source, key);
CREATE INDEX IF NOT EXISTS monitors_user ON monitors (user_id);
-- Status columns are rewritten often and are in no index: room on the page keeps those updates off the indexes.
ALTER TABLE monitors SET (fillfactor = 80);

-- By day. The key is the only index: a second one costs as much again for every row.
CREATE TABLE IF NOT EXISTS monitor_checks (
    id bigserial NOT NULL,
    monitor_id uuid NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
    status boolean NOT NULL,
    status_code integer,
    response_time_ms integer,
    error_type varchar,
    region varchar NOT NULL DEFAULT 'us-east-1',
    checked_at timestamptz NOT NULL DEFAULT now(),
    attempt smallint NOT NULL DEFAULT 1,
    dns_us integer,
    connect_us integer,
    tls_us integer,
    send_us integer,
    wait_us integer,
    receive_us integer,
    PRIMARY KEY (monitor_id, checked_at, id)
) PARTITION BY RANGE (checked_at);

CREATE TABLE IF NOT EXISTS incidents (
    id bigserial PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    monitor_id uuid NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
    title varchar NOT NULL,
    description text,
    status varchar NOT NULL DEFAULT 'open',
    severity varchar DEFAULT 'medium',
    started_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    duration_seconds integer,
    source varchar NOT NULL DEFAULT 'manual',
    uid uuid,
    cause varchar,
    caused_by uuid,
    resolve_reason varchar,
    evidence jsonb,
    acknowledged_at timestamptz,
    acknowledged_by varchar,
    acknowledge_note text,
    legacy_id bigint,
    legacy jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX IF NOT EXISTS incidents_uid ON incidents (uid);
CREATE UNIQUE INDEX IF NOT EXISTS incidents_one_open ON incidents (monitor_id)
    WHERE resolved_at IS NULL AND source = 'daemon';
CREATE INDEX IF NOT EXISTS incidents_monitor ON incidents (monitor_id, started_at);
CREATE INDEX IF NOT EXISTS incidents_user ON incidents (user_id, started_at);

-- Legacy: read and kept, never written by the daemon.
CREATE TABLE IF NOT EXISTS status_reports (
    id bigserial PRIMARY KEY,
    monitor_id uuid NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
    status varchar NOT NULL,
    status_code integer,
    response_time integer,
    error_message text,
    checked_at timestamptz NOT NULL DEFAULT now(),
    legacy jsonb
);
CREATE INDEX IF NOT EXISTS status_reports_monitor ON status_reports (monitor_id, checked_at);
