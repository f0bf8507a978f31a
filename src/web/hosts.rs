//! Under which names we answer. A page of somebody else's can make a browser resolve that page's own name to our address
//! (DNS rebinding) and would then read our answers as its own; such a request has that name in `Host`.

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::HOST;
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{StatusCode, Version};

use super::reply::Problem;

/// The names: addresses, `localhost`, names without a dot (no page of the internet has one), this machine's name, and the
/// host of `server.public_url`.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    names: Vec<String>,
}

impl Hosts {
    /// With this machine's name, and the host of `server.public_url`.
    #[must_use]
    pub fn new(public: Option<&str>) -> Self {
        let uname = rustix::system::uname();
        let machine = uname.nodename().to_str().ok();
        let names = machine.into_iter().chain(public).map(|name| plain(name).to_lowercase());
        Self { names: names.filter(|name| !name.is_empty()).collect() }
    }

    /// Whether a request is for us.
    pub(super) fn check(&self, parts: &Parts) -> Result<(), Problem> {
        let mut given = parts.headers.get_all(HOST).iter();
        let host = given.next();
        if given.next().is_some() || (host.is_none() && parts.version == Version::HTTP_11) {
            let text = "a request needs exactly one Host (RFC 9112, section 3.2)";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_host", "bad request", text));
        }
        // The address in an absolute URI counts, and not the header (RFC 9112, section 3.2.2); we want both to be ours.
        // A request without any (HTTP/1.0) does not come from a browser.
        let named = host.map(|value| value.to_str().unwrap_or("\u{fffd}"));
        let mut names = named.into_iter().chain(parts.uri.authority().map(Authority::as_str));
        match names.find(|name| !self.is_ours(name)) {
            None => Ok(()),
            Some(_) => Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "this name is not ours",
                "the name in Host is not known here: use the address, localhost, the name of the machine, or set \
                 server.public_url in the configuration to the address that you use",
            )),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        if let Some(inner) = name.strip_prefix('[') {
            return inner.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        }
        if name.parse::<IpAddr>().is_ok() {
            return true;
        }
        let name = plain(name);
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        is_name && (!name.contains('.') || self.names.iter().any(|ours| ours.eq_ignore_ascii_case(name)))
    }
}

/// A name may end with the dot of the root.
fn plain(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn without_port(host: &str) -> Option<&str> {
    let colon = host.rfind(':').filter(|at| !host.ends_with(']') && host.get(*at..).is_some());
    let Some(at) = colon else { return Some(host) };
    let (name, port) = host.split_at_checked(at)?;
    let digits = port.strip_prefix(':')?;
    (digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts { names: vec!["lamp.example.com".to_owned(), "box.lan".to_owned()] }
    }

    #[test]
    fn names_are_ours_or_not() {
        let ours =
            ["localhost", "LOCALHOST:8780", "127.0.0.1", "127.0.0.1:80", "10.1.2.3:8780", "[::1]", "[::1]:8780", "nas"];
        for host in
            ours.into_iter().chain(["lamp.example.com", "Lamp.Example.Com.:443", "box.lan", "localhost.", "nas:"])
        {
            assert!(hosts().is_ours(host), "{host}");
        }
        let others =
            ["evil.com", "lamp.example.com.evil.com", "evil.com:8780", "127.0.0.1.evil.com", "localhost.evil.com"];
        let broken =
            ["", ".", ":80", "a b", "a:b", "nas:123456", "[evil]", "[::1", "user@nas", "lamp.example.com/x", "::1x"];
        for host in others.into_iter().chain(broken).chain(["1.2.3.4.5", "\u{fffd}", "nas\0", "[::1]x", "[::1]:x"]) {
            assert!(!hosts().is_ours(host), "{host:?}");
        }
    }

    fn check(version: Version, uri: &str, hosts_given: &[&str]) -> Option<u16> {
        let mut request = hyper::Request::builder().version(version).uri(uri);
        for host in hosts_given {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        hosts().check(&parts).err().map(|problem| problem.status().as_u16())
    }

    #[test]
    fn a_request_has_one_host_that_is_ours() {
        assert_eq!(check(Version::HTTP_11, "/", &["nas"]), None);
        assert_eq!(check(Version::HTTP_11, "/", &[]), Some(400));
        assert_eq!(check(Version::HTTP_10, "/", &[]), None);
        assert_eq!(check(Version::HTTP_10, "/", &["evil.com"]), Some(421));
        assert_eq!(check(Version::HTTP_11, "/", &["nas", "nas"]), Some(400));
        assert_eq!(check(Version::HTTP_11, "http://nas/", &["nas"]), None);
        assert_eq!(check(Version::HTTP_11, "http://evil.com/", &["nas"]), Some(421));
        assert_eq!(check(Version::HTTP_11, "http://nas/", &["evil.com"]), Some(421));
        assert_eq!(check(Version::HTTP_10, "http://evil.com/", &[]), Some(421));
    }
}
