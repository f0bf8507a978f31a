use proptest::prelude::*;

use super::*;

const BERLIN: Tz = chrono_tz::Europe::Berlin;
const NEW_YORK: Tz = chrono_tz::America::New_York;

fn local(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap()
}

fn utc(text: &str) -> DateTime<Utc> {
    local(text).and_utc()
}

fn made(zone: Tz, start: &str, hours: i64, rule: &str) -> Recurrence {
    let rule = Some(rule).filter(|rule| !rule.is_empty());
    Recurrence::new(instant(zone, local(start)), hours * 3600, zone, rule).unwrap()
}

/// The windows of a time as `from/to` in UTC.
fn shown(recurrence: &Recurrence, from: &str, to: &str) -> Vec<String> {
    let windows = recurrence.windows(utc(from), utc(to), 1000);
    windows.iter().map(|w| format!("{}/{}", w.from.format("%m-%d %H:%M"), w.to.format("%m-%d %H:%M"))).collect()
}

fn refused(zone: Tz, start: &str, seconds: i64, rule: &str) -> String {
    let (part, why) = Recurrence::new(instant(zone, local(start)), seconds, zone, Some(rule)).unwrap_err();
    format!("{part}: {why}")
}

#[test]
fn a_single_window_is_one() {
    let once = made(BERLIN, "2026-11-29 02:00", 2, "");
    assert_eq!(shown(&once, "2020-01-01 00:00", "2030-01-01 00:00"), ["11-29 01:00/11-29 03:00"]);
    assert_eq!(shown(&once, "2026-11-29 02:59", "2026-11-29 03:00"), ["11-29 01:00/11-29 03:00"]);
    for (from, to) in [("2026-11-29 03:00", "2030-01-01 00:00"), ("2020-01-01 00:00", "2026-11-29 01:00")] {
        assert_eq!(shown(&once, from, to), [""; 0], "{from} to {to}");
    }
}

/// The local time stays, in UTC it moves with the offset; a window over the change lasts as long as any other.
#[test]
fn weeks_go_right_across_both_changes_of_the_clock() {
    // 2026: Berlin changes on 29 March and 25 October, New York on 8 March and 1 November; all of them Sundays.
    let berlin = made(BERLIN, "2026-03-22 01:00", 4, "FREQ=WEEKLY;BYDAY=SU");
    assert_eq!(
        shown(&berlin, "2026-03-21 00:00", "2026-04-06 00:00"),
        ["03-22 00:00/03-22 04:00", "03-29 00:00/03-29 04:00", "04-04 23:00/04-05 03:00"]
    );
    assert_eq!(
        shown(&berlin, "2026-10-17 00:00", "2026-11-02 00:00"),
        ["10-17 23:00/10-18 03:00", "10-24 23:00/10-25 03:00", "11-01 00:00/11-01 04:00"]
    );
    let new_york = made(NEW_YORK, "2026-03-01 01:30", 4, "FREQ=WEEKLY;BYDAY=SU");
    assert_eq!(
        shown(&new_york, "2026-03-01 00:00", "2026-03-16 00:00"),
        ["03-01 06:30/03-01 10:30", "03-08 06:30/03-08 10:30", "03-15 05:30/03-15 09:30"]
    );
    // 01:30 comes twice on 1 November: the first time round, by summer time.
    assert_eq!(
        shown(&new_york, "2026-10-25 00:00", "2026-11-09 00:00"),
        ["10-25 05:30/10-25 09:30", "11-01 05:30/11-01 09:30", "11-08 06:30/11-08 10:30"]
    );
}

