//! The real program: the command, and the daemon whose rules change while it runs.

use std::collections::HashMap;

use super::*;
use crate::daemon::on;
use crate::support::daemon::{Daemon, Home};
use crate::support::postgres::TestDb;

const DENY: &str = "[egress]\ndeny = [\"127.0.0.77/32\", \"127.0.0.78/32\"]\n";

fn monitors(canary: &Canary) -> String {
    let one = |way: &Way| {
        let monitor = way.to(&canary.address.ip().to_string(), canary.address.port());
        table(&way.id(), &monitor) + "interval = \"1s\"\ntimeout = \"1s\"\n"
    };
    ways().iter().map(one).collect()
}

#[tokio::test]
async fn the_command_keeps_to_the_rules_of_the_file() {
    let canary = Canary::at([127, 0, 0, 77].into()).await;
    let home = Home::new(&format!("{DENY}{}", monitors(&canary)));
    let mut command = home.command(&["probe", "--all", "--json"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), out.lines().count()), (Some(1), ways().len()), "{out}\n{err}");
    for line in out.lines() {
        let check: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&check["verdict"], &check["failure"]), (&json!("down"), &json!("egress_blocked")), "{check}");
    }
    assert_eq!(canary.heard(), 0, "the canary was dialled");
}

/// The last check of each monitor: when, and what it found.
fn last(daemon: &Daemon) -> Option<HashMap<String, (String, String)>> {
    let overview = daemon.try_overview()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |row: &Value| {
        Some((text(&row["monitor"]), (text(row["last"].get("checked_at")?), text(&row["last"]["failure"]))))
    };
    overview["monitors"].as_array()?.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_forbids_holds_from_the_next_check_on() {
    let canary = Canary::at([127, 0, 0, 78].into()).await;
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, &monitors(&canary)));
    let mut daemon = home.start();
    let first = until("each was checked", LONG, async || last(&daemon).filter(|all| all.len() == ways().len())).await;
    assert!(first.values().all(|(_, failure)| failure != "egress_blocked"), "{first:?}");
    assert!(canary.heard() >= ways().len() - 1, "{} of {}", canary.heard(), ways().len());

    home.write(&on(&db.url, &format!("{DENY}{}", monitors(&canary))));
    // A registry that did not answer is left alone for a while, so there is nothing to forbid.
    let blocked = |all: &HashMap<String, (String, String)>| {
        all.iter().all(|(id, (_, failure))| failure == "egress_blocked" || id.starts_with("domain"))
    };
    let then = until("each is blocked", LONG, async || last(&daemon).filter(blocked)).await;
    let heard = canary.heard();
    until("each was checked again", LONG, async || {
        let now = last(&daemon)?;
        assert!(blocked(&now), "{now:?}");
        now.iter().all(|(id, (at, _))| *at > then[id].0).then_some(())
    })
    .await;
    assert_eq!(canary.heard(), heard, "the canary was dialled after the reload");
    assert_eq!(daemon.stop().await.code(), Some(0));
    let recorded =
        "SELECT count(DISTINCT monitor_id) FROM monitor_checks WHERE error_type = 'egress_blocked' AND NOT status";
    assert_eq!(db.get::<i64>(recorded).await, i64::try_from(ways().len() - 2).unwrap());
}
