//! More to do than there is room for.

use proptest::prelude::*;

use super::*;

#[tokio::test(start_paused = true)]
async fn slots_that_fall_into_a_running_check_are_skipped_and_counted() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(1))).add(monitor(2, cron("* * * * * *")))).await;
    let seen = house.pass(Duration::from_secs(60), |_| (Duration::from_millis(3_500), Next::Phase, 1)).await;
    for number in [1, 2] {
        let mine = of(&seen, number);
        assert_eq!(mine.len(), 15);
        assert!(intervals(&mine).iter().all(|time| *time == Duration::from_secs(4)));
    }
    sleep(Duration::from_secs(4)).await;
    assert_eq!(house.stats.skipped_running(), 2 * 15 * 3);
    assert!(house.gaps().is_empty(), "skipped, not lost");
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_place_is_a_gap_and_never_silence() {
    let mut house = House::new(1);
    house.edit((0..3).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(1))))).await;
    let seen = house.pass(Duration::from_secs(100), |_| (Duration::from_millis(2_300), Next::Phase, 1)).await;
    assert_eq!(house.stats.in_flight(), 1);
    assert_eq!(house.stats.waiting(), 2);
    let counted = house.stats.fired() + house.stats.skipped_running() + house.stats.lost_overloaded();
    // Every slot of the three was run, skipped or lost, but for those of the check that runs and the two that wait.
    assert!((300 - 5..=300).contains(&counted), "{counted}");
    assert!(house.stats.lost_overloaded() > 100);
    assert_eq!(seen.len(), 44);
    // First come, first served.
    assert!(seen.windows(4).all(|turn| turn[3].monitor == turn[0].monitor && turn[1].monitor != turn[0].monitor));
    let gaps = house.gaps();
    assert!(gaps.iter().all(|gap| gap.reason == GapReason::Overloaded && gap.to_at > gap.from_at));
    // What the store keeps is one gap a wait: each begins at the slot that waited and ends where the late check belongs.
    for number in 0..3 {
        let mut waits: BTreeMap<DateTime<Utc>, DateTime<Utc>> = BTreeMap::new();
        for gap in gaps.iter().filter(|gap| gap.monitor == Some(id(number))) {
            let end = waits.entry(gap.from_at).or_insert(gap.to_at);
            *end = gap.to_at.max(*end);
        }
        let ends: Vec<_> = waits.values().copied().collect();
        assert!(waits.keys().skip(1).zip(&ends).all(|(next, end)| next > end));
        assert!(waits.iter().all(|(from, to)| (*to - *from).num_milliseconds() % 1_000 == 0));
        assert!(waits.len() > 10);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_three_intervals_is_overdue() {
    let mut house = House::new(1);
    house.edit(Edit::default().add(monitor(1, every(1))).add(monitor(2, every(2)))).await;
    house.pass(Duration::from_millis(8_500), |_| (Duration::from_secs(60), Next::Phase, 1)).await;
    let overdue = house.stats.overdue(Instant::now());
    assert_eq!(overdue.count, 1);
    assert!(overdue.example.is_some_and(|label| label.starts_with("monitor ")));
    assert!(overdue.silent <= Duration::from_secs(1));
    // More room: it starts, nothing is overdue, and the gap is closed.
    house.limit.send(10).unwrap();
    let seen = house.seconds(1).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(
        house.stats.overdue(Instant::now()),
        Overdue { silent: house.stats.overdue(Instant::now()).silent, ..Overdue::default() }
    );
    assert_eq!(house.stats.waiting(), 0);
    let last = *house.gaps().last().unwrap();
    assert_eq!(last.monitor, Some(seen[0].monitor));
    let slot = house.wall.begin + TimeDelta::from_std(seen[0].due_at - house.wall.start).unwrap();
    assert!((last.to_at - slot).abs() < TimeDelta::milliseconds(50));
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_recorded_at_its_start_every_minute_and_at_its_end() {
    let mut house = House::new(1);
    house.edit(Edit::default().add(monitor(1, every(1))).add(monitor(2, every(1)))).await;
    house.pass(Duration::from_secs(200), |_| (Duration::from_secs(1_000), Next::Phase, 1)).await;
    assert_eq!(house.gaps().len(), 1 + 3);
    house.trigger.fire();
    (&mut house.task).await.unwrap();
    let gaps = house.gaps();
    assert_eq!(gaps.len(), 5, "the end of the daemon ends the wait");
    assert!(gaps.iter().all(|gap| gap.from_at == gaps[0].from_at && gap.monitor == gaps[0].monitor));
    assert!(gaps.is_sorted_by(|a, b| a.to_at < b.to_at));
}

#[tokio::test(start_paused = true)]
async fn a_late_dispatcher_loses_the_slots_between_and_stays_in_phase() {
    let mut house = House::new(1);
    house.edit(Edit::default().add(monitor(1, every(1)))).await;
    house.pass(Duration::from_secs(1), |_| (Duration::from_secs(6), Next::Phase, 1)).await;
    house.edit((2..10).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(1))))).await;
    advance(Duration::from_millis(1_950)).await;
    let seen = house.pass(Duration::from_secs(10), |_| (Duration::from_millis(10), Next::Phase, 1)).await;
    for number in 2..10 {
        let mine = of(&seen, number);
        assert!(mine.iter().all(|check| check.at - check.due_at < Duration::from_secs(1)));
        assert!(intervals(&mine).iter().all(|time| *time == Duration::from_secs(1)), "in phase");
    }
    let gaps = house.gaps();
    assert!(gaps.len() >= 8);
    assert!(gaps.iter().all(|gap| (gap.to_at - gap.from_at).num_milliseconds() % 1_000 == 0), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_and_returns_stands_at_the_end_of_the_line() {
    let mut house = House::new(1);
    house.edit(Edit::default().add(monitor(0, every(1)))).await;
    house.pass(Duration::from_secs(1), |_| (Duration::from_secs(200), Next::Phase, 1)).await;
    for number in [1, 2] {
        house.edit(Edit::default().add(monitor(number, every(60)))).await;
        house.seconds(61).await;
    }
    assert_eq!(house.stats.waiting(), 2);
    house.edit(Edit::default().remove(1)).await;
    house.edit(Edit::default().add(monitor(1, every(1)))).await;
    house.seconds(10).await;
    assert_eq!(house.stats.waiting(), 2);
    let seen = house.seconds(100).await;
    assert_eq!([seen[0].monitor, seen[1].monitor], [id(2), id(1)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_while_it_waits_is_not_started() {
    let mut house = House::new(1);
    house.edit(Edit::default().add(monitor(1, every(1))).add(monitor(2, every(1))).add(monitor(3, every(1)))).await;
    let first = house.pass(Duration::from_secs(3), |_| (Duration::from_secs(10), Next::Phase, 1)).await[0].monitor;
    let mut others = (1..=3).filter(|n| id(*n) != first);
    let (gone, paused) = (others.next().unwrap(), others.next().unwrap());
    let mut off = monitor(paused, every(1));
    off.active = false;
    house.edit(Edit::default().remove(gone).change(off)).await;
    assert_eq!(house.stats.waiting(), 0);
    assert!(house.seconds(20).await.iter().all(|check| check.monitor == first));
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_holds_as_soon_as_checks_end() {
    let mut house = House::new(20);
    house.edit((0..20).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(1))))).await;
    house.pass(Duration::from_secs(2), |_| (Duration::from_secs(3), Next::Phase, 1)).await;
    assert_eq!(house.stats.in_flight(), 20);
    house.limit.send(5).unwrap();
    house.pass(Duration::from_secs(10), |_| (Duration::from_secs(3), Next::Phase, 1)).await;
    assert_eq!(house.stats.in_flight(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_tried_again_in_the_next_slot() {
    let mut house = House::starting(100, START, 1);
    house.edit((0..40).fold(Edit::default(), |edit, n| edit.add(monitor(n, cron("*/10 * * * * *"))))).await;
    let seen = house.seconds(12).await;
    assert_eq!(seen.iter().map(|s| s.monitor).collect::<HashSet<_>>().len(), 40);
    assert!(seen.iter().all(|check| check.at - check.due_at <= Duration::from_millis(40 * 50)));
    assert!(house.gaps().is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_ends_at_once_with_checks_in_flight_and_when_the_pool_goes() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(1)))).await;
    house.pass(Duration::from_secs(2), |_| (Duration::from_secs(500), Next::Phase, 1)).await;
    let before = Instant::now();
    house.trigger.fire();
    (&mut house.task).await.unwrap();
    assert_eq!(before, Instant::now());

    let house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(1)))).await;
    drop(house.due);
    house.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_done_that_nobody_waits_for_changes_nothing() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(1)))).await;
    for monitor in [id(1), id(99)] {
        house.done.send(Done { monitor, next: Next::Retry(Duration::ZERO), attempt: 2 }).await.unwrap();
    }
    let seen = house.seconds(10).await;
    assert_eq!(seen.len(), 10);
    assert!(seen.iter().all(|check| check.attempt == 1));
}

