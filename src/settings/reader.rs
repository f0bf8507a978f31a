//! Reads tables key by key, remembers which were asked for, and complains about all that is wrong: never only the first.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Findings, Quote, nearest};
use super::tree::{Node, Span, Table, Value};
use crate::model::Secret;

mod reference;
mod tables;
#[cfg(test)]
mod tests;
mod values;

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
