-- Why: a database that another tool brought to the uuid schema is adopted. This runs before the migrations, in the same
-- transaction, and gives its tables what they lack; adoption/after.sql then moves the checks.
-- What older code sees: its tables and columns, with more columns; status 'active' of incidents is 'open' now, and
-- `clerk_id` and `email` may be null.

-- An older tool may have written times without a zone: by convention they were UTC.
DO $$
DECLARE
    c record;
BEGIN
    -- What others see of it; adoption/after.sql goes on with it.
    PERFORM set_config('application_name', 'lamplighter adopts 0 0/1', true);
    FOR c IN
        SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = current_schema() AND data_type = 'timestamp without time zone'
            AND table_name IN ('users', 'monitors', 'monitor_checks', 'incidents', 'status_reports')
            AND column_name IN ('created_at', 'updated_at', 'last_checked', 'ssl_expiry', 'checked_at', 'started_at',
                'resolved_at')
    LOOP
        EXECUTE format('ALTER TABLE %I ALTER COLUMN %I TYPE timestamptz USING %I AT TIME ZONE ''UTC''',
            c.table_name, c.column_name, c.column_name);
    END LOOP;
    -- Length limits of another tool would make our rows fail. A column that a view shows cannot be widened: it stays.
    FOR c IN
        SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = current_schema() AND data_type = 'character varying'
            AND character_maximum_length IS NOT NULL
            AND table_name IN ('users', 'monitors', 'monitor_checks', 'incidents', 'status_reports')
    LOOP
        BEGIN
            EXECUTE format('ALTER TABLE %I ALTER COLUMN %I TYPE varchar', c.table_name, c.column_name);
        EXCEPTION WHEN feature_not_supported THEN
            RAISE NOTICE '%.% keeps its length: a view shows it', c.table_name, c.column_name;
        END;
    END LOOP;
END
$$;

ALTER TABLE users
    ADD COLUMN IF NOT EXISTS clerk_id varchar,
    ADD COLUMN IF NOT EXISTS email varchar,
    ADD COLUMN IF NOT EXISTS name varchar,
    ADD COLUMN IF NOT EXISTS avatar text,
    ADD COLUMN IF NOT EXISTS plan varchar NOT NULL DEFAULT 'free',
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS legacy_id bigint,
    ADD COLUMN IF NOT EXISTS legacy jsonb,
    ALTER COLUMN clerk_id DROP NOT NULL,
    ALTER COLUMN email DROP NOT NULL,
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN plan SET DEFAULT 'free',
    ALTER COLUMN created_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET DEFAULT now();

CREATE SEQUENCE IF NOT EXISTS monitors_revision AS bigint;

ALTER TABLE monitors ADD COLUMN IF NOT EXISTS name varchar;
UPDATE monitors SET name = coalesce(substring(url FROM '^[a-z+]+:(?://)?([^/:?#]+)'), url) WHERE name IS NULL;
ALTER TABLE monitors
    ALTER COLUMN name SET NOT NULL,
    ADD COLUMN IF NOT EXISTS status varchar NOT NULL DEFAULT 'pending',
    ADD COLUMN IF NOT EXISTS uptime varchar DEFAULT '100%',
    ADD COLUMN IF NOT EXISTS interval_seconds integer NOT NULL DEFAULT 300,
    ADD COLUMN IF NOT EXISTS timeout_seconds integer NOT NULL DEFAULT 10,
    ADD COLUMN IF NOT EXISTS is_active boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS uptime_percentage integer NOT NULL DEFAULT 100,
    ADD COLUMN IF NOT EXISTS kind varchar,
    ADD COLUMN IF NOT EXISTS spec jsonb DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS tags text[] DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS source varchar NOT NULL DEFAULT 'database',
    ADD COLUMN IF NOT EXISTS key varchar,
    ADD COLUMN IF NOT EXISTS invalid_reason text,
    ADD COLUMN IF NOT EXISTS revision bigint NOT NULL DEFAULT nextval('monitors_revision'),
    ADD COLUMN IF NOT EXISTS archived_at timestamptz,
    ADD COLUMN IF NOT EXISTS last_checked timestamptz,
    ADD COLUMN IF NOT EXISTS response_time integer,
    ADD COLUMN IF NOT EXISTS ssl_expiry timestamptz,
    ADD COLUMN IF NOT EXISTS legacy_id bigint,
    ADD COLUMN IF NOT EXISTS legacy jsonb,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now(),
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN status SET DEFAULT 'pending',
    ALTER COLUMN interval_seconds SET DEFAULT 300,
    ALTER COLUMN timeout_seconds SET DEFAULT 10,
    ALTER COLUMN is_active SET DEFAULT true,
    ALTER COLUMN uptime_percentage SET DEFAULT 100,
    ALTER COLUMN created_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET DEFAULT now();

