//! Pings of jobs, as healthchecks.io and Uptime Kuma take them. `OK` is said when the ping is in the journal, and only
//! then: whatever else happens is an answer after which a sender tries again.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HeaderName, HeaderValue, RETRY_AFTER};
use serde_json::json;
use url::form_urlencoded;
use uuid::Uuid;

use super::reply::{Reply, reply};
use super::routes::{Answer, Call};
use crate::verdict::pings::Pinged;
use crate::verdict::pulse::{Ping, Signal, TEXT_BYTES};

/// How much of a body is read; healthchecks.io's header.
const LIMIT: HeaderName = HeaderName::from_static("ping-body-limit");
/// What a sender waits before it tries again when we cannot say better, seconds.
const RETRY_SECONDS: u64 = 5;
/// Uptime Kuma's bound of `ping`, milliseconds.
const PING_MOST_MS: f64 = 1e11;
/// Its answer for a monitor that is not there, or paused.
const NOT_FOUND: &str = "Monitor not found or not active.";

/// `/ping/{uuid}` and `/ping/{uuid}/{signal}`.
pub(super) async fn ping(call: Call) -> Answer {
    let address = call.captures.first().map(String::as_str).unwrap_or_default();
    let signal = match call.captures.get(1).map(String::as_str) {
        None => Signal::Success,
        Some("start") => Signal::Start,
        Some("fail") => Signal::Fail,
        Some("log") => Signal::Log,
        Some(code) if code.len() <= 3 && code.bytes().all(|byte| byte.is_ascii_digit()) => match code.parse() {
            Ok(code) => Signal::Exit(code),
            Err(_) => return Ok(plain(StatusCode::BAD_REQUEST, "invalid url format")),
        },
        // Also a ping key and a slug, of which this version has none.
        Some(_) => return Ok(plain(StatusCode::NOT_FOUND, NO_SLUGS)),
    };
    let rid = match parameter(&call, "rid").map(|text| text.parse::<Uuid>()) {
        None => None,
        Some(Ok(rid)) => Some(rid),
        Some(Err(_)) => return Ok(plain(StatusCode::BAD_REQUEST, "invalid uuid format")),
    };
    let text = String::from_utf8_lossy(&call.body).into();
    let answer = call.site.admin.ping(address, Ping { signal, rid, took: None, text }).await;
    Ok(match answer {
        Pinged::Recorded => plain(StatusCode::OK, "OK"),
        Pinged::Paused => plain(StatusCode::OK, "OK (paused: not recorded)"),
        Pinged::Unknown => plain(StatusCode::NOT_FOUND, "not found"),
        Pinged::Ambiguous => plain(StatusCode::CONFLICT, "ambiguous token"),
        Pinged::TooMany(wait) => later(plain(StatusCode::TOO_MANY_REQUESTS, "too many pings"), wait),
        Pinged::Away => later(plain(StatusCode::SERVICE_UNAVAILABLE, "not recorded, try again"), AWAY),
    })
}

const AWAY: Duration = Duration::from_secs(RETRY_SECONDS);
const NO_SLUGS: &str = "not found: there are no ping keys and slugs here, use /ping/{id or token of the monitor}";

/// `/ping/{ping_key}/{slug}/{signal}`.
pub(super) async fn no_slugs(_: Call) -> Answer {
    Ok(plain(StatusCode::NOT_FOUND, NO_SLUGS))
}

/// `/api/push/{token}`.
pub(super) async fn push(call: Call) -> Answer {
    let given = |name| parameter(&call, name).filter(|value| !value.is_empty());
    let took = match given("ping").and_then(|text| leading_number(&text)).filter(|ms| *ms != 0.0) {
        Some(ms) if !(0.0..=PING_MOST_MS).contains(&ms) => {
            let text = "Invalid ping value. Must be between 0 and 100000000000 ms.";
            return Ok(refused(StatusCode::NOT_FOUND, text));
        }
        Some(ms) => Duration::try_from_secs_f64(ms / 1000.0).ok(),
        None => None,
    };
    let up = given("status").is_none_or(|status| status == "up");
    let signal = if up { Signal::Success } else { Signal::Fail };
    let text: String = given("msg").filter(|text| text != "OK").unwrap_or_default();
    let text = text.get(..text.floor_char_boundary(TEXT_BYTES)).unwrap_or_default().into();
    let address = call.captures.first().map(String::as_str).unwrap_or_default();
    let answer = call.site.admin.ping(address, Ping { signal, rid: None, took, text }).await;
    Ok(match answer {
        Pinged::Recorded => reply(StatusCode::OK, "application/json; charset=utf-8", r#"{"ok":true}"#),
        Pinged::Paused | Pinged::Unknown => refused(StatusCode::NOT_FOUND, NOT_FOUND),
        Pinged::Ambiguous => refused(StatusCode::CONFLICT, "Several monitors have this token."),
        Pinged::TooMany(wait) => later(refused(StatusCode::TOO_MANY_REQUESTS, "Too many pings."), wait),
        Pinged::Away => later(refused(StatusCode::SERVICE_UNAVAILABLE, "Not recorded, try again."), AWAY),
    })
}

fn refused(status: StatusCode, text: &str) -> Reply {
    reply(status, "application/json; charset=utf-8", json!({ "ok": false, "msg": text }).to_string())
}

fn plain(status: StatusCode, text: &'static str) -> Reply {
    let mut reply = reply(status, "text/plain; charset=utf-8", text);
    reply.headers_mut().insert(LIMIT, HeaderValue::from(TEXT_BYTES));
    reply.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    reply
}

fn later(mut reply: Reply, wait: Duration) -> Reply {
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil() as u64));
    reply
}

/// The first of this name; the others, and unknown names, are passed over, as the peers do.
fn parameter(call: &Call, name: &str) -> Option<String> {
    let query = call.parts.uri.query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The number that a text begins with, as JavaScript's `parseFloat` reads it; none when it does not begin with one.
fn leading_number(text: &str) -> Option<f64> {
    let text = text.trim_start();
    let number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'+' | b'-' | b'e' | b'E');
    let end = text.bytes().position(|byte| !number(byte)).unwrap_or(text.len()).min(32);
    (1..=end).rev().find_map(|end| text.get(..end)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_peer_reads_them() {
        for (text, value) in [
            ("12", Some(12.0)),
            ("12.5ms", Some(12.5)),
            (" -3", Some(-3.0)),
            ("1e3", Some(1000.0)),
            ("1e", Some(1.0)),
            ("1-2", Some(1.0)),
            (".5", Some(0.5)),
            ("x", None),
            ("", None),
            ("-", None),
            ("ü", None),
        ] {
            assert_eq!(leading_number(text), value, "{text}");
        }
    }
}
