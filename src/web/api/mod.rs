//! The resources below `/api/v1`.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{HeaderValue, LINK};
use serde::Serialize;

use super::query::Query;
use super::reply::{Problem, json, reply, tagged};
use super::routes::{Answer, Call};
use crate::access::read::{MonitorName, MonitorView};
use crate::access::{Caller, Viewer};

pub(super) mod checks;
pub(super) mod export;
pub(super) mod incidents;
pub(super) mod latency;
pub(super) mod maintenances;
pub(super) mod monitors;
pub(super) mod slos;
pub(super) mod uptime;

/// Whose rows are seen. A route of the API has a caller; without one nobody's row is anybody's.
fn viewer(call: &Call) -> Viewer {
    let nobody = Viewer::User(crate::model::UserId(uuid::Uuid::nil()));
    call.caller.as_ref().map_or(nobody, |caller: &Caller| caller.viewer)
}

/// The monitor that the path names, if the caller sees it.
async fn monitor(call: &Call) -> Result<MonitorView, Problem> {
    let name = call.captures.first().map_or("", String::as_str);
    named(call, name).await?.ok_or_else(|| Problem::not_found("there is no such monitor"))
}

async fn named(call: &Call, name: &str) -> Result<Option<MonitorView>, Problem> {
    Ok(call.site.reads.monitor(viewer(call), MonitorName::of(name)).await?)
}

/// A part of a list.
#[derive(Serialize)]
struct Part<'a, T> {
    items: &'a [T],
    /// The cursor of the next part.
    next: Option<String>,
}

/// A part of a list, with the next one as a link (RFC 8288).
fn part<T: Serialize>(call: &Call, items: &[T], next: Option<String>) -> Answer {
    let link = next.as_deref().map(|cursor| Query::next(call.parts.uri.path(), call.parts.uri.query(), cursor));
    let mut reply = tagged(&Part { items, next }, &call.parts.headers)?;
    // Path and query came as a header would, and the cursor is plain ASCII.
    if let Some(value) = link.and_then(|link| HeaderValue::from_str(&format!("<{link}>; rel=\"next\"")).ok()) {
        reply.headers_mut().insert(LINK, value);
    }
    Ok(reply)
}

/// The running daemon's view.
pub(super) async fn overview(call: Call) -> Answer {
    let (admin, viewer) = (Arc::clone(&call.site.admin), viewer(&call));
    let body = call.large(move || admin.overview(viewer)).await?;
    Ok(reply(StatusCode::OK, "application/json", body))
}

/// Reads the configuration again and applies it, or says what is wrong with it.
pub(super) async fn reload(call: Call) -> Answer {
    let force = call.query.value("force", "true or false", |text| text.parse().ok())?.unwrap_or(false);
    let answer = call.site.admin.reload(force).await;
    if answer.applied {
        return json(StatusCode::OK, &answer);
    }
    let detail = answer.error.clone().unwrap_or_default();
    let problem =
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not_applied", "the configuration before stays", detail);
    Err(problem.and(serde_json::to_value(&answer).unwrap_or_default()))
}
