use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::catalog::merge;
use crate::settings::defaults::Defaults;
use crate::settings::monitor::read_row;

const EPOCH: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn id(number: u128) -> MonitorId {
    MonitorId(Uuid::from_u128(number))
}

fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

/// A row of user 1 that is as many seconds old as its number is small.
fn row(number: u128) -> MonitorRow {
    MonitorRow {
        id: id(number),
        user_id: user(1),
        name: "row".to_owned(),
        url: "tcp://row.example:1".to_owned(),
        interval_seconds: 300,
        timeout_seconds: 10,
        is_active: true,
        kind: None,
        spec: serde_json::json!({}),
        tags: Vec::new(),
        source: Source::Database,
        key: None,
        revision: 0,
        invalid_reason: None,
        state: None,
        last_checked: None,
        created_at: Some(EPOCH + TimeDelta::seconds(number as i64)),
    }
}

fn entry(row: &MonitorRow) -> Arc<Entry> {
    let outcome = merge::row_outcome(row, row.source, |row| read_row(row, &Defaults::default()), |_| None);
    outcome.result.unwrap_or_else(|why| panic!("{why}"))
}

fn plans(max_monitors: Option<usize>, least_s: Option<u64>) -> Plans {
    let min_interval = least_s.map(Duration::from_secs);
    Plans::from([("free".into(), Plan { max_monitors, min_interval, ..Plan::default() })])
}

fn owners() -> Owners {
    Owners::from([(user(1), "free".to_owned()), (user(2), "free".to_owned()), (user(3), "pro".to_owned())])
}

fn of(rows: &[MonitorRow], plans: &Plans) -> HashMap<MonitorId, Restriction> {
    let entries: Vec<Arc<Entry>> = rows.iter().map(entry).collect();
    restrictions(rows.iter().zip(entries.iter().map(|entry| &**entry)), plans, &owners())
}

fn paused(rows: &[MonitorRow], most: usize) -> Vec<u128> {
    let found = of(rows, &plans(Some(most), None));
    let mut ids: Vec<u128> = found.keys().map(|id| id.0.as_u128()).collect();
    assert!(found.values().all(|one| one.paused.is_some() && one.least.is_none()));
    ids.sort_unstable();
    ids
}

#[test]
fn the_newest_of_each_user_are_paused() {
    let of_user = |number, owner| MonitorRow { user_id: user(owner), ..row(number) };
    let rows = [row(4), row(1), of_user(2, 2), row(3), of_user(5, 2), of_user(6, 3), of_user(7, 3), of_user(8, 4)];
    assert_eq!(paused(&rows, 1), [3, 4, 5], "users 3 and 4 have no plan with limits");
    assert_eq!(paused(&rows, 2), [4]);
    assert_eq!(paused(&rows, 3), [0; 0]);
    assert_eq!(paused(&rows, 0), [1, 2, 3, 4, 5]);
    assert_eq!(of(&rows, &plans(None, None)), HashMap::new());
    assert_eq!(of(&rows, &Plans::new()), HashMap::new());
}

#[test]
fn what_does_not_run_and_what_is_the_operators_is_not_counted() {
    let paused_by_hand = MonitorRow { is_active: false, ..row(1) };
    let of_file = MonitorRow { source: Source::File, ..row(2) };
    let of_api = MonitorRow { source: Source::Api, ..row(3) };
    assert_eq!(paused(&[paused_by_hand, of_file, of_api, row(4), row(5)], 2), [5]);
}

#[test]
fn who_was_there_first_is_always_decided() {
    let at = |number, created_at| MonitorRow { created_at, ..row(number) };
    let same = Some(EPOCH);
    assert_eq!(paused(&[at(3, same), at(1, same), at(2, same)], 2), [3], "the id decides");
    assert_eq!(paused(&[at(1, None), row(2), row(3)], 2), [1], "a time that is none is the newest");
}

