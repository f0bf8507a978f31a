//! Replays the corpus, so that what fuzzing found once stays found, also where nobody fuzzes.
#![allow(clippy::disallowed_methods, reason = "what is read here is ours, and its size is looked at")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// Files of one corpus, and the largest of them, bytes: it is read in every run of the tests.
const MOST_FILES: usize = 30;
const MOST_BYTES: usize = 8 * 1024;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] = &[
    ("bson", bson),
    ("chunked", chunked),
    ("coding", coding),
    ("config", config),
    ("cron", cron),
    ("dial", dial),
    ("dialogue", dialogue),
    ("dns", dns),
    ("head", head),
    ("json_path", json_path),
    ("mysql", mysql),
    ("plugin", plugin),
    ("postgres", postgres),
    ("redis", redis),
    ("script", script),
    ("ssh", ssh),
    ("websocket", websocket),
    ("xml", xml),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn names(place: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder(place)).unwrap();
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn targets() -> BTreeSet<String> {
    TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
fn the_corpus_holds() {
    for (name, target) in TARGETS {
        let mut files: Vec<_> =
            fs::read_dir(folder("tests/fuzz/corpus").join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!((1..=MOST_FILES).contains(&files.len()), "{name}: {} files, 1 to {MOST_FILES}", files.len());
        for file in files {
            let bytes = fs::read(&file).unwrap();
            assert!(bytes.len() <= MOST_BYTES, "{}: {} bytes", file.display(), bytes.len());
            // The name of the file is what a failure is looked up by.
            let held = std::panic::catch_unwind(|| target(&bytes));
            assert!(held.is_ok(), "{} breaks the property of {name}, see above", file.display());
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    assert_eq!(names("tests/fuzz/fuzz_targets"), targets());
    assert_eq!(names("tests/fuzz/corpus"), targets());
    let manifest = fs::read_to_string(folder("tests/fuzz/Cargo.toml")).unwrap();
    let programs = manifest.split("[[bin]]").skip(1).map(|table| {
        let name = table.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"').to_owned();
        assert!(table.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        name
    });
    assert_eq!(programs.collect::<BTreeSet<_>>(), targets());
    for name in targets() {
        let program = fs::read_to_string(folder("tests/fuzz/fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(program.contains(&format!("lamplighter::fuzzing::{name}(bytes)")), "{name}: {program}");
    }
}

#[test]
fn every_function_is_a_target() {
    let mut found = BTreeSet::new();
    for name in names("src/fuzzing") {
        let text = fs::read_to_string(folder("src/fuzzing").join(format!("{name}.rs"))).unwrap();
        let functions = text.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split_once("(bytes: &[u8]) {"));
        found.extend(functions.map(|(name, _)| name.to_owned()));
    }
    assert_eq!(found, targets());
}
