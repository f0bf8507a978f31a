//! `udp://host:port`: a question in a datagram, and the answer to it. Without a question nothing would ever answer, and
//! silence proves nothing, so an exchange is needed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::model::{Fault, Observation, Phase, Timings};
use crate::probe::authority::{Authority, Shape};
use crate::probe::exchange::{self, Heard, Line, Script};
use crate::probe::form::Form;
use crate::probe::net::{DialledUdp, IpVersion, Profile, datagram_fault};
use crate::probe::talk::End;
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

/// A datagram over IPv4 holds so many bytes (65,535 less the headers of IP and UDP).
const MAX_SENT_BYTES: usize = 65_507;
/// All that is received in one exchange, bytes and datagrams: the bound on the work that a flood can cause.
const MAX_RECEIVED_BYTES: usize = 1024 * 1024;
const MAX_DATAGRAMS: u32 = 1024;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "udp",
    schemes: &["udp"],
    form: Form::Authority,
    example_url: "udp://example.com:123",
    keys: &["ip_version", "exchange", "expect"],
    prepare,
    example: include_str!("udp/example.toml"),
};

struct UdpProbe {
    authority: Authority,
    ip_version: IpVersion,
    profile: Profile,
    script: Script,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let authority = Authority::read(url, reader, Shape::bare(None, KIND.example_url));
    let ip_version = super::read_ip_version(reader);
    let script = exchange::read(reader, MAX_SENT_BYTES);
    if reader.findings().count() == before && !script.asks() {
        let what = "a udp check needs a question and its answer: silence proves nothing";
        let allowed = "an exchange that begins with send, such as [{ send = \"status\\n\" }, { expect = \"^ok\" }]";
        reader.error("exchange", what, allowed.to_owned());
    }
    let expect = Expectations::read(reader, Accepts::default());
    let authority = authority.filter(|_| reader.findings().count() == before)?;
    let probe = UdpProbe { authority, ip_version, profile: super::profile_of(reader), script };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

impl Probe for UdpProbe {
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

impl UdpProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let destination = self.authority.destination(self.ip_version, self.profile);
        let dialled = match context.net.dial_udp(&destination, context.deadline, &mut seen.timings).await {
            Ok(dialled) => dialled,
            Err(not) => {
                seen.address = not.address;
                return Err(not.fault);
            }
        };
        seen.address = Some(dialled.address);
        let mut line = Datagrams {
            dialled,
            deadline: context.deadline,
            timings: &mut seen.timings,
            last: Vec::new(),
            received: 0,
            datagrams: 0,
            phase: Phase::Wait,
        };
        self.script.run(&mut line, &self.authority).await
    }
}

/// Datagrams to and from one address. Each one that is heard stands by itself: `^` is its beginning.
struct Datagrams<'a> {
    dialled: DialledUdp,
    deadline: Instant,
    timings: &'a mut Timings,
    last: Vec<u8>,
    received: usize,
    datagrams: u32,
    phase: Phase,
}

impl Line for Datagrams<'_> {
    async fn say(&mut self, bytes: &[u8]) -> Result<(), End> {
        let begin = Instant::now();
        let sent = timeout_at(self.deadline, self.dialled.socket.send(bytes)).await;
        self.timings.add(Phase::Send, begin.elapsed());
        self.phase = Phase::Wait;
        match sent {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(End::Broken(error)),
            Err(_) => Err(End::Deadline),
        }
    }

    async fn hear(&mut self) -> Result<Heard, End> {
        if self.received > MAX_RECEIVED_BYTES || self.datagrams == MAX_DATAGRAMS {
            return Err(End::TooMuch);
        }
        let begin = Instant::now();
        let received = timeout_at(self.deadline, self.dialled.receive()).await;
        self.timings.add(self.phase, begin.elapsed());
        match received {
            Ok(Ok(datagram)) => {
                self.received += datagram.len();
                self.datagrams += 1;
                self.last = datagram;
                self.phase = Phase::Receive;
                self.timings.add(Phase::Receive, Duration::ZERO);
                Ok(Heard::Anew)
            }
            Ok(Err(error)) => Err(End::Broken(error)),
            Err(_) => Err(End::Deadline),
        }
    }

    fn heard(&self) -> &[u8] {
        &self.last
    }

    fn broken(&self, error: &io::Error, _place: &Authority) -> Fault {
        datagram_fault(self.dialled.address, error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_question_is_needed() {
        let long = "x".repeat(MAX_SENT_BYTES + 1);
        for (keys, what) in [
            (String::new(), "silence proves nothing"),
            ("exchange = [{ send = \"a\" }]".to_owned(), "silence proves nothing"),
            ("exchange = [{ expect = \"a\" }]".to_owned(), "silence proves nothing"),
            ("exchange = [{ expect = \"a\" }, { send = \"a\" }]".to_owned(), "begins with send"),
            (format!("exchange = [{{ send = \"{long}\" }}, {{ expect = \"a\" }}]"), "1 to 65507 bytes"),
            ("exchange = [{ send = \"\" }, { expect = \"a\" }]".to_owned(), "0 bytes to send"),
        ] {
            let read = testing::prepare(&KIND, &format!("url = \"udp://h:1\"\n{keys}"));
            assert!(read.value.is_none(), "{keys}");
            assert_eq!(read.findings.len(), 1, "{:?}", read.findings);
            assert!(read.findings[0].contains(what), "{:?}", read.findings);
        }
    }
}
