//! The way of a request to its route: what its head tells, who asks, the body, and the handler under its deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use hyper::header::{ALLOW, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, ORIGIN, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use tokio::time::timeout;

use super::{Access, Answer, Call, Found, METRICS, Peer, Route, Trust, find};
use crate::access::Caller;
use crate::web::Site;
use crate::web::auth::forbidden;
use crate::web::query::{Query, segments};
use crate::web::reply::{Problem, Reply};

/// Characters of path and query.
const URI_MOST: usize = 8 * 1024;
/// Bytes of a body.
const BODY_MOST: usize = 64 * 1024;
/// Of a longer one that is kept in part, so much is read before the connection is closed on the rest.
const KEPT_READ_MOST: usize = 1024 * 1024;
/// For the body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// What the paths of pings begin with.
pub(super) const PINGS: &str = "/ping/";
pub(super) const PUSHES: &str = "/api/push/";

/// Answers a request; also says whether its body was not read to the end, so that the connection cannot go on.
pub(in crate::web) async fn answer<B>(request: Request<B>, site: Arc<Site>, peer: Peer) -> (Reply, bool)
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let mut unread = !body.is_end_stream();
    // Whatever somebody between us and the client takes for the end of such a body, no second request is read after it.
    let streamed = parts.headers.contains_key(TRANSFER_ENCODING);
    let answered = handle(parts, body, &mut unread, site, peer).await;
    let mut reply = answered.unwrap_or_else(Problem::into_reply);
    if unread || streamed {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    (reply, unread)
}

async fn handle<B>(parts: Parts, body: B, unread: &mut bool, site: Arc<Site>, peer: Peer) -> Answer
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    site.hosts.check(&parts)?;
    check_head(&parts)?;
    let path = segments(parts.uri.path())?;
    let found = find(&path, &parts.method);
    let opened =
        |route: &Route| route.access == Access::Open || (route.pattern == METRICS && site.admin.metrics_public());
    let caller = match (&found, peer.trust) {
        (_, Trust::Local) => Some(Caller::ADMIN),
        // Whoever shows a token may learn more.
        (Found::Route(route, _), _) if opened(route) && parts.headers.contains_key(AUTHORIZATION) => {
            site.auth.caller(&parts.headers, peer.address).await.ok()
        }
        (Found::Route(route, _), _) if opened(route) => None,
        (Found::Method { open: true, .. }, _) => None,
        (Found::Method { .. }, _) if parts.uri.path() == METRICS && site.admin.metrics_public() => None,
        _ => Some(site.auth.caller(&parts.headers, peer.address).await?),
    };
    let (route, captures) = match found {
        Found::Route(route, captures) => (route, captures),
        Found::Method { allow, .. } => return Err(method_not_allowed(&allow)),
        Found::Nothing => return Err(Problem::not_found("there is no such route")),
    };
    if let (Access::Needs(scope), Some(caller)) = (route.access, caller)
        && caller.scope < scope
    {
        return Err(forbidden(scope));
    }
    let Some(run) = route.run else {
        let text = "this version does not have this route yet";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "not_built_yet", "not built yet", text));
    };
    let query = match route.access {
        Access::Open => Query::default(),
        Access::Needs(_) => Query::parse(parts.uri.query(), route.parameters)?,
    };
    let mut kept = Bytes::new();
    if *unread {
        (kept, *unread) = drain(body, route.keeps).await?;
    }
    let call = Call { site, trust: peer.trust, caller, parts, captures, query, body: kept };
    timeout(route.deadline, run(call))
        .await
        .unwrap_or_else(|_| Err(Problem::unavailable("too_slow", "it took too long, and may be tried again")))
}

