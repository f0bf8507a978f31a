//! The network layer: resolve → guard → dial → TLS, each step timed also when it fails. Every socket of a probe comes
//! from here, and the guard looks at the very address that is about to be dialled.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::model::{CertificateFacts, Failure, Fault, Phase, Timings};
use crate::settings::proxy::Proxy;
use crate::settings::sections::RDAP_BOOTSTRAP;

mod certificate;
mod chain;
mod connect;
mod datagram;
mod descriptors;
mod dial;
pub mod dns;
mod guard;
mod icmp;
mod proxy;
pub(crate) mod resolve;
mod special;
mod stream;
mod tls;
mod trust;
mod via;

pub use datagram::{DialledUdp, datagram_fault};
pub use descriptors::spare_descriptor;
pub use icmp::{Pinged, Pinger};
pub use proxy::{authorization as proxy_authorization, told as proxy_told};
pub use stream::Stream;
pub use tls::{TlsOptions, tls_fault};
pub use via::Via;

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

/// What a handshake gave.
pub struct Handshaken {
    /// The stream, or why not.
    pub result: Result<tokio_rustls::client::TlsStream<TcpStream>, Fault>,
    /// Facts of the chain that was presented, also on failure.
    pub certificate: Option<Arc<CertificateFacts>>,
    /// The server asked for a client's certificate.
    pub wants_client: bool,
}

/// The way out. Idle it costs nothing; make one and share it.
pub struct Net {
    resolver: resolve::Resolver,
    guard: guard::Guard,
    tls: tls::Tls,
    user_agent: String,
    max_body: usize,
    proxy: Option<Proxy>,
    rdap: Rdap,
}

/// How registries of domains are found, and where their answers are kept.
#[derive(Debug)]
pub struct Rdap {
    /// `probe.rdap_bootstrap`: a file, or a URL of http or https.
    pub bootstrap: String,
    /// Where answers outlive the process; none: they do not.
    pub folder: Option<PathBuf>,
    /// Held by who fetches the list.
    pub turn: tokio::sync::Mutex<()>,
}

impl Net {
    /// Reads the system's roots and resolver configuration. Errors name the file or setting.
    pub fn new(options: NetOptions) -> Result<Self, String> {
        Ok(Self {
            resolver: resolve::Resolver::new(options.resolvers)?,
            guard: guard::Guard::new(options.egress),
            tls: tls::Tls::new(&options.ca_files)?,
            user_agent: options.user_agent,
            max_body: options.max_body,
            proxy: None,
            rdap: Rdap { bootstrap: RDAP_BOOTSTRAP.to_owned(), folder: None, turn: tokio::sync::Mutex::new(()) },
        })
    }

    /// The same with another list of registries.
    #[must_use]
    pub fn with_rdap_bootstrap(mut self, source: String) -> Self {
        self.rdap.bootstrap = source;
        self
    }

    /// The same, keeping answers of registries in this folder, which need not be there yet.
    #[must_use]
    pub fn with_rdap_folder(mut self, folder: PathBuf) -> Self {
        self.rdap.folder = Some(folder);
        self
    }

    /// For probes of domains.
    #[must_use]
    pub const fn rdap(&self) -> &Rdap {
        &self.rdap
    }

    /// The same with `probe.proxy`.
    #[must_use]
    pub fn with_proxy(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy;
        self
    }

    /// `probe.proxy`.
    #[must_use]
    pub const fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// `probe.user_agent`.
    #[must_use]
    pub fn user_agent(&self) -> &str {
        &self.user_agent
    }

    /// `probe.max_body`, bytes.
    #[must_use]
    pub const fn max_body(&self) -> usize {
        self.max_body
    }

    /// Resolves, guards and dials. Adds to [`Phase::Dns`] (names only) and [`Phase::Connect`], also on failure.
    ///
    /// A name that is written as an address is one: schemes that `url` does not know keep `127.0.0.1` as a name.
    pub async fn dial(
        &self,
        destination: &Destination<'_>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Dialled, NotDialled> {
        let literal = match &destination.host {
            url::Host::Ipv4(ip) => IpAddr::V4(*ip),
            url::Host::Ipv6(ip) => IpAddr::V6(*ip),
            url::Host::Domain(name) => match name.parse() {
                Ok(ip) => ip,
                Err(_) => return self.dial_name(name, destination, deadline, timings).await,
            },
        };
        if let Some(fault) = wrong_version(literal, destination.ip_version) {
            return Err(NotDialled { fault, address: Some(SocketAddr::new(literal, destination.port)) });
        }
        self.connect(&[literal], destination, deadline, timings).await
    }

