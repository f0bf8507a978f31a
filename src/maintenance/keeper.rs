//! The loop that knows when windows begin and end. Woken by the wall clock, by rows and by the file; each time it looks at
//! everything anew, so that a wake-up too many changes nothing, and one that is lost is made good within a minute.
//!
//! Who is covered is told at once, from what is known. What is asked of the store and written to it goes on in the
//! background: while the store is away windows begin and end all the same, and become spans when it is back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::definition::{Definition, FileMaintenance, MOST_OF_USER, MaintenanceRow};
use super::plan::{self, Wanted};
use super::rule::Window;
use super::{Covers, FileRow, MaintenanceStore, Report, SharedReport, Standing};
use crate::catalog::Snapshot;
use crate::clock::Wall;
use crate::model::{MaintenanceId, MonitorId, Source, StoreFault};
use crate::shutdown::Shutdown;

/// The wall clock is looked at so often, because it may step.
const LOOK: Duration = Duration::from_secs(1);
/// Everything is looked at anew at least so often, and how far spans are written is told.
const MINUTE: Duration = Duration::from_secs(60);
/// After the store failed; doubles up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// Windows are worked out so far ahead, so many at once, and anew after so long.
const AHEAD: TimeDelta = TimeDelta::days(3660);
const AHEAD_MOST: usize = 32;
const ANEW: TimeDelta = TimeDelta::days(30);
/// Windows of one maintenance that are caught up after a time away, and spans of all of them.
const MISSED_MOST: usize = 5_000;
const SPANS_MOST: usize = 500_000;
/// After spans were looked at they are let be for so many times as long as that took, so that many of them take a tenth of
/// the time at most.
const REST_TIMES: u32 = 10;
/// But no longer than this, and so much for each span: what takes longer is a store that is slow, not work, and no reason
/// to write late what begins next.
const REST_MOST: Duration = Duration::from_secs(1);
const REST_OF_SPAN: Duration = Duration::from_micros(100);

/// What the keeper is connected to.
#[derive(Clone)]
pub struct Links {
    /// Who is covered, for the verdict stage.
    pub covers: watch::Sender<Arc<Covers>>,
    /// The monitors that there are.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// `[[maintenance]]` of the configuration in force.
    pub file: watch::Receiver<Arc<[FileMaintenance]>>,
    /// Whether the snapshot is what file and store say. Before, a monitor may only seem to be gone.
    pub settled: Arc<dyn Fn() -> bool + Send + Sync>,
    /// What is told.
    pub report: Arc<SharedReport>,
    /// When it is.
    pub wall: Arc<dyn Wall>,
}

/// A row, read: its definition, or why it has none; neither where its revision is known.
type Read = (MaintenanceRow, Option<Result<Definition, String>>);

/// What the store said.
enum Answer {
    Merged(Result<(), StoreFault>),
    Rows(Result<Vec<Read>, StoreFault>),
    Marked(Vec<(MaintenanceId, Option<String>)>, Result<(), StoreFault>),
    Spans(Result<Brought, StoreFault>),
}

/// Spans brought up to date.
struct Brought {
    /// How many were looked at.
    count: usize,
    /// There were more than can be.
    cut: bool,
}

/// A definition, and its windows as far as they are worked out.
#[derive(Clone)]
struct Kept {
    definition: Arc<Definition>,
    windows: Vec<Window>,
    /// From when on they are right.
    since: DateTime<Utc>,
    /// Monitors that it is about, if they were looked up in the snapshot of that generation.
    members: Option<(u64, Arc<[MonitorId]>)>,
}

impl Kept {
    fn new(definition: Definition) -> Self {
        let (definition, since) = (Arc::new(definition), DateTime::<Utc>::MAX_UTC);
        Self { definition, windows: Vec::new(), since, members: None }
    }

    /// Works the present and the coming windows out, if they are not known.
    fn prepare(&mut self, now: DateTime<Utc>) {
        let used_up = self.windows.len() == AHEAD_MOST && self.windows.last().is_some_and(|last| last.from <= now);
        if now < self.since || now - self.since > ANEW || used_up {
            let until = now.checked_add_signed(AHEAD).unwrap_or(now);
            self.windows = self.definition.recurrence.windows(now, until, AHEAD_MOST);
            self.since = now;
        }
    }

