//! Limits of plans, through the loop.

use super::*;
use crate::model::{Cadence, UserId};

const ANN: UserId = UserId(Uuid::from_u128(0xa));

fn of_ann(number: u128) -> MonitorRow {
    let created_at = DateTime::from_timestamp(i64::try_from(number).unwrap(), 0);
    MonitorRow { user_id: ANN, interval_seconds: 30, created_at, ..row(number) }
}

fn table(most: usize, interval: &str) -> String {
    format!("[plans.free]\nmax_monitors = {most}\nmin_interval = \"{interval}\"\n")
}

fn plan(toml: String) -> Plan {
    let plans = Owners::from([(ANN, "free".to_owned())]);
    Plan { toml, rows: vec![of_ann(1), of_ann(2), of_ann(3), row(4)], plans, ..Plan::default() }
}

impl World {
    fn active(&self) -> Vec<u128> {
        let snapshot = self.snapshot.load();
        let active = snapshot.monitors.values().filter(|entry| entry.monitor.active);
        let mut ids: Vec<u128> = active.map(|entry| entry.monitor.id.0.as_u128()).collect();
        ids.sort_unstable();
        ids
    }

    fn interval(&self, id: MonitorId) -> u64 {
        match &self.snapshot.load().monitors[&id].monitor.cadence {
            Cadence::Every(interval) => interval.as_secs(),
            Cadence::Cron { .. } => panic!("a schedule"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_beyond_the_limit_are_paused_with_a_reason_until_there_is_room() {
    let mut world = World::start(plan(table(2, "5m")));
    let first = world.update().await;
    assert_eq!(first.changes.added.len(), 4, "a paused one is still there");
    assert_eq!(world.active(), [1, 2, 4]);
    assert_eq!((world.interval(id(1)), world.interval(id(3))), (300, 300));
    world.quiet().await;
    let reason = world.store.get(id(3)).unwrap().invalid_reason.unwrap();
    assert!(reason.starts_with("paused: the plan 'free' has max_monitors = 2"), "{reason}");
    assert_eq!(world.store.get(id(2)).unwrap().invalid_reason, None);
    assert_eq!(world.report.get().invalid, 0, "it is no invalid row");
    assert_eq!(world.report.get().limited, Limited { paused: 1, held: 2 });

    // Neither the minute nor what others do changes anything.
    let marks = world.store.calls("mark");
    world.minute().await;
    world.quiet().await;
    assert_eq!(world.store.calls("mark"), marks);

    world.store.rows.lock().unwrap().remove(&id(1)).unwrap();
    world.store.notify.notify_one();
    let update = world.update().await;
    assert_eq!((update.changes.changed.len(), update.changes.removed.len()), (1, 1));
    assert_eq!(world.active(), [2, 3, 4]);
    world.quiet().await;
    assert_eq!(world.store.get(id(3)).unwrap().invalid_reason, None);
    world.store.put(of_ann(1));
    world.store.notify.notify_one();
    world.update().await;
    assert_eq!(world.active(), [1, 2, 4], "it is older");
}

#[tokio::test(start_paused = true)]
async fn another_plan_counts_when_told_and_within_a_minute() {
    let toml = format!("{}[plans.pro]\nmax_monitors = 10\nmin_interval = \"1m\"\n", table(1, "5m"));
    let mut world = World::start(plan(toml));
    world.update().await;
    assert_eq!(world.active(), [1, 4]);
    for (plan, active, interval) in
        [("pro", &[1, 2, 3, 4][..], 60), ("free", &[1, 4], 300), ("huge", &[1, 2, 3, 4], 30)]
    {
        world.store.plans.lock().unwrap().insert(ANN, plan.to_owned());
        if plan == "free" {
            world.minute.send(()).await.unwrap()
        } else {
            world.store.notify.notify_one()
        }
        world.update().await;
        assert_eq!((world.active(), world.interval(id(1))), (active.to_vec(), interval), "{plan}");
        world.quiet().await;
        assert_eq!(world.store.get(id(3)).unwrap().invalid_reason.is_some(), plan == "free");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_limits_and_is_answered_with_what_it_changed() {
    let mut world = World::start(plan(String::new()));
    world.update().await;
    assert_eq!((world.active(), world.store.calls("owners")), (vec![1, 2, 3, 4], 0));
    world.write(&table(1, "1s"));
    let answer = world.reloaded().await;
    assert_eq!((answer.applied, answer.changed), (true, 2), "{answer:?}");
    assert_eq!(world.active(), [1, 4]);
    world.write("");
    assert_eq!(world.reloaded().await.changed, 2);
    assert_eq!(world.active(), [1, 2, 3, 4]);
    world.quiet_after_update().await;
    assert_eq!(world.store.get(id(3)).unwrap().invalid_reason, None);
}

#[tokio::test(start_paused = true)]
async fn limits_hold_without_the_store() {
    let mut world = World::start(plan(table(2, "5m")));
    world.update().await;
    world.quiet().await;
    let (_, remembered) = world.end().await;
    let world = World::start(Plan { remembered, modes: vec![("all", Mode::Away)], ..plan(table(2, "5m")) });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((world.active(), world.interval(id(1))), (vec![1, 2, 4], 300));
    // What is remembered is judged by the configuration of now.
    world.write(&table(1, "1m"));
    assert!(world.reloaded().await.applied);
    assert_eq!((world.active(), world.interval(id(1))), (vec![1, 4], 60));
}

#[tokio::test(start_paused = true)]
async fn what_others_refuse_to_tell_stops_nothing() {
    let mut world = World::start(Plan { modes: vec![("owners", Mode::Refuses)], ..plan(table(1, "5m")) });
    world.update().await;
    assert_eq!(world.active(), [1, 2, 3, 4]);
    world.store.set("owners", Mode::Well);
    world.minute().await;
    world.update().await;
    assert_eq!(world.active(), [1, 4]);
}
