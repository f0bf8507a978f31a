//! `domain:example.org`: when a registration ends, asked of its registry by RDAP (RFC 9082, 9083).
//!
//! A registry is asked once a day at most, whatever the interval, and less often while it refuses; in between the kept answer
//! is judged anew at each check. A registry that cannot be asked says nothing about the domain: then the check is unknown.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use url::{Host, Url};

use self::answer::Answer;
use crate::model::{Failure, Fault, Observation, Owner, Phase, Verdict};
use crate::probe::authority::{Authority, Shape};
use crate::probe::form::Form;
use crate::probe::net::{Profile, spare_descriptor};
use crate::probe::{Kind, Prepared, Probe, ProbeContext, fetch};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

mod answer;
mod bootstrap;
mod kept;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "domain",
    schemes: &["domain"],
    form: Form::Name,
    example_url: "domain:example.org",
    keys: &["rdap", "expect"],
    prepare,
    example: include_str!("domain/example.toml"),
};

const LEAST_DAYS: i64 = 30;
/// How long an answer counts; one that is no good news not so long, so that a renewal is seen the same day.
const FRESH: TimeDelta = TimeDelta::hours(24);
const FRESH_BAD: TimeDelta = TimeDelta::hours(6);
/// An older answer does not make a domain down: it may have been renewed since.
const TRUSTED: TimeDelta = TimeDelta::hours(48);
/// After a refusal, doubled with each that follows.
const BACK_OFF: TimeDelta = TimeDelta::minutes(5);
const BACK_OFF_MOST: TimeDelta = TimeDelta::hours(6);
/// A registry that asks for more patience than this is asked all the same.
const RETRY_AFTER_MOST: TimeDelta = TimeDelta::days(7);

struct DomainProbe {
    /// A-labels, lower case, no final dot.
    domain: Box<str>,
    server: Option<Url>,
    profile: Profile,
    least_days: i64,
    /// Where the answer is kept, in the folder of the network layer.
    file: Box<str>,
    /// Read from the file at the first check.
    kept: Mutex<Option<Kept>>,
}

/// What is known of a domain, and when the registry may be asked again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    answer: Option<Answer>,
    answered_at: Option<DateTime<Utc>>,
    server: Option<String>,
    /// Refusals in a row, the time before which there is no other try, and why.
    refusals: u32,
    retry_at: Option<DateTime<Utc>>,
    error: Option<String>,
    /// The last refusal was one of our rules.
    #[serde(default)]
    blocked: bool,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let authority = Authority::read(url, reader, Shape::bare(Some(443), KIND.example_url));
    let domain = authority.map(|authority| authority.host);
    if url.port().is_some() {
        reader.error("url", "a domain has no port", format!("such as {:?}", KIND.example_url));
    }
    let domain = domain.and_then(|host| match host {
        Host::Domain(name) if name.trim_end_matches('.').contains('.') => Some(name.trim_end_matches('.').to_owned()),
        _ => {
            let allowed = format!("a registered name, such as {:?}", KIND.example_url);
            reader.error("url", "is no domain that can be registered", allowed);
            None
        }
    });
    let server = read_server(reader);
    let table = reader.table("expect");
    let least_days = table.and_then(|mut table| table.integer("domain_days_left", 0..=3650)).unwrap_or(LEAST_DAYS);
    let expect = Expectations::read(reader, Accepts { domain: true, ..Accepts::default() });
    let domain = domain?;
    if reader.findings().count() > before {
        return None;
    }
    // Of another server, other monitors want no answers.
    let named = Sha256::digest(format!("{}\n{domain}", server.as_ref().map_or("", Url::as_str)));
    let file = named.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>() + ".json";
    let probe = DomainProbe {
        domain: domain.into(),
        server,
        profile: super::profile_of(reader),
        least_days,
        file: file.into(),
        kept: Mutex::default(),
    };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

/// `rdap`: the base URL of the registry's server.
fn read_server(reader: &mut TableReader<'_>) -> Option<Url> {
    let written = reader.string("rdap")?;
    let url = Url::parse(&written).ok().filter(|url| {
        let bare =
            url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
        matches!(url.scheme(), "http" | "https") && bare
    });
    if url.is_none() {
        reader.error_hidden(
            "rdap",
            "not the address of an RDAP server",
            "such as \"https://rdap.example/\"".to_owned(),
        );
    }
    url
}

