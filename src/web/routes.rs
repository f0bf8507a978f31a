//! Routes. Every route of the contract that is not here yet says so.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::{Admin, Readiness, metrics};

/// Who is on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody who reaches the listener: codes, no details.
    Anonymous,
    /// The daemon's own user or root, through `admin.sock`.
    Local,
}

type Reply = Response<Full<Bytes>>;

/// First path segments of the contract's routes (section 5) that are built by later versions.
const LATER: &[&str] = &["probe", "api", "status", "badge", "ping"];

pub(super) async fn route(request: Request<Incoming>, admin: Arc<dyn Admin>, trust: Trust) -> Reply {
    let path = request.uri().path();
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match path {
        "/healthz" | "/readyz" | "/" if !get => method_not_allowed("GET, HEAD"),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readyz(admin.readiness(), trust),
        "/" => text(StatusCode::OK, INDEX),
        "/metrics" if !get => method_not_allowed("GET, HEAD"),
        "/metrics" if trust == Trust::Local || admin.metrics_public() => {
            match metrics::exposition(admin, request.headers()).await {
                Some((content_type, body)) => reply(StatusCode::OK, content_type, body),
                None => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal error", "see the daemon's log"),
            }
        }
        "/metrics" => problem(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "metrics are for admin.sock on this machine, or for everybody with server.metrics_public = true",
        ),
        "/api/v1/overview" if trust == Trust::Local => {
            if get {
                json_reply(StatusCode::OK, &admin.overview())
            } else {
                method_not_allowed("GET, HEAD")
            }
        }
        "/api/v1/reload" if trust == Trust::Local => {
            if request.method() != Method::POST {
                return method_not_allowed("POST");
            }
            let answer = admin.reload().await;
            let status = if answer.applied { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
            json_reply(status, &answer)
        }
        _ => {
            let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
            if LATER.contains(&first) {
                problem(StatusCode::NOT_IMPLEMENTED, "not built yet", "this version does not have this route yet")
            } else {
                problem(StatusCode::NOT_FOUND, "not found", "there is no such route")
            }
        }
    }
}

const INDEX: &str = "Lamplighter is running.\n\n\
    /healthz   alive\n\
    /readyz    ready, and what is not\n\
    /metrics   figures for Prometheus\n\n\
    The table of monitors: run `lamplighter status` on this machine.\n";

fn readyz(mut readiness: Readiness, trust: Trust) -> Reply {
    if trust == Trust::Anonymous {
        for reason in readiness.reasons.iter_mut().chain(&mut readiness.notes) {
            reason.detail = None;
        }
    }
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_reply(status, &readiness)
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Reply {
    reply(status, "text/plain; charset=utf-8", body)
}

fn json_reply(status: StatusCode, body: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            reply(status, "application/json", bytes)
        }
        Err(error) => {
            log::error!("an answer cannot be written as JSON: {error}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal error", "see the daemon's log")
        }
    }
}

fn problem(status: StatusCode, title: &str, detail: &str) -> Reply {
    let body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    reply(status, "application/problem+json", format!("{body}\n"))
}

fn method_not_allowed(allow: &'static str) -> Reply {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", allow);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}