#[test]
fn a_time_that_the_clock_skips_keeps_its_instant_and_one_that_comes_twice_comes_once() {
    let berlin = made(BERLIN, "2026-03-27 02:30", 1, "FREQ=DAILY");
    assert_eq!(
        shown(&berlin, "2026-03-28 00:00", "2026-03-31 00:00"),
        ["03-28 01:30/03-28 02:30", "03-29 01:30/03-29 02:30", "03-30 00:30/03-30 01:30"]
    );
    assert_eq!(
        shown(&berlin, "2026-10-24 00:00", "2026-10-27 00:00"),
        ["10-24 00:30/10-24 01:30", "10-25 00:30/10-25 01:30", "10-26 01:30/10-26 02:30"]
    );
    let new_york = made(NEW_YORK, "2026-03-07 02:30", 1, "FREQ=DAILY;COUNT=3");
    assert_eq!(
        shown(&new_york, "2026-03-01 00:00", "2026-04-01 00:00"),
        ["03-07 07:30/03-07 08:30", "03-08 07:30/03-08 08:30", "03-09 06:30/03-09 07:30"]
    );
    // 03:30 stands for itself and for the 02:30 that is not: one window.
    let twice = made(BERLIN, "2026-03-28 02:30", 1, "FREQ=DAILY;BYHOUR=2,3;BYMINUTE=30;COUNT=6");
    assert_eq!(
        shown(&twice, "2026-03-28 00:00", "2026-04-01 00:00"),
        ["03-28 01:30/03-28 03:30", "03-29 01:30/03-29 02:30", "03-30 00:30/03-30 02:30"]
    );
    // The whole of 30 December 2011 is not there in Samoa.
    let apia = made(chrono_tz::Pacific::Apia, "2011-12-29 12:00", 1, "FREQ=DAILY;COUNT=3");
    assert_eq!(
        shown(&apia, "2011-12-01 00:00", "2012-02-01 00:00"),
        ["12-29 22:00/12-29 23:00", "12-30 22:00/12-30 23:00"]
    );
}

#[test]
fn dates_that_are_not_there_are_left_out() {
    let last = made(BERLIN, "2026-01-31 22:00", 1, "FREQ=MONTHLY");
    let days: Vec<String> =
        shown(&last, "2026-01-01 00:00", "2026-12-31 00:00").iter().map(|w| w[..5].into()).collect();
    assert_eq!(days, ["01-31", "03-31", "05-31", "07-31", "08-31", "10-31"]);
    let end = made(chrono_tz::UTC, "2026-01-31 22:00", 1, "FREQ=MONTHLY;BYMONTHDAY=-1;COUNT=3");
    assert_eq!(
        shown(&end, "2026-01-01 00:00", "2027-01-01 00:00"),
        ["01-31 22:00/01-31 23:00", "02-28 22:00/02-28 23:00", "03-31 22:00/03-31 23:00"]
    );
    let leap = made(chrono_tz::UTC, "2024-02-29 12:00", 24, "FREQ=YEARLY");
    let windows = leap.windows(utc("2020-01-01 00:00"), utc("2042-01-01 00:00"), 10);
    assert_eq!(windows.iter().map(|w| w.from.year()).collect::<Vec<_>>(), [2024, 2028, 2032, 2036, 2040]);
    let patch = made(NEW_YORK, "2026-01-13 22:00", 3, "RRULE:FREQ=MONTHLY;BYDAY=2TU");
    assert_eq!(
        shown(&patch, "2026-02-01 00:00", "2026-04-01 00:00"),
        ["02-11 03:00/02-11 06:00", "03-11 02:00/03-11 05:00"]
    );
}

#[test]
fn a_rule_ends_where_it_says() {
    let days = |rule: &str| {
        let windows =
            made(BERLIN, "2026-03-27 23:30", 1, rule).windows(utc("2026-01-01 00:00"), utc("2027-01-01 00:00"), 99);
        windows.len()
    };
    assert_eq!(days("FREQ=DAILY;COUNT=3"), 3);
    // 23:30 in Berlin on 29 March, the day of the change, is 21:30 UTC.
    for (until, number) in [
        ("20260329", 3),
        ("20260328", 2),
        ("20260329T233000", 3),
        ("20260329T232959", 2),
        ("20260329T213000Z", 3),
        ("20260329T212959Z", 2),
    ] {
        assert_eq!(days(&format!("FREQ=DAILY;UNTIL={until}")), number, "{until}");
    }
    assert!(refused(BERLIN, "2026-03-27 23:30", 60, "FREQ=DAILY;UNTIL=20260326").contains("never happens"));
}

