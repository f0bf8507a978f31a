//! `/monitors/{id}/latency`, and what a plan shows.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::{admin_token, daemon, get, items, send};
use crate::daemon::on;
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;

/// Three days of a check every ten minutes, of 20 ms, every tenth of 900, every twentieth down.
async fn history(db: &TestDb) {
    db.sql(
        "INSERT INTO monitors (user_id, name, url, key, source, is_active)
            SELECT id, 'Shop', 'tcp://h:1', 'shop', 'api', false FROM users WHERE plan = 'system';
         SELECT ensure_check_partitions(now() - interval '3 days', now());
         INSERT INTO monitor_checks (monitor_id, status, response_time_ms, region, checked_at)
            SELECT id, g % 20 <> 0, CASE WHEN g % 10 = 0 THEN 900 ELSE 20 END, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'b' END,
                now() - interval '1 second' - g * interval '10 minutes'
            FROM monitors, generate_series(0, 3 * 144 - 1) g",
    )
    .await;
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn latency_has_figures_a_series_and_regions() {
    let db = TestDb::new().await;
    history(&db).await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    let whole = get(&address, &token, "/api/v1/monitors/shop/latency?days=2").await.json();
    assert_eq!((&whole["checks"], &whole["monitor"]), (&288.into(), &"shop".into()), "{whole}");
    assert_eq!((&whole["min_ms"], &whole["max_ms"]), (&20.into(), &900.into()));
    let near = |value: &Value, ms: f64| (value.as_f64().unwrap() - ms).abs() < 0.07 * ms;
    assert!(near(&whole["p50_ms"], 20.0) && near(&whole["p99_ms"], 900.0), "{whole}");
    let timed = whole["timed"].as_f64().unwrap();
    assert!((timed - 288.0 * 0.95).abs() <= 1.0 && whole["good"] == whole["timed"], "{whole}");
    assert_eq!(time(&whole["to"]) - time(&whole["from"]), TimeDelta::days(2));
    assert!(whole.get("series").is_none());

    let (from, to) = (whole["from"].as_str().unwrap(), whole["to"].as_str().unwrap());
    let span = format!("/api/v1/monitors/shop/latency?from={from}&to={to}");
    for (step, most) in [("hour", 49), ("day", 3)] {
        let answer = get(&address, &token, &format!("{span}&step={step}")).await.json();
        let series = answer["series"].as_array().unwrap();
        assert!(series.len() == most || series.len() == most - 1, "{step}: {}", series.len());
        let sum: i64 = series.iter().map(|point| point["checks"].as_i64().unwrap()).sum();
        assert_eq!((sum, &answer["checks"], &answer["step"]), (288, &whole["checks"], &step.into()));
        assert!(series.windows(2).all(|pair| time(&pair[0]["at"]) < time(&pair[1]["at"])));
        assert_eq!(time(&series[1]["at"]).timestamp() % if step == "hour" { 3600 } else { 86_400 }, 0);
    }
    let region = get(&address, &token, &format!("{span}&region=b")).await.json();
    assert_eq!((&region["checks"], &region["max_ms"]), (&144.into(), &20.into()), "{region}");
    let none = get(&address, &token, &format!("{span}&region=nowhere&step=day")).await.json();
    assert_eq!((&none["checks"], &none["p95_ms"], &none["series"]), (&0.into(), &Value::Null, &Value::Array(vec![])));

    for (query, parameter) in [
        ("days=0", "days"),
        ("step=week", "step"),
        ("days=32&step=hour", "step"),
        ("from=2026-01-01T00:00:00Z", "from"),
        ("to=2026-01-01T00:00:00Z", "from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("from=2000-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("days=1&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", "days"),
    ] {
        let answer = get(&address, &token, &format!("/api/v1/monitors/shop/latency?{query}")).await;
        assert_eq!((answer.status, &answer.json()["parameter"]), (400, &parameter.into()), "{query}: {answer:?}");
    }
    assert_eq!(get(&address, &token, "/api/v1/monitors/nobody/latency").await.status, 404);
}

#[tokio::test]
async fn a_plan_that_is_reloaded_counts_at_once() {
    let db = TestDb::new().await;
    history(&db).await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    let counts = async || {
        let latency = get(&address, &token, "/api/v1/monitors/shop/latency").await.json();
        let uptime = get(&address, &token, "/api/v1/monitors/shop/uptime").await.json();
        let checks = items(&get(&address, &token, "/api/v1/monitors/shop/checks?limit=1000").await).len();
        (latency["checks"].as_i64().unwrap(), uptime["checks"].as_i64().unwrap(), checks)
    };
    let now = Utc::now();
    let window = [TimeDelta::hours(36), TimeDelta::hours(12)].map(|back| super::api::encoded(now - back));
    let path = format!("/api/v1/checks?from={}&to={}&limit=1000", window[0], window[1]);
    let of_all = async || items(&get(&address, &token, &path).await).len();
    assert_eq!((counts().await, of_all().await), ((432, 432, 432), 144));
    home.write(&on(&db.url, "[plans.system]\nretention = \"1d\"\n"));
    let answer = send(&address, &token, "POST", "/api/v1/reload", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(counts().await, (144, 144, 144));
    // Half of that window, give or take the row at its edge.
    assert!((71..=73).contains(&of_all().await));
    let latency = get(&address, &token, "/api/v1/monitors/shop/latency?days=30").await.json();
    // Its begin is of the statement that asked for the plan.
    let beyond = time(&latency["to"]) - time(&latency["from"]) - TimeDelta::days(1);
    assert!(beyond >= TimeDelta::zero() && beyond < TimeDelta::seconds(10), "it says which window it is about");
}
