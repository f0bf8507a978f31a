//! The tables beside the monitors: `[daemon]`, `[server]`, `[database]`, `[probe]`, `[egress]`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::limited;
use super::proxy::Proxy;
use super::reader::TableReader;
use super::tree::{Node, Value};
use crate::model::Secret;
use crate::telemetry::filter::{self, Filter};

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Stored with every check; one daemon, one region. 1 to 63 of letters, digits, `.`, `_`, `-`.
    pub region: Box<str>,
    /// None: as the contract says, by environment and user.
    pub state_directory: Option<PathBuf>,
    /// What is logged.
    pub log_level: Filter,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An address; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A socket in the file system, absolute path of at most 107 bytes.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// The address of pages, API and health.
    pub listen: Listen,
    /// The address that others use, such as that of a proxy before us: its host is one of ours.
    pub public_url: Option<url::Url>,
    /// Whether `/metrics` needs no token.
    pub metrics_public: bool,
    /// Monitors with series of their own in `/metrics`, at most.
    pub metrics_monitors: usize,
}

/// `[database]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    /// None: the embedded cluster.
    pub url: Option<Secret>,
    /// 2 to 100.
    pub max_connections: u32,
    /// Whether the daemon migrates at start.
    pub auto_migrate: bool,
    /// The schema of all tables.
    pub schema: String,
    /// Bytes of the journal: results that wait on disk until they are recorded.
    pub backlog: usize,
    /// The account of the embedded cluster when the daemon is root.
    pub cluster_user: String,
}

/// `probe.rdap_bootstrap` when it is not set (RFC 9224, 8).
pub const RDAP_BOOTSTRAP: &str = "https://data.iana.org/rdap/dns.json";

/// `[probe]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Name servers; empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
    /// PEM files added to the system's roots; readable when the settings were read.
    pub ca_files: Vec<PathBuf>,
    /// Checks that run at once, 1 to 100,000.
    pub max_in_flight: usize,
    /// `User-Agent`.
    pub user_agent: String,
    /// Where requests of HTTP go instead of to their target.
    pub proxy: Option<Proxy>,
    /// Cap on a body, bytes.
    pub max_body: usize,
    /// The list of registries' RDAP servers: a file, or a URL of http or https.
    pub rdap_bootstrap: String,
}

/// `[egress]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Networks that are allowed whatever the defaults say.
    pub allow: Vec<IpNet>,
    /// Networks that are denied.
    pub deny: Vec<IpNet>,
    /// `database_profile = "public"`: rows may only reach global addresses.
    pub rows_public_only: bool,
}

impl Default for Daemon {
    fn default() -> Self {
        Self { region: "us-east-1".into(), state_directory: None, log_level: Filter::default() }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8780))),
            public_url: None,
            metrics_public: false,
            metrics_monitors: 1000,
        }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: 8,
            auto_migrate: true,
            schema: "public".to_owned(),
            backlog: 256 << 20,
            cluster_user: "postgres".to_owned(),
        }
    }
}

impl Default for Probing {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            ca_files: Vec::new(),
            max_in_flight: 10_000,
            user_agent: concat!("Lamplighter/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxy: None,
            max_body: 1 << 20,
            rdap_bootstrap: RDAP_BOOTSTRAP.to_owned(),
        }
    }
}

impl Daemon {
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let region = checked(table, "region", "1 to 63 of letters, digits, '.', '_' and '-'", |text| {
            (1..=63).contains(&text.len()) && text.bytes().all(inner)
        });
        Self {
            region: region.map_or(default.region, Into::into),
            state_directory: table.path("state_directory"),
            log_level: log_level(table).unwrap_or(default.log_level),
        }
    }
}

