//! Reads tables key by key, remembers which were asked for, and complains about all that is wrong: never only the first.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Findings, nearest};
use super::duration;
use super::tree::{Entry, Node, Span, Table, Value};
use crate::model::Secret;

/// Where references are resolved, and whether they may be.
pub struct Origin<'a> {
    /// A file may name environment variables, files and credentials; a row, which is data of other people, may not.
    pub trusted: bool,
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The folder that relative paths start from.
    pub base: &'a Path,
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<&'a Path>,
}

/// A file behind `{ file = }` or `{ credential = }` is read up to this size.
const SECRET_MAX_BYTES: u64 = 64 * 1024;

/// Reads one table. Values of its `defaults` table stand in for absent keys.
pub struct TableReader<'a> {
    own: &'a Table,
    own_span: Option<Span>,
    defaults: Option<&'a Table>,
    path: String,
    origin: &'a Origin<'a>,
    findings: &'a Findings,
    secrets: &'a RefCell<Vec<Secret>>,
    asked: Vec<&'static str>,
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
        let path = path.into();
        Self { own, own_span, defaults: None, path, origin, findings, secrets, asked: Vec::new(), blocked: Vec::new() }
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
        self.asked.push(key);
        self.own.get(key).is_some()
    }

    /// The node of a key, from the table or else its defaults. JSON null counts as absent.
    pub fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
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
        let (key, what, allowed) = (self.full(key), what.into(), allowed.into());
        self.findings.push(Diagnostic { span, key, what, allowed });
    }

    fn wrong_type(&self, key: &str, node: &Node, wanted: &str) {
        let found = match &node.value {
            // A string may be a secret that stands where a number should; its type is enough.
            Value::String(_) => node.value.type_name().to_owned(),
            other => format!("{} ({other})", other.type_name()),
        };
        self.error_at(node.span, key, format!("found {found}"), format!("must be {wanted}"));
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

    /// Replaces `${NAME}`; `$${` stands for `${`. What was inserted is remembered as a secret.
    fn expand(&self, key: &str, span: Option<Span>, text: &str) -> Option<String> {
        if !text.contains("${") {
            return Some(text.to_owned());
        }
        if !self.origin.trusted {
            self.error_at(
                span,
                key,
                "a reference to the environment is not allowed in the database",
                "write the value itself, or define the monitor in the configuration file".to_owned(),
            );
            return None;
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut good = true;
        while let Some(at) = rest.find("${") {
            if at > 0 && rest.as_bytes()[at - 1] == b'$' {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}') else {
                self.error_at(span, key, "\"${\" has no \"}\"", "${NAME}, or $${ for a literal ${".to_owned());
                return None;
            };
            let name = &rest[at + 2..at + end];
            match (self.origin.env)(name) {
                Some(value) => {
                    self.remember(&value);
                    out.push_str(&value);
                }
                None => {
                    self.error_at(
                        span,
                        key,
                        format!("environment variable {name:?} is not set"),
                        "set it, or write $${ for a literal ${".to_owned(),
                    );
                    good = false;
                }
            }
            rest = &rest[at + end + 1..];
        }
        out.push_str(rest);
        good.then_some(out)
    }

    /// Remembers a text that must not be shown, such as a credential in another encoding. Under 4 bytes: ignored.
    pub fn remember(&self, value: &str) {
        // Shorter values would blank out half of any text they are removed from.
        if value.len() >= 4 {
            self.secrets.borrow_mut().push(Secret::new(value));
        }
    }

    /// A secret: a string, `{ file = "path" }` or `{ credential = "name" }`. One line ending is cut from files.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let node = self.node(key)?;
        self.secret_of(key, node)
    }

    /// The secret in a node.
    pub fn secret_of(&self, key: &str, node: &Node) -> Option<Secret> {
        let table = match &node.value {
            Value::String(text) => {
                let secret = self.expand(key, node.span, text)?;
                self.remember(&secret);
                return Some(Secret::new(secret));
            }
            Value::Table(table) => table,
            _ => {
                self.wrong_type(key, node, "a string, { file = \"path\" } or { credential = \"name\" }");
                return None;
            }
        };
        let allowed = || "either { file = \"path\" } or { credential = \"name\" }".to_owned();
        let [Entry { key: form, node: inner, .. }] = table.entries.as_slice() else {
            self.error_at(node.span, key, "not a reference to a secret", allowed());
            return None;
        };
        let Value::String(name) = &inner.value else {
            self.wrong_type(key, inner, "a string");
            return None;
        };
        if !self.origin.trusted {
            self.error_at(
                node.span,
                key,
                "a reference to a file or credential is not allowed in the database",
                "define the monitor in the configuration file".to_owned(),
            );
            return None;
        }
        let path = match &**form {
            "file" => self.path_of(key, inner, name)?,
            "credential" => match self.origin.credentials {
                Some(folder) if !name.contains('/') => folder.join(&**name),
                Some(_) => {
                    self.error_at(inner.span, key, "a credential's name has no \"/\"", None);
                    return None;
                }
                None => {
                    self.error_at(
                        inner.span,
                        key,
                        format!("credential {name:?}: $CREDENTIALS_DIRECTORY is not set"),
                        "run under systemd with LoadCredential=, or use { file = \"path\" }".to_owned(),
                    );
                    return None;
                }
            },
            _ => {
                self.error_at(node.span, key, format!("unknown reference {form:?}"), allowed());
                return None;
            }
        };
        match super::limited::read(&path, SECRET_MAX_BYTES) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                self.remember(text);
                Some(Secret::new(text))
            }
            Err(why) => {
                self.error_at(inner.span, key, format!("cannot read {}: {why}", path.display()), None);
                None
            }
        }
    }

    fn path_of(&self, key: &str, node: &Node, text: &str) -> Option<PathBuf> {
        let expanded = self.expand(key, node.span, text)?;
        Some(self.origin.base.join(expanded))
    }

    /// A path; relative ones start from the folder of the configuration. Not in the database.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let node = self.node(key)?;
        let Value::String(text) = &node.value else {
            self.wrong_type(key, node, "a path");
            return None;
        };
        if !self.origin.trusted {
            let way_out = "define the monitor in the configuration file".to_owned();
            self.error_at(node.span, key, "a path is not allowed in the database", way_out);
            return None;
        }
        self.path_of(key, node, text)
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
                    format!("{text:?} is out of range"),
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

    /// One of some words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.string(key)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint =
            nearest(&text, names.iter().copied()).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        self.error(key, format!("unknown value {text:?}"), format!("must be one of {}{hint}", names.join(", ")));
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
        self.asked.push(key);
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

    fn child(&self, own: &'a Table, span: Option<Span>, path: String) -> TableReader<'a> {
        TableReader::new(own, span, path, self.origin, self.findings, self.secrets)
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
            if let Some(explanation) = elsewhere(&entry.key) {
                self.error_at(span, &entry.key, "does not belong here", explanation);
                continue;
            }
            let known = self.asked.iter().copied().filter(|key| !self.blocked.contains(key));
            let allowed = match nearest(&entry.key, known.clone()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => {
                    let mut names: Vec<&str> = known.collect();
                    names.sort_unstable();
                    names.dedup();
                    format!("allowed here: {}", names.join(", "))
                }
            };
            self.error_at(span, &entry.key, "unknown key", allowed);
        }
    }
}
