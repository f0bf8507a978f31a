//! The connection under hyper: it notes when the request had left and when the answer began, and bounds the head.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{RequestEnd, Scan, Step};
use crate::model::{Phase, Timings};
use crate::probe::net::Stream;

/// A response head of this size or more is `http_protocol`, in both versions: which is spoken the server decides, and a head
/// that passes in one must not fail in the other. For HTTP/2 16 KiB is often advised; tests/it/http/bounds.rs measures that
/// these 64 cost no more than anything else that a server may send.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Bytes accepted before a final head is reported: interim (1xx) heads, one head, and the two body frames that hyper may
/// read ahead in the same poll, each at most [`MAX_HEAD_BYTES`]. It ends an endless run of interim responses, and with
/// HTTP/2 one of settings and pings.
const MAX_BEFORE_HEAD_BYTES: u64 = 4 * MAX_HEAD_BYTES as u64;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Marks of one exchange, shared by the two halves of one task; atomics only because futures must be `Send`.
pub(super) struct Wire {
    pub(super) version: Version,
    begin: Instant,
    /// Nanoseconds after `begin`, plus 1; 0: not yet.
    sent_ns: AtomicU64,
    first_ns: AtomicU64,
    received: AtomicU64,
    first_byte: AtomicU8,
    head_done: AtomicBool,
    write_broken: AtomicBool,
    flooded: AtomicBool,
}

impl Wire {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            begin: Instant::now(),
            sent_ns: AtomicU64::new(0),
            first_ns: AtomicU64::new(0),
            received: AtomicU64::new(0),
            first_byte: AtomicU8::new(0),
            head_done: AtomicBool::new(false),
            write_broken: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
        }
    }

    fn stamp(&self, mark: &AtomicU64) {
        let nanos = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        mark.store(nanos + 1, Relaxed);
    }

    /// The head is complete: what arrives from now on is body.
    pub(super) fn head_is_done(&self) {
        self.head_done.store(true, Relaxed);
    }

    /// The first byte that arrived.
    pub(super) fn first_byte(&self) -> Option<u8> {
        (self.received.load(Relaxed) > 0).then(|| self.first_byte.load(Relaxed))
    }

    /// The answer has begun, with an interim head or the final one.
    pub(super) fn has_begun(&self) -> bool {
        self.first_ns.load(Relaxed) > 0
    }

    /// The other side would not take the rest of the request.
    pub(super) fn write_broken(&self) -> bool {
        self.write_broken.load(Relaxed)
    }

    /// Too much arrived before a final head.
    pub(super) fn flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// Adds send, wait and receive as far as they were reached; the last one ends now. A server that answers before
    /// it has the whole request ends the send phase by that.
    pub(super) fn settle(&self, timings: &mut Timings) {
        let end_ns = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mark = |mark: &AtomicU64| mark.load(Relaxed).checked_sub(1);
        let (sent, first) = (mark(&self.sent_ns), mark(&self.first_ns));
        let sent_ns = sent.unwrap_or(end_ns).min(first.unwrap_or(end_ns));
        let nanos = std::time::Duration::from_nanos;
        timings.add(Phase::Send, nanos(sent_ns));
        if sent.is_some() || first.is_some() {
            timings.add(Phase::Wait, nanos(first.unwrap_or(end_ns) - sent_ns));
        }
        if let Some(first_ns) = first {
            timings.add(Phase::Receive, nanos(end_ns - first_ns));
        }
    }
}

/// Both directions of a connection of HTTP/2, until the final head is there.
struct Frames {
    incoming: Scan,
    outgoing: RequestEnd,
    /// A head was just handed over: whoever waits for the final one looks at it before there is another.
    pause: bool,
}

/// The stream as hyper or h2 sees it.
pub(super) struct WireIo<'a> {
    stream: Stream,
    wire: &'a Wire,
    wrote: bool,
    /// The whole request was handed over; the next flush ends the phase.
    handed: bool,
    waiting_reader: Option<Waker>,
    frames: Option<Frames>,
}

impl<'a> WireIo<'a> {
    pub(super) const fn new(stream: Stream, wire: &'a Wire) -> Self {
        let frames = match wire.version {
            Version::Http1 => None,
            Version::Http2 => Some(Frames { incoming: Scan::incoming(), outgoing: RequestEnd::new(), pause: false }),
        };
        Self { stream, wire, wrote: false, handed: false, waiting_reader: None, frames }
    }

    /// Looks for the end of a request of HTTP/2 in what was written.
    fn passed(&mut self, result: &Poll<io::Result<usize>>, bufs: &[io::IoSlice<'_>]) {
        let (Some(frames), Poll::Ready(Ok(written))) = (&mut self.frames, result) else { return };
        let mut left = *written;
        for buf in bufs {
            let piece = buf.get(..left.min(buf.len())).unwrap_or_default();
            self.handed |= frames.outgoing.passes(piece);
            left -= piece.len();
        }
    }

    /// A peer that is gone is told by the read that follows: it may have answered before it left (413, 408), and
    /// that answer counts. So the rest of the request goes nowhere.
    fn wrote(&mut self, result: Poll<io::Result<usize>>, asked: usize) -> Poll<io::Result<usize>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        let result = match result {
            Poll::Ready(Err(error)) if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) => {
                self.wire.write_broken.store(true, Relaxed);
                Poll::Ready(Ok(asked))
            }
            other => other,
        };
        if let Poll::Ready(Ok(1..)) = result {
            self.wrote = true;
            // hyper flushes when it has handed over the whole request.
            self.handed |= self.frames.is_none();
            if let Some(reader) = self.waiting_reader.take() {
                reader.wake();
            }
        }
        result
    }
}

