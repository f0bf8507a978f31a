//! Redirects: how far, whereto, and with what.

use serde_json::{Value, json};

use super::staging::Serves::Asked;
use super::staging::{Made, Row, made, row};
use crate::support::servers::http::{Act, Request, Server, answer, closed_port, text};

const ALL: &str = "connect send wait receive";
const ALL_TLS: &str = "connect tls send wait receive";

fn to(location: &str) -> Vec<Act> {
    answer("302 Found", &format!("Location: {location}\r\n"), b"moved")
}

pub(super) fn rows() -> Vec<Row> {
    let at = |path| Asked("http", path, crate::http::maze as fn(&Request) -> Vec<Act>);
    let says = |script: fn(&Request) -> Vec<Act>| Asked("http", "/start", script);
    let protocol = "down http_protocol";
    vec![
        row("redirect: three", at("/3"), "up", ALL),
        row("redirect: ten", at("/10"), "up", ALL),
        row("redirect: eleven", at("/11"), "down redirect_limit", ALL),
        row("redirect: eleven, and allowed", at("/11"), "up", ALL).keys(json!({ "max_redirects": 11 })),
        row("redirect: none allowed", at("/1"), "down redirect_limit", ALL).keys(json!({ "max_redirects": 0 })),
        row("redirect: not followed", at("/1"), "down status_unexpected", ALL)
            .keys(json!({ "follow_redirects": false })),
        row("redirect: not followed, as expected", at("/1"), "up", ALL)
            .keys(json!({ "follow_redirects": false, "expect": { "status": ["3xx"], "headers": [{ "name": "location", "equals": "/0" }] } })),
        row("redirect: in circles", at("/loop"), "down redirect_loop", ALL),
        row("redirect: in circles, none allowed", at("/loop"), "down redirect_limit", ALL).keys(json!({ "max_redirects": 0 })),
        row("redirect: to itself", says(|_| to("/start")), "down redirect_loop", ALL),
        row("redirect: to an empty Location", says(|_| to("")), "down redirect_loop", ALL),
        row("redirect: to a fragment of itself", says(|_| to("#top")), "down redirect_loop", ALL),
        row("redirect: relative", at("/relative"), "up", ALL),
        row("redirect: no location", at("/nowhere"), "down status_unexpected", ALL),
        row("redirect: 300 is an answer", at("/300"), "down status_unexpected", ALL),
        row("redirect: to ftp", at("/ftp"), "down redirect_blocked", ALL),
        row("redirect: to a file", says(|_| to("file:///etc/passwd")), "down redirect_blocked", ALL),
        row("redirect: to a script", says(|_| to("javascript:alert(1)")), "down redirect_blocked", ALL),
        row("redirect: to port 0", says(|_| to("http://127.0.0.1:0/")), "down redirect_blocked", ALL),
        row("redirect: with a password", at("/userinfo"), "down redirect_blocked", ALL),
        row("redirect: no URL", at("/broken"), protocol, ALL),
        row("redirect: no UTF-8", says(|_| vec![Act::Send(b"HTTP/1.1 302 F\r\nContent-Length: 0\r\nLocation: /\xe4\r\n\r\n".to_vec())]), protocol, ALL),
        row("redirect: to metadata", at("/metadata"), "down egress_blocked", ALL),
        row("redirect: to metadata, with backslashes", says(|_| to("http:\\\\169.254.169.254\\")), "down egress_blocked", ALL),
        row("redirect: two Locations", says(|request| match request.path() {
            "/start" => answer("302 Found", "Location: /a\r\nLocation: /b\r\n", b""),
            "/a" => answer("200 OK", "", b""),
            _ => answer("500 Oops", "", b""),
        }), "up", ALL),
        row("redirect: to metadata, in hexadecimal", says(|_| to("http://0xa9fea9fe/")), "down egress_blocked", ALL),
        row("redirect: to metadata, as IPv6", says(|_| to("http://[::ffff:169.254.169.254]/")), "down egress_blocked", ALL),
        row("redirect: to a name that does not resolve", says(|_| to("http://shop.test/")), "unknown resolver_unavailable", "dns connect send wait receive"),
        row("redirect: POST becomes GET", Asked("http", "/start", |request| match &*request.line {
            "POST /start HTTP/1.1" => to("/then"),
            "GET /then HTTP/1.1" if request.body.is_empty() => answer("200 OK", "", b""),
            _ => answer("500 Oops", "", b""),
        }), "up", ALL).keys(json!({ "method": "POST", "body": "data" })),
        row("redirect: POST stays POST", Asked("http", "/start", |request| match &*request.line {
            "POST /start HTTP/1.1" => answer("307 Again", "Location: /then\r\n", b""),
            "POST /then HTTP/1.1" if request.body == b"data" => answer("200 OK", "", b""),
            _ => answer("500 Oops", "", b""),
        }), "up", ALL).keys(json!({ "method": "POST", "body": "data" })),
        row("redirect: back by another method", Asked("http", "/form", |request| match &*request.line {
            "POST /form HTTP/1.1" => answer("303 See Other", "Location: /form\r\n", b""),
            _ => answer("200 OK", "", b""),
        }), "up", ALL).keys(json!({ "method": "POST", "body": "a=b" })),
        row("redirect: whose body never ends", says(|request| match request.path() {
            "/start" => vec![text("HTTP/1.1 302 F\r\nLocation: /then\r\n\r\n"), Act::Hang],
            _ => answer("200 OK", "", b""),
        }), "up", ALL),
        row("redirect: to one that is silent", says(|request| match request.path() {
            "/start" => to("/then"),
            _ => vec![Act::Hang],
        }), "down response_timeout", ALL),
        row("redirect: to one that fails", says(|request| match request.path() {
            "/start" => to("/then"),
            _ => answer("503 Busy", "", b""),
        }), "down status_unexpected", ALL),
    ]
}

