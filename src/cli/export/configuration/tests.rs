use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::model::MonitorKey;
use crate::settings::definition::Definition;
use crate::settings::diagnostic::SourceText;
use crate::settings::model;

/// With other digits at the beginning for each.
const fn uid(n: u128) -> Uuid {
    Uuid::from_u128((n << 120) + n)
}

fn row(n: u128, url: &str, spec: Value) -> MonitorRow {
    MonitorRow {
        id: MonitorId(uid(n)),
        user_id: SYSTEM_USER,
        name: format!("Monitor {n}"),
        url: url.to_owned(),
        interval_seconds: 60,
        timeout_seconds: 5,
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

fn exported(rows: Vec<MonitorRow>, emails: &HashMap<UserId, String>) -> Exported {
    Exported::of(All { rows, maintenances: Vec::new(), slos: &[] }, emails, &Defaults::default())
}

/// Reads what was exported as `check-config` does, with the variables set that it asks for.
fn read_back(exported: &Exported) -> Vec<Arc<Definition>> {
    let text = exported.toml();
    let secrets: Vec<&Replaced> = exported.monitors.iter().flat_map(|one| &one.secrets).collect();
    for secret in &secrets {
        // Short ones may stand there by chance.
        assert!(secret.value.len() < 6 || !text.contains(&secret.value), "{}\n{text}", secret.value);
    }
    let variable = |name: &str| secrets.iter().find(|one| one.variable == name).map(|one| one.value.clone());
    let environment = model::Environment { variable: &variable, credentials: None };
    let sources = [SourceText::new("exported.toml", text.clone())];
    let settings = model::read(&sources, Path::new("/"), environment, &[]);
    let settings = settings.unwrap_or_else(|refusal| panic!("{refusal}\n{text}"));
    settings.monitors.into_iter().map(|located| located.definition).collect()
}

/// References in a text or JSON as what they stand for.
fn resolved(text: &str, secrets: &[Replaced]) -> String {
    secrets.iter().fold(text.to_owned(), |text, one| text.replace(&format!("${{{}}}", one.variable), &one.value))
}

fn resolved_json(value: &Value, secrets: &[Replaced]) -> Value {
    match value {
        Value::String(text) => resolved(text, secrets).into(),
        Value::Array(items) => items.iter().map(|item| resolved_json(item, secrets)).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, value)| (key.clone(), resolved_json(value, secrets))).collect()
        }
        other => other.clone(),
    }
}

fn assert_same(row: &MonitorRow, file: &Definition, one: &One) {
    let before = monitor::read_row(row, &Defaults::default()).unwrap();
    assert_eq!((&before.name, before.kind), (&file.name, file.kind));
    assert_eq!(
        (before.timeout, before.confirmations, before.recoveries),
        (file.timeout, file.confirmations, file.recoveries)
    );
    if before.kind != "heartbeat" {
        assert_eq!((&before.cadence, before.retry_interval), (&file.cadence, file.retry_interval));
    }
    assert_eq!((before.active, &before.tags), (file.active, &file.tags));
    assert_eq!(format!("{:?}", before.flap), format!("{:?}", file.flap));
    assert_eq!(*before.url, *resolved(&file.url, &one.secrets));
    let spec = resolved_json(&Value::Object(file.spec()), &one.secrets);
    assert_eq!(Value::Object(before.spec()), spec);
}

