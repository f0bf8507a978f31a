//! Reads tables key by key, remembers which were asked for, and complains about all that is wrong: never only the first.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Findings, Quote, nearest};
use super::tree::{Node, Span, Table, Value};
use super::{duration, size};
use crate::model::Secret;

mod reference;
#[cfg(test)]
mod tests;

/// Where references are resolved, and whether they may be.
pub struct Origin<'a> {
    /// A file may name environment variables, files and credentials; a row, which is data of other people, may not.
    pub trusted: bool,
    /// Looks up an environment variable.
    pub env: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The folder that relative paths start from.
    pub base: &'a Path,
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<&'a Path>,
}

/// What a reader looked at besides its table. The environment is not in it: that of a process does not change.
#[derive(Default)]
pub struct Outside {
    /// Paths, so that a changed file behind one counts as a changed definition.
    pub paths: RefCell<Vec<PathBuf>>,
    /// Whether a secret was read from a file.
    pub files: Cell<bool>,
}

/// Reads one table. Values of its `defaults` table stand in for absent keys.
pub struct TableReader<'a> {
    own: &'a Table,
    own_span: Option<Span>,
    defaults: Option<&'a Table>,
    path: String,
    origin: &'a Origin<'a>,
    findings: &'a Findings,
    secrets: &'a RefCell<Vec<Secret>>,
    outside: Option<&'a Outside>,
    asked: Vec<&'static str>,
    /// Keys that were read as secrets: their values are not quoted, whoever complains.
    hidden: Vec<&'static str>,
    blocked: Vec<&'static str>,
}

impl<'a> TableReader<'a> {
    /// A reader over a table; `path` prefixes keys in messages; expanded references are added to `secrets`.
    pub fn new(
        own: &'a Table,
        own_span: Option<Span>,
        path: impl Into<String>,
        origin: &'a Origin<'a>,
        findings: &'a Findings,
        secrets: &'a RefCell<Vec<Secret>>,
    ) -> Self {
        Self {
            own,
            own_span,
            defaults: None,
            path: path.into(),
            origin,
            findings,
            secrets,
            outside: None,
            asked: Vec::new(),
            hidden: Vec::new(),
            blocked: Vec::new(),
        }
    }

    /// Notes what is read besides the table.
    #[must_use]
    pub const fn with_outside(mut self, outside: &'a Outside) -> Self {
        self.outside = Some(outside);
        self
    }

    /// Values for absent keys. Sub-tables read by [`Self::table`] take theirs from the sub-table of the same name.
    #[must_use]
    pub const fn with_defaults(mut self, defaults: Option<&'a Table>) -> Self {
        self.defaults = defaults;
        self
    }

    /// What references may do here.
    #[must_use]
    pub const fn origin(&self) -> &'a Origin<'a> {
        self.origin
    }

    /// Where the table stands.
    #[must_use]
    pub const fn span(&self) -> Option<Span> {
        self.own_span
    }

