//! What is said about configurations, word by word.

use std::path::Path;

use proptest::prelude::*;

use super::again::Former;
use super::defaults::Defaults;
use super::definition::{Definition, Located};
use super::diagnostic::{Findings, SourceText};
use super::model::{Environment, Kinds, Refusal, Settings, read_with};
use super::monitor::read_row_of;
use super::testing::{KINDS, LATER};
use crate::catalog::MonitorRow;
use crate::model::{Cadence, MonitorId, SYSTEM_USER, Source};
use crate::probe::Kind;

fn read_sources(sources: &[SourceText]) -> Result<Settings, Refusal> {
    read_by(KINDS, sources)
}

fn read_by(kinds: &'static [&'static Kind], sources: &[SourceText]) -> Result<Settings, Refusal> {
    let variable = |name: &str| match name {
        "HOST" => Some("canary-host.example".to_owned()),
        "TOKEN" => Some("canary-token".to_owned()),
        _ => None,
    };
    let environment = Environment { variable: &variable, credentials: None };
    let findings = Findings::default();
    let settings = read_with(kinds, LATER, sources, Path::new("/nowhere"), environment, &findings);
    let at_once = if findings.count() == 0 { Ok(settings) } else { Err(Refusal::of(findings, sources)) };
    // In pieces it is the same.
    let (kinds, mut former) = (Kinds { built: kinds, later: LATER }, Former::default());
    let in_pieces = super::model::read_by(kinds, sources, Path::new("/nowhere"), environment, &[], &mut former);
    assert_same(&at_once, &in_pieces);
    at_once
}

/// Two readings agree: in every definition with its place, in the parts of the configuration, in every word of a refusal.
pub(super) fn assert_same(a: &Result<Settings, Refusal>, b: &Result<Settings, Refusal>) {
    let (a, b) = match (a, b) {
        (Ok(a), Ok(b)) => (a, b),
        (a, b) => return assert_eq!(a.as_ref().err(), b.as_ref().err()),
    };
    let said = |located: &Located| {
        let Definition { key, renamed_from, name, url, owner, kind, cadence, timeout, .. } = &*located.definition;
        let first = format!("{key:?} {renamed_from:?} {name} {url} {owner:?} {kind} {cadence:?} {timeout:?}");
        let Definition { confirmations, recoveries, retry_interval, flap, active, tags, .. } = &*located.definition;
        let second = format!("{confirmations} {recoveries} {retry_interval:?} {flap:?} {active} {tags:?}");
        let Definition { depends_on, spec, secrets, fingerprint, reads_files, prepared: _, .. } = &*located.definition;
        let secrets: Vec<_> = secrets.iter().map(|secret| secret.expose()).collect();
        let third = format!("{depends_on:?} {spec} {secrets:?} {fingerprint} {reads_files} {:?}", located.place);
        [first, second, third]
    };
    assert_eq!(a.monitors.len(), b.monitors.len());
    for (a, b) in a.monitors.iter().zip(&b.monitors) {
        assert_eq!(said(a), said(b));
    }
    assert!(a.defaults.say_the_same(&b.defaults));
    let parts = |s: &Settings| {
        let Settings { daemon, server, database, probe, egress, maintenances, slos, .. } = s;
        format!("{daemon:?} {server:?} {database:?} {probe:?} {egress:?} {maintenances:?} {slos:?}")
    };
    assert_eq!(parts(a), parts(b));
}

pub(super) fn read(text: &str) -> Result<Settings, Refusal> {
    read_sources(&[SourceText::new("c.toml", text)])
}

fn errors(text: &str) -> Vec<String> {
    read(text).err().map(|refusal| refusal.messages).unwrap_or_default()
}

/// The first lines: without the quoted source.
pub(super) fn heads(text: &str) -> Vec<String> {
    errors(text).iter().map(|message| message.lines().next().unwrap().to_owned()).collect()
}

fn monitor(keys: &str) -> String {
    format!("[[monitor]]\nid = \"a\"\nurl = \"https://a.example/\"\n{keys}\n")
}

fn one(text: &str) -> Located {
    let mut monitors = read(text).unwrap().monitors;
    assert_eq!(monitors.len(), 1);
    monitors.remove(0)
}

