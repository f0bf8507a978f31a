use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;
use crate::model::GapReason;
use crate::uptime::{History, Maintenance, Outage, Watch};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn objective(percent: f64, period: Period) -> Objective {
    Objective {
        id: "shop".parse().unwrap(),
        name: "Shop".into(),
        monitors: Box::default(),
        tags: Box::default(),
        target: Target::from_percent(percent).unwrap(),
        period,
        exclude_maintenance: true,
    }
}

/// Watched since a time, with downtimes that end so many seconds before `now` and last so many seconds.
fn history(from: DateTime<Utc>, now: DateTime<Utc>, downs: &[(i64, i64)]) -> History {
    let outage = |(id, (ago, length)): (usize, &(i64, i64))| {
        let to = now - TimeDelta::seconds(*ago);
        Outage { id: i64::try_from(id).unwrap(), from: to - TimeDelta::seconds(*length), to }
    };
    History {
        watches: vec![Watch {
            region: "r".into(),
            from,
            shown_from: None,
            gaps: Vec::new(),
            gaps_of_all: Arc::default(),
        }],
        outages: downs.iter().enumerate().map(outage).collect(),
        ..History::default()
    }
}

fn measure(objective: &Objective, now: DateTime<Utc>, histories: &[History]) -> Measure {
    let period = objective.period.at(now);
    let mut sums = Sums::default();
    for history in histories {
        sums.add(objective, &period, history);
    }
    Measure::of(objective, &period, &sums)
}

#[test]
fn a_target_is_exact() {
    for (percent, text, digits) in [(99.9, "99.9%", 1), (99.0, "99%", 0), (99.99999, "99.99999%", 5), (0.5, "0.5%", 1)]
    {
        let target = Target::from_percent(percent).unwrap();
        assert_eq!((target.to_string().as_str(), target.digits()), (text, digits));
    }
    for bad in [0.0, 100.0, -1.0, 99.999_999, 100.5, f64::NAN, f64::INFINITY] {
        assert_eq!(Target::from_percent(bad), None, "{bad}");
    }
    // 30 days at 99.9 %: 43 minutes and 12 seconds.
    assert_eq!(Target::from_percent(99.9).unwrap().allowed(30 * 86_400_000_000), 2_592_000_000);
}

#[test]
fn the_budget_is_signed_and_rests_on_what_was_observed() {
    let (now, objective) = (at("2026-11-28T12:00:00Z"), objective(99.9, Period::Days(30)));
    let whole = history(at("2026-01-01T00:00:00Z"), now, &[(86_400, 600)]);
    let measured = measure(&objective, now, std::slice::from_ref(&whole));
    assert_eq!((measured.allowed, measured.used, measured.left), (2_592_000_000, 600_000_000, 1_992_000_000));
    // Ten hours only, of which a minute was bad: 36 s were allowed.
    let young = history(now - TimeDelta::hours(10), now, &[(7200, 60)]);
    let measured = measure(&objective, now, std::slice::from_ref(&young));
    assert_eq!((measured.allowed, measured.used, measured.left), (36_000_000, 60_000_000, -24_000_000));
    assert!((measured.left_share().unwrap() - -24.0 / 36.0).abs() < 1e-12);
    // Two monitors add up: each counts by the time that it was observed.
    let both = measure(&objective, now, &[whole, young]);
    assert_eq!((both.allowed, both.used), (2_592_000_000 + 36_000_000, 660_000_000));
    let percent = 100.0 * (1.0 - 660.0 / f64::from(30 * 86_400 + 36_000));
    assert!((both.figures.percent().unwrap() - percent).abs() < 1e-9);
}

#[test]
fn a_month_has_the_budget_of_the_whole_month() {
    let objective = objective(99.0, Period::CalendarMonth(Tz::Europe__Berlin));
    // A day after its beginning; October has 31 days and an hour there.
    let now = at("2026-10-01T22:00:00Z");
    let measured = measure(&objective, now, &[history(at("2026-01-01T00:00:00Z"), now, &[(3600, 3600)])]);
    assert_eq!(measured.allowed, 745 * 36_000_000);
    assert_eq!(measured.used, 3_600_000_000);
    // A monitor that is paused is not expected to be watched.
    let mut paused = history(at("2026-01-01T00:00:00Z"), now, &[]);
    paused.watches[0].gaps.push((now - TimeDelta::hours(12), now, GapReason::Paused));
    assert_eq!(measure(&objective, now, &[paused]).allowed, 12 * 36_000_000);
    // What was before the month counts for burning only.
    let now = at("2026-09-30T22:30:00Z");
    let measured = measure(&objective, now, &[history(at("2026-01-01T00:00:00Z"), now, &[(1800, 1800)])]);
    assert_eq!((measured.used, measured.burns[0].long, measured.burns[0].short), (0, Some(50.0), Some(0.0)));
}

#[test]
fn it_burns_when_both_windows_say_so() {
    let (now, objective) = (at("2026-11-28T12:00:00Z"), objective(99.9, Period::Days(30)));
    let from = at("2026-01-01T00:00:00Z");
    let burns = |downs: &[(i64, i64)]| {
        let measured = measure(&objective, now, &[history(from, now, downs)]);
        measured.burns.map(|burn| (burn.burns(), burn.long.unwrap().round(), burn.short.unwrap().round()))
    };
    let thresholds = measure(&objective, now, &[]).burns.map(|burn| burn.threshold);
    assert!((thresholds[0] - 14.4).abs() < 1e-9 && (thresholds[1] - 6.0).abs() < 1e-9);
    assert_eq!(burns(&[]), [(false, 0.0, 0.0), (false, 0.0, 0.0)]);
    // The last minute was bad: 1/60 of an hour is 16.7 times what is allowed.
    assert_eq!(burns(&[(0, 60)]), [(true, 17.0, 200.0), (false, 3.0, 33.0)]);
    // It is over for six minutes: only the slow pair burns on, if it was long enough.
    assert_eq!(burns(&[(360, 60)]), [(false, 17.0, 0.0), (false, 3.0, 33.0)]);
    assert_eq!(burns(&[(360, 150)]), [(false, 42.0, 0.0), (true, 7.0, 83.0)]);
}

