use proptest::prelude::*;

use super::*;

fn group(require: Require) -> Group {
    Group { members: Box::default(), require }
}

fn seen(require: Require, statuses: &str) -> Option<(Verdict, String)> {
    let names = ["a", "b", "c", "d"];
    let status = |letter: char| match letter {
        'u' => Some(Status::Up),
        'g' => Some(Status::Degraded),
        'd' => Some(Status::Down),
        '?' => Some(Status::Unknown),
        '-' => None,
        'p' => Some(Status::Pending),
        'z' => Some(Status::Paused),
        'm' => Some(Status::Maintenance),
        _ => panic!("{letter}"),
    };
    let members: Vec<Standing<'_>> = names.into_iter().zip(statuses.chars().map(status)).collect();
    let seen = observe(&group(require), &members, DateTime::UNIX_EPOCH)?;
    Some((seen.graded.unwrap_or(Verdict::Up), seen.fault.map(|fault| fault.message).unwrap_or_default()))
}

#[test]
fn every_case_has_its_verdict() {
    let (all, any, two) = (Require::All, Require::Any, Require::AtLeast(2));
    for (require, statuses, verdict, message) in [
        (all, "uuu", Verdict::Up, ""),
        (all, "uud", Verdict::Down, "down: c (3 of 3 must work)"),
        (all, "ugu", Verdict::Degraded, "degraded: b (3 of 3 must work)"),
        (all, "gd", Verdict::Down, "down: b (2 of 2 must work)"),
        (all, "u?", Verdict::Unknown, "nothing is known of b, and they decide (2 of 2 must work)"),
        (all, "u-d", Verdict::Down, "down: c (3 of 3 must work)"),
        (all, "upzm", Verdict::Up, ""),
        (all, "d", Verdict::Down, "down: a (it must work)"),
        (any, "udd?", Verdict::Up, ""),
        (any, "gdd", Verdict::Degraded, "degraded: a (1 of 3 must work)"),
        (any, "d?", Verdict::Unknown, "nothing is known of b, and they decide (1 of 2 must work)"),
        (any, "dd", Verdict::Down, "down: a, b (1 of 2 must work)"),
        (two, "uud", Verdict::Up, ""),
        (two, "ugd", Verdict::Degraded, "degraded: b (2 of 3 must work)"),
        (two, "u?d", Verdict::Unknown, "nothing is known of b, and they decide (2 of 3 must work)"),
        (two, "udd", Verdict::Down, "down: b, c (2 of 3 must work)"),
        // Of those that are paused nobody asks for more than there are.
        (two, "uz", Verdict::Up, ""),
        (two, "dz", Verdict::Down, "down: a (it must work)"),
    ] {
        assert_eq!(seen(require, statuses), Some((verdict, message.to_owned())), "{require:?} {statuses}");
    }
    for none in ["", "p", "pzm"] {
        assert_eq!(seen(all, none), None, "{none}");
    }
}

#[test]
fn many_are_counted() {
    let names: Vec<String> = (0..12).map(|n| format!("m{n}\u{7}")).collect();
    let members: Vec<Standing<'_>> = names.iter().map(|name| (name.as_str(), Some(Status::Down))).collect();
    let seen = observe(&group(Require::Any), &members, DateTime::UNIX_EPOCH).unwrap();
    let message = seen.fault.unwrap().message;
    assert!(message.ends_with("m7\\u{7} and 4 more (1 of 12 must work)"), "{message}");
}

#[test]
fn turns_changes_and_second_looks() {
    let (start, at) = (Instant::now(), DateTime::UNIX_EPOCH);
    let seconds = |s: u64| start + Duration::from_secs(s);
    let id = MonitorId(uuid::Uuid::from_u128(1));
    let mut group = Gathering::new(Turn::Every(Duration::from_secs(60)), id, at, start);
    assert!(group.wake() < seconds(60));
    assert_eq!(group.due(at, seconds(60)), Some(Look::Check(1)));
    assert_eq!(group.wake(), seconds(120));
    group.stir(seconds(60));
    group.stir(seconds(61));
    assert_eq!((group.wake(), group.due(at, seconds(60))), (seconds(61), None), "not twice in a second");
    assert_eq!(group.due(at, seconds(61)), Some(Look::Change));
    assert!(group.counts(Look::Change, Verdict::Down) && !group.counts(Look::Change, Verdict::Down));
    assert!(group.counts(Look::Check(1), Verdict::Down));
    group.again(Duration::from_secs(10), 2, seconds(61));
    assert_eq!(group.due(at, seconds(71)), Some(Look::Check(2)));
    assert_eq!((group.due(at, seconds(71)), group.wake()), (None, seconds(120)));
}

#[test]
fn a_schedule_is_read_on_the_wall_clock() {
    use crate::schedule::plan::Timing;
    let Ok(Timing::Cron(cron)) = Timing::cron("* * * * *", chrono_tz::UTC) else { panic!() };
    let (start, at) = (Instant::now(), DateTime::UNIX_EPOCH);
    let id = MonitorId(uuid::Uuid::from_u128(1));
    let mut group = Gathering::new(Turn::Cron(cron), id, at, start);
    let mut looks = Vec::new();
    for second in 1..=130u64 {
        let passed = Duration::from_secs(second);
        // Set back by a minute after a minute and a half.
        let wall = if second <= 90 { at + passed } else { at + passed - Duration::from_secs(60) };
        if group.due(wall, start + passed).is_some() {
            looks.push(second);
        }
    }
    assert_eq!(looks, [60, 120]);
}

proptest! {
    /// A member that gets better never makes the group worse.
    #[test]
    fn better_members_make_no_worse_group(statuses in "[ug?d]{1,4}", place in 0usize..4, require in 1u16..5) {
        let rank = |verdict| match verdict {
            Verdict::Up => 3,
            Verdict::Degraded => 2,
            Verdict::Unknown => 1,
            Verdict::Down => 0,
        };
        let before = seen(Require::AtLeast(require), &statuses).unwrap().0;
        let better: String = statuses.chars().enumerate().map(|(n, c)| if n == place { 'u' } else { c }).collect();
        let after = seen(Require::AtLeast(require), &better).unwrap().0;
        prop_assert!(rank(after) >= rank(before), "{statuses} {better}");
    }
}
