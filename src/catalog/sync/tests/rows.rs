//! Rows that others write, whatever they write.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_file_monitors_row_is_the_files_again_and_never_in_a_loop() {
    let mut world = World::start(Plan { toml: monitors(&["a"]), ..Plan::default() });
    world.update().await;
    world.quiet().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let merges = world.store.calls("merge");
    // Somebody insists: a daemon with another file, say.
    for _ in 0..100 {
        world.store.edit(of_key("a"), |row| row.name = "mine".to_owned());
        world.store.notify.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let merged = world.store.calls("merge") - merges;
    assert!((1..=4).contains(&merged), "{merged}");
    world.minute().await;
    assert_eq!(world.store.get(of_key("a")).unwrap().name, "a");
    let merges = world.store.calls("merge");
    world.quiet().await;
    world.minute().await;
    assert_eq!(world.store.calls("merge"), merges, "merged although nothing differs");

    tokio::time::sleep(Duration::from_secs(20)).await;
    world.store.rows.lock().unwrap().clear();
    world.store.notify.notify_one();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.store.get(of_key("a")).is_some(), "a deleted row is written again");
    let update = world.update().await;
    assert_eq!(update.changes.remade, [of_key("a")], "what went with the row is to be written again");
    world.quiet().await;

    // Archived by somebody, nothing went with it.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let row = world.store.rows.lock().unwrap().remove(&of_key("a")).unwrap();
    world.store.archived.lock().unwrap().insert(row.id, row);
    world.store.notify.notify_one();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.store.get(of_key("a")).is_some(), "an archived row is the file's again");
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_goes_between_its_merge_and_its_reading_is_back_soon() {
    // At the start, between the first merge and the first reading of all rows.
    let delete_after = Some(("merge", of_key("a")));
    let mut world = World::start(Plan { toml: monitors(&["a", "b"]), delete_after, ..Plan::default() });
    world.update().await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(world.store.get(of_key("a")).is_some(), "not even the minute is waited for");
    assert_eq!(world.update().await.changes.remade, [of_key("a")]);
    world.quiet().await;

    // After a change was undone, before the row is read again; and after a merge that had nothing to write to it.
    for (changed, archived) in [("a", false), ("a", true), ("b", false)] {
        tokio::time::sleep(Duration::from_secs(20)).await;
        *world.store.delete_after.lock().unwrap() = Some(("merge", of_key("a")));
        if archived {
            let row = world.store.rows.lock().unwrap().remove(&of_key(changed)).unwrap();
            world.store.archived.lock().unwrap().insert(row.id, row);
        } else {
            world.store.edit(of_key(changed), |row| row.name = "mine".to_owned());
        }
        world.store.notify.notify_one();
        tokio::time::sleep(Duration::from_secs(13)).await;
        assert!(world.store.delete_after.lock().unwrap().is_none(), "it was merged");
        assert!(world.store.get(of_key("a")).is_some(), "{changed} {archived}: it has its row again");
        assert_eq!(world.update().await.changes.remade, [of_key("a")]);
        assert!(world.report.get().unmerged.is_empty());
        world.quiet().await;
    }
    let merges = world.store.calls("merge");
    world.minute().await;
    assert_eq!(world.store.calls("merge"), merges, "merged although nothing differs");
}

