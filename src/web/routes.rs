//! The table of routes, and the way of a request to one of them. What is in the table is all there is: its tests, the
//! OpenAPI document and the checks of token, scope and parameters go by it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use hyper::header::{ALLOW, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, ORIGIN, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use tokio::time::timeout;

use super::auth::forbidden;
use super::query::{Query, segments};
use super::reply::{Problem, Reply};
use super::{Site, api, health, metrics, openapi, ping};
use crate::access::{Caller, Scope};
use crate::verdict::pulse::TEXT_BYTES;

/// Who is on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody who reaches the listener: needs a token.
    Anonymous,
    /// The daemon's own user or root, through `admin.sock`.
    Local,
}

/// The other side of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) trust: Trust,
    pub(super) address: Option<IpAddr>,
}

/// Who may ask for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// A token of this scope at least.
    Needs(Scope),
}

pub(super) type Answer = Result<Reply, Problem>;
type Handler = fn(Call) -> BoxFuture<'static, Answer>;

/// One row of the table.
pub struct Route {
    /// Segments; `{name}` is any one, a final `*` any number.
    pub pattern: &'static str,
    /// What may be asked; GET includes HEAD.
    pub methods: &'static [Method],
    /// Who may.
    pub access: Access,
    /// Parameters of the query that it knows. Those of open routes are not looked at.
    pub parameters: &'static [&'static str],
    /// Of the whole answer.
    deadline: Duration,
    /// Bytes of the body that are kept, and no body is too long; none: it is read and dropped.
    keeps: Option<usize>,
    /// None: not built yet.
    run: Option<Handler>,
}

impl Route {
    /// Whether this version answers it.
    #[must_use]
    pub const fn is_built(&self) -> bool {
        self.run.is_some()
    }
}

