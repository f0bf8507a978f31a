//! Response times for the API, from roll-ups and raw rows by `lamplighter_latency`, as `calculate_latency`.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::{Problem, Store};
use crate::access::read::{LatencyFigures, LatencyFilter, LatencyPoint, LatencyView, LatencyWindow, MonitorView, Step};

pub(super) const STATEMENTS: &[&str] = &[LATENCY];

/// A row of the whole window (its `step` is null), then those of the step: in one statement, so that both tell of the same
/// checks. On the database's clock, as those of uptime. What is older than the owner's plan shows is left out.
const LATENCY: &str = "WITH w AS MATERIALIZED (SELECT \
        least(greatest(coalesce($2::timestamptz, now() - make_interval(hours => 24 * $3)), $4::timestamptz), \
            coalesce($5::timestamptz, now())) AS from_at, \
        coalesce($5::timestamptz, now()) AS to_at) \
    SELECT w.from_at, w.to_at, l.* FROM w CROSS JOIN LATERAL lamplighter_latency($1, w.from_at, w.to_at, \
        CASE WHEN $6::text IS NULL THEN ARRAY[NULL] ELSE ARRAY[NULL, $6] END, $7) l";

#[derive(FromRow)]
struct Row {
    from_at: DateTime<Utc>,
    to_at: DateTime<Utc>,
    step: Option<String>,
    at: DateTime<Utc>,
    checks: i64,
    good: i64,
    timed: i64,
    avg_ms: Option<f64>,
    min_ms: Option<i32>,
    max_ms: Option<i32>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl From<Row> for LatencyPoint {
    fn from(row: Row) -> Self {
        // More digits would say more than a histogram knows.
        let tenth = |ms: Option<f64>| ms.map(|ms| (ms * 10.0).round() / 10.0);
        let figures = LatencyFigures {
            checks: row.checks,
            good: row.good,
            timed: row.timed,
            avg_ms: tenth(row.avg_ms),
            min_ms: row.min_ms,
            max_ms: row.max_ms,
            p50_ms: tenth(row.p50_ms),
            p95_ms: tenth(row.p95_ms),
            p99_ms: tenth(row.p99_ms),
        };
        Self { at: row.at, figures }
    }
}

impl Store {
    pub(super) async fn read_latency(
        &self,
        monitor: &MonitorView,
        filter: LatencyFilter,
    ) -> Result<LatencyView, Problem> {
        let (days, from, to) = match filter.window {
            LatencyWindow::Days(days) => (days, None, None),
            LatencyWindow::Span { from, to } => (0, Some(from), Some(to)),
        };
        let rows: Vec<Row> = sqlx::query_as(LATENCY)
            .bind(monitor.id.0)
            .bind(from)
            .bind(days)
            .bind(monitor.history_from)
            .bind(to)
            .bind(filter.step.map(Step::name))
            .bind(filter.region.as_deref())
            .fetch_all(&self.reading)
            .await?;
        let (series, whole): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.step.is_some());
        let whole = whole.into_iter().next().ok_or(sqlx::Error::RowNotFound)?;
        let (from, to) = (whole.from_at, whole.to_at);
        let figures = LatencyPoint::from(whole).figures;
        let series = filter.step.map(|_| series.into_iter().map(LatencyPoint::from).collect());
        Ok(LatencyView { from, to, figures, series })
    }
}
