use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn window(from: i64, to: i64) -> Window {
    Window { from: at(from), to: at(to) }
}

fn wanted(monitor: u128, from: i64, to: i64) -> Wanted {
    let maintenance = MaintenanceId(Uuid::from_u128(9));
    Wanted { maintenance, monitor: MonitorId(Uuid::from_u128(monitor)), window: window(from, to), excluded: true }
}

fn span(monitor: u128, from: i64, to: i64) -> Span {
    let Wanted { maintenance, monitor, excluded, .. } = wanted(monitor, from, to);
    Span { maintenance, monitor, from_at: at(from), to_at: at(to), excluded }
}

fn writes(running: &[Span], wanted: &[Wanted], mark: i64, now: i64) -> Vec<Span> {
    let changes = reconcile(running, wanted, at(mark), at(now));
    assert_eq!(changes.delete, []);
    changes.write
}

#[test]
fn a_window_becomes_a_span_once() {
    let mine = [wanted(1, 100, 200)];
    assert_eq!(writes(&[], &mine, 90, 99), [], "not yet");
    assert_eq!(writes(&[], &mine, 90, 100), [span(1, 100, 200)]);
    for now in [101, 150, 199, 200, 300] {
        assert_eq!(writes(&[span(1, 100, 200)], &mine, 100, now), [], "{now}");
    }
    assert_eq!(writes(&[], &mine, 200, 250), [], "over before the last look");
}

#[test]
fn windows_that_passed_since_the_last_sign_of_life_are_caught_up() {
    let missed = [wanted(1, 100, 200), wanted(1, 300, 400), wanted(1, 500, 600)];
    assert_eq!(writes(&[], &missed, 50, 550), [span(1, 100, 200), span(1, 300, 400), span(1, 500, 600)]);
    assert_eq!(writes(&[span(1, 100, 200)], &missed, 150, 350), [span(1, 300, 400)]);
}

#[test]
fn who_joins_or_is_defined_later_covers_no_time_that_has_passed() {
    let both = [wanted(1, 100, 200), wanted(2, 100, 200)];
    assert_eq!(writes(&[span(1, 100, 200)], &both, 140, 141), [span(2, 140, 200)]);
}

#[test]
fn what_is_no_longer_wanted_ends_now() {
    assert_eq!(writes(&[span(1, 100, 200)], &[], 140, 150), [span(1, 100, 150)]);
    assert_eq!(writes(&[span(1, 100, 200)], &[], 140, 250), [], "it ended as planned");
    // A clock that stepped back: it has not begun.
    let changes = reconcile(&[span(1, 100, 200)], &[], at(140), at(90));
    assert_eq!((changes.write, changes.delete), (vec![], vec![span(1, 100, 200)]));
}

#[test]
fn a_change_while_it_runs_moves_the_end() {
    let running = [span(1, 100, 200)];
    assert_eq!(writes(&running, &[wanted(1, 100, 300)], 140, 150), [span(1, 100, 300)], "longer");
    assert_eq!(writes(&running, &[wanted(1, 100, 160)], 140, 150), [span(1, 100, 160)], "shorter");
    assert_eq!(writes(&running, &[wanted(1, 100, 145)], 140, 150), [span(1, 100, 150)], "over, as of now");
    assert_eq!(writes(&running, &[wanted(1, 170, 270)], 140, 150), [span(1, 100, 150)], "later");
    let counted = Wanted { excluded: false, ..wanted(1, 100, 200) };
    assert_eq!(writes(&running, &[counted], 140, 150), [Span { excluded: false, ..running[0] }]);
}

#[test]
fn after_a_clock_that_was_far_ahead_spans_are_written_again() {
    assert_eq!(writes(&[], &[wanted(1, 100, 200)], 1_000_000, 150), [span(1, 150, 200)]);
}

#[test]
fn of_several_windows_the_one_that_ends_last_is_shown() {
    let other = Wanted { maintenance: MaintenanceId(Uuid::from_u128(3)), ..wanted(1, 50, 400) };
    let all = [wanted(1, 100, 200), other, wanted(2, 100, 150)];
    let covers = covers(&all, at(150));
    assert_eq!(covers.len(), 1);
    assert_eq!(covers[&all[0].monitor], Under { maintenance: other.maintenance, until: at(400) });
}

proptest! {
    /// Whenever one looks: the spans are the windows, as far as they began after the first look.
    #[test]
    fn spans_are_the_windows(
        lengths in proptest::collection::vec((1_i64..50, 1_i64..50), 1..6), looks in proptest::collection::vec(1_i64..60, 1..20),
    ) {
        let mut windows = Vec::new();
        let mut end = 10;
        for (gap, length) in lengths {
            windows.push(wanted(1, end + gap, end + gap + length));
            end += gap + length;
        }
        let (mut spans, mut mark) = (Vec::<Span>::new(), 0);
        let mut now = 0;
        for step in looks {
            now += step;
            let running: Vec<Span> = spans.iter().filter(|span| span.to_at > at(mark)).copied().collect();
            for written in reconcile(&running, &windows, at(mark), at(now)).write {
                spans.retain(|span| span.from_at != written.from_at);
                spans.push(written);
            }
            mark = now;
        }
        let due = windows.iter().filter(|wanted| wanted.window.from <= at(now));
        let expected: Vec<Span> = due.map(|w| Span { from_at: w.window.from, to_at: w.window.to, ..span(1, 0, 1) }).collect();
        spans.sort_by_key(|span| span.from_at);
        prop_assert_eq!(&spans, &expected);
        // And when the definition goes, no time is left that has not passed.
        for written in reconcile(&spans, &[], at(mark), at(now + 1)).write {
            prop_assert!(written.to_at == at(now + 1) && written.from_at < written.to_at);
        }
    }
}