    /// The windows that have begun and end after `mark`.
    fn begun(&self, mark: DateTime<Utc>, now: DateTime<Utc>) -> Vec<Window> {
        if self.since <= mark {
            let begun = self.windows.iter().filter(|window| window.from <= now && mark < window.to);
            return begun.copied().collect();
        }
        let after = now.checked_add_signed(TimeDelta::milliseconds(1)).unwrap_or(now);
        self.definition.recurrence.windows(mark, after, MISSED_MOST)
    }

    fn members(&mut self, snapshot: &Snapshot) -> Arc<[MonitorId]> {
        if let Some((generation, members)) = &self.members
            && *generation == snapshot.generation
        {
            return Arc::clone(members);
        }
        let entries = snapshot.monitors.values().filter(|entry| self.definition.covers(&entry.monitor));
        let members: Arc<[MonitorId]> = entries.map(|entry| entry.monitor.id).collect();
        self.members = Some((snapshot.generation, Arc::clone(&members)));
        members
    }
}

/// What is to be asked of the store.
struct Due {
    merge: bool,
    load: bool,
    spans: bool,
}

/// The loop's state.
pub struct Keeper<S> {
    store: Arc<S>,
    links: Links,
    file: Vec<Kept>,
    rows: HashMap<MaintenanceId, (i64, Result<Kept, String>)>,
    /// Reasons to be written.
    reasons: Vec<(MaintenanceId, Option<String>)>,
    /// The store's rows have been read.
    loaded: bool,
    due: Due,
    question: Option<BoxFuture<'static, Answer>>,
    retry_at: Option<Instant>,
    retry_wait: Duration,
    /// When everything was last looked at, by both clocks.
    looked: Option<(DateTime<Utc>, Instant)>,
    /// When the next window begins or ends.
    next: Option<DateTime<Utc>>,
    generation: u64,
    /// Windows that run.
    active: HashMap<MaintenanceId, Arc<str>>,
    /// When all that had begun by then was known, and written: what is defined later begins after it.
    alive: Option<DateTime<Utc>>,
    /// When spans were last looked at, and how long they are let be.
    spans_asked: Instant,
    spans_rest: Duration,
}

impl<S: MaintenanceStore> Keeper<S> {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(store: Arc<S>, links: Links) -> Self {
        Self {
            store,
            links,
            file: Vec::new(),
            rows: HashMap::new(),
            reasons: Vec::new(),
            loaded: false,
            due: Due { merge: true, load: true, spans: true },
            question: None,
            retry_at: None,
            retry_wait: RETRY_LEAST,
            looked: None,
            next: None,
            generation: 0,
            active: HashMap::new(),
            spans_asked: Instant::now(),
            spans_rest: Duration::ZERO,
            alive: None,
        }
    }

    /// Runs until shutdown. Works out rules of other people: to be run on a thread of its own.
    pub async fn run(mut self, mut stop: Shutdown) {
        self.read_file();
        loop {
            self.look_if_due();
            self.ask();
            let (store, wait) = (Arc::clone(&self.store), self.wait());
            tokio::select! {
                biased;
                () = stop.wait() => return,
                answer = answered(&mut self.question) => {
                    self.question = None;
                    self.take(answer);
                }
                changed = self.links.file.changed() => match changed {
                    Ok(()) => self.read_file(),
                    // Only at the end of the daemon.
                    Err(_) => return,
                },
                () = store.maintenances_changed() => self.due.load = true,
                () = sleep(wait) => {}
            }
        }
    }

    fn wait(&self) -> Duration {
        let now = self.links.wall.now();
        let next = self.next.and_then(|next| (next - now).to_std().ok());
        // A millisecond late rather than early.
        next.map_or(LOOK, |next| (next + Duration::from_millis(1)).min(LOOK))
    }

    fn read_file(&mut self) {
        let file = self.links.file.borrow_and_update().clone();
        self.file = file.iter().map(|file| Kept::new(Definition::of_file(file))).collect();
        self.due.merge = true;
        self.looked = None;
    }

