//! How far long work has come: a bar on a terminal, plain lines otherwise, both on standard error. Work that ends within a
//! second shows nothing.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::time::Instant;

/// Shorter work is not worth a line.
const QUIET: Duration = Duration::from_secs(1);
/// Between two plain lines.
const EVERY: Duration = Duration::from_secs(5);
/// Between two looks of a bar.
const REDRAW_HZ: u8 = 5;

/// The display of one piece of work. Dropped, it takes its bar away; plain lines stay.
#[derive(Debug)]
pub struct Progress {
    what: String,
    unit: &'static str,
    total: u64,
    began: Instant,
    /// When the next plain line is due.
    next: Instant,
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl Progress {
    /// `what` is done to `total` things (0: nobody knows how many), such as `rows`.
    #[must_use]
    pub fn new(what: impl Into<String>, total: u64, unit: &'static str) -> Self {
        let began = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Self { what: what.into(), unit, total, began, next: began + QUIET, bar: None, terminal }
    }

    /// What is known of the whole by now.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// So many are done. Cheap: may be called for every row.
    pub fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let now = Instant::now();
        if now < self.next {
            return;
        }
        if self.terminal {
            self.bar = Some(self.draw(done));
            return;
        }
        self.next = now + EVERY;
        // There is nobody left to tell that standard error is gone.
        let _ = writeln!(std::io::stderr(), "{}", line(&self.what, self.unit, done, self.total, now - self.began));
    }

    /// A line of its own, above the bar if there is one.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
    }

    fn draw(&self, done: u64) -> ProgressBar {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAW_HZ);
        let bar = ProgressBar::with_draw_target((self.total > 0).then_some(self.total), target);
        let (what, unit, total, began) = (self.what.clone(), self.unit, self.total, self.began);
        let known = total > 0;
        let template = if known { "{line} {wide_bar}" } else { "{spinner} {line}" };
        // The template is ours and a test draws it: a bad one would only lose the bar.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.with_key("line", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let total = state.len().unwrap_or(total);
            // A line that cannot be written is a bar without text.
            let _ = out.write_str(&line(&what, unit, state.pos(), total, began.elapsed()));
        }));
        bar.set_position(done);
        bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `copying: 1200 of 2000 rows (60 %), 600 rows/s, 2 s left`; what is not known is left out.
fn line(what: &str, unit: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let mut text = match total {
        0 => format!("{what}: {done} {unit}"),
        // What was counted before may have grown since.
        _ => format!("{what}: {done} of {total} {unit} ({} %)", (done.min(total)).saturating_mul(100) / total),
    };
    let seconds = elapsed.as_secs_f64();
    if done == 0 || seconds <= 0.0 {
        return text;
    }
    // Doubles hold every count that a table can have.
    let rate = done as f64 / seconds;
    text += &format!(", {rate:.0} {unit}/s");
    if total > done {
        text += &format!(", {} left", left((total - done) as f64 / rate));
    }
    text
}

/// Seconds as a person says them.
fn left(seconds: f64) -> String {
    match seconds.ceil() {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6_000.0 => format!("{:.0} min", (s / 60.0).ceil()),
        s => format!("{:.0} h", (s / 3_600.0).ceil()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let two = Duration::from_secs(2);
        for (done, total, elapsed, expected) in [
            (0, 0, two, "copying: 0 rows"),
            (10, 0, two, "copying: 10 rows, 5 rows/s"),
            (0, 200, two, "copying: 0 of 200 rows (0 %)"),
            (50, 200, Duration::ZERO, "copying: 50 of 200 rows (25 %)"),
            (50, 200, two, "copying: 50 of 200 rows (25 %), 25 rows/s, 6 s left"),
            (1, 1_000, two, "copying: 1 of 1000 rows (0 %), 0 rows/s, 34 min left"),
            (1, 1_000_000, two, "copying: 1 of 1000000 rows (0 %), 0 rows/s, 556 h left"),
            (200, 200, two, "copying: 200 of 200 rows (100 %), 100 rows/s"),
            (300, 200, two, "copying: 300 of 200 rows (100 %), 150 rows/s"),
        ] {
            assert_eq!(line("copying", "rows", done, total, elapsed), expected);
        }
    }

    #[test]
    fn both_bars_can_be_drawn() {
        for total in [0, 10] {
            let mut progress = Progress::new("copying", total, "rows");
            let bar = progress.draw(3);
            assert_eq!(bar.position(), 3);
            progress.bar = Some(bar);
            progress.set_total(20);
            progress.at(7);
            let bar = progress.bar.as_ref().unwrap();
            assert_eq!((bar.position(), bar.length()), (7, Some(20)));
        }
    }
}
