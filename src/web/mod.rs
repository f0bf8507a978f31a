//! The HTTP side: health for everybody, the API for those with a token, the daemon's own socket for commands.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::access::Viewer;
use crate::access::export::ExportStore;
use crate::access::read::ReadStore;
use crate::catalog::Reloaded;
use crate::metrics::text::Format;
use crate::verdict::pings::Pinged;
use crate::verdict::pulse::Ping;

pub mod admin_token;
mod api;
pub mod auth;
mod body;
pub mod client;
mod connection;
mod health;
pub mod hosts;
mod large;
mod limiter;
mod metrics;
pub mod openapi;
mod ping;
mod places;
mod query;
mod reply;
pub mod routes;
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

impl Readiness {
    /// Codes only, for those who may not know more.
    #[must_use]
    pub fn without_details(mut self) -> Self {
        for reason in self.reasons.iter_mut().chain(&mut self.notes) {
            reason.detail = None;
        }
        self
    }
}

/// What the web side may ask of the daemon. Implemented by the composition root.
pub trait Admin: Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> DateTime<Utc>;
    /// For `/readyz`.
    fn readiness(&self) -> Readiness;
    /// For `status`: the running daemon's view as JSON text, of the monitors that are seen. May take a part of a second
    /// when there are very many.
    fn overview(&self, viewer: Viewer) -> Vec<u8>;
    /// For `/metrics`: the whole text, with series of the monitors that are seen.
    fn metrics(&self, format: Format, viewer: Viewer) -> String;
    /// Whether `/metrics` answers everybody.
    fn metrics_public(&self) -> bool;
    /// Brings a ping to the heartbeat of this address (a token or an id), and waits until it is recorded.
    fn ping<'a>(&'a self, address: &'a str, ping: Ping) -> BoxFuture<'a, Pinged>;
    /// Asks for a reload and waits for its result. With `force` it may archive more than the guard lets through.
    fn reload(&self, force: bool) -> BoxFuture<'_, Reloaded>;
}

/// Large answers, with bounds for each kind of client: a crowd of strangers must not keep others from looking.
#[derive(Default)]
struct Larges {
    /// Without a token, where `/metrics` is public.
    public: large::Large,
    token: large::Large,
    /// Of `admin.sock`.
    local: large::Large,
}

/// Exports at once, of each kind of client: each holds a connection to the database and a snapshot of it.
const EXPORTS: usize = 2;

/// Exports, and turns for them.
struct Exports {
    store: Arc<dyn ExportStore>,
    token: Arc<Semaphore>,
    /// Of `admin.sock`.
    local: Arc<Semaphore>,
}

impl Exports {
    const fn of(&self, trust: routes::Trust) -> &Arc<Semaphore> {
        match trust {
            routes::Trust::Local => &self.local,
            routes::Trust::Anonymous => &self.token,
        }
    }
}

/// What every route has at hand.
pub struct Site {
    admin: Arc<dyn Admin>,
    reads: Arc<dyn ReadStore>,
    exports: Exports,
    auth: auth::Auth,
    hosts: hosts::Hosts,
    large: Larges,
}

impl Site {
    /// The running daemon, committed rows, who may, and under which names we answer.
    #[must_use]
    pub fn new(
        admin: Arc<dyn Admin>,
        reads: Arc<dyn ReadStore>,
        exports: Arc<dyn ExportStore>,
        auth: auth::Auth,
        hosts: hosts::Hosts,
    ) -> Self {
        let turns = || Arc::new(Semaphore::new(EXPORTS));
        let exports = Exports { store: exports, token: turns(), local: turns() };
        Self { admin, reads, exports, auth, hosts, large: Larges::default() }
    }
}