    async fn dial_name(
        &self,
        name: &str,
        destination: &Destination<'_>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Dialled, NotDialled> {
        let found = self.lookup(name, destination.ip_version, deadline, timings).await?;
        let addresses = dial::interleave(&found.v6, &found.v4);
        let first = match self.connect(&addresses, destination, deadline, timings).await {
            Err(first) if found.v6_is_late => first,
            result => return result,
        };
        // IPv4 failed before the IPv6 answer was there: the target is only down when that fails too.
        let Ok(late) = self.lookup(name, IpVersion::V6, deadline, timings).await else { return Err(first) };
        let addresses = dial::interleave(&late.v6, &[]);
        let second = self.connect(&addresses, destination, deadline, timings).await;
        second.map_err(|second| dial::more_telling(first, second))
    }

    async fn lookup(
        &self,
        name: &str,
        version: IpVersion,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<resolve::Addresses, NotDialled> {
        let start = Instant::now();
        let found = self.resolver.lookup(name, version, deadline).await;
        timings.add(Phase::Dns, start.elapsed());
        found.map_err(|fault| NotDialled { fault, address: None })
    }

    async fn connect(
        &self,
        ips: &[IpAddr],
        destination: &Destination<'_>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Dialled, NotDialled> {
        let addresses: Vec<SocketAddr> = ips.iter().map(|ip| SocketAddr::new(*ip, destination.port)).collect();
        let start = Instant::now();
        let result = dial::race(&addresses, &self.guard, destination.profile, deadline).await;
        // What the guard refused was never dialled: the phase was not reached.
        let is_blocked = result.as_ref().is_err_and(|not| not.fault.failure == Failure::EgressBlocked);
        if !is_blocked {
            timings.add(Phase::Connect, start.elapsed());
        }
        result
    }

    /// With TLS 1.3, after a handshake in which the server asked for a client's certificate: waits for its answer to
    /// what it got, in [`Phase::Tls`]. Only where nothing is read afterwards.
    pub async fn refusal(
        &self,
        stream: &mut tokio_rustls::client::TlsStream<TcpStream>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<(), Fault> {
        let start = Instant::now();
        let result = tls::refusal(stream, timings.get(Phase::Tls).unwrap_or_default(), deadline).await;
        timings.add(Phase::Tls, start.elapsed());
        result
    }

    /// TLS over a connection. `now` is the wall clock, for validity. Adds to [`Phase::Tls`], also on failure.
    ///
    /// With TLS 1.3 a server tells only after the handshake that it wants a client certificate: then the first read
    /// fails, and [`tls_fault`] explains it.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        host: &url::Host<&str>,
        options: &TlsOptions,
        now: DateTime<Utc>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Handshaken {
        let start = Instant::now();
        // Not the host's Display: that puts v6 addresses into brackets.
        let name = match host {
            url::Host::Domain(name) => Cow::Borrowed(*name),
            url::Host::Ipv4(ip) => Cow::Owned(ip.to_string()),
            url::Host::Ipv6(ip) => Cow::Owned(ip.to_string()),
        };
        let (handshaken, ended) = self.tls.handshake(stream, &name, options, now, deadline).await;
        timings.add(Phase::Tls, ended - start);
        handshaken
    }
}

fn wrong_version(ip: IpAddr, wanted: IpVersion) -> Option<Fault> {
    let what = match (ip, wanted) {
        (IpAddr::V4(_), IpVersion::V6) => "is an IPv4 address, but the monitor wants IPv6 (ip_version)",
        (IpAddr::V6(_), IpVersion::V4) => "is an IPv6 address, but the monitor wants IPv4 (ip_version)",
        _ => return None,
    };
    Some(Fault::new(Failure::DnsNoRecords, format!("{ip} {what}")))
}
