//! Evaluates objectives each minute while this daemon is active, and remembers how they stand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::gate::Gated;
use crate::access::read::Histories;
use crate::clock::Wall;
use crate::metrics::work::WorkStats;
use crate::model::{MonitorId, StoreFault, UserId};
use crate::schedule::jobs::Wake;
use crate::shutdown::Shutdown;
use crate::slo::{Measure, MonitorReport, Named, Objective, Report, SloStatus, Standing, Sums};
use crate::store::{SloMonitor, SloRow, Store};
use crate::uptime::Window;

/// Monitors whose histories are asked for at once.
const AT_ONCE: usize = 500;
/// Until new objectives have data, or for [`EAGER`], they are evaluated so often: whoever adds one wants to see it.
const SOON: Duration = Duration::from_secs(3);
const EAGER: Duration = Duration::from_secs(120);

/// The objectives of the configuration in force.
pub(super) type Objectives = watch::Receiver<Arc<[Objective]>>;

/// What the last evaluation found, for those who show it.
#[derive(Default)]
pub(super) struct SloBoard(ArcSwap<Vec<SloRow>>);

impl SloBoard {
    /// By id.
    pub(super) fn rows(&self) -> Arc<Vec<SloRow>> {
        self.0.load_full()
    }
}

/// What the loop needs; cheap to clone, so that it can be run again.
#[derive(Clone)]
pub(super) struct Evaluation {
    pub(super) store: Arc<Gated>,
    pub(super) wake: Arc<Mutex<Wake>>,
    pub(super) objectives: Objectives,
    pub(super) board: Arc<SloBoard>,
    pub(super) wall: Arc<dyn Wall>,
    pub(super) stats: Arc<WorkStats>,
}

/// Each minute, at the start and when the objectives change.
pub(super) async fn evaluate_slos(mut with: Evaluation, mut stop: Shutdown) {
    let wake = Arc::clone(&with.wake);
    let mut wake = wake.lock().await;
    let mut standings: Option<HashMap<String, Standing>> = None;
    let mut eager_until = Instant::now() + EAGER;
    loop {
        let objectives = Arc::clone(&with.objectives.borrow_and_update());
        let evaluated = tokio::select! {
            evaluated = turn(&with, &objectives, &mut standings) => evaluated,
            () = stop.wait() => return,
        };
        let waits = !evaluated || with.board.rows().iter().any(|row| row.standing.status == SloStatus::NoData);
        let eager = waits && !objectives.is_empty() && Instant::now() < eager_until;
        tokio::select! {
            () = stop.wait() => return,
            woken = wake.recv() => if woken.is_none() { return },
            changed = with.objectives.changed() => {
                // The sender lives as long as the daemon.
                if changed.is_err() { return }
                eager_until = Instant::now() + EAGER;
            }
            () = sleep(SOON), if eager => {}
        }
    }
}

/// One evaluation; whether there was one.
async fn turn(with: &Evaluation, objectives: &[Objective], standings: &mut Option<HashMap<String, Standing>>) -> bool {
    // Without a lease nothing is evaluated: the one who has it does.
    let Ok(store) = with.store.store() else { return false };
    let began = Instant::now();
    let done = evaluate(store, objectives, standings, &*with.wall).await;
    if !objectives.is_empty() || done.is_err() {
        with.stats.ran(began.elapsed(), done.is_ok());
    }
    match done {
        Ok(rows) => {
            with.board.0.store(Arc::new(rows));
            true
        }
        Err(fault) => {
            log::debug!("objectives wait: {fault}");
            false
        }
    }
}

async fn evaluate(
    store: &Store,
    objectives: &[Objective],
    standings: &mut Option<HashMap<String, Standing>>,
    wall: &dyn Wall,
) -> Result<Vec<SloRow>, StoreFault> {
    let known = match standings {
        Some(known) => known,
        None => standings.insert(store.slo_standings().await?.into_iter().collect()),
    };
    if objectives.is_empty() && known.is_empty() {
        return Ok(Vec::new());
    }
    let now = wall.now();
    let monitors = monitors(store, objectives).await?;
    let mut tallies: Vec<Tally<'_>> = objectives.iter().map(|objective| Tally::new(objective, now)).collect();
    let members = members(objectives, &monitors);
    let from = tallies.iter().map(|tally| Sums::needs(&tally.now).from).min().unwrap_or(now);
    for (chunk, members) in monitors.chunks(AT_ONCE).zip(members.chunks(AT_ONCE)) {
        let ids: Vec<MonitorId> = chunk.iter().map(|monitor| monitor.id).collect();
        let histories = histories(store, &ids, Window::new(from, now)).await?;
        for (monitor, members) in chunk.iter().zip(members) {
            for index in members {
                if let (Some(tally), Some(history)) = (tallies.get_mut(*index), histories.of.get(&monitor.id)) {
                    tally.add(monitor, history);
                }
            }
        }
        // Others have work to do as well.
        tokio::task::yield_now().await;
    }
    let rows: Vec<SloRow> = tallies.into_iter().map(|tally| tally.row(known)).collect();
    let saved = store.save_slos(&rows).await;
    *known = rows.iter().map(|row| (row.report.id.clone(), row.standing)).collect();
    saved.map(|()| rows)
}

