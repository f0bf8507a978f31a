//! Moments as people write them on a command line.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

use crate::settings::duration;

/// What a moment may look like, for error messages.
const ALLOWED: &str = "a time such as 2026-11-22T12:00:00Z, a day such as 2026-11-22 (its beginning in UTC), or how long ago, \
    such as 30d or \"12h ago\"";

/// A moment, some of which are told from the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    At(DateTime<Utc>),
    Ago(Duration),
}

impl Moment {
    pub(super) fn before(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            // Spans are a hundred years at the most.
            Self::Ago(span) => now - TimeDelta::from_std(span).unwrap_or_default(),
        }
    }
}

/// For clap.
pub(super) fn parse(text: &str) -> Result<Moment, String> {
    read(text.trim()).ok_or_else(|| ALLOWED.to_owned())
}

fn read(text: &str) -> Option<Moment> {
    let at = |at: DateTime<Utc>| (0..253_402_300_800).contains(&at.timestamp()).then_some(Moment::At(at));
    if text == "now" {
        return Some(Moment::Ago(Duration::ZERO));
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return at(time.to_utc());
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return at(day.and_time(NaiveTime::MIN).and_utc());
    }
    let span = text.strip_suffix("ago").map_or(text, str::trim_end);
    duration::parse(span).map(Moment::Ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_them_so() {
        let at = |text: &str| Moment::At(DateTime::parse_from_rfc3339(text).unwrap().to_utc());
        for (text, moment) in [
            ("2026-11-22T12:00:00Z", at("2026-11-22T12:00:00Z")),
            ("2026-11-22T13:00:00.5+01:00", at("2026-11-22T12:00:00.5Z")),
            ("2026-11-22", at("2026-11-22T00:00:00Z")),
            ("30d", Moment::Ago(Duration::from_secs(30 * 86_400))),
            ("30d ago", Moment::Ago(Duration::from_secs(30 * 86_400))),
            ("1h30m ago", Moment::Ago(Duration::from_secs(5400))),
            ("now", Moment::Ago(Duration::ZERO)),
        ] {
            assert_eq!(parse(text), Ok(moment), "{text}");
        }
        for bad in ["", "ago", "yesterday", "2026-13-01", "2026-11-22 12:00", "30", "1969-01-01", "-1d", "22.11.2026"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
