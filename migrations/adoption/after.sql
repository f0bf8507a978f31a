-- Why: moves the adopted checks into the partitioned table, every row and every column, ids kept, and rolls them up.
-- What older code sees: the same rows under the same name. Rows that cannot be keyed (no monitor, no time, no status, no
-- such monitor) stay in `monitor_checks_adopted`; without such rows that table is gone.

DO $$
DECLARE
    c record;
    columns text;
    moved bigint := 0;
    inserted bigint;
    -- Of 4 MB with the usual size of a block.
    pieces bigint := greatest(pg_relation_size(to_regclass('monitor_checks_adopted'))
        / current_setting('block_size')::bigint / 512, 1);
    wanted text := 'monitor_id IS NOT NULL AND checked_at IS NOT NULL AND isfinite(checked_at) AND status IS NOT NULL'
        || ' AND EXISTS (SELECT FROM monitors m WHERE m.id = monitor_id)';
BEGIN
    IF to_regclass('monitor_checks_adopted') IS NULL THEN
        RETURN;
    END IF;
    -- Columns of other people come along. Without their NOT NULL, because our rows do not have them.
    FOR c IN
        SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type
        FROM pg_attribute a WHERE a.attrelid = 'monitor_checks_adopted'::regclass AND a.attnum > 0 AND NOT a.attisdropped
            AND NOT EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = 'monitor_checks'::regclass
                AND b.attname = a.attname AND NOT b.attisdropped)
    LOOP
        EXECUTE format('ALTER TABLE monitor_checks ADD COLUMN %I %s', c.attname, c.type);
    END LOOP;
    PERFORM lamplighter_make_partition(day) FROM (
        SELECT DISTINCT (checked_at AT TIME ZONE 'UTC')::date AS day FROM monitor_checks_adopted
        WHERE isfinite(checked_at)
    ) days;
    SELECT string_agg(quote_ident(a.attname), ', ') INTO columns
    FROM pg_attribute a WHERE a.attrelid = 'monitor_checks_adopted'::regclass AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attname NOT IN ('region', 'id');
    ALTER TABLE monitor_checks_adopted ADD COLUMN IF NOT EXISTS region varchar, ADD COLUMN IF NOT EXISTS id bigint;
    -- Piece by piece, the last without an end. The name of the session is what others see of a transaction that goes on.
    FOR piece IN 1..pieces LOOP
        EXECUTE format('INSERT INTO monitor_checks (id, region, %1$s)'
            || ' SELECT coalesce(id, nextval(''monitor_checks_id_seq'')), coalesce(region, ''us-east-1''), %1$s'
            || ' FROM monitor_checks_adopted WHERE %2$s AND ctid >= %3$L%4$s', columns, wanted,
            format('(%s,0)', (piece - 1) * 512),
            CASE WHEN piece < pieces THEN format(' AND ctid < %L', format('(%s,0)', piece * 512)) ELSE '' END);
        GET DIAGNOSTICS inserted = ROW_COUNT;
        moved := moved + inserted;
        PERFORM set_config('application_name', format('lamplighter adopts %s %s/%s', moved, piece, pieces), true);
    END LOOP;
    PERFORM setval('monitor_checks_id_seq', greatest((SELECT max(id) FROM monitor_checks), 1));
    EXECUTE format('DELETE FROM monitor_checks_adopted WHERE %s', wanted);
    IF NOT EXISTS (SELECT FROM monitor_checks_adopted) THEN
        DROP TABLE monitor_checks_adopted;
    ELSE
        RAISE WARNING 'rows of monitor_checks that have no monitor, time or status stay in monitor_checks_adopted';
    END IF;
    INSERT INTO monitor_rollups (monitor_id, hour, region, checks, good)
    SELECT monitor_id, date_trunc('hour', checked_at, 'UTC'), region, count(*), count(*) FILTER (WHERE status)
    FROM monitor_checks WHERE checked_at < (SELECT closed_to FROM rollup_progress) GROUP BY 1, 2, 3;
    -- Hours without latency and days without a row: the backfill's work.
    UPDATE rollup_backfill SET finished_at = NULL;
    UPDATE rollup_progress SET backfilled = false;
END
$$;
ANALYZE monitor_checks, monitor_rollups;