/// Longer than the deadline of a statement, so that its fault is what is told.
const DEADLINE: Duration = Duration::from_secs(12);
/// A file at its limits takes seconds to read, and others may be before it.
const RELOAD_DEADLINE: Duration = Duration::from_secs(60);
/// Longer than the store takes for a page of an export.
const EXPORT_DEADLINE: Duration = Duration::from_secs(70);
/// Characters of path and query.
const URI_MOST: usize = 8 * 1024;
/// Bytes of a body.
const BODY_MOST: usize = 64 * 1024;
/// Of a longer one that is kept in part, so much is read before the connection is closed on the rest.
const KEPT_READ_MOST: usize = 1024 * 1024;
/// For the body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(5);

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const PING: &[Method] = &[Method::GET, Method::POST];
const ANY: &[Method] = &[Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
const WRITE: &[Method] = &[Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

const fn open(pattern: &'static str, run: Handler) -> Route {
    Route {
        pattern,
        methods: GET,
        access: Access::Open,
        parameters: &[],
        deadline: DEADLINE,
        keeps: None,
        run: Some(run),
    }
}

/// For senders without a token: the address itself is known to them only.
const fn pinged(
    pattern: &'static str,
    methods: &'static [Method],
    parameters: &'static [&'static str],
    run: Handler,
) -> Route {
    let (access, keeps) = (Access::Open, Some(TEXT_BYTES));
    Route { pattern, methods, access, parameters, deadline: DEADLINE, keeps, run: Some(run) }
}

const fn get(pattern: &'static str, parameters: &'static [&'static str], run: Handler) -> Route {
    Route {
        pattern,
        methods: GET,
        access: Access::Needs(Scope::Read),
        parameters,
        deadline: DEADLINE,
        keeps: None,
        run: Some(run),
    }
}

/// Of the head and the first rows only: the others have deadlines of their own.
const fn export(pattern: &'static str, run: Handler) -> Route {
    let parameters = &["format", "from", "to", "monitor"];
    Route { deadline: EXPORT_DEADLINE, ..get(pattern, parameters, run) }
}

const fn later(methods: &'static [Method], scope: Scope, pattern: &'static str) -> Route {
    Route {
        pattern,
        methods,
        access: Access::Needs(scope),
        parameters: &[],
        deadline: DEADLINE,
        keeps: None,
        run: None,
    }
}

/// Of those who have no token: visitors of status pages, senders of pings.
const fn open_later(methods: &'static [Method], pattern: &'static str) -> Route {
    Route { pattern, methods, access: Access::Open, parameters: &[], deadline: DEADLINE, keeps: None, run: None }
}

/// Open when `server.metrics_public` says so.
const METRICS: &str = "/metrics";
/// What the paths of pings begin with.
const PINGS: &str = "/ping/";
const PUSHES: &str = "/api/push/";
const CHECKS: &[&str] = &["from", "to", "verdict", "error_type", "limit", "cursor"];
const INCIDENTS: &[&str] = &["status", "from", "to", "limit", "cursor"];

/// Every route of the contract, those that later versions build as well. The first row that fits counts.
pub const ROUTES: &[Route] = &[
    open("/", |call| Box::pin(health::index(call))),
    open("/healthz", |call| Box::pin(health::alive(call))),
    open("/readyz", |call| Box::pin(health::ready(call))),
    get(METRICS, &[], |call| Box::pin(metrics::exposition(call))),
    get("/api/v1/openapi.json", &[], |call| Box::pin(openapi::document(call))),
    get("/api/v1/overview", &[], |call| Box::pin(api::overview(call))),
    get("/api/v1/monitors", &["status", "tag", "source", "q", "limit", "cursor"], |call| {
        Box::pin(api::monitors::list(call))
    }),
    get("/api/v1/monitors/{id}", &[], |call| Box::pin(api::monitors::one(call))),
    get("/api/v1/monitors/{id}/checks", CHECKS, |call| Box::pin(api::checks::of_one(call))),
    get("/api/v1/monitors/{id}/incidents", INCIDENTS, |call| Box::pin(api::incidents::of_one(call))),
    get("/api/v1/monitors/{id}/uptime", &["days", "month", "timezone", "explain"], |call| {
        Box::pin(api::uptime::of_one(call))
    }),
    get("/api/v1/monitors/{id}/latency", &["days", "from", "to", "step", "region"], |call| {
        Box::pin(api::latency::of_one(call))
    }),
    get("/api/v1/checks", CHECKS, |call| Box::pin(api::checks::list(call))),
    get("/api/v1/incidents", &["status", "monitor", "from", "to", "limit", "cursor"], |call| {
        Box::pin(api::incidents::list(call))
    }),
    get("/api/v1/incidents/{id}", &[], |call| Box::pin(api::incidents::one(call))),
    export("/api/v1/export/checks", |call| Box::pin(api::export::checks(call))),
    export("/api/v1/export/incidents", |call| Box::pin(api::export::incidents(call))),
    get("/api/v1/maintenances", &["limit", "cursor"], |call| Box::pin(api::maintenances::list(call))),
    get("/api/v1/maintenances/{id}", &[], |call| Box::pin(api::maintenances::one(call))),
    get("/api/v1/uptime", &["days", "month", "timezone", "limit", "cursor"], |call| Box::pin(api::uptime::list(call))),
    get("/api/v1/slos", &[], |call| Box::pin(api::slos::list(call))),
    get("/api/v1/slos/{id}", &[], |call| Box::pin(api::slos::one(call))),
    Route {
        pattern: "/api/v1/reload",
        methods: POST,
        access: Access::Needs(Scope::Admin),
        parameters: &["force"],
        deadline: RELOAD_DEADLINE,
        keeps: None,
        run: Some(|call| Box::pin(api::reload(call))),
    },
    later(POST, Scope::Write, "/api/v1/monitors"),
    later(WRITE, Scope::Write, "/api/v1/monitors/{id}"),
    later(POST, Scope::Write, "/api/v1/monitors/{id}/pause"),
    later(POST, Scope::Write, "/api/v1/monitors/{id}/resume"),
    later(POST, Scope::Write, "/api/v1/monitors/{id}/check"),
    later(POST, Scope::Write, "/api/v1/incidents"),
    later(WRITE, Scope::Write, "/api/v1/incidents/{id}"),
    later(POST, Scope::Write, "/api/v1/incidents/{id}/acknowledge"),
    later(POST, Scope::Write, "/api/v1/incidents/{id}/resolve"),
    later(GET, Scope::Read, "/api/v1/incidents/{id}/notes"),
    later(POST, Scope::Write, "/api/v1/incidents/{id}/notes"),
    later(GET, Scope::Read, "/api/v1/incidents/{id}/deliveries"),
    later(GET, Scope::Read, "/api/v1/channels/*"),
    later(WRITE, Scope::Write, "/api/v1/channels/*"),
    later(WRITE, Scope::Write, "/api/v1/maintenances/*"),
    later(GET, Scope::Read, "/api/v1/status-pages/*"),
    later(WRITE, Scope::Write, "/api/v1/status-pages/*"),
    later(GET, Scope::Admin, "/api/v1/users/*"),
    later(WRITE, Scope::Admin, "/api/v1/users/*"),
    later(GET, Scope::Admin, "/api/v1/tokens/*"),
    later(WRITE, Scope::Admin, "/api/v1/tokens/*"),
    later(GET, Scope::Admin, "/api/v1/audit"),
    later(GET, Scope::Read, "/api/v1/events"),
    open_later(GET, "/api/v2/summary.json"),
    later(GET, Scope::Write, "/probe"),
    open_later(GET, "/status/*"),
    open_later(GET, "/badge/*"),
    pinged("/api/push/{token}", ANY, &["status", "msg", "ping"], |call| Box::pin(ping::push(call))),
    pinged("/ping/{uuid}", PING, &["rid"], |call| Box::pin(ping::ping(call))),
    pinged("/ping/{uuid}/{signal}", PING, &["rid"], |call| Box::pin(ping::ping(call))),
    pinged("/ping/{ping_key}/{slug}/{signal}", PING, &[], |call| Box::pin(ping::no_slugs(call))),
];

/// What a handler is given.
pub(super) struct Call {
    pub(super) site: Arc<Site>,
    pub(super) trust: Trust,
    pub(super) caller: Option<Caller>,
    pub(super) parts: Parts,
    /// What stands in place of `{name}`, decoded.
    pub(super) captures: Vec<String>,
    pub(super) query: Query,
    /// As much of it as the route keeps.
    pub(super) body: Bytes,
}

impl Call {
    /// Makes a large answer.
    pub(super) async fn large(&self, make: impl FnOnce() -> Vec<u8> + Send + 'static) -> Result<Bytes, Problem> {
        let large = match self.trust {
            Trust::Local => &self.site.large.local,
            Trust::Anonymous if self.caller.is_some() => &self.site.large.token,
            Trust::Anonymous => &self.site.large.public,
        };
        large.make(make).await
    }
}

/// Answers a request; also says whether its body was not read to the end, so that the connection cannot go on.
pub(super) async fn answer<B>(request: Request<B>, site: Arc<Site>, peer: Peer) -> (Reply, bool)
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

/// What a path leads to.
enum Found {
    Route(&'static Route, Vec<String>),
    /// The path is there for other methods; whether all of them are open.
    Method {
        allow: String,
        open: bool,
    },
    Nothing,
}

fn find(path: &[String], method: &Method) -> Found {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(captures) = captures(route.pattern, path) else { continue };
        if route.methods.contains(method) {
            return Found::Route(route, captures);
        }
        others.push(route);
    }
    if others.is_empty() {
        return Found::Nothing;
    }
    let mut allow: Vec<&str> = Vec::new();
    for method in others.iter().flat_map(|route| route.methods) {
        let names: &[&str] = if *method == Method::GET { &["GET", "HEAD"] } else { &[method.as_str()] };
        allow.extend(names);
    }
    allow.dedup();
    Found::Method { allow: allow.join(", "), open: others.iter().all(|route| route.access == Access::Open) }
}

/// What stands in place of `{name}`, if the pattern fits.
fn captures(pattern: &str, path: &[String]) -> Option<Vec<String>> {
    let mut captured = Vec::new();
    let mut rest = path.iter();
    for part in pattern.strip_prefix('/')?.split('/') {
        if part == "*" {
            return Some(captured);
        }
        let segment = rest.next()?;
        match part.starts_with('{') {
            true if !segment.is_empty() => captured.push(segment.clone()),
            false if part == segment => {}
            _ => return None,
        }
    }
    rest.next().is_none().then_some(captured)
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
mod tests;
