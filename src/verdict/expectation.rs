//! What a monitor's owner expects of its observations (`[monitor.expect]`, contract section 3).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use regex::Regex;

use self::json::JsonRule;
use self::status::StatusSet;
use self::value::ValueTest;
use crate::settings::reader::TableReader;

pub mod json;
pub(crate) mod pattern;
pub mod status;
pub mod value;

/// Which expectations a kind can meet; `latency_below` and `latency_down_above` every kind can.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepts {
    /// `status`.
    pub status: bool,
    /// `body_contains` and its siblings.
    pub body: bool,
    /// `headers`.
    pub headers: bool,
    /// `json`.
    pub json: bool,
    /// `certificate_days_left`.
    pub certificate: bool,
    /// `value`.
    pub value: bool,
    /// [`DNS_KEYS`], which the kind reads and judges itself.
    pub dns: bool,
    /// `domain_days_left`, which the kind reads and judges itself.
    pub domain: bool,
}

/// What only probes of name servers can meet.
pub const DNS_KEYS: &[&str] = &["answers", "answers_exact", "rcode", "authenticated", "serial_at_least"];

/// What a body, read as UTF-8 (wrong bytes become U+FFFD), must or must not hold.
#[derive(Debug)]
pub enum BodyRule {
    /// `body_contains`.
    Contains(Box<str>),
    /// `body_matches`.
    Matches(Regex),
    /// `body_not_contains`.
    NotContains(Box<str>),
    /// `body_not_matches`.
    NotMatches(Regex),
}

impl BodyRule {
    /// It holds for a body that cannot be read.
    pub(crate) const fn forbids(&self) -> bool {
        matches!(self, Self::NotContains(_) | Self::NotMatches(_))
    }
}

/// How a header's value is compared. Values are case-sensitive.
#[derive(Debug)]
pub enum HeaderTest {
    /// `equals`.
    Equals(Box<str>),
    /// `contains`.
    Contains(Box<str>),
    /// `matches`.
    Matches(Regex),
}

/// One entry of `headers`; of several headers of that name any may match.
#[derive(Debug)]
pub struct HeaderRule {
    /// Name, lower-case.
    pub name: Box<str>,
    /// The test.
    pub test: HeaderTest,
}

/// The expectations that were written down; see [`Expectations`].
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) status: StatusSet,
    pub(crate) latency_below: Option<Duration>,
    pub(crate) latency_down_above: Option<Duration>,
    pub(crate) headers: Box<[HeaderRule]>,
    pub(crate) body: Box<[BodyRule]>,
    pub(crate) json: Box<[JsonRule]>,
    pub(crate) certificate_days_left: Option<i64>,
    pub(crate) value: Option<ValueTest>,
}

/// Compiled expectations. Without any written down they are one pointer, and mean `status = ["2xx"]` where the
/// observation has a status.
#[derive(Debug, Default)]
pub struct Expectations {
    rules: Option<Box<Rules>>,
}

/// A list of more rules than this is a mistake, or an attack on the judge's time.
const RULES_MAX: usize = 64;
/// The longest text to look for, bytes.
const NEEDLE_MAX: usize = 16 * 1024;
/// Latency bounds; a check lasts a day at the most.
const LATENCY: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

impl Expectations {
    /// Reads the `expect` sub-table of a monitor. All errors go to the reader. An expectation that the kind cannot meet
    /// is an error where the monitor itself asks for it; one that only `[defaults]` asks for is not applied.
    pub fn read(monitor: &mut TableReader<'_>, accepts: Accepts) -> Self {
        let of_monitor = monitor.has_own("expect") && monitor.node("expect").is_some();
        let Some(mut table) = monitor.table("expect") else { return Self::default() };
        let mut rules = Rules::default();
        let mut written = read_latency(&mut table, &mut rules);
        if accepted(&mut table, "status", of_monitor, accepts.status)
            && let Some(status) = StatusSet::read(&mut table, "status")
        {
            (rules.status, written) = (status, true);
        }
        if accepted(&mut table, "headers", of_monitor, accepts.headers) {
            rules.headers = read_headers(&mut table);
        }
        rules.body = read_body(&mut table, of_monitor, accepts.body);
        if accepted(&mut table, "json", of_monitor, accepts.json) {
            rules.json = read_limited(&mut table, "json", json::JsonRule::read);
        }
        if accepted(&mut table, "certificate_days_left", of_monitor, accepts.certificate) {
            rules.certificate_days_left = table.integer("certificate_days_left", 0..=36_500);
        }
        if accepted(&mut table, "value", of_monitor, accepts.value) {
            rules.value = ValueTest::read(&mut table);
        }
        written |= rules.value.is_some();
        written |= !rules.headers.is_empty() || !rules.body.is_empty() || !rules.json.is_empty();
        written |= rules.certificate_days_left.is_some();
        for key in DNS_KEYS {
            accepted(&mut table, key, of_monitor, accepts.dns);
        }
        accepted(&mut table, "domain_days_left", of_monitor, accepts.domain);
        table.finish(&|_| None);
        Self { rules: written.then(|| Box::new(rules)) }
    }

    /// Behind an `Arc`; those without a rule of their own all share one.
    #[must_use]
    pub fn shared(self) -> Arc<Self> {
        static NONE: LazyLock<Arc<Expectations>> = LazyLock::new(|| Arc::new(Expectations::default()));
        if self.rules.is_none() { Arc::clone(&NONE) } else { Arc::new(self) }
    }

