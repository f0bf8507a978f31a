use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::GapReason;

fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_700_000_000_000_000 + micros).unwrap()
}

fn window(from: i64, to: i64) -> Window {
    Window::new(at(from), at(to))
}

fn watch(from: i64, gaps: &[(i64, i64, GapReason)]) -> Watch {
    let gaps = gaps.iter().map(|(from, to, reason)| (at(*from), at(*to), *reason));
    // Whose a gap is makes no difference.
    let (gaps, of_all) = gaps.partition::<Vec<_>, _>(|(_, to, _): &Unseen| to.timestamp_micros() % 2 == 0);
    Watch { region: "r".into(), from: at(from), shown_from: None, gaps, gaps_of_all: of_all.into() }
}

fn outage(id: i64, from: i64, to: i64) -> Outage {
    Outage { id, from: at(from), to: at(to) }
}

fn maintenance(id: u128, from: i64, to: i64) -> Maintenance {
    Maintenance { id: Uuid::from_u128(id), from: at(from), to: at(to) }
}

/// As `5-9 down 1`, by microseconds of the window.
fn shown(timeline: &Timeline) -> Vec<String> {
    let base = at(0);
    let micros = |time: DateTime<Utc>| (time - base).num_microseconds().unwrap();
    let what = |what: &What| match what {
        What::Up => "up".to_owned(),
        What::Down(ids) => format!("down {ids:?}"),
        What::Maintenance(ids) => format!("maintenance {:?}", ids.iter().map(|id| id.as_u128()).collect::<Vec<_>>()),
        What::Unobserved(blind) => blind.name().to_owned(),
    };
    let span = |span: &Span| format!("{}-{} {}", micros(span.from), micros(span.to), what(&span.what));
    timeline.spans().iter().map(span).collect()
}

#[test]
fn of_several_things_at_one_moment_the_first_counts() {
    use GapReason::{NotRunning, Paused};
    let history = History {
        watches: vec![watch(10, &[(30, 50, NotRunning), (45, 60, Paused), (90, 120, NotRunning)])],
        outages: vec![outage(7, 5, 35), outage(8, 33, 55), outage(9, 58, 75), outage(4, 70, 72)],
        maintenance: vec![maintenance(1, 52, 65), maintenance(2, 64, 68)],
    };
    let timeline = Timeline::of(window(0, 100), &history);
    assert_eq!(
        shown(&timeline),
        [
            "0-10 before_first_check",
            "10-30 down [7]",
            "30-45 not_running",
            "45-52 paused",
            "52-64 maintenance [1]",
            "64-65 maintenance [1, 2]",
            "65-68 maintenance [2]",
            "68-70 down [9]",
            "70-72 down [4, 9]",
            "72-75 down [9]",
            "75-90 up",
            "90-100 not_running",
        ]
    );
    let figures = timeline.figures();
    assert_eq!((figures.up, figures.down, figures.maintenance, figures.unobserved()), (15, 27, 16, 42));
    assert_eq!(figures.incidents, 3, "the one under a gap took no part");
    let reasons: Vec<_> = figures.reasons().map(|(blind, micros)| (blind.name(), micros)).collect();
    assert_eq!(reasons, [("paused", 7), ("not_running", 25), ("before_first_check", 10)]);
    assert_eq!(timeline.figures_since(at(71)).down, 4);
    assert_eq!(timeline.figures_since(at(100)), Figures::default());
}

#[test]
fn a_moment_is_observed_when_any_region_observed_it() {
    use GapReason::{NotRunning, Suspended};
    let history = History {
        watches: vec![watch(0, &[(10, 30, NotRunning), (60, 100, NotRunning)]), watch(20, &[(50, 70, Suspended)])],
        ..History::default()
    };
    assert_eq!(
        shown(&Timeline::of(window(0, 100), &history)),
        ["0-10 up", "10-20 not_running", "20-60 up", "60-70 not_running", "70-100 up"]
    );
    assert_eq!(shown(&Timeline::of(window(0, 5), &History::default())), ["0-5 before_first_check"]);
    assert!(Timeline::of(window(5, 5), &history).spans().is_empty());
}

