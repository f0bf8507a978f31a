//! Limits repeats: a storm of lines of one place in the code becomes a few of them and a line that counts the rest.
//!
//! The key is the place (target, line, level) and within it the monitor. In a window of ten seconds a place may log the
//! first line of [`BURST`] monitors and [`BURST`] repeats, so a monitor that changes all the time takes no other's line.
//! Nothing is lost in silence: what is left out is counted, and told at the end of the window.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// First lines of different monitors, and again so many repeats, in a window.
pub(super) const BURST: usize = 20;
/// How long a window lasts; it begins with the first line.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Places that are told apart; what is beyond shares one window.
const PLACES_MOST: usize = 1024;
/// Monitors that a summary names.
const EXAMPLES: usize = 3;

/// A place, by the hash of what makes it.
pub(super) type Place = u64;

/// What is to become of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is shown and opens a window: tell the limit its text, for the summary.
    First,
    /// It is shown.
    Shown,
    /// It is counted.
    LeftOut,
}

/// What was left out of a place in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Of the lines.
    pub(super) level: log::Level,
    /// Of the lines.
    pub(super) target: String,
    /// How many were left out.
    pub(super) count: u64,
    /// The window's length.
    pub(super) within: Duration,
    /// The first line of the window.
    pub(super) text: String,
    /// Monitors whose lines were left out, some of them.
    pub(super) examples: Vec<String>,
}

#[derive(Debug)]
struct Window {
    opened: Instant,
    /// Monitors whose first line was shown.
    shown: Vec<u64>,
    repeats: usize,
    left_out: u64,
    level: log::Level,
    target: String,
    text: String,
    examples: Vec<String>,
}

/// The open windows. Bounded: at most a thousand, of some hundred bytes.
#[derive(Debug, Default)]
pub(super) struct Limit {
    windows: HashMap<Place, Window>,
}

impl Limit {
    /// Decides about a line. `monitor` is the hash of its monitor, if it has one; `name` is asked for when it is left out.
    pub(super) fn admit(
        &mut self,
        place: Place,
        (level, target): (log::Level, &str),
        monitor: Option<u64>,
        now: Instant,
        name: impl FnOnce() -> Option<String>,
    ) -> Admission {
        let crowded = self.windows.len() >= PLACES_MOST && !self.windows.contains_key(&place);
        let place = if crowded { 0 } else { place };
        let mut opened = false;
        let window = self.windows.entry(place).or_insert_with(|| {
            opened = true;
            Window {
                opened: now,
                shown: Vec::new(),
                repeats: 0,
                left_out: 0,
                level,
                target: target.chars().take(100).collect(),
                text: String::new(),
                examples: Vec::new(),
            }
        });
        let is_new = monitor.filter(|monitor| !window.shown.contains(monitor));
        match is_new {
            Some(monitor) if window.shown.len() < BURST => window.shown.push(monitor),
            None if window.repeats < BURST => window.repeats += 1,
            _ => {
                window.left_out += 1;
                if window.examples.len() < EXAMPLES
                    && let Some(name) = name().filter(|name| !window.examples.contains(name))
                {
                    window.examples.push(name);
                }
                return Admission::LeftOut;
            }
        }
        if opened && !crowded { Admission::First } else { Admission::Shown }
    }

    /// The text of a window's first line.
    pub(super) fn describe(&mut self, place: Place, text: String) {
        if let Some(window) = self.windows.get_mut(&place) {
            window.text = text;
        }
    }

    /// When the next window ends.
    #[must_use]
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.windows.values().map(|window| window.opened + WINDOW).min()
    }

    /// Closes windows: those that have ended, or all of them; what they left out.
    pub(super) fn close(&mut self, now: Instant, all: bool) -> Vec<Summary> {
        let ended = self.windows.extract_if(|_, window| all || now.saturating_duration_since(window.opened) >= WINDOW);
        let told = ended.filter(|(_, window)| window.left_out > 0).map(|(_, window)| Summary {
            level: window.level,
            target: window.target,
            count: window.left_out,
            within: now.saturating_duration_since(window.opened),
            text: window.text,
            examples: window.examples,
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    const WHERE: (Level, &str) = (Level::Warn, "here");

    fn none() -> Option<String> {
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_becomes_a_few_lines_and_a_count() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let mut shown = Vec::new();
        for monitor in 0..10_000_u64 {
            let name = || Some(format!("m{monitor}"));
            let admission = limit.admit(7, WHERE, Some(monitor), start, name);
            if admission == Admission::First {
                limit.describe(7, "down".to_owned());
            }
            if admission != Admission::LeftOut {
                shown.push(monitor);
            }
        }
        assert_eq!(shown, (0..20).collect::<Vec<_>>());
        assert_eq!(limit.next_end(), Some(start + WINDOW));
        assert_eq!(limit.close(start + WINDOW - Duration::from_millis(1), false), []);
        let summaries = limit.close(start + WINDOW, false);
        let [summary] = &summaries[..] else { panic!("{summaries:?}") };
        assert_eq!((summary.count, summary.within, summary.text.as_str()), (9_980, WINDOW, "down"));
        assert_eq!(summary.examples, ["m20", "m21", "m22"]);
        // The next window begins anew.
        assert_eq!(limit.admit(7, WHERE, Some(1), start + WINDOW, none), Admission::First);
    }

    #[tokio::test(start_paused = true)]
    async fn a_noisy_monitor_hides_no_other() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        for _ in 0..1_000 {
            limit.admit(7, WHERE, Some(1), now, none);
        }
        for monitor in 2..=20 {
            assert_eq!(limit.admit(7, WHERE, Some(monitor), now, none), Admission::Shown, "{monitor}");
        }
        // Another place has a window of its own, and so have lines without a monitor.
        assert_eq!(limit.admit(8, WHERE, None, now, none), Admission::First);
        let shown = (0..100).filter(|_| limit.admit(8, WHERE, None, now, none) == Admission::Shown).count();
        assert_eq!(shown, BURST - 1);
        let mut counts: Vec<u64> = limit.close(now, true).into_iter().map(|summary| summary.count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [81, 979]);
    }

    #[tokio::test(start_paused = true)]
    async fn its_memory_is_bounded() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        for place in 1..=100_000 {
            limit.admit(place, WHERE, Some(place), now, none);
        }
        assert_eq!(limit.windows.len(), PLACES_MOST + 1);
        let left_out: u64 = limit.close(now, true).iter().map(|summary| summary.count).sum();
        assert_eq!(left_out, 100_000 - PLACES_MOST as u64 - BURST as u64);
    }
}
