//! `/metrics`, in the format that the scraper asks for.

use std::sync::Arc;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::ACCEPT;

use super::Admin;
use crate::metrics::text::Format;

/// The content type and the body; none when the runtime ends. Who may see it is the caller's to decide. Made on a thread
/// where nothing waits: a quarter of a million monitors take a while.
pub(super) async fn exposition(admin: Arc<dyn Admin>, headers: &HeaderMap) -> Option<(&'static str, Bytes)> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accepted.collect::<Vec<_>>().join(","));
    let body = tokio::task::spawn_blocking(move || admin.metrics(format)).await.ok()?;
    Some((format.content_type(), body.into()))
}
