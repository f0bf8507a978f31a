//! `/export/checks` and `/export/incidents`: rows of any span of time, as a stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::StatusCode;
use hyper::header::{CONTENT_DISPOSITION, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::viewer;
use crate::access::export::{Export, ExportError, Format, Subject, Wanted};
use crate::web::body::{Answered, Cut};
use crate::web::reply::{Problem, streamed};
use crate::web::routes::{Answer, Call};

/// All of an export. A client that takes a little now and then must not keep the database from cleaning up for days.
const LIFE: Duration = Duration::from_secs(3600);

pub(in crate::web) async fn checks(call: Call) -> Answer {
    export(call, Subject::Checks).await
}

pub(in crate::web) async fn incidents(call: Call) -> Answer {
    export(call, Subject::Incidents).await
}

async fn export(mut call: Call, subject: Subject) -> Answer {
    let format = call.query.value("format", "csv or ndjson", Format::from_name)?.unwrap_or(Format::Csv);
    let (from, to) = (call.query.time("from")?, call.query.time("to")?);
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        return Err(Problem::parameter("from", "bad_parameter", "must not be after `to`"));
    }
    let wanted = Wanted { subject, from, to, monitors: call.query.text("monitor").into_iter().collect() };
    let turns = call.site.exports.of(call.trust);
    let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
        return Err(Problem::unavailable("too_busy", "other exports are under way; it may be tried again"));
    };
    let mut export = call.site.exports.store.export(viewer(&call), wanted).await.map_err(problem)?;
    // What is wrong at once is told as an error, not by a body that ends early.
    let mut first = format.head(subject);
    if let Some(page) = export.next().await? {
        format.write(&page.rows, &mut first);
    }
    let rest = Rest { export, format, until: Instant::now() + LIFE, _turn: turn };
    let parts = stream::unfold((Some(first), Some(rest)), |(first, rest)| async move {
        match (first, rest) {
            (Some(first), rest) => Some((Ok(Bytes::from(first)), (None, rest))),
            (None, Some(rest)) => rest.part().await.map(|(part, rest)| (part, (None, rest))),
            (None, None) => None,
        }
    });
    let mut reply = streamed(format.content_type(), Answered::parts(parts));
    let name = format!("attachment; filename=\"{}.{}\"", subject.name(), format.name());
    if let Ok(value) = HeaderValue::from_str(&name) {
        reply.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    Ok(reply)
}

fn problem(error: ExportError) -> Problem {
    match error {
        ExportError::Store(fault) => fault.into(),
        other => Problem::new(StatusCode::BAD_REQUEST, "bad_parameter", "bad parameter", other.to_string())
            .of_parameter("monitor"),
    }
}

/// What is behind the first page.
struct Rest {
    export: Box<dyn Export>,
    format: Format,
    until: Instant,
    _turn: OwnedSemaphorePermit,
}

impl Rest {
    /// The next part that is not empty, and what is behind it; none at the end.
    async fn part(mut self) -> Option<(Result<Bytes, Cut>, Option<Self>)> {
        loop {
            if Instant::now() >= self.until {
                log::warn!("an export over HTTP was cut off after an hour");
                return Some((Err(Cut("it took longer than an hour".to_owned())), None));
            }
            let mut bytes = Vec::new();
            match self.export.next().await {
                Ok(Some(page)) => self.format.write(&page.rows, &mut bytes),
                Ok(None) => return None,
                Err(fault) => {
                    log::warn!("an export over HTTP was cut off: {fault}");
                    return Some((Err(Cut(fault.to_string())), None));
                }
            }
            if !bytes.is_empty() {
                return Some((Ok(bytes.into()), Some(self)));
            }
        }
    }
}
