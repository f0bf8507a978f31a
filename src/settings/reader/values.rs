//! Values: strings, numbers, durations, sizes, words, and lists and tables of them.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::TableReader;
use crate::settings::diagnostic::nearest;
use crate::settings::tree::{Node, Value};
use crate::settings::{duration, size};

impl<'a> TableReader<'a> {
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
}