    /// Whether the whole body is needed.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| !rules.body.is_empty() || !rules.json.is_empty())
    }

    /// The rules, those of an unwritten table included.
    pub(crate) fn rules(&self) -> &Rules {
        static DEFAULT: LazyLock<Rules> = LazyLock::new(Rules::default);
        self.rules.as_deref().unwrap_or(&DEFAULT)
    }
}

/// Whether a key is to be read. When the kind cannot meet it, it is an error, unless it comes from the defaults, which
/// hold for monitors of every kind.
fn accepted(table: &mut TableReader<'_>, key: &'static str, of_monitor: bool, accepts: bool) -> bool {
    let own = table.has_own(key) && of_monitor;
    if !accepts && own && table.node(key).is_some() {
        let who = match key {
            "certificate_days_left" => "only probes over TLS see a certificate",
            "value" => "only probes that have a query get a value",
            key if DNS_KEYS.contains(&key) => "only dns probes get answers of name servers",
            "domain_days_left" => "only domain probes ask a registry",
            "status" | "headers" => "only http and https probes see a response head",
            _ => "only http and https probes read a body",
        };
        table.error(key, "this kind of probe cannot meet this expectation", format!("{who}; remove it"));
    }
    accepts
}

/// Reads both bounds; true when there is one.
fn read_latency(table: &mut TableReader<'_>, rules: &mut Rules) -> bool {
    rules.latency_below = table.duration("latency_below", LATENCY);
    rules.latency_down_above = table.duration("latency_down_above", LATENCY);
    if let (Some(below), Some(down)) = (rules.latency_below, rules.latency_down_above)
        && down <= below
    {
        table.error(
            "latency_down_above",
            "is not larger than latency_below",
            "must be larger than latency_below: between the two a check is degraded".to_owned(),
        );
    }
    rules.latency_below.is_some() || rules.latency_down_above.is_some()
}

fn read_body(table: &mut TableReader<'_>, of_monitor: bool, accepts: bool) -> Box<[BodyRule]> {
    let mut rules = Vec::new();
    if accepted(table, "body_contains", of_monitor, accepts) {
        rules.extend(needle(table, "body_contains").map(BodyRule::Contains));
    }
    if accepted(table, "body_matches", of_monitor, accepts) {
        rules.extend(pattern::read(table, "body_matches").map(BodyRule::Matches));
    }
    if accepted(table, "body_not_contains", of_monitor, accepts) {
        rules.extend(needle(table, "body_not_contains").map(BodyRule::NotContains));
    }
    if accepted(table, "body_not_matches", of_monitor, accepts) {
        rules.extend(pattern::read(table, "body_not_matches").map(BodyRule::NotMatches));
    }
    rules.into()
}

/// A text to look for: the empty one is in every text, so it is a mistake.
fn needle(table: &mut TableReader<'_>, key: &'static str) -> Option<Box<str>> {
    let text = table.string(key)?;
    if text.is_empty() || text.len() > NEEDLE_MAX {
        let what = if text.is_empty() { "the text is empty" } else { "the text is too long" };
        table.error(key, what, format!("must be 1 to {NEEDLE_MAX} bytes"));
        return None;
    }
    Some(text.into())
}

fn read_headers(table: &mut TableReader<'_>) -> Box<[HeaderRule]> {
    read_limited(table, "headers", |entry| {
        let name = entry.string("name");
        if name.is_none() && entry.node("name").is_none() {
            entry.error("name", "is missing", "must be the name of a response header".to_owned());
        }
        let test = exactly_one(entry, &["equals", "contains", "matches"]).and_then(|key| match key {
            "equals" => entry.string(key).map(|text| HeaderTest::Equals(text.into())),
            "contains" => needle(entry, key).map(HeaderTest::Contains),
            _ => pattern::read(entry, key).map(HeaderTest::Matches),
        });
        let name = name.filter(|name| {
            let good = !name.is_empty() && name.len() <= 256 && name.bytes().all(is_token);
            if !good {
                entry.error("name", "not the name of a header", "must be a token of RFC 9110".to_owned());
            }
            good
        });
        Some(HeaderRule { name: name?.to_ascii_lowercase().into(), test: test? })
    })
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads a list of tables, each closed with `finish`; at most [`RULES_MAX`].
fn read_limited<T>(
    table: &mut TableReader<'_>,
    key: &'static str,
    mut read: impl FnMut(&mut TableReader<'_>) -> Option<T>,
) -> Box<[T]> {
    let entries = table.tables(key).unwrap_or_default();
    if entries.len() > RULES_MAX {
        table.error(key, format!("{} entries", entries.len()), format!("must be at most {RULES_MAX}"));
        return Box::default();
    }
    let mut rules = Vec::with_capacity(entries.len());
    for mut entry in entries {
        rules.extend(read(&mut entry));
        entry.finish(&|_| None);
    }
    rules.into()
}

/// The one key of these that an entry has; another number of them is an error.
fn exactly_one(entry: &mut TableReader<'_>, keys: &[&'static str]) -> Option<&'static str> {
    let mut present = Vec::new();
    for key in keys {
        if entry.node(key).is_some() {
            present.push(*key);
        }
    }
    match present.as_slice() {
        [one] => Some(one),
        [] => {
            entry.error("", "says nothing to compare with", format!("must have one of {}", keys.join(", ")));
            None
        }
        [_, second, ..] => {
            let what = format!("has {} at once", present.join(" and "));
            entry.error(second, what, format!("must have exactly one of {}; use two entries", keys.join(", ")));
            None
        }
    }
}

#[cfg(test)]
mod tests;
