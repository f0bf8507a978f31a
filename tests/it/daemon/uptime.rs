//! Time-weighted uptime and objectives of the real program.

use serde_json::Value;

use super::{MOST, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::{Home, ask};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

async fn get(home: &Home, path: &str) -> Value {
    ask(tokio::net::UnixStream::connect(home.socket()).await.unwrap(), "GET", path).await.json()
}

/// What `uptime` prints.
fn uptime(home: &Home, arguments: &[&str]) -> String {
    let output = home.output(&[&["uptime"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Spans of the last day; that they are the window without a hole is looked at as well.
async fn spans(home: &Home) -> Vec<Value> {
    let answer = get(home, "/api/v1/monitors/shop/uptime?days=1&explain=true").await;
    let figures = &answer["time_weighted"];
    let spans = figures["spans"].as_array().unwrap().clone();
    assert_eq!((&spans[0]["from"], &spans[spans.len() - 1]["to"]), (&figures["from"], &figures["to"]), "{figures}");
    assert!(spans.windows(2).all(|pair| pair[0]["to"] == pair[1]["from"]), "{figures}");
    let sum = |state: &str| {
        let of = spans.iter().filter(|span| span["state"] == state);
        of.map(|span| span["seconds"].as_f64().unwrap()).sum::<f64>()
    };
    for state in ["up", "down", "unobserved"] {
        let told = figures[format!("{state}_seconds")].as_f64().unwrap();
        assert!((told - sum(state)).abs() < 1e-3, "{state}: {figures}");
    }
    spans
}

fn has(spans: &[Value], state: &str, reason: &str) -> bool {
    spans.iter().any(|span| span["state"] == state && (reason.is_empty() || span["reason"] == reason))
}

#[tokio::test]
async fn an_outage_a_pause_and_a_restart_are_explained() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let config = monitor("shop", &target.url("/"));
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    target.answer(500);
    wait_incident(&db, 1, false).await;
    target.answer(200);
    wait_incident(&db, 1, true).await;
    let told = spans(&home).await;
    let states: Vec<_> = told.iter().map(|span| span["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["unobserved", "up", "down", "up"], "{told:?}");
    assert_eq!(told[0]["reason"], "before_first_check");
    let incident = &told[2]["incidents"][0];
    assert_eq!((&incident["source"], &incident["cause"]), (&"daemon".into(), &"status_unexpected".into()));
    let length: f64 = db.get("SELECT extract(epoch FROM resolved_at - started_at)::float8 FROM incidents").await;
    assert!((told[2]["seconds"].as_f64().unwrap() - length).abs() < 1e-3 && length > 0.0);

    // As people see it.
    let text = uptime(&home, &["shop", "--days", "1", "--explain"]);
    for part in ["before_first_check", "incident 1 (daemon) status_unexpected", "24 h"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let table = uptime(&home, &["shop", "--timezone", "Europe/Berlin"]);
    for window in ["24 h ", "7 days ", "30 days ", "90 days ", "365 days "] {
        assert!(table.lines().any(|line| line.starts_with(window)), "{table}");
    }
    let zone = chrono_tz::Tz::Europe__Berlin;
    let month = chrono::Utc::now().with_timezone(&zone).format("%Y-%m").to_string();
    assert!(table.lines().any(|line| line.starts_with(&month)), "{table}");
    let json: Value = serde_json::from_str(&uptime(&home, &["shop", "--month", &month, "--json"])).unwrap();
    assert!(json["month"] == month.as_str() && json["checks"].is_null() && json["time_weighted"]["uptime"].is_number());
    let list = get(&home, &format!("/api/v1/uptime?month={month}&timezone=Europe/Berlin")).await;
    let item = &list["items"][0];
    assert!(item["days"].is_null() && item["timezone"] == "Europe/Berlin" && item["monitor"] == "shop", "{list}");
    assert_eq!(item["time_weighted"]["incidents"], 1, "{list}");
    let item = &get(&home, "/api/v1/uptime?days=7").await["items"][0];
    assert!(item["method"] == "checks" && item["checks"].as_i64() > Some(2), "{item}");
    assert!(
        item["time_weighted"]["spans"].is_null() && item["time_weighted"]["uptime"].as_f64() < Some(100.0),
        "{item}"
    );
    let missing = home.output(&["uptime", "nobody"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no monitor has the id or key \"nobody\""));
    assert_eq!(home.output(&["uptime", "shop", "--month", "2026-13"]).status.code(), Some(64));

    // A pause is a gap while it lasts, and afterwards.
    home.write(&on(&db.url, &(config.clone() + "active = false\n")));
    daemon.wait_status("shop", "paused").await;
    until("the pause is told", MOST, async || has(&spans(&home).await, "unobserved", "paused").then_some(())).await;
    home.write(&on(&db.url, &config));
    daemon.wait_status("shop", "up").await;
    wait_sql(&db, "its gap", "SELECT count(*) = 1 FROM monitor_gaps WHERE reason = 'paused'").await;
    let told = spans(&home).await;
    assert!(has(&told, "unobserved", "paused") && told.last().unwrap()["state"] == "up", "{told:?}");

    // So is the time without a daemon, and that out of the file.
    assert_eq!(daemon.stop().await.code(), Some(0));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    assert!(has(&spans(&home).await, "unobserved", "not_running"));
    home.write(&on(&db.url, &monitor("other", &target.url("/other"))));
    daemon.wait_status("other", "up").await;
    wait_sql(&db, "it is archived", "SELECT archived_at IS NOT NULL FROM monitors WHERE key = 'shop'").await;
    let told = spans(&home).await;
    assert_eq!(told.last().unwrap()["reason"], "paused", "{told:?}");
    home.write(&on(&db.url, &config));
    daemon.wait_status("shop", "up").await;
    wait_sql(&db, "a second gap", "SELECT count(*) = 2 FROM monitor_gaps WHERE reason = 'paused'").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn an_objective_is_evaluated_told_and_remembered() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let other = Target::start().await;
    let monitors = monitor("shop", &target.url("/")) + "tags = [\"prod\"]\n" + &monitor("calm", &other.url("/"));
    let slos = "[[slo]]\nid = \"prod\"\ntags = [\"prod\"]\nobjective = 99.9\n\
                [[slo]]\nid = \"calm\"\nmonitor = \"calm\"\nobjective = 99\nwindow = \"calendar_month\"\n";
    let home = Home::new(&on(&db.url, &(slos.to_owned() + &monitors)));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    let slo = async |id: &str| get(&home, &format!("/api/v1/slos/{id}")).await;
    until("both are evaluated", MOST, async || {
        let both = [slo("prod").await, slo("calm").await];
        both.iter().all(|slo| slo["status"] == "ok").then_some(())
    })
    .await;
    target.answer(500);
    wait_incident(&db, 1, false).await;
    // A minute at the most; a change of the objectives has them evaluated at once.
    let begun = std::time::Instant::now();
    let prod = until("the budget is gone", std::time::Duration::from_secs(90), async || {
        Some(slo("prod").await).filter(|slo| slo["status"] == "exhausted")
    })
    .await;
    println!("exhausted after {:?}", begun.elapsed());
    let (left, share) = (&prod["budget"]["left_seconds"], &prod["budget"]["left_share"]);
    assert!(left.as_f64().unwrap() < 0.0 && share.as_f64().unwrap() < 0.0, "{prod}");
    assert_eq!((prod["monitors_total"].as_u64(), &prod["monitors"][0]["monitor"]), (Some(1), &"shop".into()));
    assert!(prod["burn"][0]["rate"].as_f64().unwrap() > 1.0 && prod["uptime"].as_f64().unwrap() < 99.9, "{prod}");
    assert_eq!(slo("calm").await["status"], "ok");
    assert!(daemon.log().contains("objective prod: exhausted (was ok)"), "{}", daemon.log());
    let status = String::from_utf8(home.output(&["status"]).stdout).unwrap();
    assert!(
        status.contains("objective prod: exhausted, ")
            && status.contains("objective calm: ok, 100.00% of 99% in this month"),
        "{status}"
    );
    let metrics = ask(tokio::net::UnixStream::connect(home.socket()).await.unwrap(), "GET", "/metrics").await.body;
    for line in [
        "lamplighter_slo_status{slo=\"prod\",status=\"exhausted\"} 1",
        "lamplighter_slo_status{slo=\"calm\",status=\"ok\"} 1",
        "lamplighter_slo_objective_ratio{slo=\"prod\"} 0.99",
        "lamplighter_slo_burn_rate{slo=\"prod\",window=\"1h\"} ",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    // It outlives a restart with its age, and a reload changes what there is.
    assert_eq!(daemon.stop().await.code(), Some(0));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    until("it is evaluated again", MOST, async || {
        let again = slo("prod").await;
        (again["evaluated_at"] != prod["evaluated_at"] && again["since"] == prod["since"]).then_some(())
    })
    .await;
    assert!(!daemon.log().contains("objective prod"), "nothing changed: {}", daemon.log());
    home.write(&on(&db.url, &monitors));
    until("they are gone", MOST, async || {
        get(&home, "/api/v1/slos").await["items"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}
