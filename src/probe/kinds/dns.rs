//! `dns:name`: what name servers say about a name.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use tokio::time::Instant;
use url::Url;

use self::expected::Expected;
use self::server::Server;
use crate::model::{Fault, Observation};
use crate::probe::form::Form;
use crate::probe::net::dns::{Question, chain};
use crate::probe::net::{IpVersion, Profile};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

mod ask;
pub(crate) mod expected;
pub(crate) mod record;
mod server;
mod target;

/// Answers shown in the details.
const SHOWN_ANSWERS: usize = 32;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "dns",
    schemes: &["dns"],
    form: Form::Name,
    example_url: "dns:example.com",
    keys: &["record", "resolver", "ip_version", "tls", "expect"],
    prepare,
    example: include_str!("dns/example.toml"),
};

struct DnsProbe {
    question: Question,
    server: Server,
    ip_version: IpVersion,
    profile: Profile,
    expected: Expected,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let record = record::read(reader);
    let name = target::read(url, record, reader);
    let server = server::read(reader);
    let ip_version = super::read_ip_version(reader);
    server::check_version(server.as_ref(), ip_version, reader);
    let expected = Expected::read(reader, record);
    let certificate = matches!(server, Some(Server::Tls(..)));
    let expect = Expectations::read(reader, Accepts { certificate, dns: true, ..Accepts::default() });
    let (name, server) = name.zip(server).filter(|_| reader.findings().count() == before)?;
    let question = Question { name, record, authentic: true };
    let probe = DnsProbe { question, server, ip_version, profile: super::profile_of(reader), expected };
    Some(Prepared { probe: Arc::new(probe), expect: expect.shared() })
}

impl Probe for DnsProbe {
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

/// An answer, and who gave it.
struct Answered {
    message: Message,
    by: SocketAddr,
}

impl DnsProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let Answered { message, by } = ask::ask(self, context, seen).await?;
        self.note(&message, by, seen);
        self.expected.judge(&self.question, &message, by)
    }

    fn note(&self, message: &Message, by: SocketAddr, seen: &mut Observation) {
        let records = chain(&self.question, &message.answers);
        seen.note("resolver", by.to_string());
        seen.note("rcode", record::code_name(message.metadata.response_code));
        let Ok(end) = records else { return };
        let texts: Vec<String> =
            end.records.iter().take(SHOWN_ANSWERS).filter_map(|record| record::text(&record.data)).collect();
        if !texts.is_empty() {
            seen.note("answers", texts);
            seen.note("ttl_seconds", end.ttl.as_secs());
        }
        if let Some(RData::SOA(soa)) = end.records.first().map(|record| &record.data) {
            seen.note("serial", soa.serial);
        }
        seen.note("authoritative", message.metadata.authoritative);
        seen.note("authenticated", message.metadata.authentic_data);
    }
}

#[cfg(test)]
mod tests;
