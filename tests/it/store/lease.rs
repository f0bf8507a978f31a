//! The lease: who may write, and the gap of the time when nobody did.

use std::time::Duration;

use lamplighter::catalog::CatalogStore as _;
use lamplighter::journal::{RecordStore as _, Unrecorded};
use lamplighter::model::{GapReason, Record, StoreFault};
use lamplighter::store::Lease;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{batch, check, monitors, now};
use crate::support::postgres::{TestDb, store_at};

#[tokio::test]
async fn one_holder_and_fenced_writes() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let (first, second) = (store_at(&db.url, "r1", "public"), store_at(&db.url, "r1", "public"));
    let unleased = first.record(&batch(vec![Record::Check(check(id, true, now()))])).await;
    assert!(matches!(unleased, Err(StoreFault::Fenced(_))), "{unleased:?}");

    assert_eq!(first.acquire("one", &Unrecorded::default()).await.unwrap(), Lease::Held { epoch: 1 });
    let Lease::Taken { holder, until } = second.acquire("two", &Unrecorded::default()).await.unwrap() else {
        panic!("two holders")
    };
    assert!(holder == "one" && until > now());
    // A restart takes its own lease back at once; another region is another lease.
    assert_eq!(first.acquire("one", &Unrecorded::default()).await.unwrap(), Lease::Held { epoch: 2 });
    assert_eq!(
        store_at(&db.url, "r2", "public").acquire("two", &Unrecorded::default()).await.unwrap(),
        Lease::Held { epoch: 1 }
    );
    first.renew(&Unrecorded::default()).await.unwrap();

    // Past its end the other takes it, and what the first still writes is refused.
    db.sql("UPDATE daemon_lease SET expires_at = now() - interval '1 s' WHERE scope = 'r1'").await;
    assert_eq!(second.acquire("two", &Unrecorded::default()).await.unwrap(), Lease::Held { epoch: 3 });
    assert!(matches!(first.renew(&Unrecorded::default()).await, Err(StoreFault::Fenced(_))));
    let late = first.record(&batch(vec![Record::Check(check(id, true, now()))])).await;
    assert!(matches!(late, Err(StoreFault::Fenced(_))), "{late:?}");
    assert!(matches!(
        first.merge(std::sync::Arc::from([]), lamplighter::catalog::plan::Guard::Start { had: None }).await,
        Err(StoreFault::Fenced(_))
    ));
    assert!(matches!(first.write_status(&[]).await, Err(StoreFault::Fenced(_))));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, 0);
    second.record(&batch(vec![Record::Check(check(id, true, now()))])).await.unwrap();
    second.release(&Unrecorded::default()).await.unwrap();
    assert_eq!(first.acquire("one", &Unrecorded::default()).await.unwrap(), Lease::Held { epoch: 4 });
}

#[tokio::test]
async fn renewing_never_waits_for_a_batch_and_nobody_takes_over_inside_one() {
    let db = TestDb::new().await;
    let (first, second) = (store_at(&db.url, "r", "public"), store_at(&db.url, "r", "public"));
    first.acquire("one", &Unrecorded::default()).await.unwrap();
    let mut writing = db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM daemon_lease WHERE scope = 'r' FOR KEY SHARE").execute(&mut *writing).await.unwrap();
    first.renew(&Unrecorded::default()).await.unwrap();
    db.sql("UPDATE daemon_lease SET expires_at = now() - interval '1 s'").await;
    assert!(matches!(second.acquire("two", &Unrecorded::default()).await, Err(StoreFault::Away(_))));
    writing.rollback().await.unwrap();
    assert_eq!(second.acquire("two", &Unrecorded::default()).await.unwrap(), Lease::Held { epoch: 2 });
}