#[test]
fn what_the_plan_hides_is_told_as_that_and_hides_all_else() {
    use GapReason::{NotRunning, Paused};
    let shown_from = |watch: Watch, from: i64| Watch { shown_from: Some(at(from)), ..watch };
    let history = |from: i64, shown: i64| History {
        watches: vec![shown_from(watch(from, &[(15, 25, Paused), (35, 45, NotRunning)]), shown)],
        outages: vec![outage(1, 20, 50)],
        maintenance: vec![maintenance(1, 12, 14)],
    };
    let told = |history: &History| shown(&Timeline::of(window(0, 60), history));
    assert_eq!(
        told(&history(10, 40)),
        [
            "0-10 before_first_check",
            "10-12 not_shown",
            "12-14 maintenance [1]",
            "14-40 not_shown",
            "40-45 not_running",
            "45-50 down [1]",
            "50-60 up"
        ]
    );
    // All of it, and nothing of it: the monitor is younger than what is shown.
    assert_eq!(told(&history(-5, 99)), ["0-12 not_shown", "12-14 maintenance [1]", "14-60 not_shown"]);
    assert_eq!(
        told(&history(52, 40)),
        ["0-12 before_first_check", "12-14 maintenance [1]", "14-52 before_first_check", "52-60 up"]
    );
    // A region that has not begun does not know better.
    let mut both = history(10, 40);
    both.watches.push(shown_from(watch(46, &[]), 40));
    assert_eq!(told(&both)[1], "10-12 not_shown");
    let figures = Timeline::of(window(0, 60), &history(10, 40)).figures();
    let reasons: Vec<_> = figures.reasons().map(|(blind, micros)| (blind.name(), micros)).collect();
    assert_eq!(reasons, [("not_shown", 28), ("not_running", 5), ("before_first_check", 10)]);
}

#[test]
fn what_is_shown_is_never_better_than_what_was() {
    let figures = |up, down| {
        let history = History { watches: vec![watch(0, &[])], outages: vec![outage(1, 0, down)], ..History::default() };
        Timeline::of(window(0, up + down), &history).figures()
    };
    for (up, down, digits, text) in [
        (100, 0, 2, "100.00%"),
        (999_999_999, 1, 2, "99.99%"),
        (999_999_999, 1, 6, "99.999999%"),
        (2, 1, 2, "66.66%"),
        (2, 1, 0, "66%"),
        (0, 5, 2, "0.00%"),
        (9995, 5, 3, "99.950%"),
    ] {
        assert_eq!(percent_text(&figures(up, down), digits), text, "{up} {down}");
    }
    assert_eq!(percent_text(&Figures::default(), 2), "-");
    assert_eq!((Figures::default().percent(), Figures::default().coverage()), (None, None));
    let ten_years = 10 * 366 * 86_400_000_000;
    assert!(figures(ten_years, 1).percent().unwrap() < 100.0);
    assert_eq!(figures(ten_years, 0).percent(), Some(100.0));
}

#[test]
fn coverage_takes_maintenance_out() {
    let history =
        History { watches: vec![watch(20, &[])], maintenance: vec![maintenance(1, 60, 80)], ..History::default() };
    assert_eq!(Timeline::of(window(0, 100), &history).figures().coverage(), Some(0.75));
    let all = History { maintenance: vec![maintenance(1, -5, 200)], ..history };
    assert_eq!(Timeline::of(window(0, 100), &all).figures().coverage(), None);
}

