//! TOML text to [`Table`], every syntax error included, and several documents to one.

use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::diagnostic::{Diagnostic, Findings, Quote, SourceText};
use super::tree::{Entry, Node, Span, Table, Value};

/// Parses one source. With syntax errors the tree holds what could be recovered; the second value tells.
pub fn parse(source: u16, text: &str, findings: &Findings) -> (Table, bool) {
    // Editors of another system put a byte-order mark there; TOML 1.1 leaves it to the reader.
    let mark = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let converter = Converter { source, shift: mark, findings };
    let (document, errors) = DeTable::parse_recoverable(text.get(mark..).unwrap_or_default());
    let mut last_line = None;
    for error in &errors {
        let range = error.span().unwrap_or_default();
        let start = range.start.saturating_add(mark);
        // What follows in the line is confusion about the first.
        let line_start = text.get(..text.floor_char_boundary(start)).and_then(|before| before.rfind('\n'));
        if last_line.replace(line_start) == Some(line_start) {
            continue;
        }
        findings.push(Diagnostic {
            span: converter.span(range),
            key: String::new(),
            what: one_line(error.message()),
            allowed: None,
            quote: if inside_multi_line(text, start) { Quote::Nothing } else { Quote::Keys },
        });
    }
    let before = findings.count();
    let table = converter.table(document.into_inner());
    (table, !errors.is_empty() || findings.count() > before)
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Whether a byte may stand inside a `"""` or `'''` string, told by an odd number of them before it.
fn inside_multi_line(text: &str, at: usize) -> bool {
    let before = text.get(..text.floor_char_boundary(at)).unwrap_or_default();
    before.matches("\"\"\"").count() % 2 == 1 || before.matches("'''").count() % 2 == 1
}

struct Converter<'a> {
    source: u16,
    /// Bytes cut from the beginning of the text.
    shift: usize,
    findings: &'a Findings,
}

impl Converter<'_> {
    /// None when the parser knows no place (tables that are only implied).
    fn span(&self, range: std::ops::Range<usize>) -> Option<Span> {
        let offset = |byte: usize| u32::try_from(byte.saturating_add(self.shift)).ok();
        Some(Span { source: self.source, start: offset(range.start)?, end: offset(range.end)? })
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        let mut entries: Vec<Entry> = table
            .into_iter()
            .map(|(key, value)| {
                let key_span = self.span(key.span());
                let key: Box<str> = key.into_inner().into();
                let node = self.node(&key, value);
                Entry { key, key_span, node }
            })
            .collect();
        // The parser sorts by name; people, and headers on the wire, have an order.
        entries.sort_by_key(|entry| entry.key_span.map_or(0, |span| span.start));
        Table { entries }
    }

    fn node(&self, key: &str, value: Spanned<DeValue<'_>>) -> Node {
        let span = self.span(value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => Value::String(text.into()),
            DeValue::Integer(integer) => self.integer(key, span, &integer),
            DeValue::Float(float) => match float.as_str().replace('_', "").parse() {
                Ok(float) => Value::Float(float),
                Err(_) => self.unreadable(key, span, "not a number that fits 64 bits"),
            },
            DeValue::Boolean(flag) => Value::Boolean(flag),
            DeValue::Datetime(time) => Value::Datetime(time.to_string().into()),
            DeValue::Array(items) => self.array(key, items),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node { value, span }
    }

    fn array(&self, key: &str, items: DeArray<'_>) -> Value {
        Value::Array(items.into_iter().map(|item| self.node(key, item)).collect())
    }

    fn integer(&self, key: &str, span: Option<Span>, integer: &DeInteger<'_>) -> Value {
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::Integer(integer),
            Err(_) => self.unreadable(key, span, "not an integer that fits 64 bits"),
        }
    }

    fn unreadable(&self, key: &str, span: Option<Span>, what: &str) -> Value {
        let (key, what) = (key.to_owned(), what.to_owned());
        self.findings.push(Diagnostic { span, key, what, allowed: None, quote: Quote::Shape });
        Value::Null
    }
}

