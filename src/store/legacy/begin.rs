//! The first step: everything that the upgrade needs, in one transaction; nothing of the old tables is touched by it.

use chrono_tz::Tz;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::session::{LEGACY, NEW, Session, State};
use super::shape::{self, Family, Part, Shape};
use super::{UpgradeError, UpgradeOptions};
use crate::store::{migrate, quoted};

pub(in crate::store) const STATEMENTS: &[&str] = &[RIGHTS, USAGE, TAKEN, OURS, TYPES, MISSING];
pub(in crate::store) const BEGUN_STATEMENTS: &[&str] = &[INSERT_STATE, INSERT_TABLE, MARK, DEFER, IN_THE_WAY];

const SETUP: &str = include_str!("../../../migrations/legacy/setup.sql");
const SWITCH: &str = include_str!("../../../migrations/legacy/switch.sql");

const RIGHTS: &str = "SELECT has_database_privilege(current_database(), 'CREATE'), has_schema_privilege($1, 'CREATE')";
/// Who may look into the schema of the old tables may look into `legacy`.
const USAGE: &str = "SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END \
    FROM pg_namespace n CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a \
    LEFT JOIN pg_roles r ON r.oid = a.grantee \
    WHERE n.nspname = $1 AND a.privilege_type = 'USAGE' AND (a.grantee = 0 OR r.rolname IS NOT NULL) ORDER BY 1";
/// Relations of `legacy` with the names of what goes there: $1 the old schema, $2 the tables.
const TAKEN: &str = "SELECT l.relname::text FROM pg_class l JOIN pg_namespace n ON n.oid = l.relnamespace \
    WHERE n.nspname = 'legacy' AND (l.relname = ANY($2) OR l.relname IN ( \
        SELECT i.relname FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace AND s.nspname = $1 \
        JOIN pg_index x ON x.indrelid = c.oid JOIN pg_class i ON i.oid = x.indexrelid WHERE c.relname = ANY($2))) \
    ORDER BY 1";
/// Relations of the house that have the names of ours, but for the old tables ($2) and what belongs to them.
const OURS: &str = "SELECT c.relname::text, c.relkind::text, coalesce(owner.relname::text, '') \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1 \
    LEFT JOIN pg_index i ON i.indexrelid = c.oid \
    LEFT JOIN pg_depend d ON c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid \
        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') \
    LEFT JOIN pg_class owner ON owner.oid = coalesce(i.indrelid, d.refobjid) \
    WHERE c.relname IN (SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('lamplighter_new')) \
        AND NOT c.relname = ANY($2) AND NOT coalesce(owner.relname = ANY($2), false) ORDER BY 1";
/// Types and functions of others with the names of ours.
const TYPES: &str = "SELECT 'type ' || t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
    WHERE n.nspname = $1 AND t.typrelid = 0 AND t.typelem = 0 \
        AND t.typname IN (SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('lamplighter_new')) \
    UNION ALL SELECT 'function ' || p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
    JOIN pg_proc o ON o.pronamespace = to_regnamespace('lamplighter_new') AND o.proname = p.proname \
        AND o.proargtypes = p.proargtypes WHERE n.nspname = $1";

const MISSING: &str = "SELECT to_regnamespace('legacy') IS NULL";
const INSERT_STATE: &str = "INSERT INTO lamplighter_upgrade.state \
    (schema_name, zone, copy_reports, uptime_is_share, legacy_made, others) VALUES ($1, $2, $3, $4, $5, $6)";
