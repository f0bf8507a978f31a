//! Between who logs and who writes: a bounded queue and one thread, so that a log that nobody reads stops nobody.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use log::Level;
use tokio::time::Instant;

use super::limit::{Admission, Limit, Place, Summary};
use super::line::Line;
use super::sink::Sink;
use crate::clock::{SystemWall, Wall as _};

/// Lines that wait to be written; one more is dropped and counted.
const LINES: usize = 8_192;
/// Memory that they may take.
const BYTES: usize = 8 << 20;
/// Levels, from the worst.
pub const LEVELS: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

/// Counters of the log since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Lines given to the writer, in the order of [`LEVELS`].
    pub lines: [u64; LEVELS.len()],
    /// Lines left out because too many of their kind came.
    pub suppressed: u64,
    /// Lines lost: the queue was full, or writing failed.
    pub dropped: u64,
    /// Memory of the lines that wait.
    pub queued_bytes: usize,
}

/// The queue's shared end.
#[derive(Debug)]
pub(super) struct Queue {
    sender: SyncSender<Line>,
    limit: Mutex<Limit>,
    lines: [AtomicU64; LEVELS.len()],
    suppressed: AtomicU64,
    dropped: AtomicU64,
    bytes: AtomicUsize,
    sent: AtomicU64,
    /// Lines written or lost while writing.
    written: Mutex<u64>,
    progress: Condvar,
}

impl Queue {
    /// A queue and what the writer takes from it.
    #[must_use]
    pub(super) fn new() -> (Arc<Self>, Receiver<Line>) {
        let (sender, receiver) = sync_channel(LINES);
        let queue = Self {
            sender,
            limit: Mutex::default(),
            lines: [const { AtomicU64::new(0) }; LEVELS.len()],
            suppressed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            written: Mutex::new(0),
            progress: Condvar::new(),
        };
        (Arc::new(queue), receiver)
    }

    // No critical section leaves the windows half changed.
    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line may be shown; one that is left out is counted. Asked before the line is made.
    pub(super) fn admit(
        &self,
        place: Place,
        of: (Level, &str),
        monitor: Option<u64>,
        name: impl FnOnce() -> Option<String>,
    ) -> Admission {
        let admission = self.limit().admit(place, of, monitor, Instant::now(), name);
        if admission == Admission::LeftOut {
            self.suppressed.fetch_add(1, Relaxed);
        }
        admission
    }

    /// The text of a window's first line.
    pub(super) fn describe(&self, place: Place, text: String) {
        self.limit().describe(place, text);
    }

    /// Gives a line to the writer; never waits.
    pub(super) fn push(&self, line: Line) {
        let (cost, level) = (line.cost(), line.level);
        if self.bytes.fetch_add(cost, Relaxed) + cost > BYTES || self.sender.try_send(line).is_err() {
            self.bytes.fetch_sub(cost, Relaxed);
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        self.sent.fetch_add(1, Relaxed);
        let slot = LEVELS.iter().position(|known| *known == level).and_then(|at| self.lines.get(at));
        slot.map(|count| count.fetch_add(1, Relaxed));
    }

    /// The counters.
    #[must_use]
    pub(super) fn stats(&self) -> LogStats {
        LogStats {
            lines: std::array::from_fn(|at| self.lines.get(at).map_or(0, |count| count.load(Relaxed))),
            suppressed: self.suppressed.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            queued_bytes: self.bytes.load(Relaxed),
        }
    }

    /// Tells what was left out so far, and waits until all lines are written, for so long at most.
    pub(super) fn flush(&self, most: Duration) {
        let summaries = self.limit().close(Instant::now(), true);
        let now = SystemWall.now();
        summaries.into_iter().for_each(|summary| self.push(told(summary, now)));
        let wanted = self.sent.load(Relaxed);
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it was in time changes nothing any more.
        let _ = self.progress.wait_timeout_while(written, most, |written| *written < wanted);
    }

    /// Takes lines until the program ends.
    pub(super) fn write(&self, lines: &Receiver<Line>, mut sink: Sink) {
        let mut told_dropped = 0;
        loop {
            let wait = self.limit().next_end().map(|end| end.saturating_duration_since(Instant::now()));
            let line = match wait {
                Some(wait) => match lines.recv_timeout(wait) {
                    Ok(line) => Some(line),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
                None => match lines.recv() {
                    Ok(line) => Some(line),
                    Err(_) => return,
                },
            };
            if let Some(line) = line {
                self.bytes.fetch_sub(line.cost(), Relaxed);
                self.put(&mut sink, &line);
                *self.written.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                self.progress.notify_all();
            }
            let now = SystemWall.now();
            for summary in self.limit().close(Instant::now(), false) {
                self.put(&mut sink, &told(summary, now));
            }
            let dropped = self.dropped.load(Relaxed);
            if dropped > told_dropped {
                let text = format!("{} log lines were lost: nobody read the log fast enough", dropped - told_dropped);
                let notice = Line::own(now, Level::Warn, module_path!().to_owned(), &text, Vec::new());
                // Lost as well: told with the next.
                if sink.write(&notice).is_ok() {
                    told_dropped = dropped;
                }
            }
        }
    }

    fn put(&self, sink: &mut Sink, line: &Line) {
        if sink.write(line).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The line that stands for those that were left out.
fn told(summary: Summary, at: DateTime<Utc>) -> Line {
    let Summary { level, target, count, within, text, examples } = summary;
    let seconds = within.as_secs().max(1);
    let like = if text.is_empty() { String::new() } else { format!(" like {text:?}") };
    let of = if examples.is_empty() { String::new() } else { format!(", of {} among others", examples.join(", ")) };
    let text = format!("… and {count} more lines{like} in the last {seconds} s{of}");
    Line::own(at, level, target, &text, vec![("suppressed".to_owned(), count.to_string())])
}