#[tokio::test]
async fn looking_takes_nothing_and_what_stands_still_is_moved_out_of_the_way() {
    let db = TestDb::new().await;
    let (first, second) = (store_at(&db.url, "r", "public"), store_at(&db.url, "r", "public"));
    assert_eq!(second.lease().await.unwrap(), None);
    first.acquire("one", &Unrecorded::default()).await.unwrap();
    let Some(Lease::Taken { holder, until }) = second.lease().await.unwrap() else { panic!("nobody holds it") };
    assert!(holder == "one" && until > now());
    db.sql("UPDATE daemon_lease SET expires_at = now() - interval '1 s'").await;
    assert_eq!(second.lease().await.unwrap(), None);
    assert_eq!(db.get::<i64>("SELECT epoch FROM daemon_lease").await, 1, "looking changes nothing");

    // A daemon that was frozen in the middle of a batch.
    let mut frozen = PgConnection::connect(&db.url).await.unwrap();
    let hold = "SET application_name = 'lamplighter'; BEGIN; SELECT 1 FROM daemon_lease FOR KEY SHARE";
    frozen.execute(hold).await.unwrap();
    assert_eq!(second.acquire("two", &Unrecorded::default()).await.unwrap(), Lease::Held { epoch: 2 });
    assert!(frozen.execute("COMMIT").await.is_err(), "its transaction is gone");
    // Who has noticed does not even try.
    second.forget_lease();
    assert!(matches!(second.renew(&Unrecorded::default()).await, Err(StoreFault::Fenced(_))));
    assert_eq!(second.acquire("two", &Unrecorded::default()).await.unwrap(), Lease::Held { epoch: 3 });
}

#[tokio::test]
async fn downtime_is_one_gap_from_the_last_sign_of_life() {
    let db = TestDb::new().await;
    let store = store_at(&db.url, "r", "public");
    store.acquire("one", &Unrecorded::default()).await.unwrap();
    assert_eq!(store.record_downtime(Duration::ZERO, &[], &Unrecorded::default()).await.unwrap(), None);

    db.sql("UPDATE daemon_lease SET renewed_at = now() - interval '1 hour'").await;
    store.acquire("one", &Unrecorded::default()).await.unwrap();
    // Killed before the gap was written: the next start writes the whole of it.
    store.acquire("one", &Unrecorded::default()).await.unwrap();
    let gap = store.record_downtime(Duration::ZERO, &[], &Unrecorded::default()).await.unwrap().unwrap();
    assert_eq!((gap.monitor, gap.reason), (None, GapReason::NotRunning));
    let long = (gap.to_at - gap.from_at).num_seconds();
    assert!((3590..3700).contains(&long), "{long}");
    assert_eq!(store.record_downtime(Duration::ZERO, &[], &Unrecorded::default()).await.unwrap(), None);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_gaps WHERE reason = 'not_running'").await, 1);

    // A check after the last renewal is a sign of life as well.
    monitors(&db, 1).await;
    db.sql(
        "INSERT INTO monitor_state (monitor_id, region, state, status, last_checked)
         SELECT id, 'r', '{}', 'up', now() - interval '10 minutes' FROM monitors;
         UPDATE daemon_lease SET renewed_at = now() - interval '1 hour'",
    )
    .await;
    store.acquire("one", &Unrecorded::default()).await.unwrap();
    let gap = store.record_downtime(Duration::ZERO, &[], &Unrecorded::default()).await.unwrap().unwrap();
    let long = (gap.to_at - gap.from_at).num_seconds();
    assert!((590..700).contains(&long), "{long}");

    // So is a batch. And a daemon that has been checking since, without a database, was running.
    db.sql(
        "INSERT INTO recorded_batches (id, scope, recorded_at, checks, dropped)
         VALUES (gen_random_uuid(), 'r', now() - interval '5 minutes', 1, 0),
            (gen_random_uuid(), 'elsewhere', now(), 1, 0);
         UPDATE daemon_lease SET renewed_at = now() - interval '1 hour'",
    )
    .await;
    store.acquire("one", &Unrecorded::default()).await.unwrap();
    let gap = store.record_downtime(Duration::from_secs(60), &[], &Unrecorded::default()).await.unwrap().unwrap();
    let long = (gap.to_at - gap.from_at).num_seconds();
    assert!((235..245).contains(&long), "{long}");
}
