use std::cell::RefCell;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::*;
use crate::settings::diagnostic::Findings;
use crate::settings::reader::Origin;
use crate::settings::tree::Table;

const ALL: Accepts =
    Accepts { status: true, body: true, headers: true, json: true, certificate: true, dns: false, domain: false };

fn table(value: &Json) -> Table {
    Table::from_json(value.as_object().unwrap())
}

/// Reads `expect` of a monitor behind defaults; returns what was read, and each complaint.
fn read_with(monitor: &Json, defaults: &Json, accepts: Accepts) -> (Expectations, Vec<String>) {
    let (own, defaults) = (table(monitor), table(defaults));
    let findings = Findings::default();
    let secrets = RefCell::new(Vec::new());
    let origin = Origin { trusted: true, env: &|_| None, base: Path::new("/"), credentials: None };
    let mut reader =
        TableReader::new(&own, None, "monitor", &origin, &findings, &secrets).with_defaults(Some(&defaults));
    let expect = Expectations::read(&mut reader, accepts);
    let (list, _) = findings.into_sorted();
    let lines = list.iter().map(|d| format!("{}: {}, {}", d.key, d.what, d.allowed.as_deref().unwrap_or("")));
    (expect, lines.collect())
}

fn read(expect: Json) -> (Expectations, Vec<String>) {
    read_with(&json!({ "expect": expect }), &json!({}), ALL)
}

#[test]
fn everything_of_the_contract_is_read() {
    let (expect, errors) = read(json!({
        "status": ["2xx", "3xx", 404, "500-503"],
        "latency_below": "800ms", "latency_down_above": "5s",
        "body_contains": "ok", "body_not_contains": "fail", "body_matches": "o+k", "body_not_matches": "^x",
        "headers": [{ "name": "Content-Type", "contains": "json" }, { "name": "x", "equals": "" }, { "name": "y", "matches": "a|b" }],
        "json": [{ "path": "$.status", "equals": "UP" }, { "path": "$..items[?@.ok == true].n", "above": 1.5 },
                 { "path": "$.a['b','c']", "not_equals": 3 }, { "path": "$.a[*]", "below": 2 },
                 { "path": "$.v", "matches": "^1" }, { "path": "$.gone", "exists": false }],
        "certificate_days_left": 14,
    }));
    assert_eq!(errors, Vec::<String>::new());
    let rules = expect.rules();
    for (code, expected) in
        [(200, true), (299, true), (308, true), (404, true), (403, false), (502, true), (504, false)]
    {
        assert_eq!(rules.status.contains(code), expected, "{code}");
    }
    assert_eq!(rules.status.to_string(), "2xx, 3xx, 404, 500-503");
    assert_eq!((rules.headers.len(), rules.body.len(), rules.json.len()), (3, 4, 6));
    assert_eq!(&*rules.headers[0].name, "content-type");
    assert_eq!(rules.certificate_days_left, Some(14));
    assert!(expect.reads_body());
}

#[test]
fn unwritten_expectations_are_one_shared_value() {
    let (expect, errors) = read_with(&json!({}), &json!({}), ALL);
    assert!(errors.is_empty());
    assert!(expect.rules().status.contains(204) && !expect.rules().status.contains(301));
    assert!(!expect.reads_body());
    assert!(Arc::ptr_eq(&expect.shared(), &Expectations::default().shared()));
    assert_eq!(size_of::<Expectations>(), size_of::<usize>());
    let (written, _) = read(json!({ "latency_below": "1s" }));
    assert!(!Arc::ptr_eq(&written.shared(), &Expectations::default().shared()));
}

