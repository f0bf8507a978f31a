//! `[[monitor]]` and rows of `monitors`: one code path to a [`Definition`].

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use super::common;
use super::defaults::Defaults;
use super::definition::{Definition, Made};
use super::diagnostic::Findings;
use super::model::Environment;
use super::reader::{Origin, Outside, TableReader};
use super::target;
use super::tree::{Span, Table};
use crate::catalog::MonitorRow;
use crate::model::Secret;
use crate::probe::Kind;

/// Keys of `[[monitor]]` that are columns of `monitors`, or name the row: never in `spec`.
pub(super) const COLUMNS: &[&str] =
    &["id", "name", "url", "owner", "interval", "timeout", "active", "tags", "kind", "renamed_from"];

/// Columns of `monitors` that a spec may not repeat either, and what to do instead.
const ROW_COLUMNS: &[&str] =
    &["key", "user_id", "interval_seconds", "timeout_seconds", "is_active", "source", "status"];

/// Characters of an `invalid_reason`.
const MAX_REASON: usize = 500;

/// A row's spec is at most this large, bytes of text.
const MAX_SPEC: usize = 64 * 1024;

/// What all monitors of one reading share.
pub(super) struct Context<'a> {
    pub(super) origin: &'a Origin<'a>,
    pub(super) findings: &'a Findings,
    pub(super) defaults: &'a Defaults,
    pub(super) kinds: &'static [&'static Kind],
    pub(super) later: &'static [&'static str],
    pub(super) no_secrets: Arc<[Secret]>,
}

/// Reads one `[[monitor]]`; errors go to the findings, and then none is returned. In a source that is `broken` what is
/// missing may be in the part that was lost.
pub(super) fn read_file_monitor(
    table: &Table,
    span: Option<Span>,
    broken: bool,
    context: &Context<'_>,
) -> Option<Definition> {
    let (secrets, outside) = (RefCell::default(), Outside::default());
    let reader = TableReader::new(table, span, "monitor", context.origin, context.findings, &secrets);
    let mut reader = reader.with_outside(&outside).with_defaults(context.defaults.all());
    let before = context.findings.count();

    let key = common::key(&mut reader, "id");
    let written = reader.string_raw("url");
    for missing in ["id", "url"] {
        if !broken && table.get(missing).is_none() {
            reader.error(missing, "is missing", "every [[monitor]] has an id and a url".to_owned());
        }
    }
    let named = reader.string_raw("kind");
    let address = written.and_then(|written| read_address(&mut reader, written, named, context));
    let Some(address) = address else {
        read_the_rest(reader, context);
        return None;
    };
    let defaults = context.defaults.of_file(address.kind.name);
    let mut reader = reader.with_defaults(defaults);
    let identity = common::identity(&mut reader);
    let interval = common::interval(&mut reader);
    let shared = common::shared(&mut reader, interval);
    let prepared = prepare(address.kind, &address.target, &mut reader);
    let confirmations = confirmations(shared.confirmations, prepared.as_ref(), &mut reader);
    finish(reader, address.kind, context);
    if context.findings.count() > before {
        return None;
    }
    let key = key?;
    let mut depends_on = shared.depends_on;
    if table.get("depends_on").is_none() {
        // A default that names a gateway does not make the gateway depend on itself.
        depends_on.retain(|other| *other != key);
    }
    let name = identity.name.unwrap_or_else(|| key.as_str().into());
    let definition = Definition {
        name,
        url: written?.into(),
        kind: address.kind.name,
        owner: identity.owner,
        renamed_from: identity.renamed_from,
        timeout: identity.timeout,
        active: identity.active,
        tags: identity.tags,
        cadence: shared.cadence?,
        confirmations,
        recoveries: shared.recoveries,
        retry_interval: shared.retry_interval,
        flap: shared.flap,
        depends_on: depends_on.into(),
        spec: Arc::default(),
        prepared: prepared?,
        key: Some(key),
        secrets: Arc::clone(&context.no_secrets),
        fingerprint: 0,
        reads_files: false,
    };
    Some(sealed(definition, &address.target, &effective_spec(table, defaults), secrets, outside))
}

/// Reads what every kind has when the kind is not known, so that its errors are reported in the same run.
fn read_the_rest(mut reader: TableReader<'_>, context: &Context<'_>) {
    common::identity(&mut reader);
    let interval = common::interval(&mut reader);
    common::shared(&mut reader, interval);
    context.kinds.iter().flat_map(|kind| kind.keys).for_each(|key| reader.ask(key));
    reader.finish(&|_| None);
}

/// Reads one row of the database; the error is a sentence for `invalid_reason`. No reference of a row is resolved, and
/// no default that carries a secret is lent to it.
pub fn read_row(row: &MonitorRow, defaults: &Defaults) -> Result<Definition, String> {
    let kinds = (crate::probe::kinds::KINDS, crate::probe::kinds::LATER);
    read_row_of(row, defaults, kinds.0, kinds.1)
}

