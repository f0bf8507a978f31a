//! Whatever was read before, a reading gives what a reading of everything gives.

use std::path::PathBuf;

use proptest::prelude::*;

use super::super::diagnostic::Diagnostic;
use super::super::model::{Refusal, read_by};
use super::super::testing::{KINDS, LATER};
use super::super::tests::assert_same;
use super::*;

const TEST_KINDS: Kinds = Kinds { built: KINDS, later: LATER };

/// A configuration whose readings follow each other, in a folder of its own.
struct Series {
    folder: tempfile::TempDir,
    former: Former,
}

impl Series {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), former: Former::default() }
    }

    fn secret(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Reads it as the next of the series and from scratch; the outcomes must be the same.
    fn read(&mut self, sources: &[(&str, &str)]) -> Result<Settings, Refusal> {
        let sources: Vec<_> = sources.iter().map(|(name, text)| SourceText::new(*name, *text)).collect();
        let environment =
            Environment { variable: &|name| (name == "V").then(|| "value".to_owned()), credentials: None };
        let base = self.folder.path();
        let none: &[Diagnostic] = &[];
        let again = read_by(TEST_KINDS, &sources, base, environment, none, &mut self.former);
        let findings = Findings::default();
        let settings = model::read_with(KINDS, LATER, &sources, base, environment, &findings);
        let at_once = if findings.count() == 0 { Ok(settings) } else { Err(Refusal::of(findings, &sources)) };
        assert_same(&at_once, &again);
        again
    }

    /// How many definitions of a text are those of the reading before.
    fn reused(&mut self, text: &str) -> usize {
        let before: Vec<_> = self.former.monitors.iter().map(|(_, definition)| Arc::as_ptr(definition)).collect();
        let settings = self.read(&[("c.toml", text)]).unwrap();
        settings.monitors.iter().filter(|now| before.contains(&Arc::as_ptr(&now.definition))).count()
    }
}

fn monitor(id: &str, keys: &str) -> String {
    format!("[[monitor]]\nid = \"{id}\"\nurl = \"http://{id}.example/\"\n{keys}\n")
}

#[test]
fn only_what_was_edited_is_read() {
    let mut series = Series::new();
    let (a, b, c) = (monitor("a", ""), monitor("b", "[monitor.expect]\nstatus = [200]"), monitor("c", ""));
    assert_eq!(series.reused(&format!("{a}{b}{c}")), 0);
    assert_eq!(series.reused(&format!("{a}{b}{c}")), 3);
    assert_eq!(series.reused(&format!("# a line\n{a}{c}{b}")), 3);
    assert_eq!(series.reused(&format!("[probe]\nmax_in_flight = 7\n{a}{}{b}", monitor("c", "timeout = \"3s\""))), 2);
    // Defaults reach everybody.
    assert_eq!(series.reused(&format!("{a}{b}[defaults]\ntimeout = \"2s\"")), 0);
    assert_eq!(series.reused(&format!("[defaults]\ntimeout = \"2s\"\n{a}{b}")), 2);
    // A refusal forgets nothing.
    assert!(series.read(&[("c.toml", &format!("[defaults]\ntimeout = \"2s\"\n{a}{a}"))]).is_err());
    assert_eq!(series.reused(&format!("[defaults]\ntimeout = \"2s\"\n{a}{b}")), 2);
}

#[test]
fn what_names_a_file_is_read_every_time() {
    let mut series = Series::new();
    let text = monitor("a", "auth = { bearer = { file = \"secret\" } }")
        + &monitor("b", "headers = { A = \"${V}\" }\nauth = { bearer = \"written\" }")
        + &monitor("c", "tls = { client_certificate = \"secret\" }");
    std::fs::write(series.secret(), "one-secret").unwrap();
    series.read(&[("c.toml", &text)]).unwrap();
    std::fs::write(series.secret(), "another-secret").unwrap();
    assert_eq!(series.reused(&text), 1, "the environment of a process does not change");
    std::fs::remove_file(series.secret()).unwrap();
    assert!(series.read(&[("c.toml", &text)]).is_err());
}