#[test]
fn windows_that_touch_are_one() {
    let always = made(chrono_tz::UTC, "2026-01-01 00:00", 24, "FREQ=DAILY;COUNT=3");
    assert_eq!(shown(&always, "2026-01-01 00:00", "2026-02-01 00:00"), ["01-01 00:00/01-04 00:00"]);
    let long = made(chrono_tz::UTC, "2026-01-01 00:00", 30, "FREQ=DAILY");
    let windows = long.windows(utc("2026-06-01 00:00"), utc("2026-06-10 00:00"), 5);
    assert_eq!((windows.len(), windows[0].to >= utc("2026-06-10 00:00")), (1, true));
}

#[test]
fn what_is_wrong_is_told() {
    let at = "2026-01-01 00:00";
    for (rule, said) in [
        ("", "rrule: needs FREQ"),
        ("FREQ=SECONDLY", "rrule: FREQ=SECONDLY is too fine"),
        ("FREQ=HOURLY;INTERVAL=6", "FREQ=DAILY;BYHOUR=0,6,12,18"),
        ("FREQ=SOMETIMES", "rrule: needs FREQ"),
        ("FREQ=DAILY;COUNT=0", "COUNT must be 1 to 65535"),
        ("FREQ=DAILY;INTERVAL=-1", "INTERVAL must be"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20270101", "both COUNT and UNTIL"),
        ("FREQ=DAILY;UNTIL=tomorrow", "UNTIL=TOMORROW is no date"),
        ("FREQ=DAILY;FREQ=DAILY", "stands twice"),
        ("FREQ=DAILY;BYEASTER=1", "unknown part \"BYEASTER\""),
        ("FREQ=DAILY;EXDATE", "is no part of a rule"),
        ("FREQ=WEEKLY;BYDAY=XX", "rrule: "),
        ("FREQ=MONTHLY;BYMONTHDAY=32", "rrule: "),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "never happens"),
        ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "never happens"),
        ("FREQ=DAILY;BYHOUR=1,2,3,4,5;BYMINUTE=1,2,3,4,5", "more than 24 times a day"),
        ("FREQ=DAILY;BYHOUR=0,1,2,3,4,5,6", "more than 2000 times a year"),
        ("FREQ=DAILY;BYHOUR=ä", "plain characters"),
    ] {
        let why = refused(chrono_tz::UTC, at, 60, rule);
        assert!(why.contains(said), "{rule}: {why}");
    }
    assert!(refused(chrono_tz::UTC, at, 60, &"FREQ=DAILY;".repeat(100)).contains("at most 500"));
    assert!(refused(chrono_tz::UTC, at, 0, "FREQ=DAILY").starts_with("duration: "));
    assert!(refused(chrono_tz::UTC, at, 366 * 86_400 + 1, "FREQ=DAILY").starts_with("duration: "));
    assert!(refused(chrono_tz::UTC, "1999-12-31 00:00", 60, "FREQ=DAILY").starts_with("starts_at: "));
    for year in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        assert_eq!(Recurrence::new(year, 60, chrono_tz::UTC, None).unwrap_err().0, "starts_at");
    }
}

