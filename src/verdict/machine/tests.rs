use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::{Flap, SYSTEM_USER, Source, Timings};

fn id() -> MonitorId {
    MonitorId(Uuid::from_u128(7))
}

fn monitor() -> Monitor {
    Monitor {
        id: id(),
        owner: SYSTEM_USER,
        key: None,
        name: "shop".into(),
        url: "https://shop.example/".into(),
        kind: "http",
        source: Source::File,
        cadence: Cadence::Every(Duration::from_secs(30)),
        timeout: Duration::from_secs(10),
        confirmations: 2,
        recoveries: 1,
        retry_interval: Duration::from_secs(10),
        flap: Flap::default(),
        active: true,
        tags: Box::default(),
        depends_on: Box::default(),
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 123_456_789).unwrap()
}

fn check_at(seconds: i64, verdict: Verdict) -> Check {
    let failure = match verdict {
        Verdict::Up => None,
        Verdict::Degraded => Some(Failure::LatencyExceeded),
        Verdict::Down => Some(Failure::ConnectRefused),
        Verdict::Unknown => Some(Failure::ObserverOffline),
    };
    Check {
        monitor: id(),
        verdict,
        failure,
        message: None,
        status_code: None,
        timings: Timings::default(),
        address: None,
        http_version: None,
        certificate: None,
        details: None,
        attempt: 1,
        checked_at: at(seconds),
    }
}

/// A time as evidence has it.
fn shown(second: i64) -> DateTime<Utc> {
    chrono::SubsecRound::trunc_subsecs(at(second), 3)
}

fn seen(check: &Check) -> Box<Evidence> {
    Box::new(Evidence {
        checked_at: chrono::SubsecRound::trunc_subsecs(check.checked_at, 3),
        verdict: check.verdict,
        failure: check.failure,
        message: None,
        address: None,
        status_code: None,
        timings_us: vec![("total".into(), 1)],
        headers: Vec::new(),
        excerpt: None,
        certificate: None,
        details: None,
    })
}

/// A monitor under test: numbers incidents 1, 2, 3.
#[derive(Clone)]
struct Subject {
    monitor: Monitor,
    state: MonitorState,
    uids: u128,
}

impl Subject {
    fn new(monitor: Monitor) -> Self {
        Self { monitor, state: MonitorState::default(), uids: 0 }
    }

    fn check(&mut self, seconds: i64, verdict: Verdict) -> Step {
        let check = check_at(seconds, verdict);
        let uids = &mut self.uids;
        step(
            &mut self.state,
            &self.monitor,
            &check,
            seen(&check),
            || None,
            || {
                *uids += 1;
                IncidentUid(Uuid::from_u128(*uids))
            },
        )
    }

