//! Redirects: which are followed, how far, and what goes along.

use lamplighter::model::Failure::*;
use serde_json::json;

use super::{LONG, monitor};
use crate::support::probing::check;
use crate::support::servers::http::{Act, Request, Server, answer};

pub(super) fn redirect(status: &str, to: &str) -> Vec<Act> {
    answer(status, &format!("Location: {to}\r\n"), b"moved")
}

/// `/n` leads to `/n-1`, `/0` answers; the other paths are traps.
pub(crate) fn maze(request: &Request) -> Vec<Act> {
    match request.path() {
        "/0" => answer("200 OK", "", b"there"),
        "/loop" => redirect("302 Found", "/loop2"),
        "/loop2" => redirect("302 Found", "loop"),
        "/relative" => redirect("301 Moved", "?a=b"),
        "/relative?a=b" => redirect("301 Moved", "./0#frag"),
        "/nowhere" => answer("302 Found", "", b"no location"),
        "/ftp" => redirect("302 Found", "ftp://127.0.0.1/"),
        "/userinfo" => redirect("302 Found", "http://u:p@127.0.0.1/"),
        "/broken" => redirect("302 Found", "http://["),
        "/metadata" => redirect("302 Found", "http://169.254.169.254/latest/meta-data"),
        "/see" => redirect("303 See Other", "/0"),
        "/found" => redirect("302 Found", "/0"),
        "/again" => redirect("307 Temporary Redirect", "/0"),
        "/300" => redirect("300 Multiple Choices", "/0"),
        path => redirect("302 Found", &format!("/{}", path[1..].parse::<u32>().unwrap() - 1)),
    }
}

#[tokio::test]
async fn redirects_are_followed_counted_and_bounded() {
    let server = Server::start(maze).await;
    for (path, keys, status, redirects, fault) in [
        ("/3", json!({}), Some(200), 3, None),
        ("/10", json!({}), Some(200), 10, None),
        ("/11", json!({}), Some(302), 10, Some(RedirectLimit)),
        ("/1", json!({ "max_redirects": 0 }), Some(302), 0, Some(RedirectLimit)),
        ("/1", json!({ "follow_redirects": false }), Some(302), 0, None),
        ("/loop", json!({}), Some(302), 1, Some(RedirectLoop)),
        ("/relative", json!({}), Some(200), 2, None),
        ("/nowhere", json!({}), Some(302), 0, None),
        ("/300", json!({}), Some(300), 0, None),
        ("/ftp", json!({}), Some(302), 0, Some(RedirectBlocked)),
        ("/userinfo", json!({}), Some(302), 0, Some(RedirectBlocked)),
        ("/broken", json!({}), Some(302), 0, Some(HttpProtocol)),
        ("/metadata", json!({}), None, 0, Some(EgressBlocked)),
    ] {
        let seen = check(&monitor(&server.url(path), &keys), LONG).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{path}: {:?}", seen.fault);
        assert_eq!(seen.http.as_ref().map(|http| http.status), status, "{path}");
        assert_eq!(seen.http.map_or(0, |http| http.redirects), redirects, "{path}");
    }
}

#[tokio::test]
async fn methods_and_bodies_through_redirects() {
    let server = Server::start(maze).await;
    for (path, line, body) in
        [("/see", "GET /0 HTTP/1.1", ""), ("/found", "GET /0 HTTP/1.1", ""), ("/again", "POST /0 HTTP/1.1", "data")]
    {
        let keys = json!({ "method": "POST", "body": "data", "headers": { "Content-Type": "text/plain" } });
        let seen = check(&monitor(&server.url(path), &keys), LONG).await;
        assert_eq!(seen.fault, None);
        let last = server.requests().pop().unwrap();
        assert_eq!((last.line.as_str(), &last.body[..]), (line, body.as_bytes()), "{path}");
        assert_eq!(last.header("content-type").is_some(), !body.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn secrets_stay_with_their_origin() {
    let away = Server::start(|request| match request.path() {
        "/back" => redirect("302 Found", &format!("http://{}/last", request.header("x-home").unwrap_or("127.0.0.1:1"))),
        _ => answer("200 OK", "", b""),
    })
    .await;
    let target = away.url("/away");
    let home = Server::start(move |request| match request.path() {
        "/here" => redirect("302 Found", "/again"),
        "/again" => redirect("307 Temporary Redirect", &target),
        _ => answer("200 OK", "", b""),
    })
    .await;
    let keys = json!({ "headers": { "Cookie": "sid=1", "X-Api-Key": "k", "Host": "virtual", "Accept": "text/html" },
        "auth": { "bearer": "tok" } });
    let seen = check(&monitor(&home.url("/here"), &keys), LONG).await;
    assert_eq!((seen.fault, seen.http.map(|http| http.redirects)), (None, Some(2)));
    for request in home.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer tok"));
        assert_eq!((request.header("cookie"), request.header("host")), (Some("sid=1"), Some("virtual")));
    }
    let stranger = away.requests().pop().unwrap();
    for name in ["authorization", "cookie", "x-api-key"] {
        assert_eq!(stranger.header(name), None, "{name}");
    }
    assert_eq!(stranger.header("host"), Some(away.address.to_string().as_str()));
    assert_eq!(stranger.header("accept"), Some("text/html"));
    assert_eq!(stranger.header("user-agent"), Some("lamplighter-test/1"));
}
