//! Targets that read text: URLs apart, what people write into a configuration, and what plugins and servers print.

use std::cell::RefCell;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

use super::{monitor, parts};
use crate::model::{HttpFacts, Observation, Verdict};
use crate::probe::kinds::exec::output::Output;
use crate::probe::kinds::starttls::xml;
use crate::schedule::plan::{Timing, validate_cron};
use crate::settings::again::Former;
use crate::settings::diagnostic::SourceText;
use crate::settings::model::{self, Environment};
use crate::settings::tree::Table;
use crate::verdict::expectation::{Accepts, Expectations};
use crate::verdict::judge::judge;
use crate::verdict::redact::Redactor;

/// `path LF document`: a JSONPath that is accepted costs little, and what it finds can be written as what is expected.
pub fn json_path(bytes: &[u8]) {
    let (path, document) = parts(bytes, b'\n');
    let Ok(path) = std::str::from_utf8(path) else { return };
    let own = json!({ "expect": { "json": [{ "path": path, "exists": true }] } });
    let Value::Object(own) = own else { return };
    let accepts = Accepts { json: true, ..Accepts::default() };
    let (expect, complaints) = monitor(&Table::from_json(&own), true, |reader| Expectations::read(reader, accepts));
    let [rule] = &*expect.rules().json else {
        assert!(!complaints.is_empty(), "refused without a word");
        return;
    };
    assert_eq!(complaints, Vec::<String>::new());
    let body = document;
    let Ok(document) = serde_json::from_slice::<Value>(body) else { return };
    let nodes = rule.path.query(&document).all();
    assert!(nodes.len() <= 64 * count(&document), "{} nodes of {}", nodes.len(), count(&document));
    let mut seen = Observation::new(DateTime::UNIX_EPOCH);
    let body = body.to_vec().into();
    seen.http = Some(HttpFacts { status: 200, version: "HTTP/1.1", body, ..HttpFacts::default() });
    let judged = judge(&seen, &expect, &Redactor::default());
    assert_eq!(judged.verdict == Verdict::Up, !nodes.is_empty(), "{judged:?}");
    assert!(judged.message.is_none_or(|message| message.chars().count() <= 300));
    let Some(first) = nodes.first().filter(|node| !node.is_null() && !node.is_array() && !node.is_object()) else {
        return;
    };
    let own = json!({ "expect": { "json": [{ "path": path, "equals": first }] } });
    let Value::Object(own) = own else { return };
    let (expect, complaints) = monitor(&Table::from_json(&own), false, |reader| Expectations::read(reader, accepts));
    if complaints.is_empty() && nodes.iter().all(|node| node == first) {
        assert_eq!(judge(&seen, &expect, &Redactor::default()).verdict, Verdict::Up, "{first} is not {first}");
    }
}

