//! The house rules that a compiler does not see: who may name whom, how long a file may be, what a migration says first.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::support::source::{self, Token};

/// Lines of a file in `src/`, at the very most.
const LONGEST_FILE: usize = 600;

/// The table in the documentation of `src/lib.rs`: highest layer first.
struct Layers {
    rows: Vec<(String, Vec<String>)>,
}

impl Layers {
    /// A row is `| layer | prose with `modules` in code spans |`.
    fn of(lib: &str) -> Self {
        let table = lib.lines().skip_while(|line| *line != "//! | layer | modules |").skip(2);
        let rows = table.map_while(|line| line.strip_prefix("//! | ")).map(|line| {
            let (layer, modules) = line.split_once(" | ").expect("a row has two cells");
            let modules = modules.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            (layer.to_owned(), modules)
        });
        Self { rows: rows.collect() }
    }

    /// The rank (0 is the top) and the entry that a path belongs to: the longest that leads to it.
    fn place(&self, path: &str) -> Option<(usize, &str)> {
        let entries = self.rows.iter().enumerate().flat_map(|(rank, (_, modules))| {
            modules.iter().filter(|module| is_within(path, module)).map(move |module| (rank, module.as_str()))
        });
        entries.max_by_key(|(_, module)| module.len())
    }

    fn rank(&self, layer: &str) -> Option<usize> {
        self.rows.iter().position(|(name, _)| name == layer)
    }

