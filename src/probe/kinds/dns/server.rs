//! `resolver`: which server is asked, and how.

use std::net::Ipv6Addr;

use url::{Host, Url};

use crate::probe::authority::Authority;
use crate::probe::net::{IpVersion, TlsOptions};
use crate::settings::reader::TableReader;

const ALLOWED: &str = "such as \"192.0.2.53\", \"[2001:db8::53]:5353\", \"ns.example.com\", \"tcp://192.0.2.53\" or \"tls://dns.example.net\"";

/// Who is asked.
pub(super) enum Server {
    /// Those of `probe.resolvers` or the system.
    Ours,
    /// By UDP, and by TCP what does not fit.
    Udp(Authority),
    /// By TCP.
    Tcp(Authority),
    /// DNS over TLS (RFC 7858), with the certificate verified for the host.
    Tls(Authority, TlsOptions),
}

/// Reads `resolver` and `tls`; none when something is wrong.
pub(super) fn read(reader: &mut TableReader<'_>) -> Option<Server> {
    let Some(text) = reader.string("resolver") else {
        let absent = reader.node("resolver").is_none();
        without_tls(reader);
        return absent.then_some(Server::Ours);
    };
    let (scheme, rest) = text.split_once("://").unwrap_or(("udp", &text));
    let default_port = match scheme {
        "udp" | "tcp" => 53,
        "tls" => 853,
        _ => {
            reader.error("resolver", format!("cannot ask by {scheme:?}"), ALLOWED.to_owned());
            return None;
        }
    };
    let authority = authority(rest, default_port);
    if authority.is_none() {
        reader.error("resolver", "not a name server", ALLOWED.to_owned());
    }
    if scheme == "tls" {
        let options = TlsOptions::read(reader);
        return Some(Server::Tls(authority?, options?));
    }
    without_tls(reader);
    Some(if scheme == "tcp" { Server::Tcp(authority?) } else { Server::Udp(authority?) })
}

/// Where TLS is not spoken its options would be ignored; those of `[defaults]` are for others.
fn without_tls(reader: &mut TableReader<'_>) {
    if reader.has_own("tls") {
        reader.error(
            "tls",
            "this resolver is not asked over TLS",
            "remove it, or use resolver = \"tls://…\"".to_owned(),
        );
    }
}

/// `host`, `host:port`, `[v6]:port`, or a bare IPv6 address.
fn authority(text: &str, default_port: u16) -> Option<Authority> {
    let bracketed = match text.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => text.to_owned(),
    };
    if bracketed.contains(['/', '?', '#', '@', '\\']) || bracketed.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return None;
    }
    let url = Url::parse(&format!("dns://{bracketed}")).ok()?;
    let host = Host::parse(url.host_str().filter(|host| !host.is_empty())?).ok()?;
    let port = url.port().unwrap_or(default_port);
    (port != 0).then_some(Authority { host, port })
}

/// `ip_version` chooses among the addresses of a named resolver. An address of the other version, and none named at all,
/// are mistakes, unless the wish comes from `[defaults]`.
pub(super) fn check_version(server: Option<&Server>, version: IpVersion, reader: &mut TableReader<'_>) {
    let own = reader.has_own("ip_version");
    let clash = match server {
        Some(Server::Ours) if own && version != IpVersion::Any => Some("our own name servers are asked as they are"),
        Some(Server::Udp(authority) | Server::Tcp(authority) | Server::Tls(authority, _)) => {
            match (&authority.host, version) {
                (Host::Ipv4(_), IpVersion::V6) => Some("the resolver is an IPv4 address"),
                (Host::Ipv6(_), IpVersion::V4) => Some("the resolver is an IPv6 address"),
                _ => None,
            }
        }
        _ => None,
    };
    if let Some(clash) = clash {
        let way_out =
            "remove it, or name a resolver of this version; the records of a version are record = \"A\" and \"AAAA\"";
        reader.error("ip_version", clash, way_out.to_owned());
    }
}