fn rules() -> impl Strategy<Value = String> {
    let number = |name: &'static str, most: i32| {
        let list = proptest::collection::vec((1..=most, any::<bool>()), 1..4);
        list.prop_map(move |list| {
            let list: Vec<String> =
                list.iter().map(|(n, minus)| format!("{}{n}", if *minus { "-" } else { "" })).collect();
            format!(";{name}={}", list.join(","))
        })
    };
    let part = prop_oneof![
        number("INTERVAL", 70_000),
        number("COUNT", 70_000),
        number("BYMONTH", 13),
        number("BYMONTHDAY", 32),
        number("BYYEARDAY", 367),
        number("BYWEEKNO", 54),
        number("BYHOUR", 24),
        number("BYMINUTE", 60),
        number("BYSECOND", 61),
        number("BYSETPOS", 367),
        proptest::sample::select(vec![";BYDAY=MO,SU", ";BYDAY=-1FR", ";BYDAY=53TH", ";WKST=SU", ";BYDAY=2TU,MO"])
            .prop_map(str::to_owned),
    ];
    let parts = proptest::collection::vec(part, 0..5);
    (proptest::sample::select(vec!["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]), parts)
        .prop_map(|(freq, parts)| format!("FREQ={freq}{}", parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a row says: an answer, windows in order and apart, each of them as long as it must be.
    #[test]
    fn hostile_rules_end(rule in rules(), start in 946_684_800_i64..7_258_118_400, hours in 1_i64..2000, zone in 0..chrono_tz::TZ_VARIANTS.len()) {
        let zone = chrono_tz::TZ_VARIANTS[zone];
        let start = DateTime::from_timestamp(start, 0).unwrap();
        let Ok(recurrence) = Recurrence::new(start, hours * 3600, zone, Some(&rule)) else { return Ok(()) };
        let from = utc("2026-11-22 12:00");
        let windows = recurrence.windows(from, utc("2036-01-01 00:00"), 50);
        prop_assert!(windows.len() <= 50);
        for window in &windows {
            prop_assert!(window.to > from && window.from >= start && window.to - window.from >= TimeDelta::hours(hours));
        }
        prop_assert!(windows.windows(2).all(|pair| pair[0].to < pair[1].from));
    }

    /// Beginning nearer changes nothing.
    #[test]
    fn a_later_start_gives_the_same(
        weekly in any::<bool>(), interval in 1_u16..40, days in proptest::sample::subsequence(vec!["MO", "WE", "SU"], 0..3),
        week_start in proptest::sample::select(vec!["MO", "SU"]), begin in 0_i64..4000, later in 0_i64..9000,
    ) {
        let by_day = if days.is_empty() { String::new() } else { format!(";BYDAY={}", days.join(",")) };
        let freq = if weekly { "WEEKLY" } else { "DAILY" };
        let rule = format!("FREQ={freq};INTERVAL={interval};WKST={week_start}{by_day}");
        let start = utc("2004-01-01 02:30") + TimeDelta::days(begin);
        let Ok(near) = Recurrence::new(start, 3600, BERLIN, Some(&rule)) else { return Ok(()) };
        let from = start + TimeDelta::days(later);
        let to = from + TimeDelta::days(400);
        // UNTIL in the far future changes nothing, COUNT keeps it from beginning later.
        let far = Recurrence::new(start, 3600, BERLIN, Some(&format!("{rule};COUNT=65535"))).unwrap();
        prop_assert_eq!(near.windows(from, to, 1000), far.windows(from, to, 1000));
    }
}

/// Random rules, each with its start and its first six occurrences up to 2060, as python-dateutil 2.9 has them.
#[test]
fn another_library_has_the_same_dates() {
    let time = |text: &str| NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M").unwrap();
    let mut differing = Vec::new();
    for line in include_str!("dateutil.txt").lines() {
        let mut words = line.split(' ');
        let (start, rule) = (time(words.next().unwrap()), words.next().unwrap());
        let expected: Vec<_> = words.map(time).collect();
        let found = Recurrence::new(start.and_utc(), 60, chrono_tz::UTC, Some(rule)).map(|recurrence| {
            let windows = recurrence.windows(start.and_utc(), utc("2061-01-01 00:00"), 6);
            windows.iter().map(|window| window.from.naive_utc()).collect::<Vec<_>>()
        });
        if found.as_ref() != Ok(&expected) {
            differing.push(format!("{start} {rule}: {found:?} instead of {expected:?}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
