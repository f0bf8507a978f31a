//! The loop between the probes and the journal: one judged check after the other, in the order in which they end.
//!
//! Who publishes an update of the catalogue sends it to this stage before it sends it to the dispatcher: then the first
//! result of a monitor never comes before the monitor, since waiting updates are applied before waiting results.
//!
//! A result whose monitor is gone, paused or has another target (url or kind) than the one it was measured on counts
//! for nothing: no row, no step, and [`Totals::discarded`](super::board::Totals) grows. Any other change of the
//! definition keeps it, and the rules that hold now judge what it confirms.
//!
//! Checks of monitors that no schedule drives are made here, see `driven`: heartbeats, when a ping comes in or does not,
//! and groups, at their interval and when a member changes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use self::driven::{Clock, Driver, Groups};
use self::updates::same_target;

use super::Finished;
use super::board::{Board, Glance, Latest};
use super::machine::{self, Left, Step, Transition};
use super::pings::{Delivery, Pinged, Pings};
use super::text;
use crate::catalog::{Entry, StatesRequest, Update};
use crate::clock::Wall;
use crate::journal::Journal;
use crate::maintenance::Covers;
use crate::model::{
    Check, IncidentUid, Monitor, MonitorId, MonitorState, Opening, Record, Resolution, Status, Verdict,
};
use crate::schedule::{Done, Next};

mod covering;
mod driven;
mod updates;

/// A state on which nothing depends but the evidence of the latest good check is stored with every tenth check, at the
/// most every 30 s, and at the latest after an hour: a steady monitor costs its check rows and little more.
const STORE_CHECKS: u8 = 10;
const STORE_AFTER: Duration = Duration::from_secs(30);
const STORE_LATEST: Duration = Duration::from_secs(3600);
/// Results that are written together, so that a burst costs one write and an update waits for no more than these.
const AT_ONCE: usize = 256;
/// Characters of a monitor's label in a log line; names in rows are other people's text.
const LABEL_MAX: usize = 100;

/// What the stage is connected to.
pub struct Stage {
    /// Judged checks; the stage ends, everything taken, when this closes.
    pub finished: mpsc::Receiver<Finished>,
    /// Changes of the catalogue. When it closes the stage goes on with what it watches.
    pub updates: mpsc::Receiver<Update>,
    /// Who wants the states of all monitors, such as the catalogue for its memory.
    pub states: mpsc::Receiver<StatesRequest>,
    /// One answer for every judged check. Waits while full: the dispatcher must never wait for this stage.
    pub done: mpsc::Sender<Done>,
    /// Where records go, before anybody sees what they tell. Writing to it blocks: the stage runs on a thread of its own.
    pub journal: Arc<dyn Journal>,
    /// For the time of pauses, returns and removals; a check brings its own.
    pub wall: Arc<dyn Wall>,
    /// What is shown.
    pub board: Arc<Board>,
    /// Where pings ask for their monitor.
    pub pings: Arc<Pings>,
    /// Pings that found it. Each is answered when it is in the journal.
    pub pinged: mpsc::Receiver<Delivery>,
    /// Who is under maintenance. When it closes, that stays.
    pub covers: watch::Receiver<Arc<Covers>>,
}