fn specs() -> impl Strategy<Value = (&'static str, Value)> {
    let text = "[ -~é\u{7f}]{1,12}";
    let http = (text, text, 1..5_i64, any::<bool>()).prop_map(|(body, password, number, flag)| {
        let password = password.replace("${", "x");
        let mut spec = json!({
            "method": "POST", "body": body.replace("${", "x"), "confirmations": number, "follow_redirects": flag,
            "expect": { "status": ["2xx", 404], "latency_below": "800ms", "body_contains": "ok" },
            "flap": { "changes": 3, "within": "5m" },
        });
        if flag {
            spec["auth"] = json!({ "basic": { "username": "u", "password": password } });
        } else {
            spec["headers"] = json!({ "Accept": "text/html", "X-Api-Key": "a secret key" });
        }
        ("https://shop.example/health?token=abcdefgh&x=1", spec)
    });
    prop_oneof![
        http,
        Just(("postgres://watch:p%40ss-word@db.example/shop", json!({ "retry_interval": "7s" }))),
        Just(("tcp://mail.example:25", json!({ "exchange": [{ "expect": "^220" }, { "send": "QUIT\r\n" }] }))),
        Just(("heartbeat:", json!({ "period": "1h", "grace": "5m", "token": "a-token-of-some-length" }))),
        Just(("dns:example.org", json!({ "record": "MX" }))),
        Just(("icmp:router.example", json!({ "schedule": "*/5 * * * *", "timezone": "Europe/Berlin" }))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_exported_watches_the_same(
        all in prop::collection::vec((specs(), "[ -~é]{1,20}", any::<bool>(), 1..5_i32), 1..8),
    ) {
        let rows: Vec<MonitorRow> = all
            .into_iter()
            .zip(1_u128..)
            .map(|(((url, spec), name, active, n), id)| MonitorRow {
                name: if name.trim().is_empty() { "x".to_owned() } else { name.replace("${", "x") },
                is_active: active,
                interval_seconds: 30 * n,
                timeout_seconds: n,
                tags: vec![format!("t{n}")],
                ..row(id, url, spec)
            })
            .filter(|row| monitor::read_row(row, &Defaults::default()).is_ok())
            .collect();
        let exported = exported(rows.clone(), &HashMap::new());
        prop_assert_eq!(exported.monitors.len(), rows.len());
        let back = read_back(&exported);
        for (definition, one) in back.iter().zip(&exported.monitors) {
            let row = rows.iter().find(|row| row.id == one.row).unwrap();
            assert_same(row, definition, one);
        }
    }
}

#[test]
fn ids_are_unique_and_names_of_others_follow_them() {
    let keyed = |row: MonitorRow, key: &str| MonitorRow { key: Some(key.to_owned()), ..row };
    let rows = vec![
        MonitorRow { source: Source::File, ..keyed(row(1, "tcp://a:1", json!({})), "gateway") },
        keyed(row(2, "tcp://b:1", json!({ "depends_on": ["gateway", "nobody"] })), "gateway"),
        MonitorRow { name: "Gateway".to_owned(), ..row(3, "tcp://c:1", json!({})) },
        MonitorRow { name: "Größe & Co".to_owned(), ..row(4, "tcp://d:1", json!({})) },
        row(5, "group:", json!({ "members": ["gateway", uid(4).to_string()] })),
        row(6, "gopher://x", json!({})),
    ];
    let exported = exported(rows, &HashMap::new());
    assert_eq!(exported.left_out.len(), 1, "{:?}", exported.left_out);
    let back = read_back(&exported);
    let by = |n: u128| exported.monitors.iter().position(|one| one.row.0 == uid(n)).unwrap();
    let id = |n: u128| back[by(n)].key.as_ref().unwrap().as_str().to_owned();
    assert_eq!(id(1), "gateway");
    assert!(id(2).starts_with("gateway-") && id(3).starts_with("gateway-") && id(2) != id(3));
    assert_eq!(id(4), "gr-e-co");
    assert_eq!(back[by(2)].depends_on.iter().map(MonitorKey::as_str).collect::<Vec<_>>(), ["gateway"]);
    assert!(exported.monitors[by(2)].notes[0].contains("nobody"));
    assert_eq!(exported.monitors[by(5)].keys["members"], json!(["gateway", "gr-e-co"]));
}

#[test]
fn a_row_of_the_file_keeps_its_references() {
    let spec = json!({ "auth": { "basic": { "username": "u", "password": { "file": "p" } } }, "body": "${BODY}" });
    let rows =
        vec![MonitorRow { source: Source::File, key: Some("shop".to_owned()), ..row(1, "https://${HOST}/", spec) }];
    let owner = HashMap::from([(SYSTEM_USER, "a@example.com".to_owned())]);
    let text = exported(rows, &owner).toml();
    assert!(text.contains("password = { file = \"p\" }") && text.contains("body = \"${BODY}\""), "{text}");
    assert!(text.contains("owner = \"a@example.com\"") && text.contains("url = \"https://${HOST}/\""), "{text}");
    assert!(!text.contains("set it to"), "{text}");
}
