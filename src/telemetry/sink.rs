//! Where lines go: the journal's own protocol, or standard error.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use log::kv::{Key, Source, Value, VisitSource};
use log::{Level, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use super::line::Line;

/// Between tries to write to a standard error that is full and does not block.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// How a line on standard error looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Time, level, text, fields.
    Plain,
    /// The same with the level in colour.
    Colours,
    /// For the journal behind standard error, which adds the time: the level as sd-daemon(3) says.
    Prefixed,
}

impl Look {
    /// What fits standard error; `colours` is the user's wish.
    #[must_use]
    pub(super) fn of_stderr(colours: bool) -> Self {
        if connected_to_journal() {
            Self::Prefixed
        } else if colours && io::stderr().is_terminal() {
            Self::Colours
        } else {
            Self::Plain
        }
    }
}

/// Where lines go.
pub(super) struct Sink {
    journal: Option<JournalLog>,
    stderr: File,
    look: Look,
    buffer: String,
}

impl Sink {
    /// The journal when standard error leads there, else standard error. Its descriptor is a copy: a write that blocks
    /// must not hold the lock of the standard library, which the end of the program needs.
    ///
    /// # Errors
    /// When standard error is closed.
    pub(super) fn open(colours: bool) -> io::Result<Self> {
        let look = Look::of_stderr(colours);
        let journal = if look == Look::Prefixed { JournalLog::empty().ok() } else { None };
        let journal = journal.map(|journal| journal.with_syslog_identifier("lamplighter".to_owned()));
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Ok(Self { journal, stderr, look, buffer: String::new() })
    }

    /// Writes a line; may wait for as long as nobody reads. An error means that it is lost.
    pub(super) fn write(&mut self, line: &Line) -> io::Result<()> {
        if let Some(journal) = &self.journal
            && send(journal, line).is_ok()
        {
            return Ok(());
        }
        // Without the journal's own socket the stream behind standard error may still be read.
        self.buffer.clear();
        show(&mut self.buffer, line, self.look);
        write_all(&self.stderr, self.buffer.as_bytes())
    }
}

fn write_all(mut to: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody shares the terminal and made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Appends a line as standard error gets it.
pub(super) fn show(out: &mut String, line: &Line, look: Look) {
    // Collecting into a String cannot fail.
    let _ = match look {
        Look::Prefixed => write!(out, "<{}>", priority(line.level)),
        Look::Plain => write!(out, "{} {:5} ", line.at.format("%FT%T%.3fZ"), line.level),
        Look::Colours => {
            let colour = match line.level {
                Level::Error => "\u{1b}[1;31m",
                Level::Warn => "\u{1b}[33m",
                Level::Info => "\u{1b}[32m",
                Level::Debug => "\u{1b}[34m",
                Level::Trace => "\u{1b}[2m",
            };
            write!(out, "{} {colour}{:5}\u{1b}[0m ", line.at.format("%FT%T%.3fZ"), line.level)
        }
    };
    out.push_str(&line.message);
    for (name, value) in &line.fields {
        // Unquoted, a value could pass for the next field.
        let _ = if value.is_empty() || value.contains([' ', '"', '=', '\\']) {
            write!(out, " {name}=\"{}\"", value.replace('"', "\\\""))
        } else {
            write!(out, " {name}={value}")
        };
    }
    out.push('\n');
}

/// As the journal's library maps them.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 5,
        Level::Debug => 6,
        Level::Trace => 7,
    }
}

fn send(journal: &JournalLog, line: &Line) -> io::Result<()> {
    let fields = Named(&line.fields);
    let mut builder = Record::builder();
    builder.level(line.level).target(&line.target).key_values(&fields);
    if let Some((file, number)) = line.place {
        builder.file_static(Some(file)).line(Some(number));
    }
    journal.journal_send(&builder.args(format_args!("{}", line.message)).build())
}

/// Puts our key-values under the names of the contract (section 5); others keep theirs, in capitals.
struct Named<'a>(&'a [(String, String)]);

impl Source for Named<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        for (name, value) in self.0 {
            let name = match name.as_str() {
                "monitor" => "LAMPLIGHTER_MONITOR",
                "monitor_id" => "LAMPLIGHTER_MONITOR_ID",
                "failure" => "LAMPLIGHTER_FAILURE",
                "incident" => "LAMPLIGHTER_INCIDENT",
                name => name,
            };
            visitor.visit_pair(Key::from_str(name), Value::from(value.as_str()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    #[test]
    fn a_line_in_every_look() {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields =
            vec![field("monitor", "Web shop\" failure=x"), field("failure", "dns_timeout"), field("empty", "")];
        let at = DateTime::from_timestamp_millis(1_795_348_800_123).unwrap();
        let line = Line::own(at, Level::Warn, "t".to_owned(), "down", fields);
        let shown = |look| {
            let mut out = String::new();
            show(&mut out, &line, look);
            out
        };
        let rest = r#"down monitor="Web shop\" failure=x" failure=dns_timeout empty="""#;
        assert_eq!(shown(Look::Plain), format!("2026-11-22T12:00:00.123Z WARN  {rest}\n"));
        assert_eq!(shown(Look::Prefixed), format!("<4>{rest}\n"));
        assert_eq!(shown(Look::Colours), format!("2026-11-22T12:00:00.123Z \u{1b}[33mWARN \u{1b}[0m {rest}\n"));
    }
}