impl Stage {
    /// Runs until the pool has closed its end.
    pub async fn run(mut self) {
        let mut watch = Watch {
            monitors: HashMap::new(),
            parked: HashMap::new(),
            archived: VecDeque::new(),
            journal: self.journal,
            clock: Clock::new(&*self.wall),
            wall: self.wall,
            board: self.board,
            pings: self.pings,
            alarms: BTreeSet::new(),
            groups: Groups::default(),
            covers: self.covers.borrow_and_update().clone(),
            uncovered: VecDeque::new(),
        };
        let (mut updates_open, mut states_open, mut pings_open, mut covers_open) = (true, true, true, true);
        let (mut finished, mut done) = (Vec::with_capacity(AT_ONCE), Vec::with_capacity(AT_ONCE));
        let mut pinged: Vec<Delivery> = Vec::new();
        loop {
            let wake = watch.next_alarm();
            tokio::select! {
                biased;
                update = self.updates.recv(), if updates_open => match update {
                    Some(update) => watch.update(&update.changes),
                    None => updates_open = false,
                },
                request = self.states.recv(), if states_open => match request {
                    Some(request) => watch.tell(request),
                    None => states_open = false,
                },
                taken = self.pinged.recv_many(&mut pinged, AT_ONCE), if pings_open => {
                    pings_open = taken > 0;
                    watch.pinged(pinged.drain(..));
                }
                () = alarm(wake) => watch.ring(),
                changed = self.covers.changed(), if covers_open => {
                    covers_open = changed.is_ok();
                    watch.covered(self.covers.borrow_and_update().clone());
                }
                taken = self.finished.recv_many(&mut finished, AT_ONCE) => {
                    if taken == 0 {
                        break;
                    }
                    watch.take(finished.drain(..), &mut done);
                    for done in done.drain(..) {
                        // At the end of the daemon nobody may be there to hear it.
                        let _ = self.done.send(done).await;
                    }
                }
                () = std::future::ready(()), if watch.uncovered() => watch.cover_some(),
            }
        }
        while let Ok(update) = self.updates.try_recv() {
            watch.update(&update.changes);
        }
    }
}