/// A level, or directives by module: one level alone is told as any choice is, since it is what most people write.
fn log_level(table: &mut TableReader<'_>) -> Option<Filter> {
    const KEY: &str = "log_level";
    let node = table.node(KEY)?;
    let text = table.string_of(KEY, node)?;
    if !text.contains([',', '=']) {
        return table.choice(KEY, &filter::LEVELS).map(Filter::level);
    }
    let bad = match Filter::parse(&text) {
        Ok(filter) => return Some(filter),
        Err(bad) => bad,
    };
    // What a reference stands for may be a secret.
    let as_written = matches!(&node.value, Value::String(written) if **written == *text);
    let what = if as_written { bad.to_string() } else { format!("{} is not right", node.value) };
    table.error_at(node.span, KEY, what, "such as \"info\" or \"info,probe=debug,sqlx=info\"".to_owned());
    None
}

impl Server {
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        table.not_built_yet(&["public_listen", "tls"]);
        let listen = table.string("listen").and_then(|text| {
            let listen = parse_listen(&text);
            if listen.is_none() {
                let allowed = "an address with a port, such as \"127.0.0.1:8780\" or \"[::]:8780\", or \
                               \"unix:/absolute/path\" of at most 107 bytes";
                table.error("listen", "not an address to listen on", allowed.to_owned());
            }
            listen
        });
        let public_url = table.string("public_url").and_then(|text| {
            let url = parse_public_url(&text);
            if url.is_none() {
                let allowed = "http:// or https:// and a host, such as \"https://status.example.com\"";
                table.error("public_url", "not an address of a server", allowed.to_owned());
            }
            url
        });
        let default = Self::default();
        Self {
            listen: listen.unwrap_or(default.listen),
            public_url,
            metrics_public: table.boolean("metrics_public").unwrap_or(default.metrics_public),
            metrics_monitors: table
                .integer("metrics_monitors", 0..=250_000)
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(default.metrics_monitors),
        }
    }
}

/// Without a path: everything is served from the root.
fn parse_public_url(text: &str) -> Option<url::Url> {
    let url = url::Url::parse(text).ok()?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.host().is_some() && url.path() == "/" && plain).then_some(url)
}

fn parse_listen(text: &str) -> Option<Listen> {
    /// `sun_path` of unix(7), less its final zero.
    const MAX_PATH: usize = 107;
    if let Some(path) = text.strip_prefix("unix:") {
        let good = path.starts_with('/') && !path.ends_with('/') && path.len() <= MAX_PATH && !path.contains('\0');
        return good.then(|| Listen::Unix(path.into()));
    }
    text.parse().ok().map(Listen::Tcp)
}

impl Database {
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        let url = table.secret("url").filter(|url| {
            let text = url.expose();
            let good =
                (text.starts_with("postgres://") || text.starts_with("postgresql://")) && url::Url::parse(text).is_ok();
            if !good {
                let allowed = "such as \"postgres://user:password@host:5432/database\"".to_owned();
                table.error_hidden("url", "not an address of a Postgres database", allowed);
            }
            good
        });
        let schema =
            checked(table, "schema", "1 to 63 of a-z, 0-9 and '_', no digit first, no \"pg_\" first", |text| {
                is_identifier(text, b"_") && text.len() <= 63 && !text.starts_with("pg_")
            });
        let cluster_user = checked(table, "cluster_user", "the name of a user of this machine", |text| {
            is_identifier(text, b"_-") && text.len() <= 32
        });
        Self {
            url,
            max_connections: table
                .integer("max_connections", 2..=100)
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or(default.max_connections),
            auto_migrate: table.boolean("auto_migrate").unwrap_or(default.auto_migrate),
            schema: schema.unwrap_or(default.schema),
            backlog: bytes(table, "backlog", 1 << 20, 64 << 30).unwrap_or(default.backlog),
            cluster_user: cluster_user.unwrap_or(default.cluster_user),
        }
    }
}

fn is_identifier(text: &str, signs: &[u8]) -> bool {
    let first = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'_';
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || signs.contains(&byte);
    text.as_bytes().first().is_some_and(first) && text.bytes().all(inner)
}

