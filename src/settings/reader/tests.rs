use std::path::Path;
use std::time::Duration;

use super::*;
use crate::settings::document;
use crate::settings::tree::Entry;

/// Runs a reader over a text; returns what it gave, the complaints without places, and the secrets.
fn with<T>(text: &str, trusted: bool, read: impl FnOnce(&mut TableReader<'_>) -> T) -> (T, Vec<String>, Vec<String>) {
    let findings = Findings::default();
    let (table, broken) = document::parse(0, text, &findings);
    assert!(!broken, "{text}");
    let env = |name: &str| match name {
        "A" => Some("alpha".to_owned()),
        "LONG" => Some("x".repeat(700_000)),
        _ => None,
    };
    let origin = Origin { trusted, env: &env, base: Path::new("/base"), credentials: None };
    let secrets = RefCell::default();
    let mut reader = TableReader::new(&table, None, "t", &origin, &findings, &secrets);
    let value = read(&mut reader);
    reader.finish(&|key| (key == "elsewhere").then(|| "it is elsewhere".to_owned()));
    let complaints = findings.into_sorted().0.iter().map(ToString::to_string).collect();
    let secrets = secrets.into_inner().iter().map(|secret| secret.expose().to_owned()).collect();
    (value, complaints, secrets)
}

#[test]
fn references_are_expanded() {
    for (written, expanded) in [
        ("plain", Some("plain")),
        ("${A}", Some("alpha")),
        ("<${A}${A}>", Some("<alphaalpha>")),
        ("$${A}", Some("${A}")),
        ("$$${A}", Some("$${A}")),
        ("$${${A}}", Some("${alpha}")),
        ("$A $", Some("$A $")),
        ("${B}", None),
        ("${A", None),
        ("${}", None),
        ("${1A}", None),
        ("${A B}", None),
        ("${LONG}${LONG}", None),
    ] {
        let text = format!("k = '{written}'");
        let (value, complaints, _) = with(&text, true, |reader| reader.string("k"));
        assert_eq!((value.as_deref(), complaints.len()), (expanded, usize::from(expanded.is_none())), "{written}");
    }
    let (value, complaints, secrets) = with("k = '${A}'", false, |reader| reader.string("k"));
    assert!(value.is_none() && secrets.is_empty() && complaints.len() == 1);
    assert_eq!(with("k = '${A}'", true, |reader| reader.string("k")).2, ["alpha"]);
}

#[test]
fn a_wrong_type_is_named_and_no_string_is_quoted() {
    let text = "a = 1\nb = 'text'\nc = [1]\nd = 1979-05-27\ne = 1.5\nf = true\n";
    let (_, complaints, _) = with(text, true, |reader| {
        assert!(reader.string("a").is_none());
        assert!(reader.integer("b", 0..=9).is_none());
        assert!(reader.boolean("c").is_none());
        assert!(reader.table("d").is_none());
        assert!(reader.list("e").is_none());
        assert!(reader.size("f", 0..=9).is_none());
    });
    assert_eq!(
        complaints,
        [
            "t.a: found an integer (1), must be a string",
            "t.b: found a string, must be an integer",
            "t.c: found a list, must be true or false",
            "t.d: found a date (1979-05-27), must be a table",
            "t.e: found a number (1.5), must be a list",
            "t.f: found true or false (true), must be a whole number with a unit: B, KiB, MiB, GiB, kB, MB or GB, \
             such as \"64MiB\"",
        ]
    );
}

#[test]
fn bounds_are_inclusive() {
    let text = "a = 1\nb = 9\nc = 10\nd = '1s'\ne = '1ms'\nf = '2KiB'\ng = '1B'\n";
    let second = Duration::from_secs(1);
    let (_, complaints, _) = with(text, true, |reader| {
        assert_eq!((reader.integer("a", 1..=9), reader.integer("b", 1..=9)), (Some(1), Some(9)));
        assert_eq!(reader.integer("c", 1..=9), None);
        assert_eq!(
            (reader.duration("d", second..=second), reader.duration("e", second..=second)),
            (Some(second), None)
        );
        assert_eq!((reader.size("f", 2048..=2048), reader.size("g", 2048..=2048)), (Some(2048), None));
    });
    assert_eq!(complaints.len(), 3, "{complaints:?}");
}

#[test]
fn keys_that_nobody_asked_for_are_errors() {
    let text = "known = 1\nknwon = 1\nelsewhere = 1\nlater = 1\nzzz = 1\n\"a\\u0007\" = 1\n";
    let (_, complaints, _) = with(text, true, |reader| {
        reader.ask("known");
        reader.not_built_yet(&["later", "latest"]);
    });
    assert_eq!(
        complaints,
        [
            "t.knwon: unknown key, did you mean \"known\"?",
            "t.elsewhere: does not belong here, it is elsewhere",
            "t.later: not built yet in this version, remove it",
            "t.zzz: unknown key, allowed here: known",
            "t.\"a\\u{7}\"…: unknown key, allowed here: known",
        ]
    );
}

#[test]
fn defaults_stand_behind_a_table_and_its_sub_tables() {
    let (own, _) = document::parse(0, "a = 1\nsub = { x = 1 }", &Findings::default());
    let (defaults, _) =
        document::parse(0, "a = 2\nb = 3\nsub = { x = 5, y = 6 }\nother = { z = 7 }", &Findings::default());
    let (findings, secrets) = (Findings::default(), RefCell::default());
    let origin = Origin { trusted: true, env: &|_| None, base: Path::new(""), credentials: None };
    let mut reader = TableReader::new(&own, None, "", &origin, &findings, &secrets).with_defaults(Some(&defaults));
    assert_eq!((reader.integer("a", 0..=9), reader.integer("b", 0..=9)), (Some(1), Some(3)));
    assert!(!reader.is_default("a") && reader.is_default("b") && !reader.is_default("c"));
    let mut sub = reader.table("sub").unwrap();
    assert_eq!((sub.integer("x", 0..=9), sub.integer("y", 0..=9)), (Some(1), Some(6)));
    assert!(sub.has_own("x") && !sub.has_own("y"));
    assert_eq!(reader.table("other").unwrap().integer("z", 0..=9), Some(7));
    assert_eq!(findings.count(), 0);
}

#[test]
fn null_in_a_spec_counts_as_absent() {
    let node = Node { value: Value::Null, span: None };
    let table = Table { entries: vec![Entry { key: "a".into(), key_span: None, node }] };
    let (findings, secrets) = (Findings::default(), RefCell::default());
    let origin = Origin { trusted: false, env: &|_| None, base: Path::new(""), credentials: None };
    let mut reader = TableReader::new(&table, None, "", &origin, &findings, &secrets);
    assert!(reader.string("a").is_none() && reader.table("a").is_none());
    reader.finish(&|_| None);
    assert_eq!(findings.count(), 0);
}

#[test]
fn paths_start_from_the_base_and_are_collected() {
    let (table, _) = document::parse(0, "a = 'x/y'\nb = ['/z', 1]\nc = ''", &Findings::default());
    let (findings, secrets, outside) = (Findings::default(), RefCell::default(), Outside::default());
    let origin = Origin { trusted: true, env: &|_| None, base: Path::new("/base"), credentials: None };
    let mut reader = TableReader::new(&table, None, "", &origin, &findings, &secrets).with_outside(&outside);
    assert_eq!(reader.path("a"), Some("/base/x/y".into()));
    assert_eq!(reader.paths("b"), Some(vec!["/z".into()]));
    assert_eq!(reader.path("c"), None);
    assert_eq!(*outside.paths.borrow(), [PathBuf::from("/base/x/y"), "/z".into()]);
    let complaints: Vec<String> = findings.into_sorted().0.iter().map(ToString::to_string).collect();
    assert_eq!(complaints, ["b: found an integer (1), must be a path", "c: not a path"]);
    assert_eq!(with("a = 'x'", false, |reader| reader.path("a")).0, None);
}

#[test]
fn lists_and_free_tables_leave_out_what_is_bad() {
    let text = "a = ['x', 1, 'y']\nb = [{}, 2]\nc = { K = 'v', L = 3 }\n";
    let (_, complaints, _) = with(text, true, |reader| {
        assert_eq!(reader.strings("a"), Some(vec!["x".to_owned(), "y".to_owned()]));
        assert_eq!(reader.tables("b").map(|tables| tables.len()), Some(1));
        assert_eq!(reader.pairs("c"), Some(vec![("K".to_owned(), "v".to_owned())]));
    });
    assert_eq!(
        complaints,
        [
            "t.a: found an integer (1), must be a string",
            "t.b: found an integer (2), must be a table",
            "t.c.L: found an integer (3), must be a string",
        ]
    );
}