/// What nobody but the monitor's own origin may see.
const SECRETS: [&str; 5] = ["authorization", "cookie", "x-api-key", "proxy-authorization", "hunter2"];

fn with_secrets() -> Value {
    json!({
        "headers": { "Cookie": "sid=hunter2", "X-Api-Key": "hunter2", "Accept": "text/html" },
        "auth": { "basic": { "username": "lamp", "password": "hunter2" } },
    })
}

/// What one of the requests tells that it must not, or that there were none.
fn leaks(requests: &[Request]) -> Option<String> {
    if requests.is_empty() {
        return Some("the other host was not asked".to_owned());
    }
    let told: Vec<String> = requests.iter().map(|request| format!("{request:?}").to_ascii_lowercase()).collect();
    SECRETS
        .iter()
        .find(|secret| told.iter().any(|told| told.contains(**secret)))
        .map(|secret| format!("the other host was told {secret}"))
}

/// What a redirect between two servers leads to: the first answers with a Location made of the second's URL.
fn abroad(location: fn(&Server) -> String) -> super::staging::Serves {
    made(move |_| async move {
        let away = Server::start(|_| answer("200 OK", "", b"")).await;
        let (target, log) = (location(&away), away.log());
        let home = Server::start(move |_| to(&target)).await;
        Made::at(home.url("/"), (home, away)).afterwards(move |_| leaks(&log.lock().unwrap()))
    })
}

pub(super) fn between_hosts() -> Vec<Row> {
    let lax = || json!({ "tls": { "verify": false } });
    let down = |verify: bool, allowed: bool| {
        let serves = made(|_| async {
            let plain = Server::start(|_| answer("200 OK", "", b"plain")).await;
            let (target, log) = (plain.url("/"), plain.log());
            let secure = Server::start_tls(move |_| to(&target)).await;
            let made = Made::at(format!("https://{}/", secure.address), (secure, plain));
            made.afterwards(move |seen| {
                let asked = log.lock().unwrap();
                if seen.fault.is_some() {
                    (!asked.is_empty()).then(|| "it was followed".to_owned())
                } else {
                    leaks(&asked)
                }
            })
        });
        let mut keys = with_secrets();
        keys["tls"] = json!({ "verify": verify });
        keys["redirect_downgrade"] = json!(allowed);
        (serves, keys)
    };
    let (refused, refused_keys) = down(false, false);
    let (allowed, allowed_keys) = down(false, true);
    vec![
        row("redirect: to another port, with secrets", abroad(|away| away.url("/")), "up", ALL).keys(with_secrets()),
        row("redirect: without a scheme, with secrets", abroad(|away| format!("//{}/", away.address)), "up", ALL)
            .keys(with_secrets()),
        row(
            "redirect: to another name, with secrets",
            abroad(|away| format!("http://localhost:{}/", away.address.port())),
            "up",
            "dns connect send wait receive",
        )
        .keys(with_secrets()),
        row(
            "redirect: away and back, with secrets",
            made(|_| async {
                // Home is asked twice: with everything at first, with nothing after the chain has left.
                let away = Server::start(|request| match request.path().strip_prefix("/back?") {
                    Some(home) => to(&format!("http://{home}/again")),
                    None => answer("500 Oops", "", b""),
                })
                .await;
                let place = away.address;
                let home = Server::start(move |request| match request.path() {
                    "/" => to(&format!("http://{place}/back?{}", request.header("host").unwrap_or_default())),
                    _ => answer("200 OK", "", b""),
                })
                .await;
                let log = home.log();
                Made::at(home.url("/"), (home, away)).afterwards(move |_| {
                    let asked = log.lock().unwrap();
                    if asked.first()?.header("cookie").is_none() {
                        return Some("home was not told its own cookie".to_owned());
                    }
                    leaks(&asked[1..])
                })
            }),
            "up",
            ALL,
        )
        .keys(with_secrets()),
        row("redirect: down to http", refused, "down redirect_blocked", ALL_TLS).keys(refused_keys),
        row("redirect: down to http, allowed", allowed, "up", ALL_TLS).keys(allowed_keys),
        row(
            "redirect: up to https that signs itself",
            made(|_| async {
                let secure = Server::start_tls(|_| answer("200 OK", "", b"")).await;
                let target = format!("https://{}/", secure.address);
                let plain = Server::start(move |_| to(&target)).await;
                Made::at(plain.url("/"), (plain, secure))
            }),
            "down cert_untrusted",
            ALL_TLS,
        ),
        row(
            "redirect: up to https, not verified",
            made(|_| async {
                let secure = Server::start_tls(|_| answer("200 OK", "", b"")).await;
                let target = format!("https://{}/", secure.address);
                let plain = Server::start(move |_| to(&target)).await;
                Made::at(plain.url("/"), (plain, secure))
            }),
            "up",
            ALL_TLS,
        )
        .keys(lax()),
        row(
            "redirect: to a port where nobody is",
            made(|_| async {
                let target = format!("http://{}/", closed_port().await);
                let plain = Server::start(move |_| to(&target)).await;
                Made::at(plain.url("/"), plain)
            }),
            "down connect_refused",
            ALL,
        ),
    ]
}