impl AsyncRead for WireIo<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // hyper looks for stray bytes before it writes; whether it finds a banner then would be a race.
        if !self.wrote {
            self.waiting_reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let wire = self.wire;
        let bounded = !wire.head_done.load(Relaxed);
        let Self { stream, frames, .. } = &mut *self;
        let result = match frames {
            Some(frames) if bounded => poll_frame(stream, frames, wire, cx, buf),
            _ => Pin::new(stream).poll_read(cx, buf),
        };
        if let Some(new) = buf.filled().get(before..)
            && let Some(first) = new.first()
            && bounded
        {
            let received = wire.received.load(Relaxed);
            if received == 0 {
                wire.first_byte.store(*first, Relaxed);
                if wire.version == Version::Http1 {
                    wire.stamp(&wire.first_ns);
                }
            }
            let received = received + new.len() as u64;
            wire.received.store(received, Relaxed);
            if received > MAX_BEFORE_HEAD_BYTES {
                wire.flooded.store(true, Relaxed);
                // A read that fails has read nothing.
                buf.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        result
    }
}

/// Reads to the next boundary of a frame at most, and pauses after each head: an interim one is dropped before the next
/// is unpacked, since compressed heads are small only on the wire.
fn poll_frame(
    stream: &mut Stream,
    frames: &mut Frames,
    wire: &Wire,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if std::mem::take(&mut frames.pause) {
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    let most = frames.incoming.left().min(buf.remaining());
    let mut piece = ReadBuf::new(buf.initialize_unfilled_to(most));
    std::task::ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
    let step = frames.incoming.take(piece.filled());
    let length = piece.filled().len();
    buf.advance(length);
    if let Step::Begun(frame) | Step::Ended(frame) = step
        && frame.is_head()
        && !wire.has_begun()
    {
        wire.stamp(&wire.first_ns);
    }
    frames.pause = matches!(step, Step::Ended(frame) if frame.ends_head());
    Poll::Ready(Ok(()))
}

impl AsyncWrite for WireIo<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.passed(&result, &[io::IoSlice::new(buf)]);
        self.wrote(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.passed(&result, bufs);
        self.wrote(result, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        let wire = self.wire;
        if self.handed && result.is_ready() && wire.sent_ns.load(Relaxed) == 0 {
            wire.stamp(&wire.sent_ns);
        }
        match result {
            Poll::Ready(Err(_)) if wire.write_broken() => Poll::Ready(Ok(())),
            other => other,
        }
    }

    /// Dropping the stream closes it; a shutdown before that would only be one more system call.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    fn phases(wire: &Wire) -> [Option<Duration>; 3] {
        let mut timings = Timings::default();
        wire.settle(&mut timings);
        [Phase::Send, Phase::Wait, Phase::Receive].map(|phase| timings.get(phase))
    }

    #[tokio::test]
    async fn nothing_is_read_before_something_was_written() {
        let (near, mut far) = pair().await;
        far.write_all(b"banner").await.unwrap();
        near.readable().await.unwrap();
        let wire = Wire::new(Version::Http1);
        let mut io = WireIo::new(Stream::Plain(near), &wire);
        let mut space = [0; 16];
        let early = poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_read(cx, &mut ReadBuf::new(&mut space)))).await;
        assert!(early.is_pending());
        assert!(matches!(phases(&wire), [Some(_), None, None]));
        io.write_all(b"request").await.unwrap();
        io.flush().await.unwrap();
        assert!(matches!(phases(&wire), [Some(_), Some(_), None]));
        assert_eq!(io.read(&mut space).await.unwrap(), 6);
        assert_eq!(wire.first_byte(), Some(b'b'));
        assert!(matches!(phases(&wire), [Some(_), Some(_), Some(_)]));
    }

    #[tokio::test]
    async fn a_peer_that_left_is_told_by_the_read() {
        let (near, far) = pair().await;
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        near.readable().await.unwrap();
        let wire = Wire::new(Version::Http1);
        let mut io = WireIo::new(Stream::Plain(near), &wire);
        // The first write meets the reset, and a later one the broken pipe.
        for _ in 0..3 {
            assert_eq!(io.write(b"request").await.unwrap(), 7);
        }
        assert!(wire.write_broken());
        assert_eq!(io.read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn only_what_comes_before_the_head_is_bounded() {
        for done in [false, true] {
            let (near, mut far) = pair().await;
            let wire = Wire::new(Version::Http1);
            let mut io = WireIo::new(Stream::Plain(near), &wire);
            io.write_all(b"request").await.unwrap();
            if done {
                wire.head_is_done();
            }
            let feed = tokio::spawn(async move {
                // A close with unread bytes would be a reset.
                far.read_exact(&mut [0; 7]).await.unwrap();
                let piece = vec![b'x'; 64 * 1024];
                for _ in 0..8 {
                    if far.write_all(&piece).await.is_err() {
                        break;
                    }
                }
            });
            let read = io.read_to_end(&mut Vec::new()).await;
            assert_eq!(read.map_err(|error| error.kind()).err(), (!done).then_some(io::ErrorKind::InvalidData));
            assert_eq!(wire.flooded(), !done);
            drop(io);
            feed.await.unwrap();
        }
    }
}
