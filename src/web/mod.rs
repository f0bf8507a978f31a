//! The HTTP side: health for everybody, the view of the running daemon for those on this machine.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::catalog::Reloaded;
use crate::metrics::text::Format;

pub mod client;
mod metrics;
mod routes;
pub mod server;

/// Why the daemon is not ready, as a fixed code and, for those who may know, a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A code without details, such as `store_away`.
    pub code: String,
    /// The details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What `/readyz` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// No reason against it.
    pub ready: bool,
    /// `active`, `standby` (another daemon holds the lease) or `starting`.
    pub role: String,
    /// Why not; notes that do not make it unready are in `notes`.
    pub reasons: Vec<Reason>,
    /// What an operator should know although the daemon is ready, such as a refused configuration file.
    pub notes: Vec<Reason>,
}

/// What the web side may ask of the daemon. Implemented by the composition root.
pub trait Admin: Send + Sync + 'static {
    /// For `/readyz`.
    fn readiness(&self) -> Readiness;
    /// For `status`: the whole view as JSON.
    fn overview(&self) -> serde_json::Value;
    /// For `/metrics`: the whole text.
    fn metrics(&self, format: Format) -> String;
    /// Whether `/metrics` answers everybody.
    fn metrics_public(&self) -> bool;
    /// Asks for a reload and waits for its result.
    fn reload(&self) -> BoxFuture<'_, Reloaded>;
}