#[test]
fn a_message_shows_the_place_and_the_way_out() {
    let text =
        "[server]\nlisten = \"localhost\"\n[[monitor]]\nid = \"a\"\nurl = \"htps://a.example/\"\nintervall = \"30s\"\n";
    assert_eq!(
        errors(text).join("\n"),
        r#"c.toml:2:10: server.listen: not an address to listen on, an address with a port, such as "127.0.0.1:8780" or "[::]:8780", or "unix:/absolute/path" of at most 107 bytes
  2 | listen = "localhost"
    |          ^^^^^^^^^^^
c.toml:5:7: monitor.url: unknown scheme "htps", did you mean "https"?
  5 | url = "htps://a.example/"
    |       ^^^^^^^^^^^^^^^^^^^
c.toml:6:1: monitor.intervall: unknown key, did you mean "interval"?
  6 | intervall = "…"
    | ^^^^^^^^^"#
    );
}

#[test]
fn many_monitors_read_by_several_threads_are_told_of_in_their_order() {
    const COUNT: usize = 10_001;
    let text = |bad: fn(usize) -> bool| -> String {
        let interval = |number| if bad(number) { "5x" } else { "5s" };
        let one = |number: usize| {
            format!("[[monitor]]\nid = \"m{number}\"\nurl = \"http://a/\"\ninterval = \"{}\"\n", interval(number))
        };
        (0..COUNT).map(one).collect()
    };
    let monitors = read(&text(|_| false)).unwrap().monitors;
    assert_eq!(monitors.len(), COUNT);
    for (number, monitor) in monitors.iter().enumerate() {
        assert_eq!(monitor.key.as_ref().unwrap().as_str(), format!("m{number}"));
        assert_eq!(monitor.place.as_ref().unwrap().line as usize, number * 4 + 1);
    }
    for bad in [(|number| number % 4_000 == 1) as fn(usize) -> bool, |number| number % 3 == 0] {
        let expected: Vec<usize> = (0..COUNT).filter(|number| bad(*number)).collect();
        let refusal = read(&text(bad)).unwrap_err();
        let shown = expected.len().min(1000);
        assert_eq!((refusal.messages.len(), refusal.more), (shown, expected.len() - shown));
        for (message, number) in refusal.messages.iter().zip(expected) {
            let head = format!("c.toml:{}:12: monitor.interval: \"5x\" is not a duration", number * 4 + 4);
            assert!(message.starts_with(&head), "{message}");
        }
    }
}

