//! Says in the log which monitors are overdue, and when that is over. Thousands at once give some names and a number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::catalog::Entry;
use crate::model::MonitorId;
use crate::schedule::dispatch::DispatchStats;
use crate::shutdown::Shutdown;

/// As often as the dispatcher lists them.
const LOOK: Duration = Duration::from_secs(1);
/// So many lines that name a monitor, of each sort, in a [`WINDOW`].
const NAMED: usize = 5;
/// The others are counted for so long.
const WINDOW: Duration = Duration::from_secs(60);

/// Looks once a second, until shutdown.
pub(super) async fn watch(stats: Arc<DispatchStats>, mut stop: Shutdown) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::new(Instant::now());
    loop {
        tokio::select! {
            () = stop.wait() => return,
            _ = ticks.tick() => {}
        }
        watch.look(&stats.overdue_entries(), Instant::now()).iter().for_each(Line::log);
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Became(MonitorId, String),
    Over(MonitorId, String),
    More { became: usize, over: usize, now: usize },
}

impl Line {
    fn log(&self) {
        match self {
            Self::Became(id, label) => log::warn!(
                monitor = label.as_str(), monitor_id:% = id;
                "overdue: due for three intervals, and no place to run; see probe.max_in_flight"
            ),
            Self::Over(id, label) => {
                log::info!(monitor = label.as_str(), monitor_id:% = id; "no longer overdue");
            }
            Self::More { became, over, now } => {
                log::warn!(overdue = now; "{became} more monitors became overdue, and {over} more are so no longer");
            }
        }
    }
}

struct Watch {
    overdue: HashMap<MonitorId, Arc<Entry>>,
    window_ends: Instant,
    named: (usize, usize),
    unnamed: (usize, usize),
    told_more: bool,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { overdue: HashMap::new(), window_ends: now + WINDOW, named: (0, 0), unnamed: (0, 0), told_more: false }
    }

    /// Takes in who is overdue now; what is to be told.
    fn look(&mut self, now_overdue: &[Arc<Entry>], now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        let ids: HashSet<MonitorId> = now_overdue.iter().map(|entry| entry.monitor.id).collect();
        let (named, unnamed) = (&mut self.named, &mut self.unnamed);
        self.overdue.retain(|id, entry| {
            if ids.contains(id) {
                return true;
            }
            if take(&mut named.1, &mut unnamed.1) {
                lines.push(Line::Over(*id, entry.monitor.label().to_owned()));
            }
            false
        });
        for entry in now_overdue {
            let id = entry.monitor.id;
            if self.overdue.insert(id, Arc::clone(entry)).is_none() && take(&mut named.0, &mut unnamed.0) {
                lines.push(Line::Became(id, entry.monitor.label().to_owned()));
            }
        }
        // The first of a window are told at once, what follows at its end.
        let over = now >= self.window_ends;
        if self.unnamed != (0, 0) && (over || !self.told_more) {
            let (became, over) = std::mem::take(&mut self.unnamed);
            lines.push(Line::More { became, over, now: self.overdue.len() });
            self.told_more = true;
        }
        if over {
            (self.named, self.told_more, self.window_ends) = ((0, 0), false, now + WINDOW);
        }
        lines
    }
}

/// Whether there is room for another name; otherwise it is counted.
fn take(named: &mut usize, unnamed: &mut usize) -> bool {
    let room = *named < NAMED;
    *(if room { named } else { unnamed }) += 1;
    room
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::model::{Cadence, Flap, Monitor, MonitorKey, Observation, SYSTEM_USER, Source};
    use crate::probe::{Prepared, Probe, ProbeContext};
    use crate::verdict::expectation::Expectations;

    struct NoProbe;

    impl Probe for NoProbe {
        fn probe<'a>(&'a self, _: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
            panic!("never probed here")
        }
    }

    fn entry(key: &str) -> Arc<Entry> {
        let key: MonitorKey = key.parse().unwrap();
        let monitor = Monitor {
            id: MonitorId::of_key(&key),
            owner: SYSTEM_USER,
            name: "name".into(),
            key: Some(key),
            url: "tcp://127.0.0.1:9".into(),
            kind: "tcp",
            source: Source::File,
            cadence: Cadence::Every(LOOK),
            timeout: LOOK,
            confirmations: 2,
            recoveries: 1,
            retry_interval: LOOK,
            flap: Flap::default(),
            active: true,
            tags: Box::default(),
            depends_on: Box::default(),
        };
        let prepared = Prepared { probe: Arc::new(NoProbe), expect: Arc::new(Expectations::default()) };
        Arc::new(Entry { monitor, prepared, fingerprint: 0, secrets: Arc::new([]) })
    }

    fn names(lines: &[Line]) -> Vec<String> {
        let name = |line: &Line| match line {
            Line::Became(_, label) => format!("+{label}"),
            Line::Over(_, label) => format!("-{label}"),
            Line::More { became, over, now } => format!("{became}/{over}/{now}"),
        };
        lines.iter().map(name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn some_are_named_and_thousands_are_counted() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let all: Vec<Arc<Entry>> = (0..2000).map(|n| entry(&format!("m{n}"))).collect();
        assert!(watch.look(&[], start).is_empty());
        assert_eq!(names(&watch.look(&all[..1], start + LOOK)), ["+m0"]);
        assert!(watch.look(&all[..1], start + LOOK * 2).is_empty(), "once");
        let lines = names(&watch.look(&all, start + LOOK * 3));
        assert_eq!(lines, ["+m1", "+m2", "+m3", "+m4", "1995/0/2000"]);
        let lines = watch.look(&[], start + LOOK * 4);
        assert_eq!(lines.iter().filter(|line| matches!(line, Line::Over(..))).count(), NAMED);
        assert_eq!(lines.len(), NAMED);
        assert!(watch.look(&all[..100], start + LOOK * 5).is_empty(), "not again in this window");
        assert_eq!(names(&watch.look(&all[..100], start + WINDOW)), ["100/1995/100"]);
        assert_eq!(names(&watch.look(&all[1..100], start + WINDOW + LOOK)), ["-m0"]);
    }
}
