-- Why: the short transaction of `lamplighter migrate legacy`, and what follows it for tables of others.
-- What older code sees: its tables in the schema `legacy` from one moment to the next.

-- Gives the roles that may use an old table the same rights to the new one, and to its sequences if they may insert.
CREATE FUNCTION lamplighter_upgrade.grant_as(old regclass, new regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    g record;
    s record;
BEGIN
    FOR g IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS who, a.privilege_type AS what
        FROM pg_class c CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
        LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = old AND (a.grantee = 0 OR r.rolname <> current_user)
            AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'REFERENCES')
    LOOP
        EXECUTE format('GRANT %s ON TABLE %s TO %s', g.what, new, g.who);
        FOR s IN SELECT d.objid::regclass AS name FROM pg_depend d JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S'
            WHERE d.classid = 'pg_class'::regclass AND d.refobjid = new AND d.deptype = 'a' AND g.what = 'INSERT'
        LOOP
            EXECUTE format('GRANT USAGE, SELECT ON SEQUENCE %s TO %s', s.name, g.who);
        END LOOP;
    END LOOP;
END
$$;

-- The old tables (by part, in `tables`) go to `legacy`, ours take their place. The caller bounds how long it may take.
CREATE FUNCTION lamplighter_upgrade.switch_over() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    house text := (SELECT schema_name FROM lamplighter_upgrade.state);
    t record;
    name text;
BEGIN
    FOR t IN SELECT * FROM lamplighter_upgrade.tables ORDER BY part LOOP
        EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', house, t.name);
    END LOOP;
    FOR t IN SELECT * FROM lamplighter_upgrade.tables ORDER BY part LOOP
        PERFORM lamplighter_upgrade.grant_as(format('%I.%I', house, t.name)::regclass,
            format('lamplighter_new.%I', t.part)::regclass);
        EXECUTE format('DROP TRIGGER lamplighter_capture ON %I.%I', house, t.name);
        EXECUTE format('DROP TRIGGER lamplighter_capture_truncate ON %I.%I', house, t.name);
        EXECUTE format('CREATE TRIGGER lamplighter_kept BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I.%I'
            || ' FOR EACH STATEMENT EXECUTE FUNCTION lamplighter_upgrade.refuse()', house, t.name);
        EXECUTE format('ALTER TABLE %I.%I SET SCHEMA legacy', house, t.name);
    END LOOP;
    FOREACH name IN ARRAY (SELECT in_the_way FROM lamplighter_upgrade.state) LOOP
        EXECUTE format('ALTER TABLE %I.%I SET SCHEMA legacy', house, name);
    END LOOP;
    -- Indexes and sequences of columns go with their tables.
    FOR t IN
        SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'lamplighter_new'::regnamespace
            AND (c.relkind IN ('r', 'p', 'v', 'm') OR c.relkind = 'S' AND NOT EXISTS (SELECT FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
    LOOP
        EXECUTE format('ALTER TABLE lamplighter_new.%I SET SCHEMA %I', t.relname, house);
    END LOOP;
    FOR t IN
        SELECT p.oid::regprocedure AS name, p.oid::regprocedure::text AS text,
            EXISTS (SELECT FROM unnest(p.proconfig) o WHERE o LIKE 'search\_path=%') AS has_path
        FROM pg_proc p WHERE p.pronamespace = 'lamplighter_new'::regnamespace
    LOOP
        IF t.has_path THEN
            EXECUTE format('ALTER FUNCTION %s SET search_path = %I', t.text, house);
        END IF;
        EXECUTE format('ALTER FUNCTION %s SET SCHEMA %I', t.text, house);
    END LOOP;
    -- Fails when something of ours was left behind, and all of this is undone.
    DROP SCHEMA lamplighter_new;
    UPDATE lamplighter_upgrade.state SET switched_at = now();
END
$$;

-- Foreign keys that tables of others have to the old ones. `child` is SQL, `shown` the name without the schema of the house.
CREATE VIEW lamplighter_upgrade.followers AS
SELECT k.oid AS id, k.conname::text AS name, format('%I.%I', n.nspname, c.relname) AS child,
    CASE WHEN n.nspname = s.schema_name OR n.nspname = 'legacy' THEN c.relname::text ELSE n.nspname || '.' || c.relname END AS shown, t.part,
    a.attname::text AS referenced, c.relkind = 'p' AS is_partitioned
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN lamplighter_upgrade.state s ON true
JOIN pg_class o ON o.oid = k.confrelid
    AND o.relnamespace = to_regnamespace(CASE WHEN s.switched_at IS NULL THEN quote_ident(s.schema_name) ELSE 'legacy' END)
JOIN lamplighter_upgrade.tables t ON t.name = o.relname
JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = k.confkey[1]
WHERE k.contype = 'f' AND k.conparentid = 0 AND cardinality(k.confkey) = 1
    AND NOT (c.relnamespace = o.relnamespace AND c.relname IN (SELECT name FROM lamplighter_upgrade.tables));

-- Points one of them at the new table, where the same integer is `legacy_id` (of incidents and reports: `id`). Existing rows
-- are looked at later, by VALIDATE, which locks nobody out.
CREATE FUNCTION lamplighter_upgrade.follow(constraint_id oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    house text := (SELECT schema_name FROM lamplighter_upgrade.state);
    f record;
    before text;
    after text;
    definition text := pg_get_constraintdef(constraint_id);
BEGIN
    SELECT v.*, t.name AS old_name INTO STRICT f FROM lamplighter_upgrade.followers v
    JOIN lamplighter_upgrade.tables t USING (part) WHERE v.id = constraint_id;
    before := format('REFERENCES legacy.%I(%I)', f.old_name, f.referenced);
    after := format('REFERENCES %I.%I (%I)', house, f.part, CASE
        WHEN f.referenced = 'id' AND f.part IN ('users', 'monitors') THEN 'legacy_id'
        WHEN f.referenced = 'id' THEN 'id'
        WHEN f.part = 'users' AND lower(replace(f.referenced, '_', '')) IN ('email', 'clerkid')
            THEN CASE lower(f.referenced) WHEN 'email' THEN 'email' ELSE 'clerk_id' END
        END);
    IF after IS NULL OR position(before IN definition) = 0 THEN
        RAISE EXCEPTION 'it references %', before USING ERRCODE = 'feature_not_supported';
    END IF;
    definition := replace(replace(definition, before, after), ' NOT VALID', '');
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', f.child, f.name);
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', f.child, f.name, definition,
        CASE WHEN f.is_partitioned THEN '' ELSE ' NOT VALID' END);
    INSERT INTO lamplighter_upgrade.followed (child, shown, name) VALUES (f.child, f.shown, f.name);
END
$$;
