use super::*;
use chrono::TimeZone as _;
use proptest::prelude::*;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Occurrences after `from`, as the zone's clock with its offset shows them.
fn occurrences(expression: &str, zone: Tz, from: &str, count: usize) -> Vec<String> {
    let Timing::Cron(cron) = Timing::cron(expression, zone).unwrap() else { panic!("not cron") };
    std::iter::successors(Some(utc(from)), |after| cron.next_after(*after))
        .skip(1)
        .take(count)
        .map(|time| time.with_timezone(&zone).format("%m-%d %H:%M:%S %z").to_string())
        .collect()
}

#[test]
fn the_missing_hour() {
    use chrono_tz::{America::New_York, Australia::Lord_Howe, Europe::Berlin};
    // Berlin skips 02:00 to 03:00 on 29 March 2026. A fixed time runs once, behind the gap.
    assert_eq!(
        occurrences("30 2 * * *", Berlin, "2026-03-28T12:00:00Z", 2),
        ["03-29 03:00:00 +0200", "03-30 02:30:00 +0200"]
    );
    // A repetition has nothing in the gap.
    assert_eq!(
        occurrences("0 */30 * * * *", Berlin, "2026-03-29T00:00:00Z", 4),
        ["03-29 01:30:00 +0100", "03-29 03:00:00 +0200", "03-29 03:30:00 +0200", "03-29 04:00:00 +0200"]
    );
    assert_eq!(
        occurrences("30 2,14 * * *", Berlin, "2026-03-28T20:00:00Z", 2),
        ["03-29 14:30:00 +0200", "03-30 02:30:00 +0200"]
    );
    assert_eq!(
        occurrences("30 2 * * *", New_York, "2026-03-07T12:00:00Z", 2),
        ["03-08 03:00:00 -0400", "03-09 02:30:00 -0400"]
    );
    // Lord Howe moves by half an hour: 02:00 to 02:30 is missing on 4 October 2026.
    assert_eq!(
        occurrences("15 2 * * *", Lord_Howe, "2026-10-03T00:00:00Z", 2),
        ["10-04 02:30:00 +1100", "10-05 02:15:00 +1100"]
    );
}

#[test]
fn the_repeated_hour() {
    use chrono_tz::{America::New_York, Australia::Lord_Howe, Europe::Berlin};
    // Berlin has 02:00 to 03:00 twice on 25 October 2026. A repetition runs in both.
    assert_eq!(
        occurrences("0 */30 * * * *", Berlin, "2026-10-24T23:45:00Z", 6),
        [
            "10-25 02:00:00 +0200",
            "10-25 02:30:00 +0200",
            "10-25 02:00:00 +0100",
            "10-25 02:30:00 +0100",
            "10-25 03:00:00 +0100",
            "10-25 03:30:00 +0100"
        ]
    );
    // A fixed time runs the first time round.
    assert_eq!(
        occurrences("30 2 * * *", Berlin, "2026-10-24T12:00:00Z", 2),
        ["10-25 02:30:00 +0200", "10-26 02:30:00 +0100"]
    );
    // Also when the search begins in the second hour.
    assert_eq!(occurrences("45 2 * * *", Berlin, "2026-10-25T01:10:00Z", 1), ["10-26 02:45:00 +0100"]);
    assert_eq!(
        occurrences("0 0 * * * *", New_York, "2026-11-01T04:30:00Z", 3),
        ["11-01 01:00:00 -0400", "11-01 01:00:00 -0500", "11-01 02:00:00 -0500"]
    );
    // Lord Howe repeats 01:30 to 02:00 on 5 April 2026.
    assert_eq!(
        occurrences("*/15 * * * *", Lord_Howe, "2026-04-04T14:29:00Z", 5),
        [
            "04-05 01:30:00 +1100",
            "04-05 01:45:00 +1100",
            "04-05 01:30:00 +1030",
            "04-05 01:45:00 +1030",
            "04-05 02:00:00 +1030"
        ]
    );
}

#[test]
fn without_daylight_saving_every_hour_is_alike() {
    let found = occurrences("0 30 2 * * *", Tz::UTC, "2026-10-24T12:00:00Z", 3);
    assert_eq!(found, ["10-25 02:30:00 +0000", "10-26 02:30:00 +0000", "10-27 02:30:00 +0000"]);
    let office = occurrences("0 */5 8-18 * * Mon-Fri", Tz::UTC, "2026-11-20T18:50:30Z", 2);
    assert_eq!(office, ["11-20 18:55:00 +0000", "11-23 08:00:00 +0000"]);
}

