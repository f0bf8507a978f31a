//! What is known of every monitor right now, for who shows it. Written by the verdict stage only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chrono::{DateTime, Utc};

use crate::catalog::Entry;
use crate::model::{
    Check, Failure, IncidentUid, MonitorId, MonitorState, Phase, Source, Status, Timings, Under, Verdict,
};

/// Checks by verdict since the start of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; 4]);

impl Counts {
    const fn slot(verdict: Verdict) -> usize {
        match verdict {
            Verdict::Up => 0,
            Verdict::Degraded => 1,
            Verdict::Down => 2,
            Verdict::Unknown => 3,
        }
    }

    /// How many checks had this verdict.
    #[must_use]
    pub const fn get(&self, verdict: Verdict) -> u64 {
        self.0[Self::slot(verdict)]
    }

    /// How many checks there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    const fn add(&mut self, verdict: Verdict) {
        self.0[Self::slot(verdict)] += 1;
    }
}

/// The latest check of a monitor, of any verdict.
#[derive(Clone, Debug)]
pub struct Latest {
    /// Its verdict.
    pub verdict: Verdict,
    /// Why it was not up.
    pub failure: Option<Failure>,
    /// The failure in a sentence, safe to show.
    pub message: Option<Arc<str>>,
    /// HTTP status.
    pub status_code: Option<u16>,
    /// Whole milliseconds, also of failures.
    pub response_time_ms: i32,
    /// How long each phase took.
    pub phases: Phases,
    /// Wall-clock start.
    pub checked_at: DateTime<Utc>,
    /// End of validity of the certificate that was presented.
    pub certificate_ends: Option<DateTime<Utc>>,
}

/// The phases of a check and its total in whole microseconds, up to 71 minutes. A board of 100,000 rows holds one each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    phases: [u32; Phase::ALL.len()],
    /// The whole check.
    pub total_us: u32,
}

impl Phases {
    const NOT_REACHED: u32 = u32::MAX;

    fn of(timings: &Timings) -> Self {
        let micros = |time: std::time::Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX - 1);
        let phases = Phase::ALL.map(|phase| timings.get(phase).map_or(Self::NOT_REACHED, micros));
        Self { phases, total_us: micros(timings.total) }
    }

    /// The phases that were reached, in order, in microseconds.
    pub fn reached(&self) -> impl Iterator<Item = (Phase, u32)> + '_ {
        let all = Phase::ALL.into_iter().zip(self.phases);
        all.filter(|(_, micros)| *micros != Self::NOT_REACHED)
    }
}

/// One monitor. Cheap to clone.
#[derive(Clone)]
pub struct Row {
    /// Its definition: label, kind, url. An invalid monitor keeps its last valid one.
    pub entry: Arc<Entry>,
    /// The status to show.
    pub shown: Status,
    /// The status without maintenance.
    pub beneath: Status,
    /// The maintenance that it is under.
    pub maintenance: Option<Under>,
    /// Since when its confirmed status is what it is.
    pub since: Option<DateTime<Utc>>,
    /// The open incident.
    pub incident: Option<IncidentUid>,
    /// The latest check since the start of the daemon.
    pub latest: Option<Latest>,
    /// Wall-clock start of the latest check, also one before the start of the daemon.
    pub last_checked: Option<DateTime<Utc>>,
    /// Why it is down, while no check since the start of the daemon says so: the check that its state began with.
    pub before: Option<Arc<Before>>,
    /// Checks since the start of the daemon.
    pub counts: Counts,
    /// End of validity of the certificate that was last presented.
    pub certificate_ends: Option<DateTime<Utc>>,
}

/// What the evidence of an earlier check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// Wall-clock start.
    pub checked_at: DateTime<Utc>,
    /// Why it was not up.
    pub failure: Option<Failure>,
    /// The failure in a sentence, safe to show.
    pub message: Option<Box<str>>,
    /// HTTP status.
    pub status_code: Option<u16>,
}