#[test]
fn maintenance_counts_by_choice() {
    let now = at("2026-11-28T12:00:00Z");
    let mut objective = objective(99.9, Period::Days(30));
    let mut history = history(at("2026-01-01T00:00:00Z"), now, &[(3600, 600)]);
    let (from, to) = (now - TimeDelta::hours(2), now - TimeDelta::hours(1));
    history.maintenance.push(Maintenance { id: uuid::Uuid::nil(), from, to });
    assert_eq!(measure(&objective, now, &[history.clone()]).used, 0);
    objective.exclude_maintenance = false;
    assert_eq!(measure(&objective, now, &[history]).used, 600_000_000);
}

/// The standing after each evaluation, one a minute, with so many seconds bad of 30 days.
fn standings(seconds: &[i64]) -> Vec<(SloStatus, bool)> {
    let (start, objective) = (at("2026-11-28T12:00:00Z"), objective(99.9, Period::Days(30)));
    let mut standing = Standing::new(start);
    let mut seen = Vec::new();
    for (minute, bad) in seconds.iter().enumerate() {
        let now = start + TimeDelta::minutes(i64::try_from(minute).unwrap());
        // Long ago, so that nothing burns.
        let downs: &[_] = if *bad > 0 { &[(86_400, *bad)] } else { &[] };
        standing = standing.after(&measure(&objective, now, &[history(at("2026-01-01T00:00:00Z"), now, downs)]), now);
        seen.push((standing.status, standing.since == now));
    }
    seen
}

#[test]
fn it_rises_at_once_and_falls_when_it_was_calm() {
    use SloStatus::{AtRisk, Exhausted, Ok};
    // 2592 s are allowed: 1944 are three quarters of them.
    let seen = standings(&[0, 1945, 2592, 1000]);
    assert_eq!(seen, [(Ok, true), (AtRisk, true), (Exhausted, true), (Exhausted, false)]);
    // Ten minutes of calm; a relapse begins them anew.
    let seen = standings(&[&[2600][..], &[0; 5], &[2600], &[0; 10], &[0]].concat());
    let statuses: Vec<_> = seen.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses[..17], [Exhausted; 17]);
    assert_eq!(seen[17], (Ok, true));
    // Around a threshold it stays where it is: at risk below a quarter, until 30 % are there again.
    let around = [&[1945][..], &[1943; 30]].concat();
    assert!(standings(&around).iter().all(|(status, _)| *status == AtRisk));
    let around = [&[2592][..], &[2570; 30]].concat();
    assert!(standings(&around).iter().all(|(status, _)| *status == Exhausted));
}

#[test]
fn without_data_it_says_so() {
    let (now, objective) = (at("2026-11-28T12:00:00Z"), objective(99.9, Period::Days(30)));
    let standing = Standing::new(now).after(&measure(&objective, now, &[]), now);
    assert_eq!(standing, Standing::new(now));
    let mut blind = history(at("2026-01-01T00:00:00Z"), now, &[(0, 60)]);
    blind.watches[0].gaps.push((at("2026-01-01T00:00:00Z"), now, GapReason::Paused));
    let exhausted = Standing { status: SloStatus::Exhausted, since: now, calmer_since: None };
    assert_eq!(exhausted.after(&measure(&objective, now, &[blind]), now).status, SloStatus::NoData);
}

#[test]
fn a_report_survives_its_json() {
    let (now, objective) = (at("2026-11-28T12:00:00Z"), objective(99.95, Period::CalendarMonth(Tz::Asia__Tokyo)));
    let measured = measure(&objective, now, &[history(at("2026-01-01T00:00:00Z"), now, &[(0, 60)])]);
    let standing = Standing::new(now).after(&measured, now);
    let monitor = MonitorReport::new("shop".to_owned(), MonitorId(uuid::Uuid::nil()), &measured.figures);
    let report = Report::new(&objective, &objective.period.at(now), &measured, &standing, vec![monitor; 150]);
    assert_eq!((report.monitors.len(), report.monitors_total), (MONITORS_SHOWN, 150));
    assert_eq!((report.status, report.timezone.as_deref()), (SloStatus::Burning, Some("Asia/Tokyo")));
    assert_eq!(serde_json::from_value::<Report>(serde_json::to_value(&report).unwrap()).unwrap(), report);
}

proptest! {
    #[test]
    fn used_and_left_are_what_is_allowed(parts in 1..10_000_000_u32, downs in prop::collection::vec((0..2_000_000_i64, 0..9000_i64), 0..6)) {
        let now = at("2026-11-28T12:00:00Z");
        let objective = objective(f64::from(parts) / 100_000.0, Period::Days(30));
        let measured = measure(&objective, now, &[history(at("2026-11-10T00:00:00Z"), now, &downs)]);
        prop_assert_eq!(measured.used + measured.left, measured.allowed);
        // Overdrawn exactly when the figure is below the target.
        let reached = i128::from(measured.figures.up) * 10_000_000 >= i128::from(measured.figures.counted()) * i128::from(parts);
        prop_assert_eq!(measured.left >= 0, reached);
    }
}