/// Reads a row that a file has written as that file would be read: its references are resolved. Only for rows that nobody
/// else can have written. The defaults that applied are in its spec.
pub fn read_own_row(row: &MonitorRow, base: &Path, environment: Environment<'_>) -> Result<Definition, String> {
    let kinds = (crate::probe::kinds::KINDS, crate::probe::kinds::LATER);
    let origin = Origin { trusted: true, env: environment.variable, base, credentials: environment.credentials };
    read_row_as(row, &Defaults::default(), kinds.0, kinds.1, &origin)
}

/// The spec of a row with the defaults that are lent to one of this kind: what a file without `[defaults]` has to say.
#[must_use]
pub fn row_spec(row: &MonitorRow, kind: &str, defaults: &Defaults) -> serde_json::Map<String, serde_json::Value> {
    let own = row.spec.as_object().map(Table::from_json).unwrap_or_default();
    effective_spec(&own, defaults.of_row(kind))
}

pub(super) fn read_row_of(
    row: &MonitorRow,
    defaults: &Defaults,
    kinds: &'static [&'static Kind],
    later: &'static [&'static str],
) -> Result<Definition, String> {
    let origin = Origin { trusted: false, env: &|_| None, base: Path::new(""), credentials: None };
    read_row_as(row, defaults, kinds, later, &origin)
}

fn read_row_as(
    row: &MonitorRow,
    defaults: &Defaults,
    kinds: &'static [&'static Kind],
    later: &'static [&'static str],
    origin: &Origin<'_>,
) -> Result<Definition, String> {
    let findings = Findings::default();
    let no_secrets = Arc::from([]);
    let context = Context { origin, findings: &findings, defaults, kinds, later, no_secrets };
    let definition = read_row_in(row, &context);
    let (list, more) = findings.into_sorted();
    match definition {
        Some(definition) if list.is_empty() => Ok(definition),
        _ => Err(reason(list.iter().map(ToString::to_string).collect(), more)),
    }
}

fn reason(sentences: Vec<String>, more: usize) -> String {
    let mut text = sentences.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    if text.chars().count() > MAX_REASON {
        text = text.chars().take(MAX_REASON - 1).chain(['…']).collect();
    }
    text
}

fn read_row_in(row: &MonitorRow, context: &Context<'_>) -> Option<Definition> {
    let (secrets, outside) = (RefCell::default(), Outside::default());
    let nothing = Table::default();
    let columns = TableReader::new(&nothing, None, "", context.origin, context.findings, &secrets);
    let own = match &row.spec {
        serde_json::Value::Null => Table::default(),
        serde_json::Value::Object(object) if weight(&row.spec) <= MAX_SPEC => Table::from_json(object),
        serde_json::Value::Object(_) => {
            columns.error("spec", "is too large", format!("at most {MAX_SPEC} bytes"));
            return None;
        }
        _ => {
            columns.error("spec", "is not an object", "a JSON object of monitor keys".to_owned());
            return None;
        }
    };
    let fixed = common::row_columns(&columns, row);
    let reader = TableReader::new(&own, None, "spec", context.origin, context.findings, &secrets);
    let mut reader = reader.with_outside(&outside);
    let mut as_column = TableReader::new(&nothing, None, "", context.origin, context.findings, &secrets);
    let address = read_address(&mut as_column, &row.url, row.kind.as_deref(), context)?;
    let defaults = context.defaults.of_row(address.kind.name);
    reader = reader.with_defaults(defaults);
    for column in COLUMNS.iter().chain(ROW_COLUMNS) {
        if reader.has_own(column) {
            reader.error_hidden(column, "repeats a column", "remove it from the spec; the column counts".to_owned());
        }
    }
    let scheduled = own.get("schedule").is_some();
    let interval = if scheduled { None } else { common::row_interval(&columns, row) };
    let shared = common::shared(&mut reader, interval);
    let prepared = prepare(address.kind, &address.target, &mut reader);
    let confirmations = confirmations(shared.confirmations, prepared.as_ref(), &mut reader);
    finish(reader, address.kind, context);
    let definition = Definition {
        key: fixed.key,
        renamed_from: None,
        name: fixed.name?,
        url: row.url.as_str().into(),
        owner: None,
        kind: address.kind.name,
        cadence: shared.cadence?,
        timeout: fixed.timeout?,
        confirmations,
        recoveries: shared.recoveries,
        retry_interval: shared.retry_interval,
        flap: shared.flap,
        active: row.is_active,
        tags: fixed.tags?,
        depends_on: shared.depends_on.into(),
        spec: Arc::default(),
        prepared: prepared?,
        secrets: Arc::clone(&context.no_secrets),
        fingerprint: 0,
        reads_files: false,
    };
    Some(sealed(definition, &address.target, &own.to_json(&[]), secrets, outside))
}

struct Address {
    target: url::Url,
    kind: &'static Kind,
}

