use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use chrono::DateTime;
use serde_json::{Value as Json, json};

use super::*;
use crate::model::{CertificateFacts, Fault, Secret};
use crate::settings::diagnostic::Findings;
use crate::settings::reader::{Origin, TableReader};
use crate::settings::tree::Table;
use crate::verdict::expectation::Accepts;

fn expect(expect: Json) -> Expectations {
    let own = Table::from_json(json!({ "expect": expect }).as_object().unwrap());
    let (findings, secrets) = (Findings::default(), RefCell::new(Vec::new()));
    let origin = Origin { trusted: true, env: &|_| None, base: Path::new("/"), credentials: None };
    let mut reader = TableReader::new(&own, None, "monitor", &origin, &findings, &secrets);
    let accepts = Accepts {
        status: true,
        body: true,
        headers: true,
        json: true,
        certificate: true,
        dns: false,
        value: true,
        domain: false,
    };
    let expect = Expectations::read(&mut reader, accepts);
    assert_eq!(findings.into_sorted().0, []);
    expect
}

/// A response that took 100 ms, with a certificate of ten days.
fn answered(status: u16, headers: &[(&str, &str)], body: &str) -> Observation {
    let mut observation = Observation::new(DateTime::UNIX_EPOCH);
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let body = body.as_bytes().to_vec().into();
    observation.http = Some(HttpFacts { status, version: "HTTP/1.1", headers, body, ..HttpFacts::default() });
    observation.timings.total = Duration::from_millis(100);
    observation.certificate = Some(Arc::new(CertificateFacts {
        subject: "CN=a".into(),
        issuer: "CN=b".into(),
        not_before: DateTime::UNIX_EPOCH,
        not_after: DateTime::UNIX_EPOCH,
        days_left: 10,
        fingerprint_sha256: String::new(),
        chain_length: 1,
        more: None,
    }));
    observation
}

fn judged(observation: &Observation, rules: Json) -> (Verdict, &'static str, String) {
    let judgement = judge(observation, &expect(rules), &Redactor::default());
    (
        judgement.verdict,
        judgement.failure.map_or("", Failure::name),
        judgement.message.map(String::from).unwrap_or_default(),
    )
}

#[test]
fn what_cannot_be_read_meets_no_expectation() {
    let coded = |encoding: &str, body: &'static [u8]| {
        let mut seen = answered(200, &[("content-encoding", encoding)], "");
        seen.http.as_mut().unwrap().body = body.into();
        seen
    };
    let binary = b"\x8b\x02\x80error\x03";
    let why = "it is encoded as \"br\", which nobody asked for and is not decoded here";
    for (rules, failure, message) in [
        (json!({}), "", String::new()),
        (json!({ "body_not_contains": "fatal" }), "body_mismatch", format!("the body cannot be read: {why}")),
        (json!({ "body_not_matches": "fatal" }), "body_mismatch", format!("the body cannot be read: {why}")),
        (json!({ "body_contains": "ok" }), "body_mismatch", format!("the body does not contain \"ok\": {why}")),
        (json!({ "body_not_contains": "error" }), "body_forbidden", "the body contains \"error\"".to_owned()),
        (
            json!({ "json": [{ "path": "$.a", "exists": false }] }),
            "json_mismatch",
            format!("the body is not JSON: {why}"),
        ),
    ] {
        let (_, found, said) = judged(&coded("br", binary), rules.clone());
        assert_eq!((found, said), (failure, message), "{rules}");
    }
    // A wrong label on what is text, and what was decoded.
    for (encoding, body) in [("utf-8", &b"fine"[..]), ("br", b"fine"), ("GZIP ", binary), ("identity", binary)] {
        let (verdict, ..) = judged(&coded(encoding, body), json!({ "body_not_contains": "fatal" }));
        assert_eq!(verdict, Verdict::Up, "{encoding}");
    }
}

