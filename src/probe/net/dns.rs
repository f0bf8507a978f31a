//! DNS questions of checks, which ask for any type, and want the whole answer.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::Net;
use super::resolve::exchange;
pub(crate) use super::resolve::exchange::Framed;
pub(in crate::probe) use super::resolve::exchange::{MOST_ANSWER_BYTES, NoAnswer};
use crate::model::{Fault, Phase, Timings};

/// Links of a CNAME chain that are followed; more is a loop or a mistake. Resolvers allow 8 to 16.
const MOST_LINKS: usize = 16;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The absolute name.
    pub name: Name,
    /// The type.
    pub record: RecordType,
    /// Asks for the flag that says whether DNSSEC validated the answer (RFC 6840, 5.7).
    pub authentic: bool,
}

/// Where a CNAME chain ends.
pub struct ChainEnd<'a> {
    /// The last name.
    pub name: &'a Name,
    /// Its records of the type that was asked for; none when there are none in this answer.
    pub records: Vec<&'a Record>,
    /// The smallest TTL on the way.
    pub ttl: Duration,
}

/// Follows the CNAMEs of an answer, in whatever order they stand. Other names' records are nobody's business. An error
/// is a sentence's end: a loop, or more links than anybody follows.
pub fn chain<'a>(question: &'a Question, answers: &'a [Record]) -> Result<ChainEnd<'a>, String> {
    let of = |name: &Name, record: &&Record| record.dns_class == DNSClass::IN && record.name == *name;
    let mut name = &question.name;
    let mut ttl = u32::MAX;
    for _ in 0..=MOST_LINKS {
        let own = || answers.iter().filter(|record| of(name, record));
        let records: Vec<&Record> = own().filter(|record| record.record_type() == question.record).collect();
        if !records.is_empty() {
            ttl = records.iter().fold(ttl, |ttl, record| ttl.min(seconds(record.ttl)));
            return Ok(ChainEnd { name, records, ttl: Duration::from_secs(u64::from(ttl)) });
        }
        let next = own().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, link_ttl)) = next else {
            return Ok(ChainEnd { name, records: Vec::new(), ttl: Duration::ZERO });
        };
        ttl = ttl.min(seconds(link_ttl));
        name = target;
    }
    Err(format!("its CNAME chain is a loop, or has more than {MOST_LINKS} links"))
}

/// A TTL with the top bit set is 0 (RFC 2181, section 8).
pub(super) const fn seconds(ttl: u32) -> u32 {
    if ttl > i32::MAX.cast_unsigned() { 0 } else { ttl }
}

/// Asks one server by a connected socket, the question again every second, and without EDNS when the server chokes on
/// it; says as well whether it took EDNS. Adds to send, wait and receive.
pub(in crate::probe) async fn by_udp(
    socket: &UdpSocket,
    question: &Question,
    until: Instant,
    timings: &mut Timings,
) -> Result<(Message, bool), NoAnswer> {
    exchange::by_udp(socket, question, until, None, timings).await
}

impl Net {
    /// Asks the name servers of `probe.resolvers` or the system, never the cache. All of its time is [`Phase::Wait`]: it
    /// may have asked several servers, and by TCP as well.
    pub async fn ask_resolvers(
        &self,
        question: &Question,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<(SocketAddr, Message), Fault> {
        let begin = Instant::now();
        let answer = self.resolver.ask(question, deadline).await;
        timings.add(Phase::Wait, begin.elapsed());
        answer
    }
}
