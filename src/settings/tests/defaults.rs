//! What counts for a monitor that does not say.

use super::{heads, monitor, one, read};
use crate::model::Cadence;

#[test]
fn a_monitor_has_the_contracts_defaults() {
    let found = one(&monitor(""));
    assert_eq!((&*found.name, &*found.url, found.kind), ("a", "https://a.example/", "http"));
    assert_eq!(found.cadence, Cadence::Every(std::time::Duration::from_secs(300)));
    assert_eq!((found.timeout.as_secs(), found.confirmations, found.recoveries), (10, 2, 1));
    assert_eq!((found.retry_interval.as_secs(), found.active), (10, true));
    assert_eq!(found.place.as_ref().unwrap().to_string(), "c.toml:1");
    assert!(found.spec().is_empty() && found.secrets.is_empty());
    assert_eq!(one(&monitor("interval = \"3s\"")).retry_interval.as_secs(), 3);
}

#[test]
fn defaults_reach_those_who_can_use_them() {
    let defaults = "[defaults]\ntimeout = \"3s\"\nschedule = \"* * * * *\"\nmethod = \"HEAD\"\ndepends_on = [\"gw\"]\n\
                    expect = { status = [200], latency_below = \"1s\" }\nflap = { changes = 9, hold = \"1m\" }\n";
    let text = format!(
        "{defaults}[[monitor]]\nid = \"gw\"\nurl = \"tcp://g.example:1\"\n{}",
        monitor("interval = \"9s\"\nflap = { changes = 5 }\nexpect = { body_contains = \"x\" }")
    );
    let settings = read(&text).unwrap();
    let [gateway, shop] = settings.monitors.as_slice() else { panic!("{settings:?}") };
    assert_eq!(gateway.timeout.as_secs(), 3);
    assert!(matches!(gateway.cadence, Cadence::Cron { .. }));
    assert!(gateway.depends_on.is_empty());
    assert_eq!(gateway.spec()["expect"], serde_json::json!({"latency_below": "1s"}));
    assert!(!gateway.spec().contains_key("method"));
    assert!(matches!(shop.cadence, Cadence::Every(_)));
    assert_eq!((shop.flap.changes, shop.flap.hold.as_secs()), (5, 60));
    assert_eq!(shop.depends_on[0].as_str(), "gw");
    assert_eq!(shop.spec()["method"], "HEAD");
    assert_eq!(
        shop.spec()["expect"],
        serde_json::json!({"body_contains": "x", "status": [200], "latency_below": "1s"})
    );
    assert!(!shop.spec().contains_key("schedule") && !shop.spec().contains_key("timeout"));
}

#[test]
fn a_bad_default_is_reported_once() {
    let text = format!(
        "[defaults]\ntimeot = \"1s\"\nexpect = {{ stats = 1, latency_below = 7 }}\nid = \"x\"\n{}",
        monitor("expect = {}")
    );
    assert_eq!(
        heads(&text),
        [
            "c.toml:2:1: defaults.timeot: unknown key, did you mean \"timeout\"?",
            "c.toml:3:12: defaults.expect.stats: unknown key, did you mean \"status\"?",
            "c.toml:3:39: defaults.expect.latency_below: found an integer (7), must be a number with a unit: ms, s, m, h, d, w or y, such as \"30s\" or \"1h30m\"",
            "c.toml:4:6: defaults.id: cannot have a default, every monitor has its own",
        ]
    );
}
