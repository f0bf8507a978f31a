//! A way to a target through somebody else. The proxy is the operator's, as a cable is: that it does not work says
//! nothing about the target, unless it tells so in a form that is meant for programs.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::model::{Failure, Fault};
use crate::settings::proxy::{Proxy, Scheme};

/// A proxy's answer to CONNECT is read up to this size.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What a proxy is asked for.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// An address that the guard has seen.
    Address(SocketAddr),
    /// A name that the proxy resolves.
    Name(String, u16),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// A fault of the way to the proxy, as one of ours.
pub(super) fn unreachable(proxy: &Proxy, fault: Fault) -> Fault {
    use crate::model::Owner;
    let failure = if fault.failure.owner() == Owner::Observer { fault.failure } else { Failure::ObserverOffline };
    Fault::new(failure, format!("the proxy {proxy} cannot be reached: {}", fault.message))
}

/// Asks for a tunnel on a connection to the proxy.
///
/// Once it was asked for a target, a proxy that stays silent is most likely waiting for that target:
/// `connect_timeout`.
pub(super) async fn tunnel(
    stream: &mut TcpStream,
    proxy: &Proxy,
    place: &Place,
    user_agent: &str,
    deadline: Instant,
) -> Result<(), Fault> {
    let mut talk = Talk { stream, proxy, deadline, asked: None };
    match proxy.scheme {
        Scheme::Http => talk.connect(place, user_agent).await,
        Scheme::Socks5 | Scheme::Socks5h => talk.socks(place).await,
    }
}

/// `Proxy-Authorization` of RFC 9110, 11.7.1; none without credentials.
#[must_use]
pub fn authorization(proxy: &Proxy) -> Option<String> {
    let (user, password) = proxy.credentials.as_ref()?;
    Some(format!("Basic {}", BASE64.encode(format!("{}:{}", user.expose(), password.expose()))))
}

struct Talk<'a> {
    stream: &'a mut TcpStream,
    proxy: &'a Proxy,
    deadline: Instant,
    /// The target, once it was named.
    asked: Option<&'a Place>,
}

impl<'a> Talk<'a> {
    fn broken(&self, what: &str) -> Fault {
        Fault::new(Failure::ObserverOffline, format!("the proxy {} {what}", self.proxy))
    }

    fn late(&self) -> Fault {
        match self.asked {
            None => self.broken("did not answer within the timeout"),
            Some(place) => {
                let text = format!("the proxy {} had no connection to {place} within the timeout", self.proxy);
                Fault::new(Failure::ConnectTimeout, text)
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match timeout_at(self.deadline, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.broken("closed the connection")),
            Err(_) => Err(self.late()),
        }
    }

    async fn exact<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        match timeout_at(self.deadline, self.stream.read_exact(&mut bytes)).await {
            Ok(Ok(_)) => Ok(bytes),
            Ok(Err(_)) => Err(self.broken("closed the connection")),
            Err(_) => Err(self.late()),
        }
    }

    async fn skip(&mut self, length: usize) -> Result<(), Fault> {
        for _ in 0..length {
            self.exact::<1>().await?;
        }
        Ok(())
    }

    /// RFC 1928, and RFC 1929 for the password.
    async fn socks(&mut self, place: &'a Place) -> Result<(), Fault> {
        const VERSION: u8 = 5;
        const NONE: u8 = 0;
        const PASSWORD: u8 = 2;
        let methods: &[u8] = if self.proxy.credentials.is_some() { &[NONE, PASSWORD] } else { &[NONE] };
        self.send(&[&[VERSION, u8::try_from(methods.len()).unwrap_or(1)], methods].concat()).await?;
        match self.exact().await? {
            [VERSION, NONE] => {}
            [VERSION, PASSWORD] if self.proxy.credentials.is_some() => self.password().await?,
            [VERSION, 0xff] => {
                let text =
                    format!("the proxy {} accepts none of our ways to log in: check its user and password", self.proxy);
                return Err(Fault::new(Failure::PermissionDenied, text));
            }
            _ => return Err(self.broken("does not speak SOCKS 5")),
        }
        self.send(&socks_request(place)).await?;
        self.asked = Some(place);
        let [version, reply, _, kind] = self.exact().await?;
        if version != VERSION {
            return Err(self.broken("does not speak SOCKS 5"));
        }
        if reply != 0 {
            return Err(self.refused_by_socks(reply, place));
        }
        let length = match kind {
            1 => 4,
            4 => 16,
            3 => usize::from(self.exact::<1>().await?[0]),
            _ => return Err(self.broken("does not speak SOCKS 5")),
        };
        // The address and port that it connects from.
        self.skip(length + 2).await
    }

    async fn password(&mut self) -> Result<(), Fault> {
        let Some((user, password)) = &self.proxy.credentials else { return Ok(()) };
        let counted = |text: &str| [&[u8::try_from(text.len()).unwrap_or(0)], text.as_bytes()].concat();
        self.send(&[vec![1], counted(user.expose()), counted(password.expose())].concat()).await?;
        match self.exact().await? {
            [_, 0] => Ok(()),
            [..] => {
                let text = format!("the proxy {} does not accept our user and password", self.proxy);
                Err(Fault::new(Failure::PermissionDenied, text))
            }
        }
    }