/// Waits for the time of an alarm, for ever when there is none.
async fn alarm(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Records of one result, with the monitor they are of.
type Group = (Arc<Entry>, Vec<Record>);
/// What the board is told of one result.
type Shown = (&'static str, MonitorId, Latest, Glance);

/// A monitor and what is known of it.
struct Watched {
    entry: Arc<Entry>,
    state: MonitorState,
    /// Checks since the state was stored.
    unstored: u8,
    stored_at: Instant,
    /// What makes its checks, if that is here.
    driver: Driver,
    /// When the driver wants to be asked; one of [`Watch::alarms`].
    alarm: Option<Instant>,
}

struct Watch {
    monitors: HashMap<MonitorId, Watched>,
    /// States of monitors that became invalid or were archived, with the definition they had. Should they return, this
    /// is newer than what the store remembers, whose records may still wait in the journal.
    parked: HashMap<MonitorId, (Arc<Entry>, MonitorState)>,
    /// Those of them that were archived, oldest first; at most [`updates::ARCHIVED_MOST`].
    archived: VecDeque<MonitorId>,
    journal: Arc<dyn Journal>,
    wall: Arc<dyn Wall>,
    clock: Clock,
    board: Arc<Board>,
    pings: Arc<Pings>,
    /// When monitors want to be asked that no schedule drives.
    alarms: BTreeSet<(Instant, MonitorId)>,
    groups: Groups,
    /// Who is under maintenance.
    covers: Arc<Covers>,
    /// Monitors to be looked up in it.
    uncovered: VecDeque<MonitorId>,
}

impl Watch {
    /// Steps monitors by results: first all of it is in the journal, then it is shown and told, then the dispatcher is
    /// answered.
    fn take(&mut self, finished: impl Iterator<Item = Finished>, done: &mut Vec<Done>) {
        let mut groups = Vec::new();
        let mut shown = Vec::new();
        for finished in finished {
            done.push(self.step(finished, &mut groups, &mut shown, false));
        }
        self.commit(groups, shown);
    }

    /// Records, then shows and tells. False when the records would not survive the process.
    fn commit(&mut self, groups: Vec<Group>, shown: Vec<Shown>) -> bool {
        let told: Vec<(Arc<Entry>, Record)> = groups
            .iter()
            .flat_map(|(entry, records)| records.iter().filter(|r| is_told(r)).map(|r| (Arc::clone(entry), r.clone())))
            .collect();
        let kept = groups.is_empty() || self.journal.keep(groups.into_iter().map(|(_, records)| records).collect());
        for (entry, record) in told {
            tell(&self.board, &entry.monitor, &record);
        }
        for (kind, monitor, latest, glance) in shown {
            self.board.checked(kind, monitor, latest, glance);
        }
        kept
    }

    /// Steps a monitor by a result. With `store` its state is recorded whatever changed.
    fn step(&mut self, finished: Finished, groups: &mut Vec<Group>, shown: &mut Vec<Shown>, store: bool) -> Done {
        let Finished { entry, check, evidence } = finished;
        let id = entry.monitor.id;
        let cause = self.cause(&check, &entry.monitor);
        let watched = self.monitors.get_mut(&id);
        let Some(watched) = watched.filter(|now| now.entry.monitor.active && same_target(&now.entry, &entry)) else {
            self.board.discarded();
            return Done { monitor: id, next: Next::Phase, attempt: 1 };
        };
        let monitor = &watched.entry.monitor;
        let new_uid = || IncidentUid(Uuid::new_v4());
        let before = watched.state.shown();
        let step = machine::step(&mut watched.state, monitor, &check, evidence, || cause, new_uid);
        if log::log_enabled!(log::Level::Debug) {
            tell_check(monitor, &check);
        }
        shown.push((monitor.kind, id, Latest::of(&check), Glance::of(&watched.state)));
        let (next, attempt) = (step.retry.map_or(Next::Phase, Next::Retry), step.next_attempt);
        let store = watched.store_now(step.state_changed || store);
        let records = records(check, step, store.then(|| Box::new(watched.state.clone())));
        if !records.is_empty() {
            groups.push((Arc::clone(&watched.entry), records));
        }
        if watched.state.shown() != before {
            self.stir_groups(id);
        }
        Done { monitor: id, next, attempt }
    }

    fn tell(&self, request: StatesRequest) {
        let state = |id: MonitorId| {
            let parked = || self.parked.get(&id).map(|(_, state)| state);
            let state = self.monitors.get(&id).map(|watched| &watched.state).or_else(parked)?;
            Some((id, state.clone()))
        };
        // Who asked may have gone away.
        match request {
            StatesRequest::Ids(asked) => {
                drop(asked.send(self.monitors.keys().chain(self.parked.keys()).copied().collect()))
            }
            StatesRequest::Of(ids, asked) => drop(asked.send(ids.into_iter().filter_map(state).collect())),
        }
    }

    /// The first dependency that is confirmed down. Asked only for what failed.
    fn cause(&self, check: &Check, monitor: &Monitor) -> Option<MonitorId> {
        if check.verdict != Verdict::Down {
            return None;
        }
        let now = self.monitors.get(&monitor.id).map_or(monitor, |watched| &watched.entry.monitor);
        let is_down = |id: &&MonitorId| {
            self.monitors
                .get(id)
                .is_some_and(|watched| watched.state.status == Status::Down && watched.state.unobserved.is_none())
        };
        now.depends_on.iter().find(is_down).copied()
    }

    /// This incident was closed in the database: by a person, or for another region. One that the monitor no longer has is none of its business any more.
    fn dismissed(&mut self, id: MonitorId, uid: IncidentUid) {
        let watched = self.monitors.get_mut(&id).map(|watched| (&watched.entry, &mut watched.state));
        let parked = self.parked.get_mut(&id).map(|(entry, state)| (&*entry, state));
        let Some((entry, state)) = watched.or(parked) else { return };
        if state.incident != Some(uid) {
            return;
        }
        machine::dismissed(state);
        let label = text::clean(entry.monitor.label(), LABEL_MAX, false);
        log::info!(monitor:% = label, monitor_id:% = id, incident:% = uid; "the incident was closed in the database: a person resolved it, or another region's daemon has it");
        let record = Record::State(id, Box::new(state.clone()));
        self.journal.write(vec![vec![record]]);
        self.board.show(id, state);
    }

    /// The row was deleted by somebody and made anew: state and open incident went with the old one, and the target is as
    /// it was.
    fn remade(&mut self, id: MonitorId) {
        let Some(watched) = self.monitors.get_mut(&id) else { return };
        let (monitor, state) = (&watched.entry.monitor, &watched.state);
        let opening = machine::open_again(state, monitor);
        let label = text::clean(monitor.label(), LABEL_MAX, false);
        if let Some(Opening { uid, .. }) = &opening {
            let what = "the incident goes on: somebody deleted the monitor's row, and the incident with it";
            log::info!(monitor:% = label, monitor_id:% = id, incident:% = uid; "{what}");
        }
        let open = opening.map(|opening| Record::Open(Box::new(opening)));
        let records = open.into_iter().chain([Record::State(id, Box::new(state.clone()))]).collect();
        self.journal.write(vec![records]);
    }

    fn record(&self, monitor: &Monitor, left: Left, state: Option<&MonitorState>) {
        let resolve = left.resolution.map(Record::Resolve);
        let gap = left.gap.map(Record::Gap);
        let state = state.map(|state| Record::State(monitor.id, Box::new(state.clone())));
        let records: Vec<Record> = resolve.into_iter().chain(gap).chain(state).collect();
        let told: Vec<Record> = records.iter().filter(|record| is_told(record)).cloned().collect();
        if !records.is_empty() {
            self.journal.write(vec![records]);
        }
        for record in &told {
            tell(&self.board, monitor, record);
        }
    }
}

impl Watched {
    fn store_now(&mut self, changed: bool) -> bool {
        self.unstored = self.unstored.saturating_add(1);
        let age = self.stored_at.elapsed();
        let due = changed || age >= STORE_LATEST || (age >= STORE_AFTER && self.unstored >= STORE_CHECKS);
        if due {
            (self.unstored, self.stored_at) = (0, Instant::now());
        }
        due
    }
}

/// In the order of happening; a state comes after what led to it.
fn records(check: Check, step: Step, state: Option<Box<MonitorState>>) -> Vec<Record> {
    let id = check.monitor;
    let mut records = Vec::with_capacity(1 + usize::from(step.transition.is_some()) + usize::from(state.is_some()));
    // An unknown check is the gap that it leaves.
    if check.verdict != Verdict::Unknown {
        records.push(Record::Check(check));
    }
    match step.transition {
        Some(Transition::Opened(opening)) => records.push(Record::Open(opening)),
        Some(Transition::Resolved(resolution)) => records.push(Record::Resolve(resolution)),
        None => {}
    }
    records.extend(step.gap.map(Record::Gap));
    records.extend(state.map(|state| Record::State(id, state)));
    records
}

/// Whether [`tell`] says something of it.
const fn is_told(record: &Record) -> bool {
    matches!(record, Record::Open(_) | Record::Resolve(_))
}

/// One line a check, for who wants to see them pass. Called only when somebody does: it makes texts.
fn tell_check(monitor: &Monitor, check: &Check) {
    let (label, id) = (text::clean(monitor.label(), LABEL_MAX, false), monitor.id);
    let (verdict, ms, attempt) = (check.verdict, check.timings.total_ms(), check.attempt);
    match check.failure {
        Some(failure) => {
            let message = check.message.as_deref().unwrap_or_default();
            log::debug!(monitor:% = label, monitor_id:% = id, failure:% = failure, attempt; "{verdict} in {ms} ms: {message}");
        }
        None => log::debug!(monitor:% = label, monitor_id:% = id, attempt; "{verdict} in {ms} ms"),
    }
}

/// Counts and logs transitions.
fn tell(board: &Board, monitor: &Monitor, record: &Record) {
    let (label, id) = (text::clean(monitor.label(), LABEL_MAX, false), monitor.id);
    match record {
        Record::Open(opening) => {
            board.opened();
            let Opening { uid, failure, first_bad, maintenance, .. } = &**opening;
            let marked = if maintenance.is_some() { ", under maintenance" } else { "" };
            let message = first_bad.as_ref().and_then(|evidence| evidence.message.as_deref()).unwrap_or_default();
            log::warn!(
                monitor:% = label, monitor_id:% = id, failure:% = failure, incident:% = uid;
                "down since {}{marked}: {message}", opening.started_at.format("%F %T UTC")
            );
        }
        Record::Resolve(Resolution { uid, resolved_at, reason, .. }) => {
            board.resolved();
            let (at, reason) = (resolved_at.format("%F %T UTC"), reason.name());
            log::info!(monitor:% = label, monitor_id:% = id, incident:% = uid; "incident ended at {at}: {reason}");
        }
        Record::Check(_) | Record::State(..) | Record::Gap(_) => {}
    }
}

#[cfg(test)]
mod tests;
