//! Exports: rows of a span of time, in time order, as they go out as CSV or NDJSON.
//!
//! Names and values are those of the tables (contract, section 4), so that what is exported can be loaded again and that
//! SQL and files speak of the same things; `monitor` and `verdict` are added for readers.

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::future::BoxFuture;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Viewer;
use crate::model::{MaintenanceId, MonitorId, StoreFault, UserId, Verdict};

mod csv;

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Rows of `monitor_checks`, by `checked_at`.
    Checks,
    /// Rows of `incidents`, by `started_at`.
    Incidents,
}

impl Subject {
    /// The plural that routes, files and progress lines have.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checks => "checks",
            Self::Incidents => "incidents",
        }
    }
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, UTF-8, with a header. Texts are made harmless for spreadsheets, see the module `csv`.
    Csv,
    /// One JSON object a line, texts as they are.
    Ndjson,
}

impl Format {
    /// `csv` or `ndjson`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Csv, Self::Ndjson].into_iter().find(|format| format.name() == name)
    }

    /// Its name, and the end of a file's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }

    /// RFC 7111 for CSV; NDJSON has no registered one.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    /// What stands before the first row.
    #[must_use]
    pub fn head(self, subject: Subject) -> Vec<u8> {
        match (self, subject) {
            (Self::Ndjson, _) => Vec::new(),
            (Self::Csv, Subject::Checks) => csv::head(csv::CHECK_COLUMNS),
            (Self::Csv, Subject::Incidents) => csv::head(csv::INCIDENT_COLUMNS),
        }
    }

    /// Adds rows, each with its line end.
    pub fn write(self, rows: &Rows, out: &mut Vec<u8>) {
        match (self, rows) {
            (Self::Csv, Rows::Checks(rows)) => rows.iter().for_each(|row| csv::check(row, out)),
            (Self::Csv, Rows::Incidents(rows)) => rows.iter().for_each(|row| csv::incident(row, out)),
            (Self::Ndjson, Rows::Checks(rows)) => rows.iter().for_each(|row| line(row, out)),
            (Self::Ndjson, Rows::Incidents(rows)) => rows.iter().for_each(|row| line(row, out)),
        }
    }
}

fn line(row: &impl Serialize, out: &mut Vec<u8>) {
    // Writing strings and numbers to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, row);
    out.push(b'\n');
}

/// What somebody wants to have.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Checks or incidents.
    pub subject: Subject,
    /// Not older; none: from the oldest on.
    pub from: Option<DateTime<Utc>>,
    /// Older; none: to the newest.
    pub to: Option<DateTime<Utc>>,
    /// Of these monitors: each an id, a key or a name. Empty: of all that are seen.
    pub monitors: Vec<String>,
}

/// A row of `monitor_checks`.
#[derive(Clone, Debug, Serialize)]
pub struct CheckRow {
    /// `id`.
    pub id: i64,
    /// `monitor_id`.
    pub monitor_id: MonitorId,
    /// Key of the monitor, or its name.
    pub monitor: String,
    /// `checked_at`, to the microsecond.
    #[serde(serialize_with = "micros")]
    pub checked_at: DateTime<Utc>,
    /// `up`, `degraded` or `down`: what `status` and `error_type` say together.
    #[serde(serialize_with = "name")]
    pub verdict: Verdict,
    /// `status`: up or degraded.
    pub status: bool,
    /// `error_type`.
    pub error_type: Option<String>,
    /// `status_code`.
    pub status_code: Option<i32>,
    /// `response_time_ms`.
    pub response_time_ms: Option<i32>,
    /// `attempt`.
    pub attempt: i16,
    /// `region`.
    pub region: String,
    /// `dns_us`.
    pub dns_us: Option<i32>,
    /// `connect_us`.
    pub connect_us: Option<i32>,
    /// `tls_us`.
    pub tls_us: Option<i32>,
    /// `send_us`.
    pub send_us: Option<i32>,
    /// `wait_us`.
    pub wait_us: Option<i32>,
    /// `receive_us`.
    pub receive_us: Option<i32>,
}

/// A row of `incidents`.
#[derive(Clone, Debug, Serialize)]
pub struct IncidentRow {
    /// `id`.
    pub id: i64,
    /// `user_id`.
    pub user_id: UserId,
    /// `monitor_id`.
    pub monitor_id: MonitorId,
    /// Key of the monitor, or its name.
    pub monitor: String,
    /// `title`.
    pub title: String,
    /// `description`.
    pub description: Option<String>,
    /// `status`.
    pub status: String,
    /// `severity`.
    pub severity: Option<String>,
    /// `started_at`.
    #[serde(serialize_with = "micros")]
    pub started_at: DateTime<Utc>,
    /// `resolved_at`.
    #[serde(serialize_with = "some_micros")]
    pub resolved_at: Option<DateTime<Utc>>,
    /// `duration_seconds`.
    pub duration_seconds: Option<i32>,
    /// `source`.
    pub source: String,
    /// `cause`.
    pub cause: Option<String>,
    /// `caused_by`.
    pub caused_by: Option<MonitorId>,
    /// `maintenance_id`: the window that it opened in.
    pub maintenance_id: Option<MaintenanceId>,
    /// `resolve_reason`.
    pub resolve_reason: Option<String>,
    /// `acknowledged_at`.
    #[serde(serialize_with = "some_micros")]
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// `acknowledged_by`.
    pub acknowledged_by: Option<String>,
    /// `acknowledge_note`.
    pub acknowledge_note: Option<String>,
    /// `evidence`: JSON; in CSV its text.
    pub evidence: Option<Value>,
}

/// A time as every column of an export shows it: RFC 3339, UTC, microseconds as the tables have them.
#[must_use]
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn micros<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time(*at))
}

fn some_micros<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => micros(at, serializer),
        None => serializer.serialize_none(),
    }
}

fn name<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict.name())
}

/// Rows of one page.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Rows {
    Checks(Vec<CheckRow>),
    Incidents(Vec<IncidentRow>),
}

impl Rows {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Checks(rows) => rows.len(),
            Self::Incidents(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The next rows of an export.
#[derive(Clone, Debug)]
pub struct Page {
    /// In time order; a page may be empty and have others behind it.
    pub rows: Rows,
    /// How much of the span of time is behind us, 0 to 1.
    pub done: f64,
}

/// Why an export does not begin.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nobody has this id, key or name, as far as the caller sees.
    #[error("there is no monitor {0:?}")]
    NoSuchMonitor(String),
    /// A name that several have.
    #[error("{count} monitors are called {name:?}; give the key or id of one, such as {example}")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        count: usize,
        /// The id of the first.
        example: MonitorId,
    },
    /// As every call.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// An export under way: all its pages show the database as it was when it began.
pub trait Export: Send {
    /// The next page; none at the end. Bounded in time. After an error there are no more.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Page>, StoreFault>>;
}

/// Begins exports. Each has a connection of its own, beside those that everything else uses.
pub trait ExportStore: Send + Sync + 'static {
    /// Begins one of what the viewer sees. Bounded in time.
    fn export(&self, viewer: Viewer, wanted: Wanted) -> BoxFuture<'_, Result<Box<dyn Export>, ExportError>>;
}