impl Probe for DomainProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            let kept = self.known(context, &mut seen).await;
            self.tell(&kept, &mut seen);
            super::close_timings(&mut seen, start);
            seen
        })
    }
}

impl DomainProbe {
    /// What is known, asked for when it is time.
    async fn known(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Kept {
        let (now, folder) = (context.started_at, context.net.rdap().folder.as_deref());
        let here = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut kept = match here {
            Some(kept) => kept,
            None => kept::load(folder, &self.file).await.unwrap_or_default(),
        };
        if !self.is_due(&kept, now) {
            self.remember(&kept);
            return kept;
        }
        match self.ask(context, seen).await {
            Ok(fresh) => kept = fresh,
            Err(Refusal { fault, .. }) if is_ours(&fault, seen) => {
                // Not the registry's fault: it is asked again at the next check.
                (kept.error, kept.retry_at) = (Some(fault.message.clone()), None);
                seen.fault = Some(fault);
                return kept;
            }
            Err(refusal) => kept.refused(now, refusal),
        }
        self.remember(&kept);
        kept::save(folder, &self.file, &kept).await;
        kept
    }

    fn remember(&self, kept: &Kept) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept.clone());
    }

    fn is_due(&self, kept: &Kept, now: DateTime<Utc>) -> bool {
        let good = |answer: &Answer| matches!(answer.judge(&self.domain, now, 0), Ok(None));
        let fresh = if kept.answer.as_ref().is_some_and(good) { FRESH } else { FRESH_BAD };
        // A time that lies ahead is of a clock that was wrong.
        let is_fresh = kept.answered_at.is_some_and(|at| (TimeDelta::zero()..fresh).contains(&(now - at)));
        let waits = kept.retry_at.is_some_and(|at| (TimeDelta::zero()..=RETRY_AFTER_MOST).contains(&(at - now)));
        !is_fresh && !waits
    }

    async fn ask(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<Kept, Refusal> {
        let domain = &self.domain;
        // The list and what is kept are files: without descriptors they would seem not to be there.
        let lacking = |error| Fault::new(Failure::ResourceExhausted, format!("no registry can be asked: {error}"));
        spare_descriptor().map_err(lacking)?;
        let base = match &self.server {
            Some(server) => Some(server.clone()),
            None => bootstrap::server(domain, context, seen).await?,
        };
        let top = domain.rsplit('.').next().unwrap_or_default();
        let none = || format!("no RDAP server is known for .{top}: if there is one, name it with rdap = \"https://…\"");
        let mut url = base.ok_or_else(|| Fault::new(Failure::QueryFailed, none()))?;
        let server = url.to_string();
        url.set_path(&format!("{}/domain/{domain}", url.path().trim_end_matches('/')));
        let fetched = fetch::get(&url, "application/rdap+json", answer::MAX_BYTES, self.profile, context, seen).await?;
        let answer = match fetched.status {
            200 => Answer::read(&fetched.body, domain),
            404 => Some(Answer::default()),
            status => {
                let fault = Fault::new(Failure::QueryFailed, format!("{server} answers {status}"));
                return Err(Refusal { fault, retry_after: fetched.retry_after });
            }
        };
        let other =
            || Fault::new(Failure::QueryFailed, format!("{server} answers with something else than the domain"));
        let answer = answer.ok_or_else(other)?;
        let answered_at = Some(context.started_at);
        Ok(Kept { answer: Some(answer), answered_at, server: Some(server), ..Kept::default() })
    }

    fn tell(&self, kept: &Kept, seen: &mut Observation) {
        let now = seen.started_at;
        if let Some(server) = &kept.server {
            seen.note("rdap_server", server.as_str());
        }
        let age = kept.answered_at.map(|at| now - at);
        if let Some(age) = age {
            seen.note("answer_age_s", age.num_seconds());
        }
        if let Some(error) = &kept.error {
            seen.note("rdap_error", error.as_str());
        }
        let judged = match &kept.answer {
            Some(answer) => {
                answer.note(now, seen);
                answer.judge(&self.domain, now, self.least_days)
            }
            None => Err(format!("the registry of {} could not be asked", self.domain)),
        };
        let reason = kept.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let unknown = match judged {
            Ok(Some(fault)) if fault.failure.verdict() == Verdict::Down && age.is_none_or(|age| age > TRUSTED) => {
                format!(
                    "{}, but that was told long ago, and the registry could not be asked again{reason}",
                    fault.message
                )
            }
            Ok(fault) => {
                seen.fault = fault;
                return;
            }
            Err(why) => format!("{why}{reason}"),
        };
        // Ours has a name of its own.
        if seen.fault.is_none() && kept.blocked {
            seen.fault = Some(Fault::new(Failure::EgressBlocked, unknown));
        } else if seen.fault.is_none() {
            (seen.fault, seen.graded) = (Some(Fault::new(Failure::QueryFailed, unknown)), Some(Verdict::Unknown));
        }
    }
}

