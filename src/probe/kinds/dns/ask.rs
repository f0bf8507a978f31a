//! One question to the server of a monitor, and what its silence is called: here it is the target, so its failures are
//! its own.

use std::net::{IpAddr, SocketAddr};

use url::Host;

use super::server::Server;
use super::{Answered, DnsProbe};
use crate::model::{Failure, Fault, Observation};
use crate::probe::authority::Authority;
use crate::probe::net::dns::{Framed, MOST_ANSWER_BYTES, NoAnswer, by_udp};
use crate::probe::net::{TlsOptions, datagram_fault};
use crate::probe::talk::{self, End, Talk};
use crate::probe::{ProbeContext, net};

/// A length (RFC 1035, 4.2.2) and the largest message.
const STREAM_BYTES: usize = 2 + MOST_ANSWER_BYTES;

pub(super) async fn ask(
    probe: &DnsProbe,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<Answered, Fault> {
    match &probe.server {
        Server::Ours => {
            let asked = context.net.ask_resolvers(&probe.question, context.deadline, &mut seen.timings).await;
            let (by, message) = asked?;
            seen.address = Some(by);
            Ok(Answered { message, by })
        }
        Server::Udp(authority) => datagram(probe, authority, context, seen).await,
        Server::Tcp(authority) => stream(probe, authority, None, true, context, seen).await,
        Server::Tls(authority, options) => stream(probe, authority, Some(options), true, context, seen).await,
    }
}

async fn datagram(
    probe: &DnsProbe,
    authority: &Authority,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<Answered, Fault> {
    let destination = authority.destination(probe.ip_version, probe.profile);
    let dialled = context.net.dial_udp(&destination, context.deadline, &mut seen.timings).await;
    let net::DialledUdp { socket, address } = dialled.map_err(|not| {
        seen.address = not.address;
        not.fault
    })?;
    seen.address = Some(address);
    match by_udp(&socket, &probe.question, context.deadline, &mut seen.timings).await {
        Ok((message, _)) if !message.metadata.truncation => {
            seen.note("transport", "udp");
            Ok(Answered { message, by: address })
        }
        Ok((_, edns)) => {
            seen.note("truncated", true);
            // The same server, whatever else its name leads to.
            let place = Authority { host: literal(address), port: address.port() };
            let fetched = stream(probe, &place, None, edns, context, seen).await;
            fetched.map_err(|fault| {
                Fault::new(fault.failure, format!("the answer by UDP was truncated, and by TCP: {}", fault.message))
            })
        }
        Err(NoAnswer::Socket(error)) => Err(datagram_fault(address, &error)),
        Err(NoAnswer::Silent { strays: 0, .. }) => {
            let what = format!("the name server {address} did not answer by UDP within the timeout");
            Err(Fault::new(Failure::DnsTimeout, what))
        }
        Err(NoAnswer::Silent { strays, .. }) => {
            let what = format!(
                "the name server {address} sent {strays} datagrams, none of which answers the question: \
                 broken, or of another id or question"
            );
            Err(Fault::new(Failure::DnsError, what))
        }
    }
}

fn literal(address: SocketAddr) -> Host<String> {
    match address.ip() {
        IpAddr::V4(ip) => Host::Ipv4(ip),
        IpAddr::V6(ip) => Host::Ipv6(ip),
    }
}

async fn stream(
    probe: &DnsProbe,
    authority: &Authority,
    tls: Option<&TlsOptions>,
    edns: bool,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<Answered, Fault> {
    let framed = Framed::new(&probe.question, edns)
        .map_err(|error| Fault::new(Failure::DnsError, format!("the question cannot be asked: {error}")))?;
    let plain = talk::connect(authority, probe.ip_version, probe.profile, context, seen).await?;
    let by = seen.address.ok_or_else(|| Fault::new(Failure::Internal, "a connection without an address"))?;
    let stream = match tls {
        Some(options) => talk::secure(plain, authority, options, context, seen).await?,
        None => net::Stream::Plain(plain),
    };
    seen.note("transport", if tls.is_some() { "tls" } else { "tcp" });
    let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, STREAM_BYTES);
    let bytes = converse(&mut talk, &framed.bytes).await.map_err(|end| fault(end, authority))?;
    let garbage = || {
        let what = format!(
            "the name server {authority} sent what is no answer to the question: broken, or of another id or question"
        );
        Fault::new(Failure::DnsError, what)
    };
    let message = framed.read(&bytes).ok_or_else(garbage)?;
    Ok(Answered { message, by })
}

async fn converse(talk: &mut Talk<'_>, question: &[u8]) -> Result<Vec<u8>, End> {
    talk.send(question).await?;
    let length = talk.exact(2).await?;
    let length = length.first_chunk().map_or(0, |length| u16::from_be_bytes(*length));
    if usize::from(length) > MOST_ANSWER_BYTES { Err(End::TooMuch) } else { talk.exact(usize::from(length)).await }
}

fn fault(end: End, place: &Authority) -> Fault {
    let (failure, what) = match end {
        End::Deadline => (Failure::DnsTimeout, "did not send a whole answer within the timeout"),
        End::Closed => (Failure::DnsError, "closed the connection before its answer was whole"),
        End::TooMuch => (Failure::DnsError, "sent an answer of more than 32 KiB, or in too many pieces"),
        End::Broken(error) => return talk::broken(&error, place),
    };
    Fault::new(failure, format!("the name server {place} {what}"))
}