#[test]
fn cuts_inside_of_values_are_not_believed() {
    let hidden = "[[monitor]]\nid = \"hidden\"\nurl = \"http://h.example/\"\n";
    for text in [
        monitor("a", &format!("body = \"\"\"\n{hidden}\"\"\"")),
        monitor("a", &format!("body = '''\n{hidden}'''\n")) + &monitor("b", ""),
        // Parts that are whole only when the one between them is left out.
        format!("[daemon]\nregion = '''\n{hidden}[x]\n'''\n{}", monitor("b", "")),
        format!("[defaults]\nbody = '''\n{hidden}[defaults.headers]\n'''\n{}", monitor("b", "")),
        monitor("a", "tags = [\n[\n]\n]"),
        monitor("a", "[probe]\nmax_in_flight = 9\n[monitor.expect]\nstatus = [200]"),
        monitor("a", "\n  [monitor.expect]\n  status = [200]\n\t[[monitor]]\n\tid = 'b'\n\turl = 'http://b/'"),
        monitor("a", "\n[ monitor . expect ]\nstatus = [200]"),
        monitor("a", "\n[\"monitor\".expect]\nstatus = [200]"),
        format!("monitor = []\n{}", monitor("a", "")),
        format!("monitor.x = 1\n{}", monitor("a", "")),
        format!("[monitor]\nid = 1\n{}", monitor("a", "")),
        format!("[monitor.expect]\nstatus = 1\n{}", monitor("a", "")),
        format!("\u{feff}{}", monitor("a", "")),
        monitor("a", "").replace('\n', "\r\n") + &monitor("b", ""),
        monitor("a", "timeout = \"2s\"\n[monitor]"),
        format!("{}[server]\n{}[server]\n", monitor("a", ""), monitor("b", "")),
        "[[monitor]]".to_owned(),
        "[[monitor]] x\n".to_owned(),
        String::new(),
    ] {
        let mut series = Series::new();
        let _ = series.read(&[("c.toml", &text)]);
        let _ = series.read(&[("c.toml", &text), ("d.toml", &monitor("z", ""))]);
        let _ = series.read(&[("b.toml", &monitor("z", "")), ("c.toml", &text)]);
    }
}

/// A line of a configuration, good or bad by itself or after what precedes it.
fn line() -> impl Strategy<Value = String> {
    let id = "[a-e]";
    prop_oneof![
        8 => id.prop_map(|id| monitor(&id, "")),
        3 => (id, "[a-f]").prop_map(|(id, to)| monitor(&id, &format!("depends_on = [\"{to}\"]"))),
        2 => (id, "[a-f]").prop_map(|(id, from)| monitor(&id, &format!("renamed_from = \"{from}\""))),
        2 => (id, 1u8..4).prop_map(|(id, n)| monitor(&id, &format!("[monitor.expect]\nstatus = [20{n}]"))),
        1 => Just("# a comment\n\n".to_owned()),
        1 => Just("interval = \"7s\"\n".to_owned()),
        1 => Just("auth = { bearer = { file = \"secret\" } }\n".to_owned()),
        1 => Just("body = '''\n[[monitor]]\n'''\n".to_owned()),
        1 => Just("body = '''\n".to_owned()),
        1 => Just("[defaults]\ntimeout = \"3s\"\n".to_owned()),
        1 => Just("[probe]\nmax_in_flight = 5\n".to_owned()),
        1 => Just("[monitor.expect]\nstatus = [500]\n".to_owned()),
        1 => Just("  [[monitor]]\n  id = 'i'\n  url = 'http://i/'\n".to_owned()),
        1 => Just("[[\n".to_owned()),
        1 => Just("intervall = 5\n".to_owned()),
    ]
}

#[derive(Clone, Debug)]
enum Edit {
    Insert(prop::sample::Index, String),
    Remove(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index),
    Secret(u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    use prop::sample::Index;
    prop_oneof![
        4 => (any::<Index>(), line()).prop_map(|(at, line)| Edit::Insert(at, line)),
        3 => any::<Index>().prop_map(Edit::Remove),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Edit::Swap(a, b)),
        1 => any::<Index>().prop_map(Edit::Cut),
        1 => any::<u8>().prop_map(Edit::Secret),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_edits_give_what_a_reading_of_everything_gives(
        lines in prop::collection::vec(line(), 0..8),
        edits in prop::collection::vec(edit(), 1..8),
        split in any::<prop::sample::Index>(),
    ) {
        let mut series = Series::new();
        std::fs::write(series.secret(), "a-secret").unwrap();
        let mut lines = lines;
        for edit in edits {
            match edit {
                Edit::Insert(at, line) => lines.insert(at.index(lines.len() + 1), line),
                Edit::Remove(at) if !lines.is_empty() => drop(lines.remove(at.index(lines.len()))),
                Edit::Swap(a, b) if !lines.is_empty() => {
                    let (a, b) = (a.index(lines.len()), b.index(lines.len()));
                    lines.swap(a, b);
                }
                Edit::Cut(at) => drop(lines.last_mut().map(|line| line.truncate(at.index(line.len() + 1)))),
                Edit::Secret(n) => std::fs::write(series.secret(), format!("secret-{n}")).unwrap(),
                Edit::Remove(_) | Edit::Swap(..) => {}
            }
            let (first, second) = lines.split_at(split.index(lines.len() + 1));
            let _ = series.read(&[("1.toml", &first.concat()), ("2.toml", &second.concat())]);
        }
    }
}