#[test]
fn sections_have_bounds() {
    for (text, head) in [
        (
            "[daemon]\nregion = \"a b\"",
            "c.toml:2:10: daemon.region: is not right, must be 1 to 63 of letters, digits, '.', '_' and '-'",
        ),
        (
            "[daemon]\nlog_level = \"inf\"",
            "c.toml:2:13: daemon.log_level: unknown value \"inf\", must be one of off, error, warn, info, debug, trace; did you mean \"info\"?",
        ),
        (
            "[server]\nport = 80",
            "c.toml:2:1: server.port: unknown key, allowed here: listen, metrics_monitors, metrics_public, public_url",
        ),
        (
            "[server]\npublic_url = \"https://h/path\"",
            "c.toml:2:14: server.public_url: not an address of a server, http:// or https:// and a host, such as \"https://status.example.com\"",
        ),
        (
            "[daemon]\nlog_level = \"info,web=loud\"",
            "c.toml:2:13: daemon.log_level: \"web=loud\" has no level of off, error, warn, info, debug, trace, such as \"info\" or \"info,probe=debug,sqlx=info\"",
        ),
        (
            "[server]\nmetrics_monitors = 250001",
            "c.toml:2:20: server.metrics_monitors: 250001 is out of range, must be 0 to 250000",
        ),
        ("[server]\ntls = {}", "c.toml:2:1: server.tls: not built yet in this version, remove it"),
        (
            "[database]\nurl = \"mysql://canary@h/d\"",
            "c.toml:2:7: database.url: not an address of a Postgres database, such as \"postgres://user:password@host:5432/database\"",
        ),
        (
            "[database]\nmax_connections = 1",
            "c.toml:2:19: database.max_connections: 1 is out of range, must be 2 to 100",
        ),
        (
            "[database]\nbacklog = \"64\"",
            "c.toml:2:11: database.backlog: \"64\" is not a size, must be a whole number with a unit: B, KiB, MiB, GiB, kB, MB or GB, such as \"64MiB\"",
        ),
        (
            "[database]\nschema = \"pg_x\"",
            "c.toml:2:10: database.schema: is not right, must be 1 to 63 of a-z, 0-9 and '_', no digit first, no \"pg_\" first",
        ),
        (
            "[probe]\nmax_body = \"1GiB\"",
            "c.toml:2:12: probe.max_body: \"1GiB\" is out of range, must be 1KiB to 64MiB",
        ),
        (
            "[probe]\nresolvers = [\"1.1.1.1\", \"one\"]",
            "c.toml:2:25: probe.resolvers: \"one\" is not right, must be an address with a port, such as \"127.0.0.1:53\"",
        ),
        (
            "[probe]\nproxy = \"hunter2\"",
            "c.toml:2:9: probe.proxy: not an address of a proxy, http://, socks5:// or socks5h://, then [user:password@]host:port",
        ),
        (
            "[probe]\nrdap_bootstrap = \"ftp://x/\"",
            "c.toml:2:18: probe.rdap_bootstrap: not a file, nor a URL, such as \"https://data.iana.org/rdap/dns.json\"",
        ),
        (
            "[probe]\nca_files = [\"none.pem\"]",
            "c.toml:2:12: probe.ca_files: /nowhere/none.pem: No such file or directory (os error 2), PEM files of certificates",
        ),
        (
            "[egress]\nallow = [\"10.1.2.3/8\"]",
            "c.toml:2:10: egress.allow: \"10.1.2.3/8\" is not right, did you mean \"10.0.0.0/8\"?",
        ),
        ("[[channel]]\nid = \"x\"", "c.toml:1:3: channel: not built yet in this version, remove it"),
        ("[plans.free]\nchannels = 1", "c.toml:2:1: plans.free.channels: not built yet in this version, remove it"),
        ("[plans]\nfree = 1", "c.toml:2:8: plans.free: found an integer (1), must be a table"),
        (
            "[plans.free]\nretension = \"7d\"",
            "c.toml:2:1: plans.free.retension: unknown key, did you mean \"retention\"?",
        ),
        (
            "[plans.free]\nretention = \"3y\"",
            "c.toml:2:13: plans.free.retention: is longer than there are roll-ups, at most retention.hourly, 730d",
        ),
        ("[retention]\nchecks = \"1h\"", "c.toml:2:10: retention.checks: \"1h\" is out of range, must be 1d to 1825d"),
        (
            "[retention]\nhourly = \"30d\"",
            "c.toml:2:10: retention.hourly: is shorter than the other allows, hourly must be at least checks, 90d",
        ),
        (
            "[retention]\nchecks = \"3y\"",
            "c.toml:2:10: retention.checks: is longer than the other allows, hourly must be at least checks, 1095d",
        ),
        (
            "[retention]\ndaily = \"1y\"",
            "c.toml:2:9: retention.daily: is shorter than the other allows, daily must be at least hourly, 730d",
        ),
        (
            "[retention]\ndisk_budget = \"1MiB\"",
            "c.toml:2:15: retention.disk_budget: \"1MiB\" is out of range, must be 64MiB to 1024TiB",
        ),
        ("[[server]]\nlisten = \"x\"", "c.toml:1:1: server: found a list, must be a table"),
        ("servr = 1", "c.toml:1:1: servr: unknown key, did you mean \"server\"?"),
        ("[monitor]\nid = \"a\"", "c.toml:1:1: monitor: is not a list of tables, write [[monitor]]"),
    ] {
        assert_eq!(heads(text), [head], "{text}");
    }
}

