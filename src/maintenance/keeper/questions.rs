//! What the keeper asks of the store, one question at a time, and what becomes of the answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{Keeper, Kept};
use crate::maintenance::definition::{Definition, FileMaintenance, MOST_OF_USER, MaintenanceRow};
use crate::maintenance::plan::{self, Wanted};
use crate::maintenance::{FileRow, MaintenanceStore, Progress};
use crate::model::{MaintenanceId, MonitorId, Source, StoreFault};

/// After the store failed; doubles up to [`RETRY_MOST`].
pub(super) const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// Spans of all maintenances that are looked at.
const SPANS_MOST: usize = 500_000;
/// After spans were looked at they are let be for so many times as long as that took, so that many of them take a tenth of
/// the time at most.
const REST_TIMES: u32 = 10;
/// But no longer than this, and so much for each span: what takes longer is a store that is slow, not work, and no reason
/// to write late what begins next.
const REST_MOST: Duration = Duration::from_secs(1);
pub(super) const REST_OF_SPAN: Duration = Duration::from_micros(100);

/// A row, read: its definition, or why it has none; neither where its revision is known.
pub(super) type Read = (MaintenanceRow, Option<Result<Definition, String>>);

/// What the store said.
pub(super) enum Answer {
    Merged(Result<(), StoreFault>),
    Rows(Result<Vec<Read>, StoreFault>),
    Marked(Vec<(MaintenanceId, Option<String>)>, Result<(), StoreFault>),
    Spans(Result<Brought, StoreFault>),
}

/// Spans brought up to date.
pub(super) struct Brought {
    /// How many were looked at.
    count: usize,
    /// There were more than can be.
    cut: bool,
}

/// What is to be asked of the store.
pub(super) struct Due {
    pub(super) merge: bool,
    pub(super) load: bool,
    pub(super) spans: bool,
}

impl<S: MaintenanceStore> Keeper<S> {
    /// Asks the store the next question, if there is one and it answers.
    pub(super) fn ask(&mut self) {
        if self.question.is_some() || self.generation == 0 || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.retry_at = None;
        let store = Arc::clone(&self.store);
        let settled = (self.links.settled)();
        if settled && std::mem::take(&mut self.due.merge) {
            let rows = self.file_rows().into();
            self.question = Some(Box::pin(async move { Answer::Merged(store.merge_maintenances(rows).await) }));
        } else if std::mem::take(&mut self.due.load) {
            let known = self.rows.iter().map(|(id, (revision, _))| (*id, *revision)).collect();
            self.question = Some(Box::pin(async move {
                Answer::Rows(store.load_maintenances().await.map(|rows| read_rows(rows, &known)))
            }));
        } else if !self.reasons.is_empty() {
            let reasons = std::mem::take(&mut self.reasons);
            self.question = Some(Box::pin(async move {
                let marked = store.mark_maintenances(reasons.clone()).await;
                Answer::Marked(reasons, marked)
            }));
        } else if settled && self.loaded && self.due.spans && self.spans_asked.elapsed() >= self.spans_rest {
            (self.due.spans, self.spans_asked) = (false, Instant::now());
            self.question = Some(self.spans());
        }
    }

    /// The file's maintenances as rows, with the ids of the monitors that they name.
    fn file_rows(&self) -> Vec<FileRow> {
        let (file, snapshot) = (self.links.file.borrow(), self.links.snapshot.load());
        let of_file = snapshot.monitors.values().filter(|entry| entry.monitor.source == Source::File);
        let ids: HashMap<_, _> =
            of_file.filter_map(|entry| Some((entry.monitor.key.as_ref()?, entry.monitor.id))).collect();
        let row = |file: &FileMaintenance| FileRow {
            id: MaintenanceId::of_key(&file.key),
            key: file.key.to_string(),
            name: Arc::clone(&file.name),
            description: file.description.clone(),
            monitors: file.monitors.iter().filter_map(|key| ids.get(key).copied()).collect(),
            tags: Arc::clone(&file.tags),
            starts_at: file.starts_at,
            duration_seconds: file.duration_seconds,
            rrule: file.rrule.clone(),
            timezone: file.zone.name(),
            excluded: file.excluded,
        };
        file.iter().map(row).collect()
    }

