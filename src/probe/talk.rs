//! A conversation over one connection: bounded in time and bytes, its phases timed, and its end named.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::ProbeContext;
use super::authority::{Authority, borrowed};
use super::net::{Handshaken, IpVersion, Profile, Stream, TlsOptions, tls_fault};
use crate::model::{Failure, Fault, Observation, Phase, Timings};

/// One read; also the least that [`Talk`] ever holds beyond what is asked for.
const READ_BYTES: usize = 4 * 1024;
/// Reads of one conversation: this many bound the work that a byte-wise sender can cause.
const MAX_READS: u32 = 4096;

/// Dials; the address and the phases go to what was seen.
pub async fn connect(
    authority: &Authority,
    ip_version: IpVersion,
    profile: Profile,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<TcpStream, Fault> {
    let destination = authority.destination(ip_version, profile);
    match context.net.dial(&destination, context.deadline, &mut seen.timings).await {
        Ok(dialled) => {
            seen.address = Some(dialled.address);
            Ok(dialled.stream)
        }
        Err(not) => {
            seen.address = not.address;
            Err(not.fault)
        }
    }
}

/// TLS on a dialled connection; the certificate goes to what was seen, also when the handshake fails.
pub async fn secure(
    stream: TcpStream,
    authority: &Authority,
    options: &TlsOptions,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<Stream, Fault> {
    let shaken = shake(stream, authority, options, context, seen).await;
    shaken.result.map(|stream| Stream::Tls(Box::new(stream)))
}

/// The same with all that the handshake told.
pub async fn shake(
    stream: TcpStream,
    authority: &Authority,
    options: &TlsOptions,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Handshaken {
    let host = borrowed(&authority.host);
    let (now, deadline) = (context.started_at, context.deadline);
    let shaken = context.net.handshake(stream, &host, options, now, deadline, &mut seen.timings).await;
    seen.certificate.clone_from(&shaken.certificate);
    shaken
}

/// Time that a server has for closing first.
const PARTING: Duration = Duration::from_millis(500);

/// Says goodbye, and lets the other side close first: then TIME_WAIT uses up its ports, not ours. The check is over by
/// then; whatever happens here says nothing about it. Ends after half a second, or at the deadline.
pub async fn part(mut stream: Stream, farewell: &[u8], deadline: Instant) {
    let parting = async {
        stream.write_all(farewell).await?;
        stream.flush().await?;
        let mut piece = [0; READ_BYTES];
        for _ in 0..MAX_READS {
            if stream.read(&mut piece).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout_at(deadline.min(Instant::now() + PARTING), parting).await;
}

/// Why no more bytes will come.
#[derive(Debug)]
pub enum End {
    /// The other side closed.
    Closed,
    /// The check's deadline passed.
    Deadline,
    /// More bytes, or more pieces, than the conversation may have.
    TooMuch,
    /// The connection broke.
    Broken(io::Error),
}

impl End {
    /// The fault of an end that no protocol explains better. `place` is the target, for the sentence; `awaited` is what
    /// was to come, such as "a greeting". Bytes beyond the bound are `exchange_mismatch`: whatever it speaks, it is not
    /// what the monitor speaks.
    #[must_use]
    pub fn fault(self, place: &Authority, awaited: &str) -> Fault {
        match self {
            Self::Closed => {
                let text = format!("{place} closed the connection before {awaited}");
                Fault::new(Failure::ConnectionClosed, text)
            }
            Self::Deadline => {
                Fault::new(Failure::ResponseTimeout, format!("{place} did not send {awaited} within the timeout"))
            }
            Self::TooMuch => {
                Fault::new(Failure::ExchangeMismatch, format!("{place} sent far more than {awaited} can be"))
            }
            Self::Broken(error) => broken(&error, place),
        }
    }
}

/// The fault of a connection that broke in a conversation.
#[must_use]
pub fn broken(error: &io::Error, place: &Authority) -> Fault {
    use io::ErrorKind as Kind;
    // With TLS 1.3 a server refuses a client's certificate after the handshake, in place of an answer.
    if let Some(fault) = tls_fault(error) {
        return fault;
    }
    let failure = match error.kind() {
        // Under TLS: closed without a close_notify.
        Kind::UnexpectedEof => {
            return Fault::new(Failure::ConnectionClosed, format!("{place} cut the connection off"));
        }
        Kind::TimedOut => Failure::ResponseTimeout,
        Kind::HostUnreachable => Failure::HostUnreachable,
        Kind::NetworkUnreachable => Failure::NetworkUnreachable,
        Kind::OutOfMemory => Failure::ResourceExhausted,
        _ => Failure::ConnectionReset,
    };
    Fault::new(failure, format!("the connection to {place} broke: {}", error.kind()))
}

/// A conversation. What is sent counts as [`Phase::Send`], the time until the answer's first bytes as [`Phase::Wait`],
/// from there to the last byte asked for as [`Phase::Receive`]; each phase is also kept when it fails.
pub struct Talk<'a> {
    stream: Stream,
    deadline: Instant,
    timings: &'a mut Timings,
    /// Received and not taken yet.
    unread: Vec<u8>,
    received: usize,
    limit: usize,
    reads: u32,
    phase: Phase,
}

impl<'a> Talk<'a> {
    /// `limit` bounds all that is received in this conversation, bytes.
    #[must_use]
    pub fn new(stream: Stream, deadline: Instant, timings: &'a mut Timings, limit: usize) -> Self {
        Self { stream, deadline, timings, unread: Vec::new(), received: 0, limit, reads: 0, phase: Phase::Wait }
    }

    /// Sends all of it.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        let begin = Instant::now();
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let sent = timeout_at(self.deadline, sending).await;
        self.timings.add(Phase::Send, begin.elapsed());
        self.phase = Phase::Wait;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::Broken(error)),
            Err(_) => Err(End::Deadline),
        }
    }

    /// The next `length` bytes, and no more.
    pub async fn exact(&mut self, length: usize) -> Result<Vec<u8>, End> {
        while self.unread.len() < length {
            self.more().await?;
        }
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    /// The next line, without its LF or CRLF; [`End::TooMuch`] when it is longer than `most` bytes.
    pub async fn line(&mut self, most: usize) -> Result<Vec<u8>, End> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread.iter().skip(searched).position(|byte| *byte == b'\n') {
                let mut line = self.exact(searched + at + 1).await?;
                line.pop();
                line.pop_if(|last| *last == b'\r');
                return if line.len() > most { Err(End::TooMuch) } else { Ok(line) };
            }
            searched = self.unread.len();
            if searched > most {
                return Err(End::TooMuch);
            }
            self.more().await?;
        }
    }

    /// Waits for at least one byte more; what was received and not taken is in [`Self::unread`].
    pub async fn more(&mut self) -> Result<(), End> {
        let room = self.limit.saturating_sub(self.received);
        if room == 0 || self.reads == MAX_READS {
            return Err(End::TooMuch);
        }
        self.reads += 1;
        let begin = Instant::now();
        let mut piece = [0; READ_BYTES];
        let piece = piece.get_mut(..READ_BYTES.min(room)).unwrap_or_default();
        let read = timeout_at(self.deadline, self.stream.read(piece)).await;
        self.timings.add(self.phase, begin.elapsed());
        match read {
            Ok(Ok(0)) => Err(End::Closed),
            Ok(Ok(length)) => {
                self.unread.extend_from_slice(piece.get(..length).unwrap_or_default());
                self.received += length;
                // Reached, even if nothing more has to be waited for.
                self.phase = Phase::Receive;
                self.timings.add(Phase::Receive, Duration::ZERO);
                Ok(())
            }
            Ok(Err(error)) => Err(End::Broken(error)),
            Err(_) => Err(End::Deadline),
        }
    }

    /// What was received and not taken.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Ends the conversation. Bytes that were received and not taken are lost: before TLS begins there may be none,
    /// since a stranger could have put them there (CVE-2011-0411).
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.stream
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Stream::Plain(near.unwrap()), far.unwrap().0)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn lines_and_lengths_are_taken_in_turn() {
        let (near, mut far) = pair().await;
        far.write_all(b"220 a\r\n\nabcdefrest").await.unwrap();
        let mut timings = Timings::default();
        let mut talk = Talk::new(near, soon(), &mut timings, 1000);
        assert_eq!(talk.line(10).await.unwrap(), b"220 a");
        assert_eq!(talk.line(10).await.unwrap(), b"");
        assert_eq!(talk.exact(6).await.unwrap(), b"abcdef");
        assert_eq!(talk.unread(), b"rest");
        talk.send(b"ok").await.unwrap();
        drop(talk);
        let mut said = [0; 2];
        far.read_exact(&mut said).await.unwrap();
        let reached: Vec<_> = Phase::ALL.into_iter().filter(|phase| timings.get(*phase).is_some()).collect();
        assert_eq!((&said, &*reached), (b"ok", &[Phase::Send, Phase::Wait, Phase::Receive][..]));
    }

    #[tokio::test]
    async fn every_end_has_its_name() {
        let place = Authority { host: url::Host::Domain("h".to_owned()), port: 1 };
        let mut timings = Timings::default();
        let (near, far) = pair().await;
        drop(far);
        let closed = Talk::new(near, soon(), &mut timings, 9).line(9).await.unwrap_err();
        assert_eq!(closed.fault(&place, "x").failure, Failure::ConnectionClosed);

        let (near, _far) = pair().await;
        let by = Instant::now() + Duration::from_millis(20);
        let late = Talk::new(near, by, &mut timings, 9).exact(1).await.unwrap_err();
        assert_eq!(late.fault(&place, "x").failure, Failure::ResponseTimeout);

        for (line_most, limit) in [(4, 100), (100, 4)] {
            let (near, mut far) = pair().await;
            far.write_all(b"1234567890").await.unwrap();
            let much = Talk::new(near, soon(), &mut timings, limit).line(line_most).await.unwrap_err();
            assert_eq!(much.fault(&place, "x").failure, Failure::ExchangeMismatch);
        }

        let (near, far) = pair().await;
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        let reset = Talk::new(near, soon(), &mut timings, 9).line(9).await.unwrap_err();
        assert_eq!(reset.fault(&place, "x").failure, Failure::ConnectionReset);
    }
}
