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