    /// Brings the spans up to date: what has run since they last were.
    fn spans(&mut self) -> BoxFuture<'static, Answer> {
        let (store, wall) = (Arc::clone(&self.store), Arc::clone(&self.links.wall));
        let (snapshot, alive, began) = (self.links.snapshot.load_full(), self.alive, self.began);
        let mut kept: Vec<Kept> = self.kept().map(|kept| kept.clone()).collect();
        Box::pin(async move {
            let now = wall.now();
            let mut progress = store.span_progress(now).await;
            if let (Ok(Progress { done_to: None, .. }), Some(began)) = (&progress, began) {
                // Never written: those that have ended since it began are needed as well.
                progress = store.span_progress(began.min(now)).await;
            }
            let progress = match progress {
                Ok(progress) => progress,
                Err(fault) => return Answer::Spans(Err(fault)),
            };
            let mark = progress.done_to.max(alive).or(began).unwrap_or(now).min(now);
            let mut wanted = Vec::new();
            for kept in &mut kept {
                let begun = kept.begun(mark, now);
                if begun.is_empty() {
                    continue;
                }
                let members = kept.members(&snapshot);
                let (maintenance, excluded) = (kept.definition.id, kept.definition.excluded);
                for window in begun {
                    let of = |monitor: &MonitorId| Wanted { maintenance, monitor: *monitor, window, excluded };
                    wanted.extend(members.iter().take(SPANS_MOST.saturating_sub(wanted.len())).map(of));
                }
            }
            let brought = Brought { count: progress.running.len() + wanted.len(), cut: wanted.len() >= SPANS_MOST };
            let changes = plan::reconcile(&progress.running, &wanted, mark, now);
            let written = store.write_spans(changes, now).await;
            Answer::Spans(written.map(|()| brought))
        })
    }

    pub(super) fn take(&mut self, answer: Answer) {
        let fault = match answer {
            Answer::Merged(Ok(())) | Answer::Marked(_, Ok(())) => None,
            Answer::Merged(Err(fault)) => {
                self.due.merge = true;
                Some(fault)
            }
            Answer::Rows(Ok(rows)) => {
                self.take_rows(rows);
                None
            }
            Answer::Rows(Err(fault)) => {
                self.due.load = true;
                Some(fault)
            }
            Answer::Marked(reasons, Err(fault)) => {
                self.reasons.extend(reasons);
                Some(fault)
            }
            Answer::Spans(Ok(brought)) => {
                self.spans_rest = rest(self.spans_asked.elapsed(), brought.count);
                if brought.cut {
                    log::warn!("more than {SPANS_MOST} times of maintenance at once: the rest is not recorded");
                }
                None
            }
            Answer::Spans(Err(fault)) => {
                self.due.spans = true;
                Some(fault)
            }
        };
        let Some(fault) = fault else {
            self.retry_wait = RETRY_LEAST;
            return;
        };
        // The catalogue tells of a store that is away; what is refused is told here.
        match &fault {
            StoreFault::Refused(_) => log::error!("maintenance windows: {fault}"),
            _ => log::debug!("maintenance windows wait: {fault}"),
        }
        self.retry_at = Some(Instant::now() + self.retry_wait);
        self.retry_wait = (self.retry_wait * 2).min(RETRY_MOST);
    }

    fn take_rows(&mut self, read: Vec<Read>) {
        let mut before = std::mem::take(&mut self.rows);
        for (row, definition) in read {
            let known = before.remove(&row.id);
            let read = match (definition, known) {
                (Some(definition), _) => definition.map(Kept::new),
                (None, Some((_, known))) => known,
                // It was known when it was asked for.
                (None, None) => continue,
            };
            let reason = read.as_ref().err();
            if reason != row.invalid_reason.as_ref() {
                self.reasons.push((row.id, reason.cloned()));
            }
            self.rows.insert(row.id, (row.revision, read));
        }
        self.loaded = true;
        // Told at once, not at the next turn.
        self.looked = None;
    }
}

/// Reads rows whose revision is not known. Those of one user beyond a number are not valid.
fn read_rows(rows: Vec<MaintenanceRow>, known: &HashMap<MaintenanceId, i64>) -> Vec<Read> {
    let mut of_user: HashMap<_, usize> = HashMap::new();
    let read = rows.into_iter().map(|row| {
        let number = of_user.entry(row.user_id).or_default();
        *number += 1;
        if *number > MOST_OF_USER {
            let reason = format!("one user has at most {MOST_OF_USER} maintenances: archive old ones by archived_at");
            return (row, Some(Err(reason)));
        }
        let read = (known.get(&row.id) != Some(&row.revision)).then(|| Definition::of_row(&row));
        (row, read)
    });
    read.collect()
}

/// How long spans are let be, from when they were asked for, after so many were looked at, and it took so long.
pub(super) fn rest(took: Duration, spans: usize) -> Duration {
    let most = REST_MOST + REST_OF_SPAN * u32::try_from(spans).unwrap_or(u32::MAX);
    (took * REST_TIMES).min(most)
}

pub(super) async fn answered(question: &mut Option<BoxFuture<'static, Answer>>) -> Answer {
    match question {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}
