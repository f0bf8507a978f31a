//! A plugin in the daemon: its codes become verdicts and incidents, rows have none, and the daemon's end is its end.

use std::path::Path;

use super::{MOST, insert, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::until;

/// A plugin that ends with what the file `code` says, and tells a variable that it was given.
fn config(folder: &Path) -> String {
    std::fs::write(folder.join("plugin"), "echo \"STATE $SECRET is | code=$(cat code);;2\"; exit $(cat code)").unwrap();
    let line = format!("exec:/bin/sh -c 'cd {} && . ./plugin'", folder.display());
    std::fs::write(folder.join("secret"), "hunter22\n").unwrap();
    monitor("plugin", &line) + "env = { SECRET = { file = \"secret\" } }\n"
}

#[tokio::test]
async fn codes_become_verdicts_and_incidents() {
    let db = TestDb::new().await;
    let home = Home::new("");
    std::fs::write(home.path().join("code"), "0").unwrap();
    home.write(&on(&db.url, &config(home.path())));
    let mut daemon = home.start();
    daemon.wait_status("plugin", "up").await;
    std::fs::write(home.path().join("code"), "1").unwrap();
    daemon.wait_status("plugin", "degraded").await;
    std::fs::write(home.path().join("code"), "2").unwrap();
    let open = wait_incident(&db, 1, false).await;
    assert_eq!(open.cause.as_deref(), Some("command_failed"));
    let bad = &open.evidence["first_bad"];
    assert_eq!(bad["details"]["perfdata"]["code"]["value"], 2);
    assert!(bad["message"].as_str().unwrap().starts_with("sh says CRITICAL: STATE "), "{bad}");
    std::fs::write(home.path().join("code"), "0").unwrap();
    wait_incident(&db, 1, true).await;
    std::fs::write(home.path().join("code"), "3").unwrap();
    wait_sql(&db, "unknown is a gap", "SELECT count(*) >= 1 FROM monitor_gaps WHERE reason = 'internal'").await;
    let evidence = db.get::<String>("SELECT string_agg(evidence::text, '') FROM incidents").await;
    let messages = db.get::<String>("SELECT string_agg(c::text, '') FROM monitor_checks c").await;
    let shown = format!("{evidence}{messages}{}", daemon.log());
    assert!(!shown.contains("hunter22"), "{shown}");
    let output = home.output(&["probe", "--all", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\"exit_code\":3") && !text.contains("hunter22"), "{text}");

    // A command is the operator's to give, in the file: not that of whoever may write rows.
    insert(&db, "row", "exec:/bin/true").await;
    let refused = "SELECT count(*) = 1 FROM monitors WHERE invalid_reason LIKE '%a command is not allowed%'";
    wait_sql(&db, "the row is refused", refused).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn the_daemons_end_is_the_plugins() {
    let db = TestDb::new().await;
    let home = Home::new("");
    let line = format!("exec:/bin/sh -c 'echo $$ >{}/pid; sleep 100 & wait'", home.path().display());
    let slow = monitor("slow", &line).replace("timeout = \"2s\"", "timeout = \"600s\"");
    home.write(&on(&db.url, &slow));
    let mut daemon = home.start();
    let pid = until("the plugin runs", MOST, async || {
        let text = std::fs::read_to_string(home.path().join("pid")).ok()?;
        rustix::process::Pid::from_raw(text.trim().parse().ok()?)
    })
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    until("its group is gone", MOST, async || rustix::process::test_kill_process_group(pid).is_err().then_some(()))
        .await;
}
