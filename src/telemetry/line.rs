//! One log line, made of a record: foreign text in it is spelled out and cut before anybody else sees it.

use std::fmt::{self, Write as _};

use chrono::{DateTime, Utc};
use log::kv::{Key, VisitSource};
use log::{Level, Record};

use crate::verdict::text;

/// Characters of a message; the findings about a configuration may be many.
const MESSAGE_MAX: usize = 16 * 1024;
/// Lines of a message.
const LINES_MAX: usize = 200;
/// Characters of a field.
const VALUE_MAX: usize = 512;
/// Fields of a line.
const FIELDS_MAX: usize = 16;

/// A line that is ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// When.
    pub(super) at: DateTime<Utc>,
    /// How bad.
    pub(super) level: Level,
    /// The module.
    pub(super) target: String,
    /// Clean; lines after the first are indented, so that none looks like a line of its own.
    pub(super) message: String,
    /// Clean names and values.
    pub(super) fields: Vec<(String, String)>,
    /// The place in the code.
    pub(super) place: Option<(&'static str, u32)>,
}

impl Line {
    /// Of a record.
    #[must_use]
    pub(super) fn of(record: &Record<'_>, at: DateTime<Utc>) -> Self {
        let mut fields = Fields(Vec::new());
        // A source that fails half-way has given what it could.
        let _ = record.key_values().visit(&mut fields);
        Self {
            at,
            level: record.level(),
            target: text::clean(record.target(), VALUE_MAX, false),
            message: message(&capped(record.args(), MESSAGE_MAX)),
            fields: fields.0,
            place: record.file_static().zip(record.line()),
        }
    }

    /// Of our own about the log.
    #[must_use]
    pub(super) fn own(
        at: DateTime<Utc>,
        level: Level,
        target: String,
        text: &str,
        fields: Vec<(String, String)>,
    ) -> Self {
        Self { at, level, target, message: message(text), fields, place: None }
    }

    /// Memory that it takes, about.
    #[must_use]
    pub(super) fn cost(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        size_of::<Self>() + self.target.len() + self.message.len() + fields
    }
}

/// Takes no more than so many bytes, whatever is poured into it.
struct Capped {
    out: String,
    left: usize,
}

impl fmt::Write for Capped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(self.left);
        self.out.push_str(text.get(..fits).unwrap_or_default());
        self.left -= fits;
        if fits < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// At least one character more than `most` when there was more, so that cutting shows it.
fn capped(value: impl fmt::Display, most: usize) -> String {
    let mut capped = Capped { out: String::new(), left: 4 * (most + 1) };
    // An error is the cap, or a value that cannot be shown any further.
    let _ = write!(capped, "{value}");
    capped.out
}

/// Cleans a message and indents its lines.
fn message(text: &str) -> String {
    let clean = text::clean(text.trim_end_matches('\n'), MESSAGE_MAX, true);
    if !clean.contains(['\n', '\t']) {
        return clean;
    }
    let clean = clean.replace('\t', "    ");
    let count = clean.lines().count();
    let lines: Vec<&str> = clean.lines().take(LINES_MAX).collect();
    let mut out = lines.join("\n    ");
    if count > LINES_MAX {
        let _ = write!(out, "\n    … and {} more lines", count - LINES_MAX);
    }
    out
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        if self.0.len() < FIELDS_MAX {
            let value = text::clean(&capped(value, VALUE_MAX), VALUE_MAX, false);
            self.0.push((text::clean(key.as_str(), 64, false), value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: fmt::Arguments<'_>, key_values: &[(&str, &str)]) -> Line {
        let record = Record::builder().args(args).level(Level::Warn).target("t").key_values(&key_values).build();
        Line::of(&record, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn foreign_text_cannot_forge_a_line() {
        let hostile = "fine ü\r\n2026-01-01T00:00:00.000Z ERROR forged\u{1b}[2J\0\u{202e}\u{2028}\u{85}";
        let line = line(format_args!("got {hostile}"), &[("monitor", hostile)]);
        let spelled = "2026-01-01T00:00:00.000Z ERROR forged\\u{1b}[2J\\u{0}\\u{202e}\\u{2028}\\u{85}";
        assert_eq!(line.message, format!("got fine ü\\u{{d}}\n    {spelled}"));
        assert_eq!(line.fields, [("monitor".to_owned(), format!("fine ü\\u{{d}}\\u{{a}}{spelled}"))]);
    }

    #[test]
    fn nothing_floods_the_log() {
        let long = "ä".repeat(1_000_000);
        let flood = line(format_args!("{long}"), &[("name", &long)]);
        assert_eq!(flood.message.chars().count(), MESSAGE_MAX);
        assert!(flood.message.ends_with('…') && flood.fields[0].1.ends_with('…'));
        assert_eq!(flood.fields[0].1.chars().count(), VALUE_MAX);
        let lines = line(format_args!("{}", "x\n".repeat(5_000)), &[]);
        assert_eq!(lines.message.lines().count(), LINES_MAX + 1);
        assert!(lines.message.ends_with("\n    … and 4800 more lines"), "{}", lines.message);
        let many: Vec<(String, String)> = (0..100).map(|n| (format!("k{n}"), "v".to_owned())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(line(format_args!("x"), &many).fields.len(), FIELDS_MAX);
    }
}
