//! Phases, edits, first checks and re-checks.

use super::*;

#[tokio::test(start_paused = true)]
async fn checks_come_exactly_at_their_interval() {
    let mut house = House::new(1_000);
    let edit = (0..50).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(if n < 25 { 1 } else { 10 }))));
    house.edit(edit).await;
    let seen = house.seconds(60).await;
    assert_punctual(&seen);
    for number in 0..50 {
        let interval = Duration::from_secs(if number < 25 { 1 } else { 10 });
        let mine = of(&seen, number);
        assert_eq!(mine.len() as u64, 60 / interval.as_secs(), "monitor {number}");
        assert!(intervals(&mine).iter().all(|time| *time == interval));
        assert!(mine.iter().all(|check| check.attempt == 1));
    }
    assert_eq!(house.stats.fired(), seen.len() as u64);
    assert_eq!(house.stats.lateness().iter().sum::<u64>(), seen.len() as u64);
    assert_eq!((house.stats.skipped_running(), house.stats.lost_overloaded()), (0, 0));
    assert!(house.gaps().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_and_a_reload_do_not_bunch() {
    let mut house = House::new(10_000);
    house.edit((0..1_200).fold(Edit::default(), |edit, n| edit.add_new(monitor(n, every(60))))).await;
    let first = house.seconds(60).await;
    house.edit((0..1_200).fold(Edit::default(), |edit, n| edit.change(monitor(n, every(60))))).await;
    let second = house.seconds(60).await;
    for seen in [&first, &second] {
        assert_eq!(seen.iter().map(|s| s.monitor).collect::<HashSet<_>>().len(), 1_200);
        let mut a_second: BTreeMap<u64, usize> = BTreeMap::new();
        for check in seen {
            *a_second.entry((check.at - house.wall.start).as_secs()).or_default() += 1;
        }
        // 20 on the average; a random spread stays below twice that.
        assert!(a_second.values().all(|count| *count < 40), "{a_second:?}");
    }
    for number in 0..1_200 {
        assert_eq!(of(&second, number)[0].due_at - of(&first, number)[0].due_at, Duration::from_secs(60));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_phases() {
    let mut phases = Vec::new();
    for start in ["2026-11-22T12:00:00.123Z", "2026-11-22T13:07:41.987Z"] {
        let mut house = House::starting(100, start, 100);
        house.edit((0..20).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(30))))).await;
        let seen = house.seconds(30).await;
        let wall = |check: &Seen| house.wall.begin + TimeDelta::from_std(check.due_at - house.wall.start).unwrap();
        phases.push((0..20).map(|n| wall(&of(&seen, n)[0]).timestamp_millis() % 30_000).collect::<Vec<_>>());
    }
    assert_eq!(phases[0], phases[1]);
}