fn read_address(
    reader: &mut TableReader<'_>,
    written: &str,
    named: Option<&str>,
    context: &Context<'_>,
) -> Option<Address> {
    if written.contains('@') {
        // It may hold a password, and every error about it would show it.
        reader.hide("url");
    }
    let expanded = reader.expanded("url", written)?;
    let found = target::parse(written, &expanded, context.kinds, context.later);
    let (target, by_scheme) = match found {
        Ok(found) => found,
        Err(complaint) => {
            reader.error("url", complaint.what, complaint.allowed);
            return None;
        }
    };
    let Some(named) = named else { return Some(Address { target, kind: by_scheme }) };
    let names = || context.kinds.iter().map(|kind| kind.name);
    let allowed = || format!("must be one of {}", names().collect::<Vec<_>>().join(", "));
    if named == by_scheme.name {
        return Some(Address { target, kind: by_scheme });
    }
    if names().any(|name| name == named) {
        let what = format!("is {named:?}, but the url's scheme {:?} belongs to {:?}", target.scheme(), by_scheme.name);
        reader.error("kind", what, "leave it out, or change one of the two".to_owned());
    } else if context.later.contains(&named) {
        reader.error("kind", format!("{named:?} is not built yet in this version"), allowed());
    } else {
        let shown: String = named.chars().take(60).collect();
        reader.error("kind", format!("unknown kind {shown:?}"), allowed());
    }
    None
}

/// The kind's part. A kind that refuses without a word would lose its monitor silently.
fn prepare(kind: &Kind, target: &url::Url, reader: &mut TableReader<'_>) -> Option<crate::probe::Prepared> {
    let before = reader.findings().count();
    let prepared = (kind.prepare)(target, reader);
    if prepared.is_none() && reader.findings().count() == before {
        reader.error("url", format!("not a target for a {} monitor", kind.name), None);
    }
    prepared
}

/// What a job or another monitor's confirmed state says is not doubted, unless the definition wants it to be.
fn confirmations(read: u16, prepared: Option<&crate::probe::Prepared>, reader: &mut TableReader<'_>) -> u16 {
    let told = prepared.is_some_and(|prepared| !prepared.probe.driven().is_scheduled());
    if told && reader.node("confirmations").is_none() { 1 } else { read }
}

fn finish(reader: TableReader<'_>, kind: &Kind, context: &Context<'_>) {
    reader.finish(&|key| {
        let other = context.kinds.iter().find(|other| other.keys.contains(&key))?;
        Some(format!("it is for {} monitors, and this one's kind is {}", other.name, kind.name))
    });
}

/// The monitor's own keys and the defaults that apply to it, columns left out.
fn effective_spec(own: &Table, defaults: Option<&Table>) -> serde_json::Map<String, serde_json::Value> {
    let mut spec = own.to_json(COLUMNS);
    let Some(defaults) = defaults else { return spec };
    let has = |key: &str| own.get(key).is_some();
    for (key, value) in defaults.to_json(COLUMNS) {
        // An interval of the monitor's own beats a schedule of the defaults.
        let beaten = matches!(&*key, "schedule" | "timezone") && has("interval") && !has("schedule");
        if !beaten {
            join(&mut spec, key, value);
        }
    }
    spec
}

fn join(into: &mut serde_json::Map<String, serde_json::Value>, key: String, value: serde_json::Value) {
    use serde_json::Value as Json;
    match (into.get_mut(&key), value) {
        (None, value) => {
            into.insert(key, value);
        }
        (Some(Json::Object(there)), Json::Object(more)) => {
            more.into_iter().for_each(|(key, value)| join(there, key, value))
        }
        (Some(_), _) => {}
    }
}

fn sealed(
    mut definition: Definition,
    target: &url::Url,
    spec: &serde_json::Map<String, serde_json::Value>,
    secrets: RefCell<Vec<Secret>>,
    outside: Outside,
) -> Definition {
    let (mut secrets, paths) = (secrets.into_inner(), outside.paths.into_inner());
    definition.fingerprint = definition.compute_fingerprint(&Made { target, spec, secrets: &secrets, paths: &paths });
    definition.reads_files = outside.files.get() || !paths.is_empty();
    definition.spec = text_of(spec);
    secrets.retain(|secret| secret.expose().len() >= Secret::SHORTEST);
    if !secrets.is_empty() {
        // Longest first: a secret that holds another is removed whole.
        secrets.sort_by(|a, b| b.expose().len().cmp(&a.expose().len()).then_with(|| a.expose().cmp(b.expose())));
        secrets.dedup();
        definition.secrets = secrets.into();
    }
    definition
}

fn text_of(spec: &serde_json::Map<String, serde_json::Value>) -> Arc<str> {
    // Only a map with keys that are no strings could fail.
    serde_json::to_string(spec).unwrap_or_default().into()
}

/// Bytes of text in a JSON value, with something for every node.
fn weight(value: &serde_json::Value) -> usize {
    use serde_json::Value as Json;
    8 + match value {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(weight).sum(),
        Json::Object(object) => object.iter().map(|(key, value)| key.len() + weight(value)).sum(),
        _ => 0,
    }
}
