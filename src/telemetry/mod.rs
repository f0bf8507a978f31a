//! Logging: fields to the journal when standard error goes there, readable lines otherwise.
//!
//! ```text
//!  log::warn!(…) ─> filter ─> limit of repeats ─> line (clean, cut) ─> bounded queue ─> writer thread ─> journal | stderr
//! ```
//!
//! Who logs never waits: a line costs a few microseconds, whoever reads the log or does not.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use log::kv::Key;
use log::{Level, Log, Metadata, Record};

use self::filter::Filter;
use self::limit::Admission;
use self::line::Line;
use self::queue::Queue;
use self::sink::Sink;
use crate::clock::{SystemWall, Wall as _};
use crate::verdict::text;

pub use self::queue::{LEVELS, LogStats};

pub mod filter;
mod limit;
mod line;
mod queue;
mod sink;

/// How long the end of the program waits for the last lines.
const FLUSH: Duration = Duration::from_secs(2);
/// Characters of a line that a summary quotes, and of a monitor that it names.
const QUOTED: usize = 100;

/// The logger of the process, as the `log` crate has one.
static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    filter: ArcSwap<Filter>,
    queue: Arc<Queue>,
}

/// Writes the last lines when it goes, also in a panic.
#[derive(Debug)]
#[must_use]
pub struct Flush(());

impl Drop for Flush {
    fn drop(&mut self) {
        log::logger().flush();
    }
}

/// Starts logging. Call once; a second call is an error of the caller and reported as text.
/// `colours` is whether a terminal gets them.
///
/// # Errors
/// When standard error is closed, or there is no thread to be had.
pub fn start(filter: &Filter, colours: bool) -> Result<Flush, String> {
    let sink = Sink::open(colours).map_err(|error| error.to_string())?;
    let (queue, lines) = Queue::new();
    let logger = Logger { filter: ArcSwap::from_pointee(filter.clone()), queue: Arc::clone(&queue) };
    LOGGER.set(logger).map_err(|_| "logging has been started before".to_owned())?;
    let logger = LOGGER.get().ok_or("logging has no logger")?;
    std::thread::Builder::new()
        .name("log writer".to_owned())
        .spawn(move || queue.write(&lines, sink))
        .map_err(|error| error.to_string())?;
    log::set_logger(logger).map_err(|error| error.to_string())?;
    log::set_max_level(filter.most());
    Ok(Flush(()))
}

/// Changes what is logged in a running program (`daemon.log_level` on reload).
pub fn set_filter(filter: &Filter) {
    if let Some(logger) = LOGGER.get() {
        logger.filter.store(Arc::new(filter.clone()));
        log::set_max_level(filter.most());
    }
}

/// What the log counts; zeros before the start.
#[must_use]
pub fn stats() -> LogStats {
    LOGGER.get().map(|logger| logger.queue.stats()).unwrap_or_default()
}

/// Foreign text for one line of a terminal, whole: what could forge or hide a line is spelled out.
#[must_use]
pub fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    text::clean(text, usize::MAX, false).into()
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.filter.load().of(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Who asks for these wants all of them.
        let limited = record.level() <= Level::Info;
        let (mut first, place) = (false, place(record));
        if limited {
            let of = (record.level(), record.target());
            match self.queue.admit(place, of, monitor(record), || name(record)) {
                Admission::LeftOut => return,
                Admission::First => first = true,
                Admission::Shown => {}
            }
        }
        let line = Line::of(record, SystemWall.now());
        if first {
            self.queue.describe(place, text::clean(line.message.lines().next().unwrap_or_default(), QUOTED, false));
        }
        self.queue.push(line);
    }

    fn flush(&self) {
        self.queue.flush(FLUSH);
    }
}

fn place(record: &Record<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (record.target(), record.file(), record.line(), record.level()).hash(&mut hasher);
    // 0 is for what is beyond the number of places.
    hasher.finish().max(1)
}

/// Hashes what is written to it.
struct Hashed(DefaultHasher);