#[test]
fn monitors_have_bounds() {
    for (keys, head) in [
        (
            "interval = 30",
            "c.toml:4:12: monitor.interval: found an integer (30), must be a number with a unit: ms, s, m, h, d, w or y, such as \"30s\" or \"1h30m\"",
        ),
        ("interval = \"500ms\"", "c.toml:4:12: monitor.interval: \"500ms\" is out of range, must be 1s to 1d"),
        ("interval = \"1s500ms\"", "c.toml:4:12: monitor.interval: has a fraction of a second, must be whole seconds"),
        ("timeout = \"2h\"", "c.toml:4:11: monitor.timeout: \"2h\" is out of range, must be 1s to 1h"),
        (
            "interval = \"9s\"\nschedule = \"* * * * *\"",
            "c.toml:5:12: monitor.schedule: stands beside an interval, keep interval or schedule",
        ),
        (
            "timezone = \"UTC\"",
            "c.toml:4:12: monitor.timezone: has no schedule beside it, remove it, or add a schedule",
        ),
        (
            "schedule = \"* * * * *\"\ntimezone = \"Europe/Berln\"",
            "c.toml:5:12: monitor.timezone: unknown time zone \"Europe/Berln\", did you mean \"Europe/Berlin\"?",
        ),
        ("confirmations = 0", "c.toml:4:17: monitor.confirmations: 0 is out of range, must be 1 to 100"),
        ("flap = { changes = 1 }", "c.toml:4:20: monitor.flap.changes: 1 is out of range, must be 2 to 100"),
        ("flap = { change = 4 }", "c.toml:4:10: monitor.flap.change: unknown key, did you mean \"changes\"?"),
        (
            "tags = [\"\"]",
            "c.toml:4:8: monitor.tags: are not tags, at most 32 tags of 1 to 64 characters, without spaces around them",
        ),
        ("owner = \"me\"", "c.toml:4:9: monitor.owner: is not an e-mail address, such as \"a@example.com\""),
        ("notify = [\"ops\"]", "c.toml:4:1: monitor.notify: not built yet in this version, remove it"),
        (
            "kind = \"tcp\"",
            "c.toml:4:8: monitor.kind: is \"tcp\", but the url's scheme \"https\" belongs to \"http\", leave it out, or change one of the two",
        ),
        (
            "kind = \"dns\"",
            "c.toml:4:8: monitor.kind: \"dns\" is not built yet in this version, must be one of http, tcp",
        ),
        (
            "exchange = []",
            "c.toml:4:1: monitor.exchange: does not belong here, it is for tcp monitors, and this one's kind is http",
        ),
        ("renamed_from = \"a\"", "c.toml:4:16: monitor.renamed_from: is the monitor's own id"),
        ("depends_on = [\"b\"]", "c.toml:4:15: monitor.depends_on: no monitor has the id \"b\", did you mean \"a\"?"),
        (
            "depends_on = [\"a\"]",
            "c.toml:4:15: monitor.depends_on: is a cycle: a -> a, a monitor cannot explain itself",
        ),
        (
            "body = \"${NONE}\"",
            "c.toml:4:8: monitor.body: environment variable \"NONE\" is not set, set it, or write $${ for a literal ${",
        ),
    ] {
        assert_eq!(heads(&monitor(keys)), [head], "{keys}");
    }
    assert_eq!(
        heads("[[monitor]]\nname = \"x\""),
        [
            "c.toml:1:1: monitor.id: is missing, every [[monitor]] has an id and a url",
            "c.toml:1:1: monitor.url: is missing, every [[monitor]] has an id and a url",
        ]
    );
    assert!(
        heads(&monitor("schedule = \"99 * * * *\""))[0].starts_with("c.toml:4:12: monitor.schedule: not a schedule: ")
    );
}

#[test]
fn all_errors_come_at_once() {
    let text = "[server]\nlisten = 5\n[defaults]\ntimeout = \"x\"\nurl = \"y\"\n[[monitor]]\nid = \"A\"\nurl = \"dns:x\"\ninterval = \"x\"\nbad bad\n";
    let found = heads(text);
    let places: Vec<&str> = found.iter().filter_map(|head| head.split(": ").next()).collect();
    assert_eq!(
        places,
        ["c.toml:2:10", "c.toml:4:11", "c.toml:5:7", "c.toml:7:6", "c.toml:8:7", "c.toml:9:12", "c.toml:10:5"],
        "{found:#?}"
    );
}

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

