//! 200 HTTP monitors at a second: every path once a second, and exactly those checks in the database.

use std::time::Duration;

use super::{monitor, on};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

const MONITORS: usize = 200;
/// Of steady state.
const SECONDS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_monitors_are_each_checked_once_a_second() {
    let _alone = crate::support::alone().await;
    let db = TestDb::new().await;
    let target = Target::start().await;
    let monitors: String = (0..MONITORS).map(|n| monitor(&format!("m{n}"), &target.url(&format!("/{n}")))).collect();
    let home = Home::new(&on(&db.url, &monitors));
    let mut daemon = home.start();
    until("each was asked often enough", Duration::from_secs(60), async || {
        let times = target.times();
        (times.len() == MONITORS && times.values().all(|times| times.len() >= SECONDS + 2)).then_some(())
    })
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));

    let times = target.times();
    let mut deviations = Vec::new();
    for (path, times) in &times {
        // The first comes at once, not in the monitor's phase; the second may come at the start of either.
        let steady = &times[2..];
        deviations.extend(steady.windows(2).map(|pair| {
            let gap = (pair[1] - pair[0]).num_milliseconds();
            assert!((100..1900).contains(&gap), "{path} was asked after {gap} ms: doubled, or missing");
            (gap - 1000).abs()
        }));
    }
    deviations.sort_unstable();
    let at = |share: f64| deviations[((deviations.len() - 1) as f64 * share) as usize];
    println!(
        "deviation of {} intervals: p50 {} p99 {} p99.5 {} max {} ms",
        deviations.len(),
        at(0.5),
        at(0.99),
        at(0.995),
        at(1.0)
    );
    // Promised are 100 ms for 99.5 %: measured here were 6 ms. Other tests run beside this one, hence the room.
    assert!(at(0.5) <= 50, "half of the intervals are off by more than {} ms", at(0.5));
    assert!(at(0.95) <= 100, "5 % of the intervals are off by more than {} ms", at(0.95));
    assert!(at(0.995) <= 400, "0.5 % of the intervals are off by more than {} ms", at(0.995));

    // Phases are spread: no tenth of a second has more than three times its share.
    let mut tenths = [0_usize; 10];
    for times in times.values() {
        tenths[(times[3].timestamp_subsec_millis() / 100 % 10) as usize] += 1;
    }
    assert!(tenths.iter().all(|count| *count < MONITORS * 3 / 10), "bunched: {tenths:?}");

    let answers = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks WHERE status").await, answers);
    for n in [0, 99, 199] {
        let rows =
            format!("SELECT count(*) FROM monitor_checks JOIN monitors m ON m.id = monitor_id WHERE key = 'm{n}'");
        assert_eq!(db.get::<i64>(&rows).await, i64::try_from(target.answers(&format!("/{n}"))).unwrap());
    }
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_gaps").await, 0);
}
