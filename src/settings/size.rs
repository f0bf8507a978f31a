//! Byte sizes as people write them: `"64MiB"`, `"512KiB"`, `"1000B"`.

/// Units, longest name first. Powers of 1024 have an `i` (IEC 80000-13); powers of 1000 do not.
const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// What a size may look like, for error messages.
pub const ALLOWED: &str = "a whole number with a unit: B, KiB, MiB, GiB, kB, MB or GB, such as \"64MiB\"";

/// Parses a whole number with a unit, to bytes.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let bytes = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(bytes)
}

/// The largest binary unit that is exact, such as `64MiB`.
#[must_use]
pub fn format(bytes: u64) -> String {
    for (name, unit) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_write_them_so() {
        assert_eq!(parse("64MiB"), Some(64 << 20));
        assert_eq!(parse("1kB"), Some(1000));
        assert_eq!(parse("0B"), Some(0));
        for bad in ["", "1", "MiB", "1 MiB", "1mib", "-1B", "1.5MiB", "99999999999999999999B", "20000000TiB", "1MiBs"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses_back(bytes in 0u64..1 << 50) {
            prop_assert_eq!(parse(&format(bytes)), Some(bytes));
        }

        #[test]
        fn nothing_panics(text in ".{0,20}") {
            let _ = parse(&text);
        }
    }
}
