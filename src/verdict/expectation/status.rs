//! `status = ["2xx", 301, "400-404"]`.

use std::fmt;

use crate::settings::reader::TableReader;
use crate::settings::tree::{Node, Value};

/// Which HTTP status codes are expected: ranges, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(Box<[(u16, u16)]>);

const ALLOWED: &str = "must be a code from 100 to 599, a class such as \"2xx\" or a range such as \"200-299\"";

impl Default for StatusSet {
    fn default() -> Self {
        Self(Box::new([(200, 299)]))
    }
}

impl StatusSet {
    /// Reads the list; every bad element is reported.
    pub(super) fn read(table: &mut TableReader<'_>, key: &'static str) -> Option<Self> {
        let items = table.list(key)?;
        if items.is_empty() || items.len() > 500 {
            table.error(
                key,
                format!("{} elements", items.len()),
                "must be 1 to 500 codes, classes or ranges".to_owned(),
            );
            return None;
        }
        let mut ranges = Vec::with_capacity(items.len());
        for item in items {
            match range(item) {
                Some(range) => ranges.push(range),
                None => {
                    let what = match &item.value {
                        Value::Integer(code) => format!("{code} is not a status code"),
                        Value::String(text) => format!("{text:?} is not a status code"),
                        other => format!("found {}", other.type_name()),
                    };
                    table.error_at(item.span, key, what, ALLOWED.to_owned());
                }
            }
        }
        (ranges.len() == items.len()).then(|| Self(ranges.into()))
    }

    /// Whether a code is in it.
    #[must_use]
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&code))
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // More than a few would drown the sentence they stand in.
        const SHOWN: usize = 8;
        for (index, (low, high)) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match (low, high) {
                (low, high) if low == high => write!(f, "{comma}{low}")?,
                (low, high) if low % 100 == 0 && *high == low + 99 => write!(f, "{comma}{}xx", low / 100)?,
                (low, high) => write!(f, "{comma}{low}-{high}")?,
            }
        }
        if self.0.len() > SHOWN {
            write!(f, " and {} more", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}

fn range(item: &Node) -> Option<(u16, u16)> {
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|code| digits && (100..=599).contains(code))
    };
    match &item.value {
        Value::Integer(number) => {
            let code = u16::try_from(*number).ok().filter(|code| (100..=599).contains(code))?;
            Some((code, code))
        }
        Value::String(text) => match (text.as_bytes(), text.split_once('-')) {
            ([class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'], _) => {
                let low = u16::from(class - b'0') * 100;
                Some((low, low + 99))
            }
            (_, Some((low, high))) => Some((code(low.trim())?, code(high.trim())?)).filter(|(low, high)| low <= high),
            _ => code(text).map(|code| (code, code)),
        },
        _ => None,
    }
}