#[test]
fn a_zone_that_skips_a_day_does_not_end_a_schedule() {
    // Samoa had no 30 December 2011.
    let found = occurrences("0 12 30 * *", chrono_tz::Pacific::Apia, "2011-12-29T00:00:00Z", 1);
    assert_eq!(found, ["01-30 12:00:00 +1400"]);
}

#[test]
fn expressions_are_checked() {
    for good in [
        "* * * * *",
        "* * * * * *",
        "0 */5 8-18 * * Mon-Fri",
        "0 0 29 2 *",
        "0 0 29 2 +1",
        "0 0 31 1,2 *",
        "0 0 L * *",
        "0 12 * * 5#2",
        "  0   0 1 JAN ? ",
    ] {
        assert_eq!(validate_cron(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("", "this one has 0"),
        ("* * * *", "this one has 4"),
        ("* * * * * * 2030", "this one has 7"),
        ("@daily", "this one has 1"),
        ("0 0 30 2 *", "never occurs"),
        ("12 * , * * *", "never occurs"),
        (", * * * *", "never occurs"),
        ("0 0 31 4,6,9,11 *", "never occurs"),
        ("60 * * * *", "not a cron expression"),
        ("* 24 * * *", "not a cron expression"),
        ("a b c d e", "not a cron expression"),
        ("*/0 * * * *", "not a cron expression"),
        ("ä ö ü ß é", "not a cron expression"),
        ("5-1 * * * *", "not a cron expression"),
    ] {
        let message = validate_cron(bad).unwrap_err();
        assert!(message.contains(why), "{bad}: {message}");
    }
    assert!(validate_cron(&"1,".repeat(200)).unwrap_err().contains("256"));
}

#[test]
fn intervals_have_a_phase_that_a_restart_keeps() {
    let id = MonitorId(uuid::Uuid::from_u128(77));
    let start = Instant::now();
    let wall = utc("2026-11-22T12:00:00.123Z");
    let timing = Timing::every(id, Duration::from_secs(30));
    let first = Timeline::new(wall, start);
    let due = first.wall_of(timing.next_after(first.slot(start), &first).unwrap());
    // Started again 10 minutes and some later, in another process.
    let second = Timeline::new(wall + TimeDelta::milliseconds(600_777), start);
    let again = second.wall_of(timing.next_after(second.slot(start), &second).unwrap());
    assert_eq!((again - due).num_milliseconds() % 30_000, 0);
    assert!(due > wall && due <= wall + TimeDelta::seconds(30));
    assert_eq!(due.timestamp_millis() % 50, 0);
}

#[test]
fn a_step_moves_wall_times_and_no_slots() {
    let start = Instant::now();
    let mut line = Timeline::new(utc("2026-11-22T12:00:00Z"), start);
    let later = start + Duration::from_secs(60);
    let slot = line.slot(later);
    let drift = line.drift(utc("2026-11-22T13:01:00Z"), later);
    assert_eq!(drift, TimeDelta::hours(1));
    line.shift(drift);
    assert_eq!(line.slot(later), slot);
    assert_eq!(line.instant(slot), later);
    assert_eq!(line.wall(later), utc("2026-11-22T13:01:00Z"));
    assert_eq!(line.slot_at(utc("2026-11-22T13:01:00Z")), slot);
}

#[test]
fn a_small_correction_keeps_the_occurrence() {
    let start = Instant::now();
    let before = Timeline::new(utc("2026-11-22T12:00:00Z"), start);
    let slot = before.slot_at(utc("2026-11-22T12:00:30Z"));
    for ms in [-1_999i64, -777, 312, 1_999] {
        let mut after = before.clone();
        after.shift(TimeDelta::milliseconds(ms));
        let moved = after.wall_of(carry_over(slot, &before, &after));
        let late = moved - utc("2026-11-22T12:00:30Z");
        assert!((0..50).contains(&late.num_milliseconds()), "{ms}: {late}");
    }
}

#[test]
fn strange_clocks_do_no_harm() {
    let start = Instant::now();
    for wall in [DateTime::<Utc>::MIN_UTC, Utc.timestamp_opt(-5, 0).unwrap(), DateTime::<Utc>::MAX_UTC] {
        let mut line = Timeline::new(wall, start);
        let timing = Timing::cron("0 0 * * *", Tz::UTC).unwrap();
        let slot = line.slot(start + Duration::from_secs(5));
        let _ = (line.instant(slot), line.instant(u64::MAX), timing.next_after(slot, &line));
        line.shift(TimeDelta::MAX);
        let _ = (line.wall(start), line.wall_of(slot), line.slot_at(wall), timing.passed(slot, slot + 9, &line));
    }
}

proptest! {
    #[test]
    fn the_next_slot_is_the_first_in_phase(id: u128, seconds in 1u64..=86_400, slot in 0u64..1 << 40) {
        let timing = Timing::every(MonitorId(uuid::Uuid::from_u128(id)), Duration::from_secs(seconds));
        let line = Timeline::new(Utc.timestamp_opt(0, 0).unwrap(), Instant::now());
        let Timing::Every { period, phase } = timing else { unreachable!() };
        let next = timing.next_after(slot, &line).unwrap();
        prop_assert!(next > slot && next <= slot + period);
        prop_assert_eq!(next % period, phase);
        prop_assert_eq!(timing.passed(slot, next - 1, &line), 0);
        prop_assert_eq!(timing.passed(slot, next + 2 * period, &line), 3);
    }

    #[test]
    fn cron_goes_forward_and_matches(from in 1_500_000_000i64..2_500_000_000, hour in 0u32..24, step in 1u32..60) {
        let zone = Tz::Europe__Berlin;
        let Timing::Cron(cron) = Timing::cron(&format!("*/{step} {hour} * * *"), zone).unwrap() else { unreachable!() };
        let from = Utc.timestamp_opt(from, 250_000_000).unwrap();
        let next = cron.next_after(from).unwrap();
        let local = next.with_timezone(&zone);
        prop_assert!(next > from);
        prop_assert_eq!(chrono::Timelike::hour(&local), hour);
        prop_assert_eq!(chrono::Timelike::minute(&local) % step, 0);
    }

    #[test]
    fn no_expression_panics(text in "[0-9*,/LW#?+ -]{0,24}") {
        let _ = validate_cron(&text);
    }
}

/// The times of an expression in UTC of which only the first counts in each window.
fn thinned(expression: &str, window_s: u64, from: &str, count: usize) -> Vec<DateTime<Utc>> {
    let window = Some(Duration::from_secs(window_s));
    let cron = CronTiming { cron: parse(expression).unwrap(), zone: Tz::UTC, window };
    let from = from.parse().unwrap();
    std::iter::successors(Some(from), |at| cron.next_after(*at)).skip(1).take(count).collect()
}

#[test]
fn a_schedule_has_one_time_in_each_window() {
    let shown = |expression, window_s, from| -> Vec<String> {
        thinned(expression, window_s, from, 3).iter().map(|at| at.format("%d %H:%M:%S").to_string()).collect()
    };
    for (expression, window_s, from, wanted) in [
        ("* * * * *", 300, "2026-11-24T12:01:30Z", ["24 12:05:00", "24 12:10:00", "24 12:15:00"]),
        ("* * * * *", 300, "2026-11-24T11:59:59Z", ["24 12:00:00", "24 12:05:00", "24 12:10:00"]),
        ("* * * * *", 1, "2026-11-24T11:59:59Z", ["24 12:00:00", "24 12:01:00", "24 12:02:00"]),
        // What is slow enough keeps all its times.
        ("2 3 * * *", 3600, "2026-11-24T02:58:00Z", ["24 03:02:00", "25 03:02:00", "26 03:02:00"]),
        ("7,8,22 * * * *", 900, "2026-11-24T12:07:30Z", ["24 12:22:00", "24 13:07:00", "24 13:22:00"]),
        ("*/20 * * * * *", 60, "2026-11-24T12:00:20Z", ["24 12:01:00", "24 12:02:00", "24 12:03:00"]),
    ] {
        assert_eq!(shown(expression, window_s, from), wanted, "{expression} {window_s} {from}");
    }
}

proptest::proptest! {
    #[test]
    fn windows_only_leave_times_out(minutes in "[0-9],[1-5][0-9]|\\*/[1-9]|\\*", window_s in 2_u64..7200, from in 0_i64..100_000) {
        let from = DateTime::from_timestamp(1_795_000_000 + from, 0).unwrap();
        let expression = format!("{minutes} * * * *");
        let found = thinned(&expression, window_s, &from.to_rfc3339(), 6);
        let all = CronTiming { cron: parse(&expression).unwrap(), zone: Tz::UTC, window: None };
        let window = |at: DateTime<Utc>| at.timestamp() as u64 / window_s;
        // By counting through all times: the first of its window, unless that has passed.
        let begin = DateTime::from_timestamp((window(from) * window_s) as i64 - 1, 0).unwrap();
        let mut last = None;
        let every = std::iter::successors(Some(begin), |at| all.next_after(*at)).skip(1);
        let first = every.filter(|at| last.replace(window(*at)) != Some(window(*at))).filter(|at| *at > from);
        proptest::prop_assert_eq!(found, first.take(6).collect::<Vec<_>>());
    }
}
