//! What a plugin writes: the first line for people, more lines, and performance data behind `|` (Monitoring Plugins
//! Development Guidelines, "Plugin Output for Nagios"; several lines as in Nagios's plugin API).

use serde_json::{Map, Value};

/// Lines after the first that are kept.
const LINES_MAX: usize = 16;
/// Measured values that are kept.
const VALUES_MAX: usize = 32;

/// A plugin's output, taken apart.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Output {
    /// The first line that is not blank, without performance data.
    pub(crate) text: String,
    /// What followed, without blank lines.
    pub(crate) more: Vec<String>,
    /// By label: `value` (null where the plugin could not tell), `unit`, and as far as given `warn`, `crit` (ranges, as
    /// written), `min`, `max`.
    pub(crate) values: Map<String, Value>,
}

impl Output {
    /// Takes apart what was read; bytes that are no UTF-8 become U+FFFD.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let whole = String::from_utf8_lossy(bytes);
        let mut lines = whole.lines().map(str::trim).skip_while(|line| line.is_empty());
        let mut output = Self::default();
        let (text, data) = parts(lines.next().unwrap_or_default());
        output.text = text.to_owned();
        measured(data, &mut output.values);
        let mut only_data = false;
        for line in lines {
            let (text, data) = if only_data { ("", line) } else { parts(line) };
            only_data |= line.contains('|');
            if !text.is_empty() && output.more.len() < LINES_MAX {
                output.more.push(text.to_owned());
            }
            measured(data, &mut output.values);
        }
        output
    }
}

fn parts(line: &str) -> (&str, &str) {
    line.split_once('|').map_or((line, ""), |(text, data)| (text.trim_end(), data))
}

/// Reads `'label'=value[UOM];[warn];[crit];[min];[max]`, separated by spaces. What is none of that is passed over.
fn measured(data: &str, values: &mut Map<String, Value>) {
    let mut rest = data.trim_start();
    while !rest.is_empty() && values.len() < VALUES_MAX {
        let (label, after) = label(rest);
        let (item, next) = after.split_once(' ').unwrap_or((after, ""));
        rest = next.trim_start();
        if let Some(item) = item.strip_prefix('=')
            && !label.is_empty()
            && let Some(value) = value(item)
        {
            values.insert(label, value);
        }
    }
}

/// A label may be quoted; a quote in it is doubled. Gives what comes behind it.
fn label(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text.find(['=', ' ']).unwrap_or(text.len());
        let (label, rest) = text.split_at(end);
        return (label.to_owned(), rest);
    };
    let mut label = String::new();
    let mut rest = quoted;
    while let Some((before, after)) = rest.split_once('\'') {
        label.push_str(before);
        match after.strip_prefix('\'') {
            Some(again) => {
                label.push('\'');
                rest = again;
            }
            None => return (label, after),
        }
    }
    (label, "")
}

fn value(item: &str) -> Option<Value> {
    let mut fields = item.split(';');
    let first = fields.next()?;
    let mut value = Map::new();
    if first == "U" {
        value.insert("value".to_owned(), Value::Null);
    } else {
        let end = first.find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | ',')));
        let (digits, unit) = first.split_at(end.unwrap_or(first.len()));
        value.insert("value".to_owned(), number(digits)?);
        if !unit.is_empty() {
            value.insert("unit".to_owned(), unit.into());
        }
    }
    for (name, field) in ["warn", "crit", "min", "max"].into_iter().zip(fields) {
        let field = match name {
            _ if field.is_empty() => continue,
            "min" | "max" => number(field).unwrap_or_else(|| field.into()),
            _ => field.into(),
        };
        value.insert(name.to_owned(), field);
    }
    Some(Value::Object(value))
}

/// Some plugins write the decimal comma of their locale.
fn number(text: &str) -> Option<Value> {
    let text = text.replace(',', ".");
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let number: f64 = text.parse().ok()?;
    serde_json::Number::from_f64(number).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn one_line() {
        let output = Output::read(b"DISK OK - free space: / 3326 MB (56%); | /=2643MB;5948;5958;0;5968\n");
        assert_eq!(output.text, "DISK OK - free space: / 3326 MB (56%);");
        let wanted = json!({ "value": 2643, "unit": "MB", "warn": "5948", "crit": "5958", "min": 0, "max": 5968 });
        assert_eq!(Value::from(output.values), json!({ "/": wanted }));
    }

    #[test]
    fn several_lines_with_data_in_two_places() {
        let text =
            "\nDISK OK | /=1MB\n/ 15272 MB (77%);\n/boot 68 MB | /boot=68MB;88\n/home=69357MB;;@10:20;0\n a='x\n";
        let output = Output::read(text.as_bytes());
        assert_eq!((&*output.text, output.more), ("DISK OK", vec!["/ 15272 MB (77%);".into(), "/boot 68 MB".into()]));
        let wanted = json!({
            "/": { "value": 1, "unit": "MB" },
            "/boot": { "value": 68, "unit": "MB", "warn": "88" },
            "/home": { "value": 69357, "unit": "MB", "crit": "@10:20", "min": 0 },
        });
        assert_eq!(Value::from(output.values), wanted);
    }

    #[test]
    fn labels_and_values() {
        for (data, wanted) in [
            ("'a b'=1s", json!({ "a b": { "value": 1, "unit": "s" } })),
            ("'it''s'=1", json!({ "it's": { "value": 1 } })),
            (
                "a=U b=0.5% c=-1,5",
                json!({ "a": { "value": null }, "b": { "value": 0.5, "unit": "%" }, "c": { "value": -1.5 } }),
            ),
            ("a=1e3", json!({ "a": { "value": 1, "unit": "e3" } })),
            ("a=x =1 b a= c='d'", json!({})),
            ("a=1;;;;;;;; b=2", json!({ "a": { "value": 1 }, "b": { "value": 2 } })),
            ("a=--1 b=1.2.3", json!({})),
            ("'a=1", json!({})),
        ] {
            let mut values = Map::new();
            measured(data, &mut values);
            assert_eq!(Value::from(values), wanted, "{data}");
        }
    }

    #[test]
    fn much_is_bounded() {
        let data: String = (0..1000).map(|n| format!("l{n}={n} ")).collect();
        let text = format!("x|{data}\n{}", "line\n".repeat(1000));
        let output = Output::read(text.as_bytes());
        assert_eq!((output.values.len(), output.more.len()), (VALUES_MAX, LINES_MAX));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(b"|='; \n".to_vec())], 0..200)) {
            let output = Output::read(&bytes);
            prop_assert!(output.values.len() <= VALUES_MAX && output.more.len() <= LINES_MAX);
        }
    }
}
