//! The guard over what leaves the file: refused at a reload, held at a start, applied once by force.

use super::*;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("m{number:02}")).collect()
}

fn many(count: usize) -> String {
    let names = names(count);
    monitors(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Rows of a file as a daemon has left them, with what `catalog.json` remembers of them.
async fn left_behind(count: usize) -> (Vec<MonitorRow>, Remembered) {
    let mut world = World::start(Plan { toml: many(count), ..Plan::default() });
    world.update().await;
    world.quiet().await;
    let rows = world.store.rows.lock().unwrap().values().cloned().collect();
    (rows, world.end().await.1.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_would_archive_most_changes_nothing_until_it_is_forced() {
    let mut world = World::start(Plan { toml: many(30), ..Plan::default() });
    world.update().await;
    world.quiet().await;
    assert_eq!(world.report.get().last_reload_ok, Some(true));
    world.write(&many(14));
    let answer = world.reloaded().await;
    let archiving = answer.archiving.clone().expect("what would be archived");
    assert_eq!((answer.applied, archiving.count, archiving.of), (false, 16, 30), "{answer:?}");
    assert!(answer.error.as_ref().unwrap().contains("m14, m15, m16, m17, m18 and 11 more"), "{answer:?}");
    world.quiet().await;
    assert_eq!((world.ids().len(), world.store.rows.lock().unwrap().len()), (30, 30));
    let report = world.report.get();
    assert_eq!((report.archive_held, report.last_reload_ok), (Some(archiving), Some(false)));
    assert_eq!(report.file_error, answer.error);
    // The minute's comparison merges what is in force.
    world.minute().await;
    assert_eq!(world.store.rows.lock().unwrap().len(), 30);

    let answer = world.reloaded_with(true).await;
    assert_eq!((answer.applied, answer.removed), (true, 16), "{answer:?}");
    world.quiet_after_update().await;
    assert_eq!((world.ids().len(), world.store.rows.lock().unwrap().len()), (14, 14));
    let report = world.report.get();
    assert_eq!((report.archive_held, report.file_error, report.last_reload_ok), (None, None, Some(true)));

    // It does not stay in force.
    world.write(&many(40));
    assert!(world.reloaded().await.applied);
    world.write(&many(14));
    assert!(!world.reloaded().await.applied);
    // The file of before is fine again.
    world.write(&many(40));
    world.file_wake.send(()).await.unwrap();
    world.quiet_after_update().await;
    let report = world.report.get();
    assert_eq!((report.archive_held, report.file_error, report.last_reload_ok), (None, None, Some(true)));
}

#[tokio::test(start_paused = true)]
async fn a_start_with_a_gutted_file_runs_the_rest_from_its_rows() {
    let (rows, remembered) = left_behind(30).await;
    let toml = many(2).replace("m00.example", "elsewhere.example");
    let mut world = World::start(Plan { toml, rows, remembered: Some(remembered), ..Plan::default() });
    let update = world.update().await;
    assert_eq!(update.snapshot.monitors.len(), 30);
    let entry = |name: &str| Arc::clone(&update.snapshot.monitors[&of_key(name)]);
    assert_eq!(&*entry("m00").monitor.url, "tcp://elsewhere.example:1");
    assert_eq!((&*entry("m29").monitor.url, entry("m29").monitor.source), ("tcp://m29.example:1", Source::File));
    let held = world.report.get().archive_held.expect("it is told");
    assert_eq!((held.count, held.of), (28, 30));
    world.quiet().await;
    assert_eq!(world.store.rows.lock().unwrap().len(), 30);
    assert!(world.store.rows.lock().unwrap().values().all(|row| row.invalid_reason.is_none()));
    // As long as it lasts.
    world.minute().await;
    assert_eq!(world.ids().len(), 30);
    assert!(!world.reloaded().await.applied);
    assert_eq!(world.ids().len(), 30);

    // Some return, and are the file's again.
    world.write(&many(10));
    assert!(!world.reloaded().await.applied, "10 of 30 are less than half");
    world.write(&many(15));
    let answer = world.reloaded().await;
    assert_eq!((answer.applied, answer.removed), (true, 15), "{answer:?}");
    world.quiet_after_update().await;
    assert_eq!((world.ids().len(), world.report.get().archive_held), (15, None));
}

#[tokio::test(start_paused = true)]
async fn force_archives_what_a_start_has_held() {
    let (rows, remembered) = left_behind(3).await;
    // Fewer than the guard counts, but a configuration without any monitor may be the wrong one.
    let mut world = World::start(Plan { rows, remembered: Some(remembered), ..Plan::default() });
    assert_eq!(world.update().await.snapshot.monitors.len(), 3);
    assert!(world.report.get().archive_held.is_some());
    let answer = world.reloaded_with(true).await;
    assert_eq!((answer.applied, answer.removed), (true, 3));
    world.quiet_after_update().await;
    assert_eq!((world.ids().len(), world.report.get().archive_held), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_held_row_may_use_secrets_only_when_the_file_has_written_it() {
    let (rows, mut remembered) = left_behind(30).await;
    let row = rows.iter().find(|row| row.key.as_deref() == Some("m05")).unwrap();
    let mut rows = rows.clone();
    let spec = serde_json::json!({ "exchange": [{ "send": "${TOKEN}" }] });
    let sealed = MonitorRow { spec: spec.clone(), ..row.clone() };
    // m05 is what the file said, m06 was written by somebody else.
    for row in &mut rows {
        if matches!(row.key.as_deref(), Some("m05" | "m06")) {
            row.spec = spec.clone();
        }
    }
    remembered.seals.insert(sealed.id, crate::catalog::merge::seal_of_row(&sealed));
    let mut world = World::start(Plan { rows, remembered: Some(remembered), ..Plan::default() });
    let snapshot = world.update().await.snapshot;
    assert_eq!(snapshot.monitors.len(), 29);
    let entry = &snapshot.monitors[&of_key("m05")];
    assert_eq!((entry.monitor.source, entry.secrets.len()), (Source::File, 1));
    world.quiet().await;
    let stranger = world.store.get(of_key("m06")).unwrap();
    assert!(stranger.invalid_reason.unwrap().contains("not allowed in the database"));
}

#[tokio::test(start_paused = true)]
async fn renaming_all_is_let_through() {
    let mut world = World::start(Plan { toml: many(30), ..Plan::default() });
    world.update().await;
    let renamed = names(30).into_iter().map(|name| {
        format!("[[monitor]]\nid = \"new-{name}\"\nrenamed_from = \"{name}\"\nurl = \"tcp://{name}.example:1\"\n")
    });
    world.write(&renamed.collect::<String>());
    let answer = world.reloaded().await;
    assert_eq!((answer.applied, answer.changed, answer.added, answer.removed), (true, 30, 0, 0), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_the_keys_of_before_decide_and_its_return_archives_nothing_blindly() {
    let mut world = World::start(Plan { toml: many(30), ..Plan::default() });
    world.update().await;
    world.quiet().await;
    world.store.set("all", Mode::Away);
    world.minute().await;
    world.write(&many(3));
    let answer = world.reloaded().await;
    assert_eq!((answer.applied, answer.archiving.map(|archiving| archiving.count)), (false, Some(27)));
    world.write(&many(20));
    let answer = world.reloaded().await;
    assert!(answer.applied && answer.rows_later.is_some(), "{answer:?}");
    assert_eq!(world.ids().len(), 20);
    // Meanwhile somebody archives most of the rest: what is left would be more than half.
    {
        let (mut rows, mut archived) = (world.store.rows.lock().unwrap(), world.store.archived.lock().unwrap());
        for name in names(30).iter().take(8) {
            let row = rows.remove(&of_key(name)).unwrap();
            archived.insert(row.id, row);
        }
    }
    world.store.set("all", Mode::Well);
    tokio::time::sleep(Duration::from_secs(10)).await;
    // 10 of 22 are fewer than half.
    assert_eq!((world.store.rows.lock().unwrap().len(), world.report.get().archive_held), (20, None));
}

#[tokio::test(start_paused = true)]
async fn a_start_without_store_and_memory_holds_when_the_store_returns() {
    let (rows, _) = left_behind(30).await;
    let plan = Plan { toml: many(2), rows, modes: vec![("all", Mode::Away)], ..Plan::default() };
    let mut world = World::start(plan);
    assert_eq!(world.update().await.snapshot.monitors.len(), 2);
    world.store.set("all", Mode::Well);
    let update = world.update().await;
    assert_eq!((update.snapshot.monitors.len(), update.changes.added.len()), (30, 28));
    assert_eq!(world.report.get().archive_held.unwrap().count, 28);
    let remembered = world.end().await.1.unwrap();
    assert_eq!(remembered.rows.len(), 28);
    // The next start without a store goes on with them.
    let modes = vec![("all", Mode::Away)];
    let mut world = World::start(Plan { toml: many(2), modes, remembered: Some(remembered), ..Plan::default() });
    assert_eq!(world.update().await.snapshot.monitors.len(), 30);
    assert_eq!(world.report.get().archive_held.unwrap().count, 28);
}

#[tokio::test(start_paused = true)]
async fn a_forced_reload_without_a_store_is_carried_out_when_it_returns() {
    let mut world = World::start(Plan { toml: many(30), ..Plan::default() });
    world.update().await;
    world.quiet().await;
    world.store.set("all", Mode::Away);
    world.minute().await;
    world.write(&many(3));
    let answer = world.reloaded_with(true).await;
    assert!(answer.applied && answer.removed == 27 && answer.rows_later.is_some(), "{answer:?}");
    world.store.set("all", Mode::Well);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((world.store.rows.lock().unwrap().len(), world.report.get().archive_held), (3, None));
}

#[tokio::test(start_paused = true)]
async fn every_asker_is_answered_by_a_reading_that_began_after_it_asked() {
    let mut world = World::start(Plan { toml: monitors(&["a"]), ..Plan::default() });
    world.update().await;
    world.quiet().await;
    // The first reading waits for the store; what is written meanwhile is not in it.
    world.store.set("merge", Mode::Hangs);
    world.write(&monitors(&["a", "b"]));
    let (first, first_answer) = oneshot::channel();
    world.reload.send(ReloadRequest { force: false, answer: first }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.write(&monitors(&["a", "b", "c"]));
    let mut later = Vec::new();
    for asker in 0..20 {
        let (ask, answer) = oneshot::channel();
        // Full at 16: who waits there is taken in when there is room.
        let sender = world.reload.clone();
        tokio::spawn(async move { sender.send(ReloadRequest { force: false, answer: ask }).await });
        // Some give up.
        if asker % 3 > 0 {
            later.push(answer);
        }
    }
    let first_answer = first_answer.await.unwrap();
    assert_eq!((first_answer.applied, first_answer.added), (true, 1));
    let mut added = 0;
    for answer in later {
        let answer = timeout(Duration::from_secs(60), answer).await.expect("within the command's deadline").unwrap();
        assert!(answer.applied, "{answer:?}");
        added = added.max(answer.added);
    }
    assert_eq!((added, world.ids().len()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn sources_that_lose_a_monitor_unasked_must_stay_so() {
    let mut world = World::start(Plan { toml: monitors(&["a", "b", "c"]), ..Plan::default() });
    world.update().await;
    let began = Instant::now();
    for half in [&["a"][..], &["a", "b"]] {
        world.write(&monitors(half));
        world.file_wake.send(()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    world.write(&monitors(&["a", "b", "c", "d"]));
    world.file_wake.send(()).await.unwrap();
    let update = world.update().await;
    assert_eq!((update.changes.added.len(), update.changes.removed.len()), (1, 0));
    assert!(began.elapsed() < Duration::from_secs(3));
    world.write(&monitors(&["a"]));
    let began = Instant::now();
    world.file_wake.send(()).await.unwrap();
    assert_eq!(world.update().await.changes.removed.len(), 3);
    let took = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_stays_held_however_much_the_file_adds() {
    let (rows, remembered) = left_behind(30).await;
    let others = |from: usize, to: usize| {
        let names: Vec<String> = (from..to).map(|number| format!("other{number:03}")).collect();
        monitors(&names.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut world = World::start(Plan { toml: others(0, 100), rows, remembered: Some(remembered), ..Plan::default() });
    assert_eq!(world.update().await.snapshot.monitors.len(), 130);
    world.quiet().await;
    world.minute().await;
    assert_eq!(world.ids().len(), 130);
    // Nor does an edit let them go.
    world.write(&others(0, 101));
    assert!(!world.reloaded().await.applied);
    world.minute().await;
    assert_eq!((world.ids().len(), world.report.get().archive_held.map(|held| held.count)), (130, Some(30)));

    let answer = world.reloaded_with(true).await;
    assert_eq!((answer.applied, answer.removed), (true, 30), "{answer:?}");
    world.quiet_after_update().await;
    assert_eq!((world.ids().len(), world.report.get().archive_held), (101, None));
}
