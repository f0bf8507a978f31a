//! The configuration as it may be shown: keys stay, and of values what is known to say nothing about anybody's secrets.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::scrub::{self, MARK, is_reference};
use crate::model::Secret;
use crate::settings::diagnostic::{Findings, SourceText};
use crate::settings::document;
use crate::settings::limited;
use crate::settings::model::Environment;
use crate::settings::tree::{Table, Value};

/// Texts that stay, by their keys with the names of tables before them.
const HARMLESS: &[&str] = &[
    "daemon.region",
    "daemon.state_directory",
    "daemon.log_level",
    "server.listen",
    "database.schema",
    "database.backlog",
    "database.cluster_user",
    "probe.resolvers",
    "probe.ca_files",
    "probe.max_body",
    "egress.allow",
    "egress.deny",
    "egress.database_profile",
    "retention.checks",
    "retention.hourly",
    "retention.daily",
    "retention.incidents",
    "retention.disk_budget",
    "slo.id",
    "slo.name",
    "slo.monitor",
    "slo.tags",
    "slo.window",
    "slo.timezone",
    "maintenance.id",
    "maintenance.name",
    "maintenance.monitors",
    "maintenance.tags",
    "maintenance.starts_at",
    "maintenance.timezone",
    "maintenance.duration",
    "maintenance.rrule",
];
/// The same of a monitor, and of `[defaults]`.
const HARMLESS_OF_MONITORS: &[&str] = &[
    "id",
    "renamed_from",
    "kind",
    "name",
    "interval",
    "schedule",
    "timezone",
    "timeout",
    "retry_interval",
    "flap.within",
    "flap.hold",
    "tags",
    "method",
    "ip_version",
    "depends_on",
    "members",
    "require",
    "period",
    "grace",
    "max_run",
    "record",
    "resolver",
    "tls.min_version",
    "tls.client_certificate",
    "tls.client_key",
    "expect.status",
    "expect.latency_below",
    "expect.latency_down_above",
    "expect.headers.name",
    "expect.json.path",
    "expect.rcode",
];
/// Headers that say what is wanted, and not by whom.
const HARMLESS_HEADERS: &[&str] =
    &["accept", "accept-encoding", "accept-language", "cache-control", "content-type", "user-agent"];
const ADDRESSES: &[&str] =
    &["url", "server.public_url", "database.url", "probe.proxy", "probe.rdap_bootstrap", "proxy"];
/// What stands here is a secret elsewhere as well, in whole.
const SECRET: &[&str] = &["auth", "token", "headers", "env"];
/// But not this: it is hidden here, and a word of every log.
const NAME_OF_A_USER: &str = ".username";

/// A configuration without its secrets.
#[derive(Default)]
pub(in crate::cli) struct Shown {
    /// A source each: its path, what it says, and whether it does not parse.
    pub(super) sources: Vec<(String, Json, bool)>,
    /// What was taken away, to be looked for in other texts.
    pub(in crate::cli) secrets: Vec<Secret>,
    /// What secrets are named by, where they do not stand themselves.
    references: Vec<Reference>,
}

enum Reference {
    /// `${NAME}`.
    Variable(String),
    /// `{ file = "path" }`.
    File(String),
    /// `{ credential = "name" }`.
    Credential(String),
}

/// Of a file with a secret; keys and chains of certificates are larger than passwords.
const SECRET_FILE_MOST: u64 = 64 << 10;
/// Lines of a file that are worth looking for one by one.
const LONG_LINE: usize = 16;

pub(in crate::cli) fn show(texts: &[SourceText]) -> Shown {
    let mut shown = Shown::default();
    for (index, source) in texts.iter().enumerate() {
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        let (table, broken) = document::parse(number, &source.text, &Findings::default());
        let json = shown.table(&table, "");
        shown.sources.push((source.name.clone(), Json::Object(json), broken));
    }
    shown
}

impl Shown {
    /// How many secrets stand in it as they are.
    pub(in crate::cli) fn written_out(&self) -> usize {
        self.secrets.len()
    }