#[test]
fn ids_stand_once_in_all_sources() {
    let sources = [
        SourceText::new("1.toml", monitor("")),
        SourceText::new("2.toml", format!("\n{}", monitor("renamed_from = \"a\""))),
    ];
    let refusal = read_sources(&sources).unwrap_err();
    assert!(
        refusal.messages[0].starts_with("2.toml:3:6: monitor.id: \"a\" stands twice, the other is at 1.toml:1\n"),
        "{refusal}"
    );
    let cycle = "[[monitor]]\nid='x'\nurl='tcp://h:1'\ndepends_on=['y']\n[[monitor]]\nid='y'\nurl='tcp://h:1'\ndepends_on=['x']\n[[monitor]]\nid='z'\nurl='tcp://h:1'\nrenamed_from='x'\n";
    assert_eq!(
        heads(cycle),
        [
            "c.toml:8:13: monitor.depends_on: is a cycle: x -> y -> x, a monitor cannot explain itself",
            "c.toml:12:14: monitor.renamed_from: \"x\" is still the id of a monitor, the other is at c.toml:1",
        ]
    );
}

#[test]
fn references_are_expanded_and_never_shown() {
    let text = "[[monitor]]\nid='a'\nurl='https://${HOST}/'\nbody='${TOKEN} $${X}'\nauth={bearer='canary-bearer'}\nheaders={A='${TOKEN}'}\n";
    let found = one(text);
    assert_eq!(&*found.url, "https://${HOST}/");
    let secrets: Vec<&str> = found.secrets.iter().map(|secret| secret.expose()).collect();
    assert_eq!(secrets, ["canary-host.example", "canary-bearer", "canary-token"]);
    assert_eq!(found.spec()["body"], "${TOKEN} $${X}");
    let settings = read(text).unwrap();
    assert!(!format!("{settings:#?} {found:?}").contains("canary"));
    assert_ne!(one(&text.replace("canary-bearer", "canary-other")).fingerprint, found.fingerprint);
    assert_eq!(one(&format!("# moved\n{text}")).fingerprint, found.fingerprint);
}

#[test]
fn no_message_shows_a_secret() {
    for text in [
        monitor("auth = { basic = { username = \"u\", password = \"canary\", x = 1 } }"),
        monitor("auth = { bearer = 5, y = \"canary\" }"),
        monitor("auth = { bearer = [\"canary\"] }"),
        monitor("auth = { baerer = \"canary\" }"),
        monitor("auth = \"canary\""),
        monitor("headers = { Authorization = \"canary\", X = 5 }"),
        monitor("headers = { Authorization = \"${NONE}canary\" }"),
        monitor("interval = \"${TOKEN}\""),
        monitor("body = \"${canary-}\""),
        monitor("headers = { Authorization = \"canary\\n\" }"),
        monitor("headers = { \"Bad Name\" = \"canary\", Cookie = \"canary\" }"),
        monitor("auth = { bearer = \"canary\\n\" }"),
        monitor("auth = { bearer = \"canary\", basic = { username = \"canary\" } }"),
        monitor("auth = { basic = { username = 5, password = \"${TOKEN}\" } }"),
        monitor("headers = { Authorization = \"${TOKEN}\" }\nmethod = \"${TOKEN}\"\nip_version = \"${TOKEN}\""),
        monitor("tls = { client_certificate = \"${TOKEN}\", client_key = \"${TOKEN}\", min_version = \"${TOKEN}\" }"),
        monitor("interval = \"canary\nauth = 5"),
        "[[monitor]]\nid = \"a\"\nurl = \"https://u:canary@h.example/\"\n".to_owned(),
        "[[monitor]]\nid = \"a\"\nurl = \"htps://u:canary@h.example/\"\n".to_owned(),
        "[[monitor]]\nid = \"a\"\nurl = \"${HOST}\"\n".to_owned(),
        "[daemon]\nlog_level = \"${TOKEN}\"\nregion = \"${TOKEN} \"\n".to_owned(),
        "[database]\nurl = \"mysql://u:canary@h/d\"\n".to_owned(),
        "[database]\nurl = \"postgres://u:canary@h:port/d\" x\n".to_owned(),
        "[database]\nurl = postgres://u:canary@h/d\n".to_owned(),
        "[database]\nurl = { file = \"${TOKEN}\" }\n".to_owned(),
    ] {
        let sources = [SourceText::new("c.toml", text.as_str())];
        let real = read_by(crate::probe::kinds::KINDS, &sources).unwrap_err().to_string();
        let found = errors(&text).join("\n") + &real;
        // The one message that quotes what it cannot parse as a duration quotes what is no secret's place.
        let allowed = text.contains("interval = \"canary");
        assert!(!found.is_empty() && (allowed || !found.contains("canary")), "{text}\n{found}");
    }
}

