//! `/metrics`, in the format that the scraper asks for.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::ACCEPT;

use super::reply::reply;
use super::routes::{Answer, Call};
use crate::access::Viewer;
use crate::metrics::text::Format;

/// Without a caller it is public. A quarter of a million monitors take a while.
pub(super) async fn exposition(call: Call) -> Answer {
    let accepted = call.parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accepted.collect::<Vec<_>>().join(","));
    let public = call.site.admin.metrics_public();
    let viewer = call.caller.as_ref().filter(|_| !public).map_or(Viewer::Everything, |caller| caller.viewer);
    let admin = Arc::clone(&call.site.admin);
    let body = call.large(move || admin.metrics(format, viewer).into_bytes()).await?;
    Ok(reply(StatusCode::OK, format.content_type(), body))
}
