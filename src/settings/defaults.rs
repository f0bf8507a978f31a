//! `[defaults]`: any monitor key, checked on its own, cut to what each kind has.

use std::cell::RefCell;

use super::diagnostic::{Diagnostic, Findings};
use super::reader::{Origin, TableReader};
use super::tree::{Entry, Node, Table, Value};
use crate::probe::Kind;

/// Keys that name one monitor, or are columns that no default can fill.
pub(super) const NEVER: &[&str] = &["id", "name", "url", "renamed_from"];

/// Keys that rows have a column for, or whose meaning a column decides.
const COLUMNS: &[&str] = &["owner", "interval", "schedule", "timezone", "timeout", "active", "tags", "kind"];

/// Keys that carry the operator's secrets: a row, whose URL somebody else wrote, must not get them.
const SECRETS: &[&str] = &["auth", "client_certificate", "client_key", "proxy"];

/// The defaults, by kind.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    all: Table,
    by_kind: Vec<(&'static str, Table, Table)>,
}

impl Defaults {
    /// The defaults as written: what holds before the kind is known.
    pub(super) fn all(&self) -> Option<&Table> {
        some(&self.all)
    }

    /// What a file monitor of a kind gets.
    pub(super) fn of_file(&self, kind: &str) -> Option<&Table> {
        some(&self.by_kind.iter().find(|row| row.0 == kind)?.1)
    }

    /// What a row of a kind gets: nothing that has a column, no secret, no reference, no path.
    pub(super) fn of_row(&self, kind: &str) -> Option<&Table> {
        some(&self.by_kind.iter().find(|row| row.0 == kind)?.2)
    }

    /// Whether every monitor gets the same from these.
    pub(super) fn say_the_same(&self, other: &Self) -> bool {
        let kinds = self.by_kind.len() == other.by_kind.len()
            && self.by_kind.iter().zip(&other.by_kind).all(|(a, b)| a.0 == b.0 && a.1.says_the_same(&b.1));
        kinds && self.all.says_the_same(&other.all)
    }

    /// Cuts checked defaults to each kind. A key belongs to a kind when the kind names it, or when no kind does.
    pub(super) fn new(all: Table, kinds: &[&'static Kind], origin: &Origin<'_>, findings: &Findings) -> Self {
        let mut reported = Vec::new();
        let by_kind = kinds.iter().map(|kind| {
            let table = of_kind(&all, kind, kinds, origin);
            try_out(&table, kind, origin, &mut reported);
            let rows = without_secrets(&table, COLUMNS);
            (kind.name, table, rows)
        });
        let by_kind = by_kind.collect();
        reported.into_iter().for_each(|finding| findings.push(finding));
        Self { by_kind, all }
    }
}

fn some(table: &Table) -> Option<&Table> {
    (!table.entries.is_empty()).then_some(table)
}

fn of_kind(all: &Table, kind: &Kind, kinds: &[&'static Kind], origin: &Origin<'_>) -> Table {
    let special = |entry: &Entry| kinds.iter().any(|kind| kind.keys.contains(&&*entry.key));
    let mut entries = Vec::new();
    for entry in &all.entries {
        if !special(entry) {
            entries.push(entry.clone());
        } else if kind.keys.contains(&&*entry.key)
            && let Some(entry) = fitting(entry, kind, kinds, origin)
        {
            entries.push(entry);
        }
    }
    Table { entries }
}

/// What of a default a kind accepts: `expect.status` is good for http and not for tcp, while both have `expect`. A part
/// that no kind accepts stays, so that it is reported.
fn fitting(entry: &Entry, kind: &Kind, kinds: &[&'static Kind], origin: &Origin<'_>) -> Option<Entry> {
    let refused_here = |part: &Entry| {
        let table = Table { entries: vec![part.clone()] };
        let refused = |kind: &Kind| kind.keys.contains(&&*entry.key) && !accepts(&table, kind, origin);
        refused(kind) && kinds.iter().any(|other| other.keys.contains(&&*entry.key) && !refused(other))
    };
    let Value::Table(table) = &entry.node.value else {
        return (!refused_here(entry)).then(|| entry.clone());
    };
    let one = |part: &Entry| {
        let value = Value::Table(Table { entries: vec![part.clone()] });
        Entry { node: Node { value, span: entry.node.span }, ..entry.clone() }
    };
    let entries: Vec<Entry> = table.entries.iter().filter(|part| !refused_here(&one(part))).cloned().collect();
    if entries.is_empty() && !table.entries.is_empty() {
        return None;
    }
    Some(Entry { node: Node { value: Value::Table(Table { entries }), span: entry.node.span }, ..entry.clone() })
}

/// Whether a kind takes the part as a monitor's own key: a default that it cannot meet it may ignore without a word.
fn accepts(part: &Table, kind: &Kind, origin: &Origin<'_>) -> bool {
    let findings = Findings::default();
    prepare(part, None, kind, origin, &findings);
    findings.count() == 0
}

/// Lets a kind read the defaults as if a monitor wrote nothing but its URL. What another kind said before is left out.
fn try_out(table: &Table, kind: &Kind, origin: &Origin<'_>, reported: &mut Vec<Diagnostic>) {
    let scratch = Findings::default();
    prepare(&Table::default(), some(table), kind, origin, &scratch);
    // What has no place is about a key that the monitor would have to bring.
    for finding in scratch.into_sorted().0.into_iter().filter(|finding| finding.span.is_some()) {
        if !reported.iter().any(|there| there.span == finding.span && there.what == finding.what) {
            reported.push(finding);
        }
    }
}

fn prepare(own: &Table, defaults: Option<&Table>, kind: &Kind, origin: &Origin<'_>, findings: &Findings) {
    let Some(url) = example_url(kind) else { return };
    let secrets = RefCell::default();
    let reader = TableReader::new(own, None, "defaults", origin, findings, &secrets);
    (kind.prepare)(&url, &mut reader.with_defaults(defaults));
}

fn example_url(kind: &Kind) -> Option<url::Url> {
    let (table, _) = super::document::parse(0, kind.example, &Findings::default());
    let monitor = match table.get("monitor").map(|entry| &entry.node.value) {
        Some(Value::Array(items)) => items.first().map(|item| &item.value),
        other => other,
    };
    let monitor = match monitor {
        Some(Value::Table(monitor)) => monitor,
        _ => &table,
    };
    match &monitor.get("url")?.node.value {
        Value::String(text) => url::Url::parse(text).ok(),
        _ => None,
    }
}

fn without_secrets(table: &Table, leave_out: &[&str]) -> Table {
    let kept = table.entries.iter().filter(|entry| {
        let key = &&*entry.key;
        !leave_out.contains(key) && !SECRETS.contains(key)
    });
    let entries = kept.filter_map(|entry| match &entry.node.value {
        Value::Table(inner) if is_reference(inner) => None,
        Value::Table(inner) => {
            let value = Value::Table(without_secrets(inner, &[]));
            Some(Entry { node: Node { value, span: entry.node.span }, ..entry.clone() })
        }
        other => (!has_reference(other)).then(|| entry.clone()),
    });
    Table { entries: entries.collect() }
}

fn is_reference(table: &Table) -> bool {
    matches!(table.entries.as_slice(), [only] if matches!(&*only.key, "file" | "credential"))
}

fn has_reference(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(items) => items.iter().any(|item| has_reference(&item.value)),
        Value::Table(table) => is_reference(table) || table.entries.iter().any(|e| has_reference(&e.node.value)),
        _ => false,
    }
}
