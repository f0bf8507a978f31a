use std::path::{Path, PathBuf};

use super::*;
use crate::cli::Environment;

const A: &str = "[[monitor]]\nid = \"a\"\nurl = \"tcp://a.example:1\"\n";
const B: &str = "[[monitor]]\nid = \"b\"\nurl = \"tcp://b.example:1\"\n";

fn start(path: &Path) -> ConfigSource {
    let environment = Environment::default();
    let first = first(Some(path), &environment).unwrap_or_else(|_| panic!("the first reading is good"));
    let net = net_of(&first.settings, Vec::new()).unwrap();
    let links = Links {
        net: Arc::new(ArcSwap::from_pointee(net)),
        max_in_flight: watch::channel(1).0,
        slos: watch::channel(Arc::default()).0,
        keeping: Arc::default(),
        own: Vec::new(),
        rdap: PathBuf::new(),
        maintenances: watch::channel(Arc::from([])).0,
    };
    ConfigSource::new(first, &environment, links)
}

/// What a reading says, in a word and its monitors or findings.
fn says(source: &ConfigSource, force: bool) -> (&'static str, String) {
    match source.read(force).outcome {
        FileOutcome::Unchanged => ("unchanged", String::new()),
        FileOutcome::StillRefused => ("still refused", String::new()),
        FileOutcome::Refused(findings) => ("refused", findings),
        FileOutcome::Content(content) => {
            source.apply();
            let keys = content.definitions.iter().filter_map(|definition| definition.key.as_ref());
            ("content", keys.map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
    }
}

#[test]
fn a_deleted_emptied_or_bad_file_is_refused_once_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, A).unwrap();
    let source = start(&path);
    assert_eq!(says(&source, false).0, "unchanged");
    assert_eq!(says(&source, true), ("content", "a".to_owned()));
    let bad: [(&dyn Fn(), &str); 3] = [
        (&|| std::fs::remove_file(&path).unwrap(), "no such file"),
        (&|| std::fs::write(&path, " \n").unwrap(), "was emptied"),
        (&|| std::fs::write(&path, "[[monitor]]\nid = 7\n").unwrap(), "config.toml:2"),
    ];
    for (spoil, why) in bad {
        spoil();
        let (word, findings) = says(&source, false);
        assert!(word == "refused" && findings.contains(why), "{word}: {findings}");
        assert_eq!(says(&source, false).0, "still refused");
        assert_eq!(says(&source, true).0, "refused");
        std::fs::write(&path, A).unwrap();
        assert_eq!(says(&source, false).0, "unchanged");
    }
    std::fs::write(&path, format!("{A}{B}")).unwrap();
    assert_eq!(says(&source, false), ("content", "a b".to_owned()));
}

#[test]
fn what_was_always_empty_is_fine_and_fragments_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "").unwrap();
    let source = start(&path);
    assert_eq!(says(&source, true), ("content", String::new()));
    std::fs::create_dir(folder.path().join("config.d")).unwrap();
    let fragment = folder.path().join("config.d/b.toml");
    std::fs::write(&fragment, B).unwrap();
    assert_eq!(says(&source, false), ("content", "b".to_owned()));
    std::fs::write(&fragment, "").unwrap();
    assert_eq!(says(&source, false).0, "refused");
    std::fs::remove_file(&fragment).unwrap();
    assert_eq!(says(&source, false), ("content", String::new()));
}

#[test]
fn what_a_refused_file_refers_to_may_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, A).unwrap();
    let source = start(&path);
    let url = "url = \"https://b.example/\"\nauth = { bearer = { file = \"token\" } }\n";
    std::fs::write(&path, format!("[[monitor]]\nid = \"b\"\n{url}")).unwrap();
    assert_eq!(says(&source, false).0, "refused");
    std::fs::write(folder.path().join("token"), "secret-of-b").unwrap();
    assert_eq!(says(&source, false), ("content", "b".to_owned()));
}

#[test]
fn a_part_that_needs_a_restart_is_told_until_it_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, A).unwrap();
    let source = start(&path);
    let mut told = Vec::new();
    for text in [
        format!("[server]\nlisten = \"127.0.0.1:9\"\n{A}"),
        format!("[server]\nlisten = \"127.0.0.1:9\"\n{A}{B}"),
        A.to_owned(),
    ] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(source.read(false).outcome, FileOutcome::Content(_)));
        told.push(source.apply());
    }
    assert_eq!(told, [vec!["[server]"], vec!["[server]"], vec![]]);
}