/// Whether a fault is no registry's. One that led us to where our rules forbid is: asking it again and again would not help.
fn is_ours(fault: &Fault, seen: &Observation) -> bool {
    match fault.failure.owner() {
        Owner::Observer => true,
        Owner::Policy => seen.timings.get(Phase::Connect).is_none(),
        Owner::Target => false,
    }
}

/// Why there is no answer.
struct Refusal {
    fault: Fault,
    retry_after: Option<std::time::Duration>,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { fault, retry_after: None }
    }
}

impl Kept {
    fn refused(&mut self, now: DateTime<Utc>, refusal: Refusal) {
        // 5 minutes times 2^7 is more than the most.
        let back_off = (BACK_OFF * 2_i32.pow(self.refusals.min(7))).min(BACK_OFF_MOST);
        let asked = refusal.retry_after.map(|time| TimeDelta::from_std(time).unwrap_or(RETRY_AFTER_MOST));
        let wait = asked.map_or(back_off, |asked| asked.min(RETRY_AFTER_MOST).max(back_off));
        self.refusals = self.refusals.saturating_add(1);
        self.blocked = refusal.fault.failure.owner() == Owner::Policy;
        (self.retry_at, self.error) = (Some(now + wait), Some(refusal.fault.message));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_domain_is_a_name_below_a_top_level() {
        let findings = |toml: &str| testing::prepare(&KIND, toml).findings.join("\n");
        for good in ["domain:example.org", "domain://example.org", "domain:EXAMPLE.co.uk.", "domain:bücher.example"] {
            assert_eq!(findings(&format!("url = {good:?}")), "", "{good}");
        }
        for (bad, what) in [
            ("url = 'domain:org'", "is no domain that can be registered"),
            ("url = 'domain:192.0.2.1'", "is no domain that can be registered"),
            ("url = 'domain:example.org:443'", "a domain has no port"),
            ("url = 'domain:example.org/x'", "ends after the port"),
            ("url = 'domain:a.org'\nrdap = 'ftp://x/'", "not the address of an RDAP server"),
            ("url = 'domain:a.org'\nrdap = 'https://u:hunter2@x/'", "not the address of an RDAP server"),
            ("url = 'domain:a.org'\nexpect.domain_days_left = -1", "must be 0 to 3650"),
            ("url = 'domain:a.org'\nexpect.certificate_days_left = 1", "cannot meet"),
        ] {
            let found = findings(bad);
            assert!(found.contains(what) && !found.contains("hunter2"), "{bad}: {found}");
        }
        let elsewhere = testing::read("url = 'tcp://h:1'\nexpect.domain_days_left = 1", |_, reader| {
            Some(Expectations::read(reader, Accepts::default()))
        });
        assert!(elsewhere.findings.join("").contains("only domain probes"), "{:?}", elsewhere.findings);
    }

    #[test]
    fn patience_grows_and_is_bounded() {
        let now: DateTime<Utc> = "2026-11-22T12:00:00Z".parse().unwrap();
        let refusal = |seconds: Option<u64>| Refusal {
            fault: Fault::new(Failure::QueryFailed, "x"),
            retry_after: seconds.map(std::time::Duration::from_secs),
        };
        let mut kept = Kept::default();
        let mut waits = Vec::new();
        for _ in 0..10 {
            kept.refused(now, refusal(None));
            waits.push((kept.retry_at.unwrap() - now).num_minutes());
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 360, 360, 360]);
        for (asked, wait) in [(1, 300), (7200, 7200), (u64::MAX, 7 * 86_400)] {
            let mut kept = Kept::default();
            kept.refused(now, refusal(Some(asked)));
            assert_eq!((kept.retry_at.unwrap() - now).num_seconds(), wait, "{asked}");
        }
    }
}
