//! An exchange over any stream, for the fuzz targets.
#![allow(clippy::unwrap_used, reason = "what is written here is a URL and a request")]

use bytes::Bytes;
use hyper::http::Request;
use tokio::time::Instant;
use url::Url;

use super::exchange::{Answer, Plan, exchange};
use crate::model::{Failure, HttpFacts, Timings};
use crate::probe::net::Stream;

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    /// What went wrong.
    pub(crate) failure: Option<Failure>,
    /// The value of the `Location` to follow.
    pub(crate) location: Option<Vec<u8>>,
    /// The head and the body, as far as they came.
    pub(crate) facts: Option<HttpFacts>,
}

/// Asks over the stream, needing a body of at most `max_body` bytes.
pub(crate) async fn converse(stream: Stream, follow: bool, max_body: usize, deadline: Instant) -> Seen {
    let (mut timings, mut facts) = (Timings::default(), None);
    let url = Url::parse("http://peer/").unwrap();
    let plan = Plan { follow, needs_body: true, max_body, url: &url };
    let request = Request::builder().uri("/").header("Host", "peer").header("Connection", "close");
    let request = request.body(Bytes::new()).unwrap();
    let result = exchange(stream, request, &plan, deadline, &mut timings, &mut facts).await;
    let (failure, location) = match result {
        Ok(Answer::Redirect(location)) => (None, Some(location.as_bytes().to_vec())),
        Ok(_) => (None, None),
        Err(fault) => (Some(fault.failure), None),
    };
    Seen { failure, location, facts }
}
