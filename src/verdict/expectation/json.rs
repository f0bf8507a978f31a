//! `json = [{ path = "$.status", equals = "UP" }]`.

use std::fmt;

use regex::Regex;
use serde_json_path::JsonPath;

use super::{exactly_one, pattern};
use crate::settings::reader::TableReader;
use crate::settings::tree::Value;

/// A path and what every node that it selects must satisfy.
#[derive(Debug)]
pub struct JsonRule {
    /// The path as written, for messages.
    pub text: Box<str>,
    /// The path.
    pub path: JsonPath,
    /// The test.
    pub test: JsonTest,
}

/// What a node is held against. A test that selects no node fails, except `exists = false`.
#[derive(Debug)]
pub enum JsonTest {
    /// `equals`: same type and value; numbers by value.
    Equals(Scalar),
    /// `not_equals`.
    NotEquals(Scalar),
    /// `above`: a number, and greater.
    Above(f64),
    /// `below`: a number, and less.
    Below(f64),
    /// `matches`: a string, or the JSON text of a number or boolean.
    Matches(Regex),
    /// `exists`: whether the path selects anything.
    Exists(bool),
}

/// A JSON value that can be written in a configuration.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Scalar {
    Text(Box<str>),
    Integer(i64),
    Float(f64),
    Boolean(bool),
}

impl Scalar {
    fn read(table: &mut TableReader<'_>, key: &'static str) -> Option<Self> {
        let node = table.node(key)?;
        match &node.value {
            Value::String(_) => table.string_of(key, node).map(|text| Self::Text(text.into())),
            Value::Integer(integer) => Some(Self::Integer(*integer)),
            Value::Float(float) if float.is_finite() => Some(Self::Float(*float)),
            Value::Boolean(flag) => Some(Self::Boolean(*flag)),
            other => {
                let what = format!("found {}", other.type_name());
                table.error(key, what, "must be a string, a number, true or false".to_owned());
                None
            }
        }
    }

    /// Whether a node has this value.
    #[must_use]
    #[allow(clippy::float_cmp, reason = "equals means equal")]
    pub fn equals(&self, node: &serde_json::Value) -> bool {
        match self {
            Self::Text(text) => node.as_str() == Some(&**text),
            Self::Boolean(flag) => node.as_bool() == Some(*flag),
            // Beyond 2^53 two different integers are one float, so integers are compared as such where both are.
            Self::Integer(integer) => match node.as_i64() {
                Some(other) => other == *integer,
                None => node.is_f64() && node.as_f64() == Some(*integer as f64),
            },
            Self::Float(float) => node.as_f64() == Some(*float),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(integer) => integer.fmt(f),
            Self::Float(float) => float.fmt(f),
            Self::Boolean(flag) => flag.fmt(f),
        }
    }
}

const TESTS: &[&str] = &["equals", "not_equals", "above", "below", "matches", "exists"];

impl JsonRule {
    /// Reads one entry of `json`.
    pub(super) fn read(entry: &mut TableReader<'_>) -> Option<Self> {
        let path = read_path(entry);
        let test = exactly_one(entry, TESTS).and_then(|key| match key {
            "equals" => Scalar::read(entry, key).map(JsonTest::Equals),
            "not_equals" => Scalar::read(entry, key).map(JsonTest::NotEquals),
            "above" => number(entry, key).map(JsonTest::Above),
            "below" => number(entry, key).map(JsonTest::Below),
            "matches" => pattern::read(entry, key).map(JsonTest::Matches),
            _ => entry.boolean(key).map(JsonTest::Exists),
        });
        let (text, path) = path?;
        Some(Self { text, path, test: test? })
    }
}

pub(super) fn number(entry: &mut TableReader<'_>, key: &'static str) -> Option<f64> {
    match entry.node(key)?.value {
        Value::Integer(integer) => Some(integer as f64),
        Value::Float(float) if float.is_finite() => Some(float),
        ref other => {
            entry.error(key, format!("found {}", other.type_name()), "must be a number".to_owned());
            None
        }
    }
}