impl Probing {
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        let user_agent = checked(table, "user_agent", "1 to 255 visible ASCII characters and spaces", |text| {
            (1..=255).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        });
        Self {
            resolvers: each(table, "resolvers", "an address with a port, such as \"127.0.0.1:53\"", parse_resolver),
            ca_files: ca_files(table),
            max_in_flight: table
                .integer("max_in_flight", 1..=100_000)
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(default.max_in_flight),
            user_agent: user_agent.unwrap_or(default.user_agent),
            proxy: Proxy::read(table),
            max_body: bytes(table, "max_body", 1 << 10, 64 << 20).unwrap_or(default.max_body),
            rdap_bootstrap: rdap_bootstrap(table).unwrap_or(default.rdap_bootstrap),
        }
    }
}

fn rdap_bootstrap(table: &mut TableReader<'_>) -> Option<String> {
    const KEY: &str = "rdap_bootstrap";
    let text = table.string(KEY)?;
    if !text.contains("://") {
        return table.path(KEY).map(|path| path.display().to_string());
    }
    let url = url::Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    if url.is_none() {
        table.error(KEY, "not a file, nor a URL", "such as \"https://data.iana.org/rdap/dns.json\"".to_owned());
    }
    url.map(String::from)
}

/// Port 53 where there is none.
fn parse_resolver(text: &str) -> Result<SocketAddr, Option<String>> {
    let address = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)));
    address.ok().filter(|address| address.port() != 0 && !address.ip().is_unspecified()).ok_or(None)
}

/// A missing file is an error of the configuration, and not of every check.
fn ca_files(table: &mut TableReader<'_>) -> Vec<PathBuf> {
    const MAX_CA_BYTES: u64 = 16 << 20;
    let paths = table.paths("ca_files").unwrap_or_default();
    for path in &paths {
        let why = match limited::read(path, MAX_CA_BYTES) {
            Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => continue,
            Ok(_) => "holds no certificate".to_owned(),
            Err(why) => why.to_string(),
        };
        table.error("ca_files", format!("{}: {why}", path.display()), "PEM files of certificates".to_owned());
    }
    paths
}

impl Egress {
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        const ALLOWED: &str = "a network such as \"10.0.0.0/8\", or an address";
        Self {
            allow: each(table, "allow", ALLOWED, parse_network),
            deny: each(table, "deny", ALLOWED, parse_network),
            rows_public_only: table.choice("database_profile", &[("any", false), ("public", true)]).unwrap_or_default(),
        }
    }
}

fn parse_network(text: &str) -> Result<IpNet, Option<String>> {
    let network: IpNet = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| None)?;
    if network.trunc() == network {
        return Ok(network);
    }
    Err(Some(format!("did you mean \"{}\"?", network.trunc())))
}

/// A list of texts that parse; the error may bring a better way out than the general one.
fn each<T>(
    table: &mut TableReader<'_>,
    key: &'static str,
    allowed: &str,
    parse: impl Fn(&str) -> Result<T, Option<String>>,
) -> Vec<T> {
    let items: &[Node] = table.list(key).unwrap_or_default();
    let mut parsed = Vec::with_capacity(items.len());
    for item in items {
        let Some(text) = table.string_of(key, item) else { continue };
        match parse(&text) {
            Ok(value) => parsed.push(value),
            Err(better) => {
                let allowed = better.unwrap_or_else(|| format!("must be {allowed}"));
                table.error_at(item.span, key, format!("{} is not right", item.value), allowed);
            }
        }
    }
    parsed
}

fn checked(
    table: &mut TableReader<'_>,
    key: &'static str,
    allowed: &str,
    good: impl Fn(&str) -> bool,
) -> Option<String> {
    let text = table.string(key)?;
    if good(&text) {
        return Some(text);
    }
    table.error(key, "is not right", format!("must be {allowed}"));
    None
}

fn bytes(table: &mut TableReader<'_>, key: &'static str, least: u64, most: u64) -> Option<usize> {
    usize::try_from(table.size(key, least..=most)?).ok()
}
