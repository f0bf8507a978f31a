//! `check-config --plan`: what a reload would do, without doing it.

use super::{monitor, on};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::Target;

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn the_plan_says_what_the_reload_then_does() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let of = |ids: &[&str]| ids.iter().map(|id| monitor(id, &target.url(&format!("/{id}")))).collect::<String>();
    let home = Home::new(&on(&db.url, &of(&["a", "b", "c", "d", "e"])));
    // Before the first start every monitor is new.
    let before = home.output(&["check-config", "--plan"]);
    assert_eq!(before.status.code(), Some(0), "{}", text(&before));
    assert!(text(&before).contains("add 5 monitors:"), "{}", text(&before));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    home.write(&on(&db.url, &of(&["a", "b", "c", "d"])));
    crate::support::target::until("e is archived", super::MOST, async || {
        db.get::<bool>("SELECT archived_at IS NOT NULL FROM monitors WHERE key = 'e'").await.then_some(())
    })
    .await;

    let candidate = home.path().join("candidate.toml");
    let renamed = of(&["x"]).replace("id = \"x\"", "id = \"x\"\nrenamed_from = \"c\"");
    let changed = of(&["b"]).replace("interval = \"1s\"", "interval = \"7s\"") + "confirmations = 5\n";
    let config = std::fs::read_to_string(home.config()).unwrap();
    let head = config.split("[[monitor]]").next().unwrap().replace("127.0.0.1:0", "127.0.0.1:1");
    std::fs::write(&candidate, format!("{head}{}{changed}{renamed}{}", of(&["a"]), of(&["e", "new"]))).unwrap();
    let file = candidate.to_str().unwrap();
    let plan = home.output(&["check-config", file, "--plan", "--json"]);
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan));
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["added"], serde_json::json!(["new"]));
    assert_eq!(plan["returned"], serde_json::json!(["e"]));
    assert_eq!(plan["renamed"], serde_json::json!([{ "from": "c", "to": "x" }]));
    assert_eq!(plan["archived"], serde_json::json!(["d"]));
    let b = serde_json::json!({ "key": "b", "keys": ["interval", "confirmations"] });
    assert!(plan["changed"].as_array().unwrap().contains(&b), "{plan}");
    assert_eq!((&plan["unchanged"], &plan["refused"]), (&serde_json::json!(1), &serde_json::Value::Null));
    assert_eq!(plan["needs_restart"], serde_json::json!(["[server]"]));
    let said = text(&home.output(&["check-config", file, "--plan"]));
    for part in [
        "add 1 monitor:\n    new\n",
        "b (interval, confirmations)",
        "c to x",
        "archive 1 monitor:\n    d\n",
        "[server]",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitors WHERE archived_at IS NULL").await, 4, "nothing was done");

    let invalid = home.path().join("invalid.toml");
    std::fs::write(&invalid, format!("{config}colour = 1\n")).unwrap();
    assert_eq!(home.output(&["check-config", invalid.to_str().unwrap(), "--plan"]).status.code(), Some(78));
    let away = home.path().join("away.toml");
    std::fs::write(&away, config.replace(&db.url, "postgres://x@127.0.0.1:1/x")).unwrap();
    let away = home.output(&["check-config", away.to_str().unwrap(), "--plan"]);
    assert_eq!(away.status.code(), Some(69), "{}", text(&away));
    assert_eq!(daemon.stop().await.code(), Some(0));
    // Without a daemon the database still answers.
    let plan = text(&home.output(&["check-config", file, "--plan"]));
    assert!(plan.contains("what needs a restart is not known"), "{plan}");
}

#[tokio::test]
async fn the_plan_tells_that_the_guard_would_refuse() {
    let db = TestDb::new().await;
    let of = |count: usize| {
        (0..count)
            .map(|at| format!("[[monitor]]\nid = \"m{at:02}\"\nurl = \"tcp://127.0.0.1:1\"\n"))
            .collect::<String>()
    };
    let home = Home::new(&on(&db.url, &of(30)));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    assert_eq!(home.output(&["reload"]).status.code(), Some(0));
    assert_eq!(daemon.stop().await.code(), Some(0));
    home.write(&on(&db.url, &of(2)));
    let plan = home.output(&["check-config", "--plan"]);
    assert_eq!(plan.status.code(), Some(0));
    let said = text(&plan);
    assert!(said.contains("REFUSED") && said.contains("28 of 30") && said.contains("and 8 more"), "{said}");
}

#[tokio::test]
async fn the_embedded_database_answers_while_the_daemon_runs() {
    let home = Home::new("[[monitor]]\nid = \"a\"\nurl = \"tcp://127.0.0.1:1\"\n");
    let stopped = home.output(&["check-config", "--plan"]);
    assert_eq!(stopped.status.code(), Some(69), "{}", text(&stopped));
    assert!(text(&stopped).contains("lamplighter run"), "{}", text(&stopped));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    assert_eq!(home.output(&["reload"]).status.code(), Some(0));
    let plan = home.output(&["check-config", "--plan"]);
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan));
    assert!(text(&plan).contains("change no monitor\n  leave 1 monitor as they are"), "{}", text(&plan));
    assert_eq!(daemon.stop().await.code(), Some(0));
}
