//! Clocks that step, processes that stand still, ticks that do not come.

use super::*;

/// Minutes of paused time with a wall clock that steps after the first.
async fn step(ms: i64) -> (House, Vec<Seen>) {
    let mut house = House::new(100);
    let edit = (0..10).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(10))));
    house.edit(edit.add(monitor(50, cron("0 30 * * * *"))).add(monitor(51, cron("*/15 * * * * *")))).await;
    let mut seen = house.seconds(60).await;
    house.wall.ahead_ms.fetch_add(ms, Relaxed);
    seen.extend(house.seconds(60 * 60).await);
    (house, seen)
}

fn wall_of(house: &House, check: &Seen, ahead_ms: i64) -> DateTime<Utc> {
    house.wall.begin + TimeDelta::from_std(check.due_at - house.wall.start).unwrap() + TimeDelta::milliseconds(ahead_ms)
}

#[tokio::test(start_paused = true)]
async fn intervals_go_on_whatever_the_wall_clock_does() {
    for ms in [3_600_000, -3_600_000, 86_400_000 * 365, -86_400_000 * 365, 700, -700] {
        let (house, seen) = step(ms).await;
        assert_punctual(&seen);
        for number in 0..10 {
            let mine = of(&seen, number);
            assert_eq!(mine.len(), 366, "{ms}");
            assert!(intervals(&mine).iter().all(|time| *time == Duration::from_secs(10)), "{ms}");
        }
        let gaps = house.gaps();
        if ms > 2_000 {
            assert_eq!(gaps.len(), 1);
            assert_eq!((gaps[0].monitor, gaps[0].reason), (None, GapReason::ClockStepped));
            assert_eq!((gaps[0].to_at - gaps[0].from_at).num_milliseconds(), ms);
            let seen_after = gaps[0].from_at - (house.wall.begin + TimeDelta::seconds(60));
            assert!((0..=1_100).contains(&seen_after.num_milliseconds()), "{seen_after}");
        } else {
            assert_eq!(gaps, []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cron_follows_the_wall_clock() {
    // From 12:01 to 13:01: half past thirteen comes 29 minutes later.
    for ms in [3_600_000, -3_600_000, 86_400_000] {
        let (house, seen) = step(ms).await;
        let half_past = of(&seen, 50);
        assert_eq!(half_past.len(), 1, "{ms}");
        let wall = wall_of(&house, &half_past[0], ms);
        assert_eq!(wall.timestamp_millis().rem_euclid(3_600_000), 1_800_000);
        let mine = of(&seen, 51);
        assert!((242..=245).contains(&mine.len()), "{ms}: {}", mine.len());
        assert!(intervals(&mine).iter().all(|time| *time <= Duration::from_secs(31)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cron_time_comes_sooner_or_later_when_the_clock_steps() {
    // At 12:01 the clock steps; the monitor is due when it shows 15:00.
    for (ms, minutes) in [(0, 179), (3_600_000, 119), (-3_600_000, 239), (37 * 60_000, 142)] {
        let mut house = House::new(10);
        house.edit(Edit::default().add(monitor(1, cron("0 15 * * *")))).await;
        house.seconds(60).await;
        house.wall.ahead_ms.fetch_add(ms, Relaxed);
        let stepped = Instant::now();
        let seen = house.seconds(5 * 3_600).await;
        assert_eq!(seen.len(), 1, "{ms}");
        assert_eq!((seen[0].due_at - stepped).as_secs().div_ceil(60), minutes, "{ms}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_correction_neither_doubles_nor_loses_an_occurrence() {
    for ms in [-1_900, -400, 400, 1_900] {
        let (house, seen) = step(ms).await;
        let mine = of(&seen, 51);
        let named: Vec<_> = mine
            .iter()
            .map(|check| {
                let after = check.due_at - house.wall.start > Duration::from_secs(61);
                let wall = wall_of(&house, check, if after { ms } else { 0 });
                // To the nearest quarter of a minute.
                (wall.timestamp_millis() + 7_500) / 15_000
            })
            .collect();
        assert!(named.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ms}: {named:?}");
        assert_eq!(house.gaps(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_standstill_is_one_gap_and_no_burst() {
    let mut house = House::new(1_000);
    house.edit((0..200).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(10))))).await;
    let before = house.seconds(30).await;
    let stopped = house.wall.now();
    // Eight hours: more than a turn of the wheel.
    advance(Duration::from_secs(8 * 3_600)).await;
    let resumed = Instant::now();
    let after = house.seconds(30).await;
    let gaps = house.gaps();
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].monitor, gaps[0].reason), (None, GapReason::Suspended));
    assert!((gaps[0].from_at - stopped).abs() <= TimeDelta::seconds(1));
    assert!((gaps[0].to_at - house.wall.now() + TimeDelta::seconds(30)).abs() <= TimeDelta::seconds(1));
    assert_eq!(after.len(), 600);
    assert_punctual(&after);
    assert!(after.iter().filter(|check| check.at < resumed + Duration::from_secs(1)).count() < 40);
    for number in 0..200 {
        let apart = of(&after, number)[0].due_at - of(&before, number)[0].due_at;
        assert_eq!(apart.as_millis() % 10_000, 0, "in phase");
    }
    assert_eq!(house.stats.missed_suspended(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_standstill_does_not_swallow_a_confirmation() {
    let mut house = House::new(10);
    house.edit(Edit::default().add_new(monitor(1, every(86_400)))).await;
    let first = house.pass(Duration::from_secs(3), |_| (Duration::ZERO, Next::Retry(Duration::from_secs(5)), 2)).await;
    assert_eq!(first.len(), 1);
    advance(Duration::from_secs(60)).await;
    let seen = house.seconds(11).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn a_short_delay_loses_nothing() {
    let mut house = House::new(100);
    house.edit((0..50).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(10))))).await;
    house.seconds(10).await;
    advance(Duration::from_millis(1_900)).await;
    let seen = house.pass(Duration::from_millis(8_100), |_| quick()).await;
    assert_eq!(seen.iter().map(|s| s.monitor).collect::<HashSet<_>>().len(), 50);
    assert!(house.gaps().is_empty());
    assert!(house.stats.lateness().iter().skip(5).sum::<u64>() > 0, "the delay shows in the lateness");
}

#[tokio::test(start_paused = true)]
async fn it_needs_no_tick() {
    let mut house = House::new(100);
    house.edit((0..20).fold(Edit::default(), |edit, n| edit.add(monitor(n, every(1))))).await;
    let tick = house.tick.clone();
    let ticking = tokio::spawn(async move {
        for _ in 0..10 {
            let _ = tick.try_send(());
            sleep(Duration::from_secs(1)).await;
        }
    });
    let with = house.seconds(10).await;
    ticking.await.unwrap();
    let without = house.seconds(10).await;
    // And when the job that sends it has gone.
    let (gone, _) = mpsc::channel(1);
    house.tick = gone;
    let closed = house.seconds(10).await;
    for seen in [with, without, closed] {
        assert_eq!(seen.len(), 200);
        assert_punctual(&seen);
    }
    assert!(house.stats.overdue(Instant::now()).silent <= Duration::from_secs(1));
}
