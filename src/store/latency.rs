//! Response times for the API, from roll-ups and raw rows by `calculate_latency`.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::{Problem, Store};
use crate::access::read::{LatencyFigures, LatencyFilter, LatencyPoint, LatencyView, LatencyWindow, MonitorView};

pub(super) const STATEMENTS: &[&str] = &[WINDOW, LATENCY];

/// On the database's clock, as those of uptime. What is older than the owner's plan shows is left out.
const WINDOW: &str = "SELECT least(greatest(coalesce($1::timestamptz, now() - make_interval(hours => 24 * $2)), $3::timestamptz), \
    coalesce($4::timestamptz, now())), coalesce($4::timestamptz, now())";
const LATENCY: &str = "SELECT at, checks, good, timed, avg_ms, min_ms, max_ms, p50_ms, p95_ms, p99_ms \
    FROM calculate_latency($1, $2, $3, $4, $5)";

#[derive(FromRow)]
struct Row {
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
        let (from, to): (DateTime<Utc>, DateTime<Utc>) = sqlx::query_as(WINDOW)
            .bind(from)
            .bind(days)
            .bind(monitor.history_from)
            .bind(to)
            .fetch_one(&self.reading)
            .await?;
        let points = async |step: Option<&'static str>| {
            let rows: Vec<Row> = sqlx::query_as(LATENCY)
                .bind(monitor.id.0)
                .bind(from)
                .bind(to)
                .bind(step)
                .bind(filter.region.as_deref())
                .fetch_all(&self.reading)
                .await?;
            Ok::<_, sqlx::Error>(rows.into_iter().map(LatencyPoint::from).collect::<Vec<_>>())
        };
        let whole = points(None).await?;
        let series = match filter.step {
            Some(step) => Some(points(Some(step.name())).await?),
            None => None,
        };
        let figures = whole.into_iter().next().map(|point| point.figures).unwrap_or_default();
        Ok(LatencyView { from, to, figures, series })
    }
}