    /// A family of which any part has a row of its own must name all its parts: a new one is a decision.
    fn lists(&self, module: &str) -> bool {
        let mut parts = module.splitn(3, "::");
        let (family, part) = (parts.next().unwrap_or_default(), parts.next());
        let mut listed = self.rows.iter().flat_map(|(_, modules)| modules);
        let divided = listed.clone().any(|entry| is_within(entry, family) && entry != family);
        match part {
            Some(part) if divided => listed.any(|entry| *entry == format!("{family}::{part}")),
            _ => listed.any(|entry| entry == family),
        }
    }
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn family(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// Why `from` may not name `to`, if so.
fn forbidden(layers: &Layers, from: &str, to: &str) -> Option<String> {
    // A module speaks of its parents' types, as Rust's privacy has it.
    if is_within(from, to) {
        return None;
    }
    let Some((above, from_entry)) = layers.place(from) else {
        return Some(format!("{from} has no row in the table of src/lib.rs"));
    };
    let Some((below, to_entry)) = layers.place(to) else {
        return Some(format!("{to} has no row in the table of src/lib.rs"));
    };
    if above > below {
        let (low, high) = (&layers.rows[above].0, &layers.rows[below].0);
        return Some(format!("imports point down only: {low} may not name {high}"));
    }
    let both_in = |layer: &str| above == below && layers.rank(layer) == Some(above);
    if both_in("loops") && from_entry != to_entry {
        return Some("a loop never names another loop".to_owned());
    }
    if both_in("adapters") && family(from) != family(to) {
        return Some("only the top names concrete types of two families".to_owned());
    }
    if family(to) == "store" && family(from) != "store" && above != 0 {
        return Some("only the top names the store; others have a trait of their own".to_owned());
    }
    None
}

/// Libraries that only some families may say.
const RESERVED: &[(&str, &[&str])] =
    &[("sqlx", &["store"]), ("hyper", &["web", "probe"]), ("hyper_util", &["web", "probe"])];

/// Every forbidden edge in the text of a module, as `file:line: from -> to: rule`.
fn offences(layers: &Layers, file: &str, module: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in source::paths(&source::tokens(text), module) {
        let rule = if let Some(inside) = path.path.strip_prefix("crate::") {
            forbidden(layers, module, inside).map(|rule| (inside.to_owned(), rule))
        } else {
            let reserved = RESERVED.iter().find(|(name, _)| family(&path.path) == *name);
            reserved
                .filter(|(_, families)| !families.contains(&family(module)))
                .map(|(name, families)| ((*name).to_owned(), format!("only {} may say {name}", families.join(" and "))))
        };
        if let Some((to, rule)) = rule {
            found.push(format!("{file}:{}: {module} -> {to}: {rule}", path.line));
        }
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
    found.sort();
}

/// Name relative to the root, and text, of every file below `folder`.
fn texts(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root().join(folder), &mut found);
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        fs::read_to_string(path).ok().map(|text| (name, text))
    };
    found.iter().filter_map(read).collect()
}

fn module_of(file: &str) -> String {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    path.trim_end_matches("/mod").replace('/', "::")
}

/// Whether the module, or one that it is in, is declared under `cfg(test)`: such files put layers together.
fn is_for_tests(module: &str, sources: &[(String, String)]) -> bool {
    let Some((parent, name)) = module.rsplit_once("::") else { return false };
    let declared = sources.iter().filter(|(file, _)| module_of(file) == parent).any(|(_, text)| {
        let mut pairs = text.lines().zip(text.lines().skip(1));
        pairs.any(|(above, line)| above == "#[cfg(test)]" && line.ends_with(&format!("mod {name};")))
    });
    declared || is_for_tests(parent, sources)
}

fn layers() -> Layers {
    Layers::of(&fs::read_to_string(root().join("src/lib.rs")).unwrap())
}

fn assert_none(offences: &[String]) {
    let list = offences.iter().fold(String::new(), |mut list, line| {
        let _ = write!(list, "\n  {line}");
        list
    });
    assert!(offences.is_empty(), "{} offences:{list}", offences.len());
}

#[test]
fn imports_point_down_only() {
    let layers = layers();
    let mut found = Vec::new();
    let mut edges = 0;
    let sources = texts("src");
    for (file, text) in sources.iter().filter(|(file, _)| file.ends_with(".rs") && file != "src/lib.rs") {
        let module = module_of(file);
        if is_for_tests(&module, &sources) {
            continue;
        }
        if !layers.lists(&module) {
            found.push(format!("{file}: {module} has no row in the table of src/lib.rs"));
        }
        edges += source::paths(&source::tokens(text), &module).len();
        found.extend(offences(&layers, file, &module, text));
    }
    assert!(edges > 100, "read only {edges} paths: does the reader still see them?");
    assert_none(&found);
}

#[test]
fn the_table_has_the_layers_that_rules_name() {
    let layers = layers();
    for layer in ["top", "loops", "adapters", "ports", "rules", "model"] {
        assert!(layers.rank(layer).is_some(), "no row {layer} in the table of src/lib.rs");
    }
    let (mut lowest, order) = (0, ["cli", "web::server", "store", "journal", "schedule::wheel", "model"]);
    for module in order {
        let (rank, _) = layers.place(module).unwrap();
        assert!(rank >= lowest, "{module} is out of order");
        lowest = rank;
    }
}

#[test]
fn a_planted_edge_is_found() {
    let layers = layers();
    let planted = [
        ("model", "use crate::catalog::Entry;", "imports point down only"),
        ("schedule::wheel", "use std::fmt;\nuse crate::{model::Check, journal::Journal};", "imports point down only"),
        ("schedule::wheel", "use super::dispatch;", "imports point down only"),
        ("model::check", "fn f() { super::super::store::open() }", "imports point down only"),
        ("probe", "mod pool;\npub use pool::Pool;", "imports point down only"),
        ("schedule::dispatch", "use crate::probe::pool::Pool;", "a loop never names another loop"),
        ("schedule::dispatch::agenda", "fn f() { crate::verdict::stage::run() }", "a loop never names another loop"),
        ("probe::kinds::http", "use crate::store::Store;", "concrete types of two families"),
        ("journal::recorder", "use crate::{self as top, store::{self, Store}};", "only the top names the store"),
        ("journal::recorder", "fn f(pool: &sqlx::PgPool) {}", "only store may say sqlx"),
        ("cli::status", "use hyper::Method;", "only web and probe may say hyper"),
        ("web", "use crate::nowhere::Thing;", "no row in the table"),
    ];
    for (module, text, rule) in planted {
        let found = offences(&layers, "planted.rs", module, text);
        let line = text.lines().count();
        assert!(
            found.iter().any(|offence| offence.contains(rule) && offence.starts_with(&format!("planted.rs:{line}: "))),
            "{module}: {text}: found {found:?}, expected: {rule}"
        );
    }
    assert!(!layers.lists("schedule::brand_new"), "a new part of a divided family needs a row");
}

#[test]
fn what_is_allowed_is_not_reported() {
    let layers = layers();
    let allowed = [
        ("schedule::dispatch", "use crate::journal::Journal; use super::wheel::Wheel; use crate::model::Check;"),
        ("schedule::dispatch::agenda", "use super::super::{Done, Due}; use crate::schedule::dispatch::Stats;"),
        ("model", "// use crate::store::Store;\nconst S: &str = \"crate::store\"; /* crate::web /* x */ sqlx:: */"),
        ("model", "pub(crate) struct S<'a>(&'a str, char); const C: char = '\"'; const R: &str = r#\"\"crate::web\"#;"),
        ("catalog::diff", "mod tests { use super::*; use super::super::Entry; }"),
        ("daemon", "use crate::store::Store; use crate::web::server; use crate::probe::pool::Pool;"),
        ("store::record", "use sqlx::PgPool; use crate::journal::Journal;"),
    ];
    for (module, text) in allowed {
        assert_eq!(offences(&layers, "x.rs", module, text), Vec::<String>::new(), "{module}: {text}");
    }
}

#[test]
fn the_reader_sees_words_and_lines() {
    let tokens = source::tokens("a\n  :: b'x' // c\n\"d\\\"\ne\" f");
    let seen: Vec<_> = tokens.iter().map(|Token { text, line }| (text.as_str(), *line)).collect();
    assert_eq!(seen, [("a", 1), ("::", 2), ("f", 4)]);
}

#[test]
fn only_what_is_declared_for_tests_is_exempt() {
    let parent = "#[cfg(test)]\nmod tests;\nmod testing;\n".to_owned();
    let sources = [("src/schedule/mod.rs".to_owned(), parent)];
    assert!(is_for_tests("schedule::tests", &sources));
    assert!(is_for_tests("schedule::tests::clocks", &sources));
    assert!(!is_for_tests("schedule::testing", &sources));
    assert!(!is_for_tests("schedule", &sources));
}

#[test]
fn files_can_be_held_in_the_head() {
    let long = texts("src").into_iter().filter_map(|(file, text)| {
        let lines = text.lines().count();
        (lines > LONGEST_FILE).then(|| format!("{file}: {lines} lines, {LONGEST_FILE} at the most"))
    });
    assert_none(&long.collect::<Vec<_>>());
}

#[test]
fn every_migration_begins_with_its_reason() {
    let bare = texts("migrations").into_iter().filter(|(file, text)| {
        let header =
            text.lines().take_while(|line| line.starts_with("--")).map(|line| line.trim_start_matches('-').trim());
        file.ends_with(".sql") && header.map(str::len).sum::<usize>() < 40
    });
    assert_none(&bare.map(|(file, _)| format!("{file}: no header that says why")).collect::<Vec<_>>());
}

/// A tree that names one machine's folders works on that machine only.
#[test]
fn no_file_names_somebodys_home() {
    // Put together here, so that this file does not find itself.
    let homes = ["home", "root", "Users"].map(|name| format!("/{name}/"));
    let folders = ["src", "tests", "benches", "migrations", "packaging", "docs", ".ci"];
    let mut all: Vec<_> = folders.into_iter().flat_map(texts).collect();
    for name in ["README.md", "CHANGELOG.md", "Cargo.toml", "clippy.toml", "deny.toml", "config.example.toml"] {
        all.extend(fs::read_to_string(root().join(name)).ok().map(|text| (name.to_owned(), text)));
    }
    let mut found = Vec::new();
    for (file, text) in &all {
        for (index, line) in text.lines().enumerate() {
            if homes.iter().any(|home| line.contains(home.as_str())) {
                found.push(format!("{file}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    assert_none(&found);
}

/// Operators look names up there; a name that is missing is a riddle, one too many a promise.
#[test]
fn the_list_of_failures_is_complete() {
    let text = fs::read_to_string(root().join("docs/failures.md")).unwrap();
    let all: Vec<_> = lamplighter::model::Failure::ALL.iter().map(|failure| failure.name()).collect();
    let named: Vec<_> = text.split('`').skip(1).step_by(2).collect();
    let missing =
        all.iter().filter(|name| !named.contains(*name)).map(|name| format!("{name}: not in docs/failures.md"));
    assert_none(&missing.collect::<Vec<_>>());
    let (table, _) = text.split_once("When several").unwrap();
    let rows = table.split_once("|---|").unwrap().1;
    let words = rows.split('`').skip(1).step_by(2).filter(|word| word.contains('_') && !word.starts_with("latency_"));
    let foreign =
        words.filter(|word| !all.contains(word)).map(|word| format!("docs/failures.md: {word} is no failure"));
    assert_none(&foreign.collect::<Vec<_>>());
}