impl std::fmt::Write for Hashed {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn monitor(record: &Record<'_>) -> Option<u64> {
    let fields = record.key_values();
    let value = fields.get(Key::from_str("monitor_id")).or_else(|| fields.get(Key::from_str("monitor")))?;
    let mut hashed = Hashed(DefaultHasher::new());
    // Hashing cannot fail.
    let _ = write!(hashed, "{value}");
    Some(hashed.0.finish())
}

fn name(record: &Record<'_>) -> Option<String> {
    let fields = record.key_values();
    let value = fields.get(Key::from_str("monitor")).or_else(|| fields.get(Key::from_str("monitor_id")))?;
    Some(text::clean(&value.to_string(), QUOTED, false))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::sink::{Look, show};
    use super::*;

    fn logger(filter: &str) -> (Logger, Receiver<Line>) {
        let (queue, lines) = Queue::new();
        (Logger { filter: ArcSwap::from_pointee(Filter::parse(filter).unwrap()), queue }, lines)
    }

    fn log(logger: &Logger, (level, target, line): (Level, &str, u32), text: &str, fields: &[(&str, &str)]) {
        let args = format_args!("{text}");
        let mut record = Record::builder();
        record.level(level).target(target).file_static(Some("src/x.rs")).line(Some(line)).key_values(&fields);
        logger.log(&record.args(args).build());
    }

    /// What others may put into a line: names, urls, answers, errors of a database, texts of a configuration.
    const HOSTILE: &[&str] = &[
        "a\nb",
        "a\r\n2026-01-01T00:00:00.000Z ERROR forged",
        "\u{1b}[2J\u{1b}]0;title\u{7}",
        "\u{9b}31m",
        "\0",
        "\u{202e}gnp.exe\u{2066}",
        "\u{2028}\u{2029}\u{85}\u{b}\u{c}\u{8}\u{7f}",
        "\u{200b}\u{feff}\u{ad}\u{e0041}",
        "\u{fffd}\u{d7ff}\u{e000}",
        "x\" failure=\"none",
        "<3>forged priority",
        "PRIORITY=0\nMESSAGE=forged",
    ];

    #[test]
    fn hostile_text_forges_no_line_in_any_place() {
        let (logger, lines) = logger("info");
        let fields = ["monitor", "monitor_id", "failure", "incident", "thread", "task", "uid", "error"];
        let mut place = 0;
        let mut check = |text: &str, fields: &[(&str, &str)]| {
            // A place of its own each time: this is not about repeats.
            place += 1;
            log(&logger, (Level::Warn, "lamplighter::store", place), text, fields);
            let line = lines.try_recv().unwrap();
            for look in [Look::Plain, Look::Prefixed] {
                let mut shown = String::new();
                show(&mut shown, &line, look);
                let body = shown.strip_suffix('\n').unwrap();
                let bad = body.chars().find(|c| text::is_hostile(*c) && *c != '\n');
                assert_eq!(bad, None, "{body:?}");
                assert!(body.lines().skip(1).all(|line| line.starts_with("    ")), "{body:?}");
                assert!(!body.starts_with("<3>") && body.lines().count() <= 1 + text.lines().count(), "{body:?}");
            }
            // The journal gets the same texts, each with its length before it, so that no field begins in another.
            assert!(line.fields.iter().all(|(name, value)| !name.contains('\n') && !value.contains('\n')), "{line:?}");
        };
        for hostile in HOSTILE {
            check(&format!("the database is away: {hostile}; results wait"), &[]);
            for field in fields {
                check("down", &[(field, hostile)]);
            }
            check(hostile, &[(hostile, hostile)]);
        }
        let long = "x\u{1b}".repeat(1 << 20);
        check(&long, &[("monitor", &long)]);
    }

    #[test]
    fn levels_hold_before_anything_is_counted() {
        let (logger, lines) = logger("warn,probe=debug");
        log(&logger, (Level::Info, "lamplighter::store", 1), "no", &[]);
        log(&logger, (Level::Info, "sqlx::query", 1), "no", &[]);
        log(&logger, (Level::Debug, "lamplighter::probe::pool", 1), "yes", &[]);
        assert_eq!(lines.try_iter().map(|line| line.message).collect::<Vec<_>>(), ["yes"]);
        let stats = logger.queue.stats();
        assert_eq!((stats.lines, stats.suppressed), ([0, 0, 0, 1, 0], 0));
    }

    #[test]
    fn a_storm_is_limited_and_debug_lines_are_not() {
        let (logger, lines) = logger("debug");
        for n in 0..10_000 {
            let name = format!("m{n}");
            log(&logger, (Level::Warn, "lamplighter::verdict", 1), "down", &[("monitor", &name)]);
        }
        for n in 0..1_000 {
            log(&logger, (Level::Debug, "lamplighter::verdict", 2), &n.to_string(), &[]);
        }
        log(&logger, (Level::Warn, "lamplighter::verdict", 3), "another place", &[]);
        assert_eq!(lines.try_iter().count(), limit::BURST + 1_000 + 1);
        assert_eq!(logger.queue.stats().suppressed, 9_980);
        // Nobody writes, and the end waits no longer than it was told.
        logger.queue.flush(Duration::from_millis(10));
        let last: Vec<String> = lines.try_iter().map(|line| line.message).collect();
        let summary = "… and 9980 more lines like \"down\" in the last 1 s, of m20, m21, m22 among others";
        assert_eq!(last, [summary]);
    }

    #[test]
    fn who_logs_never_waits_for_who_writes() {
        let (logger, lines) = logger("trace");
        let text = "x".repeat(10_000);
        for n in 0..20_000 {
            log(&logger, (Level::Trace, "lamplighter::x", n), &text, &[]);
        }
        let stats = logger.queue.stats();
        assert!(stats.dropped > 10_000 && stats.queued_bytes <= 8 << 20, "{stats:?}");
        let kept = lines.try_iter().count() as u64;
        assert_eq!((stats.lines[4], kept + stats.dropped), (kept, 20_000));
    }
}
