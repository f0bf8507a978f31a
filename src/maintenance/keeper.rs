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

use super::definition::{Definition, FileMaintenance};
use super::plan::{self, Wanted};
use super::rule::Window;
use super::{Covers, MaintenanceStore, Report, SharedReport, Standing};
use crate::catalog::Snapshot;
use crate::clock::Wall;
use crate::model::{MaintenanceId, MonitorId};
use crate::shutdown::Shutdown;
use questions::{Answer, Due, RETRY_LEAST, answered};

mod questions;

/// The wall clock is looked at so often, because it may step.
const LOOK: Duration = Duration::from_secs(1);
/// Everything is looked at anew at least so often, and how far spans are written is told.
const MINUTE: Duration = Duration::from_secs(60);
/// Windows are worked out so far ahead, so many at once, and anew after so long.
const AHEAD: TimeDelta = TimeDelta::days(3660);
const AHEAD_MOST: usize = 32;
const ANEW: TimeDelta = TimeDelta::days(30);
/// Windows of one maintenance that are caught up after a time away.
const MISSED_MOST: usize = 5_000;

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
    /// When it first looked. To a store that remembers nothing it is told from then on, however late the store answers.
    began: Option<DateTime<Utc>>,
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
            began: None,
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
        self.began.get_or_insert(now);
        let passed = self.looked.map(|(wall, at)| (now - wall, instant.saturating_duration_since(at)));
        let due = match passed {
            None => true,
            Some((by_wall, passed)) => {
                let step = by_wall - TimeDelta::from_std(passed).unwrap_or_default();
                let stepped = step.abs() > TimeDelta::seconds(2);
                if stepped {
                    // It has looked for as long as before, whatever the clock said when it began.
                    self.began = self.began.and_then(|began| began.checked_add_signed(step)).or(self.began);
                }
                passed >= MINUTE || stepped
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
}

#[cfg(test)]
mod tests;
