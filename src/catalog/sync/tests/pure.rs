//! The rules: ids of the file's monitors, and differences of snapshots.

use proptest::prelude::*;

use super::*;
use crate::catalog::diff::diff;
use crate::catalog::merge::{Entries, Ids};

/// Also what the file's own checks refuse.
fn definitions(pairs: &[(&str, Option<&str>)]) -> Vec<Located> {
    let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
    let mut definitions = settings(&monitors(&names)).monitors;
    for (definition, (_, from)) in definitions.iter_mut().zip(pairs) {
        Arc::make_mut(&mut definition.definition).renamed_from = from.map(key);
    }
    definitions
}

/// Which id each key gets.
fn resolved(pairs: &[(&str, Option<&str>)], known: &[(&str, MonitorId)]) -> Vec<(String, MonitorId)> {
    let ids: Ids = known.iter().map(|(name, id)| (key(name), (*id, SYSTEM_USER))).collect();
    let entries = merge::file_entries(&definitions(pairs), &ids, &Entries::new());
    let name = |entry: &Arc<Entry>| entry.monitor.key.as_ref().unwrap().to_string();
    let mut found: Vec<_> = entries.iter().map(|(id, entry)| (name(entry), *id)).collect();
    found.sort();
    found
}

#[test]
fn ids_are_those_that_the_stores_merge_would_give() {
    let of = |name: &str, id| (name.to_owned(), id);
    assert_eq!(resolved(&[("a", None)], &[]), [of("a", of_key("a"))]);
    assert_eq!(resolved(&[("a", None)], &[("a", id(1))]), [of("a", id(1))]);
    assert_eq!(resolved(&[("b", Some("a"))], &[("a", id(1))]), [of("b", id(1))]);
    // The former key is in use.
    let both = resolved(&[("a", None), ("b", Some("a"))], &[("a", id(1))]);
    assert_eq!(both, [of("a", id(1)), of("b", of_key("b"))]);
    // An exchange of names: each has a row of its own.
    let exchanged = resolved(&[("a", Some("b")), ("b", Some("a"))], &[("a", id(1)), ("b", id(2))]);
    assert_eq!(exchanged, [of("a", id(1)), of("b", id(2))]);
    // A chain goes one step.
    assert_eq!(resolved(&[("c", Some("b"))], &[("b", id(1))]), [of("c", id(1))]);
    // b carries the id that a new a would get: only the store can give a one.
    assert_eq!(resolved(&[("a", None), ("b", None)], &[("b", of_key("a"))]), [of("b", of_key("a"))]);
    // A damaged memory.
    let damaged = resolved(&[("a", None), ("b", None)], &[("a", id(1)), ("b", id(1))]);
    assert_eq!(damaged.len(), 2);
    assert_ne!(damaged[0].1, damaged[1].1);
}

#[test]
fn dependencies_point_to_the_ids_that_are_used() {
    let text = "[[monitor]]\nid = \"new\"\nrenamed_from = \"old\"\nurl = \"tcp://h.example:1\"\n\
                [[monitor]]\nid = \"web\"\nurl = \"tcp://h.example:2\"\ndepends_on = [\"new\"]\n";
    let ids = Ids::from([(key("old"), (id(1), SYSTEM_USER))]);
    let entries = merge::file_entries(&settings(text).monitors, &ids, &Entries::new());
    assert_eq!(*entries[&of_key("web")].monitor.depends_on, [id(1)]);
}

fn entry(number: u8, version: u8) -> Arc<Entry> {
    let definition = settings(&monitors(&["a"])).monitors.remove(0);
    let entry = merge::build(&definition, id(number.into()), SYSTEM_USER, Source::Database);
    Arc::new(Entry { fingerprint: version.into(), ..entry })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn changes_lead_from_old_to_new(
        old in proptest::collection::hash_map(0u8..12, 0u8..3, 0..10),
        new in proptest::collection::hash_map(0u8..12, 0u8..3, 0..10),
        more in proptest::collection::hash_set(0u8..12, 0..12),
    ) {
        let build = |of: &HashMap<u8, u8>| -> HashMap<MonitorId, Arc<Entry>> {
            of.iter().map(|(number, version)| (id((*number).into()), entry(*number, *version))).collect()
        };
        let old = Snapshot { generation: 4, monitors: build(&old) };
        let new = build(&new);
        // At least all that differs, in any order.
        let mut ids: HashSet<MonitorId> = old.monitors.keys().chain(new.keys()).copied().collect();
        ids.retain(|id| old.monitors.get(id).map(|e| e.fingerprint) != new.get(id).map(|e| e.fingerprint));
        ids.extend(more.iter().map(|number| id((*number).into())));
        let changes = diff(&old, ids, |id| new.get(&id), |_| MonitorState::default(), |_| Removal::Deleted);
        for (entry, _) in &changes.added {
            prop_assert!(!old.monitors.contains_key(&entry.monitor.id));
        }
        for entry in &changes.changed {
            prop_assert_ne!(old.monitors[&entry.monitor.id].fingerprint, entry.fingerprint);
        }
        prop_assert!(changes.removed.is_sorted_by_key(|(id, _)| *id));
        let after = old.after(&changes);
        let prints = |of: &HashMap<MonitorId, Arc<Entry>>| -> HashMap<MonitorId, u64> {
            of.iter().map(|(id, entry)| (*id, entry.fingerprint)).collect()
        };
        prop_assert_eq!(prints(&after.monitors), prints(&new));
        prop_assert_eq!(after.generation, 5);
        for (id, entry) in old.monitors.iter().filter(|(id, e)| new.get(id).is_some_and(|n| n.fingerprint == e.fingerprint)) {
            prop_assert!(Arc::ptr_eq(entry, &after.monitors[id]));
        }
    }
}