/// What can be told from the head alone, whatever the route.
fn check_head(parts: &Parts) -> Result<(), Problem> {
    if parts.uri.path().len() + parts.uri.query().map_or(0, str::len) > URI_MOST {
        let text = "path and query may have 8192 characters";
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "uri_too_long", "the address is too long", text));
    }
    let length = parts.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    // No ping is lost because its job said too much: see `Route::keeps`.
    let kept = [PINGS, PUSHES].iter().any(|prefix| parts.uri.path().starts_with(prefix));
    if length.is_some_and(|length| length > BODY_MOST as u64) && !kept {
        return Err(too_large());
    }
    if !matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) && !is_same_origin(parts) {
        let text = "a page of another site may not send this";
        return Err(Problem::new(StatusCode::FORBIDDEN, "cross_site", "forbidden", text));
    }
    Ok(())
}

/// Browsers tell where a request comes from: by Sec-Fetch-Site, older ones by Origin only. Other programs send neither.
fn is_same_origin(parts: &Parts) -> bool {
    if let Some(site) = parts.headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = parts.headers.get(ORIGIN) else { return true };
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == host
}

fn too_large() -> Problem {
    Problem::too_large("a body may have 65536 bytes here")
}

/// Reads a body to its end, so that the connection can go on, and keeps the first bytes of it where somebody wants them.
/// Then it may be too long to be read to its end, and the second value tells so.
async fn drain<B>(body: B, keeps: Option<usize>) -> Result<(Bytes, bool), Problem>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let most = if keeps.is_some() { KEPT_READ_MOST } else { BODY_MOST };
    let mut body = Box::pin(Limited::new(body, most));
    let mut kept = Vec::new();
    let room = keeps.unwrap_or(0);
    let read = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.is::<http_body_util::LengthLimitError>())?;
            if let Some(data) = frame.data_ref() {
                kept.extend_from_slice(data.get(..room.saturating_sub(kept.len()).min(data.len())).unwrap_or_default());
            }
        }
        Ok(())
    };
    match timeout(BODY_DEADLINE, read).await {
        Ok(Ok(())) => Ok((kept.into(), false)),
        Ok(Err(true)) if keeps.is_some() => Ok((kept.into(), true)),
        Ok(Err(true)) => Err(too_large()),
        Ok(Err(false)) => {
            let text = "the body could not be read";
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_body", "bad request", text))
        }
        Err(_) => {
            let text = "the body did not come within 5 s";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "request timeout", text))
        }
    }
}
fn method_not_allowed(allow: &str) -> Problem {
    let text = format!("this route takes {allow}");
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "method not allowed", text);
    match HeaderValue::from_str(allow) {
        Ok(value) => problem.with(ALLOW, value),
        Err(_) => problem,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(HeaderName::from_bytes(name.as_bytes()).unwrap(), *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check_head(&parts).map_or_else(|problem| problem.status().as_u16(), |()| 200)
    }

    #[test]
    fn heads_are_judged_before_anything_else() {
        let long = format!("/{}", "x".repeat(URI_MOST));
        assert_eq!(head("GET", &long, &[]), 414);
        assert_eq!(head("GET", &format!("/?{long}"), &[]), 414);
        assert_eq!(head("POST", "/", &[("content-length", "65536")]), 200);
        assert_eq!(head("POST", "/", &[("content-length", "65537")]), 413);
        assert_eq!(head("GET", "/", &[("content-length", "104857600")]), 413);
        assert_eq!(head("POST", "/ping/x", &[("content-length", "104857600")]), 200, "no ping is lost for its length");
        // By fetch metadata, else by origin.
        for (site, expected) in
            [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("x", 403)]
        {
            assert_eq!(head("POST", "/", &[("sec-fetch-site", site)]), expected, "{site}");
            assert_eq!(head("GET", "/", &[("sec-fetch-site", site)]), 200, "{site}");
        }
        assert_eq!(head("POST", "/", &[("origin", "http://nas:8780"), ("host", "nas:8780")]), 200);
        for origin in ["http://evil.com", "null", "http://nas"] {
            assert_eq!(head("DELETE", "/", &[("origin", origin), ("host", "nas:8780")]), 403, "{origin}");
        }
    }
}
