-- Why: the daemon hears of rows that others write; the system user stays.
-- What older code sees: `revision` moves when a configuration column changes; a daemon's incident that is set to 'resolved'
-- gets its time and duration. Nothing that the daemon writes by itself (status columns) fires the notification.

CREATE FUNCTION lamplighter_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY lamplighter_monitors;
    RETURN NULL;
END
$$;

CREATE TRIGGER lamplighter_notify AFTER INSERT OR DELETE OR UPDATE OF
    id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags, source, key, archived_at
ON monitors FOR EACH STATEMENT EXECUTE FUNCTION lamplighter_notify();
CREATE TRIGGER lamplighter_notify_truncate AFTER TRUNCATE ON monitors
FOR EACH STATEMENT EXECUTE FUNCTION lamplighter_notify();

CREATE FUNCTION lamplighter_revise() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.revision := nextval('monitors_revision');
    RETURN NEW;
END
$$;

CREATE TRIGGER lamplighter_revise BEFORE UPDATE ON monitors FOR EACH ROW WHEN (
    (OLD.id, OLD.user_id, OLD.name, OLD.url, OLD.interval_seconds, OLD.timeout_seconds, OLD.is_active, OLD.kind, OLD.spec,
        OLD.tags, OLD.source, OLD.key, OLD.archived_at)
    IS DISTINCT FROM
    (NEW.id, NEW.user_id, NEW.name, NEW.url, NEW.interval_seconds, NEW.timeout_seconds, NEW.is_active, NEW.kind, NEW.spec,
        NEW.tags, NEW.source, NEW.key, NEW.archived_at)
) EXECUTE FUNCTION lamplighter_revise();

-- Applications set the status, the time, or both; the rest follows, or the incident would stay open for the index.
CREATE FUNCTION lamplighter_resolve() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := 'resolved';
    NEW.resolved_at := greatest(coalesce(NEW.resolved_at, now()), NEW.started_at);
    NEW.duration_seconds := least(floor(extract(epoch FROM NEW.resolved_at - NEW.started_at)), 2147483647)::integer;
    RETURN NEW;
END
$$;

CREATE TRIGGER lamplighter_resolve BEFORE UPDATE ON incidents FOR EACH ROW
WHEN (NEW.source = 'daemon' AND OLD.resolved_at IS NULL AND (NEW.resolved_at IS NOT NULL OR NEW.status = 'resolved'))
EXECUTE FUNCTION lamplighter_resolve();

-- The daemon gives a reason when it resolves; who gives none is somebody else, and the daemon must let go.
CREATE TRIGGER lamplighter_dismissed AFTER UPDATE ON incidents FOR EACH ROW
WHEN (NEW.source = 'daemon' AND OLD.resolved_at IS NULL AND NEW.resolved_at IS NOT NULL AND NEW.resolve_reason IS NULL)
EXECUTE FUNCTION lamplighter_notify();
CREATE TRIGGER lamplighter_deleted AFTER DELETE ON incidents FOR EACH ROW
WHEN (OLD.source = 'daemon' AND OLD.resolved_at IS NULL)
EXECUTE FUNCTION lamplighter_notify();

CREATE FUNCTION lamplighter_keep_system_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the system user owns what has no owner and cannot be deleted or renumbered'
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER lamplighter_keep_system_user BEFORE DELETE ON users FOR EACH ROW
WHEN (OLD.id = '00000000-0000-4000-8000-000000000001') EXECUTE FUNCTION lamplighter_keep_system_user();
CREATE TRIGGER lamplighter_keep_system_user_id BEFORE UPDATE OF id ON users FOR EACH ROW
WHEN (OLD.id = '00000000-0000-4000-8000-000000000001' AND NEW.id <> OLD.id)
EXECUTE FUNCTION lamplighter_keep_system_user();