const INSERT_TABLE: &str = "INSERT INTO lamplighter_upgrade.tables (part, name) VALUES ($1, $2)";
const IN_THE_WAY: &str = "UPDATE lamplighter_upgrade.state SET in_the_way = $1";
const MARK: &str = "SELECT format('COMMENT ON TABLE lamplighter_upgrade.unfinished IS %L', $1::text)";
/// Index and foreign key of the largest table cost less when it is full.
const DEFER: &str = "WITH parts AS ( \
        SELECT 1 AS step, pg_get_indexdef(i.indexrelid) AS make, format('DROP INDEX %s', i.indexrelid::regclass) AS remove \
        FROM pg_index i WHERE i.indrelid = 'lamplighter_new.status_reports'::regclass AND NOT i.indisunique \
        UNION ALL SELECT 2, format('ALTER TABLE lamplighter_new.status_reports ADD CONSTRAINT %I %s', k.conname, \
            pg_get_constraintdef(k.oid)), format('ALTER TABLE lamplighter_new.status_reports DROP CONSTRAINT %I', k.conname) \
        FROM pg_constraint k WHERE k.conrelid = 'lamplighter_new.status_reports'::regclass AND k.contype = 'f'), \
    kept AS (INSERT INTO lamplighter_upgrade.deferred (sql) SELECT make FROM parts ORDER BY step) \
    SELECT coalesce(string_agg(remove, '; '), 'SELECT') FROM parts";

