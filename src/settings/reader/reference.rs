//! References to secrets: `${NAME}`, `{ file = "path" }`, `{ credential = "name" }`, and paths.

use std::path::PathBuf;

use super::{Quote, Span, TableReader};
use crate::model::Secret;
use crate::settings::tree::{Entry, Node, Value};
use crate::settings::{limited, size};

/// A file behind `{ file = }` or `{ credential = }` is read up to this size.
const SECRET_MAX_BYTES: u64 = 64 * 1024;

/// A string with its references expanded is at most this long.
const EXPANDED_MAX_BYTES: usize = 1 << 20;

const FORMS: &str = "either { file = \"path\" } or { credential = \"name\" }";
const IN_THE_FILE: &str = "define the monitor in the configuration file";

impl TableReader<'_> {
    /// Replaces `${NAME}`; `$${` stands for `${`. What was inserted is remembered as a secret.
    pub(super) fn expand(&self, key: &str, span: Option<Span>, text: &str) -> Option<String> {
        if !text.contains("${") {
            return Some(text.to_owned());
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut good = true;
        while let Some((before, behind)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = behind;
                continue;
            }
            out.push_str(before);
            let Some((name, after)) = behind.split_once('}') else {
                let way_out = "${NAME}, or $${ for a literal ${".to_owned();
                self.complain(span, key, "\"${\" has no \"}\"".to_owned(), Some(way_out), Quote::Shape);
                return None;
            };
            match self.variable(key, span, name) {
                Some(value) => out.push_str(&value),
                None => good = false,
            }
            if out.len() > EXPANDED_MAX_BYTES {
                let what = format!("is longer than {} with its references", size::format(EXPANDED_MAX_BYTES as u64));
                self.complain(span, key, what, None, Quote::Shape);
                return None;
            }
            rest = after;
        }
        out.push_str(rest);
        good.then_some(out)
    }

    fn variable(&self, key: &str, span: Option<Span>, name: &str) -> Option<String> {
        let first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let (what, way_out) = if !self.origin.trusted {
            let way_out = "write the value itself, or define the monitor in the configuration file";
            ("a reference to the environment is not allowed in the database".to_owned(), way_out)
        } else if !(name.as_bytes().first().is_some_and(first) && name.bytes().all(inner)) {
            // What stands there may be part of a secret: it is not quoted.
            ("not a name of an environment variable".to_owned(), "${NAME}, or $${ for a literal ${")
        } else if let Some(value) = (self.origin.env)(name) {
            self.remember(&value);
            return Some(value);
        } else {
            (format!("environment variable {name:?} is not set"), "set it, or write $${ for a literal ${")
        };
        self.complain(span, key, what, Some(way_out.to_owned()), Quote::Shape);
        None
    }

    /// Remembers a text that must not be shown, such as a credential in another encoding.
    pub fn remember(&self, value: &str) {
        self.secrets.borrow_mut().push(Secret::new(value));
    }

    /// A string that was read raw, references expanded.
    pub fn expanded(&self, key: &str, text: &str) -> Option<String> {
        let span = self.own.get(key).and_then(|entry| entry.node.span);
        self.expand(key, span, text)
    }

    /// Marks a key whose value may hold a secret: no complaint quotes it.
    pub fn hide(&mut self, key: &'static str) {
        self.hidden.push(key);
    }

    /// A secret: a string, `{ file = "path" }` or `{ credential = "name" }`. One line ending is cut from files.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        self.hidden.push(key);
        let node = self.node(key)?;
        self.secret_of(key, node)
    }

    /// The secret in a node.
    pub fn secret_of(&self, key: &str, node: &Node) -> Option<Secret> {
        let wrong = |span, what: &str, allowed: &str| {
            self.complain(span, key, what.to_owned(), Some(allowed.to_owned()), Quote::Shape);
            None
        };
        let table = match &node.value {
            Value::String(text) => {
                let secret = self.expand(key, node.span, text)?;
                self.remember(&secret);
                return Some(Secret::new(secret));
            }
            Value::Table(table) => table,
            other => {
                let what = format!("found {}", other.type_name());
                return wrong(node.span, &what, &format!("must be a string, or {FORMS}"));
            }
        };
        let [Entry { key: form, node: inner, .. }] = table.entries.as_slice() else {
            return wrong(node.span, "not a reference to a secret", FORMS);
        };
        let Value::String(name) = &inner.value else {
            return wrong(inner.span, &format!("found {}", inner.value.type_name()), "must be a string");
        };
        if !self.origin.trusted {
            let what = "a reference to a file or credential is not allowed in the database";
            return wrong(node.span, what, IN_THE_FILE);
        }
        match &**form {
            "file" => self.secret_file(key, inner, self.path_of(key, inner, name)?),
            "credential" if name.is_empty() || name.contains('/') || &**name == ".." => {
                wrong(inner.span, "not the name of a credential", "a name without \"/\"")
            }
            "credential" => match self.origin.credentials {
                Some(folder) => self.secret_file(key, inner, folder.join(&**name)),
                None => wrong(
                    inner.span,
                    &format!("credential {name:?}: $CREDENTIALS_DIRECTORY is not set"),
                    "run under systemd with LoadCredential=, or use { file = \"path\" }",
                ),
            },
            _ => wrong(node.span, "not a reference to a secret", FORMS),
        }
    }

    fn secret_file(&self, key: &str, node: &Node, path: PathBuf) -> Option<Secret> {
        if let Some(outside) = self.outside {
            outside.files.set(true);
        }
        let why = match limited::read(&path, SECRET_MAX_BYTES) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if !text.is_empty() {
                    self.remember(text);
                    return Some(Secret::new(text));
                }
                "is empty".to_owned()
            }
            Err(why) => why.to_string(),
        };
        // The path as it is written: what a reference in it stands for is not quoted.
        self.complain(node.span, key, format!("cannot read the file {}: {why}", node.value), None, Quote::Value);
        None
    }

    fn path_of(&self, key: &str, node: &Node, text: &str) -> Option<PathBuf> {
        let expanded = self.expand(key, node.span, text)?;
        if expanded.is_empty() || expanded.contains('\0') {
            self.complain(node.span, key, "not a path".to_owned(), None, Quote::Value);
            return None;
        }
        Some(self.origin.base.join(expanded))
    }

    /// A path; relative ones start from the folder of the configuration. Not in the database.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let node = self.node(key)?;
        let Value::String(text) = &node.value else {
            self.wrong_type(key, node, "a path");
            return None;
        };
        self.path_in(key, node, text)
    }

    /// A list of paths; bad elements are reported and left out.
    pub fn paths(&mut self, key: &'static str) -> Option<Vec<PathBuf>> {
        let items = self.list(key)?;
        let paths = items.iter().filter_map(|item| match &item.value {
            Value::String(text) => self.path_in(key, item, text),
            _ => {
                self.wrong_type(key, item, "a path");
                None
            }
        });
        Some(paths.collect())
    }

    fn path_in(&self, key: &str, node: &Node, text: &str) -> Option<PathBuf> {
        if !self.origin.trusted {
            self.error_at(node.span, key, "a path is not allowed in the database", IN_THE_FILE.to_owned());
            return None;
        }
        let path = self.path_of(key, node, text)?;
        if let Some(outside) = self.outside {
            outside.paths.borrow_mut().push(path.clone());
        }
        Some(path)
    }
}
