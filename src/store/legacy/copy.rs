//! `--copy-reports`: the reports of `status_reports` as rows of `monitor_checks`. They stay readable where they are, because
//! a check has no place for their text. Works on every database of ours, beside a running daemon, and once for each report:
//! how far it is stands in `status_reports_copied`, in the same transaction.

use chrono::NaiveDate;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::sleep;

use super::report::Copied;
use super::session::Session;
use super::{PAUSE, Step, TRIES, UpgradeError, Watch, is_busy};

pub(in crate::store) const COPY_STATEMENTS: &[&str] = &[PLACE, RANGE, DAYS, MARK, COPY, PROGRESS];

const MAKE: &str = "CREATE TABLE IF NOT EXISTS status_reports_copied ( \
        one boolean PRIMARY KEY DEFAULT true CHECK (one), \
        done_to bigint, \
        rows bigint NOT NULL DEFAULT 0, \
        copied bigint NOT NULL DEFAULT 0, \
        undecided bigint NOT NULL DEFAULT 0, \
        out_of_range bigint NOT NULL DEFAULT 0 \
    ); \
    INSERT INTO status_reports_copied DEFAULT VALUES ON CONFLICT DO NOTHING";
const PLACE: &str = "SELECT done_to, rows, copied, undecided, out_of_range FROM status_reports_copied FOR UPDATE";
const RANGE: &str = "SELECT max(id)::bigint, count(*) FROM ( \
    SELECT id FROM status_reports WHERE $1::bigint IS NULL OR id > $1 ORDER BY id LIMIT $2) s";

/// What a report says. `degraded` and its like count as up, as everywhere.
macro_rules! batch {
    ($rest:literal) => {
        concat!(
            "WITH words AS ( \
                SELECT r.*, lower(btrim(r.status)) AS word, \
                    r.checked_at >= '2000-01-01 00:00:00+00' AND r.checked_at <= now() AS in_range \
                FROM status_reports r WHERE ($1::bigint IS NULL OR r.id > $1) AND r.id <= $2::bigint), \
            batch AS ( \
                SELECT w.*, w.word IN ('degraded', 'warning', 'slow') AS degraded, \
                    CASE WHEN w.word IN ('up', 'online', 'ok', 'healthy', 'operational', 'success', 'true', '1', \
                            'degraded', 'warning', 'slow') THEN true \
                        WHEN w.word IN ('down', 'offline', 'error', 'failed', 'failure', 'critical', 'unhealthy', \
                            'false', '0') THEN false END AS good \
                FROM words w)",
            $rest
        )
    };
}

const DAYS: &str = batch!(
    " SELECT DISTINCT (checked_at AT TIME ZONE 'UTC')::date FROM batch WHERE in_range AND good IS NOT NULL ORDER BY 1"
);
/// Makes the days and marks their closed hours.
const MARK: &str = "SELECT count(ensure_check_partitions(day AT TIME ZONE 'UTC', \
    (day + interval '1 day' - interval '1 microsecond') AT TIME ZONE 'UTC')) FROM (SELECT d::timestamp AS day FROM unnest($1::date[]) d ORDER BY 1) days";
/// An error type is a name of ours only where the report proves it.
const COPY: &str = batch!(
    ", copied AS ( \
        INSERT INTO monitor_checks (monitor_id, status, status_code, response_time_ms, error_type, region, checked_at) \
        SELECT monitor_id, good, status_code, CASE WHEN response_time >= 0 THEN response_time END, \
            CASE WHEN degraded THEN 'degraded' WHEN NOT good AND status_code NOT BETWEEN 200 AND 299 THEN 'status_unexpected' END, \
            $3::text, checked_at \
        FROM batch WHERE in_range AND good IS NOT NULL ORDER BY monitor_id, checked_at, id) \
    SELECT count(*) FILTER (WHERE in_range AND good IS NOT NULL), count(*) FILTER (WHERE good IS NULL), \
        count(*) FILTER (WHERE good IS NOT NULL AND NOT in_range) FROM batch"
);
const PROGRESS: &str = "UPDATE status_reports_copied SET done_to = $1, rows = rows + $2, copied = copied + $3, \
    undecided = undecided + $4, out_of_range = out_of_range + $5";

