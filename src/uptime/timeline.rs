//! A window cut into labelled spans, from all that is known of a monitor.
//!
//! Of several things at one moment the first of this list counts: maintenance that is left out of uptime, not observed,
//! down, up.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Figures, Window};
use crate::model::GapReason;

/// A region that watches the monitor. Regions add up: a moment is not observed when none of them observed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// Which.
    pub region: Box<str>,
    /// The first check.
    pub from: DateTime<Utc>,
    /// The plan of the monitor's owner shows nothing from before; none: it shows all there is.
    pub shown_from: Option<DateTime<Utc>>,
    /// What it did not observe of the monitor since. They may overlap.
    pub gaps: Vec<Unseen>,
    /// What it did not observe of any monitor, shared by all of them.
    pub gaps_of_all: Arc<[Unseen]>,
}

/// A gap: start, end, why.
pub type Unseen = (DateTime<Utc>, DateTime<Utc>, GapReason);

/// An incident: the monitor is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// `incidents.id`.
    pub id: i64,
    /// Start, inclusive.
    pub from: DateTime<Utc>,
    /// End, exclusive; that of the window while it is open.
    pub to: DateTime<Utc>,
}

/// Maintenance that is left out of uptime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// `maintenance_spans.maintenance_id`.
    pub id: Uuid,
    /// Start, inclusive.
    pub from: DateTime<Utc>,
    /// End, exclusive.
    pub to: DateTime<Utc>,
}

/// All that is known of a monitor; in any order, also beyond the window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Who watches. Nobody: it was never checked.
    pub watches: Vec<Watch>,
    /// When it was down.
    pub outages: Vec<Outage>,
    /// When nobody counts.
    pub maintenance: Vec<Maintenance>,
}

/// Why a moment was not observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// Before the first check.
    NotYet,
    /// Before what the owner's plan shows, whatever was.
    NotShown,
    /// A gap.
    Gap(GapReason),
}

/// Of several reasons at one moment the first counts: what hides all others, what was meant, then what concerned all
/// monitors.
const REASONS: [Blind; 15] = [
    Blind::NotShown,
    Blind::Gap(GapReason::Paused),
    Blind::Gap(GapReason::Invalid),
    Blind::Gap(GapReason::NotRunning),
    Blind::Gap(GapReason::Suspended),
    Blind::Gap(GapReason::ClockStepped),
    Blind::Gap(GapReason::ObserverOffline),
    Blind::Gap(GapReason::ResolverUnavailable),
    Blind::Gap(GapReason::ResourceExhausted),
    Blind::Gap(GapReason::PermissionDenied),
    Blind::Gap(GapReason::Overloaded),
    Blind::Gap(GapReason::StoreFull),
    Blind::Gap(GapReason::RecordingLost),
    Blind::Gap(GapReason::Internal),
    // Another region that has seen it knows better.
    Blind::NotYet,
];

impl Blind {
    /// Every reason, the one that counts first.
    pub const ALL: &'static [Self] = &REASONS;

    /// `before_first_check`, `not_shown`, or the name of the gap's reason.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotYet => "before_first_check",
            Self::NotShown => "not_shown",
            Self::Gap(reason) => reason.name(),
        }
    }

    pub(super) fn rank(self) -> usize {
        REASONS.iter().position(|reason| *reason == self).unwrap_or(REASONS.len() - 1)
    }
}

/// What a span was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Up or degraded.
    Up,
    /// Down, by these incidents, smallest id first.
    Down(Box<[i64]>),
    /// Left out, by these maintenances, smallest id first.
    Maintenance(Box<[Uuid]>),
    /// Not observed.
    Unobserved(Blind),
}

/// A part of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Start, inclusive.
    pub from: DateTime<Utc>,
    /// End, exclusive, and later.
    pub to: DateTime<Utc>,
    /// What it was.
    pub what: What,
}

/// A window in spans: without a hole, without an overlap, in order, and no two neighbours alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    spans: Vec<Span>,
}

/// What begins or ends at a moment; by index into the history.
#[derive(Clone, Copy)]
enum Turn {
    Watch(usize),
    Blind(usize, usize, bool),
    Outage(usize, bool),
    Maintenance(usize, bool),
}

impl Timeline {
    /// Cuts a window. Takes n log n of what the history has.
    #[must_use]
    pub fn of(window: Window, history: &History) -> Self {
        let mut turns = turns(window, history);
        turns.sort_by_key(|(at, _)| *at);
        let mut now = Now::new(history);
        let mut spans: Vec<Span> = Vec::new();
        let (mut from, mut rest) = (window.from, turns.as_slice());
        while from < window.to {
            while let Some(((at, turn), more)) = rest.split_first()
                && *at <= from
            {
                now.turn(*turn);
                rest = more;
            }
            let to = rest.first().map_or(window.to, |(at, _)| *at);
            let what = now.what();
            match spans.last_mut() {
                Some(last) if last.what == what => last.to = to,
                _ => spans.push(Span { from, to, what }),
            }
            from = to;
        }
        Self { spans }
    }