impl Before {
    /// Of a state that is down.
    fn of(state: &MonitorState) -> Option<Self> {
        let evidence = state.first_bad.as_ref().filter(|_| state.beneath() == Status::Down)?;
        Some(Self {
            checked_at: evidence.checked_at,
            failure: evidence.failure,
            message: evidence.message.clone(),
            status_code: evidence.status_code,
        })
    }
}

/// Sums over all monitors since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Checks by kind. There are few kinds.
    pub kinds: Vec<(&'static str, Counts)>,
    /// Results that counted for nothing: their monitor was gone, paused or had another target when they came.
    pub discarded: u64,
    /// Incidents opened.
    pub opened: u64,
    /// Incidents resolved, for any reason, by the daemon.
    pub resolved: u64,
}

/// How many monitors there are of each kind, as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By status and source; those that were never met are left out.
    pub monitors: HashMap<(Status, Source), usize>,
    /// Monitors with an open incident.
    pub incidents: usize,
}

impl Tally {
    fn enter(&mut self, row: &Row) {
        *self.monitors.entry((row.shown, row.entry.monitor.source)).or_default() += 1;
        self.incidents += usize::from(row.incident.is_some());
    }

    fn leave(&mut self, row: &Row) {
        if let Some(count) = self.monitors.get_mut(&(row.shown, row.entry.monitor.source)) {
            *count = count.saturating_sub(1);
        }
        self.incidents = self.incidents.saturating_sub(usize::from(row.incident.is_some()));
    }
}

#[derive(Default)]
struct Inner {
    rows: HashMap<MonitorId, Row>,
    /// Every row: those of the file first, then by id. Who shows a part shows the same part each time.
    order: BTreeSet<(bool, MonitorId)>,
    tally: Tally,
    totals: Totals,
}

/// Rows that are copied under one lock, for less than a millisecond: the stage waits for no more than that.
const COPIED_AT_ONCE: usize = 1024;

/// The board. Readers copy what they need under short locks and format it afterwards.
#[derive(Default)]
pub struct Board(RwLock<Inner>);

impl Board {
    /// Every monitor that is watched, and the invalid ones: those of the file first, then by id.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.first(usize::MAX).0
    }

    /// One monitor.
    #[must_use]
    pub fn row(&self, id: MonitorId) -> Option<Row> {
        self.read().rows.get(&id).cloned()
    }

    /// The first `most` monitors, those of the file first, and how many there are in all.
    #[must_use]
    pub fn first(&self, most: usize) -> (Vec<Row>, usize) {
        let (mut rows, mut seen) = (Vec::new(), HashSet::new());
        let mut after = Bound::Unbounded;
        loop {
            let inner = self.read();
            let wanted = COPIED_AT_ONCE.min(most - rows.len());
            let before = after;
            for place in inner.order.range((before, Bound::Unbounded)).take(wanted) {
                after = Bound::Excluded(*place);
                // One that moved to another place between two locks is met twice.
                if seen.insert(place.1) {
                    rows.extend(inner.rows.get(&place.1).cloned());
                }
            }
            if after == before {
                return (rows, inner.rows.len());
            }
        }
    }

    /// How many monitors there are of each kind.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.read().tally.clone()
    }

    /// The sums.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.read().totals.clone()
    }

    /// A monitor is watched, under this definition and in this state.
    pub(super) fn put(&self, entry: &Arc<Entry>, state: &MonitorState) {
        let (mut inner, id) = (self.write(), entry.monitor.id);
        let mut row = inner.take(id).unwrap_or_else(|| Row {
            entry: Arc::clone(entry),
            shown: Status::Pending,
            beneath: Status::Pending,
            maintenance: None,
            since: None,
            incident: None,
            latest: None,
            last_checked: None,
            before: None,
            counts: Counts::default(),
            certificate_ends: None,
        });
        row.entry = Arc::clone(entry);
        row.show(state);
        inner.tally.enter(&row);
        inner.order.insert(place(&row));
        inner.rows.insert(id, row);
    }

    /// The state of a monitor changed without a check.
    pub(super) fn show(&self, id: MonitorId, state: &MonitorState) {
        self.write().change(id, |row| row.show(state));
    }

    /// A monitor is no longer watched.
    pub(super) fn remove(&self, id: MonitorId) {
        self.write().take(id);
    }

    /// A check led to a state.
    pub(super) fn checked(&self, kind: &'static str, monitor: MonitorId, latest: Latest, glance: Glance) {
        let mut inner = self.write();
        inner.totals.count(kind, latest.verdict);
        inner.change(monitor, |row| {
            row.counts.add(latest.verdict);
            row.certificate_ends = latest.certificate_ends.or(row.certificate_ends);
            (row.latest, row.before) = (Some(latest), None);
            row.glance(glance);
        });
    }

    pub(super) fn discarded(&self) {
        self.write().totals.discarded += 1;
    }

    pub(super) fn opened(&self) {
        self.write().totals.opened += 1;
    }

    pub(super) fn resolved(&self) {
        self.write().totals.resolved += 1;
    }

    // A panic under the lock leaves at worst one row half a check behind.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(row: &Row) -> (bool, MonitorId) {
    (row.entry.monitor.source != Source::File, row.entry.monitor.id)
}