#[test]
fn faster_ones_run_at_the_plans_interval() {
    let spec = |url: &str, spec| MonitorRow { url: url.to_owned(), spec, ..row(1) };
    let seconds = |interval_seconds| MonitorRow { interval_seconds, ..row(1) };
    let schedule = spec("tcp://a:1", serde_json::json!({ "schedule": "* * * * *", "timezone": "UTC" }));
    let window = Duration::from_secs(300);
    let every = |seconds| Cadence::Every(Duration::from_secs(seconds));
    let cron = |window| Cadence::Cron { expression: "* * * * *".into(), zone: chrono_tz::UTC, window };
    let heartbeat = spec("heartbeat:", serde_json::json!({ "period": "10s" }));
    let heartbeat = MonitorRow { interval_seconds: 1, ..heartbeat };
    for (row, wanted) in [
        (seconds(1), every(300)),
        (seconds(299), every(300)),
        (seconds(300), every(300)),
        (seconds(301), every(301)),
        (schedule, cron(Some(window))),
    ] {
        let own = entry(&row);
        let found = of(std::slice::from_ref(&row), &plans(None, Some(300)));
        let runs = found.get(&row.id).map(|restriction| restricted(&own, restriction));
        let (monitor, print) = runs.as_ref().map_or((&own.monitor, own.fingerprint), |e| (&e.monitor, e.fingerprint));
        assert_eq!(monitor.cadence, wanted);
        assert_eq!(print != own.fingerprint, own.monitor.cadence != wanted);
        assert_eq!((monitor.timeout, monitor.active), (own.monitor.timeout, true));
    }
    assert_eq!(of(&[heartbeat], &plans(None, Some(300))), HashMap::new(), "its sender has the interval");
}

#[test]
fn the_reason_names_the_plan_the_limit_and_the_way_out() {
    assert_eq!(
        reason("free", 5),
        "paused: the plan 'free' has max_monitors = 5, so only the oldest 5 run of the user's monitors; this one does \
         when an older one is deleted, archived or paused, or when users.plan names a plan that allows more"
    );
    assert!(reason("free", 1).contains("only the oldest runs of the user's monitors"));
    assert!(!reason("none", 0).contains("older"));
}

proptest! {
    #[test]
    fn the_order_of_rows_does_not_matter_and_the_oldest_run(
        ages in prop::collection::vec(prop::option::of(0_i64..5), 0..12), most in 0_usize..14, turn in 0_usize..12,
    ) {
        let all: Vec<Contender> = ages.iter().zip(0..).map(|(age, number)| {
            Contender { created_at: age.map(|age| EPOCH + TimeDelta::seconds(age)), id: id(number) }
        }).collect();
        let mut turned = all.clone();
        turned.rotate_left(turn.min(all.len()));
        turned.reverse();
        let (mut first, mut second) = (all.clone(), turned);
        let out = beyond(&mut first, most).to_vec();
        prop_assert_eq!(&out, beyond(&mut second, most));
        prop_assert_eq!(out.len(), all.len().saturating_sub(most));
        let age = |one: &Contender| one.created_at.unwrap_or(DateTime::<Utc>::MAX_UTC);
        for runs in all.iter().filter(|one| !out.contains(one)) {
            prop_assert!(out.iter().all(|one| age(runs) <= age(one)));
        }
    }

    #[test]
    fn one_that_goes_makes_room_for_one(ages in prop::collection::vec(0_i64..5, 1..12), most in 0_usize..14, gone in 0_usize..12) {
        let all: Vec<Contender> = ages.iter().zip(0..).map(|(age, number)| {
            Contender { created_at: Some(EPOCH + TimeDelta::seconds(*age)), id: id(number) }
        }).collect();
        let gone = all[gone % all.len()];
        let out = beyond(&mut all.clone(), most).to_vec();
        let mut left: Vec<Contender> = all.into_iter().filter(|one| *one != gone).collect();
        let after = beyond(&mut left, most).to_vec();
        // Nobody who ran is paused by it, and the oldest of those beyond takes the place.
        prop_assert!(after.iter().all(|one| out.contains(one)));
        let wanted: Vec<Contender> =
            if out.contains(&gone) { out.into_iter().filter(|one| *one != gone).collect() } else { out.into_iter().skip(1).collect() };
        prop_assert_eq!(after, wanted);
    }
}
