//! Jobs that report to the daemon: what they are answered, what becomes of it, and what becomes of silence.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::process::Command;

use super::{MOST, incidents, monitor, on, wait_incident};
use crate::support::daemon::{Daemon, Home};
use crate::support::postgres::{OwnPostgres, TestDb};
use crate::support::target::{Target, until};

const TOKEN: &str = "u0Jm3oYt9Qe4Kx7w";

fn heartbeat(id: &str, keys: &str) -> String {
    format!("[[monitor]]\nid = {id:?}\nurl = \"heartbeat:\"\n{keys}\n")
}

/// What curl prints, with the status in the last line.
async fn curl(arguments: &[&str]) -> (String, String) {
    let mut command = Command::new("curl");
    let output = command.args(["-sS", "-m", "20", "-w", "\n%{http_code}"]).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

async fn ping(url: &str) {
    assert_eq!(curl(&[url]).await, ("200".to_owned(), "OK".to_owned()), "{url}");
}

async fn id_of(daemon: &Daemon, monitor: &str) -> String {
    until("the monitor is there", MOST, async || {
        let overview = daemon.try_overview()?;
        let row = overview["monitors"].as_array()?.iter().find(|row| row["monitor"] == monitor)?;
        Some(row["monitor_id"].as_str()?.to_owned())
    })
    .await
}

#[tokio::test]
async fn jobs_are_heard_as_healthchecks_hears_them() {
    let db = TestDb::new().await;
    let config = heartbeat("job", "period = \"1h\"") + &heartbeat("other", &format!("token = {TOKEN:?}"));
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let address = daemon.address().await;
    let id = id_of(&daemon, "job").await;
    let url = format!("{address}/ping/{id}");
    daemon.wait_status("job", "pending").await;

    // A job as a crontab would have it.
    let script = format!(
        "curl -fsS -o /dev/null {url}/start; out=$(sleep 0.4; echo working; echo 'no space left'; exit 3); code=$?; \
         curl -fsS -o /dev/null --data-raw \"$out\" {url}/$code"
    );
    let done = Command::new("sh").args(["-c", &script]).status().await.unwrap();
    assert!(done.success());
    let row = daemon.wait_status("job", "down").await;
    assert_eq!(row["last"]["failure"], "heartbeat_failed");
    assert_eq!(row["last"]["message"], "the job ended with exit code 3: no space left");
    let took = row["last"]["response_time_ms"].as_i64().unwrap();
    assert!((400..10_000).contains(&took), "{took}");
    let incident = wait_incident(&db, 1, false).await;
    let evidence = "SELECT evidence->'first_bad'->'details'->>'text' FROM incidents";
    assert_eq!(db.get::<String>(evidence).await, "working\nno space left");
    ping(&url).await;
    daemon.wait_status("job", "up").await;
    wait_incident(&db, 1, true).await;
    assert_eq!(incidents(&db).await.len(), 1, "{incident:?}");

    // Every way to say it.
    for (path, status, body) in [
        ("", "200", "OK"),
        ("/0", "200", "OK"),
        ("/start", "200", "OK"),
        ("/log", "200", "OK"),
        ("?rid=123e4567-e89b-12d3-a456-426614174000", "200", "OK"),
        ("?rid=7", "400", "invalid uuid format"),
        ("/256", "400", "invalid url format"),
    ] {
        let (told, text) = curl(&[&format!("{url}{path}")]).await;
        assert_eq!((&*told, &*text), (status, body), "{path}");
    }
    assert_eq!(curl(&["-I", "-o", "/dev/null", &url]).await.0, "200");
    assert_eq!(curl(&["-X", "PUT", &url]).await.0, "405");
    let head = curl(&["-i", &url]).await.1.to_lowercase();
    assert!(head.contains("ping-body-limit: 10000\r\n") && head.contains("content-type: text/plain"), "{head}");
    for unknown in ["nobody/slug", "nobody/slug/start", "nobody", "123e4567-e89b-12d3-a456-426614174000"] {
        let (status, text) = curl(&[&format!("{address}/ping/{unknown}")]).await;
        assert!(status == "404" && text.starts_with("not found"), "{unknown}: {status} {text}");
    }
    // A secret in the address: it lets in, and the id does not.
    let other = id_of(&daemon, "other").await;
    assert_eq!(curl(&[&format!("{address}/ping/{other}")]).await.0, "404");
    let long = home.path().join("long");
    std::fs::write(&long, "x".repeat(3 << 20)).unwrap();
    let data = format!("@{}", long.display());
    let (status, _) = curl(&["--data-binary", &data, &format!("{address}/ping/{TOKEN}")]).await;
    assert_eq!(status, "200", "a long text costs no ping");
    daemon.wait_status("other", "up").await;
    assert!(!daemon.overview().await.to_string().contains(TOKEN) && !daemon.log().contains(TOKEN));
    let (_, ready) = daemon.readiness().await.unwrap();
    assert_eq!(ready["ready"], true, "{ready}");
    assert_eq!(daemon.stop().await.code(), Some(0));
    // Of job: the failure, one good one, "", /0, the one with a rid, HEAD, -i. Of other: one.
    let rows = "SELECT count(*) FROM monitor_checks c JOIN monitors m ON m.id = monitor_id WHERE key = ";
    assert_eq!(db.get::<i64>(&format!("{rows} 'job'")).await, 7);
    assert_eq!(db.get::<i64>(&format!("{rows} 'other'")).await, 1);
}

#[tokio::test]
async fn pushes_are_answered_as_uptime_kuma_answers_them() {
    let db = TestDb::new().await;
    let config = heartbeat("job", &format!("token = {TOKEN:?}")) + &heartbeat("off", "active = false");
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let address = daemon.address().await;
    let off = id_of(&daemon, "off").await;
    let push = async |method: &str, path: &str| curl(&["-X", method, &format!("{address}/api/push/{path}")]).await;
    let good = ("200".to_owned(), r#"{"ok":true}"#.to_owned());
    let gone = ("404".to_owned(), r#"{"ok":false,"msg":"Monitor not found or not active."}"#.to_owned());
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        assert_eq!(push(method, &format!("{TOKEN}?status=up&msg=OK&ping=")).await, good, "{method}");
    }
    assert_eq!(push("GET", "nobody").await, gone);
    assert_eq!(push("GET", &off).await, gone);
    for ping in ["-1", "1e12"] {
        let (status, text) = push("GET", &format!("{TOKEN}?ping={ping}")).await;
        let expected = r#"{"ok":false,"msg":"Invalid ping value. Must be between 0 and 100000000000 ms."}"#;
        assert_eq!((&*status, &*text), ("404", expected));
    }
    assert_eq!(push("GET", &format!("{TOKEN}?status=up&ping=12.7")).await, good);
    let row = daemon.wait_status("job", "up").await;
    assert_eq!(row["last"]["response_time_ms"], 12);
    assert_eq!(push("GET", &format!("{TOKEN}?status=degraded&msg=disk%20full")).await, good);
    let row = daemon.wait_status("job", "down").await;
    assert_eq!(row["last"]["message"], "the job reported a failure: disk full");
    // Whatever comes too fast is told so, and is not recorded.
    let url = format!("{address}/ping/{off}");
    assert_eq!(curl(&[&url]).await, ("200".to_owned(), "OK (paused: not recorded)".to_owned()));
    let mut refused = 0;
    for _ in 0..80 {
        let (status, text) = push("GET", TOKEN).await;
        assert!(matches!(&*status, "200" | "429"), "{status} {text}");
        refused += usize::from(status == "429");
    }
    assert_eq!(daemon.stop().await.code(), Some(0));
    let rows = db.get::<i64>("SELECT count(*) FROM monitor_checks").await;
    assert_eq!(rows, 7 + 80 - i64::try_from(refused).unwrap());
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_without_a_database() {
    let server = OwnPostgres::start();
    let home = Home::new(&on(&server.url, &heartbeat("job", "period = \"1h\"")));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let id = id_of(&daemon, "job").await;
    server.stop();
    daemon.wait_ready("the loss is told", |status, _| status == 503).await;
    let mut acknowledged = 0;
    for _ in 0..3 {
        let url = format!("{}/ping/{id}", daemon.address().await);
        for _ in 0..5 {
            ping(&url).await;
            acknowledged += 1;
        }
        // A run that begins before the kill is timed over it.
        let begun = Utc::now();
        ping(&format!("{url}/start")).await;
        daemon.kill().await;
        daemon = home.start();
        id_of(&daemon, "job").await;
        let url = format!("{}/ping/{id}", daemon.address().await);
        until("it listens", MOST, async || (curl(&[&url]).await.0 == "200").then_some(())).await;
        acknowledged += 1;
        let took = Utc::now() - begun;
        let row = daemon.wait_status("job", "up").await;
        let ms = row["last"]["response_time_ms"].as_i64().unwrap();
        assert!(ms > 0 && ms <= took.num_milliseconds(), "{ms} of {took}");
    }
    server.resume();
    daemon.wait_ready("it is ready again", |status, _| status == 200).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_checks").await, acknowledged);
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_checks WHERE NOT status").await, 0);
    assert_eq!(server.get::<i64>("SELECT count(*) FROM incidents").await, 0);
}

#[tokio::test]
async fn silence_is_told_to_the_second_and_ends_with_a_ping() {
    let db = TestDb::new().await;
    let config = heartbeat("job", "period = \"2s\"\ngrace = \"1s\"") + &heartbeat("long", "max_run = \"2s\"");
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let address = daemon.address().await;
    let (job, long) = (id_of(&daemon, "job").await, id_of(&daemon, "long").await);
    ping(&format!("{address}/ping/{long}/start")).await;
    ping(&format!("{address}/ping/{job}")).await;
    let last = Utc::now();
    let row = daemon.wait_status("job", "down").await;
    assert_eq!(row["last"]["failure"], "heartbeat_missed", "{row}");
    let since = row["since"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap() - last;
    assert!(since > TimeDelta::milliseconds(2900) && since < TimeDelta::seconds(4), "{since}");
    let row = daemon.wait_status("long", "down").await;
    assert_eq!(row["last"]["failure"], "heartbeat_overran", "{row}");
    let missed = "SELECT count(*) FROM monitor_checks WHERE error_type = 'heartbeat_missed'";
    until("a row in every period", MOST, async || (db.get::<i64>(missed).await >= 3).then_some(())).await;
    let apart = "SELECT bool_and(d BETWEEN 1.9 AND 2.5) FROM (SELECT extract(epoch FROM checked_at - lag(checked_at) \
        OVER (ORDER BY checked_at)) AS d FROM monitor_checks WHERE error_type = 'heartbeat_missed') g WHERE d IS NOT NULL";
    assert!(db.get::<bool>(apart).await);
    // A restart accuses nobody at once, and goes on.
    daemon.kill().await;
    let mut daemon = home.start();
    let url = format!("{}/ping/{job}", daemon.address().await);
    until("it listens", MOST, async || (curl(&[&url]).await.0 == "200").then_some(())).await;
    daemon.wait_status("job", "up").await;
    let (status, _) = daemon.readiness().await.unwrap();
    assert_eq!(status, 200, "silence is nothing that is overdue");
    assert_eq!(daemon.stop().await.code(), Some(0));
    let incident = incidents(&db).await;
    assert_eq!(incident.len(), 2, "{incident:?}");
}

#[tokio::test]
async fn a_standby_does_not_take_what_it_cannot_record() {
    let db = TestDb::new().await;
    let homes = [(); 2].map(|()| Home::new(&on(&db.url, &heartbeat("job", "period = \"1h\""))));
    let mut first = homes[0].start();
    first.wait_ready("it is ready", |status, _| status == 200).await;
    let id = id_of(&first, "job").await;
    ping(&format!("{}/ping/{id}", first.address().await)).await;
    let mut second = homes[1].start();
    second.wait_ready("it waits", |_, body| body["role"] == "standby").await;
    let address = second.address().await;
    let url = format!("{address}/ping/{id}");
    let (status, head) = curl(&["-i", &url]).await;
    assert!(status == "503" && head.to_lowercase().contains("retry-after: "), "{head}");
    let (status, text) = curl(&[&format!("{address}/api/push/{id}")]).await;
    assert_eq!((&*status, &*text), ("503", r#"{"ok":false,"msg":"Not recorded, try again."}"#));
    // A sender that tries again is heard by whoever is active then.
    let retries = ["--retry", "30", "--retry-delay", "1", "-f", "-o", "/dev/null"];
    let job = Command::new("curl").args(retries).args(["-sS", &url]).kill_on_drop(true).spawn();
    assert_eq!(first.stop().await.code(), Some(0));
    let ended = tokio::time::timeout(Duration::from_secs(40), job.unwrap().wait()).await;
    assert!(ended.unwrap().unwrap().success());
    second.wait_status("job", "up").await;
    assert_eq!(second.stop().await.code(), Some(0));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, 2);
}

#[tokio::test]
async fn a_group_is_what_its_members_are() {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let group = |id: &str, members: &str, require: &str| {
        format!(
            "[[monitor]]\nid = {id:?}\nurl = \"group:\"\ninterval = \"1h\"\nmembers = {members}\nrequire = {require}\n"
        )
    };
    let member = |id: &str, url: &str| monitor(id, url) + "confirmations = 1\n";
    let config = group("all", r#"["one", "two"]"#, "\"all\"")
        + &group("nested", r#"["any", "job"]"#, "2")
        + &group("any", r#"["one", "two"]"#, "\"any\"")
        + &member("one", &one.url("/"))
        + &member("two", &other.url("/"))
        + &heartbeat("job", "period = \"1h\"");
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    for id in ["all", "any", "nested"] {
        daemon.wait_status(id, "up").await;
    }
    one.answer(500);
    let row = daemon.wait_status("all", "down").await;
    assert_eq!(row["last"]["failure"], "member_down");
    assert_eq!(row["last"]["message"], "down: one (2 of 2 must work)");
    let at = |row: &serde_json::Value| row["since"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let late = at(&row) - at(&daemon.wait_status("one", "down").await);
    assert!(late >= TimeDelta::zero() && late < TimeDelta::seconds(2), "{late}");
    assert_eq!(daemon.wait_status("any", "up").await["last"]["verdict"], "up");
    let job = id_of(&daemon, "job").await;
    ping(&format!("{}/ping/{job}/fail", daemon.address().await)).await;
    let row = daemon.wait_status("nested", "down").await;
    assert_eq!(row["last"]["message"], "down: job (2 of 2 must work)");
    one.answer(200);
    daemon.wait_status("all", "up").await;
    assert_eq!(daemon.readiness().await.unwrap().0, 200);

    // Without a daemon: groups from the checks of the run, in the order of the file; heartbeats are left out.
    other.answer(500);
    // The targets answer on this thread.
    let run = async |arguments: &[&str]| Command::from(home.command(arguments)).output().await.unwrap();
    let output = run(&["probe", "--all", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let verdicts: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|check| format!("{} {}", check["monitor"].as_str().unwrap(), check["verdict"].as_str().unwrap()))
        .collect();
    assert_eq!(verdicts, ["all down", "nested up", "any up", "one up", "two down"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("job: left out, a heartbeat is pinged by its job"));
    let output = run(&["probe", "--monitor", "nested", "--json"]).await;
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(0) && lines.lines().count() == 1 && lines.contains("\"nested\""), "{lines}");
    let output = run(&["probe", "--monitor", "job"]).await;
    assert_eq!(output.status.code(), Some(64), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(daemon.stop().await.code(), Some(0));

    home.write(&on(&db.url, &(group("a", r#"["b"]"#, "1") + &group("b", r#"["a"]"#, "1"))));
    let output = home.output(&["check-config"]);
    let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(78) && told.contains("monitor.members: is a cycle: "), "{told}");
}
