use proptest::prelude::*;

use super::*;

fn id(number: usize) -> MonitorId {
    MonitorId(uuid::Uuid::from_u128(number as u128))
}

fn stored(rows: &[(&str, bool)]) -> Vec<StoredRow> {
    let each = rows.iter().enumerate();
    each.map(|(at, (key, archived))| StoredRow { id: id(at), key: (*key).to_owned(), archived: *archived }).collect()
}

fn many(count: usize) -> Vec<StoredRow> {
    (0..count).map(|at| StoredRow { id: id(at), key: format!("m{at:03}"), archived: false }).collect()
}

fn keep(stored: &[StoredRow], count: usize) -> Assignment {
    assign(stored, stored.iter().take(count).map(|row| (row.key.as_str(), None)))
}

#[test]
fn rows_are_assigned_by_key_then_by_former_key_then_anew() {
    let rows = stored(&[("a", false), ("b", false), ("c", true), ("d", false)]);
    let wanted = [("b", None), ("x", Some("a")), ("y", Some("a")), ("c", None), ("z", Some("b"))];
    let found = assign(&rows, wanted.into_iter());
    assert_eq!(found.places, [Place::Own(1), Place::Renamed(0), Place::New, Place::Own(2), Place::New]);
    assert_eq!((found.gone, found.living), (vec![3], 3));
}

#[test]
fn more_than_half_of_at_least_twenty_is_guarded() {
    let had = None;
    let (again, force, reload, start) =
        (Guard::Again { had }, Guard::Force, Guard::Reload { had }, Guard::Start { had });
    for (living, left, guard, expected) in [
        (19, 1, reload, false),
        (20, 10, reload, false),
        (20, 9, reload, true),
        (21, 11, reload, false),
        (21, 10, reload, true),
        (20, 9, start, true),
        (20, 9, again, true),
        (20, 0, force, false),
        (3, 0, reload, false),
        (3, 0, again, false),
        (3, 0, start, true),
        (3, 1, start, false),
        (0, 0, start, false),
    ] {
        let rows = many(living);
        let found = keep(&rows, left).guarded(&rows, guard);
        assert_eq!(found.is_some(), expected, "{left} of {living} left, {guard:?}");
        if let Some(found) = found {
            assert_eq!((found.count, found.of), (living - left, living));
        }
    }
}

#[test]
fn what_is_added_since_does_not_outweigh_what_is_held() {
    let rows = many(120);
    let added = keep(&rows, 100);
    assert_eq!(added.guarded(&rows, Guard::Again { had: None }), None);
    for guard in [Guard::Again { had: Some(30) }, Guard::Reload { had: Some(30) }] {
        let found = added.guarded(&rows, guard).unwrap();
        assert_eq!((found.count, found.of), (20, 30));
    }
    assert_eq!(added.guarded(&rows, Guard::Reload { had: Some(40) }), None);
}

#[test]
fn renaming_all_is_no_archiving_and_archived_rows_do_not_count() {
    let rows = many(40);
    let renamed: Vec<(String, &str)> = rows.iter().map(|row| (format!("new-{}", row.key), row.key.as_str())).collect();
    let found = assign(&rows, renamed.iter().map(|(key, former)| (key.as_str(), Some(*former))));
    assert_eq!((found.gone.len(), found.guarded(&rows, Guard::Start { had: None })), (0, None));
    let mut rows = many(40);
    rows.iter_mut().skip(15).for_each(|row| row.archived = true);
    assert_eq!(keep(&rows, 0).guarded(&rows, Guard::Reload { had: None }), None);
}

#[test]
fn what_is_held_is_told_in_one_sentence() {
    let rows = many(40);
    let told = keep(&rows, 2).guarded(&rows, Guard::Reload { had: None }).unwrap().to_string();
    assert_eq!(told, "38 of 40 monitors (m002, m003, m004, m005, m006 and 33 more)");
    let rows = many(2);
    let told = keep(&rows, 0).guarded(&rows, Guard::Start { had: None }).unwrap().to_string();
    assert_eq!(told, "2 of 2 monitors (m000, m001)");
}

#[test]
fn differences_name_the_keys_of_the_file() {
    let file = FileRow {
        key: "a".parse().unwrap(),
        renamed_from: None,
        name: "A".into(),
        url: "https://a.example/".into(),
        owner: None,
        interval_seconds: 60,
        timeout_seconds: 10,
        is_active: true,
        kind: "http",
        spec: r#"{ "method": "GET", "expect": { "status": [200] } }"#.into(),
        tags: ["x".into()].into(),
    };
    let owner = Some(UserId(uuid::Uuid::from_u128(1)));
    let same = Content {
        user_id: owner,
        name: file.name.to_string(),
        url: file.url.to_string(),
        interval_seconds: Some(60),
        timeout_seconds: Some(10),
        is_active: Some(true),
        kind: Some("http".to_owned()),
        // In another order.
        spec: Some(serde_json::json!({ "expect": { "status": [200] }, "method": "GET" })),
        tags: Some(vec![Some("x".to_owned())]),
    };
    assert_eq!(differences(&same, &file, owner), [""; 0]);
    assert_eq!(differences(&same, &file, None), ["owner"]);
    let spec = serde_json::json!({ "method": "HEAD", "expect": { "status": [200] }, "body": "x" });
    let other = Content { interval_seconds: None, tags: Some(vec![None]), spec: Some(spec), ..same.clone() };
    assert_eq!(differences(&other, &file, owner), ["interval", "tags", "body", "method"]);
    assert_eq!(differences(&Content { spec: None, ..same }, &file, owner), ["spec"]);
}

proptest! {
    #[test]
    fn no_row_is_given_twice_and_none_is_lost(
        rows in prop::collection::btree_map("[a-e]{1,2}", any::<bool>(), 0..12),
        wanted in prop::collection::btree_map("[a-e]{1,2}", prop::option::of("[a-e]{1,2}"), 0..12),
    ) {
        let rows: Vec<(&str, bool)> = rows.iter().map(|(key, archived)| (key.as_str(), *archived)).collect();
        let rows = stored(&rows);
        let found = assign(&rows, wanted.iter().map(|(key, former)| (key.as_str(), former.as_deref())));
        prop_assert_eq!(found.places.len(), wanted.len());
        let mut given = HashSet::new();
        for (place, (key, former)) in found.places.iter().zip(&wanted) {
            match place {
                Place::Own(at) => prop_assert!(given.insert(*at) && rows[*at].key == *key),
                Place::Renamed(at) => prop_assert!(given.insert(*at) && Some(&rows[*at].key) == former.as_ref()),
                Place::New => prop_assert!(rows.iter().all(|row| row.key != *key)),
            }
        }
        for (at, row) in rows.iter().enumerate() {
            let gone = !row.archived && !given.contains(&at);
            prop_assert_eq!(found.gone.contains(&at), gone);
        }
    }
}
