//! The network layer: resolve → guard → dial → TLS, each step timed also when it fails. Every socket of a probe comes
//! from here, and the guard looks at the very address that is about to be dialled.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::model::{CertificateFacts, Fault, Timings};
use crate::settings::reader::TableReader;

/// Who asked for a connection: monitors of the file are the operator's, rows and the API are other people's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `source = 'file'`.
    File,
    /// `source = 'database'` or `'api'`.
    Rows,
}

/// `[egress]`, and what it protects.
#[derive(Clone, Debug, Default)]
pub struct EgressOptions {
    /// `egress.allow`.
    pub allow: Vec<IpNet>,
    /// `egress.deny`.
    pub deny: Vec<IpNet>,
    /// `egress.database_profile = "public"`: rows may only reach global addresses.
    pub rows_public_only: bool,
    /// Our own listeners and the store, by address and port: never for rows.
    pub own: Vec<SocketAddr>,
}

/// What a [`Net`] is made from: `[probe]` and `[egress]`.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Name servers; empty: those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// PEM files added to the system's roots.
    pub ca_files: Vec<PathBuf>,
    /// Where probes may go.
    pub egress: EgressOptions,
    /// `User-Agent`.
    pub user_agent: String,
    /// Cap on a body, encoded and decoded, bytes.
    pub max_body: usize,
}

/// `ip_version` of a monitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpVersion {
    /// Both, IPv6 first, racing (RFC 8305).
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Where to connect.
#[derive(Clone, Debug)]
pub struct Destination<'a> {
    /// A name or an address, as `url` parsed it.
    pub host: url::Host<&'a str>,
    /// The port, not 0.
    pub port: u16,
    /// Which addresses.
    pub ip_version: IpVersion,
    /// Who asks.
    pub profile: Profile,
}

/// A connection.
pub struct Dialled {
    /// The stream, `TCP_NODELAY` set.
    pub stream: TcpStream,
    /// Its other end.
    pub address: SocketAddr,
}

/// No connection.
#[derive(Debug)]
pub struct NotDialled {
    /// Why.
    pub fault: Fault,
    /// The address that failed last, when one was dialled or refused by the guard.
    pub address: Option<SocketAddr>,
}

/// `tls = { … }` of a monitor, ready to use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsOptions {}

impl TlsOptions {
    /// Reads the `tls` sub-table; the default when there is none. Files are read here, so that a missing one is an error of the configuration.
    pub fn read(monitor: &mut TableReader<'_>) -> Option<Self> {
        let _ = monitor;
        Some(Self {})
    }
}

/// What a handshake gave.
pub struct Handshaken {
    /// The stream, or why not.
    pub result: Result<tokio_rustls::client::TlsStream<TcpStream>, Fault>,
    /// Facts of the chain that was presented, also on failure.
    pub certificate: Option<Arc<CertificateFacts>>,
}

/// The way out.
pub struct Net {}

impl Net {
    /// Reads the system's roots and resolver configuration. Errors name the file or setting.
    pub fn new(options: NetOptions) -> Result<Self, String> {
        let _ = options;
        Ok(Self {})
    }

    /// `probe.user_agent`.
    #[must_use]
    pub fn user_agent(&self) -> &str {
        ""
    }

    /// `probe.max_body`, bytes.
    #[must_use]
    pub fn max_body(&self) -> usize {
        0
    }

    /// Resolves, guards and dials. Adds to [`crate::model::Phase::Dns`] (names only) and [`crate::model::Phase::Connect`].
    pub async fn dial(
        &self,
        destination: &Destination<'_>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Dialled, NotDialled> {
        let _ = (destination, deadline, timings);
        std::future::pending().await
    }

    /// TLS over a connection. `now` is the wall clock, for validity. Adds to [`crate::model::Phase::Tls`].
    pub async fn handshake(
        &self,
        stream: TcpStream,
        host: &url::Host<&str>,
        options: &TlsOptions,
        now: DateTime<Utc>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Handshaken {
        let _ = (stream, host, options, now, deadline, timings);
        std::future::pending().await
    }
}
