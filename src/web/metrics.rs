//! `/metrics`, in the format that the scraper asks for.

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::ACCEPT;

use super::Admin;
use crate::metrics::text::Format;

/// The content type and the body. Who may see it is the caller's to decide.
pub(super) fn exposition(admin: &dyn Admin, headers: &HeaderMap) -> (&'static str, Bytes) {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accepted.collect::<Vec<_>>().join(","));
    (format.content_type(), admin.metrics(format).into())
}