    /// Whether all of it was understood, so that every secret in it is known.
    pub(in crate::cli) fn parses(&self) -> bool {
        self.sources.iter().all(|(_, _, broken)| !broken)
    }

    /// What the references stand for, also where the configuration is refused. `base`: where relative paths start.
    pub(in crate::cli) fn referred(&self, base: &Path, environment: Environment<'_>) -> Vec<Secret> {
        let read = |path: &Path| limited::read(path, SECRET_FILE_MOST).ok();
        let texts = self.references.iter().filter_map(|reference| match reference {
            Reference::Variable(name) => (environment.variable)(name),
            Reference::File(path) => read(&base.join(path)),
            Reference::Credential(name) => read(&environment.credentials?.join(name)),
        });
        let mut secrets = Vec::new();
        for text in texts {
            // Each text is looked for in one line.
            secrets.extend(text.lines().filter(|line| line.len() >= LONG_LINE).map(Secret::new));
            secrets.push(Secret::new(text.trim_end_matches(['\r', '\n'])));
            secrets.extend(scrub::address(&text).1);
        }
        secrets
    }

    fn refer(&mut self, text: &str) {
        let names = text.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
        self.references.extend(names.map(|(name, _)| Reference::Variable(name.to_owned())));
    }

    fn table(&mut self, table: &Table, path: &str) -> Map<String, Json> {
        let one = |(key, value): (&str, &Value)| (key.to_owned(), self.value(value, &below(path, key)));
        table.entries.iter().map(|entry| (&*entry.key, &entry.node.value)).map(one).collect()
    }

    fn value(&mut self, value: &Value, path: &str) -> Json {
        match value {
            Value::Boolean(flag) => Json::from(*flag),
            Value::Null => Json::Null,
            // A number may be a password as well.
            Value::Integer(number) if !is_secret(path) => Json::from(*number),
            Value::Float(number) if !is_secret(path) => Json::from(*number),
            Value::Integer(number) => self.take(&number.to_string()),
            Value::Float(number) => self.take(&number.to_string()),
            Value::Datetime(text) => Json::from(&**text),
            Value::Array(items) => items.iter().map(|item| self.value(&item.value, path)).collect(),
            Value::Table(table) => match reference(table).filter(|_| !holds_names(path)) {
                Some((reference, json)) => {
                    self.references.push(reference);
                    json
                }
                None => Json::Object(self.table(table, path)),
            },
            Value::String(text) => self.text(text, path),
        }
    }

    fn text(&mut self, text: &str, path: &str) -> Json {
        if is_harmless(path) {
            return Json::from(text);
        }
        self.refer(text);
        if is_reference(text) {
            return Json::from(text);
        }
        if ADDRESSES.contains(&path) || ADDRESSES.contains(&of_monitor(path).unwrap_or_default()) {
            let (shown, secrets) = scrub::address(text);
            self.secrets.extend(secrets);
            return Json::from(shown);
        }
        if is_secret(path) { self.take(text) } else { Json::from(MARK) }
    }

