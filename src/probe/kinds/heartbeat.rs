//! `heartbeat:`: a job that reports to us. It is never probed: `verdict::pulse` has the rules of its pings.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use url::Url;

use crate::model::{Failure, Fault, Observation};
use crate::probe::driven::{Driven, Heartbeat, PingToken};
use crate::probe::form::Form;
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "heartbeat",
    schemes: &["heartbeat"],
    form: Form::Bare,
    example_url: "heartbeat:",
    keys: &["period", "grace", "max_run", "token", "expect"],
    prepare,
    example: include_str!("heartbeat/example.toml"),
};

const DAY: u64 = 86_400;
/// Where neither `period` nor `schedule` is given, as in a row with a url and nothing else; healthchecks.io's default.
const PERIOD: Duration = Duration::from_secs(DAY);
const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * DAY);
const GRACES: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(366 * DAY);
/// Shorter ones could be guessed; longer ones are no part of an address.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=128;

struct Pinged(Heartbeat);

fn prepare(_: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    if reader.has_own("interval") {
        let way_out = "a heartbeat has a period or a schedule; write period = \"...\"".to_owned();
        reader.error("interval", "a heartbeat has none", way_out);
    }
    let (scheduled, given) = (reader.node("schedule").is_some(), reader.has_own("period"));
    let period = reader.whole_seconds("period", PERIODS);
    if given && reader.has_own("schedule") {
        reader.error("period", "stands beside a schedule", "keep period or schedule".to_owned());
    }
    // An own period beats a schedule of the defaults, and the other way round.
    let period = if scheduled && !given { None } else { Some(period.unwrap_or(PERIOD)) };
    let grace = reader.whole_seconds("grace", GRACES);
    let max_run = reader.whole_seconds("max_run", PERIODS);
    let token = read_token(reader);
    let expect = Expectations::read(reader, Accepts::default());
    if reader.findings().count() > before {
        return None;
    }
    let probe = Pinged(Heartbeat { period, grace, max_run, token });
    Some(Prepared { probe: Arc::new(probe), expect: expect.shared() })
}

fn read_token(reader: &mut TableReader<'_>) -> Option<PingToken> {
    let secret = reader.secret("token")?;
    let token = secret.expose();
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !TOKEN.contains(&token.len()) || !token.bytes().all(good) {
        let allowed = format!("must be {} to {} letters, digits, - or _", TOKEN.start(), TOKEN.end());
        reader.error("token", "is not a token", allowed);
        return None;
    }
    Some(PingToken::of(token))
}

impl Probe for Pinged {
    fn driven(&self) -> Driven<'_> {
        Driven::Pings(&self.0)
    }

    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        let mut seen = Observation::new(context.started_at);
        seen.fault = Some(Fault::new(Failure::Internal, "a heartbeat is pinged by its job, and cannot be probed"));
        Box::pin(std::future::ready(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn read(keys: &str) -> testing::Read<Prepared> {
        testing::prepare(&KIND, &format!("url = \"heartbeat:\"\n{keys}"))
    }

    fn rules(keys: &str) -> Heartbeat {
        let read = read(keys);
        assert_eq!(read.findings, [""; 0], "{keys}");
        let Driven::Pings(rules) = read.value.as_ref().unwrap().probe.driven() else { panic!() };
        rules.clone()
    }

    #[test]
    fn a_period_or_a_schedule_and_a_day_without_either() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(rules("").period, seconds(DAY));
        assert_eq!(rules("period = \"5m\"").period, seconds(300));
        assert_eq!(rules("schedule = \"0 3 * * *\"").period, None);
        let all = rules("period = \"1h\"\ngrace = \"0s\"\nmax_run = \"10m\"");
        assert_eq!((all.grace, all.max_run, all.token), (seconds(0), seconds(600), None));
    }

    #[test]
    fn a_token_is_secret() {
        let read = read("token = \"0123456789abcdef\"");
        assert_eq!(read.secrets.len(), 1);
        let Driven::Pings(rules) = read.value.as_ref().unwrap().probe.driven() else { panic!() };
        assert_eq!(rules.token, Some(PingToken::of("0123456789abcdef")));
        assert!(!format!("{rules:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn wrong_keys_are_named() {
        for (keys, what) in [
            ("period = \"1h\"\nschedule = \"0 3 * * *\"", "keep period or schedule"),
            ("period = \"0s\"", "out of range"),
            ("period = \"1500ms\"", "whole seconds"),
            ("grace = \"never\"", "not a duration"),
            ("max_run = 5", "found"),
            ("token = \"short\"", "must be 16 to 128"),
            ("token = \"has/a/slash/in/the/middle\"", "must be 16 to 128"),
            ("expect = { status = [200] }", "status"),
        ] {
            let found = read(keys).findings.join("\n");
            assert!(found.contains(what), "{keys}: {found}");
            assert!(!found.contains("has/a/slash"), "{found}");
        }
    }
}