/// The figure for the whole of it is in the note of the change; this one shows that none is forgotten.
#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_at_once_are_spread_over_their_interval() {
    let mut house = House::new(100_000);
    house.edit((0..20).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(1))))).await;
    house.edit((1_000..101_000).fold(Edit::default(), |edit, n| edit.add_new(monitor(n, every(60))))).await;
    let seen = house.seconds(60).await;
    assert_punctual(&seen);
    assert_eq!(seen.len(), 100_000 + 20 * 60);
    let mut slots: HashMap<Instant, usize> = HashMap::new();
    for check in &seen {
        *slots.entry(check.due_at).or_default() += 1;
    }
    // 83 a slot on the average.
    assert!(slots.values().all(|count| *count < 200));
    assert!(house.gaps().is_empty());
}

#[derive(Clone, Debug)]
struct Plan {
    limit: usize,
    intervals: Vec<u64>,
    /// What the checks take, in turn, milliseconds; and whether they ask for a re-check after so many.
    checks: Vec<(u64, Option<u64>)>,
    /// Which monitor is edited each second, and how.
    edits: Vec<(usize, u8)>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let check = (0u64..5_000, prop::option::of(0u64..4_000));
    (
        1usize..6,
        prop::collection::vec(1u64..8, 1..8),
        prop::collection::vec(check, 1..20),
        prop::collection::vec((0usize..8, 0u8..4), 0..30),
    )
        .prop_map(|(limit, intervals, checks, edits)| Plan { limit, intervals, checks, edits })
}