    fn take(&mut self, text: &str) -> Json {
        self.secrets.push(Secret::new(text));
        // As it goes over the wire: without the name of its scheme.
        let bare = text.split_once(' ').map(|(_, rest)| rest).filter(|rest| !rest.contains(' '));
        self.secrets.extend(bare.map(Secret::new));
        Json::from(MARK)
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn of_monitor(path: &str) -> Option<&str> {
    path.strip_prefix("monitor.").or_else(|| path.strip_prefix("defaults."))
}

/// Whether the keys of a table are anybody's: `file` is a name there, and no reference.
fn holds_names(path: &str) -> bool {
    matches!(of_monitor(path), Some("env" | "headers"))
}

fn is_secret(path: &str) -> bool {
    !path.ends_with(NAME_OF_A_USER)
        && of_monitor(path).is_some_and(|key| SECRET.iter().any(|place| key.split('.').next() == Some(*place)))
}

fn is_harmless(path: &str) -> bool {
    let Some(key) = of_monitor(path) else { return HARMLESS.contains(&path) };
    let header =
        key.strip_prefix("headers.").is_some_and(|name| HARMLESS_HEADERS.contains(&&*name.to_ascii_lowercase()));
    header || HARMLESS_OF_MONITORS.contains(&key)
}

/// `{ file = "path" }` or `{ credential = "name" }`: where a secret is, not what it is.
fn reference(table: &Table) -> Option<(Reference, Json)> {
    let [entry] = &table.entries[..] else { return None };
    let Value::String(text) = &entry.node.value else { return None };
    let reference = match &*entry.key {
        "file" => Reference::File(text.to_string()),
        "credential" => Reference::Credential(text.to_string()),
        _ => return None,
    };
    Some((reference, serde_json::json!({ entry.key.to_string(): &**text })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (Json, Vec<String>) {
        let shown = show(&[SourceText::new("c.toml".to_owned(), text.to_owned())]);
        let secrets = shown.secrets.iter().map(|secret| secret.expose().to_owned()).collect();
        (shown.sources[0].1.clone(), secrets)
    }

    #[test]
    fn keys_stay_and_secrets_go() {
        let text = "
daemon.region = \"eu\"
server.metrics_public = true
database.url = \"postgres://u:geheim01@h/d\"
tpyo = \"geheim02\"
[probe]
proxy = \"http://u:geheim03@p:1\"
user_agent = \"geheim04\"
[[monitor]]
id = \"a\"
url = \"https://h/?token=geheim05\"
body = \"geheim06\"
auth = { basic = { username = \"geheim07\", password = \"geheim08\" } }
headers = { Accept = \"text/html\", X-Thing = \"Key geheim09\", file = \"geheim10\" }
expect = { status = [\"2xx\", 404], body_contains = \"geheim11\" }
[[monitor]]
id = \"b\"
url = \"exec:/bin/x geheim12\"
env = { A = \"geheim13\", B = { file = \"where\" }, file = \"geheim14\", N = 77441122 }
token = { credential = \"its-name\" }
auth.bearer = \"${TOKEN}\"
";
        let (json, secrets) = shown(text);
        let printed = json.to_string();
        assert!(!printed.contains("geheim") && !printed.contains("77441122"), "{printed}");
        for kept in
            ["\"eu\"", "tpyo", "text/html", "2xx", "404", "where", "its-name", "${TOKEN}", "postgres://", "X-Thing"]
        {
            assert!(printed.contains(kept), "{kept}: {printed}");
        }
        for number in ["01", "03", "05", "08", "09", "10", "13", "14"] {
            assert!(secrets.contains(&format!("geheim{number}")), "{number}: {secrets:?}");
        }
    }

    #[test]
    fn references_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p"), "geheim02\n").unwrap();
        std::fs::write(folder.path().join("c"), "geheim03").unwrap();
        let text = "[[monitor]]\nname = \"${HOME}\"\nauth.bearer = \"x-${TOKEN}\"\ntoken = { file = \"p\" }\nbody = { credential = \"c\" }";
        let shown = show(&[SourceText::new("c.toml".to_owned(), text.to_owned())]);
        let variable = |name: &str| (name == "TOKEN").then(|| "geheim01".to_owned());
        let environment = Environment { variable: &variable, credentials: Some(folder.path()) };
        let secrets = shown.referred(folder.path(), environment);
        let texts: Vec<_> = secrets.iter().map(Secret::expose).collect();
        assert_eq!(texts, ["geheim01", "geheim02", "geheim03"]);
    }

    #[test]
    fn the_example_keeps_what_matters() {
        let (json, secrets) = shown(include_str!("../../../config.example.toml"));
        assert_eq!(json["monitor"][1]["url"], "https://example.com/");
        assert!(secrets.is_empty(), "{secrets:?}");
    }

    #[test]
    fn what_does_not_parse_is_not_shown() {
        let shown = show(&[SourceText::new(
            "c".to_owned(),
            "a = geheim\n[database]\nurl = \"postgres://u:geheim@h".to_owned(),
        )]);
        assert!(shown.sources[0].2 && !shown.sources[0].1.to_string().contains("geheim"));
    }
}