-- The parts that may be missing as a whole are made by the migrations.
ALTER TABLE IF EXISTS incidents
    ADD COLUMN IF NOT EXISTS description text,
    ADD COLUMN IF NOT EXISTS status varchar NOT NULL DEFAULT 'open',
    ADD COLUMN IF NOT EXISTS severity varchar DEFAULT 'medium',
    ADD COLUMN IF NOT EXISTS started_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS resolved_at timestamptz,
    ADD COLUMN IF NOT EXISTS duration_seconds integer,
    ADD COLUMN IF NOT EXISTS source varchar NOT NULL DEFAULT 'manual',
    ADD COLUMN IF NOT EXISTS uid uuid,
    ADD COLUMN IF NOT EXISTS cause varchar,
    ADD COLUMN IF NOT EXISTS caused_by uuid,
    ADD COLUMN IF NOT EXISTS resolve_reason varchar,
    ADD COLUMN IF NOT EXISTS evidence jsonb,
    ADD COLUMN IF NOT EXISTS acknowledged_at timestamptz,
    ADD COLUMN IF NOT EXISTS acknowledged_by varchar,
    ADD COLUMN IF NOT EXISTS acknowledge_note text,
    ADD COLUMN IF NOT EXISTS legacy_id bigint,
    ADD COLUMN IF NOT EXISTS legacy jsonb,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now(),
    ALTER COLUMN status SET DEFAULT 'open',
    ALTER COLUMN started_at SET DEFAULT now(),
    ALTER COLUMN created_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET DEFAULT now();
ALTER TABLE IF EXISTS status_reports
    ADD COLUMN IF NOT EXISTS status_code integer,
    ADD COLUMN IF NOT EXISTS response_time integer,
    ADD COLUMN IF NOT EXISTS error_message text,
    ADD COLUMN IF NOT EXISTS legacy jsonb;

DO $$
DECLARE
    f record;
    old record;
BEGIN
    IF to_regclass('incidents') IS NOT NULL THEN
        UPDATE incidents SET status = 'open' WHERE lower(status) = 'active';
    END IF;
    -- Deletes cascade from users to monitors to their rows. Rows whose parent is long gone stay: such a key is left
    -- NOT VALID, which binds new rows only.
    FOR f IN
        SELECT * FROM (VALUES ('monitors', 'user_id', 'users'), ('incidents', 'user_id', 'users'),
            ('incidents', 'monitor_id', 'monitors'), ('status_reports', 'monitor_id', 'monitors')) v (child, col, parent)
        WHERE to_regclass(child) IS NOT NULL
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
            WHERE k.contype = 'f' AND k.conrelid = to_regclass(f.child) AND k.confrelid = to_regclass(f.parent)
                AND cardinality(k.conkey) = 1 AND a.attname = f.col AND k.confdeltype = 'c'
        );
        FOR old IN
            SELECT k.conname FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
            WHERE k.contype = 'f' AND k.conrelid = to_regclass(f.child) AND k.confrelid = to_regclass(f.parent)
                AND cardinality(k.conkey) = 1 AND a.attname = f.col
        LOOP
            EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', f.child, old.conname);
        END LOOP;
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I FOREIGN KEY (%I) REFERENCES %I (id) ON DELETE CASCADE NOT VALID',
            f.child, f.child || '_' || f.col || '_fkey', f.col, f.parent);
        BEGIN
            EXECUTE format('ALTER TABLE %I VALIDATE CONSTRAINT %I', f.child, f.child || '_' || f.col || '_fkey');
        EXCEPTION WHEN foreign_key_violation THEN
            RAISE WARNING '%.% has rows without a parent: they stay', f.child, f.col;
        END;
    END LOOP;
END
$$;

-- The plain table of checks steps aside, with its indexes, keys and sequence, so that their names are free.
DO $$
DECLARE
    n record;
    sequence text;
BEGIN
    IF to_regclass('monitor_checks') IS NULL THEN
        RETURN;
    END IF;
    sequence := pg_get_serial_sequence('monitor_checks', 'id');
    IF sequence IS NOT NULL THEN
        EXECUTE format('ALTER SEQUENCE %s RENAME TO monitor_checks_adopted_id_seq', sequence);
    END IF;
    FOR n IN SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = 'monitor_checks'::regclass
    LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', n.relname, left(n.relname, 50) || '_adopted');
    END LOOP;
    ALTER TABLE monitor_checks RENAME TO monitor_checks_adopted;
END
$$;
