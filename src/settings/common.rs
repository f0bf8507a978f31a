//! What every kind of monitor has, from a file's keys or a row's columns, with its bounds.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::diagnostic::nearest;
use super::reader::TableReader;
use super::tree::Value;
use crate::catalog::MonitorRow;
use crate::model::{Cadence, Flap, MonitorKey};
use crate::schedule::plan;

const DAY: u64 = 86_400;
/// `interval`.
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(DAY);
const INTERVAL_DEFAULT: Duration = Duration::from_secs(300);
/// `timeout`: a check holds one of `probe.max_in_flight` for as long.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// `retry_interval` when absent, unless the interval is shorter.
const RETRY_DEFAULT: Duration = Duration::from_secs(10);
/// `confirmations` and `recoveries`.
const STREAK: RangeInclusive<i64> = 1..=100;
const FLAP_CHANGES: RangeInclusive<i64> = 2..=100;
const FLAP_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * DAY);
const MAX_NAME: usize = 255;
pub(crate) const MAX_TAGS: usize = 32;
const MAX_TAG: usize = 64;
const MAX_DEPENDENCIES: usize = 32;
/// RFC 5321, 4.5.3.1: a path is 256 octets with its brackets.
const MAX_EMAIL: usize = 254;

/// Columns of a file's monitor.
pub(super) struct Identity {
    pub(super) name: Option<Arc<str>>,
    pub(super) owner: Option<Arc<str>>,
    pub(super) renamed_from: Option<MonitorKey>,
    pub(super) timeout: Duration,
    pub(super) active: bool,
    pub(super) tags: Arc<[Box<str>]>,
}

/// Columns of a row; none where one is bad.
pub(super) struct RowColumns {
    pub(super) key: Option<MonitorKey>,
    pub(super) name: Option<Arc<str>>,
    pub(super) timeout: Option<Duration>,
    pub(super) tags: Option<Arc<[Box<str>]>>,
}

/// What files and specs say in the same words.
pub(super) struct Shared {
    /// None where it is bad.
    pub(super) cadence: Option<Cadence>,
    pub(super) confirmations: u16,
    pub(super) recoveries: u16,
    pub(super) retry_interval: Duration,
    pub(super) flap: Flap,
    pub(super) depends_on: Vec<MonitorKey>,
}

/// A monitor's key.
pub(super) fn key(reader: &mut TableReader<'_>, name: &'static str) -> Option<MonitorKey> {
    let text = reader.string_raw(name)?;
    text.parse().map_err(|allowed: &str| reader.error(name, "is not a key", format!("must be {allowed}"))).ok()
}

/// The columns that may have a default; read for their errors only.
pub(super) fn default_columns(reader: &mut TableReader<'_>) {
    reader.string("owner").and_then(|owner| checked_email(reader, owner));
    reader.whole_seconds("timeout", TIMEOUT);
    reader.boolean("active");
    reader.strings("tags").and_then(|tags| checked_tags(reader, tags));
}

/// The keys of a file that are columns of a row.
pub(super) fn identity(reader: &mut TableReader<'_>) -> Identity {
    let name = reader.string("name").and_then(|name| checked_name(reader, name));
    let owner = reader.string("owner").and_then(|owner| checked_email(reader, owner));
    let renamed_from = key(reader, "renamed_from");
    let timeout = reader.whole_seconds("timeout", TIMEOUT).unwrap_or(TIMEOUT_DEFAULT);
    let active = reader.boolean("active").unwrap_or(true);
    let tags = reader.strings("tags").and_then(|tags| checked_tags(reader, tags)).unwrap_or_default();
    Identity { name, owner, renamed_from, timeout, active, tags }
}

/// The columns of a row but its address and interval.
pub(super) fn row_columns(columns: &TableReader<'_>, row: &MonitorRow) -> RowColumns {
    let key = row.key.as_deref().and_then(|text| {
        text.parse().map_err(|allowed: &str| columns.error("key", "is not a key", format!("must be {allowed}"))).ok()
    });
    let timeout = seconds(columns, "timeout_seconds", row.timeout_seconds, &TIMEOUT);
    let name = checked_name(columns, row.name.clone());
    RowColumns { key, name, timeout, tags: checked_tags(columns, row.tags.clone()) }
}

/// `interval_seconds`.
pub(super) fn row_interval(columns: &TableReader<'_>, row: &MonitorRow) -> Option<Duration> {
    seconds(columns, "interval_seconds", row.interval_seconds, &INTERVAL)
}

fn seconds(columns: &TableReader<'_>, key: &str, value: i32, bounds: &RangeInclusive<Duration>) -> Option<Duration> {
    let duration = u64::try_from(value).ok().map(Duration::from_secs).filter(|duration| bounds.contains(duration));
    if duration.is_none() {
        let (least, most) = (bounds.start().as_secs(), bounds.end().as_secs());
        columns.error(key, format!("{value} is out of range"), format!("must be {least} to {most}"));
    }
    duration
}

/// `interval` of a file; none when a schedule stands in its place, or when it is bad.
pub(super) fn interval(reader: &mut TableReader<'_>) -> Option<Duration> {
    let (own, schedule) = (reader.has_own("interval"), reader.has_own("schedule"));
    if own && schedule {
        let way_out = "keep interval or schedule".to_owned();
        reader.error("schedule", "stands beside an interval", way_out);
        return None;
    }
    if schedule || (!own && reader.is_default("schedule")) {
        return None;
    }
    match reader.node("interval") {
        None => Some(INTERVAL_DEFAULT),
        Some(_) => reader.whole_seconds("interval", INTERVAL),
    }
}