#[tokio::test(start_paused = true)]
async fn rows_of_others_are_archived_or_deleted_as_they_were() {
    let mut world = World::start(Plan { rows: vec![row(1), row(2)], ..Plan::default() });
    world.update().await;
    {
        let (mut rows, mut archived) = (world.store.rows.lock().unwrap(), world.store.archived.lock().unwrap());
        archived.insert(id(1), rows.remove(&id(1)).unwrap());
        rows.remove(&id(2)).unwrap();
    }
    world.store.notify.notify_one();
    let update = world.update().await;
    assert_eq!(update.changes.removed, [(id(1), Removal::Archived), (id(2), Removal::Deleted)]);
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_says_it_is_the_files_is_archived_or_named() {
    let stray = MonitorRow { source: Source::File, key: Some("stray".to_owned()), ..row(1) };
    let keyless = MonitorRow { source: Source::File, ..row(2) };
    let mut world = World::start(Plan { toml: monitors(&["a"]), ..Plan::default() });
    world.update().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.store.put(stray);
    world.store.put(keyless);
    world.store.notify.notify_one();
    world.quiet().await;
    assert_eq!(world.ids(), HashSet::from([of_key("a")]));
    assert!(world.store.get(id(1)).is_none());
    assert!(world.store.get(id(2)).unwrap().invalid_reason.unwrap().starts_with("source is 'file'"));
    assert_eq!(world.report.get().invalid, 1);
    let merges = world.store.calls("merge");
    world.minute().await;
    assert_eq!(world.store.calls("merge"), merges);
}

#[tokio::test(start_paused = true)]
async fn a_row_becomes_invalid_and_valid_again_with_its_state() {
    let state = MonitorState { failures: 3, ..MonitorState::default() };
    let bad = MonitorRow { url: "nonsense".to_owned(), state: Some(state.clone()), ..row(1) };
    let mut world = World::start(Plan { rows: vec![bad], ..Plan::default() });
    assert_eq!(world.update().await.snapshot.monitors.len(), 0);
    world.quiet().await;
    assert!(world.store.get(id(1)).unwrap().invalid_reason.is_some());
    assert_eq!(world.report.get().invalid, 1);
    world.store.edit(id(1), |row| row.url = "tcp://row.example:2".to_owned());
    world.store.notify.notify_one();
    let update = world.update().await;
    assert_eq!(update.changes.added[0].1, state);
    world.quiet().await;
    assert_eq!(world.store.get(id(1)).unwrap().invalid_reason, None);
    world.store.edit(id(1), |row| row.timeout_seconds = -1);
    world.store.notify.notify_one();
    assert_eq!(world.update().await.changes.removed, [(id(1), Removal::Invalid)]);
    world.store.rows.lock().unwrap().remove(&id(1));
    world.store.notify.notify_one();
    // It is in neither snapshot; who still shows it as invalid must hear of it, once.
    assert_eq!(world.update().await.changes.removed, [(id(1), Removal::Deleted)]);
    world.quiet().await;
    assert_eq!(world.report.get().invalid, 0);
    world.minute().await;
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_new_defaults_make_valid_comes_with_its_state() {
    let state = MonitorState { failures: 3, ..MonitorState::default() };
    let spec = serde_json::json!({ "expect": { "latency_down_above": "1s" } });
    let bad = MonitorRow { spec, state: Some(state.clone()), ..row(1) };
    let toml = "[defaults.expect]\nlatency_below = \"2s\"\n".to_owned();
    let mut world = World::start(Plan { toml, rows: vec![bad], ..Plan::default() });
    assert_eq!(world.update().await.snapshot.monitors.len(), 0, "down before it is slow");
    world.write("[defaults.expect]\nlatency_below = \"500ms\"\n");
    let answer = world.reloaded().await;
    assert_eq!((answer.applied, answer.added), (true, 1), "{answer:?}");
    assert_eq!(world.update().await.changes.added[0].1, state);
    assert_eq!(world.store.get(id(1)).unwrap().invalid_reason, None);
}

#[tokio::test(start_paused = true)]
async fn new_defaults_reach_rows_that_do_not_say_otherwise() {
    let own = MonitorRow { spec: serde_json::json!({ "confirmations": 4 }), ..row(2) };
    let mut world = World::start(Plan { rows: vec![row(1), own], ..Plan::default() });
    world.update().await;
    world.write("[defaults]\nconfirmations = 9\n");
    let answer = world.reloaded().await;
    assert_eq!((answer.added, answer.changed, answer.removed), (0, 1, 0));
    let update = world.update().await;
    assert_eq!((update.changes.changed[0].monitor.id, update.changes.changed[0].monitor.confirmations), (id(1), 9));
}

#[tokio::test(start_paused = true)]
async fn an_archived_monitor_returns_with_what_the_store_knows() {
    let mut world = World::start(Plan { toml: monitors(&["a", "b"]), ..Plan::default() });
    world.update().await;
    world.write(&monitors(&["b"]));
    assert_eq!(world.reloaded().await.removed, 1);
    assert_eq!(world.update().await.changes.removed, [(of_key("a"), Removal::Archived)]);
    let state = MonitorState { successes: 5, ..MonitorState::default() };
    world.store.archived.lock().unwrap().get_mut(&of_key("a")).unwrap().state = Some(state.clone());
    world.write(&monitors(&["a", "b"]));
    assert_eq!(world.reloaded().await.added, 1);
    let update = world.update().await;
    assert_eq!((update.changes.added[0].0.monitor.id, &update.changes.added[0].1), (of_key("a"), &state));
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_id_is_taken_is_checked_under_another_and_never_as_the_other() {
    let thief = MonitorRow { id: of_key("a"), ..row(1) };
    let modes = vec![("merge", Mode::Away)];
    let mut world = World::start(Plan { toml: monitors(&["a"]), rows: vec![thief], modes, ..Plan::default() });
    world.update().await;
    assert_eq!(world.ids(), HashSet::from([of_key("a")]), "as it would be created");
    world.store.set("merge", Mode::Well);
    let update = world.update().await;
    assert_eq!((update.changes.added.len(), update.changes.changed.len(), update.changes.removed.len()), (1, 1, 0));
    let snapshot = world.snapshot.load_full();
    assert_eq!(snapshot.monitors[&of_key("a")].monitor.source, Source::Database);
    let other = snapshot.monitors.values().find(|entry| entry.monitor.source == Source::File).unwrap();
    assert_eq!(other.monitor.key, Some(key("a")));
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_monitor_keeps_its_id_and_dependencies_of_rows_follow() {
    let dependent = MonitorRow { spec: serde_json::json!({ "depends_on": ["b"] }), ..row(1) };
    let mut world = World::start(Plan { toml: monitors(&["a"]), rows: vec![dependent], ..Plan::default() });
    world.update().await;
    assert!(world.snapshot.load().monitors[&id(1)].monitor.depends_on.is_empty());
    world.write("[[monitor]]\nid = \"b\"\nrenamed_from = \"a\"\nurl = \"tcp://a.example:1\"\n");
    let answer = world.reloaded().await;
    assert_eq!((answer.added, answer.changed, answer.removed), (0, 2, 0), "{answer:?}");
    let snapshot = world.snapshot.load_full();
    assert_eq!(snapshot.monitors[&of_key("a")].monitor.key, Some(key("b")));
    assert_eq!(*snapshot.monitors[&id(1)].monitor.depends_on, [of_key("a")]);
}

#[tokio::test(start_paused = true)]
async fn an_incident_that_a_person_resolved_is_told_once_and_again_to_who_comes_later() {
    let bad = MonitorRow { url: "nonsense".to_owned(), ..row(2) };
    let mut world = World::start(Plan { rows: vec![row(1), bad], ..Plan::default() });
    world.update().await;
    let pair = |number| (id(number), IncidentUid(Uuid::from_u128(number)));
    *world.store.dismissed.lock().unwrap() = vec![pair(1), pair(2)];
    world.store.notify.notify_one();
    assert_eq!(world.update().await.changes.dismissed, [pair(1), pair(2)]);
    for _ in 0..3 {
        world.store.notify.notify_one();
        world.quiet().await;
    }
    world.store.edit(id(2), |row| row.url = "tcp://row.example:2".to_owned());
    world.store.notify.notify_one();
    let update = world.update().await;
    assert_eq!((update.changes.added.len(), update.changes.dismissed.clone()), (1, vec![pair(2)]));
}

#[tokio::test(start_paused = true)]
async fn one_row_a_second_beside_many_file_monitors_costs_what_changed() {
    let names: Vec<String> = (0..3000).map(|number| format!("m{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::start(Plan { toml: monitors(&names), ..Plan::default() });
    world.update().await;
    let before = world.snapshot.load_full();
    for round in 0..20 {
        world.store.put(row(round));
        world.store.notify.notify_one();
        let update = world.update().await;
        assert_eq!((update.changes.added.len(), update.changes.changed.len()), (1, 0));
    }
    assert_eq!((world.store.calls("merge"), world.store.calls("load all")), (1, 1));
    let after = world.snapshot.load_full();
    assert!(before.monitors.iter().all(|(id, entry)| Arc::ptr_eq(entry, &after.monitors[id])));
    // The same content read again keeps every entry.
    let answer = world.reloaded().await;
    assert_eq!((answer.added, answer.changed, answer.removed), (0, 0, 0));
    world.quiet().await;
}
