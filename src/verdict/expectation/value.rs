//! `value = { above = 0 }`: what a query's answer is held against.

use std::fmt;

use regex::Regex;

use super::{exactly_one, pattern};
use crate::settings::reader::TableReader;
use crate::settings::tree::Value;

/// A test of one value that a query gave, which came as text.
#[derive(Debug)]
pub enum ValueTest {
    /// `equals`: the same text, or two numbers that are equal.
    Equals(Wanted),
    /// `not_equals`.
    NotEquals(Wanted),
    /// `above`: a number, and greater.
    Above(f64),
    /// `below`: a number, and less.
    Below(f64),
    /// `matches`.
    Matches(Regex),
}

/// What a value should, or should not, be.
#[derive(Debug)]
pub enum Wanted {
    /// A text or a number.
    Text(Box<str>),
    /// true or false, which PostgreSQL writes as t or f, and MySQL as 1 or 0.
    Truth(bool),
}

impl Wanted {
    fn is(&self, value: &str) -> bool {
        match self {
            Self::Text(wanted) => same(wanted, value),
            Self::Truth(true) => matches!(value, "t" | "true" | "1"),
            Self::Truth(false) => matches!(value, "f" | "false" | "0"),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(wanted) => write!(f, "{wanted:?}"),
            Self::Truth(wanted) => write!(f, "{wanted}"),
        }
    }
}

impl ValueTest {
    /// Reads `value`: a table with one test, or a scalar, which is `equals`.
    pub(super) fn read(expect: &mut TableReader<'_>) -> Option<Self> {
        let node = expect.node("value")?;
        if !matches!(node.value, Value::Table(_)) {
            return scalar(expect, "value").map(Self::Equals);
        }
        let mut table = expect.table("value")?;
        let tests = ["equals", "not_equals", "above", "below", "matches"];
        let test = exactly_one(&mut table, &tests).and_then(|key| match key {
            "equals" => scalar(&mut table, key).map(Self::Equals),
            "not_equals" => scalar(&mut table, key).map(Self::NotEquals),
            "above" => super::json::number(&mut table, key).map(Self::Above),
            "below" => super::json::number(&mut table, key).map(Self::Below),
            _ => pattern::read(&mut table, key).map(Self::Matches),
        });
        table.finish(&|_| None);
        test
    }

    /// Whether a value holds.
    #[must_use]
    pub fn holds(&self, value: &str) -> bool {
        match self {
            Self::Equals(wanted) => wanted.is(value),
            Self::NotEquals(unwanted) => !unwanted.is(value),
            Self::Above(bound) => number(value).is_some_and(|number| number > *bound),
            Self::Below(bound) => number(value).is_some_and(|number| number < *bound),
            Self::Matches(regex) => regex.is_match(value),
        }
    }
}

impl fmt::Display for ValueTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals(wanted) => write!(f, "{wanted}"),
            Self::NotEquals(unwanted) => write!(f, "anything but {unwanted}"),
            Self::Above(bound) => write!(f, "a number above {bound}"),
            Self::Below(bound) => write!(f, "a number below {bound}"),
            Self::Matches(regex) => write!(f, "a match of {:?}", regex.as_str()),
        }
    }
}

fn scalar(table: &mut TableReader<'_>, key: &'static str) -> Option<Wanted> {
    let node = table.node(key)?;
    match &node.value {
        Value::String(_) => table.string_of(key, node).map(|text| Wanted::Text(text.into())),
        Value::Integer(integer) => Some(Wanted::Text(integer.to_string().into())),
        Value::Float(float) if float.is_finite() => Some(Wanted::Text(float.to_string().into())),
        Value::Boolean(flag) => Some(Wanted::Truth(*flag)),
        other => {
            let what = format!("found {}", other.type_name());
            table.error(key, what, "must be a string, a number, true, false, or such as { above = 0 }".to_owned());
            None
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| !number.is_nan())
}

#[allow(clippy::float_cmp, reason = "equals means equal")]
fn same(wanted: &str, value: &str) -> bool {
    // Whole numbers by themselves: beyond 2^53 neighbours are equal as floating point.
    let whole = |text: &str| text.trim().parse::<i128>().ok();
    match whole(wanted).zip(whole(value)) {
        Some((wanted, value)) => wanted == value,
        None => wanted == value || number(wanted).zip(number(value)).is_some_and(|(wanted, value)| wanted == value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers_and_text_as_text() {
        let text = |wanted: &str| Wanted::Text(wanted.into());
        let equals = |wanted, value| ValueTest::Equals(text(wanted)).holds(value);
        assert!(equals("1", "1") && equals("1", "1.0") && equals("ok", "ok") && equals("-3", "-3.00"));
        assert!(!equals("1", "2") && !equals("ok", "OK") && !equals("", "0") && !equals("nan", "NaN"));
        assert!(ValueTest::Above(0.0).holds("0.5") && !ValueTest::Above(0.0).holds("0"));
        assert!(!ValueTest::Above(0.0).holds("many") && ValueTest::Below(10.0).holds(" 9\n"));
        assert!(!ValueTest::NotEquals(text("1")).holds("1.0"));
        assert!(!equals("9007199254740993", "9007199254740992") && equals("9007199254740993", "09007199254740993"));
        for (truth, values) in [(true, ["t", "true", "1"]), (false, ["f", "false", "0"])] {
            for value in values {
                assert!(ValueTest::Equals(Wanted::Truth(truth)).holds(value), "{truth} {value}");
                assert!(!ValueTest::Equals(Wanted::Truth(!truth)).holds(value), "{truth} {value}");
            }
        }
        assert!(!ValueTest::Equals(Wanted::Truth(true)).holds("yes"));
        assert!(ValueTest::Matches(Regex::new("^a").unwrap()).holds("abc"));
    }
}