    fn opened(&mut self, seconds: i64) -> Option<Opening> {
        match self.check(seconds, Verdict::Down).transition {
            Some(Transition::Opened(opening)) => Some(*opening),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    fn resolved(&mut self, seconds: i64) -> Option<Resolution> {
        match self.check(seconds, Verdict::Up).transition {
            Some(Transition::Resolved(resolution)) => Some(resolution),
            None => None,
            other => panic!("{other:?}"),
        }
    }
}

fn reloaded(state: &MonitorState) -> MonitorState {
    serde_json::from_value(serde_json::to_value(state).unwrap()).unwrap()
}

#[test]
fn an_incident_from_the_first_bad_check_to_the_first_good() {
    let mut subject = Subject::new(Monitor { confirmations: 3, recoveries: 2, ..monitor() });
    assert_eq!(subject.check(0, Verdict::Up).retry, None);
    assert_eq!((subject.state.status, subject.state.since), (Status::Up, Some(at(0))));
    let first = subject.check(30, Verdict::Down);
    assert_eq!((first.retry, first.next_attempt, first.state_changed), (Some(Duration::from_secs(10)), 2, true));
    assert_eq!(subject.state.shown(), Status::Up);
    // What the observer could not see neither confirms nor breaks the streak.
    let unknown = subject.check(40, Verdict::Unknown);
    assert_eq!((unknown.retry, unknown.next_attempt, subject.state.shown()), (None, 1, Status::Unknown));
    assert_eq!(
        unknown.gap,
        Some(Gap { monitor: Some(id()), from_at: at(40), to_at: at(70), reason: GapReason::ObserverOffline })
    );
    assert_eq!(subject.check(70, Verdict::Unknown).gap.map(|gap| (gap.from_at, gap.to_at)), Some((at(40), at(100))));
    assert_eq!(subject.opened(100), None);
    let opening = subject.opened(110).unwrap();
    assert_eq!((opening.started_at, opening.failure), (at(30), Failure::ConnectRefused));
    assert_eq!(opening.first_bad.unwrap().checked_at, shown(30));
    assert_eq!(opening.last_good.unwrap().checked_at, shown(0));
    assert_eq!((subject.state.status, subject.state.since), (Status::Down, Some(at(30))));
    // Confirmed: back to the phase, and nothing new to store.
    let again = subject.check(140, Verdict::Down);
    assert_eq!((again.retry, again.transition, again.state_changed), (None, None, false));
    assert_eq!(subject.check(170, Verdict::Degraded).retry, Some(Duration::from_secs(10)));
    assert_eq!(subject.check(180, Verdict::Down).transition, None);
    assert_eq!(subject.check(210, Verdict::Degraded).transition, None);
    let resolution = subject.resolved(220).unwrap();
    assert_eq!((resolution.uid, resolution.resolved_at), (opening.uid, at(210)));
    assert_eq!(subject.state.first_bad, None);
    assert_eq!((subject.state.status, subject.state.since), (Status::Up, Some(at(210))));
    assert!(!subject.check(250, Verdict::Up).state_changed);
    assert!(subject.check(280, Verdict::Degraded).state_changed);
    assert_eq!(subject.state.shown(), Status::Degraded);
}

#[test]
fn a_new_monitor_must_be_confirmed_down_too() {
    let mut subject = Subject::new(monitor());
    assert_eq!(subject.opened(0), None);
    assert_eq!(subject.state.shown(), Status::Pending);
    assert!(subject.opened(10).is_some());
    let mut hasty = Subject::new(Monitor { confirmations: 1, ..monitor() });
    assert_eq!(hasty.opened(0).unwrap().started_at, at(0));
}

#[test]
fn a_flapping_incident_is_held_until_it_was_quiet() {
    let flap = Flap { changes: 4, within: Duration::from_secs(600), hold: Duration::from_secs(100) };
    let mut subject = Subject::new(Monitor { confirmations: 1, flap, ..monitor() });
    assert!(subject.opened(0).is_some() && subject.resolved(10).is_some());
    assert!(subject.opened(20).is_some() && subject.resolved(30).is_some());
    let held = subject.opened(40).unwrap();
    assert_eq!(subject.state.held_until, Some(at(140)));
    assert_eq!(subject.resolved(50), None);
    assert_eq!(subject.state.shown(), Status::Down);
    assert_eq!(subject.opened(60), None);
    assert_eq!(subject.state.held_until, Some(at(160)));
    assert_eq!(subject.resolved(70), None);
    assert_eq!(subject.check(159, Verdict::Up).retry, None);
    let resolution = subject.resolved(160).unwrap();
    // Quiet since 70: the hold delays the news, it does not lengthen the downtime.
    assert_eq!((resolution.uid, resolution.resolved_at), (held.uid, at(70)));
    // Changes that are long past count no more.
    assert!(subject.opened(2000).is_some() && subject.resolved(2010).is_some());
}

#[test]
fn a_hold_does_not_outlive_a_clock_that_steps_back() {
    let flap = Flap { changes: 2, within: Duration::from_secs(600), hold: Duration::from_secs(100) };
    let mut subject = Subject::new(Monitor { confirmations: 1, flap, ..monitor() });
    assert!(subject.opened(0).is_some() && subject.resolved(1).is_some());
    let held = subject.opened(10_000).is_some_and(|_| subject.state.held_until.is_some());
    assert!(!held, "changes were far apart");
    assert!(subject.resolved(10_001).is_some() && subject.opened(10_002).is_some());
    assert_eq!(subject.state.held_until, Some(at(10_102)));
    assert_eq!(subject.resolved(0), None);
    assert_eq!(subject.state.held_until, Some(at(100)));
    // Never before the start that was recorded, though the clock now says so.
    assert_eq!(subject.resolved(100).unwrap().resolved_at, at(10_002));
}

#[test]
fn a_dismissed_incident_comes_back_only_after_a_good_check() {
    let mut subject = Subject::new(monitor());
    subject.opened(0);
    subject.opened(10).unwrap();
    dismissed(&mut subject.state);
    for seconds in 20..40 {
        assert_eq!(subject.check(seconds, Verdict::Down).retry, None);
        assert_eq!((subject.state.shown(), subject.state.incident), (Status::Down, None));
    }
    assert_eq!(subject.resolved(40), None);
    assert_eq!(subject.state.shown(), Status::Up);
    assert_eq!(subject.opened(50), None);
    assert_eq!(subject.opened(60).unwrap().started_at, at(50));
    // Dismissing what is not open does nothing.
    let mut fresh = MonitorState::default();
    dismissed(&mut fresh);
    assert_eq!(fresh, MonitorState::default());
}

#[test]
fn a_pause_ends_the_incident_and_forgets() {
    let mut subject = Subject::new(monitor());
    subject.check(-30, Verdict::Up);
    subject.opened(0);
    let uid = subject.opened(10).unwrap().uid;
    let left = paused(&mut subject.state, id(), at(15));
    let resolution = Resolution { uid, monitor: id(), resolved_at: at(15), reason: ResolveReason::Paused };
    assert_eq!(left, Left { resolution: Some(resolution), gap: None });
    assert_eq!(paused(&mut subject.state, id(), at(16)), Left::default());
    assert_eq!(subject.state.shown(), Status::Paused);
    // A result that was in flight says nothing any more.
    let late = subject.check(16, Verdict::Down);
    assert_eq!((late.transition, late.state_changed, subject.state.failures), (None, false, 0));
    let gap = resumed(&mut subject.state, id(), at(100)).unwrap();
    assert_eq!((gap.from_at, gap.to_at, gap.reason), (at(15), at(100), GapReason::Paused));
    assert_eq!(resumed(&mut subject.state, id(), at(101)), None);
    assert_eq!(subject.opened(110), None);
    let opening = subject.opened(120).unwrap();
    assert_eq!((opening.started_at, opening.last_good.unwrap().checked_at), (at(110), shown(-30)));
}

#[test]
fn an_invalid_definition_says_nothing_about_the_target() {
    let mut subject = Subject::new(monitor());
    subject.opened(0);
    let uid = subject.opened(10).unwrap().uid;
    invalid(&mut subject.state, at(20));
    assert_eq!((subject.state.shown(), subject.state.incident), (Status::Unknown, Some(uid)));
    assert_eq!(resumed(&mut subject.state, id(), at(50)).unwrap().reason, GapReason::Invalid);
    assert_eq!(subject.resolved(60).unwrap().uid, uid);
    invalid(&mut subject.state, at(70));
    let left = paused(&mut subject.state, id(), at(80));
    assert_eq!(left.gap.map(|gap| (gap.from_at, gap.to_at, gap.reason)), Some((at(70), at(80), GapReason::Invalid)));
    invalid(&mut subject.state, at(90));
    assert_eq!(subject.state.shown(), Status::Paused);
    let left = removed(&mut subject.state, id(), at(95), ResolveReason::Archived);
    assert_eq!((left.resolution, left.gap.map(|gap| gap.reason)), (None, Some(GapReason::Paused)));
}

#[test]
fn nothing_is_its_own_cause() {
    for (cause, told) in [(id(), None), (MonitorId(Uuid::nil()), Some(MonitorId(Uuid::nil())))] {
        let (monitor, check) = (Monitor { confirmations: 1, ..monitor() }, check_at(0, Verdict::Down));
        let uid = || IncidentUid(Uuid::nil());
        let step = step(&mut MonitorState::default(), &monitor, &check, seen(&check), || Some(cause), uid);
        let Some(Transition::Opened(opening)) = step.transition else { panic!("{step:?}") };
        assert_eq!(opening.caused_by, told);
    }
}

#[test]
fn a_state_that_contradicts_itself_lets_go() {
    let mut subject = Subject::new(monitor());
    subject.state.incident = Some(IncidentUid(Uuid::from_u128(9)));
    subject.state.status = Status::Up;
    assert!(subject.resolved(0).is_some());
    let mut subject = Subject::new(monitor());
    subject.state.failures = u16::MAX;
    assert_eq!(subject.opened(0).unwrap().started_at, at(0));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Check(Verdict),
    Pause,
    Resume,
    Invalid,
    Dismiss,
    Remove,
    Crash,
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        4 => Just(Verdict::Up),
        1 => Just(Verdict::Degraded),
        5 => Just(Verdict::Down),
        2 => Just(Verdict::Unknown)
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => verdict().prop_map(Event::Check),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => Just(Event::Invalid),
        1 => Just(Event::Dismiss),
        1 => Just(Event::Remove),
        4 => Just(Event::Crash)
    ]
}

fn any_monitor() -> impl Strategy<Value = Monitor> {
    (1u16..4, 1u16..4, 2u16..5, 1u64..300, 0u64..200).prop_map(|(confirmations, recoveries, changes, within, hold)| {
        let flap = Flap { changes, within: Duration::from_secs(within), hold: Duration::from_secs(hold) };
        Monitor { confirmations, recoveries, flap, ..monitor() }
    })
}

/// What an outside observer knows: the incidents that were told, and the checks in a row.
#[derive(Default)]
struct Observer {
    open: Option<Opening>,
    bad: u16,
    good: u16,
    dismissed: bool,
    seen: std::collections::HashSet<IncidentUid>,
}

impl Observer {
    fn resolve(&mut self, resolution: &Resolution) {
        let opening = self.open.take().expect("a resolution answers an opening");
        assert_eq!(resolution.uid, opening.uid);
        assert!(opening.started_at <= resolution.resolved_at);
    }

