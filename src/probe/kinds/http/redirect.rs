//! Where a redirect leads, and whether it is followed. Pure: the caller dials, and the guard looks at every hop.

use hyper::http::{Method, StatusCode};
use url::Url;

use crate::model::{Failure, Fault};

/// `max_redirects` and `redirect_downgrade`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Redirects followed at most.
    pub(super) most: u16,
    /// https to http is allowed.
    pub(super) downgrade: bool,
}

/// The next request of a chain.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) url: Url,
    pub(super) method: Method,
    /// The method became GET: the body stays behind.
    pub(super) drops_body: bool,
}

/// Whether a response of this status with a `Location` is followed: 300 and 304 are answers.
pub(super) const fn redirects(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Decides about one redirect. `asked` is the chain so far, this request included; all of one method and URL.
pub(super) fn next(rules: Rules, asked: &[(Method, Url)], status: StatusCode, location: &[u8]) -> Result<Hop, Fault> {
    let Some((method, from)) = asked.last() else {
        return Err(Fault::new(Failure::Internal, "a redirect without a request"));
    };
    let unusable = |why: &str| Fault::new(Failure::HttpProtocol, format!("{} redirects {why}", place(from)));
    let text = std::str::from_utf8(location).map_err(|_| unusable("to a Location that is not UTF-8"))?;
    let mut url = from.join(text.trim()).map_err(|_| unusable("to a Location that is not a URL"))?;
    url.set_fragment(None);
    let becomes_get = match status.as_u16() {
        303 => *method != Method::HEAD && *method != Method::GET,
        301 | 302 => *method == Method::POST,
        _ => false,
    };
    let method = if becomes_get { Method::GET } else { method.clone() };
    let to = place(&url);
    if asked.iter().any(|(earlier, seen)| *earlier == method && *seen == url) {
        let hops = asked.len();
        return Err(Fault::new(
            Failure::RedirectLoop,
            format!("redirect {hops} leads back to a URL of {to} asked before"),
        ));
    }
    if asked.len() > usize::from(rules.most) {
        let text = format!("more than {} redirects, the last one to {to}", rules.most);
        return Err(Fault::new(Failure::RedirectLimit, text));
    }
    let blocked = |why: String| Err(Fault::new(Failure::RedirectBlocked, why));
    match (from.scheme(), url.scheme()) {
        ("https", "http") if !rules.downgrade => {
            blocked(format!("redirected from https to http at {to}; redirect_downgrade = true allows it"))
        }
        (_, "http" | "https") if !url.username().is_empty() || url.password().is_some() => {
            blocked(format!("redirected to {to} with credentials in the URL"))
        }
        (_, "http" | "https") if url.port() == Some(0) => blocked(format!("redirected to port 0 of {to}")),
        (_, "http" | "https") => Ok(Hop { url, method, drops_body: becomes_get }),
        (_, other) => blocked(format!("redirected to a URL of scheme {other:?}; only http and https are followed")),
    }
}

/// Host and port of a URL: what messages may show, because paths and queries can hold secrets.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or("no host");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { most: 10, downgrade: false };

    fn chain(hops: &[(&str, &str)]) -> Vec<(Method, Url)> {
        hops.iter().map(|(method, url)| (method.parse().unwrap(), url.parse().unwrap())).collect()
    }

    fn step(from: &str, status: u16, location: &str) -> Result<Hop, Failure> {
        let asked = chain(&[("GET", from)]);
        next(RULES, &asked, StatusCode::from_u16(status).unwrap(), location.as_bytes()).map_err(|fault| fault.failure)
    }

    #[test]
    fn locations_are_resolved() {
        for (location, url) in [
            ("/b?c=1#frag", "http://h:81/b?c=1"),
            ("c", "http://h:81/a/c"),
            ("//other/x", "http://other/x"),
            ("https://h/", "https://h/"),
            ("  /spaces ", "http://h:81/spaces"),
            ("?q", "http://h:81/a/b?q"),
            ("/ü", "http://h:81/%C3%BC"),
        ] {
            assert_eq!(step("http://h:81/a/b", 302, location).unwrap().url.as_str(), url, "{location}");
        }
    }

    #[test]
    fn what_is_not_followed_is_named() {
        for (from, location, failure) in [
            ("https://h/", "http://h/", Failure::RedirectBlocked),
            ("http://h/", "ftp://h/", Failure::RedirectBlocked),
            ("http://h/", "file:///etc/passwd", Failure::RedirectBlocked),
            ("http://h/", "javascript:alert(1)", Failure::RedirectBlocked),
            ("http://h/", "http://u:p@h/x", Failure::RedirectBlocked),
            ("http://h/", "http://h:0/x", Failure::RedirectBlocked),
            ("http://h/", "http://[", Failure::HttpProtocol),
            ("http://h/a", "", Failure::RedirectLoop),
            ("http://h/a", "#top", Failure::RedirectLoop),
            ("http://h/a", "/a", Failure::RedirectLoop),
        ] {
            assert_eq!(step(from, 302, location).unwrap_err(), failure, "{from} -> {location}");
        }
        let latin = next(RULES, &chain(&[("GET", "http://h/")]), StatusCode::FOUND, b"/\xe4").unwrap_err();
        assert_eq!(latin.failure, Failure::HttpProtocol);
        let allowed = Rules { downgrade: true, ..RULES };
        assert!(next(allowed, &chain(&[("GET", "https://h/")]), StatusCode::FOUND, b"http://h/").is_ok());
    }

    #[test]
    fn a_loop_wins_over_the_limit_and_both_over_a_block() {
        let asked = chain(&[("GET", "http://h/1"), ("GET", "https://h/2")]);
        let rules = Rules { most: 1, downgrade: false };
        let failure = |location: &[u8]| next(rules, &asked, StatusCode::FOUND, location).unwrap_err().failure;
        assert_eq!(failure(b"http://h/1"), Failure::RedirectLoop);
        assert_eq!(failure(b"http://h/3"), Failure::RedirectLimit);
        assert_eq!(failure(b"/3"), Failure::RedirectLimit);
    }

    #[test]
    fn methods_follow_the_standard() {
        for (method, status, then, drops) in [
            ("GET", 301, "GET", false),
            ("POST", 301, "GET", true),
            ("POST", 302, "GET", true),
            ("PUT", 302, "PUT", false),
            ("PUT", 303, "GET", true),
            ("HEAD", 303, "HEAD", false),
            ("POST", 307, "POST", false),
            ("POST", 308, "POST", false),
        ] {
            let asked = chain(&[(method, "http://h/a")]);
            let hop = next(RULES, &asked, StatusCode::from_u16(status).unwrap(), b"/b").unwrap();
            assert_eq!((hop.method.as_str(), hop.drops_body), (then, drops), "{method} {status}");
        }
        // Post, redirect, get on one URL is what forms do, and no loop.
        assert!(next(RULES, &chain(&[("POST", "http://h/a")]), StatusCode::SEE_OTHER, b"/a").is_ok());
    }

    #[test]
    fn messages_name_hosts_only() {
        let asked = chain(&[("GET", "https://h/a?token=hunter2")]);
        for location in ["http://h/?token=hunter2", "/a?token=hunter2", "ftp://h/hunter2"] {
            let fault = next(RULES, &asked, StatusCode::FOUND, location.as_bytes()).unwrap_err();
            assert!(!fault.message.contains("hunter2"), "{}", fault.message);
        }
    }
}
