//! `starttls+smtp://host`, and the same for imap, pop3, ftp and xmpp: a conversation in plain text that goes over to
//! TLS, and if wanted a short exchange under it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::Instant;
use url::Url;

use self::opening::{Opening, Protocol};
use crate::model::{Failure, Fault, Observation};
use crate::probe::authority::{Authority, Shape};
use crate::probe::exchange::{self, Script};
use crate::probe::form::Form;
use crate::probe::net::{IpVersion, Profile, Stream, TlsOptions};
use crate::probe::talk::{self, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

mod opening;
pub(crate) mod xml;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "starttls",
    schemes: &["starttls+smtp", "starttls+imap", "starttls+pop3", "starttls+ftp", "starttls+xmpp"],
    form: Form::Authority,
    example_url: "starttls+smtp://mail.example.com:25",
    keys: &["ip_version", "tls", "exchange", "expect"],
    prepare,
    example: include_str!("starttls/example.toml"),
};

struct StartTlsProbe {
    protocol: Protocol,
    authority: Authority,
    ip_version: IpVersion,
    profile: Profile,
    options: TlsOptions,
    script: Script,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let protocol = Protocol::of_scheme(url.scheme());
    if protocol.is_none() {
        reader.error("url", format!("{:?} is no STARTTLS scheme", url.scheme()), KIND.schemes.join(", "));
    }
    let protocol = protocol?;
    let authority = Authority::read(url, reader, Shape::bare(Some(protocol.port()), KIND.example_url));
    let ip_version = super::read_ip_version(reader);
    let options = TlsOptions::read(reader);
    let script = exchange::read(reader, exchange::MAX_SENT_BYTES);
    let expect = Expectations::read(reader, Accepts { certificate: true, ..Accepts::default() });
    let (authority, options) = authority.zip(options).filter(|_| reader.findings().count() == before)?;
    let profile = super::profile_of(reader);
    let probe = StartTlsProbe { protocol, authority, ip_version, profile, options, script };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

impl Probe for StartTlsProbe {
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

impl StartTlsProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let stream = talk::connect(&self.authority, self.ip_version, self.profile, context, seen).await?;
        let stream = self.open(stream, context, seen).await?;
        exchange::under_tls(stream, &self.authority, &self.options, &self.script, context, seen).await
    }

    /// Speaks in plain text until the server waits for TLS.
    async fn open(
        &self,
        stream: TcpStream,
        context: &ProbeContext<'_>,
        seen: &mut Observation,
    ) -> Result<TcpStream, Fault> {
        let ours = stream.local_addr().ok();
        let stream = Stream::Plain(stream);
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, opening::MAX_BYTES);
        let mut opening = Opening { talk: &mut talk, place: &self.authority, ours, heard: false };
        opening.run(self.protocol).await?;
        // What stands behind the go-ahead was sent in plain text, by whomever, and would pass for an answer under TLS.
        if !talk.unread().is_empty() {
            let text = format!(
                "{} sent {} bytes of plain text behind its go-ahead for TLS: they could be anybody's (CVE-2011-0411)",
                self.authority,
                talk.unread().len()
            );
            return Err(Fault::new(Failure::ExchangeMismatch, text));
        }
        match talk.into_stream() {
            Stream::Plain(stream) => Ok(stream),
            Stream::Tls(_) => Err(Fault::new(Failure::Internal, "a plain connection became another one")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn every_scheme_has_its_port() {
        for (scheme, port) in [("smtp", 25), ("imap", 143), ("pop3", 110), ("ftp", 21), ("xmpp", 5222)] {
            let protocol = Protocol::of_scheme(&format!("starttls+{scheme}")).unwrap();
            assert_eq!(protocol.port(), port);
            let read = testing::prepare(&KIND, &format!("url = \"starttls+{scheme}://h\""));
            assert!(read.value.is_some(), "{:?}", read.findings);
        }
        assert!(Protocol::of_scheme("starttls+ldap").is_none());
        assert_eq!(KIND.schemes.len(), 5);
    }
}
