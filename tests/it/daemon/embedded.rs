//! The embedded default: a private cluster that lives and dies with the daemon.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{MOST, monitor};
use crate::support::daemon::{Daemon, Home, PROGRAM};
use crate::support::postgres::url_text;
use crate::support::target::{Target, until};

fn postmaster(home: &Home) -> Option<i32> {
    let text = std::fs::read_to_string(home.state().join("postgres/data/postmaster.pid")).ok()?;
    text.lines().next()?.parse().ok()
}

/// Gone, or waiting for an init that does not reap.
fn is_over(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

async fn count(home: &Home, sql: &str) -> i64 {
    let mut conn = PgConnection::connect(&url_text(&home.state())).await.unwrap();
    let value = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    value
}

async fn recorded(home: &Home, daemon: &Daemon, target: &Target) {
    // While the embedded database runs only as long as the daemon, equality is waited for: one check may be on its way.
    until("every answer is a row", MOST, async || {
        daemon.try_overview()?;
        let answers = i64::try_from(target.all_answers()).unwrap();
        let rows = count(home, "SELECT count(*) FROM monitor_checks").await;
        assert!(rows <= i64::try_from(target.all_answers()).unwrap());
        (rows >= answers).then_some(())
    })
    .await;
}

/// As a newcomer starts it: no file, no variable. The default port may be taken by others, so it is the one thing that is
/// not left to the default where this test can help it.
#[tokio::test]
async fn without_any_file_it_runs_on_the_embedded_default() {
    let home = Home::new("");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", home.path()).env("STATE_DIRECTORY", home.state()).current_dir(home.path());
        if let Some(bin) = std::env::var_os("PG_BINDIR") {
            command.env("PG_BINDIR", bin);
        }
        command
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:8780").is_err();
    let system = std::path::Path::new("/etc/lamplighter/config.toml").exists();
    let mut daemon = home.start_as(command(&["run"]));
    if taken || system {
        // A developer's own daemon: what can be said then is that it is told in one line.
        println!("port 8780 or /etc/lamplighter is in use: only the refusal is tested");
        assert!(matches!(daemon.ended().await.code(), Some(69 | 78)));
        return;
    }
    assert_eq!(daemon.address().await, "http://127.0.0.1:8780");
    assert!(daemon.log().contains("on its private PostgreSQL"), "{}", daemon.log());
    let status = command(&["status"]).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(
        status.status.success() && text.contains("database: embedded") && text.contains("No monitors yet"),
        "{text}"
    );
    let url = command(&["db", "url"]).output().unwrap();
    assert_eq!(String::from_utf8(url.stdout).unwrap().trim(), url_text(&home.state()));
    let pid = postmaster(&home).unwrap();
    daemon.signal(Signal::TERM);
    until("it says so", MOST, async || daemon.log().contains(" ended").then_some(())).await;
    assert!(is_over(pid), "the database ends first");
    let log = daemon.log();
    assert!(log.find("PostgreSQL has stopped").unwrap() < log.rfind(" ended").unwrap(), "{log}");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(postmaster(&home).is_none(), "and cleanly");
}

#[tokio::test]
async fn a_killed_postgres_is_started_again_and_no_result_is_lost() {
    let target = Target::start().await;
    let home = Home::new(&monitor("a", &target.url("/a")));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    recorded(&home, &daemon, &target).await;
    for _ in 0..2 {
        let pid = postmaster(&home).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let asked = target.hits("/a");
        until("another one runs", MOST, async || postmaster(&home).filter(|now| *now != pid)).await;
        daemon.wait_ready("it is ready again", |status, _| status == 200).await;
        until("checks went on", MOST, async || (target.hits("/a") > asked + 2).then_some(())).await;
        recorded(&home, &daemon, &target).await;
    }
    assert_eq!(count(&home, "SELECT count(*) FROM monitor_gaps").await, 0);
    let times = target.times();
    // The first check comes at once, the next in the monitor's phase.
    for pair in times["/a"].windows(2).skip(1) {
        let gap = (pair[1] - pair[0]).num_milliseconds();
        assert!((300..2500).contains(&gap), "asked after {gap} ms: {:?}", times["/a"]);
    }
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_killed_daemon_takes_postgres_with_it_and_starts_again() {
    let target = Target::start().await;
    let home = Home::new(&monitor("a", &target.url("/a")));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    recorded(&home, &daemon, &target).await;
    let pid = postmaster(&home).unwrap();
    daemon.kill().await;
    until("postgres ends by itself", MOST, async || is_over(pid).then_some(())).await;
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    let gaps = "SELECT count(*) FROM monitor_gaps WHERE reason = 'not_running'";
    assert_eq!(count(&home, gaps).await, 1);
    // The schema of a stopped daemon: commands start the database themselves.
    assert_eq!(daemon.stop().await.code(), Some(0));
    let migrate = home.output(&["migrate"]);
    assert_eq!(migrate.status.code(), Some(0), "{}", String::from_utf8_lossy(&migrate.stderr));
    assert_eq!(String::from_utf8_lossy(&migrate.stdout), "the schema is up to date\n");
    assert!(postmaster(&home).is_none());
}

#[tokio::test]
async fn an_end_while_the_embedded_postgres_is_frozen_is_bounded() {
    let target = Target::start().await;
    let home = Home::new(&monitor("a", &target.url("/a")));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    let pid = postmaster(&home).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let pids: Vec<i32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).chain([pid]).collect();
    let all = |signal| {
        for pid in &pids {
            // One may have ended meanwhile.
            let _ = kill_process(Pid::from_raw(*pid).unwrap(), signal);
        }
    };
    all(Signal::STOP);
    let began = std::time::Instant::now();
    let status = daemon.stop().await;
    println!("ended {:?} after SIGTERM, with a frozen embedded database", began.elapsed());
    all(Signal::CONT);
    assert_eq!(status.code(), Some(0));
    // TimeoutStopSec of the unit is 30 s.
    assert!(began.elapsed() < std::time::Duration::from_secs(26), "{:?}", began.elapsed());
    // What it left behind is cleared away, and the next one runs.
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}
