//! The connection under h2: counted, so that control frames without end are an end, and driven on the caller's task.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

use crate::probe::net::Stream;

/// All that is received in one call, bytes.
const MAX_RECEIVED_BYTES: usize = 1 << 20;
/// Time for a goodbye.
const PARTING: Duration = Duration::from_millis(500);
/// What tells a greeting of another protocol.
const BEGIN_BYTES: usize = 5;

/// What passed; atomics only because futures must be `Send`.
#[derive(Default)]
pub(super) struct Passed {
    received: AtomicUsize,
    /// The first bytes, the very first in the lowest byte.
    begin: [std::sync::atomic::AtomicU8; BEGIN_BYTES],
}

impl Passed {
    /// More arrived than a call can have.
    pub(super) fn flooded(&self) -> bool {
        self.received.load(Relaxed) > MAX_RECEIVED_BYTES
    }

    /// Whether what arrived begins so.
    pub(super) fn begins_with(&self, bytes: &[u8]) -> bool {
        self.received.load(Relaxed) >= bytes.len()
            && bytes.iter().zip(&self.begin).all(|(byte, there)| *byte == there.load(Relaxed))
    }

    fn add(&self, bytes: &[u8]) {
        let received = self.received.load(Relaxed);
        for (slot, byte) in self.begin.iter().skip(received).zip(bytes) {
            slot.store(*byte, Relaxed);
        }
        self.received.store(received.saturating_add(bytes.len()), Relaxed);
    }
}

/// The stream as h2 sees it.
pub(super) struct Counted {
    stream: Stream,
    passed: Arc<Passed>,
}

impl Counted {
    pub(super) const fn new(stream: Stream, passed: Arc<Passed>) -> Self {
        Self { stream, passed }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.passed.add(buf.filled().get(before..).unwrap_or_default());
        if self.passed.flooded() {
            // A read that fails has read nothing.
            buf.set_filled(before);
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// h2's connection, polled by who waits for something of it: no task of its own.
pub(super) struct Driver {
    connection: Pin<Box<h2::client::Connection<Counted, Bytes>>>,
    ended: Option<Result<(), h2::Error>>,
}

impl Driver {
    pub(super) fn new(connection: h2::client::Connection<Counted, Bytes>) -> Self {
        Self { connection: Box::pin(connection), ended: None }
    }

    /// Sends and receives what there is.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if self.ended.is_none()
            && let Poll::Ready(result) = self.connection.as_mut().poll(cx)
        {
            self.ended = Some(result);
        }
    }

    /// Hands what was queued to the kernel, as far as that takes it.
    pub(super) async fn push(&mut self) {
        poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// What ended the connection, which a stream of it may not know.
    pub(super) fn error(&mut self) -> Option<h2::Error> {
        self.ended.take().and_then(Result::err)
    }
}

/// A call that is over, on a connection that is not.
pub(super) struct Ended(pub(super) Driver);

impl Ended {
    /// Says goodbye (GOAWAY); every handle of the connection is gone by now.
    pub(super) async fn leave(self, deadline: Instant) {
        let Self(mut driver) = self;
        let parting = poll_fn(|cx| {
            driver.drive(cx);
            if driver.ended.is_some() { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = timeout_at(deadline.min(Instant::now() + PARTING), parting).await;
    }
}