async fn monitors(store: &Store, objectives: &[Objective]) -> Result<Vec<SloMonitor>, StoreFault> {
    let (mut keys, mut ids, mut tags) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for objective in objectives {
        for named in &objective.monitors {
            match named {
                Named::Key(key) => drop(keys.insert(key.to_string())),
                Named::Id(id) => drop(ids.insert(id.0)),
            }
        }
        tags.extend(objective.tags.iter().map(ToString::to_string));
    }
    let (keys, tags): (Vec<String>, Vec<String>) = (keys.into_iter().collect(), tags.into_iter().collect());
    let ids: Vec<Uuid> = ids.into_iter().collect();
    store.slo_monitors(&keys, &ids, &tags).await
}

/// For each monitor the objectives that it belongs to, by index.
fn members(objectives: &[Objective], monitors: &[SloMonitor]) -> Vec<BTreeSet<usize>> {
    let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut by_id: BTreeMap<MonitorId, Vec<usize>> = BTreeMap::new();
    let mut by_tag: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, objective) in objectives.iter().enumerate() {
        for named in &objective.monitors {
            match named {
                Named::Key(key) => by_key.entry(key.as_str()).or_default().push(index),
                Named::Id(id) => by_id.entry(*id).or_default().push(index),
            }
        }
        for tag in &objective.tags {
            by_tag.entry(tag).or_default().push(index);
        }
    }
    let of = |monitor: &SloMonitor| {
        let by_key = monitor.key.as_deref().and_then(|key| by_key.get(key));
        let by_tag = monitor.tags.iter().filter_map(|tag| by_tag.get(tag.as_str()));
        by_tag.chain(by_key).chain(by_id.get(&monitor.id)).flatten().copied().collect()
    };
    monitors.iter().map(of).collect()
}

/// Histories of many monitors; of those that have too much together, in halves.
async fn histories(store: &Store, ids: &[MonitorId], window: Window) -> Result<Histories, StoreFault> {
    let mut all = Histories::default();
    let mut todo = vec![ids];
    while let Some(ids) = todo.pop() {
        match store.whole_histories(ids, window).await? {
            Some(some) => all.of.extend(some.of),
            None if ids.len() > 1 => todo.extend(<[_; 2]>::from(ids.split_at(ids.len() / 2))),
            None => {
                let text = format!("{ids:?} has too many incidents and gaps for an objective");
                log::warn!("objectives cannot be evaluated: {text}");
                return Err(StoreFault::Refused(text));
            }
        }
    }
    Ok(all)
}

/// An objective while it is summed up.
struct Tally<'a> {
    objective: &'a Objective,
    now: crate::slo::Now,
    sums: Sums,
    monitors: Vec<MonitorReport>,
    owners: BTreeSet<UserId>,
}

impl<'a> Tally<'a> {
    fn new(objective: &'a Objective, now: chrono::DateTime<chrono::Utc>) -> Self {
        let now = objective.period.at(now);
        Self { objective, now, sums: Sums::default(), monitors: Vec::new(), owners: BTreeSet::new() }
    }

    fn add(&mut self, monitor: &SloMonitor, history: &crate::uptime::History) {
        let own = self.sums.add(self.objective, &self.now, history);
        self.monitors.push(MonitorReport::new(monitor.label.clone(), monitor.id, &own));
        self.owners.insert(monitor.owner);
    }

    fn row(self, known: &HashMap<String, Standing>) -> SloRow {
        let (objective, now) = (self.objective, self.now.past.to);
        let before = known.get(objective.id.as_str()).copied();
        let measure = Measure::of(objective, &self.now, &self.sums);
        let standing = before.unwrap_or_else(|| Standing::new(now)).after(&measure, now);
        let report = Report::new(objective, &self.now, &measure, &standing, self.monitors);
        tell(before.map(|before| before.status), &report);
        let owner = self.owners.first().copied().filter(|_| self.owners.len() == 1);
        SloRow { owner, standing, report }
    }
}

/// A line for every change.
fn tell(before: Option<SloStatus>, report: &Report) {
    let (now, was) = (report.status, before.unwrap_or(SloStatus::NoData));
    if now == was {
        return;
    }
    let level = if now >= SloStatus::AtRisk && now > was { log::Level::Warn } else { log::Level::Info };
    let (id, budget) = (report.id.as_str(), &report.budget);
    log::log!(level, slo = id; "objective {id}: {} (was {}), {} of {}% in {}, {:.0} s of {:.0} s budget left",
        now.name(), was.name(), report.uptime_text, report.objective, report.window, budget.left_seconds, budget.allowed_seconds);
}
