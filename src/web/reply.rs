//! Answers: JSON, text, and problems (RFC 9457).

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::body::Answered;
use crate::access::token::hex;
use crate::model::StoreFault;

/// What goes back.
pub(super) type Reply = Response<Answered>;

/// How soon a client should try again when the store is away.
const RETRY_SECONDS: u16 = 5;

/// Why a request was not done, as `application/problem+json`.
#[derive(Debug)]
pub(super) struct Problem(Box<Told>);

#[derive(Debug)]
struct Told {
    status: StatusCode,
    /// Fixed, for programs: the end of `type`.
    code: &'static str,
    title: &'static str,
    detail: String,
    parameter: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Further members, such as the findings about a configuration.
    more: Option<serde_json::Value>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self(Box::new(Told { status, code, title, detail, parameter: None, headers: Vec::new(), more: None }))
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    /// A parameter of the query that cannot be used.
    pub(super) fn parameter(name: &str, code: &'static str, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, code, "bad parameter", detail);
        problem.0.parameter = Some(name.chars().take(64).collect());
        problem
    }

    /// The same for a problem that is told otherwise.
    pub(super) fn of_parameter(mut self, name: &str) -> Self {
        self.0.parameter = Some(name.to_owned());
        self
    }

    pub(super) fn not_found(detail: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "not found", detail)
    }

    pub(super) fn too_large(detail: &'static str) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is too large", detail)
    }

    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "not available now", detail)
            .with(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS))
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    pub(super) fn and(mut self, more: serde_json::Value) -> Self {
        self.0.more = Some(more);
        self
    }

    pub(super) fn into_reply(self) -> Reply {
        let told = *self.0;
        let mut body = json!({
            "type": format!("urn:lamplighter:problem:{}", told.code),
            "title": told.title,
            "status": told.status.as_u16(),
            "detail": told.detail,
        });
        if let Some(members) = body.as_object_mut() {
            members.extend(told.parameter.map(|name| ("parameter".to_owned(), name.into())));
            if let Some(serde_json::Value::Object(more)) = told.more {
                members.extend(more);
            }
        }
        let mut reply = reply(told.status, "application/problem+json", format!("{body}\n"));
        reply.headers_mut().extend(told.headers);
        reply
    }
}

impl From<StoreFault> for Problem {
    /// The details are for the log: they may name hosts and users.
    fn from(fault: StoreFault) -> Self {
        match fault {
            StoreFault::Away(why) => {
                log::debug!("a request could not be answered from the database: {why}");
                Self::unavailable("store_away", "the database is away or too slow now, see /readyz")
            }
            StoreFault::Fenced(_) | StoreFault::Refused(_) => {
                log::error!("a request could not be answered: {fault}");
                let text = "the database refused, see the daemon's log";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error", text)
            }
        }
    }
}

/// An answer with what every answer has: nothing of ours is run, framed, guessed about or kept by a browser.
pub(super) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = streamed(content_type, Answered::from(body.into()));
    *response.status_mut() = status;
    response
}

/// The same with a body of one's own.
pub(super) fn streamed(content_type: &'static str, body: Answered) -> Reply {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = "default-src 'none'; frame-ancestors 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// A constant text.
pub(super) fn text(body: &'static str) -> Reply {
    reply(StatusCode::OK, "text/plain; charset=utf-8", body)
}

/// JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Result<Reply, Problem> {
    match serde_json::to_vec(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            Ok(reply(status, "application/json", bytes))
        }
        Err(error) => {
            log::error!("an answer cannot be written as JSON: {error}");
            let text = "see the daemon's log";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error", text))
        }
    }
}

/// JSON that a client may already have: 304 when it says so (RFC 9110, section 13.1.2). The tag is a hash of the body, so
/// it spares the bytes and not the query.
pub(super) fn tagged(body: &impl Serialize, headers: &HeaderMap) -> Result<Reply, Problem> {
    let mut bytes = match serde_json::to_vec(body) {
        Ok(bytes) => bytes,
        Err(_) => return json(StatusCode::OK, body),
    };
    bytes.push(b'\n');
    let tag = format!("\"{}\"", hex(Sha256::digest(&bytes).get(..12).unwrap_or_default()));
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        list.split(',').map(str::trim).any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
    });
    let mut response = reply(StatusCode::OK, "application/json", bytes);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Answered::default();
        response.headers_mut().remove(CONTENT_TYPE);
    }
    // Hex in quotes is a header value.
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    Ok(response)
}
