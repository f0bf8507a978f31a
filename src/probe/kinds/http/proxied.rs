//! Requests that a proxy of HTTP forwards, and what of the answers is its own.

use bytes::Bytes;
use hyper::http::header::{HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::uri::Authority;
use hyper::http::{Request, Uri};
use url::Url;

use crate::model::{Failure, Fault, HttpFacts};
use crate::probe::net::{proxy_authorization, proxy_told};
use crate::settings::proxy::Proxy;

/// Makes a request one for the proxy: its target in absolute form (RFC 9112, 3.2.2), and our credentials there.
pub(super) fn forwarded(request: &mut Request<Bytes>, url: &Url, proxy: &Proxy) -> Result<(), Fault> {
    let unusable = || Fault::new(Failure::Internal, "the URL cannot be written for a proxy");
    let host = crate::probe::request::host_header(url).ok_or_else(unusable)?;
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(hyper::http::uri::Scheme::HTTP);
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| unusable())?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| unusable())?;
    if let Some(login) = proxy_authorization(proxy) {
        let mut value = HeaderValue::from_str(&login).map_err(|_| unusable())?;
        value.set_sensitive(true);
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
    }
    Ok(())
}

/// The fault in an answer that the proxy gave in place of the target.
pub(super) fn own_words(facts: &HttpFacts, proxy: &Proxy) -> Option<Fault> {
    let header = |name: &str| {
        let found = facts.headers.iter().find(|(header, _)| &**header == name);
        found.map(|(_, value)| &**value)
    };
    // An answer that is none of failure came from the target, whatever was noted on its way.
    let (failure, what) = proxy_told(facts.status, &header).filter(|_| facts.status >= 400)?;
    Some(Fault::new(
        failure,
        format!("the proxy {proxy} has no answer of the target: {what} (status {})", facts.status),
    ))
}