    fn left(&mut self, left: &Left) {
        assert_eq!(left.resolution.is_some(), self.open.is_some());
        if let Some(resolution) = &left.resolution {
            self.resolve(resolution);
        }
        (self.bad, self.good, self.dismissed) = (0, 0, false);
    }

    fn check(&mut self, verdict: Verdict, step: &Step, monitor: &Monitor, now: DateTime<Utc>) {
        match verdict {
            Verdict::Unknown => {
                assert_eq!((step.transition.is_none(), step.retry), (true, None));
                let gap = step.gap.unwrap();
                assert!(gap.from_at <= now && now < gap.to_at);
            }
            Verdict::Down => {
                (self.bad, self.good) = (self.bad + 1, 0);
                let due = self.open.is_none() && !self.dismissed && self.bad >= monitor.confirmations;
                let Some(Transition::Opened(opening)) = &step.transition else {
                    assert!(!due && step.transition.is_none());
                    return;
                };
                assert!(due && self.bad == monitor.confirmations && opening.started_at <= now);
                assert!(self.seen.insert(opening.uid), "each incident opens once");
                self.open = Some(*opening.clone());
            }
            Verdict::Up | Verdict::Degraded => {
                (self.good, self.bad, self.dismissed) = (self.good + 1, 0, false);
                if let Some(transition) = &step.transition {
                    let Transition::Resolved(resolution) = transition else { panic!("opened by a good check") };
                    assert!(self.good >= monitor.recoveries && resolution.reason == ResolveReason::Recovered);
                    self.resolve(resolution);
                }
            }
        }
        assert_eq!(step.retry.is_some(), step.next_attempt > 1);
    }
}

fn apply(subject: &mut Subject, event: Event, seconds: i64) -> (Option<Step>, Option<Left>) {
    let now = at(seconds);
    match event {
        Event::Check(verdict) => return (Some(subject.check(seconds, verdict)), None),
        Event::Pause => return (None, Some(paused(&mut subject.state, id(), now))),
        Event::Remove => return (None, Some(removed(&mut subject.state, id(), now, ResolveReason::Archived))),
        Event::Resume => drop(resumed(&mut subject.state, id(), now)),
        Event::Invalid => invalid(&mut subject.state, now),
        Event::Dismiss => dismissed(&mut subject.state),
        Event::Crash => {}
    }
    (None, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whatever_happens(
        monitor in any_monitor(),
        events in proptest::collection::vec((event(), -400i64..600), 0..80),
        steps_back in any::<bool>(),
    ) {
        let mut subject = Subject::new(monitor.clone());
        // Killed now and then, it goes on from what it said must be stored, and yet tells the same.
        let mut killed = subject.clone();
        let mut stored = killed.state.clone();
        let mut observer = Observer::default();
        let mut seconds = 0;
        for (event, moved) in events {
            seconds += if steps_back { moved } else { moved.rem_euclid(60) };
            if matches!(event, Event::Crash) {
                killed.state = reloaded(&stored);
                continue;
            }
            let watched = subject.state.unobserved.is_none();
            let was_paused = subject.state.shown() == Status::Paused;
            let (step, left) = apply(&mut subject, event, seconds);
            let (step_killed, left_killed) = apply(&mut killed, event, seconds);
            prop_assert_eq!(step.as_ref().map(|s| (s.retry, s.gap)), step_killed.as_ref().map(|s| (s.retry, s.gap)));
            prop_assert_eq!(&left, &left_killed);
            match (step.as_ref().and_then(|s| s.transition.as_ref()), step_killed.as_ref().and_then(|s| s.transition.as_ref())) {
                (Some(Transition::Opened(a)), Some(Transition::Opened(b))) => {
                    prop_assert_eq!((a.uid, a.started_at, a.failure), (b.uid, b.started_at, b.failure));
                    prop_assert_eq!(&a.first_bad, &b.first_bad);
                }
                (a, b) => prop_assert_eq!(a, b),
            }
            if step_killed.is_none_or(|s| s.state_changed) {
                stored = killed.state.clone();
            }
            match (event, &step, &left) {
                (Event::Check(verdict), Some(step), _) if watched => {
                    observer.check(verdict, step, &monitor, at(seconds));
                    let shown = subject.state.shown();
                    prop_assert_eq!(verdict == Verdict::Unknown, shown == Status::Unknown);
                }
                (Event::Check(_), Some(step), _) => prop_assert!(step.transition.is_none() && !step.state_changed),
                (Event::Pause, _, Some(_)) if was_paused => {}
                (_, _, Some(left)) => observer.left(left),
                (Event::Dismiss, ..) => {
                    let was_open = observer.open.take().is_some();
                    observer.dismissed |= was_open && observer.bad > 0;
                }
                _ => {}
            }
            prop_assert_eq!(subject.state.incident, observer.open.as_ref().map(|opening| opening.uid));
            prop_assert!(subject.state.flaps.len() <= usize::from(monitor.flap.changes));
            prop_assert_eq!(reloaded(&subject.state), subject.state.clone());
        }
        // Nothing is wedged: good checks for as long as the hold, and all is well.
        resumed(&mut subject.state, id(), at(seconds));
        for _ in 0..monitor.recoveries {
            subject.check(seconds, Verdict::Up);
        }
        let quiet = i64::try_from(monitor.flap.hold.as_secs()).unwrap();
        subject.check(seconds + quiet, Verdict::Up);
        prop_assert_eq!((subject.state.incident, subject.state.shown()), (None, Status::Up));
    }
}
