//! `ssh://host[:22]`: the identification, and the host key that the server proves to hold. No login.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use regex::Regex;
use tokio::time::Instant;
use url::Url;

use self::exchange::{Outcome, Proven};
use self::host_key::{Family, Fingerprint};
use crate::model::{Failure, Fault, Observation};
use crate::probe::authority::{Authority, Shape};
use crate::probe::form::Form;
use crate::probe::net::{IpVersion, Profile, Stream};
use crate::probe::talk::{self, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::settings::tree::Value;
use crate::verdict::expectation::{Accepts, Expectations, pattern};
use crate::verdict::text;

mod exchange;
pub(crate) mod host_key;
pub(crate) mod wire;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "ssh",
    schemes: &["ssh"],
    form: Form::Authority,
    example_url: "ssh://example.com",
    keys: &["ip_version", "host_key", "banner_matches", "expect"],
    prepare,
    example: include_str!("ssh/example.toml"),
};

const PORT: u16 = 22;
/// Pins of one monitor: the keys of a few servers behind one name.
const MAX_PINS: usize = 16;
const QUOTE_CHARS: usize = 80;

struct SshProbe {
    authority: Authority,
    ip_version: IpVersion,
    profile: Profile,
    pins: Box<[Fingerprint]>,
    banner: Option<Regex>,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let authority = Authority::read(url, reader, Shape::bare(Some(PORT), "ssh://example.com:22"));
    let ip_version = super::read_ip_version(reader);
    let pins = read_pins(reader);
    let banner = pattern::read(reader, "banner_matches");
    let expect = Expectations::read(reader, Accepts::default());
    let authority = authority?;
    if reader.findings().count() > before {
        return None;
    }
    let probe = SshProbe { authority, ip_version, profile: super::profile_of(reader), pins: pins.into(), banner };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

/// `host_key`: a fingerprint, or a list of them.
fn read_pins(reader: &mut TableReader<'_>) -> Vec<Fingerprint> {
    let Some(node) = reader.node("host_key") else { return Vec::new() };
    let nodes = match &node.value {
        Value::Array(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if nodes.is_empty() || nodes.len() > MAX_PINS {
        reader.error("host_key", format!("{} fingerprints", nodes.len()), format!("must be 1 to {MAX_PINS}"));
    }
    let mut pins = Vec::with_capacity(nodes.len().min(MAX_PINS));
    for node in nodes {
        let Some(written) = reader.string_of("host_key", node) else { continue };
        match Fingerprint::parse(&written) {
            Some(pin) => pins.push(pin),
            None => {
                let allowed = "SHA256: and 43 characters, as ssh-keygen -lf and lamplighter probe print it".to_owned();
                reader.error_at(node.span, "host_key", "not a fingerprint", allowed);
            }
        }
    }
    pins
}

impl Probe for SshProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            seen.fault = self.run(context, &mut seen).await.err();
            super::close_timings(&mut seen, start);
            seen
        })
    }
}

impl SshProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let mut left = Family::ALL.to_vec();
        let proven = match self.converse(&left, context, seen).await? {
            Outcome::Proven(proven) => proven,
            Outcome::NothingInCommon(has) if self.pins.is_empty() => {
                seen.note("host_key", format!("not seen: the server only has {has}"));
                return Ok(());
            }
            Outcome::NothingInCommon(has) => return Err(self.nothing_in_common(&has)),
        };
        note(&proven, seen);
        if self.pins.is_empty() || self.pins.contains(&proven.fingerprint) {
            return Ok(());
        }
        // A pin does not say of which sort its key is: the server may have it beside the one that it showed.
        let mut shown = vec![proven.fingerprint];
        left.retain(|family| proven.offered.contains(family) && Family::of(proven.algorithm) != Some(*family));
        for family in left {
            let Outcome::Proven(other) = self.converse(&[family], context, seen).await? else { continue };
            if self.pins.contains(&other.fingerprint) {
                note(&other, seen);
                return Ok(());
            }
            shown.push(other.fingerprint);
        }
        let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
        let text = format!(
            "the host key of {} is {}, which is none of host_key: find out who changed it before you trust it",
            self.authority,
            shown.join(" and ")
        );
        Err(Fault::new(Failure::CertUntrusted, text))
    }

    fn nothing_in_common(&self, has: &str) -> Fault {
        let has = text::clean(has, 2 * QUOTE_CHARS, false);
        let text = format!("{} cannot prove its host key by a method known here: it only has {has}", self.authority);
        Fault::new(Failure::ExchangeMismatch, text)
    }

    /// One connection.
    async fn converse(
        &self,
        families: &[Family],
        context: &ProbeContext<'_>,
        seen: &mut Observation,
    ) -> Result<Outcome, Fault> {
        let stream = talk::connect(&self.authority, self.ip_version, self.profile, context, seen).await?;
        let stream = Stream::Plain(stream);
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, exchange::MAX_RECEIVED);
        let banner = exchange::identify(&mut talk, &self.authority).await;
        let outcome = match &banner {
            Ok(banner) if self.banner.as_ref().is_none_or(|wanted| wanted.is_match(banner)) => {
                exchange::prove(&mut talk, &self.authority, banner, families).await
            }
            Ok(banner) => {
                let quoted = text::quote(banner, QUOTE_CHARS);
                let text = format!("{} calls itself {quoted}, which banner_matches does not match", self.authority);
                Err(Fault::new(Failure::ExchangeMismatch, text))
            }
            Err(fault) => Err(fault.clone()),
        };
        drop(talk);
        if let Ok(banner) = banner {
            seen.note("banner", banner);
        }
        outcome
    }
}

fn note(proven: &Proven, seen: &mut Observation) {
    seen.note("host_key", proven.fingerprint.to_string());
    seen.note("host_key_algorithm", proven.algorithm);
    seen.note("key_exchange", proven.exchange);
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn wrong_keys_are_named() {
        const PIN: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        let findings = |rest: &str| testing::prepare(&KIND, &format!("url = \"ssh://h\"\n{rest}")).findings.join("\n");
        for good in [String::new(), format!("host_key = {PIN:?}"), format!("host_key = [{PIN:?}, {PIN:?}]")] {
            assert_eq!(findings(&good), "", "{good}");
        }
        for (key, what) in [
            ("host_key = \"MD5:aa:bb\"", "not a fingerprint, SHA256: and 43 characters"),
            ("host_key = []", "must be 1 to 16"),
            ("host_key = 1", "must be a string"),
            ("banner_matches = \"(\"", "not a regular expression"),
            ("query = \"x\"", "unknown key"),
        ] {
            let found = findings(key);
            assert!(found.contains(what), "{key}: {found}");
        }
    }
}