    /// Looks at everything when a window has begun or ended, the clock has stepped, monitors have changed, or a minute has
    /// passed.
    fn look_if_due(&mut self) {
        let (now, instant) = (self.links.wall.now(), Instant::now());
        let snapshot = self.links.snapshot.load_full();
        if snapshot.generation == 0 {
            return;
        }
        let passed = self.looked.map(|(wall, at)| (now - wall, instant.saturating_duration_since(at)));
        let due = match passed {
            None => true,
            Some((by_wall, passed)) => {
                let expected = TimeDelta::from_std(passed).unwrap_or_default();
                passed >= MINUTE || (by_wall - expected).abs() > TimeDelta::seconds(2)
            }
        };
        let turned = self.next.is_some_and(|next| next <= now);
        if !due && !turned && snapshot.generation == self.generation {
            if !self.due.spans && self.question.is_none() {
                self.alive = Some(now);
            }
            return;
        }
        if passed.is_some_and(|(_, passed)| passed >= MINUTE) {
            // What was written to the file's rows is undone, and what was not told is found.
            (self.due.merge, self.due.load) = (true, true);
        }
        if snapshot.generation != self.generation {
            self.due.merge = true;
        }
        (self.generation, self.looked, self.due.spans) = (snapshot.generation, Some((now, instant)), true);
        self.tell(&snapshot, now);
    }

    fn kept(&mut self) -> impl Iterator<Item = &mut Kept> {
        self.file.iter_mut().chain(self.rows.values_mut().filter_map(|(_, row)| row.as_mut().ok()))
    }

    /// Tells who is covered now, and when to look again.
    fn tell(&mut self, snapshot: &Snapshot, now: DateTime<Utc>) {
        let (mut wanted, mut standing, mut next) = (Vec::new(), Vec::new(), None::<DateTime<Utc>>);
        for kept in self.kept() {
            kept.prepare(now);
            let Some(window) = kept.windows.iter().copied().find(|window| now < window.to) else { continue };
            let turn = if window.from <= now { window.to } else { window.from };
            next = Some(next.map_or(turn, |next| next.min(turn)));
            let members = if window.from <= now { kept.members(snapshot) } else { Arc::from([]) };
            let Definition { id, excluded, owner, label, .. } = &*kept.definition;
            let (maintenance, excluded) = (*id, *excluded);
            wanted.extend(members.iter().map(|monitor| Wanted { maintenance, monitor: *monitor, window, excluded }));
            let (label, owner, monitors) = (Arc::clone(label), *owner, members.len());
            standing.push(Standing { id: *id, label, owner, window, monitors });
        }
        standing.sort_by_key(|standing| (standing.window.from, standing.id));
        self.next = next;
        let running: Vec<&Standing> = standing.iter().filter(|standing| standing.window.from <= now).collect();
        for Standing { id, label, window, monitors, .. } in &running {
            if !self.active.contains_key(id) {
                let (label, monitors, until) = (label.escape_debug(), *monitors, window.to.format("%F %T UTC"));
                log::info!(maintenance:% = label, maintenance_id:% = id, monitors; "maintenance until {until}");
            }
        }
        let running: HashMap<_, _> = running.iter().map(|one| (one.id, Arc::clone(&one.label))).collect();
        for (id, label) in self.active.iter().filter(|(id, _)| !running.contains_key(id)) {
            log::info!(maintenance:% = label.escape_debug(), maintenance_id:% = id; "maintenance has ended");
        }
        self.active = running;
        let invalid = self.rows.values().filter(|(_, row)| row.is_err()).count();
        self.links.report.set(Report { standing, invalid });
        let covers = Covers { monitors: plan::covers(&wanted, now), complete: self.loaded };
        self.links.covers.send_replace(Arc::new(covers));
    }

    /// Asks the store the next question, if there is one and it answers.
    fn ask(&mut self) {
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
        let (snapshot, alive) = (self.links.snapshot.load_full(), self.alive);
        let mut kept: Vec<Kept> = self.kept().map(|kept| kept.clone()).collect();
        Box::pin(async move {
            let now = wall.now();
            let progress = match store.span_progress(now).await {
                Ok(progress) => progress,
                Err(fault) => return Answer::Spans(Err(fault)),
            };
            let mark = progress.done_to.max(alive).unwrap_or(now).min(now);
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

    fn take(&mut self, answer: Answer) {
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
fn rest(took: Duration, spans: usize) -> Duration {
    let most = REST_MOST + REST_OF_SPAN * u32::try_from(spans).unwrap_or(u32::MAX);
    (took * REST_TIMES).min(most)
}

async fn answered(question: &mut Option<BoxFuture<'static, Answer>>) -> Answer {
    match question {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