impl Inner {
    fn take(&mut self, id: MonitorId) -> Option<Row> {
        let row = self.rows.remove(&id)?;
        self.order.remove(&place(&row));
        self.tally.leave(&row);
        Some(row)
    }

    /// Changes what is shown of a row, and not where its definition comes from.
    fn change(&mut self, id: MonitorId, change: impl FnOnce(&mut Row)) {
        let Some(row) = self.rows.get_mut(&id) else { return };
        self.tally.leave(row);
        change(row);
        self.tally.enter(row);
    }
}

impl Row {
    fn show(&mut self, state: &MonitorState) {
        self.before = if self.latest.is_none() { Before::of(state).map(Arc::new) } else { None };
        self.glance(Glance::of(state));
    }

    const fn glance(&mut self, glance: Glance) {
        self.shown = glance.shown;
        self.beneath = glance.beneath;
        self.maintenance = glance.maintenance;
        self.since = glance.since;
        self.incident = glance.incident;
        self.last_checked = glance.last_checked;
    }
}

impl Latest {
    /// Of a check.
    pub(super) fn of(check: &Check) -> Self {
        Self {
            verdict: check.verdict,
            failure: check.failure,
            message: check.message.as_deref().map(Arc::from),
            status_code: check.status_code,
            response_time_ms: check.timings.total_ms(),
            phases: Phases::of(&check.timings),
            checked_at: check.checked_at,
            certificate_ends: check.certificate.as_ref().map(|certificate| certificate.not_after),
        }
    }
}

/// What is shown of a state. It is taken when the state is reached and shown when that is in the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance {
    shown: Status,
    beneath: Status,
    maintenance: Option<Under>,
    since: Option<DateTime<Utc>>,
    incident: Option<IncidentUid>,
    last_checked: Option<DateTime<Utc>>,
}

impl Glance {
    /// Of a state.
    pub(super) fn of(state: &MonitorState) -> Self {
        Self {
            shown: state.shown(),
            beneath: state.beneath(),
            maintenance: state.maintenance,
            since: state.since,
            incident: state.incident,
            last_checked: state.last_checked,
        }
    }
}

impl Totals {
    fn count(&mut self, kind: &'static str, verdict: Verdict) {
        match self.kinds.iter_mut().find(|(name, _)| *name == kind) {
            Some((_, counts)) => counts.add(verdict),
            None => {
                let mut counts = Counts::default();
                counts.add(verdict);
                self.kinds.push((kind, counts));
            }
        }
    }
}
