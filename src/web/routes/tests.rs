use super::handle::{PINGS, PUSHES};
use super::*;
use crate::web::query::segments;

fn found(method: Method, path: &str) -> String {
    match find(&segments(path).unwrap(), &method) {
        Found::Route(route, captures) if captures.is_empty() => route.pattern.to_owned(),
        Found::Route(route, captures) => format!("{} {}", route.pattern, captures.join(" ")),
        Found::Method { allow, open } => format!("405 {allow} {open}"),
        Found::Nothing => "404".to_owned(),
    }
}

#[test]
fn paths_lead_to_their_route() {
    for (path, expected) in [
        ("/", "/"),
        ("/healthz", "/healthz"),
        ("/api/v1/monitors", "/api/v1/monitors"),
        ("/api/v1/monitors/a%20b", "/api/v1/monitors/{id} a b"),
        ("/api/v1/monitors/x/checks", "/api/v1/monitors/{id}/checks x"),
        ("/api/v1/channels", "/api/v1/channels/*"),
        ("/api/v1/channels/a/test", "/api/v1/channels/*"),
        ("/status/a/b", "/status/*"),
        ("/ping/x", "/ping/{uuid} x"),
        ("/ping/x/start", "/ping/{uuid}/{signal} x start"),
        ("/ping/x/y/0", "/ping/{ping_key}/{slug}/{signal} x y 0"),
        ("/ping/", "404"),
        ("/api/push/x", "/api/push/{token} x"),
        ("", "/"),
        ("//", "404"),
        ("/healthz/", "404"),
        ("/healthz/x", "404"),
        ("/api/v1/monitors/", "404"),
        ("/api/v1/monitors//checks", "404"),
        ("/api/v1/monitors/x/y", "404"),
        ("/API/v1/monitors", "404"),
        ("/api", "404"),
    ] {
        assert_eq!(found(Method::GET, path), expected, "{path}");
    }
    assert_eq!(found(Method::HEAD, "/healthz"), "/healthz");
    assert_eq!(found(Method::POST, "/healthz"), "405 GET, HEAD true");
    assert_eq!(found(Method::GET, "/api/v1/reload"), "405 POST false");
    assert_eq!(found(Method::PUT, "/api/v1/monitors"), "405 GET, HEAD, POST false");
    assert_eq!(found(Method::CONNECT, ""), "405 GET, HEAD true");
    // An encoded slash is part of a name, never a separator.
    assert_eq!(found(Method::GET, "/api/v1/monitors/a%2Fchecks"), "/api/v1/monitors/{id} a/checks");
}

#[test]
fn no_row_hides_another() {
    for route in ROUTES {
        let example = route.pattern.replace(['{', '}'], "").replace('*', "x");
        for method in route.methods {
            match find(&segments(&example).unwrap(), method) {
                Found::Route(first, _) => assert_eq!(first.pattern, route.pattern, "{method} {example}"),
                _ => panic!("{method} {example} leads nowhere"),
            }
        }
        assert!(!route.methods.contains(&Method::HEAD) && route.pattern.starts_with('/'), "{}", route.pattern);
        // A ping is sent by whoever knows its address.
        let pinged = route.pattern.starts_with(PINGS) || route.pattern.starts_with(PUSHES);
        assert_eq!(pinged, route.keeps.is_some(), "{}", route.pattern);
        assert!(route.access != Access::Open || route.methods == GET || pinged, "GET never writes: {}", route.pattern);
    }
}

#[test]
fn what_changes_something_is_never_a_get_and_needs_more_than_read() {
    // Pings do, as their peers' do: the address is the secret.
    for route in ROUTES.iter().filter(|route| route.keeps.is_none()) {
        if route.methods != GET {
            assert!(!matches!(route.access, Access::Open | Access::Needs(Scope::Read)), "{}", route.pattern);
        }
    }
}
