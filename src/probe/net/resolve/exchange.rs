//! One question to one name server: UDP with TCP behind it (RFC 1035, 7766), EDNS (RFC 6891).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::health::Health;
use crate::model::{Failure, Fault, Phase, Timings};
use crate::probe::net::connect::{self, Stage};
use crate::probe::net::datagram;
use crate::probe::net::descriptors::keep;
use crate::probe::net::dns::Question;

/// What fits into one packet everywhere (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

/// Larger datagrams, which nobody should send, are fetched again by TCP.
const UDP_BUFFER: usize = 4096;

/// An answer by TCP that is read; its length could say twice that. Read, an option or an empty string of few octets takes
/// twenty times as much.
pub(in crate::probe) const MOST_ANSWER_BYTES: usize = 32 * 1024;

/// Records of one answer, of all its sections: more is no answer that anybody could use.
const MOST_RECORDS: usize = 512;

/// A silent server of our own is asked after itself this often, see [`Health`], and at every second time the question is
/// sent again: a lost packet then costs a second and not the whole time-out.
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

/// Why no answer came by UDP.
#[derive(Debug)]
pub(in crate::probe) enum NoAnswer {
    /// The time is over. `alive`: the control query was answered meanwhile. `strays`: datagrams that came from the
    /// server's address and answered nothing.
    Silent { alive: bool, strays: u32 },
    /// What the socket reported; mostly what ICMP said.
    Socket(io::Error),
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
        // Connected: the kernel drops what does not come from the server's address and port.
        let socket = datagram::open(server).map_err(|error| unanswered(server, &error))?;
        // How long each part takes is of interest to checks of a server, not to the checks that need a name.
        let asked = by_udp(&socket, question, until, Some(health), &mut Timings::default()).await;
        let (answer, with_edns) = asked.map_err(|no| match no {
            NoAnswer::Silent { alive, .. } => Unanswered::Silent { alive },
            NoAnswer::Socket(error) => unanswered(server, &error),
        })?;
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        edns = with_edns;
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

/// Asks by a connected socket until `until`; says as well whether the server took EDNS. Adds to send, wait and receive.
pub(in crate::probe::net) async fn by_udp(
    socket: &UdpSocket,
    question: &Question,
    until: Instant,
    health: Option<&Health>,
    timings: &mut Timings,
) -> Result<(Message, bool), NoAnswer> {
    let answer = once_by_udp(socket, &query(question, true), until, health, timings).await?;
    // An old server that chokes on EDNS (RFC 6891, section 7).
    if matches!(answer.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS) {
        return Ok((once_by_udp(socket, &query(question, false), until, health, timings).await?, false));
    }
    Ok((answer, true))
}

/// The id comes from a cryptographic generator, the port from the kernel: guessing an answer takes both (RFC 5452).
fn query(question: &Question, edns: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = question.authentic;
    message.add_query(Query::query(question.name.clone(), question.record));
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

async fn once_by_udp(
    socket: &UdpSocket,
    message: &Message,
    until: Instant,
    health: Option<&Health>,
    timings: &mut Timings,
) -> Result<Message, NoAnswer> {
    let begin = Instant::now();
    let bytes = encode(message).map_err(NoAnswer::Socket)?;
    let sent = socket.send(&bytes).await;
    timings.add(Phase::Send, begin.elapsed());
    sent.map_err(NoAnswer::Socket)?;
    let begin = Instant::now();
    let mut buffer = vec![0; UDP_BUFFER];
    let heard = hear(socket, message, &bytes, &mut buffer, until, health).await;
    timings.add(Phase::Wait, begin.elapsed());
    if heard.is_ok() {
        // A datagram comes as a whole.
        timings.add(Phase::Receive, Duration::ZERO);
    }
    heard
}

/// Waits for the answer, sending the question again every second.
async fn hear(
    socket: &UdpSocket,
    message: &Message,
    bytes: &[u8],
    buffer: &mut [u8],
    until: Instant,
    health: Option<&Health>,
) -> Result<Message, NoAnswer> {
    let control = query(&Question { name: Name::root(), record: RecordType::NS, authentic: false }, false);
    let (mut alive, mut strays, mut ticks) = (false, 0u32, 0u32);
    let mut next = Instant::now() + TICK;
    loop {
        match timeout_at(next.min(until), datagram(socket, buffer)).await {
            Ok(Ok(length)) => match receive(buffer.get(..length).unwrap_or_default(), message, &control) {
                Received::Answer(answer) => {
                    health.inspect(|health| health.answered());
                    return Ok(*answer);
                }
                Received::Alive => {
                    alive = true;
                    health.inspect(|health| health.answered());
                }
                Received::Stray => strays = strays.saturating_add(1),
            },
            Ok(Err(error)) => return Err(NoAnswer::Socket(error)),
            Err(_) if Instant::now() >= until => return Err(NoAnswer::Silent { alive, strays }),
            Err(_) => {
                ticks += 1;
                next = Instant::now() + TICK;
                let sent = match (ticks % 2, health) {
                    (0, _) => socket.send(bytes).await,
                    // Whether our own resolver lives; a server that is the target is asked for nothing else.
                    (_, Some(_)) => socket.send(&encode(&control).map_err(NoAnswer::Socket)?).await,
                    (_, None) => continue,
                };
                sent.map_err(NoAnswer::Socket)?;
            }
        }
    }
}

/// The next datagram, or what ICMP said: that alone does not wake who only reads.
async fn datagram(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    let said = async {
        loop {
            socket.ready(Interest::ERROR).await?;
            let taken = socket.try_io(Interest::ERROR, || match SockRef::from(socket).take_error()? {
                Some(error) => Ok(error),
                // Woken too early: the next wake-up is waited for.
                None => Err(io::ErrorKind::WouldBlock.into()),
            });
            if let Ok(error) = taken {
                return Err(error);
            }
        }
    };
    tokio::select! {
        biased;
        received = socket.recv(buffer) => received,
        error = said => error,
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
    let mut stream = keep(TcpStream::connect(server).await?)?;
    let framed = Framed::new(question, edns)?;
    stream.write_all(&framed.bytes).await?;
    let length = usize::from(stream.read_u16().await?);
    if length > MOST_ANSWER_BYTES {
        return Err(garbage());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    framed.read(&answer).ok_or_else(garbage)
}

/// A question as a stream carries it (RFC 1035, 4.2.2).
pub(crate) struct Framed {
    message: Message,
    /// The length, two octets, and the message.
    pub(crate) bytes: Vec<u8>,
}

impl Framed {
    /// An error means that the name is longer than a message can hold.
    pub(crate) fn new(question: &Question, edns: bool) -> io::Result<Self> {
        let message = query(question, edns);
        let body = encode(&message)?;
        let length = u16::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&body);
        Ok(Self { message, bytes })
    }

    /// What came back, without its length; none when it is no answer to this question.
    pub(crate) fn read(&self, bytes: &[u8]) -> Option<Message> {
        let message = Some(bytes).filter(|bytes| is_of_size(bytes)).and_then(|bytes| Message::from_vec(bytes).ok());
        message.filter(|answer| answers(answer, &self.message))
    }
}

/// Whether a message, read, takes little memory: compression lets a record of a dozen octets name 255 each of owner and
/// target (RFC 1035, 4.1.4). The counts of its header are what is read.
fn is_of_size(bytes: &[u8]) -> bool {
    let counts = bytes.get(6..12).unwrap_or_default().chunks_exact(2);
    let records: usize = counts.filter_map(|count| Some(usize::from(u16::from_be_bytes(*count.first_chunk()?)))).sum();
    records <= MOST_RECORDS
}

fn garbage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "sent by TCP what is no answer to the question")
}

fn unanswered(server: SocketAddr, error: &io::Error) -> Unanswered {
    if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
        let what = format!("the name server {server} gave a broken answer: {error}");
        return Unanswered::Broken(Fault::new(Failure::DnsError, what));
    }
    let fault = connect::fault(server, Stage::AtOnce, error);
    if fault.failure == Failure::ResourceExhausted {
        let what = format!("the name server cannot be asked: {}", fault.message);
        return Unanswered::Ours(Fault::new(Failure::ResourceExhausted, what));
    }
    Unanswered::Unreachable(format!("{server}: {error}"))
}
