//! Monitors that are due and find no place: told by name, in readiness, in the table, and when it is over.

use super::{MOST, monitor, on};
use crate::support::daemon::{Home, has_code};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

#[tokio::test]
async fn an_overdue_monitor_is_named_until_it_is_checked_again() {
    let db = TestDb::new().await;
    let (silent, fine) = (Target::start().await, Target::start().await);
    silent.hold();
    let slow = monitor("slow", &silent.url("/")).replace("\"2s\"", "\"20s\"");
    let config = on(&db.url, &format!("probe.max_in_flight = 1\n{slow}{}", monitor("starved", &fine.url("/"))));
    let home = Home::new(&config);
    let mut daemon = home.start();
    let overdue = |status: u16, body: &serde_json::Value| status == 503 && has_code(body, "overdue");
    daemon.wait_ready("a monitor is overdue", overdue).await;
    until("the log names it", MOST, async || {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("overdue: due for three intervals"))?;
        assert!(line.contains("monitor=starved") && line.contains("monitor_id="), "{line}");
        Some(())
    })
    .await;
    let row = until("its row says so", MOST, async || {
        let overview = daemon.try_overview()?;
        overview["monitors"].as_array()?.iter().find(|row| row["overdue"] == true).cloned()
    })
    .await;
    assert_eq!(row["monitor"], "starved");
    let table = String::from_utf8(home.output(&["status"]).stdout).unwrap();
    assert!(table.lines().any(|line| line.contains("starved") && line.contains("overdue")), "{table}");

    silent.release();
    daemon.wait_ready("it is over", |status, _| status == 200).await;
    until("the log says that it is over", MOST, async || {
        let log = daemon.log();
        log.lines().any(|line| line.contains("no longer overdue") && line.contains("monitor=starved")).then_some(())
    })
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}
