//! What is planned is what a merge then does.

use std::collections::{BTreeMap, BTreeSet};

use lamplighter::catalog::plan::Guard;
use lamplighter::catalog::{CatalogStore as _, FileRow, MergeAnswer};
use lamplighter::store::Store;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::support::postgres::TestDb;

/// A monitor of a generated file.
#[derive(Clone, Debug)]
struct Generated {
    former: Option<String>,
    name: u8,
    interval: i32,
    confirmations: Option<u8>,
    owner: Option<String>,
}

fn files() -> impl Strategy<Value = BTreeMap<String, Generated>> {
    let one = (
        prop::option::weighted(0.3, "[a-f]{1,2}"),
        0u8..2,
        1i32..3,
        prop::option::of(1u8..3),
        prop::option::weighted(0.3, "[xy]@example\\.com"),
    );
    let one = one.prop_map(|(former, name, interval, confirmations, owner)| Generated {
        former,
        name,
        interval,
        confirmations,
        owner,
    });
    prop::collection::btree_map("[a-f]{1,2}", one, 0..40)
}

fn file_rows(file: &BTreeMap<String, Generated>) -> Vec<FileRow> {
    let each = file.iter().map(|(key, monitor)| FileRow {
        key: key.parse().unwrap(),
        renamed_from: monitor.former.as_ref().map(|former| former.parse().unwrap()),
        name: format!("name {}", monitor.name).into(),
        url: "tcp://a.example:1".into(),
        owner: monitor.owner.as_deref().map(Into::into),
        interval_seconds: monitor.interval,
        timeout_seconds: 10,
        is_active: true,
        kind: "tcp",
        spec: monitor.confirmations.map_or_else(|| "{}".to_owned(), |n| format!("{{\"confirmations\":{n}}}")).into(),
        tags: [].into(),
    });
    each.collect()
}

/// The key of a row, whether it is archived, and its revision.
type Row = (String, bool, i64);

async fn table(db: &TestDb) -> BTreeMap<uuid::Uuid, Row> {
    let sql = "SELECT id, key, archived_at IS NOT NULL, revision FROM monitors WHERE source = 'file'";
    let rows: Vec<(uuid::Uuid, String, bool, i64)> = sqlx::query_as(sql).fetch_all(&db.pool).await.unwrap();
    rows.into_iter().map(|(id, key, archived, revision)| (id, (key, archived, revision))).collect()
}

async fn step(db: &TestDb, store: &Store, file: &BTreeMap<String, Generated>) {
    let rows: std::sync::Arc<[FileRow]> = file_rows(file).into();
    let before = table(db).await;
    let plan = store.plan(std::sync::Arc::clone(&rows)).await.unwrap();
    assert_eq!(table(db).await, before, "planning changes nothing");
    let answer = store.merge(std::sync::Arc::clone(&rows), Guard::Reload { had: None }).await.unwrap();
    let answer = match answer {
        MergeAnswer::Refused(archiving) => {
            assert_eq!(plan.refused.as_ref(), Some(&archiving));
            assert_eq!(table(db).await, before, "what is refused changes nothing");
            store.merge(rows, Guard::Force).await.unwrap()
        }
        done => {
            assert_eq!(plan.refused, None);
            done
        }
    };
    let MergeAnswer::Done(merged) = answer else { panic!("a forced merge was refused") };
    let after = table(db).await;
    let keys = |keys: &[String]| keys.iter().cloned().collect::<BTreeSet<_>>();
    let among = |chosen: &dyn Fn(&uuid::Uuid, &Row) -> bool| {
        let chosen = after.iter().filter(|(id, row)| chosen(id, row));
        chosen.map(|(_, row)| row.0.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(keys(&plan.added), among(&|id, _| !before.contains_key(id)));
    assert_eq!(keys(&plan.archived), among(&|id, row| row.1 && before.get(id).is_some_and(|row| !row.1)));
    assert_eq!(keys(&plan.returned), among(&|id, row| !row.1 && before.get(id).is_some_and(|row| row.1)));
    let renamed: BTreeSet<String> = plan.renamed.iter().map(|renamed| renamed.to.clone()).collect();
    assert_eq!(renamed, among(&|id, row| before.get(id).is_some_and(|before| before.0 != row.0)));
    for renamed in &plan.renamed {
        let to = after.iter().find(|(_, row)| row.0 == renamed.to).unwrap();
        assert_eq!(before[to.0].0, renamed.from);
    }
    // Every row that was written was planned to be, and no other.
    let changed: BTreeSet<String> = plan.changed.iter().map(|changed| changed.key.clone()).collect();
    let all = [&changed, &renamed, &keys(&plan.returned)].into_iter().flatten().cloned().collect::<BTreeSet<_>>();
    assert_eq!(all, among(&|id, row| !row.1 && before.get(id).is_some_and(|before| before.2 != row.2)));
    assert_eq!(plan.unchanged, file.len() - all.len() - plan.added.len());
    let written: BTreeSet<String> =
        merged.written.iter().map(|id| after[&id.0].0.clone()).filter(|key| !plan.added.contains(key)).collect();
    assert_eq!(written, all);
    // Read whole, all is as it shall be.
    assert!(store.plan(file_rows(file).into()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_plan_is_what_the_merge_then_does() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let mut runner = TestRunner::deterministic();
    let mut refused = 0;
    for _ in 0..40 {
        let file = files().new_tree(&mut runner).unwrap().current();
        refused += usize::from(store.plan(file_rows(&file).into()).await.unwrap().refused.is_some());
        step(&db, &store, &file).await;
        // A person writes to a row of the file's.
        db.sql("UPDATE monitors SET name = 'mine' WHERE id = (SELECT id FROM monitors WHERE source = 'file' LIMIT 1)")
            .await;
    }
    assert!(refused > 0, "the guard had something to say");
}

#[tokio::test]
async fn two_merges_at_once_never_archive_more_than_one_may() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let row = |number: usize| {
        let only = BTreeMap::from([(
            format!("m{number}"),
            Generated { former: None, name: 0, interval: 1, confirmations: None, owner: None },
        )]);
        file_rows(&only).remove(0)
    };
    let all: Vec<FileRow> = (0..40).map(row).collect();
    assert!(matches!(store.merge(all.clone().into(), Guard::Start { had: None }).await.unwrap(), MergeAnswer::Done(_)));
    // Each keeps half; together they would leave nothing.
    let other = store.clone();
    let (first, second) = (all[..20].to_vec(), all[20..].to_vec());
    let (first, second) = tokio::join!(
        store.merge(first.into(), Guard::Reload { had: None }),
        other.merge(second.into(), Guard::Reload { had: None })
    );
    let refused = [first.unwrap(), second.unwrap()].iter().filter(|a| matches!(a, MergeAnswer::Refused(_))).count();
    assert_eq!(refused, 1);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitors WHERE archived_at IS NULL").await, 20);
}
