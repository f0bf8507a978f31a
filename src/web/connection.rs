//! One connection: hyper under deadlines, an orderly end, and no client that keeps it by reading or writing slowly.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{BoxFuture, poll_fn};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::Site;
use super::places::Place;
use super::reply::Reply;
use super::routes::{self, Peer};
use crate::shutdown::Shutdown;

/// A request head must be here by then; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Buffer of a connection, which also bounds a request head.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// Header lines of a request.
const HEADERS_MOST: usize = 100;
/// A client that takes nothing for so long does not want its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for an answer in parts. Between us and a slow client there may be megabytes in buffers of the system, which asks for more
/// only when a third of them is free.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// After so long a connection answers what it has, and closes.
const LIFE: Duration = Duration::from_secs(120);
/// The longest request may still end.
const LAST: Duration = Duration::from_secs(75);
/// When a body was not read to its end: so much of the rest is thrown away, so that the client sees the answer and not a
/// reset (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;

/// Serves a connection to its end: its own, that of the daemon, or when its place is needed.
pub(super) async fn drive<S>(stream: S, site: Arc<Site>, peer: Peer, place: Arc<Place>, mut shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let unread = Arc::new(AtomicBool::new(false));
    let streams = Arc::new(AtomicUsize::new(0));
    let (in_service, flag, begun) = (Arc::clone(&place), Arc::clone(&unread), Arc::clone(&streams));
    let service = service_fn(move |request| -> BoxFuture<'static, Result<Reply, std::convert::Infallible>> {
        let (site, busy, flag) = (Arc::clone(&site), in_service.busy(), Arc::clone(&flag));
        let streams = Arc::clone(&begun);
        Box::pin(async move {
            let (mut reply, left) = routes::answer(request, site, peer).await;
            flag.fetch_or(left, Ordering::Relaxed);
            if reply.body().is_in_parts() {
                // It is worked on until its last part is out.
                let streaming = Streaming::begin(streams);
                reply.body_mut().keep((busy, streaming));
            }
            Ok(reply)
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEADERS_MOST)
        .serve_connection(TokioIo::new(Paced::new(stream, Arc::clone(&streams))), service);
    let mut end = Instant::now() + LIFE;
    let mut draining = false;
    loop {
        tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                // A broken connection concerns its client only.
                log::trace!("a connection ended: {ended:?}");
                break;
            }
            () = place.told_to_leave() => return,
            () = shutdown.wait(), if !draining => {
                Pin::new(&mut connection).graceful_shutdown();
                draining = true;
            }
            () = sleep_until(end) => {
                // A stream has its own end; a client that takes nothing of it is given up by `Paced`.
                if draining && streams.load(Ordering::Relaxed) == 0 {
                    return;
                }
                Pin::new(&mut connection).graceful_shutdown();
                draining = true;
                end += LAST;
            }
        }
    }
    let stream = connection.into_parts().io.into_inner();
    tokio::select! {
        () = finish(stream, unread.load(Ordering::Relaxed)) => {}
        () = place.told_to_leave() => {}
    }
}

/// An answer that goes out in parts; counted until it ends.
struct Streaming(Arc<AtomicUsize>);

impl Streaming {
    fn begin(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn finish<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, unread: bool) {
    let close = async {
        stream.shutdown().await?;
        if unread {
            tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await?;
        }
        io::Result::Ok(())
    };
    // Whatever happens here, the answer is out.
    let _ = timeout(LINGER, close).await;
}

/// A stream whose other side must take what is written.
struct Paced<S> {
    inner: S,
    /// Answers in parts that are on their way.
    streams: Arc<AtomicUsize>,
    /// Since when nothing was taken.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    fn new(inner: S, streams: Arc<AtomicUsize>) -> Self {
        Self { inner, streams, stalled: None }
    }

    fn pace<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let limit = if self.streams.load(Ordering::Relaxed) > 0 { STREAM_TIMEOUT } else { WRITE_TIMEOUT };
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.pace(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have nothing to flush, so this never waits for the other side.
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.pace(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        for (streams, limit) in [(0, WRITE_TIMEOUT), (1, STREAM_TIMEOUT)] {
            let (ours, _theirs) = tokio::io::duplex(16);
            let mut paced = Paced::new(ours, Arc::new(AtomicUsize::new(streams)));
            paced.write_all(&[0; 16]).await.unwrap();
            let began = Instant::now();
            assert_eq!(paced.write_all(&[0; 16]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(began.elapsed(), limit);
        }
        // One that takes a little now and then is not: each time the clock begins anew.
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut paced = Paced::new(ours, Arc::default());
        let slow = tokio::spawn(async move { paced.write_all(&[0; 64]).await });
        for _ in 0..4 {
            sleep(WRITE_TIMEOUT - Duration::from_millis(1)).await;
            theirs.read_exact(&mut [0; 16]).await.unwrap();
        }
        assert!(slow.await.unwrap().is_ok());
    }
}
