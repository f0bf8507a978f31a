//! One tree for TOML documents and for `monitors.spec`, so that both are read, and complained about, by the same code.

use std::fmt;

/// Where a value stands: byte offsets into one of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index into the list of sources.
    pub source: u16,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value and its place; rows of the database have none.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Its place.
    pub span: Option<Span>,
}

/// What TOML and JSON have in common, plus TOML's date-times as text.
#[derive(Clone)]
#[allow(missing_docs)]
pub enum Value {
    String(Box<str>),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(Box<str>),
    /// JSON only.
    Null,
    Array(Vec<Node>),
    Table(Table),
}

impl fmt::Debug for Value {
    /// By type only: any string may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array(items) => items.fmt(f),
            Self::Table(table) => table.fmt(f),
            scalar => f.write_str(scalar.type_name()),
        }
    }
}

impl Value {
    /// The type, as an error message calls it.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Datetime(_) => "a date",
            Self::Null => "null",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// An entry of a table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Box<str>,
    /// Where the key stands.
    pub key_span: Option<Span>,
    /// The value.
    pub node: Node,
}

/// Entries in the order of the source. Tables are small: look-up is a scan.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Table {
    /// The entry of this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| &*entry.key == key)
    }

    /// Whether it is the same wherever it stands. The order of entries counts.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Entry, &Entry)| a.key == b.key && a.node.value.says_the_same(&b.node.value);
        self.entries.len() == other.entries.len() && self.entries.iter().zip(&other.entries).all(same)
    }

    /// From a JSON object; a tree without places.
    #[must_use]
    pub fn from_json(object: &serde_json::Map<String, serde_json::Value>) -> Self {
        let entries = object
            .iter()
            .map(|(key, value)| Entry { key: key.as_str().into(), key_span: None, node: Node::from_json(value) })
            .collect();
        Self { entries }
    }

    /// To a JSON object, leaving out the keys that `skip` names.
    #[must_use]
    pub fn to_json(&self, skip: &[&str]) -> serde_json::Map<String, serde_json::Value> {
        self.entries
            .iter()
            .filter(|entry| !skip.contains(&&*entry.key))
            .map(|entry| (entry.key.to_string(), entry.node.to_json()))
            .collect()
    }
}

impl Value {
    /// Whether it is the same wherever it stands. The order of entries counts, the bits of a number too.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::String(a), Self::String(b)) | (Self::Datetime(a), Self::Datetime(b)) => a == b,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Boolean(a), Self::Boolean(b)) => a == b,
            (Self::Null, Self::Null) => true,
            (Self::Array(a), Self::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.value.says_the_same(&b.value))
            }
            (Self::Table(a), Self::Table(b)) => a.says_the_same(b),
            _ => false,
        }
    }
}

impl Node {
    fn from_json(value: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Boolean(*flag),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Value::Integer(integer),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(text.as_str().into()),
            Json::Array(items) => Value::Array(items.iter().map(Self::from_json).collect()),
            Json::Object(object) => Value::Table(Table::from_json(object)),
        };
        Self { value, span: None }
    }

    fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::String(text) | Value::Datetime(text) => Json::String(text.to_string()),
            Value::Integer(integer) => Json::from(*integer),
            Value::Float(float) => Json::from(*float),
            Value::Boolean(flag) => Json::Bool(*flag),
            Value::Null => Json::Null,
            Value::Array(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Table(table) => Json::Object(table.to_json(&[])),
        }
    }
}

impl fmt::Display for Value {
    /// As an error message quotes it: scalars as they are, cut at 60 characters; the rest by type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => {
                let cut: String = text.chars().take(60).collect();
                let dots = if cut.len() < text.len() { "…" } else { "" };
                write!(f, "{:?}", format!("{cut}{dots}"))
            }
            Self::Integer(integer) => integer.fmt(f),
            Self::Float(float) => float.fmt(f),
            Self::Boolean(flag) => flag.fmt(f),
            Self::Datetime(text) => text.fmt(f),
            other => f.write_str(other.type_name()),
        }
    }
}
