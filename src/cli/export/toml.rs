//! JSON values as TOML: what a spec holds, written the way a person would write `[[monitor]]` and its like.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// One `[[list]]` with these keys. `expect` becomes a table of its own, because it is what people edit.
pub(super) fn table(list: &str, keys: &Map<String, Value>, out: &mut String) {
    let _ = writeln!(out, "[[{list}]]");
    let is_table = |name: &str, value: &Value| name == "expect" && value.is_object();
    entries(keys.iter().filter(|(name, value)| !is_table(name, value)), out);
    for (name, value) in keys.iter().filter(|(name, value)| is_table(name, value)) {
        let _ = writeln!(out, "[{list}.{name}]");
        entries(value.as_object().into_iter().flatten(), out);
    }
}

fn entries<'a>(pairs: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut String) {
    for (name, item) in pairs {
        // TOML has no null, and no key of ours means something by it.
        if !item.is_null() {
            key(name, out);
            out.push_str(" = ");
            value(item, out);
            out.push('\n');
        }
    }
}

fn key(name: &str, out: &mut String) {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(bare) {
        out.push_str(name);
    } else {
        string(name, out);
    }
}

fn value(item: &Value, out: &mut String) {
    match item {
        Value::Null => {}
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => out.push_str(&integer.to_string()),
            // With a point or an exponent, as TOML has floats.
            (None, Some(float)) => out.push_str(&format!("{float:?}")),
            (None, None) => out.push('0'),
        },
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().filter(|item| !item.is_null()).enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                value(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (name, item)) in members.iter().filter(|(_, item)| !item.is_null()).enumerate() {
                out.push_str(if index == 0 { " " } else { ", " });
                key(name, out);
                out.push_str(" = ");
                value(item, out);
            }
            out.push_str(if members.is_empty() { "}" } else { " }" });
        }
    }
}

/// A basic string (TOML 1.0, "String").
fn string(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Also those of C1 and others that a terminal obeys.
            char if char.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(char));
            }
            char => out.push(char),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e300..1e300_f64).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ -~\u{7f}-\u{9f}\u{0}-\u{1f}]{0,10}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z.\"é ]{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// The parser's tree as JSON, in the order of names.
    fn parsed(text: &str) -> Value {
        fn of(value: &::toml::de::DeValue<'_>) -> Value {
            use ::toml::de::DeValue as De;
            match value {
                De::String(text) => Value::from(&**text),
                De::Integer(integer) => Value::from(integer.as_str().parse::<i64>().unwrap()),
                De::Float(float) => Value::from(float.as_str().parse::<f64>().unwrap()),
                De::Boolean(flag) => Value::from(*flag),
                De::Datetime(_) => panic!("no date was written"),
                De::Array(items) => items.iter().map(|item| of(item.get_ref())).collect(),
                De::Table(table) => {
                    table.iter().map(|(key, value)| (key.get_ref().to_string(), of(value.get_ref()))).collect()
                }
            }
        }
        let document = ::toml::de::DeTable::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        document.get_ref().iter().map(|(key, value)| (key.get_ref().to_string(), of(value.get_ref()))).collect()
    }

    fn sorted(value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(sorted).collect(),
            Value::Object(members) => {
                let sorted: std::collections::BTreeMap<_, _> =
                    members.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
                Value::Object(sorted.into_iter().collect())
            }
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(one in json(), expect in json()) {
            let mut keys = Map::new();
            keys.insert("id".to_owned(), "a".into());
            keys.insert("one".to_owned(), one);
            keys.insert("expect".to_owned(), expect);
            let mut text = String::new();
            table("monitor", &keys, &mut text);
            prop_assert_eq!(sorted(&parsed(&text)["monitor"][0]), sorted(&Value::Object(keys)));
        }
    }
}