fn read_path(entry: &mut TableReader<'_>) -> Option<(Box<str>, JsonPath)> {
    let Some(text) = entry.string("path") else {
        if entry.node("path").is_none() {
            entry.error("path", "is missing", "must be a JSONPath of RFC 9535, such as \"$.status\"".to_owned());
        }
        return None;
    };
    if let Err(why) = bounded(&text) {
        entry.error("path", format!("the JSONPath {why}"), "simplify it, or split it into several entries".to_owned());
        return None;
    }
    match JsonPath::parse(&text) {
        Ok(path) => Some((text.into(), path)),
        Err(error) => {
            let what = format!("not a JSONPath: {}", error.message());
            entry.error("path", what, "must be a JSONPath of RFC 9535, such as \"$.status\"".to_owned());
            None
        }
    }
}

/// Whether a `\u` lacks a part of what RFC 9535 (2.3.1.1) wants behind it: four hexadecimal digits, and behind a high
/// surrogate a low one. The parser panics where the text ends in the middle of one.
fn has_cut_escape(text: &[u8]) -> bool {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let all_hex = digits.iter().all(u8::is_ascii_hexdigit);
        std::str::from_utf8(digits).ok().filter(|_| all_hex).and_then(|digits| u16::from_str_radix(digits, 16).ok())
    };
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let width = match (byte, text.get(at + 1)) {
            (b'\\', Some(b'u')) => match unit(at) {
                None => return true,
                Some(0xd800..=0xdbff) if !matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => return true,
                Some(0xd800..=0xdbff) => 12,
                Some(_) => 6,
            },
            (b'\\', _) => 2,
            _ => 1,
        };
        at += width;
    }
    false
}

/// Refuses paths whose work is more than a small multiple of the body's size, since the body is the target's and the
/// path may be another tenant's: `$..*..*` visits each node once an ancestor, `['a','a']` doubles at each step, a
/// query from the root in a filter is repeated for each candidate, and `match()` and `search()` compile a regular
/// expression for each (the key `matches` does what they do).
fn bounded(text: &str) -> Result<(), &'static str> {
    const LENGTH_MAX: usize = 512;
    // The parser's time doubles with each filter inside a filter.
    const NESTING_MAX: usize = 8;
    const UNION_MAX: usize = 64;
    if text.len() > LENGTH_MAX {
        return Err("is longer than 512 bytes");
    }
    if has_cut_escape(text.as_bytes()) {
        return Err("has an incomplete \\u escape");
    }
    let bare = without_quoted(text);
    if bare.matches("..").count() > 1 {
        return Err("has more than one \"..\"");
    }
    if bare.bytes().skip(1).any(|byte| byte == b'$') {
        return Err("has a query from the root inside a filter");
    }
    if bare.contains("match(") || bare.contains("search(") {
        return Err("uses match() or search(), for which there is the key matches");
    }
    let (mut depth, mut selectors, mut product) = (0_usize, Vec::new(), 1_usize);
    for byte in bare.bytes() {
        match byte {
            b'[' | b'(' => {
                depth += 1;
                selectors.push((byte, 1_usize));
            }
            b',' => {
                if let Some((_, count)) = selectors.last_mut() {
                    *count += 1;
                }
            }
            b']' | b')' => {
                if let Some((b'[', count)) = selectors.pop() {
                    product = product.saturating_mul(count);
                }
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        if depth > NESTING_MAX {
            return Err("is nested more than 8 deep");
        }
    }
    if product > UNION_MAX { Err("has unions that multiply to more than 64 selectors") } else { Ok(()) }
}

/// The path with what stands in quotes left out.
fn without_quoted(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            Some(_) if c == '\\' => drop(chars.next()),
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None => bare.push(c),
        }
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_that_is_cut_is_refused_before_the_parser_meets_it() {
        for cut in [
            r#"$["\u"#,
            r#"$["\u{"#,
            r#"$["\u00e"#,
            r#"$["\ud83d"#,
            r#"$["\ud83d\u"#,
            r#"$["\ud83dx"]"#,
            r"$['\ud83d\u0041']",
        ] {
            assert!(bounded(cut).is_err(), "{cut}");
        }
        for whole in [r#"$["\u00e9"]"#, r#"$["\uD83D\uDE00"]"#, r#"$["\\u"]"#, r#"$["a\nu"]"#] {
            assert_eq!(bounded(whole), Ok(()), "{whole}");
            assert!(JsonPath::parse(whole).is_ok(), "{whole}");
        }
    }
}
