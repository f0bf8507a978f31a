//! Stores that are away, silent or refuse, files that change meanwhile, and ends in the middle of it.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_start_publishes_file_and_rows_once() {
    let state = MonitorState { failures: 1, ..MonitorState::default() };
    let known = MonitorRow { state: Some(state.clone()), ..row(1) };
    let mut world = World::start(Plan { toml: monitors(&["a", "b"]), rows: vec![known], ..Plan::default() });
    let update = world.update().await;
    assert_eq!((update.snapshot.generation, update.changes.added.len()), (1, 3));
    let of_row = update.changes.added.iter().find(|(entry, _)| entry.monitor.id == id(1)).unwrap();
    assert_eq!(of_row.1, state);
    world.quiet().await;
    let report = world.report.get();
    assert!(report.merged && report.store_fault.is_none() && report.invalid == 0);
    assert_eq!((world.store.calls("merge"), world.store.calls("load all")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_empty_start_is_published_too() {
    let mut world = World::start(Plan::default());
    let update = world.update().await;
    assert_eq!((update.snapshot.generation, update.snapshot.monitors.len()), (1, 0));
    world.quiet().await;
}

fn memory_of_a_and_row_1() -> Remembered {
    let state = MonitorState { failures: 7, ..MonitorState::default() };
    Remembered {
        version: remember::VERSION,
        keys: HashMap::from([(key("a"), (id(70), SYSTEM_USER))]),
        rows: vec![row(1), MonitorRow { source: Source::File, ..row(2) }],
        seals: HashMap::new(),
        owners: Owners::new(),
        states: HashMap::from([(id(70), state.clone()), (id(1), state)]),
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_store_what_was_checked_before_is_checked_and_its_return_changes_what_differs() {
    let plan = Plan {
        toml: monitors(&["a", "new"]),
        rows: vec![row(3)],
        modes: vec![("all", Mode::Away)],
        remembered: Some(memory_of_a_and_row_1()),
        ..Plan::default()
    };
    let mut world = World::start(plan);
    let first = world.update().await;
    assert_eq!(world.ids(), HashSet::from([id(70), of_key("new"), id(1)]));
    let failures =
        |entry: MonitorId| first.changes.added.iter().find(|(e, _)| e.monitor.id == entry).unwrap().1.failures;
    assert_eq!((failures(id(70)), failures(id(1)), failures(of_key("new"))), (7, 7, 0));
    assert!(!world.report.get().merged && world.report.get().store_fault.is_some());
    world.quiet().await;
    // It was of another database: key a has another id here, row 1 does not exist.
    world.store.set("all", Mode::Well);
    let update = world.update().await;
    assert_eq!(world.ids(), HashSet::from([of_key("a"), of_key("new"), id(3)]));
    assert_eq!(update.changes.removed, [(id(1), Removal::Deleted), (id(70), Removal::Archived)]);
    world.quiet().await;
    assert!(world.report.get().merged && world.report.get().store_fault.is_none());
    let (_, remembered) = world.end().await;
    let remembered = remembered.unwrap();
    assert_eq!(remembered.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id(3)]);
    assert_eq!(remembered.keys[&key("a")].0, of_key("a"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_at_the_start_delays_the_first_checks_by_seconds_only() {
    let plan = Plan { toml: monitors(&["a"]), modes: vec![("merge", Mode::Hangs)], ..Plan::default() };
    let began = Instant::now();
    let mut world = World::start(plan);
    world.update().await;
    assert!(began.elapsed() <= 6 * SECOND, "{:?}", began.elapsed());
    assert_eq!(world.ids(), HashSet::from([of_key("a")]));
}

#[tokio::test(start_paused = true)]
async fn neither_a_reload_nor_the_end_waits_for_a_merge_that_hangs() {
    let mut world = World::start(Plan { toml: monitors(&["a"]), ..Plan::default() });
    world.update().await;
    world.quiet().await;
    world.store.set("merge", Mode::Hangs);
    world.write(&monitors(&["a", "b"]));
    let began = Instant::now();
    let answer = world.reloaded().await;
    assert!(answer.applied && answer.added == 1, "{answer:?}");
    assert!(began.elapsed() <= 6 * SECOND, "{:?}", began.elapsed());
    // Asked again and again while the first merge still hangs.
    for _ in 0..3 {
        assert!(world.reloaded().await.applied);
    }
    assert_eq!(world.store.calls("merge"), 2);
    let (took, remembered) = world.end().await;
    assert!(took < SECOND && remembered.is_some(), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_at_every_await() {
    for (call, mode) in ["merge", "load all", "dismissed", "mark", "revisions"].map(|call| (call, Mode::Hangs)) {
        let bad = MonitorRow { url: "nonsense".to_owned(), ..row(1) };
        let plan = Plan { toml: monitors(&["a"]), rows: vec![bad], modes: vec![(call, mode)], ..Plan::default() };
        let world = World::start(plan);
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.store.notify.notify_one();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(world.store.calls(call) > 0, "{call}");
        let (took, _) = world.end().await;
        assert!(took <= 3 * SECOND, "{call}: {took:?}");
    }
    // A follower that takes nothing.
    let mut world = World::start(Plan { toml: monitors(&["a"]), room: 1, ..Plan::default() });
    tokio::time::sleep(SECOND).await;
    world.write(&monitors(&["b"]));
    world.file_wake.send(()).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(world.update().await.snapshot.generation, 1);
    assert!(world.end().await.0 <= 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changes_while_the_store_is_away_is_applied_at_once_and_merged_later() {
    let mut world = World::start(Plan { toml: monitors(&["a", "b"]), ..Plan::default() });
    world.update().await;
    world.store.set("all", Mode::Away);
    world.minute().await;
    world.write(&monitors(&["b", "c"]));
    let began = Instant::now();
    world.file_wake.send(()).await.unwrap();
    let update = world.update().await;
    // It loses a monitor: two seconds are to show that it is complete.
    assert!(began.elapsed() < 3 * SECOND);
    assert_eq!(update.changes.removed, [(of_key("a"), Removal::Archived)]);
    assert_eq!(world.ids(), HashSet::from([of_key("b"), of_key("c")]));
    world.store.set("all", Mode::Well);
    world.quiet().await;
    assert!(world.store.get(of_key("c")).is_some() && world.store.get(of_key("a")).is_none());
    assert_eq!(world.report.get().store_fault, None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_merge_does_not_keep_the_rows_of_others_out() {
    let plan = Plan { toml: monitors(&["a"]), modes: vec![("merge", Mode::Refuses)], ..Plan::default() };
    let mut world = World::start(plan);
    world.update().await;
    world.store.put(row(1));
    world.store.notify.notify_one();
    let began = Instant::now();
    world.update().await;
    assert!(began.elapsed() <= 2 * SECOND);
    assert_eq!(world.ids(), HashSet::from([of_key("a"), id(1)]));
    assert!(world.report.get().store_fault.is_some());
    let merges = world.store.calls("merge");
    world.quiet().await;
    assert_eq!(world.store.calls("merge"), merges, "tried again without pause");
    world.store.set("merge", Mode::Well);
    world.minute().await;
    assert_eq!(world.report.get().store_fault, None);
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_changes_nothing_and_is_told_until_it_is_good() {
    let mut world = World::start(Plan { toml: monitors(&["a"]), ..Plan::default() });
    world.update().await;
    *world.file.text.lock().unwrap() = Err("c.toml:1: bad".to_owned());
    for _ in 0..2 {
        let answer = world.reloaded().await;
        assert_eq!((answer.applied, answer.error.as_deref()), (false, Some("c.toml:1: bad")));
    }
    // The poll finds it as bad as before.
    world.file_wake.send(()).await.unwrap();
    world.quiet().await;
    assert_eq!(world.report.get().file_error.as_deref(), Some("c.toml:1: bad"));
    world.write(&monitors(&["a", "b"]));
    world.file_wake.send(()).await.unwrap();
    world.update().await;
    assert_eq!(world.report.get().file_error, None);
    assert_eq!(world.ids().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_heard_is_found_by_looking_without_spinning() {
    let mut world = World::start(Plan { toml: monitors(&["a"]), ..Plan::default() });
    world.update().await;
    world.store.deaf.store(true, Ordering::Relaxed);
    world.store.notify.notify_one();
    tokio::time::sleep(10 * SECOND).await;
    world.store.put(row(1));
    let before = world.store.calls("revisions");
    tokio::time::sleep(60 * SECOND).await;
    assert!(world.ids().contains(&id(1)));
    let looked = world.store.calls("revisions") - before;
    assert!((8..=20).contains(&looked), "{looked}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_notification_is_made_good_by_the_minute() {
    let mut world = World::start(Plan::default());
    world.update().await;
    world.store.put(row(1));
    world.quiet().await;
    world.minute().await;
    assert_eq!(world.ids(), HashSet::from([id(1)]));
}