/// Reports a transaction.
const BATCH: i64 = 10_000;

/// What stands in `status_reports_copied`.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
struct Place {
    done_to: Option<i64>,
    rows: i64,
    copied: i64,
    undecided: i64,
    out_of_range: i64,
}

impl Session<'_> {
    /// Copies what has not been copied yet; says what became of all of them so far.
    pub(super) async fn copy_reports(&mut self, region: &str, watch: &mut Watch<'_>) -> Result<Copied, UpgradeError> {
        self.conn.execute(MAKE).await?;
        let total: i64 = sqlx::query_scalar("SELECT count(*) FROM status_reports").fetch_one(&mut *self.conn).await?;
        watch(Step::Begin {
            what: "reports into monitor_checks",
            total: u64::try_from(total).unwrap_or(0),
            unit: "rows",
        });
        let mut failures = 0;
        loop {
            match self.copy_batch(region).await {
                Ok((place, true)) => {
                    let Place { rows, copied, undecided, out_of_range, .. } = place;
                    return Ok(Copied { rows, copied, undecided, out_of_range });
                }
                Ok((place, false)) => {
                    failures = 0;
                    watch(Step::At(u64::try_from(place.rows).unwrap_or(0)));
                }
                // A lock that somebody holds, on a monitor's row or on the table.
                Err(UpgradeError::Sql(error)) if is_busy(&error) && failures < TRIES => {
                    failures += 1;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether that was the end, and where it stands.
    async fn copy_batch(&mut self, region: &str) -> Result<(Place, bool), UpgradeError> {
        let place: Place = sqlx::query_as(PLACE).fetch_one(&mut *self.conn).await?;
        let (to, rows): (Option<i64>, i64) =
            sqlx::query_as(RANGE).bind(place.done_to).bind(BATCH).fetch_one(&mut *self.conn).await?;
        let Some(to) = to else { return Ok((place, true)) };
        let days: Vec<NaiveDate> =
            sqlx::query_scalar(DAYS).bind(place.done_to).bind(to).fetch_all(&mut *self.conn).await?;
        // Before, in a transaction of its own: making a day takes locks that must not last as long as the copying.
        for day in days.chunks(10) {
            sqlx::query(MARK).bind(day).execute(&mut *self.conn).await?;
        }
        let mut tx = self.conn.begin().await?;
        let result = copy_in(&mut tx, place, (to, rows), &days, region).await;
        if result.is_ok() {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        result.map(|place| (place, false))
    }
}

async fn copy_in(
    conn: &mut PgConnection,
    before: Place,
    (to, rows): (i64, i64),
    days: &[NaiveDate],
    region: &str,
) -> Result<Place, UpgradeError> {
    let place: Place = sqlx::query_as(PLACE).fetch_one(&mut *conn).await?;
    if place.done_to != before.done_to {
        return Ok(place);
    }
    let (copied, undecided, out_of_range): (i64, i64, i64) =
        sqlx::query_as(COPY).bind(before.done_to).bind(to).bind(region).fetch_one(&mut *conn).await?;
    // And after, because an hour may have been rolled up between.
    sqlx::query(MARK).bind(days).execute(&mut *conn).await?;
    let progress = sqlx::query(PROGRESS).bind(to).bind(rows).bind(copied).bind(undecided).bind(out_of_range);
    progress.execute(&mut *conn).await?;
    Ok(Place {
        done_to: Some(to),
        rows: place.rows + rows,
        copied: place.copied + copied,
        undecided: place.undecided + undecided,
        out_of_range: place.out_of_range + out_of_range,
    })
}