#[test]
fn a_changed_file_behind_a_path_is_a_changed_monitor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.pem");
    let text = monitor(&format!("tls = {{ client_certificate = {:?} }}", path.display().to_string()));
    std::fs::write(&path, "one").unwrap();
    let before = one(&text).fingerprint;
    assert_eq!(one(&text).fingerprint, before);
    std::fs::write(&path, "three").unwrap();
    assert_ne!(one(&text).fingerprint, before);
}

#[test]
fn many_cycles_and_unknown_ids_are_counted() {
    let mut text = String::new();
    for number in 0..3000 {
        let next = if number % 2 == 0 { format!("m{number}") } else { format!("n{number}") };
        text.push_str(&format!("[[monitor]]\nid='m{number}'\nurl='tcp://h:1'\ndepends_on=['{next}']\n"));
    }
    let refusal = read(&text).unwrap_err();
    assert_eq!((refusal.messages.len(), refusal.more, refusal.count()), (1000, 2000, 3000));
    assert!(refusal.to_string().ends_with("and 2000 more errors"));
}

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
    fn no_configuration_panics(lines in proptest::collection::vec(
        prop_oneof![
            Just("[[monitor]]".to_owned()), Just("[defaults]".to_owned()), Just("[server]".to_owned()),
            Just("id = \"a\"".to_owned()), Just("url = \"https://h/\"".to_owned()), Just("[monitor.expect]".to_owned()),
            "(id|url|name|interval|schedule|tags|flap|auth|headers|expect|tls|depends_on|listen) = (\"[^\n]{0,8}\"|[0-9]{1,3}|\\[\\]|\\{\\}|\\{ file = \"x\" \\}|\\[1, \"\\$\\{T\\}\"\\])",
            "[^\n]{0,20}",
        ], 0..12)) {
        let _ = read(&lines.join("\n"));
    }

    #[test]
    fn no_row_panics(url in ".{0,30}", key in "[a-z_]{0,12}", text in ".{0,10}", number in any::<i32>()) {
        let mut row = row(&url, serde_json::json!({ key: { "file": text }, "expect": number }));
        (row.interval_seconds, row.timeout_seconds, row.kind) = (number, number, Some(text));
        if let Err(reason) = read_row(&row, &Defaults::default()) {
            prop_assert!(!reason.is_empty());
        }
    }
}

/// Catches a step that looks at every monitor for every monitor; alone, a debug build takes half a second.
#[test]
fn ten_thousand_monitors_are_read_in_linear_time() {
    let mut text = String::from("[defaults]\ntimeout = \"5s\"\n");
    for number in 0..10_000 {
        text.push_str(&format!(
            "[[monitor]]\nid = \"m{number}\"\nname = \"Monitor {number}\"\nurl = \"https://h{number}.example/health\"\n\
             interval = \"60s\"\ntags = [\"prod\", \"web\"]\nexpect = {{ status = [200], latency_below = \"800ms\" }}\n"
        ));
    }
    let begun = tokio::time::Instant::now();
    let settings = super::model::read(
        &[SourceText::new("c.toml", text)],
        Path::new("/"),
        Environment { variable: &|_| None, credentials: None },
        &[],
    )
    .unwrap();
    println!("{:?} for {} monitors", begun.elapsed(), settings.monitors.len());
    assert_eq!(settings.monitors.len(), 10_000);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}
