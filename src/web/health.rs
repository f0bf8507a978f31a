//! What everybody may ask: alive, ready, and where to go on.

use hyper::StatusCode;

use super::reply::{json, text};
use super::routes::{Answer, Call};
use crate::access::Caller;

const INDEX: &str = "Lamplighter is running.\n\n\
    /healthz               alive\n\
    /readyz                ready, and what is not\n\
    /metrics               figures for Prometheus, with a token unless server.metrics_public is set\n\
    /api/v1/openapi.json   the API, with a token\n\n\
    The table of monitors: run `lamplighter status` on this machine.\n";

pub(super) async fn index(_: Call) -> Answer {
    Ok(text(INDEX))
}

pub(super) async fn alive(_: Call) -> Answer {
    Ok(text("ok\n"))
}

/// Codes for everybody, details for the house.
pub(super) async fn ready(call: Call) -> Answer {
    let mut readiness = call.site.admin.readiness();
    if !call.caller.as_ref().is_some_and(Caller::is_of_the_house) {
        readiness = readiness.without_details();
    }
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &readiness)
}