    fn refused_by_socks(&self, reply: u8, place: &Place) -> Fault {
        let (failure, what) = match reply {
            2 => (Failure::PermissionDenied, "its rules do not allow it"),
            3 => (Failure::NetworkUnreachable, "network unreachable"),
            4 => (Failure::HostUnreachable, "host unreachable"),
            5 => (Failure::ConnectRefused, "connection refused"),
            // "TTL expired"; servers also say so when nobody answered in time.
            6 => (Failure::ConnectTimeout, "no answer in time"),
            7 => (Failure::PermissionDenied, "it makes no connections"),
            8 => (Failure::ObserverOffline, "it does not know this kind of address"),
            _ => (Failure::ObserverOffline, "it failed, and does not say why"),
        };
        Fault::new(
            failure,
            format!("the proxy {} has no connection to {place}: {what} (SOCKS reply {reply})", self.proxy),
        )
    }

    /// RFC 9110, 9.3.6.
    async fn connect(&mut self, place: &'a Place, user_agent: &str) -> Result<(), Fault> {
        let login =
            authorization(self.proxy).map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
        let request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nUser-Agent: {user_agent}\r\n{login}\r\n");
        self.send(request.as_bytes()).await?;
        self.asked = Some(place);
        let head = self.head().await?;
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split_ascii_whitespace();
        let version = words.next().unwrap_or_default();
        let Some(status) = words.next().and_then(|word| word.parse().ok()).filter(|_| version.starts_with("HTTP/1."))
        else {
            return Err(self.broken("does not speak HTTP/1.1"));
        };
        if (200..300).contains(&status) {
            return Ok(());
        }
        let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        let header = |name: &str| {
            let found = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim())
        };
        let (failure, what) = told(status, &header).unwrap_or_else(|| by_status(status, &header));
        Err(Fault::new(
            failure,
            format!("the proxy {} opened no tunnel to {place}: {what} (status {status})", self.proxy),
        ))
    }

    /// The head of an answer. What follows one of success belongs to the target, which speaks after us: there is nothing.
    async fn head(&mut self) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if bytes.len() >= MAX_HEAD_BYTES {
                return Err(self.broken("sent a head of more than 16 KiB"));
            }
            let mut piece = [0; 1024];
            // Nothing of the tunnel may be taken: bytes are looked at first.
            let seen = match timeout_at(self.deadline, self.stream.peek(&mut piece)).await {
                Ok(Ok(0) | Err(_)) => return Err(self.broken("closed the connection")),
                Ok(Ok(length)) => piece.get(..length).unwrap_or_default(),
                Err(_) => return Err(self.late()),
            };
            let known = bytes.len().min(3);
            let window = [bytes.get(bytes.len() - known..).unwrap_or_default(), seen].concat();
            let end = window.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4 - known);
            let taken = end.unwrap_or(seen.len());
            bytes.extend_from_slice(seen.get(..taken).unwrap_or_default());
            self.skip(taken).await?;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn socks_request(place: &Place) -> Vec<u8> {
    let (kind, address, port) = match place {
        Place::Address(address) => match address.ip() {
            IpAddr::V4(ip) => (1, ip.octets().to_vec(), address.port()),
            IpAddr::V6(ip) => (4, ip.octets().to_vec(), address.port()),
        },
        // A name of DNS has at most 255 bytes; a longer one is cut here and not found there.
        Place::Name(name, port) => {
            let name = name.as_bytes().get(..name.len().min(255)).unwrap_or_default();
            (3, [&[u8::try_from(name.len()).unwrap_or(u8::MAX)], name].concat(), *port)
        }
    };
    [vec![5, 1, 0, kind], address, port.to_be_bytes().to_vec()].concat()
}

/// What a proxy says about its own failure in a form for programs: `Proxy-Status` (RFC 9209, 2.3), Squid's
/// `X-Squid-Error`, or the status 407, which only proxies give.
pub fn told<'a>(status: u16, header: &dyn Fn(&str) -> Option<&'a str>) -> Option<(Failure, &'static str)> {
    if status == 407 {
        return Some((Failure::PermissionDenied, "it wants a user and password: set them in the proxy's URL"));
    }
    if let Some(text) = header("proxy-status")
        && let Some((_, error)) = text.rsplit_once("error=")
    {
        let token = error.split([';', ',', ' ']).next().unwrap_or_default();
        if let Some(known) = by_proxy_status(token, text) {
            return Some(known);
        }
    }
    let (code, errno) = header("x-squid-error")?.split_once(' ')?;
    match code {
        "ERR_CONNECT_FAIL" => Some(by_errno(errno.trim().parse().ok()?)),
        "ERR_DNS_FAIL" => Some((Failure::DnsError, "it cannot resolve the name")),
        "ERR_ACCESS_DENIED" | "ERR_FORWARDING_DENIED" => Some((Failure::PermissionDenied, "its rules do not allow it")),
        _ => None,
    }
}

