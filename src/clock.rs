//! The only place that reads the wall clock.

use chrono::{DateTime, Utc};

/// The wall clock, which may jump. Durations are never measured on it: those use [`tokio::time::Instant`].
pub trait Wall: Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemWall;

impl Wall for SystemWall {
    #[allow(clippy::disallowed_methods, reason = "the one place that may")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
