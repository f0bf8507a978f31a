//! `icmp:host`: echo requests, the share that is lost, and the time that the others take.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::time::Instant;
use url::{Host, Url};

use crate::model::{Failure, Fault, Observation, Phase};
use crate::probe::authority::{borrowed, read_host};
use crate::probe::form::Form;
use crate::probe::net::{Destination, IpVersion, Pinged, Profile};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::settings::tree::Value;
use crate::verdict::expectation::{Accepts, Expectations};

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "icmp",
    schemes: &["icmp"],
    form: Form::Name,
    example_url: "icmp:router.example",
    keys: &["packets", "max_loss", "ip_version", "expect"],
    prepare,
    example: include_str!("icmp/example.toml"),
};

const EXAMPLE: &str = "icmp:router.example";
const PACKETS_DEFAULT: u16 = 3;
/// Time between two requests, unless the timeout is too short for that.
const GAP: Duration = Duration::from_millis(200);

struct IcmpProbe {
    host: Host<String>,
    ip_version: IpVersion,
    profile: Profile,
    packets: u16,
    /// 0 to 1.
    max_loss: f64,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let host = read_host(url, reader, EXAMPLE);
    let has_more = url.port().is_some() || !matches!(url.path(), "" | "/") || url.query().is_some();
    if has_more || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        reader.error("url", "an icmp URL is a host and nothing else", format!("such as {EXAMPLE:?}"));
    }
    let ip_version = super::read_ip_version(reader);
    let packets = reader.integer("packets", 1..=20).and_then(|packets| u16::try_from(packets).ok());
    let max_loss = read_share(reader);
    let expect = Expectations::read(reader, Accepts::default());
    let host = host.filter(|_| reader.findings().count() == before)?;
    let probe = IcmpProbe {
        host,
        ip_version,
        profile: super::profile_of(reader),
        packets: packets.unwrap_or(PACKETS_DEFAULT),
        max_loss,
    };
    Some(Prepared { probe: Arc::new(probe), expect: expect.shared() })
}

/// `max_loss`: `"34%"`, or a share of 1. Absent: anything less than all may be lost.
fn read_share(reader: &mut TableReader<'_>) -> f64 {
    let Some(node) = reader.node("max_loss") else { return 1.0 };
    let share = match &node.value {
        Value::Float(share) => Some(*share),
        // Whether 1 is everything or one percent nobody can tell; 0 is nothing in both.
        Value::Integer(0) => Some(0.0),
        Value::String(_) => {
            let Some(text) = reader.string("max_loss") else { return 1.0 };
            text.strip_suffix('%')
                .and_then(|number| number.trim_end().parse::<f64>().ok())
                .map(|percent| percent / 100.0)
        }
        _ => None,
    };
    match share.filter(|share| (0.0..=1.0).contains(share)) {
        Some(share) => share,
        None => {
            let allowed = "must be a share, such as \"34%\" or 0.34".to_owned();
            reader.error("max_loss", format!("found {}", node.value), allowed);
            1.0
        }
    }
}

impl Probe for IcmpProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let mut seen = Observation::new(context.started_at);
            seen.fault = self.run(context, &mut seen).await.err();
            // Not the time that the check took: the gaps between the requests are ours.
            seen.timings.total = Phase::ALL.iter().filter_map(|phase| seen.timings.get(*phase)).sum();
            seen
        })
    }
}

