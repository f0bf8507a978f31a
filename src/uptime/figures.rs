//! Sums of a window, and how they are shown.

use super::{Blind, What};

/// How much of a window was what, in whole microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Up or degraded.
    pub up: i64,
    /// Down.
    pub down: i64,
    /// Under maintenance that is left out.
    pub maintenance: i64,
    /// Not observed, by [`Blind::rank`].
    unobserved: [i64; Blind::ALL.len()],
    /// Incidents that took part in `down`.
    pub incidents: usize,
}

impl Figures {
    pub(super) fn add_span(&mut self, what: &What, micros: i64) {
        let part = match what {
            What::Up => &mut self.up,
            What::Down(_) => &mut self.down,
            What::Maintenance(_) => &mut self.maintenance,
            What::Unobserved(blind) => match self.unobserved.get_mut(blind.rank()) {
                Some(part) => part,
                None => return,
            },
        };
        *part = part.saturating_add(micros);
    }

    /// Adds those of another monitor. The sums stay exact for 29,000 monitors over ten years, and saturate then.
    pub fn add(&mut self, other: &Self) {
        for (part, more) in
            [(&mut self.up, other.up), (&mut self.down, other.down), (&mut self.maintenance, other.maintenance)]
        {
            *part = part.saturating_add(more);
        }
        for (part, more) in self.unobserved.iter_mut().zip(other.unobserved) {
            *part = part.saturating_add(more);
        }
        self.incidents += other.incidents;
    }

    /// What the percentage rests on: up and down.
    #[must_use]
    pub const fn counted(&self) -> i64 {
        self.up.saturating_add(self.down)
    }

    /// Not observed, whatever the reason.
    #[must_use]
    pub fn unobserved(&self) -> i64 {
        self.unobserved.iter().copied().fold(0, i64::saturating_add)
    }

    /// Not observed, by reason; those that there were.
    pub fn reasons(&self) -> impl Iterator<Item = (Blind, i64)> + '_ {
        Blind::ALL.iter().copied().zip(self.unobserved).filter(|(_, micros)| *micros > 0)
    }

    /// Per cent; none when nothing counts. 100 only if there was no downtime.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        share(self.up, self.counted()).map(|share| {
            let percent = 100.0 * share;
            // The nearest double of less than everything may be everything.
            if self.down > 0 { percent.min(100_f64.next_down()) } else { percent }
        })
    }

    /// The share of the window, maintenance taken out, that was observed; none when all of it was maintenance.
    #[must_use]
    pub fn coverage(&self) -> Option<f64> {
        share(self.counted(), self.counted().saturating_add(self.unobserved()))
    }
}

fn share(part: i64, whole: i64) -> Option<f64> {
    // Whole microseconds of up to 285 years are exact in a double.
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// `99.98%`: with so many digits behind the point, rounded down, so that what is shown is never better than what was.
/// `-` when nothing counts.
#[must_use]
pub fn percent_text(figures: &Figures, digits: u32) -> String {
    let counted = i128::from(figures.counted());
    if counted <= 0 {
        return "-".to_owned();
    }
    let unit = 10_i128.pow(digits.min(9));
    let parts = i128::from(figures.up) * 100 * unit / counted;
    let (whole, rest) = (parts / unit, parts % unit);
    if digits == 0 {
        return format!("{whole}%");
    }
    format!("{whole}.{rest:0width$}%", width = digits.min(9) as usize)
}