/// Monitors by their key: a port, and whether they depend on the first of all.
type Generated = std::collections::BTreeMap<String, (u16, bool)>;

fn generated(file: &Generated) -> Vec<Located> {
    let first = file.keys().next().cloned().unwrap_or_default();
    let each = file.iter().map(|(key, (port, depends))| {
        let depends = if *depends && *key != first { format!("depends_on = [{first:?}]\n") } else { String::new() };
        format!("[[monitor]]\nid = {key:?}\nurl = \"tcp://h.example:{port}\"\n{depends}")
    });
    settings(&each.collect::<String>()).monitors
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn edited_entries_are_those_that_are_made_anew(
        files in proptest::collection::vec(
            proptest::collection::btree_map("[a-f]", (1u16..4, any::<bool>()), 0..6), 1..6),
        unknown in proptest::option::of("[a-f]"),
    ) {
        // Keys that the guard holds are among them.
        let known = ["a", "b", "c", "d", "e", "f"].into_iter().filter(|name| Some(*name) != unknown.as_deref());
        let ids: Ids = known.map(|name| (key(name), (of_key(name), SYSTEM_USER))).collect();
        let prints = |of: &Entries| of.iter().map(|(id, entry)| (*id, entry.fingerprint)).collect::<HashMap<_, _>>();
        let (mut before, mut entries, mut seals): (Vec<Located>, _, _) = Default::default();
        for file in files {
            let mut now = generated(&file);
            crate::settings::definition::share(&before, &mut now);
            let old: Entries = Entries::clone(&entries);
            let touched = merge::edit_entries(&mut entries, &mut seals, (&before, &now), &ids);
            let anew = merge::file_entries(&now, &ids, &old);
            if let Some(touched) = touched {
                prop_assert_eq!(prints(&entries), prints(&anew));
                for (id, entry) in &entries {
                    prop_assert!(touched.contains(id) || Arc::ptr_eq(entry, &old[id]));
                }
                prop_assert!(old.keys().all(|id| entries.contains_key(id) || touched.contains(id)));
                prop_assert_eq!(&seals, &merge::seals(&now, &ids, &anew, &Entries::new(), &seals));
                prop_assert_eq!(merge::file_rows(&now), merge::file_rows(&generated(&file)));
            } else {
                prop_assert_eq!(prints(&entries), prints(&old), "nothing was changed");
                seals = merge::seals(&now, &ids, &anew, &old, &seals);
                entries = anew;
            }
            before = now;
        }
    }
}

#[test]
fn an_edit_that_depends_on_a_key_without_a_known_id_is_no_edit() {
    let before = generated(&Generated::from([("d".to_owned(), (1, false))]));
    let mut now = generated(&Generated::from([("d".to_owned(), (1, false)), ("e".to_owned(), (1, true))]));
    crate::settings::definition::share(&before, &mut now);
    let mut ids = Ids::from([(key("e"), (of_key("e"), SYSTEM_USER))]);
    let (mut entries, mut seals) = (merge::file_entries(&before, &ids, &Entries::new()), HashMap::new());
    assert!(merge::edit_entries(&mut entries, &mut seals, (&before, &now), &ids).is_none());
    assert_eq!((entries.len(), seals.len()), (1, 0));
    ids.insert(key("d"), (of_key("d"), SYSTEM_USER));
    assert_eq!(merge::edit_entries(&mut entries, &mut seals, (&before, &now), &ids), Some(vec![of_key("e")]));
    assert_eq!(*entries[&of_key("e")].monitor.depends_on, [of_key("d")]);
}
