//! Probes measure; they never judge. A failure is data in the [`Observation`], not an error.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::model::Observation;
use crate::settings::reader::TableReader;
use crate::verdict::expectation::Expectations;

pub mod advice;
pub mod authority;
pub mod driven;
pub mod exchange;
pub mod fetch;
pub mod form;
pub mod kinds;
pub mod login;
pub mod net;
pub mod pool;
pub mod report;
pub mod request;
pub mod scram;
pub mod talk;

/// What a probe may use for one attempt.
pub struct ProbeContext<'a> {
    /// Sockets, resolver, egress guard, TLS. The only way out.
    pub net: &'a net::Net,
    /// The attempt ends by then; the probe says which phase it was in. The caller enforces it once more, a little later.
    pub deadline: Instant,
    /// Wall-clock start of the attempt, for [`Observation::started_at`] and certificate validity.
    pub started_at: chrono::DateTime<chrono::Utc>,
}

/// One prepared monitor target.
pub trait Probe: Send + Sync + 'static {
    /// What makes its checks. Most kinds: the schedule, which calls [`Self::probe`].
    fn driven(&self) -> driven::Driven<'_> {
        driven::Driven::Schedule
    }

    /// Makes one attempt. Cancel-safe: dropping the future closes what it opened.
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation>;
}

/// A monitor's kind-specific part, ready to run.
#[derive(Clone)]
pub struct Prepared {
    /// The probe.
    pub probe: Arc<dyn Probe>,
    /// What the judge holds its observations against.
    pub expect: Arc<Expectations>,
}

/// One row of the registration table in [`kinds`].
pub struct Kind {
    /// `monitors.kind`.
    pub name: &'static str,
    /// URL schemes that choose it when `kind` is absent.
    pub schemes: &'static [&'static str],
    /// How its URLs are written.
    pub form: form::Form,
    /// A URL of it, for error messages.
    pub example_url: &'static str,
    /// Keys of `[[monitor]]` that belong to this kind, for the check of `[defaults]` and for "nearest key".
    pub keys: &'static [&'static str],
    /// Reads the kind's keys and the expanded URL; errors go to the reader, and then none is returned.
    pub prepare: fn(url: &url::Url, reader: &mut TableReader<'_>) -> Option<Prepared>,
    /// A `[[monitor]]` table that a test parses.
    pub example: &'static str,
}