/// Adds `from` to `into`: tables join key by key, lists of tables add up, anything else may be set only once.
pub fn merge(into: &mut Table, from: Table, path: &str, sources: &[SourceText], findings: &Findings) {
    if into.entries.is_empty() {
        into.entries = from.entries;
        return;
    }
    for entry in from.entries {
        let Some(there) = into.entries.iter_mut().find(|there| there.key == entry.key) else {
            into.entries.push(entry);
            continue;
        };
        let key = if path.is_empty() { entry.key.to_string() } else { format!("{path}.{}", entry.key) };
        let first = there.key_span.or(there.node.span);
        match (&mut there.node.value, entry.node.value) {
            (Value::Table(there), Value::Table(more)) => merge(there, more, &key, sources, findings),
            (Value::Array(there), Value::Array(more)) if all_tables(there) && all_tables(&more) => there.extend(more),
            _ => {
                let place = first.and_then(|span| {
                    let source = sources.get(usize::from(span.source))?;
                    Some(format!("first at {}:{}; remove one of the two", source.name, source.line_of(span.start)))
                });
                let (span, what) = (entry.key_span.or(entry.node.span), "set twice".to_owned());
                findings.push(Diagnostic { span, key, what, allowed: place, quote: Quote::Value });
            }
        }
    }
}

fn all_tables(items: &[Node]) -> bool {
    items.iter().all(|item| matches!(item.value, Value::Table(_)))
}

#[cfg(test)]
mod tests {
    use super::super::diagnostic::render;
    use super::*;
    use proptest::prelude::*;

    fn errors(texts: &[&str]) -> Vec<String> {
        let sources: Vec<_> =
            texts.iter().enumerate().map(|(index, text)| SourceText::new(format!("{index}.toml"), *text)).collect();
        let findings = Findings::default();
        let mut merged = Table::default();
        for (index, source) in sources.iter().enumerate() {
            let (table, _) = parse(u16::try_from(index).unwrap(), &source.text, &findings);
            merge(&mut merged, table, "", &sources, &findings);
        }
        findings.into_sorted().0.iter().map(|finding| render(finding, &sources)).collect()
    }

    #[test]
    fn every_syntax_error_has_its_place() {
        let found = errors(&["a = \nb = 1\nc = = 2\nd = 99999999999999999999\n"]);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].starts_with("0.toml:1:"), "{found:#?}");
        assert!(found[1].starts_with("0.toml:3:"), "{found:#?}");
        assert!(found[2].starts_with("0.toml:4:5: d: not an integer that fits 64 bits"), "{found:#?}");
    }

    #[test]
    fn a_syntax_error_quotes_no_string() {
        for text in [
            "password = \"canary\nx = 1\n",
            "password = \"canary\\q\"\n",
            "password = 'canary\n",
            "password = canary\"\n",
            "password = canary\n",
            "password = canary canary\n",
            "password = \"\"\"\ncanary \\q\n\"\"\"\n",
            "a = { password = \"canary\", b = }\n",
        ] {
            let found = errors(&[text]).join("\n");
            assert!(!found.is_empty() && !found.contains("canary"), "{found}");
        }
    }

    #[test]
    fn sources_add_up() {
        assert_eq!(
            errors(&["[[monitor]]\nid='a'\n[server]\nlisten='x'", "[[monitor]]\nid='b'\n[server]\nz=1"]),
            [""; 0]
        );
        assert_eq!(
            errors(&["[server]\n\nlisten = 'x'", "[server]\nlisten = 'y'"]),
            [
                "1.toml:2:1: server.listen: set twice, first at 0.toml:3; remove one of the two\n  2 | listen = '…'\n    | ^^^^^^"
            ]
        );
        assert_eq!(errors(&["a = [1]", "a = [2]"]).len(), 1);
        assert_eq!(errors(&["a = 1", "[a]\nb = 1"]).len(), 1);
    }

    #[test]
    fn a_byte_order_mark_is_no_key() {
        let findings = Findings::default();
        let (table, broken) = parse(0, "\u{feff}a = 1\n", &findings);
        assert!(!broken && table.get("a").is_some());
        assert_eq!(table.entries[0].key_span.unwrap().start, 3);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in r#"(\[\[?m\]?\]|[a-c.]{1,3} ?=|"""|'''|["'#{},=\[\]]|[0-9:_.eTZ-]{1,6}|true|\\|\n| |ü|\r){0,40}"#) {
            errors(&[&text, &text]);
        }
    }
}
