//! What is said about configurations, word by word.

use std::path::Path;

use proptest::prelude::*;

use super::again::Former;
use super::definition::{Definition, Located};
use super::diagnostic::{Findings, SourceText};
use super::model::{Environment, Kinds, Refusal, Settings, read_with};
use super::testing::{KINDS, LATER};
use crate::probe::Kind;

mod bounds;
mod defaults;
mod rows;
mod secrets;

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