/// Reads what is not a column. With an interval, a schedule of the defaults does not count.
pub(super) fn shared(reader: &mut TableReader<'_>, interval: Option<Duration>) -> Shared {
    reader.not_built_yet(&["notify"]);
    let cadence = match interval {
        Some(interval) => {
            reader.ask("schedule");
            if reader.has_own("timezone") {
                reader.error("timezone", "has no schedule beside it", "remove it, or add a schedule".to_owned());
            }
            Some(Cadence::Every(interval))
        }
        None => cron(reader),
    };
    let retry_most = Duration::from_secs(DAY);
    let retry_default = interval.map_or(RETRY_DEFAULT, |interval| interval.min(RETRY_DEFAULT));
    Shared {
        cadence,
        confirmations: streak(reader, "confirmations").unwrap_or(2),
        recoveries: streak(reader, "recoveries").unwrap_or(1),
        retry_interval: reader
            .whole_seconds("retry_interval", Duration::from_secs(1)..=retry_most)
            .unwrap_or(retry_default),
        flap: flap(reader),
        depends_on: depends_on(reader),
    }
}

fn streak(reader: &mut TableReader<'_>, key: &'static str) -> Option<u16> {
    u16::try_from(reader.integer(key, STREAK)?).ok()
}

fn cron(reader: &mut TableReader<'_>) -> Option<Cadence> {
    let expression = reader.string_raw("schedule");
    let zone = time_zone(reader)?;
    let expression = expression?;
    if let Err(why) = plan::validate_cron(expression) {
        let allowed = "five cron fields, or six with seconds first, such as \"0 */5 8-18 * * Mon-Fri\"".to_owned();
        reader.error("schedule", format!("not a schedule: {}", why.trim_end_matches('.')), allowed);
        return None;
    }
    Some(Cadence::Cron { expression: expression.into(), zone, window: None })
}

/// `timezone`; none when it is wrong, UTC when it is not there.
pub(super) fn time_zone(reader: &mut TableReader<'_>) -> Option<chrono_tz::Tz> {
    if reader.node("timezone").is_none() {
        return Some(chrono_tz::UTC);
    }
    let text = reader.string_raw("timezone")?;
    if let Ok(zone) = text.parse() {
        return Some(zone);
    }
    let shown: String = text.chars().take(60).collect();
    let near = nearest(text, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
    let allowed = match near {
        Some(near) => format!("did you mean {near:?}?"),
        None => "a name of the IANA database, such as \"Europe/Berlin\"".to_owned(),
    };
    reader.error("timezone", format!("unknown time zone {shown:?}"), allowed);
    None
}

fn flap(reader: &mut TableReader<'_>) -> Flap {
    let mut flap = Flap::default();
    if let Some(mut table) = reader.table("flap") {
        if let Some(changes) = table.integer("changes", FLAP_CHANGES) {
            flap.changes = u16::try_from(changes).unwrap_or(flap.changes);
        }
        flap.within = table.duration("within", FLAP_TIME).unwrap_or(flap.within);
        flap.hold = table.duration("hold", FLAP_TIME).unwrap_or(flap.hold);
        table.finish(&|_| None);
    }
    flap
}

fn depends_on(reader: &mut TableReader<'_>) -> Vec<MonitorKey> {
    let Some(items) = reader.list("depends_on") else { return Vec::new() };
    if items.len() > MAX_DEPENDENCIES {
        reader.error("depends_on", "is too long", format!("at most {MAX_DEPENDENCIES} ids"));
        return Vec::new();
    }
    let mut keys: Vec<MonitorKey> = Vec::with_capacity(items.len());
    for item in items {
        match &item.value {
            Value::String(text) => match text.parse() {
                Ok(key) if keys.contains(&key) => {
                    reader.error_at(item.span, "depends_on", format!("{key} stands here twice"), None);
                }
                Ok(key) => keys.push(key),
                Err(allowed) => reader.error_at(item.span, "depends_on", "is not an id", format!("must be {allowed}")),
            },
            other => {
                let what = format!("found {}", other.type_name());
                reader.error_at(item.span, "depends_on", what, "must be an id".to_owned());
            }
        }
    }
    keys
}

/// Whether a file may have it as a `name`.
pub(crate) fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control)
}

/// Whether a file may have it among `tags`.
pub(crate) fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && tag.chars().count() <= MAX_TAG && tag.trim() == tag && !tag.chars().any(char::is_control)
}

pub(super) fn checked_name(reader: &TableReader<'_>, name: String) -> Option<Arc<str>> {
    if !is_name(&name) {
        let allowed = format!("must be 1 to {MAX_NAME} characters, none of them a control character");
        reader.error("name", "is not a name", allowed);
        return None;
    }
    Some(name.into())
}

fn checked_email(reader: &TableReader<'_>, email: String) -> Option<Arc<str>> {
    let good = email.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
        && email.len() <= MAX_EMAIL
        && !email.chars().any(|char| char.is_whitespace() || char.is_control());
    if !good {
        reader.error("owner", "is not an e-mail address", "such as \"a@example.com\"".to_owned());
        return None;
    }
    Some(email.into())
}

pub(super) fn checked_tags(reader: &TableReader<'_>, tags: Vec<String>) -> Option<Arc<[Box<str>]>> {
    if tags.len() > MAX_TAGS || !tags.iter().all(|tag| is_tag(tag)) {
        let allowed = format!("at most {MAX_TAGS} tags of 1 to {MAX_TAG} characters, without spaces around them");
        reader.error("tags", "are not tags", allowed);
        return None;
    }
    let mut unique: Vec<Box<str>> = Vec::with_capacity(tags.len());
    for tag in tags {
        if !unique.iter().any(|there| **there == *tag) {
            unique.push(tag.into());
        }
    }
    Some(unique.into())
}
