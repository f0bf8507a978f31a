//! Rows of the database, which are read by the same rules and trusted less.

use proptest::prelude::*;

use super::read;
use crate::catalog::MonitorRow;
use crate::model::{Cadence, MonitorId, SYSTEM_USER, Source};
use crate::settings::defaults::Defaults;
use crate::settings::definition::Definition;
use crate::settings::monitor::read_row_of;
use crate::settings::testing::{KINDS, LATER};

fn row(url: &str, spec: serde_json::Value) -> MonitorRow {
    MonitorRow {
        id: MonitorId(uuid::Uuid::from_u128(7)),
        user_id: SYSTEM_USER,
        name: "Row".to_owned(),
        url: url.to_owned(),
        interval_seconds: 300,
        timeout_seconds: 10,
        is_active: true,
        kind: None,
        spec,
        tags: Vec::new(),
        source: Source::Database,
        key: None,
        revision: 1,
        invalid_reason: None,
        state: None,
        last_checked: None,
        created_at: None,
    }
}

fn read_row(row: &MonitorRow, defaults: &Defaults) -> Result<Definition, String> {
    read_row_of(row, defaults, KINDS, LATER)
}

#[test]
fn a_row_is_read_by_the_same_rules() {
    let none = Defaults::default();
    let found =
        read_row(&row("https://h.example/", serde_json::json!({"method": "HEAD", "confirmations": 3})), &none).unwrap();
    assert_eq!((found.confirmations, found.key), (3, None));
    assert!(read_row(&row("tcp://h:1", serde_json::Value::Null), &none).is_ok());
    use serde_json::json;
    for (url, spec, reason) in [
        ("nothing", json!({}), "url: has no scheme, must begin with one of http://, https://, tcp://"),
        (
            "https://${HOST}/",
            json!({}),
            "url: a reference to the environment is not allowed in the database, write the value itself, or define the monitor in the configuration file",
        ),
        ("https://h/", json!([]), "spec: is not an object, a JSON object of monitor keys"),
        (
            "https://h/",
            json!({"interval": "5s"}),
            "spec.interval: repeats a column, remove it from the spec; the column counts",
        ),
        (
            "https://h/",
            json!({"auth": {"bearer": {"file": "/etc/shadow"}}}),
            "spec.auth.bearer: a reference to a file or credential is not allowed in the database, define the monitor in the configuration file",
        ),
        (
            "https://h/",
            json!({"tls": {"client_key": "/etc/shadow"}}),
            "spec.tls.client_key: a path is not allowed in the database, define the monitor in the configuration file",
        ),
        ("https://h/", json!({"body": "x".repeat(70_000)}), "spec: is too large, at most 65536 bytes"),
        (
            "exec:/bin/sh",
            json!({}),
            "url: scheme \"exec\" is not built yet in this version, must begin with one of http://, https://, tcp://",
        ),
    ] {
        assert_eq!(read_row(&row(url, spec), &none).unwrap_err(), reason, "{url}");
    }
    let mut bad = row("https://h/", json!({"a": 1}));
    (bad.interval_seconds, bad.timeout_seconds, bad.name) = (0, -1, String::new());
    bad.kind = Some("gopher".to_owned());
    let reason = read_row(&bad, &none).unwrap_err();
    assert!(reason.contains("timeout_seconds: -1 is out of range, must be 1 to 3600; name: is not a name"), "{reason}");
    assert!(reason.contains("kind: unknown kind \"gopher\", must be one of http, tcp"), "{reason}");
    let keys: serde_json::Map<_, _> = (0..900).map(|n| (format!("key{n}"), json!(1))).collect();
    assert!(read_row(&row("https://h/", keys.into()), &none).unwrap_err().chars().count() <= 500);
}

#[test]
fn a_row_gets_no_secret_of_the_defaults() {
    let text = "[defaults]\nconfirmations = 7\ninterval = \"1s\"\nauth = { bearer = \"canary\" }\nheaders = { A = \"${TOKEN}\", B = \"b\" }\n";
    let settings = read(text).unwrap();
    let found = read_row(&row("https://h/", serde_json::json!({})), &settings.defaults).unwrap();
    assert_eq!((found.confirmations, found.cadence), (7, Cadence::Every(std::time::Duration::from_secs(300))));
    assert!(found.secrets.is_empty());
}

proptest! {
    #[test]
    fn no_row_panics(url in ".{0,30}", key in "[a-z_]{0,12}", text in ".{0,10}", number in any::<i32>()) {
        let mut row = row(&url, serde_json::json!({ key: { "file": text }, "expect": number }));
        (row.interval_seconds, row.timeout_seconds, row.kind) = (number, number, Some(text));
        if let Err(reason) = read_row(&row, &Defaults::default()) {
            prop_assert!(!reason.is_empty());
        }
    }
}