#[test]
fn each_expectation_holds_or_says_why_not() {
    use Verdict::{Degraded, Down, Up};
    let body = r#"{"status":"UP","load":0.5,"n":9007199254740993,"items":[{"ok":true},{"ok":false}],"v":"1.2"}"#;
    let seen = answered(200, &[("content-type", "text/html"), ("via", "a"), ("via", "b")], body);
    let json_rule = |rule: Json| json!({ "json": [rule] });
    let table: &[(Json, Verdict, &str, &str)] = &[
        (json!({}), Up, "", ""),
        (json!({ "status": [301, "4xx"] }), Down, "status_unexpected", "answered 200, expected 301, 4xx"),
        (json!({ "headers": [{ "name": "Via", "equals": "b" }] }), Up, "", ""),
        (
            json!({ "headers": [{ "name": "via", "contains": "c" }] }),
            Down,
            "header_mismatch",
            "header via is \"a\", expected one that contains \"c\"",
        ),
        (
            json!({ "headers": [{ "name": "x", "matches": "^y" }] }),
            Down,
            "header_mismatch",
            "header x is missing, expected one that matches \"^y\"",
        ),
        (json!({ "body_contains": "UP", "body_matches": "\"v\":\"\\d" }), Up, "", ""),
        (json!({ "body_contains": "up" }), Down, "body_mismatch", "the body does not contain \"up\""),
        (json!({ "body_matches": "^U" }), Down, "body_mismatch", "the body does not match \"^U\""),
        (json!({ "body_not_contains": "UP" }), Down, "body_forbidden", "the body contains \"UP\""),
        (
            json!({ "body_not_matches": "l[a-z]+d" }),
            Down,
            "body_forbidden",
            "the body contains \"load\", which matches \"l[a-z]+d\"",
        ),
        (json_rule(json!({ "path": "$.status", "equals": "UP" })), Up, "", ""),
        (
            json_rule(json!({ "path": "$.status", "equals": "DOWN" })),
            Down,
            "json_mismatch",
            "JSON at \"$.status\" is \"UP\", expected \"DOWN\"",
        ),
        (json_rule(json!({ "path": "$.n", "equals": 9_007_199_254_740_993_i64 })), Up, "", ""),
        (json_rule(json!({ "path": "$.load", "below": 1 })), Up, "", ""),
        (
            json_rule(json!({ "path": "$.load", "above": 0.5 })),
            Down,
            "json_mismatch",
            "JSON at \"$.load\" is 0.5, expected a number above 0.5",
        ),
        (
            json_rule(json!({ "path": "$.status", "above": 0 })),
            Down,
            "json_mismatch",
            "JSON at \"$.status\" is \"UP\", expected a number above 0",
        ),
        (
            json_rule(json!({ "path": "$.items[*].ok", "equals": true })),
            Down,
            "json_mismatch",
            "JSON at \"$.items[*].ok\" is false, expected true",
        ),
        (
            json_rule(json!({ "path": "$.gone", "not_equals": 1 })),
            Down,
            "json_mismatch",
            "JSON has nothing at \"$.gone\"",
        ),
        (json_rule(json!({ "path": "$.gone", "exists": false })), Up, "", ""),
        (
            json_rule(json!({ "path": "$.gone", "exists": true })),
            Down,
            "json_mismatch",
            "JSON has nothing at \"$.gone\"",
        ),
        (
            json_rule(json!({ "path": "$.items", "exists": false })),
            Down,
            "json_mismatch",
            "JSON at \"$.items\" is an array of 2, expected nothing there",
        ),
        (json_rule(json!({ "path": "$.v", "matches": "^1\\.\\d$" })), Up, "", ""),
        (json_rule(json!({ "path": "$.load", "matches": "^0" })), Up, "", ""),
        (
            json_rule(json!({ "path": "$.items", "matches": "." })),
            Down,
            "json_mismatch",
            "JSON at \"$.items\" is an array of 2, expected a match of \".\"",
        ),
        (json!({ "latency_below": "100ms" }), Up, "", ""),
        (
            json!({ "latency_below": "99ms" }),
            Degraded,
            "latency_exceeded",
            "answered in 100 ms, above 99ms (latency_below)",
        ),
        (
            json!({ "latency_below": "50ms", "latency_down_above": "99ms" }),
            Down,
            "latency_exceeded",
            "answered in 100 ms, above 99ms (latency_down_above)",
        ),
        (json!({ "certificate_days_left": 10 }), Up, "", ""),
        (
            json!({ "certificate_days_left": 11 }),
            Degraded,
            "cert_expiring",
            "a certificate of the chain expires in 10 days, expected at least 11 days (certificate_days_left)",
        ),
        // The most severe wins, then the order of the page.
        (
            json!({ "certificate_days_left": 11, "latency_below": "1ms", "body_contains": "zz" }),
            Down,
            "body_mismatch",
            "",
        ),
        (
            json!({ "status": [500], "headers": [{ "name": "x", "equals": "" }], "body_contains": "zz" }),
            Down,
            "status_unexpected",
            "",
        ),
        (json!({ "certificate_days_left": 11, "latency_below": "1ms" }), Degraded, "latency_exceeded", ""),
    ];
    for (rules, verdict, failure, message) in table {
        let found = judged(&seen, rules.clone());
        assert_eq!((found.0, found.1), (*verdict, *failure), "{rules}");
        assert!(message.is_empty() || found.2 == *message, "{rules}: {}", found.2);
    }
}

