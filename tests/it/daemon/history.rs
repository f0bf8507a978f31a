//! The daemon rolls up, drops what is too old or too much, and says so.

use std::time::Duration;

use tokio::net::UnixStream;

use super::metrics::promtool;
use super::on;
use crate::support::daemon::{Home, ask};
use crate::support::postgres::TestDb;
use crate::support::target::until;

#[tokio::test]
async fn old_days_go_and_the_rest_is_told() {
    let db = TestDb::new().await;
    db.sql(
        "INSERT INTO monitors (user_id, name, url, is_active)
            SELECT id, 'Shop', 'tcp://h:1', false FROM users WHERE plan = 'system';
         SELECT ensure_check_partitions(now() - interval '6 days', now());
         INSERT INTO monitor_checks (monitor_id, status, response_time_ms, checked_at)
            SELECT id, true, 20, now() - g * interval '10 minutes' FROM monitors, generate_series(0, 6 * 144 - 1) g",
    )
    .await;
    let home = Home::new(&on(&db.url, "[retention]\nchecks = \"2d\"\ndisk_budget = \"64MiB\"\n"));
    let daemon = home.start();
    // Both jobs run within a minute, the one that drops perhaps first.
    let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'monitor_checks'::regclass";
    until("only two days, today and three ahead are left", Duration::from_secs(180), async || {
        (db.get::<i64>(days).await == 6).then_some(())
    })
    .await;
    assert!(db.get::<i64>("SELECT count(*) FROM monitor_rollups WHERE timed > 0").await > 6 * 23);
    let kept: i64 = db.get("SELECT checks FROM monitors m, lamplighter_uptime_counts(m.id, 30)").await;
    assert_eq!(kept, 6 * 144, "their roll-ups stay");
    let text = until("the metrics tell of it", Duration::from_secs(90), async || {
        let text = ask(UnixStream::connect(home.socket()).await.unwrap(), "GET", "/metrics").await.body;
        text.contains("lamplighter_history_dropped_partitions_total{reason=\"age\"} 4").then_some(text)
    })
    .await;
    for line in [
        "lamplighter_history_budget_bytes 67108864",
        "lamplighter_history_over_budget 0",
        "lamplighter_history_dropped_partitions_total{reason=\"disk_budget\"} 0",
        "lamplighter_rollup_backfill_ratio 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    assert_eq!(promtool(&["check", "metrics"], &text), (true, String::new()));
    assert!(daemon.log().contains("raw checks of a day were dropped by their age"), "{}", daemon.log());
}