    /// The spans, oldest first.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// How much was what, from a moment on. At most the window that was cut.
    #[must_use]
    pub fn figures_since(&self, from: DateTime<Utc>) -> Figures {
        let first = self.spans.partition_point(|span| span.to <= from);
        let mut figures = Figures::default();
        let mut incidents = BTreeSet::new();
        for span in self.spans.iter().skip(first) {
            // Beyond 290,000 years; windows are ten at the most.
            let micros = (span.to - span.from.max(from)).num_microseconds().unwrap_or(i64::MAX);
            figures.add_span(&span.what, micros);
            if let What::Down(ids) = &span.what {
                incidents.extend(ids.iter().copied());
            }
        }
        figures.incidents = incidents.len();
        figures
    }

    /// How much was what.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures_since(DateTime::<Utc>::MIN_UTC)
    }
}

fn turns(window: Window, history: &History) -> Vec<(DateTime<Utc>, Turn)> {
    let mut turns = Vec::new();
    let mut span = |from: DateTime<Utc>, to: DateTime<Utc>, turn: &dyn Fn(bool) -> Turn| {
        let (from, to) = (from.max(window.from), to.min(window.to));
        if from < to {
            turns.extend([(from, turn(true)), (to, turn(false))]);
        }
    };
    for (index, outage) in history.outages.iter().enumerate() {
        span(outage.from, outage.to, &|begins| Turn::Outage(index, begins));
    }
    for (index, maintenance) in history.maintenance.iter().enumerate() {
        span(maintenance.from, maintenance.to, &|begins| Turn::Maintenance(index, begins));
    }
    for (index, watch) in history.watches.iter().enumerate() {
        let gaps = watch.gaps.iter().chain(&*watch.gaps_of_all);
        let gaps = gaps.map(|(from, to, reason)| (*from, *to, Blind::Gap(*reason)));
        let hidden = watch.shown_from.map(|shown_from| (watch.from, shown_from, Blind::NotShown));
        for (from, to, blind) in gaps.chain(hidden) {
            let rank = blind.rank();
            span(from, to, &|begins| Turn::Blind(index, rank, begins));
        }
    }
    let watches = history.watches.iter().enumerate().filter(|(_, watch)| watch.from < window.to);
    turns.extend(watches.map(|(index, watch)| (watch.from.max(window.from), Turn::Watch(index))));
    turns
}

/// One region at a moment.
#[derive(Clone, Default)]
struct Region {
    begun: bool,
    /// What hides it, by the rank of the reason.
    blinds: [u32; REASONS.len()],
}

impl Region {
    /// The rank of why it does not observe; none: it does.
    fn blind(&self) -> Option<usize> {
        if !self.begun {
            return Some(Blind::NotYet.rank());
        }
        self.blinds.iter().position(|running| *running > 0)
    }
}

/// All that holds at a moment.
struct Now<'a> {
    history: &'a History,
    regions: Vec<Region>,
    outages: BTreeSet<usize>,
    maintenance: BTreeSet<usize>,
}

impl<'a> Now<'a> {
    fn new(history: &'a History) -> Self {
        let regions = vec![Region::default(); history.watches.len()];
        Self { history, regions, outages: BTreeSet::new(), maintenance: BTreeSet::new() }
    }

    fn turn(&mut self, turn: Turn) {
        let set = |set: &mut BTreeSet<usize>, index, begins| {
            if begins {
                set.insert(index);
            } else {
                set.remove(&index);
            }
        };
        match turn {
            Turn::Outage(index, begins) => set(&mut self.outages, index, begins),
            Turn::Maintenance(index, begins) => set(&mut self.maintenance, index, begins),
            Turn::Watch(index) => {
                if let Some(region) = self.regions.get_mut(index) {
                    region.begun = true;
                }
            }
            Turn::Blind(index, rank, begins) => {
                let running = self.regions.get_mut(index).and_then(|region| region.blinds.get_mut(rank));
                if let Some(running) = running {
                    // Whatever turns at one moment is told in any order, and added up before anybody looks.
                    *running = if begins { running.wrapping_add(1) } else { running.wrapping_sub(1) };
                }
            }
        }
    }

    fn what(&self) -> What {
        if !self.maintenance.is_empty() {
            let ids = self.maintenance.iter().filter_map(|index| self.history.maintenance.get(*index));
            return What::Maintenance(
                ids.map(|maintenance| maintenance.id).collect::<BTreeSet<_>>().into_iter().collect(),
            );
        }
        let blind = self.regions.iter().map(Region::blind).reduce(|a, b| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            _ => None,
        });
        let rank = match blind {
            None => Some(Blind::NotYet.rank()),
            Some(blind) => blind,
        };
        if let Some(reason) = rank.and_then(|rank| REASONS.get(rank)) {
            return What::Unobserved(*reason);
        }
        if self.outages.is_empty() {
            return What::Up;
        }
        let ids = self.outages.iter().filter_map(|index| self.history.outages.get(*index));
        What::Down(ids.map(|outage| outage.id).collect::<BTreeSet<_>>().into_iter().collect())
    }
}
