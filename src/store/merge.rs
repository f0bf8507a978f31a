//! Bringing the file's rows to what the file says: plan over all of them, read and write what may differ.
//!
//! What this process has merged before and nobody has touched since (its revision is the same) is not read again: of
//! 100,000 rows a reload of one line reads keys and revisions, and one row whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use self::rows::{
    CONTENTS, INSERT, NEW_USERS, REVISIONS_OF, ROWS, TAKEN, UPDATE, USERS, existing, taken, users, write,
};
use self::work::{Work, conclude, owner_of};
use super::catalog::PATIENCE;
use super::{Problem, Store, clean, finish};
use crate::catalog::merge::Ids;
use crate::catalog::plan::{Guard, Plan};
use crate::catalog::{FileRow, MergeAnswer, Merged};
use crate::model::{MonitorId, SYSTEM_USER, StoreFault};

mod rows;
mod work;

pub(super) const STATEMENTS: &[&str] =
    &[ALONE, ROWS, CONTENTS, USERS, NEW_USERS, TAKEN, INSERT, UPDATE, ARCHIVE, REVISIONS_OF];

/// Of merges of other regions' daemons one goes at a time: the guard counts what no other is about to archive.
const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtext('lamplighter merge'), hashtext(current_schema()))";
/// Not among the statements: only queries can be prepared.
const READ_ONLY: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// What somebody has taken over since it was read is not the file's to archive.
const ARCHIVE: &str = "UPDATE monitors SET archived_at = now(), updated_at = now() \
    WHERE id = ANY($1) AND source = 'file' AND archived_at IS NULL RETURNING id";

/// What the last merges of this process left in the database: the revision of a row, and the hash of what the file said.
#[derive(Default)]
pub(super) struct Baseline(Mutex<Known>);

#[derive(Default)]
struct Known {
    rows: HashMap<Uuid, (i64, u64)>,
    ids: Arc<Ids>,
}

impl Baseline {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what may take long for many rows where no check waits for it.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Problem::Fault(StoreFault::Refused(format!("planning the merge failed: {error}"))))
}

impl Store {
    pub(super) async fn merge_rows(&self, rows: Arc<[FileRow]>, guard: Guard) -> Result<MergeAnswer, Problem> {
        let mut conn = self.pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let result = self.merge_in(&mut tx, rows, guard).await;
        let (answer, baseline) = finish(tx, result).await?;
        if let Some(baseline) = baseline {
            // Only what has been committed is known.
            let before = std::mem::replace(&mut *self.baseline.lock(), baseline);
            drop(tokio::task::spawn_blocking(move || drop(before)));
        }
        Ok(answer)
    }

    async fn merge_in(
        &self,
        tx: &mut PgConnection,
        rows: Arc<[FileRow]>,
        guard: Guard,
    ) -> Result<(MergeAnswer, Option<Known>), Problem> {
        sqlx::query(PATIENCE).execute(&mut *tx).await?;
        self.fence(tx).await?;
        sqlx::query(ALONE).execute(&mut *tx).await?;
        let existing = existing(tx).await?;
        let found = users(tx, &rows).await?;
        let mut work = Work::plan(rows, existing, found, Arc::clone(&self.baseline)).await?;
        let guarded = work.assignment.guarded(&work.existing.stored, guard);
        if let (Some(archiving), Guard::Reload { .. }) = (&guarded, guard) {
            return Ok((MergeAnswer::Refused(archiving.clone()), None));
        }
        if work.owners.contains(&None) {
            let without = work.rows.iter().zip(&work.owners).filter(|(_, owner)| owner.is_none());
            let missing: Vec<String> = without.filter_map(|(row, _)| Some(clean(row.owner.as_deref()?))).collect();
            sqlx::query(NEW_USERS).bind(missing).execute(&mut *tx).await?;
            // Read again: somebody else may have made one of them at the same time.
            let found = users(tx, &work.rows).await?;
            work.owners = work.rows.iter().map(|row| owner_of(row, &found).or(Some(SYSTEM_USER.0))).collect();
        }
        work.read_contents(tx).await?;
        let taken = taken(tx, &work).await?;
        let (work, changed, fresh) = off_thread(move || {
            let (changed, fresh) = work.writes(&taken);
            (work, changed, fresh)
        })
        .await?;
        write(tx, UPDATE, &changed).await?;
        write(tx, INSERT, &fresh).await?;
        let left = work.assignment.gone.iter().filter_map(|at| work.existing.stored.get(*at));
        let left: Vec<Uuid> = left.map(|row| row.id.0).collect();
        let mut merged = Merged { guarded, ..Merged::default() };
        let left: Vec<MonitorId> = left.into_iter().map(MonitorId).collect();
        if merged.guarded.is_some() {
            merged.held = left;
        } else if !left.is_empty() {
            let ids: Vec<Uuid> = left.iter().map(|id| id.0).collect();
            let archived: Vec<Uuid> = sqlx::query_scalar(ARCHIVE).bind(ids).fetch_all(&mut *tx).await?;
            merged.archived = archived.into_iter().map(MonitorId).collect();
        }
        let written: Vec<Uuid> = changed.iter().chain(&fresh).map(|row| row.id).collect();
        let revisions: Vec<(Uuid, i64)> = match written.is_empty() {
            true => Vec::new(),
            false => sqlx::query_as(REVISIONS_OF).bind(&written).fetch_all(tx).await?,
        };
        merged.written = written.into_iter().map(MonitorId).collect();
        let before = Arc::clone(&self.baseline.lock().ids);
        let (merged, baseline) = off_thread(move || conclude(&work, merged, (&fresh, &revisions), before)).await?;
        Ok((MergeAnswer::Done(merged), Some(baseline)))
    }

    /// What [`CatalogStore::merge`](crate::catalog::CatalogStore::merge) would do; changes nothing, and needs no lease.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn plan(&self, rows: Arc<[FileRow]>) -> Result<Plan, StoreFault> {
        super::within(super::catalog::DEADLINE, async {
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let planned = async {
                sqlx::query(READ_ONLY).execute(&mut *tx).await?;
                sqlx::query(PATIENCE).execute(&mut *tx).await?;
                let existing = existing(&mut tx).await?;
                let found = users(&mut tx, &rows).await?;
                let mut work = Work::plan(rows, existing, found, Arc::default()).await?;
                work.read_contents(&mut tx).await?;
                off_thread(move || {
                    Plan::describe(&work.rows, &work.existing.stored, &work.assignment, |index| work.differing(index))
                })
                .await
            };
            let planned = planned.await;
            finish(tx, planned).await
        })
        .await
    }
}
