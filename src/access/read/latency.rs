//! Response times: what is asked, and the figures.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Response times of good checks, in milliseconds; null without such checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyFigures {
    /// Rows of the window.
    pub checks: i64,
    /// Those that were up or degraded.
    pub good: i64,
    /// Those of them that have a response time: what the figures below rest on.
    pub timed: i64,
    /// The mean, exact.
    pub avg_ms: Option<f64>,
    /// The least, exact.
    pub min_ms: Option<i32>,
    /// The greatest, exact.
    pub max_ms: Option<i32>,
    /// Half of the checks took at most so long. This and the next two are less than 7 % off.
    pub p50_ms: Option<f64>,
    /// 95 of 100.
    pub p95_ms: Option<f64>,
    /// 99 of 100.
    pub p99_ms: Option<f64>,
}

/// The same of an hour or a day.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencyPoint {
    /// Its begin, UTC.
    pub at: DateTime<Utc>,
    /// Its figures.
    #[serde(flatten)]
    pub figures: LatencyFigures,
}

/// Latency of a window.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyView {
    /// Its begin; later than asked for when the owner's plan shows less.
    pub from: DateTime<Utc>,
    /// Its end.
    pub to: DateTime<Utc>,
    /// Of the whole.
    pub figures: LatencyFigures,
    /// By hour or day, those that had checks, if asked for.
    pub series: Option<Vec<LatencyPoint>>,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyWindow {
    /// So many days of 24 hours before now.
    Days(i32),
    /// From a time to before another.
    Span {
        /// Not before.
        from: DateTime<Utc>,
        /// Before.
        to: DateTime<Utc>,
    },
}

/// What a series goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hours of UTC.
    Hour,
    /// Days of UTC.
    Day,
}

impl Step {
    /// As the parameter and the function of the database name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// Which latency.
#[derive(Clone, Debug)]
pub struct LatencyFilter {
    /// Of which time.
    pub window: LatencyWindow,
    /// With a series.
    pub step: Option<Step>,
    /// From this region only.
    pub region: Option<String>,
}