async fn play(plan: Plan) -> Result<(), TestCaseError> {
    let mut house = House::new(plan.limit);
    let cadence = |n: usize| every(plan.intervals[n % plan.intervals.len()]);
    let count = plan.intervals.len();
    house.edit((0..count).fold(Edit::default(), |edit, n| edit.add_new(monitor(n as u128, cadence(n))))).await;
    let mut running: Vec<(MonitorId, Instant)> = Vec::new();
    let mut turn = 0;
    let mut edits = plan.edits.iter();
    for _ in 0..40 {
        let mut wrong = None;
        house
            .pass(Duration::from_millis(998), |due| {
                let now = Instant::now();
                let monitor = due.entry.monitor.id;
                let (takes, retry) = plan.checks[turn % plan.checks.len()];
                turn += 1;
                running.retain(|(_, until)| *until > now);
                if running.iter().any(|(other, _)| *other == monitor) {
                    wrong = Some("two checks of one monitor");
                }
                running.push((monitor, now + Duration::from_millis(takes)));
                if running.len() > plan.limit {
                    wrong = Some("more than the limit");
                }
                let next = retry.map_or(Next::Phase, |ms| Next::Retry(Duration::from_millis(ms)));
                (Duration::from_millis(takes), next, 2)
            })
            .await;
        prop_assert_eq!(wrong, None);
        if let Some((place, kind)) = edits.next() {
            let n = place % count;
            let mut changed = monitor(n as u128, if *kind == 3 { every(9) } else { cadence(n) });
            changed.active = *kind != 2;
            house
                .edit(match kind {
                    0 => Edit::default().remove(n as u128),
                    1 => Edit::default().add_new(changed),
                    _ => Edit::default().change(changed),
                })
                .await;
        }
    }
    // Liveness: with everybody back and quick checks, each is checked again.
    house.limit.send(100).unwrap();
    house.edit((0..count).fold(Edit::default(), |edit, n| edit.add(monitor(n as u128, cadence(n))))).await;
    house.seconds(10).await;
    let seen = house.seconds(10).await;
    for n in 0..count {
        prop_assert!(!of(&seen, n as u128).is_empty(), "monitor {} is forgotten", n);
    }
    prop_assert_eq!(house.stats.waiting(), 0);
    prop_assert_eq!(house.stats.overdue(Instant::now()).count, 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn never_two_in_flight_whatever_happens(plan in plans()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(plan))?;
    }
}
