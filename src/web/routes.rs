//! The table of routes. What is in it is all there is: its tests, the OpenAPI document and the checks of token, scope and
//! parameters (`handle`) go by it.

mod handle;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::Method;
use hyper::http::request::Parts;

pub(super) use handle::answer;

use super::query::Query;
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

#[cfg(test)]
mod tests;