fn count(document: &Value) -> usize {
    1 + match document {
        Value::Array(items) => items.iter().map(count).sum::<usize>(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// A plugin's output is bounded, and printed again it is read as the same.
pub fn plugin(bytes: &[u8]) {
    let output = Output::read(bytes);
    assert!(output.more.len() <= 16 && output.values.len() <= 32);
    assert!(!output.text.contains(['|', '\n']));
    assert!(output.more.iter().all(|line| !line.is_empty() && !line.contains(['|', '\n'])));
    let printed: Vec<String> = output.values.iter().map(|(label, value)| measured(label, value)).collect();
    let text = format!("{}|{}\n{}", output.text, printed.join(" "), output.more.join("\n"));
    assert_eq!(Output::read(text.as_bytes()), output, "{text:?}");
}

/// As the Monitoring Plugins Development Guidelines write it.
fn measured(label: &str, value: &Value) -> String {
    let field = |name: &str| match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        // Without an exponent, which would be taken for a unit.
        Some(number) if number.is_f64() => match number.as_f64().unwrap_or_default().to_string() {
            whole if !whole.contains('.') => whole + ".0",
            broken => broken,
        },
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let number = if value["value"].is_null() { "U".to_owned() } else { field("value") + &field("unit") };
    let bounds = ["warn", "crit", "min", "max"].map(field).join(";");
    // One more field, so that none is at the end of the line, where white space is cut off.
    format!("'{}'={number};{bounds};", label.replace('\'', "''"))
}

/// What a stream of XMPP begins with is the same tags in whatever pieces it comes.
pub fn xml(bytes: &[u8]) {
    for inside in [false, true] {
        let whole = xml::first_tag(bytes, inside);
        if let Ok(Some((end, tag))) = &whole {
            assert!(*end <= bytes.len() && *end > tag.text.len());
            assert!(!tag.name().contains(|c: char| c.is_ascii_whitespace() || c == ':'));
            assert!(!(tag.opens() && tag.closes()));
        }
        for end in 0..bytes.len().min(256) {
            // What was said before all is there holds when it is.
            match xml::first_tag(bytes.get(..end).unwrap_or_default(), inside) {
                Ok(None) => {}
                early => assert_eq!(early, whole, "after {end} bytes"),
            }
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let tag = format!("<a b='{}'>", xml::escape(&text));
    let read = xml::first_tag(tag.as_bytes(), false);
    assert_eq!(read.map(|found| found.map(|(end, _)| end)), Ok(Some(tag.len())), "{tag:?}");
}

const ZONES: [Tz; 6] = [
    Tz::UTC,
    Tz::Europe__Berlin,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::Pacific__Apia,
    Tz::America__Sao_Paulo,
];

/// `zone and moment, expression`: occurrences go forward, and are the same whoever asks from where between them.
pub fn cron(bytes: &[u8]) {
    let Some(([zone, moment @ ..], expression)) = bytes.split_first_chunk::<4>() else { return };
    let Ok(expression) = std::str::from_utf8(expression) else { return };
    let zone = ZONES[usize::from(*zone) % ZONES.len()];
    let timing = Timing::cron(expression, zone);
    assert_eq!(validate_cron(expression).is_ok(), timing.is_ok());
    let Ok(Timing::Cron(cron)) = timing else { return };
    let [a, b, c] = *moment;
    // Two hundred years, in steps of some six minutes.
    let seconds = i64::from(u32::from_be_bytes([0, a, b, c])) * 377;
    let start = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let mut after: DateTime<Utc> = start;
    for _ in 0..4 {
        let Some(next) = cron.next_after(after) else { return };
        assert!(next > after, "{next} is not after {after}");
        assert!(next - after < TimeDelta::days(41 * 366), "{next} is too far from {after}");
        for between in [after + (next - after) / 2, next - TimeDelta::seconds(1)] {
            if between >= after && between < next {
                assert_eq!(cron.next_after(between), Some(next), "{expression} in {zone} after {after}: {between}");
            }
        }
        after = next;
    }
}

/// A configuration is read, or refused with places; read again with what is known of it, it is the same.
pub fn config(bytes: &[u8]) {
    const SECRET: &str = "s3cr3t-of-the-environment";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let variable = |name: &str| (name == "SECRET").then(|| SECRET.to_owned());
    let environment = Environment { variable: &variable, credentials: None };
    let sources = [SourceText::new("fuzz.toml", text)];
    let base = Path::new("/nowhere");
    let former = RefCell::new(Former::default());
    let again = || model::read_again(&sources, base, environment, &[], &mut former.borrow_mut());
    match model::read(&sources, base, environment, &[]) {
        Ok(settings) => {
            let said = format!("{settings:?}");
            for _ in 0..2 {
                assert_eq!(again().map(|settings| format!("{settings:?}")), Ok(said.clone()));
            }
        }
        Err(refusal) => {
            assert!(refusal.count() > 0 && !refusal.messages.is_empty());
            for message in &refusal.messages {
                assert!(!message.trim().is_empty());
                assert!(!message.contains(SECRET), "a secret in {message}");
            }
            assert_eq!(again().err(), Some(refusal));
        }
    }
}