    /// The findings so far, for a reader that wants to know whether it added any.
    #[must_use]
    pub const fn findings(&self) -> &'a Findings {
        self.findings
    }

    /// Whether the table itself (not its defaults) has the key. Marks it as asked for.
    pub fn has_own(&mut self, key: &'static str) -> bool {
        self.ask(key);
        self.own.get(key).is_some()
    }

    /// Marks a key as known, whether or not it is read.
    pub fn ask(&mut self, key: &'static str) {
        self.asked.push(key);
        #[cfg(test)]
        self.findings.asked.borrow_mut().insert(without_indexes(&self.full(key)));
    }

    /// Whether the value that counts for a key comes from the defaults.
    #[must_use]
    pub fn is_default(&self, key: &str) -> bool {
        self.own.get(key).is_none() && self.defaults.is_some_and(|table| table.get(key).is_some())
    }

    /// The node of a key, from the table or else its defaults. JSON null counts as absent.
    pub fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.ask(key);
        let entry = self.own.get(key).or_else(|| self.defaults.and_then(|table| table.get(key)));
        entry.map(|entry| &entry.node).filter(|node| !matches!(node.value, Value::Null))
    }

    /// The full key for messages.
    #[must_use]
    pub fn full(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }

    /// Complains about a key: its value when it is there, the table when not.
    pub fn error(&self, key: &str, what: impl Into<String>, allowed: impl Into<Option<String>>) {
        let entry = self.own.get(key).or_else(|| self.defaults.and_then(|table| table.get(key)));
        let span = entry.and_then(|entry| entry.node.span).or(self.own_span);
        self.error_at(span, key, what, allowed);
    }

    /// Complains about a key at a place.
    pub fn error_at(&self, span: Option<Span>, key: &str, what: impl Into<String>, allowed: impl Into<Option<String>>) {
        let quote = if self.hidden.contains(&key) { Quote::Shape } else { Quote::Value };
        self.complain(span, key, what.into(), allowed.into(), quote);
    }

    /// Complains about a key whose value may be, or hold, a secret: it is not quoted.
    pub fn error_hidden(&self, key: &str, what: impl Into<String>, allowed: impl Into<Option<String>>) {
        let entry = self.own.get(key).or_else(|| self.defaults.and_then(|table| table.get(key)));
        let span = entry.and_then(|entry| entry.node.span).or(self.own_span);
        self.complain(span, key, what.into(), allowed.into(), Quote::Shape);
    }

    fn complain(&self, span: Option<Span>, key: &str, what: String, allowed: Option<String>, quote: Quote) {
        let (what, allowed) = (self.blanked(what), allowed.map(|allowed| self.blanked(allowed)));
        self.findings.push(Diagnostic { span, key: self.full(key), what, allowed, quote });
    }

    /// Kinds quote what they were given, with references expanded: what the references stood for is cut out again.
    fn blanked(&self, mut text: String) -> String {
        for secret in self.secrets.borrow().iter().map(Secret::expose) {
            if secret.len() >= Secret::SHORTEST && text.contains(secret) {
                text = text.replace(secret, "…");
            }
        }
        text
    }

    fn wrong_type(&self, key: &str, node: &Node, wanted: &str) {
        let found = match &node.value {
            // A string may be a secret that stands where a number should; its type is enough.
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_)
                if !self.hidden.contains(&key) =>
            {
                format!("{} ({})", node.value.type_name(), node.value)
            }
            other => other.type_name().to_owned(),
        };
        let quote = match node.value {
            Value::String(_) => Quote::Shape,
            _ if self.hidden.contains(&key) => Quote::Shape,
            _ => Quote::Value,
        };
        self.complain(node.span, key, format!("found {found}"), Some(format!("must be {wanted}")), quote);
    }

    /// A string, references expanded.
    pub fn string(&mut self, key: &'static str) -> Option<String> {
        let node = self.node(key)?;
        self.string_of(key, node)
    }

    /// The string in a node, references expanded.
    pub fn string_of(&self, key: &str, node: &Node) -> Option<String> {
        let Value::String(text) = &node.value else {
            self.wrong_type(key, node, "a string");
            return None;
        };
        self.expand(key, node.span, text)
    }

    /// The string as it is written.
    pub fn string_raw(&mut self, key: &'static str) -> Option<&'a str> {
        let node = self.node(key)?;
        match &node.value {
            Value::String(text) => Some(text),
            _ => {
                self.wrong_type(key, node, "a string");
                None
            }
        }
    }

    /// true or false.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let node = self.node(key)?;
        match node.value {
            Value::Boolean(flag) => Some(flag),
            _ => {
                self.wrong_type(key, node, "true or false");
                None
            }
        }
    }

    /// An integer within bounds.
    pub fn integer(&mut self, key: &'static str, bounds: RangeInclusive<i64>) -> Option<i64> {
        let node = self.node(key)?;
        match node.value {
            Value::Integer(integer) if bounds.contains(&integer) => Some(integer),
            Value::Integer(integer) => {
                let allowed = format!("must be {} to {}", bounds.start(), bounds.end());
                self.error_at(node.span, key, format!("{integer} is out of range"), allowed);
                None
            }
            _ => {
                self.wrong_type(key, node, "an integer");
                None
            }
        }
    }

    /// A duration string within bounds.
    pub fn duration(&mut self, key: &'static str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let node = self.node(key)?;
        let Value::String(text) = &node.value else {
            self.wrong_type(key, node, duration::ALLOWED);
            return None;
        };
        let text = self.expand(key, node.span, text)?;
        match duration::parse(&text) {
            Some(value) if bounds.contains(&value) => Some(value),
            Some(_) => {
                let (least, most) = (duration::format(*bounds.start()), duration::format(*bounds.end()));
                self.error_at(
                    node.span,
                    key,
                    format!("{} is out of range", node.value),
                    format!("must be {least} to {most}"),
                );
                None
            }
            None => {
                self.error_at(
                    node.span,
                    key,
                    format!("{} is not a duration", node.value),
                    format!("must be {}", duration::ALLOWED),
                );
                None
            }
        }
    }

    /// A duration of whole seconds within bounds.
    pub fn whole_seconds(&mut self, key: &'static str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.duration(key, bounds)?;
        if value.subsec_nanos() == 0 {
            return Some(value);
        }
        self.error(key, "has a fraction of a second", "must be whole seconds".to_owned());
        None
    }

    /// A byte size within bounds.
    pub fn size(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let node = self.node(key)?;
        let Value::String(text) = &node.value else {
            self.wrong_type(key, node, size::ALLOWED);
            return None;
        };
        let text = self.expand(key, node.span, text)?;
        let (what, allowed) = match size::parse(&text) {
            Some(value) if bounds.contains(&value) => return Some(value),
            Some(_) => {
                let (least, most) = (size::format(*bounds.start()), size::format(*bounds.end()));
                ("is out of range", format!("must be {least} to {most}"))
            }
            None => ("is not a size", format!("must be {}", size::ALLOWED)),
        };
        self.error_at(node.span, key, format!("{} {what}", node.value), allowed);
        None
    }

    /// One of some words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let node = self.node(key)?;
        let text = self.string_of(key, node)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint =
            nearest(&text, names.iter().copied()).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        let allowed = format!("must be one of {}{hint}", names.join(", "));
        // As it is written: what a reference stands for may be a secret.
        self.error_at(node.span, key, format!("unknown value {}", node.value), allowed);
        None
    }

    /// A list; one error a bad element is the caller's to report.
    pub fn list(&mut self, key: &'static str) -> Option<&'a [Node]> {
        let node = self.node(key)?;
        match &node.value {
            Value::Array(items) => Some(items),
            _ => {
                self.wrong_type(key, node, "a list");
                None
            }
        }
    }

    /// A list of strings, references expanded; bad elements are reported and left out.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        let items = self.list(key)?;
        Some(items.iter().filter_map(|item| self.string_of(key, item)).collect())
    }

    /// A sub-table, with the defaults' sub-table of that name behind it. Call [`Self::finish`] on it.
    pub fn table(&mut self, key: &'static str) -> Option<TableReader<'a>> {
        self.ask(key);
        let own = self.own.get(key).filter(|entry| !matches!(entry.node.value, Value::Null));
        let default = self.defaults.and_then(|table| table.get(key)).and_then(|entry| match &entry.node.value {
            Value::Table(table) => Some((table, entry.node.span)),
            _ => None,
        });
        let (table, span, defaults) = match (own.map(|entry| &entry.node), default) {
            (Some(Node { value: Value::Table(table), span }), default) => (table, *span, default.map(|d| d.0)),
            (Some(node), _) => {
                self.wrong_type(key, node, "a table");
                return None;
            }
            (None, Some((table, span))) => (table, span, None),
            (None, None) => return None,
        };
        Some(self.child(table, span, self.full(key)).with_defaults(defaults))
    }

    /// A list of tables, such as `headers = [{ name = … }]`. Call [`Self::finish`] on each.
    pub fn tables(&mut self, key: &'static str) -> Option<Vec<TableReader<'a>>> {
        let items = self.list(key)?;
        let mut readers = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match &item.value {
                Value::Table(table) => {
                    readers.push(self.child(table, item.span, format!("{}[{index}]", self.full(key))));
                }
                _ => self.wrong_type(key, item, "a table"),
            }
        }
        Some(readers)
    }

    /// The table in an element of a list that may hold other things as well; none when it is no table, without a
    /// complaint. Call [`Self::finish`] on it.
    #[must_use]
    pub fn table_of(&self, key: &str, index: usize, node: &'a Node) -> Option<TableReader<'a>> {
        let Value::Table(table) = &node.value else { return None };
        Some(self.child(table, node.span, format!("{}[{index}]", self.full(key))))
    }

    /// A table whose keys are free, such as `headers = { Accept = "…" }`; bad values are reported and left out.
    pub fn pairs(&mut self, key: &'static str) -> Option<Vec<(String, String)>> {
        let node = self.node(key)?;
        let Value::Table(table) = &node.value else {
            self.wrong_type(key, node, "a table of strings");
            return None;
        };
        let pairs = table.entries.iter().filter_map(|entry| {
            let full = format!("{key}.{}", entry.key);
            Some((entry.key.to_string(), self.string_of(&full, &entry.node)?))
        });
        Some(pairs.collect())
    }

    /// Tables whose names are free, such as `[plans.free]`. Call [`Self::finish`] on each.
    pub fn named_tables(&mut self, key: &'static str) -> Vec<(&'a str, TableReader<'a>)> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::Table(table) = &node.value else {
            self.wrong_type(key, node, "a table of tables");
            return Vec::new();
        };
        let mut readers = Vec::with_capacity(table.entries.len());
        for entry in &table.entries {
            let full = format!("{key}.{}", shortened(&entry.key));
            match &entry.node.value {
                Value::Table(inner) => {
                    #[cfg(test)]
                    self.findings.asked.borrow_mut().insert(full.clone());
                    readers.push((&*entry.key, self.child(inner, entry.node.span, self.full(&full))));
                }
                _ => self.wrong_type(&full, &entry.node, "a table"),
            }
        }
        readers
    }

    fn child(&self, own: &'a Table, span: Option<Span>, path: String) -> TableReader<'a> {
        let mut child = TableReader::new(own, span, path, self.origin, self.findings, self.secrets);
        child.outside = self.outside;
        child
    }

    /// A known part of the contract that this version does not have: present is an error, so that it is never accepted and ignored.
    pub fn not_built_yet(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.asked.push(key);
            self.blocked.push(key);
            if let Some(entry) = self.own.get(key) {
                let what = "not built yet in this version";
                self.error_at(entry.key_span.or(entry.node.span), key, what, "remove it".to_owned());
            }
        }
    }

    /// Complains about keys that nobody asked for. `elsewhere` are keys that are right in other tables of this sort
    /// (another probe kind's): `Some(where)` explains.
    pub fn finish(self, elsewhere: &dyn Fn(&str) -> Option<String>) {
        for entry in &self.own.entries {
            if self.asked.iter().any(|asked| **asked == *entry.key) {
                continue;
            }
            let span = entry.key_span.or(entry.node.span).or(self.own_span);
            let key = shortened(&entry.key);
            if self.findings.is_full() {
                self.error_at(span, &key, "unknown key", None);
            } else if let Some(explanation) = elsewhere(&entry.key) {
                self.error_at(span, &key, "does not belong here", explanation);
            } else {
                self.error_at(span, &key, "unknown key", self.known_keys(&entry.key));
            }
        }
    }

    fn known_keys(&self, unknown: &str) -> String {
        let known = self.asked.iter().copied().filter(|key| !self.blocked.contains(key));
        if let Some(near) = nearest(unknown, known.clone()) {
            return format!("did you mean {near:?}?");
        }
        let mut names: Vec<&str> = known.collect();
        names.sort_unstable();
        names.dedup();
        format!("allowed here: {}", names.join(", "))
    }
}

/// A key of somebody else's, fit for a message.
fn shortened(key: &str) -> String {
    const MOST: usize = 64;
    if key.chars().count() > MOST || key.chars().any(char::is_control) {
        let cut: String = key.chars().take(MOST).collect();
        return format!("{cut:?}…");
    }
    key.to_owned()
}

#[cfg(test)]
fn without_indexes(key: &str) -> String {
    let mut out = String::new();
    for part in key.split('[') {
        match part.split_once(']') {
            Some((_, rest)) => out.push_str(&format!("[]{rest}")),
            None => out.push_str(part),
        }
    }
    out
}
