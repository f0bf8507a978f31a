//! One question to one name server: UDP with TCP behind it (RFC 1035, 7766), EDNS (RFC 6891).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::answer::Question;
use super::health::Health;
use crate::model::{Failure, Fault};

/// What fits into one packet everywhere (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

/// Larger datagrams, which nobody should send, are fetched again by TCP.
const UDP_BUFFER: usize = 4096;

/// A silent server is asked after itself this often, see [`Health`], and at every second time the question is sent
/// again: a lost packet then costs a second and not the whole time-out.
const TICK: Duration = Duration::from_millis(500);

/// Why a server did not answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Nothing came. `alive`: it answered something else meanwhile.
    Silent { alive: bool },
    /// Nobody is there, or no way leads there: not about the name.
    Unreachable(String),
    /// It took the question by TCP and did not answer it properly.
    Broken(Fault),
    /// This host could not even ask.
    Ours(Fault),
}

/// Asks `server` until `until`.
pub(super) async fn ask(
    server: SocketAddr,
    question: &Question,
    tcp_only: bool,
    until: Instant,
    health: &Health,
) -> Result<Message, Unanswered> {
    let mut edns = true;
    if !tcp_only {
        let mut answer = by_udp(server, question, edns, until, health).await?;
        // An old server that chokes on EDNS (RFC 6891, section 7).
        if matches!(answer.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS)
        {
            edns = false;
            answer = by_udp(server, question, edns, until, health).await?;
        }
        if !answer.metadata.truncation {
            return Ok(answer);
        }
    }
    match timeout_at(until, by_tcp(server, question, edns)).await {
        Ok(Ok(answer)) => {
            health.answered();
            Ok(answer)
        }
        Ok(Err(error)) => Err(unanswered(server, &error)),
        Err(_) => Err(Unanswered::Silent { alive: !tcp_only }),
    }
}

/// The id comes from a cryptographic generator, the port from the kernel: guessing an answer takes both (RFC 5452).
fn query(name: &Name, record: RecordType, edns: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), record));
    if edns {
        let mut options = Edns::new();
        options.set_max_payload(UDP_PAYLOAD).set_version(0);
        message.set_edns(options);
    }
    message
}

fn encode(message: &Message) -> io::Result<Vec<u8>> {
    message.to_vec().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
}

async fn by_udp(
    server: SocketAddr,
    question: &Question,
    edns: bool,
    until: Instant,
    health: &Health,
) -> Result<Message, Unanswered> {
    let failed = |error: io::Error| unanswered(server, &error);
    // Connected: the kernel drops what does not come from the server's address and port.
    let socket = UdpSocket::bind(any(server)).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    let message = query(&question.name, question.record, edns);
    let bytes = encode(&message).map_err(failed)?;
    socket.send(&bytes).await.map_err(failed)?;
    let control = query(&Name::root(), RecordType::NS, false);
    let mut buffer = vec![0; UDP_BUFFER];
    let mut alive = false;
    let mut ticks = 0u32;
    let mut next = Instant::now() + TICK;
    loop {
        match timeout_at(next.min(until), socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => match receive(buffer.get(..length).unwrap_or_default(), &message, &control) {
                Received::Answer(answer) => {
                    health.answered();
                    return Ok(*answer);
                }
                Received::Alive => {
                    alive = true;
                    health.answered();
                }
                Received::Stray => {}
            },
            Ok(Err(error)) => return Err(unanswered(server, &error)),
            Err(_) if Instant::now() >= until => return Err(Unanswered::Silent { alive }),
            Err(_) => {
                ticks += 1;
                next = Instant::now() + TICK;
                let again = if ticks % 2 == 1 { encode(&control).map_err(failed)? } else { bytes.clone() };
                socket.send(&again).await.map_err(failed)?;
            }
        }
    }
}

enum Received {
    Answer(Box<Message>),
    /// The answer to the control query, whatever it says.
    Alive,
    /// Late, forged or broken: as if it had not come.
    Stray,
}

fn receive(bytes: &[u8], asked: &Message, control: &Message) -> Received {
    let Ok(mut answer) = Message::from_vec(bytes) else {
        // What was cut by our buffer does not parse; its header tells whose it is.
        return match header_of_oversized(bytes, asked) {
            Some(answer) => Received::Answer(Box::new(answer)),
            None => Received::Stray,
        };
    };
    if answers(&answer, control) {
        return Received::Alive;
    }
    if bytes.len() >= UDP_BUFFER {
        answer.metadata.truncation = true;
    }
    if answers(&answer, asked) { Received::Answer(Box::new(answer)) } else { Received::Stray }
}

/// A datagram that filled the buffer counts as truncated, so that TCP fetches the whole. TCP checks the question.
fn header_of_oversized(bytes: &[u8], asked: &Message) -> Option<Message> {
    let id = bytes.first_chunk().map(|id| u16::from_be_bytes(*id))?;
    let is_response = bytes.get(2)? & 0x80 != 0;
    if bytes.len() < UDP_BUFFER || id != asked.metadata.id || !is_response {
        return None;
    }
    let mut answer = Message::response(id, asked.metadata.op_code);
    answer.metadata.truncation = true;
    Some(answer)
}

/// Whether it answers the query: id and question are the same. A server that could not read the query may leave the
/// question out.
fn answers(answer: &Message, asked: &Message) -> bool {
    if answer.metadata.id != asked.metadata.id || answer.metadata.message_type != MessageType::Response {
        return false;
    }
    match (answer.queries.as_slice(), asked.queries.as_slice()) {
        ([], _) => matches!(answer.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp),
        ([echoed], [sent]) => {
            echoed.name() == sent.name()
                && echoed.query_type() == sent.query_type()
                && echoed.query_class() == DNSClass::IN
        }
        _ => false,
    }
}

async fn by_tcp(server: SocketAddr, question: &Question, edns: bool) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let message = query(&question.name, question.record, edns);
    let bytes = encode(&message)?;
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    stream.write_all(&framed).await?;
    // The length has two octets: 64 KiB is the bound.
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    let answer = Message::from_vec(&answer).map_err(|_| garbage())?;
    if answers(&answer, &message) { Ok(answer) } else { Err(garbage()) }
}

fn garbage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "sent by TCP what is no answer to the question")
}

fn any(server: SocketAddr) -> SocketAddr {
    match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn unanswered(server: SocketAddr, error: &io::Error) -> Unanswered {
    if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
        let what = format!("the name server {server} gave a broken answer: {error}");
        return Unanswered::Broken(Fault::new(Failure::DnsError, what));
    }
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => {
            let what = format!("cannot ask the name server {server}: {error}");
            Unanswered::Ours(Fault::new(Failure::ResourceExhausted, what))
        }
        _ => Unanswered::Unreachable(format!("{server}: {error}")),
    }
}
