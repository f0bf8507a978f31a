//! Durations as people write them: `"30s"`, `"5m"`, `"1h30m"`.

use std::time::Duration;

/// Units, largest first. A year is 365 days: retention, not a calendar.
const UNITS: &[(&str, u64)] = &[
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("ms", 1),
    ("m", 60_000),
    ("s", 1_000),
];

/// What a duration may look like, for error messages.
pub const ALLOWED: &str = "a number with a unit: ms, s, m, h, d, w or y, such as \"30s\" or \"1h30m\"";

/// Parses one or more whole numbers with units; at most 100 years, to the millisecond.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    const MOST_MS: u64 = 100 * 365 * 86_400_000;
    let mut rest = text;
    let mut total_ms: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms = UNITS.iter().find(|(name, _)| *name == &rest[..letters])?.1;
        rest = &rest[letters..];
        total_ms = total_ms.checked_add(number.checked_mul(unit_ms)?)?;
        if total_ms > MOST_MS {
            return None;
        }
    }
    Some(Duration::from_millis(total_ms))
}

/// The shortest exact form, such as `90d`, `1h30m` or `250ms`.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= unit_ms {
            text.push_str(&format!("{}{name}", left / unit_ms));
            left %= unit_ms;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_write_them_so() {
        let secs = |text| parse(text).map(|d| d.as_secs());
        assert_eq!(secs("30s"), Some(30));
        assert_eq!(secs("5m"), Some(300));
        assert_eq!(secs("1h30m"), Some(5400));
        assert_eq!(secs("90d"), Some(90 * 86_400));
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "s", "5 s", "-5s", "5S", "1.5s", "5sec", "200y", "99999999999999999999s", "5m-"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses_back(ms in 0u64..3_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&format(duration)), Some(duration));
        }

        #[test]
        fn nothing_panics(text in ".{0,20}") {
            let _ = parse(&text);
        }
    }
}