#[test]
fn months_are_those_of_the_zone() {
    let month = |text: &str| text.parse::<Month>().unwrap();
    let begins = |text: &str, zone: Tz| month(text).begins(zone).to_rfc3339();
    assert_eq!(begins("2026-11", Tz::UTC), "2026-11-01T00:00:00+00:00");
    assert_eq!(begins("2026-11", Tz::Europe__Berlin), "2026-10-31T23:00:00+00:00");
    assert_eq!(begins("2026-10", Tz::Europe__Berlin), "2026-09-30T22:00:00+00:00");
    // 31 days and an hour, and an hour less than 31 days.
    let hours = |text: &str, zone: Tz| month(text).window(zone).micros() / 3_600_000_000;
    assert_eq!(hours("2026-10", Tz::Europe__Berlin), 745);
    assert_eq!(hours("2026-03", Tz::Europe__Berlin), 743);
    // Clocks that skipped, or repeated, the first midnight of a month.
    assert_eq!(begins("1988-10", Tz::America__Asuncion), "1988-10-01T04:00:00+00:00");
    assert_eq!(begins("2020-11", Tz::America__Havana), "2020-11-01T04:00:00+00:00");
    for bad in ["2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "", "-", "+026-11", "1969-12", "9999-01", "2026"]
    {
        assert!(bad.parse::<Month>().is_err(), "{bad}");
    }
    assert_eq!(month("2026-12").next(), month("2027-01"));
    assert_eq!(month("2026-01").previous().to_string(), "2025-12");
    assert_eq!(Month::of(month("2026-11").begins(Tz::Europe__Berlin), Tz::Europe__Berlin), month("2026-11"));
}

const LENGTH: i64 = 40;

fn histories() -> impl Strategy<Value = History> {
    let spans = || (-10..LENGTH + 10, 0..30_i64);
    let reason = prop::sample::select(vec![GapReason::Paused, GapReason::NotRunning, GapReason::Internal]);
    let gaps = prop::collection::vec((spans(), reason), 0..5);
    let shown_from = prop::option::weighted(0.3, -10..LENGTH + 10);
    let watches = prop::collection::vec((-10..LENGTH + 10, shown_from, gaps), 0..3);
    let outages = prop::collection::vec((1..6_i64, spans()), 0..6);
    let maintenance = prop::collection::vec((1..4_u128, spans()), 0..3);
    (watches, outages, maintenance).prop_map(|(watches, outages, spans)| History {
        watches: watches
            .into_iter()
            .map(|(from, shown_from, gaps)| {
                let gaps: Vec<_> =
                    gaps.into_iter().map(|((from, length), reason)| (from, from + length, reason)).collect();
                Watch { shown_from: shown_from.map(at), ..watch(from, &gaps) }
            })
            .collect(),
        outages: outages.into_iter().map(|(id, (from, length))| outage(id, from, from + length)).collect(),
        maintenance: spans
            .into_iter()
            .map(|(id, (from, length))| super::Maintenance {
                id: Uuid::from_u128(id),
                from: at(from),
                to: at(from + length),
            })
            .collect(),
    })
}

/// What one microsecond is, as the documentation says it.
fn plain(history: &History, moment: i64) -> What {
    let moment = at(moment);
    let within = |from: DateTime<Utc>, to: DateTime<Utc>| from <= moment && moment < to;
    let mut ids: Vec<Uuid> = history.maintenance.iter().filter(|m| within(m.from, m.to)).map(|m| m.id).collect();
    if !ids.is_empty() {
        ids.sort();
        ids.dedup();
        return What::Maintenance(ids.into());
    }
    let blind = |watch: &Watch| {
        if moment < watch.from {
            return Some(Blind::NotYet);
        }
        if watch.shown_from.is_some_and(|shown_from| moment < shown_from) {
            return Some(Blind::NotShown);
        }
        let gaps = watch.gaps.iter().chain(&*watch.gaps_of_all).filter(|(from, to, _)| within(*from, *to));
        gaps.map(|(.., reason)| Blind::Gap(*reason)).min_by_key(|blind| blind.rank())
    };
    let blinds: Option<Vec<Blind>> = history.watches.iter().map(blind).collect();
    if let Some(blinds) = blinds {
        let first = blinds.into_iter().min_by_key(|blind| blind.rank());
        return What::Unobserved(first.unwrap_or(Blind::NotYet));
    }
    let mut ids: Vec<i64> = history.outages.iter().filter(|o| within(o.from, o.to)).map(|o| o.id).collect();
    if ids.is_empty() {
        return What::Up;
    }
    ids.sort_unstable();
    ids.dedup();
    What::Down(ids.into())
}

proptest! {
    #[test]
    fn every_moment_is_what_the_rules_say(history in histories()) {
        let timeline = Timeline::of(window(0, LENGTH), &history);
        let spans = timeline.spans();
        prop_assert_eq!(spans.first().unwrap().from, at(0));
        prop_assert_eq!(spans.last().unwrap().to, at(LENGTH));
        prop_assert!(spans.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].what != pair[1].what));
        prop_assert!(spans.iter().all(|span| span.from < span.to));
        for moment in 0..LENGTH {
            let span = spans.iter().find(|span| span.from <= at(moment) && at(moment) < span.to).unwrap();
            prop_assert_eq!(&span.what, &plain(&history, moment), "{}", moment);
        }
    }

    #[test]
    fn the_figures_are_the_window(history in histories(), since in 0..=LENGTH) {
        let timeline = Timeline::of(window(0, LENGTH), &history);
        let sum = |figures: &Figures| figures.up + figures.down + figures.maintenance + figures.unobserved();
        prop_assert_eq!(sum(&timeline.figures()), LENGTH);
        let late = timeline.figures_since(at(since));
        prop_assert_eq!(sum(&late), LENGTH - since);
        prop_assert_eq!(&late, &Timeline::of(window(since, LENGTH), &history).figures());
        let mut both = Timeline::of(window(0, since), &history).figures();
        both.add(&late);
        both.incidents = timeline.figures().incidents;
        prop_assert_eq!(both, timeline.figures());
    }

    #[test]
    fn the_order_of_what_is_known_does_not_matter(history in histories(), turn in 0..5_usize) {
        let mut other = history.clone();
        other.outages.reverse();
        other.watches.reverse();
        for watch in &mut other.watches {
            let middle = turn.min(watch.gaps.len());
            watch.gaps.rotate_left(middle);
        }
        let middle = turn.min(other.maintenance.len());
        other.maintenance.rotate_left(middle);
        prop_assert_eq!(Timeline::of(window(0, LENGTH), &history), Timeline::of(window(0, LENGTH), &other));
    }

    #[test]
    fn more_downtime_is_never_better(history in histories(), from in 0..LENGTH, length in 0..20_i64) {
        let before = Timeline::of(window(0, LENGTH), &history).figures();
        let mut worse = history;
        worse.outages.push(outage(99, from, from + length));
        let after = Timeline::of(window(0, LENGTH), &worse).figures();
        prop_assert!(after.down >= before.down && after.up <= before.up);
        prop_assert_eq!(after.counted(), before.counted());
        prop_assert_eq!(after.coverage(), before.coverage());
        prop_assert!(after.percent().unwrap_or(0.0) <= before.percent().unwrap_or(0.0));
    }

    #[test]
    fn months_add_up_in_every_zone(index in 0..chrono_tz::TZ_VARIANTS.len(), year in 1970..2060_i32) {
        let zone = chrono_tz::TZ_VARIANTS[index];
        let first: Month = format!("{year}-01").parse().unwrap();
        let (mut month, mut end, mut sum) = (first, first.begins(zone), 0);
        for _ in 0..12 {
            let window = month.window(zone);
            prop_assert_eq!(window.from, end);
            prop_assert!(window.micros() >= 27 * 86_400_000_000);
            // The first moment that shows the month: the one before shows another.
            prop_assert_eq!(Month::of(window.from, zone), month);
            prop_assert_ne!(Month::of(window.from - TimeDelta::microseconds(1), zone), month);
            (sum, end, month) = (sum + window.micros(), window.to, month.next());
        }
        let year: Month = format!("{}-01", year + 1).parse().unwrap();
        prop_assert_eq!(sum, Window::new(first.begins(zone), year.begins(zone)).micros());
    }
}

