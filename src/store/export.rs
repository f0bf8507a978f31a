//! [`ExportStore`]: rows in time order, page by page, all of one moment, in memory for one page.
//!
//! One transaction sees one snapshot from the first page to the last. What it locks it must not hold for as long, or no
//! partition could be dropped meanwhile: a savepoint is rolled back after every page, which lets go of the page's locks
//! and keeps the snapshot. What remains is that vacuum keeps dead rows of the whole database until the export ends.
//! A day that retention drops before the export has come to it is not in it.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use self::checks::{CHECKS, Checks, SPANS};
use self::incidents::{COUNT, INCIDENTS, Incidents};
use super::read::user;
use super::{Problem, Store, setup, within};
use crate::access::Viewer;
use crate::access::export::{Export, ExportError, ExportStore, Page, Subject, Wanted};
use crate::model::{MonitorId, StoreFault, UserId};

mod checks;
mod incidents;

pub(super) const STATEMENTS: &[&str] = &[NAMED, SPANS, CHECKS, COUNT, INCIDENTS, EMAILS];

/// Beyond the usual. Whoever takes the rows may be slow, so the transaction may idle; they bound that themselves.
const SETUP: &str = "; SET statement_timeout = '55s'; SET plan_cache_mode = force_custom_plan; \
    SET idle_in_transaction_session_timeout = 0; SET default_transaction_read_only = on";
/// Not among the statements: only queries can be prepared.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const SAVEPOINT: &str = "SAVEPOINT page";
const RELEASE: &str = "ROLLBACK TO SAVEPOINT page";

/// An id, else a key (the file's first), else a name.
const NAMED: &str = "SELECT m.id, CASE WHEN m.id::text = lower($2) THEN 0 WHEN m.key = $2 THEN 1 ELSE 2 END AS how \
    FROM monitors m WHERE ($1::uuid IS NULL OR m.user_id = $1) AND (m.id::text = lower($2) OR m.key = $2 OR m.name = $2) \
    ORDER BY how, array_position(ARRAY['file', 'api', 'database'], m.source::text), m.id LIMIT 1000";

/// Owners by whom a file can name them.
const EMAILS: &str = "SELECT id, email FROM users WHERE id = ANY($1) AND email IS NOT NULL";

/// Connecting, and finding out what there is.
const BEGIN_DEADLINE: Duration = Duration::from_secs(15);
/// The statement's own time-out fits into it.
const PAGE_DEADLINE: Duration = Duration::from_secs(60);

impl ExportStore for Store {
    fn export(&self, viewer: Viewer, wanted: Wanted) -> BoxFuture<'_, Result<Box<dyn Export>, ExportError>> {
        Box::pin(async move {
            let mut conn = within(BEGIN_DEADLINE, self.connect_for_export()).await?;
            let monitors = resolve(&mut conn, viewer, &wanted.monitors).await?;
            let scope = Scope { user: user(viewer), monitors, plans: self.shown_by_plan() };
            let reading = match wanted.subject {
                Subject::Checks => {
                    Reading::Checks(within(BEGIN_DEADLINE, Checks::begin(&mut conn, scope, &wanted)).await?)
                }
                Subject::Incidents => {
                    Reading::Incidents(within(BEGIN_DEADLINE, Incidents::begin(&mut conn, scope, &wanted)).await?)
                }
            };
            within(BEGIN_DEADLINE, async { Ok::<_, Problem>(conn.execute(SAVEPOINT).await?) }).await?;
            Ok(Box::new(Underway { conn: Some(conn), reading }) as Box<dyn Export>)
        })
    }
}

impl Store {
    /// E-mail addresses of users that have one.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn emails(&self, users: &[UserId]) -> Result<HashMap<UserId, String>, StoreFault> {
        let ids: Vec<Uuid> = users.iter().map(|user| user.0).collect();
        within(BEGIN_DEADLINE, async {
            let rows: Vec<(Uuid, String)> = sqlx::query_as(EMAILS).bind(ids).fetch_all(&self.pool).await?;
            Ok::<_, Problem>(rows.into_iter().map(|(id, email)| (UserId(id), email)).collect())
        })
        .await
    }

    async fn connect_for_export(&self) -> Result<PgConnection, Problem> {
        let mut conn = PgConnection::connect_with(&self.reading.connect_options()).await?;
        conn.execute(AssertSqlSafe(setup(&self.schema, SETUP))).await?;
        conn.execute(BEGIN).await?;
        Ok(conn)
    }
}

/// Which rows.
struct Scope {
    user: Option<Uuid>,
    /// None: of all monitors.
    monitors: Option<Vec<Uuid>>,
    /// How many seconds back checks are shown, by the owner's plan. The command line has no plans: it is the operator's.
    plans: (Vec<String>, Vec<f64>),
}

async fn resolve(conn: &mut PgConnection, viewer: Viewer, names: &[String]) -> Result<Option<Vec<Uuid>>, ExportError> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let find = async {
            let rows = sqlx::query_as(NAMED).bind(user(viewer)).bind(super::clean(name)).fetch_all(&mut *conn).await?;
            Ok::<Vec<(Uuid, i32)>, Problem>(rows)
        };
        let found = within(BEGIN_DEADLINE, find).await?;
        match found.as_slice() {
            [] => return Err(ExportError::NoSuchMonitor(name.clone())),
            [(id, 2), _, ..] => {
                let (name, example) = (name.clone(), MonitorId(*id));
                return Err(ExportError::Ambiguous { name, count: found.len(), example });
            }
            [(id, _), ..] => ids.push(*id),
        }
    }
    Ok((!names.is_empty()).then_some(ids))
}

/// An export, and its connection until it has ended.
struct Underway {
    conn: Option<PgConnection>,
    reading: Reading,
}

enum Reading {
    Checks(Checks),
    Incidents(Incidents),
}

impl Export for Underway {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Page>, StoreFault>> {
        Box::pin(async move {
            // Taken, so that nothing is read after an error.
            let Some(mut conn) = self.conn.take() else { return Ok(None) };
            let page = async {
                let page = match &mut self.reading {
                    Reading::Checks(checks) => checks.page(&mut conn).await?,
                    Reading::Incidents(incidents) => incidents.page(&mut conn).await?,
                };
                conn.execute(RELEASE).await?;
                Ok::<_, Problem>(page)
            };
            let page = within(PAGE_DEADLINE, page).await?;
            match page {
                Some(_) => self.conn = Some(conn),
                // A courtesy; the server notices either way.
                None => drop(within(BEGIN_DEADLINE, async { Ok::<_, Problem>(conn.close().await?) }).await),
            }
            Ok(page)
        })
    }
}

fn share(part: i64, whole: i64) -> f64 {
    // Seconds and counts are far below 2^53, where doubles are exact.
    if whole <= 0 { 1.0 } else { (part as f64 / whole as f64).clamp(0.0, 1.0) }
}
