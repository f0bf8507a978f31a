//! Logging: fields to the journal when standard error goes there, readable lines otherwise.

use std::io::Write as _;

use log::kv::{Key, Source, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Log target of this program's modules.
const OURS: &str = "lamplighter";
/// Level of everything else.
const LIBRARIES: LevelFilter = LevelFilter::Warn;

/// Starts logging. Call once; a second call is an error of the caller and reported as text.
pub fn start(level: LevelFilter) -> Result<(), String> {
    if connected_to_journal()
        && let Ok(journal) = JournalLog::new()
    {
        let journal = journal.with_syslog_identifier("lamplighter".to_owned());
        log::set_boxed_logger(Box::new(Journal(journal))).map_err(|error| error.to_string())?;
        log::set_max_level(level);
        return Ok(());
    }
    env_logger::Builder::new()
        // A level is a wish about this program. Of libraries only warnings are heard: a file watcher that logs every event
        // would otherwise log the writing of the log.
        .filter_level(LIBRARIES)
        .filter_module(OURS, LevelFilter::Trace)
        .format(|out, record| {
            let style = out.default_level_style(record.level());
            let time = out.timestamp_millis();
            let text = record.args().to_string();
            write!(out, "{time} {style}{:5}{style:#} {}", record.level(), lines(&text))?;
            let mut fields = String::new();
            // Collecting into a String cannot fail.
            let _ = record.key_values().visit(&mut Fields(&mut fields));
            writeln!(out, "{fields}")
        })
        .try_init()
        .map_err(|error| error.to_string())?;
    log::set_max_level(level);
    Ok(())
}

/// Changes the level of a running program (`daemon.log_level` on reload).
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        let value = value.to_string();
        self.0.push_str(&format!(" {}={}", key.as_str(), escape(&value)));
        Ok(())
    }
}

/// Several lines, such as the findings about a configuration: those after the first are indented, so that none looks like
/// a line of its own.
fn lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n    ")
}

/// Control characters and bidirectional overrides in foreign text cannot forge a line.
#[must_use]
pub fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    let hostile = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(hostile) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hostile(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.into()
}

/// Puts our key-values under the names of the contract (section 5); others keep theirs.
struct Journal(JournalLog);

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (metadata.target().starts_with(OURS) || metadata.level() <= LIBRARIES) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let fields = Renamed(record.key_values());
        let mut builder = record.to_builder();
        self.0.log(&builder.key_values(&fields).build());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

struct Renamed<'a>(&'a dyn Source);

impl Source for Renamed<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        struct Rename<'v, 'kvs>(&'v mut dyn VisitSource<'kvs>);
        impl<'kvs> VisitSource<'kvs> for Rename<'_, 'kvs> {
            fn visit_pair(&mut self, key: Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
                let key = match key.as_str() {
                    "monitor" => Key::from_str("LAMPLIGHTER_MONITOR"),
                    "monitor_id" => Key::from_str("LAMPLIGHTER_MONITOR_ID"),
                    "failure" => Key::from_str("LAMPLIGHTER_FAILURE"),
                    "incident" => Key::from_str("LAMPLIGHTER_INCIDENT"),
                    _ => key,
                };
                self.0.visit_pair(key, value)
            }
        }
        self.0.visit(&mut Rename(visitor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_forge_a_line() {
        assert_eq!(escape("fine – ü"), "fine – ü");
        assert_eq!(lines("one\ntwo\u{7}"), "one\n    two\\u{7}");
        assert_eq!(escape("a\nb\u{1b}[31m\u{202e}c"), "a\\nb\\u{1b}[31m\\u{202e}c");
    }
}
