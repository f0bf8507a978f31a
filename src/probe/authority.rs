//! Host and port of a monitor's URL, for kinds whose address is little more than that.

use url::{Host, Url};

use super::net::{Destination, IpVersion, Profile};
use crate::settings::reader::TableReader;
use crate::settings::tree::Value;

/// What a kind's URL may have besides a host.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The port when the URL has none; none: it must have one.
    pub default_port: Option<u16>,
    /// A user name (never a password) before the host.
    pub user: bool,
    /// A path.
    pub path: bool,
    /// A query.
    pub query: bool,
    /// An address for error messages, such as `tcp://mail.example:25`.
    pub example: &'static str,
}

impl Shape {
    /// A host and a port, and nothing else.
    #[must_use]
    pub const fn bare(default_port: Option<u16>, example: &'static str) -> Self {
        Self { default_port, user: false, path: false, query: false, example }
    }
}

/// Where a URL points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Name or address.
    pub host: Host<String>,
    /// Not 0.
    pub port: u16,
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Authority {
    /// Reads a URL; what is wrong goes to the reader, and then there is none.
    pub fn read(url: &Url, reader: &TableReader<'_>, shape: Shape) -> Option<Self> {
        let before = reader.findings().count();
        let example = || format!("such as {:?}", shape.example);
        let scheme = url.scheme();
        let host = read_host(url, reader, shape.example);
        let port = match url.port().or(shape.default_port) {
            Some(0) => {
                reader.error("url", "port 0 cannot be connected to", "must be 1 to 65535".to_owned());
                None
            }
            Some(port) => Some(port),
            None => {
                reader.error("url", "no port", example());
                None
            }
        };
        if url.password().is_some() || (!shape.user && !url.username().is_empty()) {
            let way_out = if shape.user {
                "write the password as auth = { basic = { username = \"…\", password = { file = \"…\" } } }".to_owned()
            } else {
                format!("remove what is before the @, {}", example())
            };
            let which = if shape.user { "password" } else { "credentials" };
            reader.error("url", format!("{} {scheme} URL has no {which}", article(scheme)), way_out);
        }
        let path = !shape.path && !matches!(url.path(), "" | "/");
        if path || (!shape.query && url.query().is_some()) || url.fragment().is_some() {
            reader.error("url", format!("{} {scheme} URL ends after the port", article(scheme)), example());
        }
        let (host, port) = host.zip(port).filter(|_| reader.findings().count() == before)?;
        Some(Self { host, port })
    }

    /// Where to dial.
    #[must_use]
    pub fn destination(&self, ip_version: IpVersion, profile: Profile) -> Destination<'_> {
        Destination { host: borrowed(&self.host), port: self.port, ip_version, profile }
    }
}

/// A host without its string.
#[must_use]
pub fn borrowed(host: &Host<String>) -> Host<&str> {
    match host {
        Host::Domain(name) => Host::Domain(name.as_str()),
        Host::Ipv4(address) => Host::Ipv4(*address),
        Host::Ipv6(address) => Host::Ipv6(*address),
    }
}

/// The host of a URL, also where the URL standard takes it for opaque text: numbers that are addresses are addresses.
pub fn read_host(url: &Url, reader: &TableReader<'_>, example: &str) -> Option<Host<String>> {
    let such = || format!("such as {example:?}");
    match url.host_str().filter(|host| !host.is_empty()).map(Host::parse) {
        Some(Ok(host)) => Some(host),
        Some(Err(why)) => {
            reader.error("url", format!("not a host: {why}"), such());
            None
        }
        None => {
            reader.error("url", "no host", such());
            None
        }
    }
}

/// `ip_version`: `"any"` (the default), 4 or 6. A wrong one is reported, and read as the default.
pub fn read_ip_version(reader: &mut TableReader<'_>) -> IpVersion {
    let Some(node) = reader.node("ip_version") else { return IpVersion::Any };
    match &node.value {
        Value::Integer(4) => return IpVersion::V4,
        Value::Integer(6) => return IpVersion::V6,
        Value::String(text) => match &**text {
            "any" => return IpVersion::Any,
            "4" => return IpVersion::V4,
            "6" => return IpVersion::V6,
            _ => {}
        },
        _ => {}
    }
    reader.error("ip_version", format!("found {}", node.value), "must be \"any\", 4 or 6".to_owned());
    IpVersion::Any
}

/// Who asks: a definition that may name files is the operator's own.
#[must_use]
pub fn profile_of(reader: &TableReader<'_>) -> Profile {
    if reader.origin().trusted { Profile::File } else { Profile::Rows }
}

fn article(scheme: &str) -> &'static str {
    if scheme.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" }
}