impl Session<'_> {
    /// Looks whether an upgrade can begin.
    pub(super) async fn check(&mut self, options: &UpgradeOptions) -> Result<Shape, UpgradeError> {
        let zone = options.timezone.as_deref().unwrap_or("UTC");
        if zone.parse::<Tz>().is_err() {
            return Err(UpgradeError::Zone(zone.to_owned()));
        }
        if self.house == LEGACY || self.house == NEW || self.house == "lamplighter_upgrade" {
            return Err(UpgradeError::Problems(vec![format!(
                "database.schema is {:?}, a name that the upgrade needs; rename the schema of the old tables",
                self.house
            )]));
        }
        let shape = shape::read(&mut *self.conn, &self.house).await?;
        let mut problems = shape::problems(&mut *self.conn, &shape).await?;
        let (database, schema): (bool, bool) =
            sqlx::query_as(RIGHTS).bind(&self.house).fetch_one(&mut *self.conn).await?;
        if !database {
            problems.push("the role of database.url may not make schemas; GRANT CREATE ON DATABASE to it".to_owned());
        }
        if !schema {
            problems.push(format!(
                "the role of database.url may not make tables in {}; GRANT CREATE ON SCHEMA to it",
                quoted(&self.house)
            ));
        }
        let names: Vec<&str> = shape.tables.iter().map(|table| table.name.as_str()).collect();
        let taken: Vec<String> =
            sqlx::query_scalar(TAKEN).bind(&self.house).bind(&names).fetch_all(&mut *self.conn).await?;
        if !taken.is_empty() {
            problems.push(format!(
                "the schema legacy already has {}; rename that schema or what is in it",
                taken.join(", ")
            ));
        }
        if problems.is_empty() { Ok(shape) } else { Err(UpgradeError::Problems(problems)) }
    }

    /// Makes schemas, functions, state and the new tables, inside a transaction of the caller's.
    pub(super) async fn begin(&mut self, options: &UpgradeOptions, shape: &Shape) -> Result<State, UpgradeError> {
        let made: bool = sqlx::query_scalar(MISSING).fetch_one(&mut *self.conn).await?;
        self.run(format!("CREATE SCHEMA {NEW}; CREATE SCHEMA IF NOT EXISTS {LEGACY}")).await?;
        let who: Vec<String> = sqlx::query_scalar(USAGE).bind(&self.house).fetch_all(&mut *self.conn).await?;
        for who in who {
            self.run(format!("GRANT USAGE ON SCHEMA {LEGACY} TO {who}")).await?;
        }
        self.conn.execute(SETUP).await?;
        self.conn.execute(SWITCH).await?;
        let share = self.uptime_is_share(shape).await?;
        sqlx::query(INSERT_STATE)
            .bind(&self.house)
            .bind(options.timezone.as_deref().unwrap_or("UTC"))
            .bind(options.copy_reports)
            .bind(share)
            .bind(made)
            .bind(&shape.others)
            .execute(&mut *self.conn)
            .await?;
        for table in &shape.tables {
            sqlx::query(INSERT_TABLE).bind(table.part.name()).bind(&table.name).execute(&mut *self.conn).await?;
        }
        let mark: String = sqlx::query_scalar(MARK).bind(&self.house).fetch_one(&mut *self.conn).await?;
        self.run(mark).await?;
        self.run(format!("SET LOCAL search_path = {NEW}")).await?;
        migrate::make_tables(&mut *self.conn).await.map_err(UpgradeError::Start)?;
        // Old keys are looked up by these, now and by foreign keys of others.
        self.run(
            "CREATE UNIQUE INDEX users_legacy_id ON users (legacy_id); \
            CREATE UNIQUE INDEX monitors_legacy_id ON monitors (legacy_id)",
        )
        .await?;
        self.run(format!("SET LOCAL search_path = {}", quoted(&self.house))).await?;
        let remove: String = sqlx::query_scalar(DEFER).fetch_one(&mut *self.conn).await?;
        self.run(remove).await?;
        self.find_names(shape).await?;
        let state = self.state().await?;
        state.ok_or_else(|| UpgradeError::Failed("the state of the upgrade is gone".to_owned()))
    }

    /// What has a name of ours goes to `legacy`, or is told if it cannot.
    async fn find_names(&mut self, shape: &Shape) -> Result<(), UpgradeError> {
        let names: Vec<&str> = shape.tables.iter().map(|table| table.name.as_str()).collect();
        let same: Vec<(String, String, String)> =
            sqlx::query_as(OURS).bind(&self.house).bind(&names).fetch_all(&mut *self.conn).await?;
        let others: Vec<String> = sqlx::query_scalar(TYPES).bind(&self.house).fetch_all(&mut *self.conn).await?;
        let (belonging, alone): (Vec<_>, Vec<_>) = same.into_iter().partition(|(_, _, owner)| !owner.is_empty());
        let alone: Vec<String> = alone.into_iter().map(|(name, ..)| name).collect();
        let mut problems: Vec<String> = Vec::new();
        for (name, kind, owner) in belonging.iter().filter(|(_, _, owner)| !alone.contains(owner)) {
            let what = if kind == "S" { "SEQUENCE" } else { "INDEX" };
            problems.push(format!(
                "table {} has the {} {name}, a name that a new table needs; ALTER {what} {} RENAME TO ...",
                quoted(owner),
                what.to_lowercase(),
                Self::name(&self.house, name)
            ));
        }
        problems.extend(others.iter().map(|what| format!("the {what} has a name that is needed; rename it")));
        if !problems.is_empty() {
            return Err(UpgradeError::Problems(problems));
        }
        sqlx::query(IN_THE_WAY).bind(&alone).execute(&mut *self.conn).await?;
        Ok(())
    }

    /// Whether numeric uptimes are shares: there are some, and none is above one.
    async fn uptime_is_share(&mut self, shape: &Shape) -> Result<bool, UpgradeError> {
        let Some(monitors) = shape.table(Part::Monitors) else { return Ok(false) };
        let numeric = |family| matches!(family, Family::Number);
        let column = monitors.columns.iter().find(|column| column.plain_name() == "uptime" && numeric(column.family));
        let Some(column) = column else { return Ok(false) };
        let name = quoted(&column.name);
        let old = Self::name(&shape.schema, &monitors.name);
        let sql = format!("SELECT coalesce(max({name}) <= 1, false) FROM {old}");
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *self.conn).await?)
    }

    /// Brings the new tables up to date, should this program be newer than the one that made them.
    pub(super) async fn renew(&mut self) -> Result<(), UpgradeError> {
        let mut tx = self.conn.begin().await?;
        let result = renew_in(&mut tx).await;
        if result.is_ok() {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        result
    }
}

async fn renew_in(conn: &mut PgConnection) -> Result<(), UpgradeError> {
    conn.execute(AssertSqlSafe(format!("SET LOCAL search_path = {NEW}"))).await?;
    migrate::make_tables(conn).await.map_err(UpgradeError::Start)
}
