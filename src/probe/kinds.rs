//! THE registration table of probe kinds: one row each. A new kind is one file beside this one, its `mod` line, its row.

use std::time::Duration;

use tokio::time::Instant;

use super::Kind;
use super::authority::{profile_of, read_ip_version};
use crate::model::{Answer, Observation, Phase};
use crate::settings::reader::TableReader;

mod amqp;
pub(crate) mod dns;
mod domain;
pub(crate) mod exec;
mod group;
mod grpc;
mod heartbeat;
pub(crate) mod http;
mod icmp;
pub(crate) mod mongodb;
mod mqtt;
pub(crate) mod mysql;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod ssh;
pub(crate) mod starttls;
mod tcp;
mod tls;
mod udp;
pub(crate) mod ws;

/// Every kind that this version has.
pub const KINDS: &[&Kind] = &[
    &amqp::KIND,
    &dns::KIND,
    &domain::KIND,
    &exec::KIND,
    &group::KIND,
    &grpc::KIND,
    &heartbeat::KIND,
    &http::KIND,
    &icmp::KIND,
    &mongodb::KIND,
    &mqtt::KIND,
    &mysql::KIND,
    &postgres::KIND,
    &redis::KIND,
    &ssh::KIND,
    &starttls::KIND,
    &tcp::KIND,
    &tls::KIND,
    &udp::KIND,
    &ws::KIND,
];

/// The kind of this name (`monitors.kind`).
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.name == name)
}

/// The kind that a URL of this scheme chooses.
#[must_use]
pub fn by_scheme(scheme: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.schemes.contains(&scheme))
}

/// Schemes of the contract whose kinds come later: they answer "not built yet".
pub const LATER: &[&str] = &[];

/// A statement; longer ones belong into a view or a function.
const MAX_QUERY_BYTES: usize = 16 * 1024;

/// A query's value, as far as it is kept and held against an expectation.
const MAX_VALUE_BYTES: usize = 4 * 1024;

/// A value that a query gave: text, whatever its encoding was.
fn answer(value: &[u8]) -> Answer {
    let cut = value.get(..MAX_VALUE_BYTES).unwrap_or(value);
    // Of a character that the cut parts nothing stays; what is no UTF-8 by itself is replaced.
    let whole = match std::str::from_utf8(cut) {
        Err(error) if cut.len() < value.len() && error.error_len().is_none() => cut.get(..error.valid_up_to()),
        _ => None,
    };
    Answer::Value(String::from_utf8_lossy(whole.unwrap_or(cut)).into())
}

/// `query` of a kind that takes a statement.
fn read_query(reader: &mut TableReader<'_>) -> Option<Box<str>> {
    let text = reader.string("query")?;
    if text.trim().is_empty() || text.len() > MAX_QUERY_BYTES || text.contains('\0') {
        let what = if text.trim().is_empty() { "empty" } else { "too long, or has a NUL in it" };
        reader.error("query", what, format!("a statement of at most {MAX_QUERY_BYTES} bytes"));
        return None;
    }
    Some(text.into())
}

/// Sets the total. What lies between two phases, such as waiting for a processor, belongs to the last one: the phases
/// add up to the total.
fn close_timings(seen: &mut Observation, start: Instant) {
    seen.timings.total = start.elapsed();
    let reached = Phase::ALL.iter().filter_map(|phase| seen.timings.get(*phase).map(|time| (*phase, time)));
    let (last, sum) = reached.fold((None, Duration::ZERO), |(_, sum), (phase, time)| (Some(phase), sum + time));
    if let Some(last) = last {
        seen.timings.add(last, seen.timings.total.saturating_sub(sum));
    }
}

/// How the kinds' own tests read a `[[monitor]]` table.
#[cfg(test)]
pub(in crate::probe) mod testing {
    use std::cell::RefCell;
    use std::path::Path;

    use toml::de::{DeTable, DeValue};
    use url::Url;

    use crate::model::Secret;
    use crate::probe::Kind;
    use crate::probe::form::Form;
    use crate::probe::net::Stream;
    use crate::probe::talk::Talk;
    use crate::settings::diagnostic::Findings;
    use crate::settings::reader::{Origin, TableReader};
    use crate::settings::tree::{Entry, Node, Table, Value};

    /// What reading said, as `key: what, allowed` lines, and which secrets it remembered.
    pub(in crate::probe) struct Read<T> {
        pub(in crate::probe) value: Option<T>,
        pub(in crate::probe) findings: Vec<String>,
        pub(in crate::probe) secrets: Vec<Secret>,
    }

    fn table(toml: &DeTable<'_>) -> Table {
        let entries = toml.iter().map(|(key, value)| Entry {
            key: key.get_ref().as_ref().into(),
            key_span: None,
            node: node(value.get_ref()),
        });
        Table { entries: entries.collect() }
    }