#[tokio::test(start_paused = true)]
async fn an_edit_keeps_the_phase_and_a_new_interval_does_not() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(10))).add(monitor(2, every(10)))).await;
    let before = house.seconds(35).await;
    let mut renamed = monitor(1, every(10));
    renamed.name = "other".into();
    house.edit(Edit::default().change(renamed).change(monitor(2, every(3)))).await;
    let after = house.seconds(60).await;
    let mine: Vec<_> = of(&before, 1).into_iter().chain(of(&after, 1)).collect();
    assert!(intervals(&mine).iter().all(|time| *time == Duration::from_secs(10)), "{mine:?}");
    assert!(intervals(&of(&after, 2)).iter().all(|time| *time == Duration::from_secs(3)));
    assert_eq!(of(&after, 2).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn removed_and_paused_monitors_are_left_alone() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(5))).add(monitor(2, every(5)))).await;
    let before = house.seconds(10).await;
    let mut paused = monitor(2, every(5));
    paused.active = false;
    house.edit(Edit::default().remove(1).change(paused)).await;
    assert!(house.seconds(30).await.is_empty());
    house.edit(Edit::default().add(monitor(1, every(5))).change(monitor(2, every(5)))).await;
    let after = house.seconds(10).await;
    for number in [1, 2] {
        let apart = of(&after, number)[0].due_at - of(&before, number)[0].due_at;
        assert_eq!(apart.as_millis() % 5_000, 0, "back in its phase");
        assert_eq!(of(&after, number).len(), 2);
    }
    assert!(house.gaps().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_returns_while_its_check_runs_gets_no_second_one() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(2)))).await;
    let slow = (Duration::from_secs(9), Next::Retry(Duration::from_millis(100)), 2);
    let first = house.pass(Duration::from_secs(3), |_| slow).await;
    assert_eq!(first.len(), 1);
    house.edit(Edit::default().remove(1)).await;
    house.edit(Edit::default().add_new(monitor(1, every(2)))).await;
    assert_eq!(house.stats.in_flight(), 1);
    let rest = house.pass(Duration::from_secs(12), |_| quick()).await;
    assert!(rest[0].at >= first[0].at + Duration::from_secs(9), "{rest:?}");
    // What the old monitor's machine wanted next is not the new one's business.
    assert_eq!(rest[0].attempt, 1);
    assert_eq!((rest[0].due_at - first[0].due_at).as_millis() % 2_000, 0);
    // Gone for good: its place is freed when its check is done.
    house.pass(Duration::from_secs(2), |_| slow).await;
    house.edit(Edit::default().remove(1)).await;
    assert!(house.seconds(20).await.is_empty());
    assert_eq!(house.stats.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn few_new_monitors_are_checked_within_two_seconds() {
    let mut house = House::new(1_000);
    house.edit((0..100).fold(Edit::default(), |edit, n| edit.add_new(monitor(n, every(86_400))))).await;
    let seen = house.seconds(2).await;
    assert_eq!(seen.len(), 100);
    let mut slots: BTreeMap<Instant, usize> = BTreeMap::new();
    for check in &seen {
        *slots.entry(check.due_at).or_default() += 1;
    }
    assert!(slots.values().all(|count| *count <= 4), "spread: {slots:?}");
    // One at a time as well, and from then on in phase.
    house.edit(Edit::default().add_new(monitor(778, every(30)))).await;
    let first = house.seconds(2).await;
    assert_eq!(of(&first, 778).len(), 1);
    let rest = of(&house.seconds(90).await, 778);
    assert_eq!(rest.len(), 3);
    assert!(intervals(&rest).iter().all(|time| *time == Duration::from_secs(30)));
}

#[tokio::test(start_paused = true)]
async fn many_new_monitors_wait_for_their_phase() {
    let mut house = House::new(1_000);
    house.edit((0..101).fold(Edit::default(), |edit, n| edit.add_new(monitor(n, every(300))))).await;
    let mut seen = house.seconds(2).await;
    assert!(seen.len() < 10);
    seen.extend(house.seconds(298).await);
    assert_eq!(seen.len(), 101, "once each");
}

#[tokio::test(start_paused = true)]
async fn a_paused_monitor_never_checked_is_checked_soon_after_it_is_resumed() {
    let mut house = House::new(10);
    let mut paused = monitor(1, every(86_400));
    paused.active = false;
    house.edit(Edit::default().add_new(paused)).await;
    assert!(house.seconds(60).await.is_empty());
    house.edit(Edit::default().change(monitor(1, every(86_400)))).await;
    assert_eq!(house.seconds(2).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_recheck_comes_after_its_time_and_then_the_phase_again() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(60)))).await;
    let retry = Duration::from_secs(5);
    let seen = house
        .pass(Duration::from_secs(180), |due| match due.attempt {
            1 => (Duration::from_secs(1), Next::Retry(retry), 2),
            2 => (Duration::from_secs(1), Next::Retry(retry), 3),
            _ => (Duration::from_secs(1), Next::Phase, 1),
        })
        .await;
    assert_punctual(&seen);
    let attempts: Vec<_> = seen.iter().map(|check| check.attempt).collect();
    assert_eq!(attempts, [1, 2, 3].repeat(3));
    for pair in seen.windows(2) {
        let after = pair[1].due_at - pair[0].at;
        match pair[1].attempt {
            1 => assert_eq!((pair[1].due_at - seen[0].due_at).as_secs() % 60, 0),
            _ => assert!(after >= Duration::from_secs(6) && after <= Duration::from_millis(6_060), "{after:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_phase_wins_over_a_later_recheck() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, every(2)))).await;
    let seen = house
        .pass(Duration::from_secs(20), |_| (Duration::from_millis(20), Next::Retry(Duration::from_secs(3)), 2))
        .await;
    assert_eq!(seen.len(), 10);
    assert!(seen.iter().all(|check| check.attempt == 1));
    assert!(intervals(&seen).iter().all(|time| *time == Duration::from_secs(2)));
}

#[tokio::test(start_paused = true)]
async fn a_cron_monitor_is_due_when_its_expression_says() {
    let mut house = House::new(10);
    house.edit(Edit::default().add(monitor(1, cron("*/20 * * * * *"))).add(monitor(2, cron("0 0 * * *")))).await;
    let seen = house.seconds(12 * 3_600).await;
    assert_eq!(of(&seen, 1).len(), 12 * 180);
    let midnight = of(&seen, 2);
    assert_eq!(midnight.len(), 1);
    let wall = house.wall.begin + TimeDelta::from_std(midnight[0].due_at - house.wall.start).unwrap();
    assert_eq!(wall.timestamp_millis().rem_euclid(86_400_000), 0);
    assert_punctual(&seen);
}