impl IcmpProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let (host, ip_version) = (borrowed(&self.host), self.ip_version);
        // ICMP has no ports.
        let destination = Destination { host, port: 0, ip_version, profile: self.profile };
        let pinger = context.net.dial_icmp(&destination, context.deadline, &mut seen.timings).await.map_err(|not| {
            seen.address = not.address;
            not.fault
        })?;
        seen.address = Some(pinger.address());
        let begin = Instant::now();
        // The last request has half of the time for its answer, also when the time is short.
        let gap = GAP.min(context.deadline.saturating_duration_since(begin) / (2 * u32::from(self.packets)));
        let pinged = pinger.ping(self.packets, gap, context.deadline).await?;
        let received = u32::try_from(pinged.round_trips.len()).unwrap_or(u32::MAX);
        let sum: Duration = pinged.round_trips.iter().sum();
        let average = sum.checked_div(received);
        seen.timings.add(Phase::Wait, average.unwrap_or_else(|| begin.elapsed()));
        note(&pinged, average, seen);
        self.judge(pinged, &pinger.address().ip().to_string())
    }

    fn judge(&self, pinged: Pinged, place: &str) -> Result<(), Fault> {
        let (sent, lost) = (pinged.sent, pinged.sent - pinged.round_trips.len());
        if lost == sent {
            return Err(pinged.refusal.unwrap_or_else(|| {
                let plural = if sent == 1 { "" } else { "s" };
                let what = format!("{place} answered none of {sent} echo request{plural} within the timeout");
                Fault::new(Failure::IcmpTimeout, what)
            }));
        }
        // Shares of at most 20 packets are far apart, and decimal fractions are not exact.
        if lost as f64 > self.max_loss * sent as f64 + 1e-9 {
            let most = self.max_loss * 100.0;
            let mut what = format!(
                "{place} did not answer {lost} of {sent} echo requests ({:.0} %), at most {most:.0} % may be lost (max_loss)",
                percent(lost, sent)
            );
            if let Some(refusal) = pinged.refusal {
                what.push_str(&format!("; of one was said: {}", refusal.message));
            }
            return Err(Fault::new(Failure::PacketLoss, what));
        }
        Ok(())
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Milliseconds with three digits behind the point.
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

fn note(pinged: &Pinged, average: Option<Duration>, seen: &mut Observation) {
    let received = pinged.round_trips.len();
    seen.note("packets_sent", pinged.sent);
    seen.note("packets_received", received);
    seen.note("loss_percent", (percent(pinged.sent - received, pinged.sent) * 10.0).round() / 10.0);
    if pinged.duplicates > 0 {
        seen.note("duplicates", pinged.duplicates);
    }
    let (Some(average), Some(min), Some(max)) =
        (average, pinged.round_trips.iter().min(), pinged.round_trips.iter().max())
    else {
        return;
    };
    seen.note("rtt_ms", json!({ "min": ms(*min), "avg": ms(average), "max": ms(*max) }));
    if let Some(jitter) = jitter(&pinged.round_trips) {
        seen.note("jitter_ms", ms(jitter));
    }
}

/// The mean difference of neighbouring round trips; none of less than two.
fn jitter(round_trips: &[Duration]) -> Option<Duration> {
    let differences = round_trips.windows(2).filter_map(|pair| Some(pair.first()?.abs_diff(*pair.get(1)?)));
    let (count, sum) = differences.fold((0u32, Duration::ZERO), |(count, sum), one| (count + 1, sum + one));
    sum.checked_div(count)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn findings(toml: &str) -> String {
        let read = testing::prepare(&KIND, toml);
        assert!(read.value.is_some() || !read.findings.is_empty(), "nothing, and no reason: {toml}");
        read.findings.join("\n")
    }

    #[test]
    fn a_url_is_a_host() {
        for good in ["icmp:h", "icmp://h", "icmp:127.0.0.1", "icmp:[::1]", "icmp://router.example."] {
            assert_eq!(findings(&format!("url = {good:?}")), "", "{good}");
        }
        for bad in ["icmp://h:80", "icmp:h/x", "icmp:h?x", "icmp:u@h", "icmp:u:hunter2@h"] {
            let found = findings(&format!("url = {bad:?}"));
            assert!(found.contains("a host and nothing else") && !found.contains("hunter2"), "{bad}: {found}");
        }
    }

    #[test]
    fn shares_are_percents_or_fractions() {
        for good in ["0", "0.0", "1.0", "0.34", "\"0%\"", "\"33.4 %\"", "\"100%\""] {
            assert_eq!(findings(&format!("url = \"icmp:h\"\nmax_loss = {good}")), "", "{good}");
        }
        for bad in ["1", "34", "-0.1", "1.1", "\"101%\"", "\"34\"", "\"%\"", "\"nan%\"", "nan", "true"] {
            let found = findings(&format!("url = \"icmp:h\"\nmax_loss = {bad}"));
            assert!(found.contains("must be a share"), "{bad}: {found}");
        }
        for bad in ["packets = 0", "packets = 21", "packets = \"3\"", "expect = { status = [200] }", "count = 3"] {
            assert_ne!(findings(&format!("url = \"icmp:h\"\n{bad}")), "", "{bad}");
        }
    }

    fn judged(max_loss: f64, sent: usize, received: usize) -> Option<Failure> {
        let probe = IcmpProbe {
            host: Host::Domain("h".to_owned()),
            ip_version: IpVersion::Any,
            profile: Profile::File,
            packets: 3,
            max_loss,
        };
        let pinged = Pinged { sent, round_trips: vec![Duration::from_millis(1); received], ..Pinged::default() };
        probe.judge(pinged, "h").err().map(|fault| fault.failure)
    }

    #[test]
    fn loss_is_held_against_its_bound() {
        for (max_loss, sent, received, wanted) in [
            (1.0, 3, 1, None),
            (1.0, 3, 0, Some(Failure::IcmpTimeout)),
            (0.0, 3, 3, None),
            (0.0, 20, 19, Some(Failure::PacketLoss)),
            (0.3, 10, 7, None),
            (0.3, 10, 6, Some(Failure::PacketLoss)),
            (0.1, 10, 9, None),
            (0.0, 1, 0, Some(Failure::IcmpTimeout)),
        ] {
            assert_eq!(judged(max_loss, sent, received), wanted, "{max_loss} {sent} {received}");
        }
        let ms = Duration::from_millis;
        assert_eq!(jitter(&[ms(10), ms(14), ms(12)]), Some(ms(3)));
        assert_eq!(jitter(&[ms(10)]), None);
    }
}