    fn node(value: &DeValue<'_>) -> Node {
        let value = match value {
            DeValue::String(text) => Value::String(text.as_ref().into()),
            DeValue::Integer(integer) => Value::Integer(integer.to_string().parse().unwrap()),
            DeValue::Float(float) => Value::Float(float.to_string().parse().unwrap()),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Datetime(date) => Value::Datetime(date.to_string().into()),
            DeValue::Array(items) => Value::Array(items.iter().map(|item| node(item.get_ref())).collect()),
            DeValue::Table(inner) => Value::Table(table(inner)),
        };
        Node { value, span: None }
    }

    /// Reads a monitor with `read`, then complains about the keys that nobody asked for. `$SECRET` is `s3cr3t!`.
    pub(in crate::probe) fn read<T>(toml: &str, read: impl FnOnce(&Url, &mut TableReader<'_>) -> Option<T>) -> Read<T> {
        read_as(true, toml, read)
    }

    /// The same for a definition that is trusted, or a row, which is not.
    pub(in crate::probe) fn read_as<T>(
        trusted: bool,
        toml: &str,
        read: impl FnOnce(&Url, &mut TableReader<'_>) -> Option<T>,
    ) -> Read<T> {
        let parsed = DeTable::parse(toml).unwrap();
        let own = table(parsed.get_ref());
        let env = |name: &str| (name == "SECRET").then(|| "s3cr3t!".to_owned());
        let origin = Origin { trusted, env: &env, base: Path::new("/nowhere"), credentials: None };
        let (findings, secrets) = (Findings::default(), RefCell::new(Vec::new()));
        let mut reader = TableReader::new(&own, None, "", &origin, &findings, &secrets);
        let text = reader.string("url").unwrap();
        let kind = text.split_once(':').and_then(|(scheme, _)| super::by_scheme(&scheme.to_ascii_lowercase()));
        let url = kind.map_or(Form::Authority, |kind| kind.form).parse(&text);
        // What is wrong with a form is the settings' to say; a kind is asked all the same.
        let url = url.unwrap_or_else(|_| Url::parse(&text).unwrap());
        for common in ["id", "name", "interval", "timeout"] {
            reader.node(common);
        }
        let value = read(&url, &mut reader);
        reader.finish(&|_| None);
        let (list, _) = findings.into_sorted();
        let line = |d: &crate::settings::diagnostic::Diagnostic| crate::settings::diagnostic::render(d, &[]);
        Read { value, findings: list.iter().map(line).collect(), secrets: secrets.into_inner() }
    }

    /// What a decoder makes of bytes behind which the connection ends.
    pub(in crate::probe) fn heard<T>(bytes: &[u8], decode: impl AsyncFnOnce(&mut Talk<'_>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut far, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut far, bytes).await.unwrap();
            drop(far);
            let mut timings = crate::model::Timings::default();
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
            decode(&mut Talk::new(Stream::Plain(near), deadline, &mut timings, 64 * 1024)).await
        })
    }

    /// The same through a kind's row.
    pub(in crate::probe) fn prepare(kind: &Kind, toml: &str) -> Read<crate::probe::Prepared> {
        read(toml, kind.prepare)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_has_its_row() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/probe/kinds");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let rows: BTreeSet<String> = KINDS.iter().map(|kind| kind.name.to_owned()).collect();
        assert_eq!(files, rows);
    }

    #[test]
    fn a_value_is_cut_between_characters() {
        assert_eq!(answer(b"42"), Answer::Value("42".into()));
        assert_eq!(answer(b"a\xff"), Answer::Value("a\u{fffd}".into()));
        for (before, kept) in [("", MAX_VALUE_BYTES), ("a", MAX_VALUE_BYTES - 1)] {
            let long = format!("{before}{}", "ä".repeat(MAX_VALUE_BYTES));
            assert_eq!(answer(long.as_bytes()), Answer::Value(long[..kept].into()));
        }
    }

    #[test]
    fn every_example_parses_and_asks_for_what_the_row_lists() {
        for kind in KINDS {
            let read = testing::prepare(kind, kind.example);
            assert!(read.findings.is_empty(), "{}: {:?}", kind.name, read.findings);
            assert!(read.value.is_some(), "{}", kind.name);
            for key in kind.keys {
                assert!(kind.example.contains(key), "{}: the example does not show {key}", kind.name);
            }
        }
    }

    #[test]
    fn every_example_url_is_of_its_form_and_accepted() {
        for kind in KINDS {
            let url = kind.form.parse(kind.example_url).unwrap();
            assert!(kind.schemes.contains(&url.scheme()), "{}", kind.name);
        }
    }

    #[test]
    fn names_and_schemes_are_found_once() {
        let mut seen = BTreeSet::new();
        for kind in KINDS {
            assert_eq!(by_name(kind.name).map(|found| found.name), Some(kind.name));
            for scheme in kind.schemes {
                assert_eq!(by_scheme(scheme).map(|found| found.name), Some(kind.name));
                assert!(seen.insert(*scheme), "{scheme} twice");
                assert!(!LATER.contains(scheme), "{scheme} is built");
            }
        }
        assert!(by_name("gopher").is_none() && by_scheme("gopher").is_none());
    }
}