fn by_proxy_status(token: &str, text: &str) -> Option<(Failure, &'static str)> {
    Some(match token {
        "connection_refused" => (Failure::ConnectRefused, "connection refused"),
        "connection_timeout" => (Failure::ConnectTimeout, "no answer in time"),
        "connection_terminated" => (Failure::ConnectionReset, "the connection was reset"),
        "destination_unavailable" | "destination_not_found" | "destination_ip_unroutable" => {
            (Failure::HostUnreachable, "host unreachable")
        }
        "dns_timeout" => (Failure::DnsTimeout, "no name server answers"),
        "dns_error" if text.contains("rcode=\"NXDOMAIN\"") => (Failure::DnsNxdomain, "the name does not exist"),
        "dns_error" => (Failure::DnsError, "it cannot resolve the name"),
        "destination_ip_prohibited" | "http_request_denied" => (Failure::PermissionDenied, "its rules do not allow it"),
        "connection_limit_reached" => (Failure::ResourceExhausted, "it has too many connections"),
        "proxy_internal_error" | "proxy_configuration_error" | "proxy_internal_response" => {
            (Failure::ObserverOffline, "it has a fault of its own")
        }
        _ => return None,
    })
}

fn by_errno(errno: i32) -> (Failure, &'static str) {
    match Errno::from_raw_os_error(errno) {
        Errno::CONNREFUSED => (Failure::ConnectRefused, "connection refused"),
        Errno::TIMEDOUT => (Failure::ConnectTimeout, "no answer in time"),
        Errno::CONNRESET => (Failure::ConnectionReset, "the connection was reset"),
        Errno::NETUNREACH => (Failure::NetworkUnreachable, "network unreachable"),
        _ => (Failure::HostUnreachable, "it cannot connect to the target"),
    }
}

/// What a status says about why there is no tunnel. Only 502 and 504 are about the target (RFC 9110, 15.6).
fn by_status<'a>(status: u16, header: &dyn Fn(&str) -> Option<&'a str>) -> (Failure, &'static str) {
    // Tinyproxy has no other answer for a target that it cannot connect to.
    let is_tinyproxy = header("server").is_some_and(|server| server.starts_with("tinyproxy"));
    match status {
        401 | 403 | 405 | 451 => (Failure::PermissionDenied, "its rules do not allow it"),
        502 => (Failure::HostUnreachable, "it cannot connect to the target"),
        500 if is_tinyproxy => (Failure::HostUnreachable, "it cannot connect to the target"),
        504 => (Failure::ConnectTimeout, "the target did not answer it in time"),
        _ => (Failure::ObserverOffline, "it does not say that this is about the target"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_tells() {
        use Failure::*;
        for (status, name, value, wanted) in [
            (407, "", "", Some(PermissionDenied)),
            (502, "", "", None),
            (502, "proxy-status", "p.example; error=connection_refused", Some(ConnectRefused)),
            (
                504,
                "proxy-status",
                "a; received-status=200, b; error=connection_timeout;details=\"x\"",
                Some(ConnectTimeout),
            ),
            (502, "proxy-status", "p; error=dns_error; rcode=\"NXDOMAIN\"", Some(DnsNxdomain)),
            (502, "proxy-status", "p; error=dns_error", Some(DnsError)),
            (502, "proxy-status", "p; error=tls_alert_received", None),
            (503, "x-squid-error", "ERR_CONNECT_FAIL 111", Some(ConnectRefused)),
            (503, "x-squid-error", "ERR_CONNECT_FAIL 110", Some(ConnectTimeout)),
            (503, "x-squid-error", "ERR_CONNECT_FAIL 113", Some(HostUnreachable)),
            (503, "x-squid-error", "ERR_DNS_FAIL 0", Some(DnsError)),
            (403, "x-squid-error", "ERR_ACCESS_DENIED 0", Some(PermissionDenied)),
            (503, "x-squid-error", "ERR_OF_TOMORROW 0", None),
            (503, "x-squid-error", "ERR_CONNECT_FAIL", None),
        ] {
            let header = |asked: &str| (asked == name).then_some(value);
            assert_eq!(told(status, &header).map(|(failure, _)| failure), wanted, "{status} {value}");
        }
        let none = |_: &str| None;
        for (status, wanted) in [
            (403, PermissionDenied),
            (502, HostUnreachable),
            (504, ConnectTimeout),
            (500, ObserverOffline),
            (503, ObserverOffline),
        ] {
            assert_eq!(by_status(status, &none).0, wanted, "{status}");
        }
        assert_eq!(by_status(500, &|name| (name == "server").then_some("tinyproxy/1.11.1")).0, HostUnreachable);
    }

    #[test]
    fn requests_of_socks() {
        let v4 = socks_request(&Place::Address("127.0.0.1:258".parse().unwrap()));
        assert_eq!(v4, [5, 1, 0, 1, 127, 0, 0, 1, 1, 2]);
        assert_eq!(socks_request(&Place::Name("ab".to_owned(), 80)), [5, 1, 0, 3, 2, b'a', b'b', 0, 80]);
        assert_eq!(socks_request(&Place::Address("[::1]:1".parse().unwrap())).len(), 22);
    }
}
