//! A running daemon whose descriptors are taken away: its checks are unknown, and it goes on with all else.

use std::process::Command;
use std::time::Duration;

use crate::daemon::{monitor, on};
use crate::support::daemon::{Daemon, Home, ask};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

const MOST: Duration = Duration::from_secs(30);

/// prlimit(1) on the running daemon; the soft limit only, so that it can be given back.
fn limit(daemon: &Daemon, descriptors: u64) {
    let pid = daemon.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={descriptors}:")]).status().unwrap();
    assert!(status.success());
}

/// How many are open.
fn open(daemon: &Daemon) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_descriptors_serves_and_records_and_blames_nobody() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let monitors = monitor("web", &target.url("/")) + &monitor("port", &format!("tcp://{}", target.address));
    let home = Home::new(&on(&db.url, &monitors));
    let mut daemon = home.start();
    let address = daemon.address().await;
    for id in ["web", "port"] {
        daemon.wait_status(id, "up").await;
    }

    // So that more than the part that checks may have is open, and the rest is still there for others.
    limit(&daemon, open(&daemon) * 5 / 4);
    for id in ["web", "port"] {
        let row = daemon.wait_status(id, "unknown").await;
        assert_eq!(row["last"]["failure"], "resource_exhausted", "{row}");
    }
    let asked = target.all_answers();
    let rows = "SELECT count(*) FROM monitor_gaps WHERE reason = 'resource_exhausted'";
    until("it is recorded", MOST, async || (db.get::<i64>(rows).await > 0).then_some(())).await;
    // New connections are taken, by both ways in.
    let port = address.strip_prefix("http://").unwrap();
    for _ in 0..3 {
        let stream = tokio::net::TcpStream::connect(port).await.unwrap();
        assert_eq!(ask(stream, "GET", "/healthz").await.status, 200);
        assert_eq!(daemon.readiness().await.map(|(status, _)| status), Some(200));
    }
    assert_eq!(target.all_answers(), asked, "nothing was dialled");

    // Not even for others; what is open stays open.
    limit(&daemon, 3);
    let waiting = tokio::net::TcpStream::connect(port).await.unwrap();
    until("it is told", MOST, async || daemon.log().contains("could not be accepted").then_some(())).await;
    limit(&daemon, 1024);
    assert_eq!(ask(waiting, "GET", "/healthz").await.status, 200, "who waited is served");
    for id in ["web", "port"] {
        daemon.wait_status(id, "up").await;
    }
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents").await, 0);
    let blamed = "SELECT count(*) FROM monitor_checks WHERE NOT status";
    assert_eq!(db.get::<i64>(blamed).await, 0, "no check counts against a target");
}
