//! Bodies of answers: nearly all are whole; exports go out as they are read.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

/// Why a stream ended before its end. The connection is cut then: without its last chunk no client takes it for whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer ended early: {0}")]
pub(super) struct Cut(pub(super) String);

type Parts = Pin<Box<dyn Stream<Item = Result<Bytes, Cut>> + Send>>;

/// What goes back.
pub(super) enum Answered {
    /// All of it, in memory.
    Whole(Full<Bytes>),
    /// Part after part. The next one is asked for when the client has taken the one before.
    Parts(Parts, Vec<Box<dyn Any + Send>>),
}

impl Answered {
    pub(super) fn parts(parts: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static) -> Self {
        Self::Parts(Box::pin(parts), Vec::new())
    }

    /// Whether it is still being made while it goes out.
    pub(super) const fn is_in_parts(&self) -> bool {
        matches!(self, Self::Parts(..))
    }

    /// Keeps something until the last part is out, or the connection ended. A whole answer needs nothing any more.
    pub(super) fn keep(&mut self, thing: impl Any + Send) {
        if let Self::Parts(_, kept) = self {
            kept.push(Box::new(thing));
        }
    }
}

impl Default for Answered {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl From<Bytes> for Answered {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Whole(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                // It has no errors.
                Poll::Ready(frame.and_then(Result::ok).map(Ok))
            }
            Self::Parts(parts, _) => {
                let part = ready!(parts.as_mut().poll_next(cx));
                Poll::Ready(part.map(|part| part.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Parts(..) => SizeHint::default(),
        }
    }
}
