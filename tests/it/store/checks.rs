//! Checks, newest first: of all monitors by pages for who sees many, by the key for who sees few, and the same rows; of one.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use lamplighter::access::Viewer;
use lamplighter::access::read::{Before, CheckFilter, MonitorName, ReadStore as _};
use lamplighter::model::{Keeping, Plan, UserId, Verdict};
use lamplighter::store::Store;
use uuid::Uuid;

use super::{monitors, now};
use crate::support::postgres::TestDb;

/// Every row that this viewer is shown, by pages of an odd size.
async fn shown(store: &Store, viewer: Viewer, filter: &CheckFilter) -> Vec<(i64, chrono::DateTime<chrono::Utc>)> {
    let (mut rows, mut before): (Vec<_>, Option<Before>) = (Vec::new(), None);
    for _ in 0..1000 {
        let page = store.checks(viewer, CheckFilter { before, ..filter.clone() }).await.unwrap();
        rows.extend(page.rows.iter().map(|row| (row.id, row.checked_at)));
        before = page.next;
        if before.is_none() {
            return rows;
        }
    }
    panic!("the pages do not end");
}

#[tokio::test]
async fn whoever_asks_is_shown_his_rows_whichever_way_they_are_read() {
    let db = TestDb::new().await;
    let store = db.store().await;
    monitors(&db, 253).await;
    let [many, few] = [Uuid::from_u128(0xa), Uuid::from_u128(0xb)];
    db.sql(&format!(
        "INSERT INTO users (id, email, plan) VALUES ('{many}', 'a@example.com', 'free'), ('{few}', 'b@example.com', 'pro');
         UPDATE monitors SET user_id = '{many}';
         UPDATE monitors SET user_id = '{few}' WHERE name IN ('Site 1', 'Site 2', 'Site 3');
         SELECT ensure_check_partitions(now() - interval '1 day', now() + interval '1 hour');
         INSERT INTO monitor_checks (monitor_id, status, response_time_ms, checked_at)
            SELECT m.id, g % 7 <> 0, 5, now() - g * interval '40 minutes' FROM monitors m, generate_series(-1, 30) g ORDER BY 4"
    ))
    .await;
    let (from, to) = (now() - TimeDelta::hours(20), now() + TimeDelta::hours(1));
    let filter = CheckFilter { from: Some(from), to: Some(to), limit: 997, ..CheckFilter::default() };
    let plans = [("free".into(), Plan { retention: Some(Duration::from_secs(10 * 3600)), ..Plan::default() })];
    for (hidden, clip) in [(false, "true"), (true, "(u.plan <> 'free' OR c.checked_at >= now() - interval '10 hours')")]
    {
        if hidden {
            store
                .keeping()
                .store(Arc::new(Keeping { plans: plans.clone().into_iter().collect(), ..Keeping::default() }));
        }
        for (viewer, whose) in [
            (Viewer::Everything, "true".to_owned()),
            (Viewer::User(UserId(many)), format!("u.id = '{many}'")),
            (Viewer::User(UserId(few)), format!("u.id = '{few}'")),
        ] {
            let mut wanted: Vec<i64> = db
                .get(&format!(
                    "SELECT array_agg(c.id) FROM monitor_checks c JOIN monitors m ON m.id = c.monitor_id \
                     JOIN users u ON u.id = m.user_id WHERE c.checked_at >= '{from}' AND c.checked_at < '{to}' AND {whose} AND {clip}"
                ))
                .await;
            let found = shown(&store, viewer, &filter).await;
            assert!(
                found.windows(2).all(|pair| (pair[0].1, pair[0].0) > (pair[1].1, pair[1].0)),
                "in order, none twice"
            );
            let mut found: Vec<i64> = found.into_iter().map(|(id, _)| id).collect();
            wanted.sort_unstable();
            found.sort_unstable();
            assert!(found == wanted, "{viewer:?}, with a plan: {hidden}: {} rows of {}", found.len(), wanted.len());
        }
    }
}

/// Pages of one monitor are read in two parts; when it was checked last says where the first begins.
#[tokio::test]
async fn checks_of_one_monitor_are_all_shown_wherever_its_last_check_is() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let id = monitors(&db, 1).await[0];
    db.sql(&format!(
        "SELECT ensure_check_partitions(now() - interval '8 days', now() + interval '1 day');
         INSERT INTO monitor_checks (monitor_id, status, response_time_ms, checked_at)
            SELECT '{id}', g % 7 <> 0, 5, now() - g * interval '5 hours' FROM generate_series(-2, 34) g ORDER BY 4"
    ))
    .await;
    let all: Vec<i64> = db.get("SELECT array_agg(id ORDER BY checked_at DESC) FROM monitor_checks").await;
    let down: Vec<i64> =
        db.get("SELECT array_agg(id ORDER BY checked_at DESC) FROM monitor_checks WHERE NOT status").await;
    // Never, now, before some rows, before and after all: each with pages that end at the edge between the parts.
    for last in
        ["NULL", "now()", "now() - interval '3 days'", "now() - interval '30 days'", "now() + interval '30 days'"]
    {
        db.sql(&format!("UPDATE monitors SET last_checked = {last}")).await;
        let name = MonitorName::Id(id);
        let view = store.monitor(Viewer::Everything, name).await.unwrap().unwrap();
        for limit in [1, 9, 10, 11, 12, 37, 500] {
            for (verdict, wanted) in [(None, &all), (Some(Verdict::Down), &down)] {
                let (mut found, mut before) = (Vec::new(), None);
                for _ in 0..100 {
                    let page = store
                        .checks_of(&view, CheckFilter { before, limit, verdict, ..CheckFilter::default() })
                        .await
                        .unwrap();
                    assert!(page.rows.len() <= usize::from(limit));
                    found.extend(page.rows.iter().map(|row| row.id));
                    before = page.next;
                    if before.is_none() {
                        break;
                    }
                }
                assert_eq!(&found, wanted, "{last}, {limit} a page, {verdict:?}");
            }
        }
    }
}