/// The tables of docs/uptime.md, by their first heading.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let text = include_str!("../../docs/uptime.md");
    let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |"))).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn clock(text: &str) -> DateTime<Utc> {
    let parts: Vec<i64> = text.split(':').map(|part| part.parse().unwrap()).collect();
    let midnight: DateTime<Utc> = "2026-11-02T00:00:00Z".parse().unwrap();
    midnight + TimeDelta::seconds(parts[0] * 3600 + parts[1] * 60 + parts[2])
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let mut history = History::default();
    for row in table("known") {
        let (what, from) = (row[0], clock(row[1]));
        match what.split_once(' ') {
            None if what == "maintenance" => {
                history.maintenance.push(Maintenance { id: Uuid::nil(), from, to: clock(row[2]) });
            }
            Some(("incident", id)) => history.outages.push(Outage { id: id.parse().unwrap(), from, to: clock(row[2]) }),
            Some(("first", _)) => history.watches.push(Watch { from, ..watch(0, &[]) }),
            Some(("gap", reason)) => {
                let reason = GapReason::from_name(reason).unwrap();
                history.watches[0].gaps.push((from, clock(row[2]), reason));
            }
            _ => panic!("{row:?}"),
        }
    }
    assert_eq!(history.outages.len(), 3);
    let timeline = Timeline::of(Window::new(clock("00:00:00"), clock("24:00:00")), &history);
    let told: Vec<_> = timeline
        .spans()
        .iter()
        .map(|span| {
            let what = match &span.what {
                What::Up => "up".to_owned(),
                What::Down(ids) => format!("down {}", ids[0]),
                What::Maintenance(_) => "maintenance".to_owned(),
                What::Unobserved(blind) => format!("unobserved {}", blind.name()),
            };
            (what, span.from, span.to, (span.to - span.from).num_seconds())
        })
        .collect();
    let spans = table("span");
    let wanted: Vec<_> = spans
        .iter()
        .map(|row| (row[0].to_owned(), clock(row[1]), clock(row[2]), row[3].parse::<i64>().unwrap()))
        .collect();
    assert_eq!(told, wanted);
    let figures = timeline.figures();
    let seconds = |micros: i64| format!("{} s", micros / 1_000_000);
    let (counted, percent) = (figures.counted() / 1_000_000, figures.percent().unwrap());
    let coverage = figures.coverage().unwrap();
    let allowed = crate::slo::Target::from_percent(95.0).unwrap().allowed(figures.counted());
    let wanted = [
        ("up", seconds(figures.up)),
        ("down", seconds(figures.down)),
        ("maintenance", seconds(figures.maintenance)),
        ("unobserved", seconds(figures.unobserved())),
        ("uptime", format!("100 * {} / {counted} = {percent}", figures.up / 1_000_000)),
        ("uptime_text", percent_text(&figures, 2)),
        (
            "coverage",
            format!(
                "{counted} / {} = {:.3}",
                counted + figures.unobserved() / 1_000_000,
                (coverage * 1000.0).floor() / 1000.0
            ),
        ),
        (
            "budget of an objective of 95 %",
            format!(
                "{} allowed, {} used, {} left",
                seconds(allowed),
                seconds(figures.down),
                seconds(allowed - figures.down)
            ),
        ),
    ];
    // The first table of that heading tells of the two figures there are.
    let rows = include_str!("../../docs/uptime.md").split_once("and these figures:").unwrap().1;
    let rows: Vec<_> = rows
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .collect();
    let wanted: Vec<_> = wanted.iter().map(|(name, value)| format!("| {name} | {value} |")).collect();
    assert_eq!(rows, wanted);
}

/// The page lists the reasons in the order that counts.
#[test]
fn the_documentation_has_every_reason() {
    let text = include_str!("../../docs/uptime.md");
    let list = text.split_once("for its reason:").unwrap().1.split_once(". Of several").unwrap().0;
    let told: Vec<_> = list.split('`').skip(1).step_by(2).collect();
    let gaps = Blind::ALL.iter().filter(|blind| matches!(blind, Blind::Gap(_))).map(|blind| blind.name());
    assert_eq!(told, gaps.collect::<Vec<_>>());
    assert_eq!(GapReason::ALL.len() + 2, Blind::ALL.len());
    for blind in Blind::ALL {
        assert!(text.contains(&format!("`{}`", blind.name())), "{}", blind.name());
    }
}