#[test]
fn a_fault_comes_first() {
    let mut seen = answered(500, &[], "");
    seen.fault = Some(Fault::new(Failure::BodyTimeout, "the body stopped after 3 bytes"));
    assert_eq!(judged(&seen, json!({})).1, "body_timeout");
    seen.fault = Some(Fault::new(Failure::ObserverOffline, "no route"));
    assert_eq!(judged(&seen, json!({})).0, Verdict::Unknown);
    // One that only degrades does not hide that the target is down.
    seen.fault = Some(Fault::new(Failure::CertExpiring, "soon"));
    assert_eq!(judged(&seen, json!({})).1, "status_unexpected");
    assert_eq!(judged(&seen, json!({ "status": [500], "latency_below": "1ms" })).1, "cert_expiring");
}

#[test]
fn a_body_that_is_not_json() {
    let rules = || json!({ "json": [{ "path": "$", "exists": true }] });
    assert_eq!(judged(&answered(200, &[], "<html>"), rules()).2, "the body is not JSON (line 1, column 1)");
    assert_eq!(judged(&answered(200, &[], ""), rules()).2, "the body is empty, expected JSON");
    assert_eq!(judged(&answered(200, &[], &"[".repeat(100_000)), rules()).1, "json_mismatch");
    assert_eq!(judged(&answered(200, &[], "\u{feff}{}"), rules()).0, Verdict::Up);
}

#[test]
fn a_connection_without_a_response_meets_what_concerns_it() {
    let mut seen = Observation::new(DateTime::UNIX_EPOCH);
    seen.timings.total = Duration::from_millis(5);
    assert_eq!(judged(&seen, json!({ "status": [200] })).0, Verdict::Up);
    assert_eq!(judged(&seen, json!({ "latency_below": "1ms" })).1, "latency_exceeded");
}

#[test]
fn messages_are_bounded_safe_and_without_secrets() {
    let redactor = Redactor::new(&[Secret::new("hunter2-hunter2")]);
    let hostile = format!("\u{1b}[31m\u{202e}{}hunter2-hunter2{}", "x".repeat(60), "y".repeat(9000));
    let rules = expect(json!({ "headers": [{ "name": "x", "equals": "hunter2-hunter2" }] }));
    let message = judge(&answered(200, &[("x", &hostile)], ""), &rules, &redactor).message.unwrap();
    assert!(message.chars().count() <= MESSAGE_MAX && !message.contains("hunter"), "{message}");
    assert!(message.starts_with("header x is \"\\u{1b}[31m\\u{202e}xx"), "{message}");
    let mut seen = answered(200, &[], "");
    seen.fault = Some(Fault::new(Failure::RedirectBlocked, format!("to {hostile}")));
    let message = judge(&seen, &rules, &redactor).message.unwrap();
    assert!(message.chars().count() <= MESSAGE_MAX && !message.contains("hunter"), "{message}");
    let cookie = expect(json!({ "headers": [{ "name": "set-cookie", "contains": "a=" }] }));
    let message = judge(&answered(200, &[("set-cookie", "sid=123")], ""), &cookie, &redactor).message.unwrap();
    assert!(!message.contains("123"), "{message}");
}
