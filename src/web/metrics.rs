//! `/metrics`, in the format that the scraper asks for.

use hyper::StatusCode;
use hyper::header::ACCEPT;

use super::reply::{Problem, reply};
use super::routes::{Answer, Call};
use crate::access::Viewer;
use crate::metrics::text::Format;

/// Without a caller it is public. Made on a thread where nothing waits: a quarter of a million monitors take a while.
pub(super) async fn exposition(call: Call) -> Answer {
    let accepted = call.parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accepted.collect::<Vec<_>>().join(","));
    let public = call.site.admin.metrics_public();
    let viewer = call.caller.filter(|_| !public).map_or(Viewer::Everything, |caller| caller.viewer);
    let admin = call.site.admin.clone();
    let made = tokio::task::spawn_blocking(move || admin.metrics(format, viewer)).await;
    made.map(|body| reply(StatusCode::OK, format.content_type(), body)).map_err(|error| {
        log::error!("the metrics could not be made: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error", "see the daemon's log")
    })
}