#[test]
fn each_mistake_is_named() {
    let table: &[(Json, &str)] = &[
        (json!({ "status": [] }), "monitor.expect.status: 0 elements"),
        (json!({ "status": [99] }), "monitor.expect.status: 99 is not a status code"),
        (json!({ "status": ["6xx"] }), "monitor.expect.status: \"6xx\" is not"),
        (json!({ "status": ["299-200"] }), "is not a status code"),
        (json!({ "status": [true] }), "found true or false"),
        (json!({ "status": "2xx" }), "must be a list"),
        (json!({ "latency_below": "5s", "latency_down_above": "5s" }), "latency_down_above: is not larger"),
        (json!({ "latency_below": 5 }), "latency_below: found an integer"),
        (json!({ "body_contains": "" }), "body_contains: the text is empty"),
        (json!({ "body_matches": "(a{1000}){1000}" }), "body_matches: the regular expression is too big"),
        (json!({ "body_matches": "(" }), "body_matches: not a regular expression: unclosed group"),
        (json!({ "body_matches": "x".repeat(5000) }), "too long"),
        (json!({ "headers": [{ "name": "a" }] }), "monitor.expect.headers[0]: says nothing to compare with"),
        (json!({ "headers": [{ "name": "a", "equals": "x", "contains": "y" }] }), "has equals and contains at once"),
        (json!({ "headers": [{ "equals": "x" }] }), "headers[0].name: is missing"),
        (json!({ "headers": [{ "name": "a b", "equals": "x" }] }), "headers[0].name: not the name of a header"),
        (json!({ "headers": [{ "name": "a", "equals": "x", "contians": "y" }] }), "did you mean \"contains\""),
        (json!({ "json": [{ "path": "status", "equals": 1 }] }), "json[0].path: not a JSONPath"),
        (json!({ "json": [{ "equals": 1 }] }), "json[0].path: is missing"),
        (json!({ "json": [{ "path": "$", "equals": [] }] }), "must be a string, a number, true or false"),
        (json!({ "json": [{ "path": "$", "above": "1" }] }), "json[0].above: found a string"),
        (json!({ "json": [{ "path": "$..*..*", "exists": true }] }), "more than one \"..\""),
        (
            json!({ "json": [{ "path": "$['a','a']['a','a']['a','a']['a','a']['a','a']['a','a']['a','a']", "exists": true }] }),
            "unions that multiply",
        ),
        (json!({ "json": [{ "path": "$[?@.a == $.b]", "exists": true }] }), "query from the root"),
        (json!({ "json": [{ "path": "$[?search(@.a, 'x')]", "exists": true }] }), "match() or search()"),
        (
            json!({ "json": [{ "path": format!("$[?{}@.a{}]", "(".repeat(99), ")".repeat(99)), "exists": true }] }),
            "nested more than 8",
        ),
        (json!({ "certificate_days_left": -1 }), "certificate_days_left: -1 is out of range"),
        (json!({ "rcode": "NOERROR" }), "only dns probes"),
        (json!({ "stauts": ["2xx"] }), "did you mean \"status\""),
        (json!("up"), "monitor.expect: found a string"),
    ];
    for (expect, wanted) in table {
        let (_, errors) = read(expect.clone());
        assert!(errors.len() == 1 && errors[0].contains(wanted), "{expect}: {errors:?}");
    }
}

#[test]
fn quoted_names_may_hold_anything() {
    let (_, errors) = read(json!({ "json": [{ "path": "$['a..b..c$'][\"x,y\\\"$\"]", "exists": true }] }));
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn what_a_kind_cannot_meet_is_an_error_only_where_the_monitor_asks() {
    let defaults = json!({ "expect": { "status": [200], "certificate_days_left": 7, "body_contains": "x", "latency_below": "1s" } });
    let (expect, errors) = read_with(&json!({}), &defaults, Accepts::default());
    assert_eq!(errors, Vec::<String>::new());
    assert!(!expect.reads_body());
    assert_eq!(expect.rules().certificate_days_left, None);
    assert_eq!(expect.rules().latency_below, Some(Duration::from_secs(1)));
    // With a table of its own, the keys of that table count, those behind it still do not.
    let (_, errors) = read_with(&json!({ "expect": { "latency_below": "2s" } }), &defaults, Accepts::default());
    assert_eq!(errors, Vec::<String>::new());
    let (_, errors) = read_with(&json!({ "expect": { "status": [200] } }), &defaults, Accepts::default());
    assert!(errors.len() == 1 && errors[0].contains("only http and https probes see a response head"), "{errors:?}");
    for (key, value) in [("json", json!([])), ("headers", json!([])), ("body_not_matches", json!("x"))] {
        let (_, errors) = read_with(&json!({ "expect": { key: value } }), &json!({}), Accepts::default());
        assert_eq!(errors.len(), 1, "{key}: {errors:?}");
    }
    let (expect, errors) = read_with(&json!({}), &defaults, ALL);
    assert!(errors.is_empty() && expect.reads_body() && !expect.rules().status.contains(204));
}

#[test]
fn numbers_are_compared_by_value() {
    let big = 9_007_199_254_740_993_i64;
    assert!(json::Scalar::Integer(1).equals(&json!(1.0)));
    assert!(json::Scalar::Float(1.0).equals(&json!(1)));
    assert!(json::Scalar::Integer(big).equals(&json!(big)));
    assert!(!json::Scalar::Integer(big).equals(&json!(big - 1)));
    assert!(!json::Scalar::Integer(1).equals(&json!("1")));
    assert!(!json::Scalar::Integer(1).equals(&json!(true)));
}
