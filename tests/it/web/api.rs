//! What the resources answer: filters, pages, figures; and only what is committed.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::{admin_token, daemon, get, items, send};
use crate::daemon::{monitor, on};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// All items of a list, by following `next`; also that each part has at most `limit`, and the link.
async fn pages(address: &str, token: &str, path: &str, limit: usize) -> Vec<Value> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let mut next = format!("{path}{separator}limit={limit}");
    let mut all = Vec::new();
    loop {
        let answer = get(address, token, &next).await;
        let part = items(&answer);
        assert!(part.len() <= limit);
        all.extend(part);
        let Some(cursor) = answer.json()["next"].as_str().map(str::to_owned) else {
            assert!(!answer.head.contains("link:"), "{answer:?}");
            return all;
        };
        assert!(answer.head.contains("link: <") && answer.head.contains("rel=\"next\""), "{answer:?}");
        next = format!("{path}{separator}limit={limit}&cursor={cursor}");
    }
}

pub(super) fn encoded(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

#[tokio::test]
async fn a_check_is_shown_as_the_row_has_it() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &(monitor("web", &target.url("/a")) + "tags = [\"prod\"]\n")));
    let (daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    daemon.wait_status("web", "up").await;
    let checks = until("a check is committed", std::time::Duration::from_secs(20), async || {
        Some(items(&get(&address, &token, "/api/v1/monitors/web/checks").await)).filter(|items| !items.is_empty())
    })
    .await;
    let check = &checks[0];
    assert_eq!(
        (&check["monitor"], &check["verdict"], &check["status_code"]),
        (&"web".into(), &"up".into(), &200.into())
    );
    assert_eq!(
        (&check["failure"], &check["region"], &check["attempt"]),
        (&Value::Null, &"us-east-1".into(), &1.into())
    );
    let phases = check["timings_us"].as_object().unwrap();
    let sum: i64 = phases.iter().filter(|(name, _)| *name != "total").filter_map(|(_, time)| time.as_i64()).sum();
    assert_eq!(phases["total"].as_i64().unwrap(), sum);
    assert!(phases["tls"].is_null() && sum / 1000 <= check["response_time_ms"].as_i64().unwrap() + 1, "{check}");
    // Every JSON of a check has its time in milliseconds.
    let is_time = |value: &Value| {
        let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
        assert!(text.len() == 24 && text.ends_with('Z') && &text[19..20] == ".", "{text}");
    };
    is_time(&check["checked_at"]);
    is_time(&daemon.overview().await["monitors"][0]["last"]["checked_at"]);
    let monitor = until("it is told", std::time::Duration::from_secs(20), async || {
        let monitor = get(&address, &token, "/api/v1/monitors/web").await.json();
        monitor["last_checked"].is_string().then_some(monitor)
    });
    is_time(&monitor.await["last_checked"]);
    // Whatever was shown is in the database.
    let ids: Vec<i64> = checks.iter().map(|check| check["id"].as_i64().unwrap()).collect();
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM monitor_checks WHERE id = ANY($1)")
        .bind(&ids)
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(there, i64::try_from(ids.len()).unwrap());

    let one = get(&address, &token, "/api/v1/monitors/web").await.json();
    assert_eq!((&one["source"], &one["key"], &one["tags"][0]), (&"file".into(), &"web".into(), &"prod".into()));
    let by_id = get(&address, &token, &format!("/api/v1/monitors/{}", one["id"].as_str().unwrap())).await.json();
    assert_eq!(by_id["key"], "web");
    assert!(one.get("spec").is_none());

    target.answer(500);
    daemon.wait_status("web", "down").await;
    let incident = until("an incident is committed", std::time::Duration::from_secs(20), async || {
        items(&get(&address, &token, "/api/v1/incidents?status=open&monitor=web").await).pop()
    })
    .await;
    assert_eq!((&incident["cause"], &incident["monitor"]), (&"status_unexpected".into(), &"web".into()));
    assert!(incident.get("evidence").is_none() && incident["resolved_at"].is_null());
    let whole = get(&address, &token, &format!("/api/v1/incidents/{}", incident["id"])).await.json();
    assert_eq!(whole["evidence"]["first_bad"]["status_code"], 500, "{whole}");
    is_time(&whole["evidence"]["first_bad"]["checked_at"]);
    let uptime = get(&address, &token, "/api/v1/monitors/web/uptime?days=1").await.json();
    let (good, all) = (uptime["good"].as_f64().unwrap(), uptime["checks"].as_f64().unwrap());
    assert!(good > 0.0 && all > good && uptime["method"] == "checks", "{uptime}");
    assert!((uptime["uptime"].as_f64().unwrap() - 100.0 * good / all).abs() < 1e-9);
}

/// 60 checks of each of 5 monitors, every second with the same times; every seventh is down, every eleventh degraded.
async fn history(db: &TestDb) -> DateTime<Utc> {
    db.sql(
        "INSERT INTO monitors (user_id, name, url, key, source, is_active, tags, status) \
         SELECT id, 'Name ' || n, 'tcp://host' || n || ':1', 'k' || n, 'api', false, CASE WHEN n < 3 THEN ARRAY['a', 'b'] END, \
             'paused' \
         FROM users, generate_series(1, 5) n WHERE plan = 'system'; \
         INSERT INTO monitor_checks (monitor_id, status, error_type, checked_at) \
         SELECT m.id, n % 7 <> 0, CASE WHEN n % 7 = 0 THEN 'connect_refused' WHEN n % 11 = 0 THEN 'cert_expiring' END, \
             date_trunc('second', now()) - n * interval '1 second' FROM monitors m, generate_series(1, 60) n; \
         INSERT INTO incidents (user_id, monitor_id, title, started_at, status) SELECT user_id, id, 'i' || n, \
             now() - (n / 2) * interval '1 hour', CASE WHEN n % 2 = 0 THEN 'open' ELSE 'resolved' END \
         FROM monitors, generate_series(1, 10) n",
    )
    .await;
    db.get("SELECT max(checked_at) FROM monitor_checks").await
}

#[tokio::test]
async fn texts_of_others_are_cut() {
    let db = TestDb::new().await;
    db.sql(
        "INSERT INTO monitors (user_id, name, url, is_active, tags, invalid_reason) SELECT id, repeat('ä', 1000000), \
             'postgres://u:' || repeat('hunter2', 100000) || '@h/', false, \
             array_fill(repeat('t', 10000), ARRAY[1000]), repeat('i', 100000) FROM users WHERE plan = 'system'; \
         INSERT INTO incidents (user_id, monitor_id, title, description, severity, acknowledge_note) \
         SELECT user_id, id, repeat('t', 1000000), repeat('d', 1000000), repeat('s', 1000000), 'short' FROM monitors; \
         INSERT INTO monitor_checks (monitor_id, status, error_type, region) \
         SELECT id, false, repeat('e', 100000), repeat('r', 100000) FROM monitors",
    )
    .await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    let cut = |value: &Value, most: usize| {
        let text = value.as_str().unwrap();
        assert!(text.chars().count() == most && text.ends_with('…'), "{} characters", text.chars().count());
    };
    let first = async |path: &str| {
        let answer = get(&address, &token, path).await;
        assert!(answer.body.len() < 40_000, "{path}: {} bytes", answer.body.len());
        items(&answer).remove(0)
    };
    let monitor = first("/api/v1/monitors").await;
    cut(&monitor["name"], 500);
    assert_eq!(monitor["url"], "(not shown: it is too long)");
    assert_eq!(monitor["tags"].as_array().unwrap().len(), 100);
    cut(&monitor["tags"][99], 100);
    let incident = first("/api/v1/incidents").await;
    for (name, most) in [("monitor", 500), ("title", 500), ("severity", 500), ("description", 4000)] {
        cut(&incident[name], most);
    }
    assert_eq!(incident["acknowledge_note"], "short");
    let one = get(&address, &token, &format!("/api/v1/incidents/{}", incident["id"])).await.json();
    cut(&one["description"], 64_000);
    let check = first(&format!("/api/v1/monitors/{}/checks", monitor["id"].as_str().unwrap())).await;
    assert_eq!((check["failure"].as_str().unwrap().len(), check["region"].as_str().unwrap().len()), (500, 500));
    cut(&first("/api/v1/uptime").await["monitor"], 500);
}

#[tokio::test]
async fn pages_have_every_row_once_in_order() {
    let db = TestDb::new().await;
    let last = history(&db).await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    let window = format!("from={}&to={}", encoded(last - TimeDelta::hours(1)), encoded(last + TimeDelta::seconds(1)));
    let place = |item: &Value| (item["checked_at"].as_str().unwrap().to_owned(), item["id"].as_i64().unwrap());
    for (path, limit, count) in [
        ("/api/v1/monitors/k1/checks".to_owned(), 7, 60),
        ("/api/v1/monitors/k1/checks".to_owned(), 60, 60),
        (format!("/api/v1/monitors/k1/checks?{window}&verdict=down"), 3, 8),
        (format!("/api/v1/monitors/k1/checks?{window}&verdict=degraded"), 3, 5),
        (format!("/api/v1/monitors/k1/checks?{window}&verdict=up"), 13, 47),
        (format!("/api/v1/monitors/k1/checks?{window}&error_type=cert_expiring"), 2, 5),
        (format!("/api/v1/checks?{window}"), 1000, 300),
        (format!("/api/v1/checks?{window}"), 75, 300),
        (format!("/api/v1/checks?{window}"), 7, 300),
        (format!("/api/v1/checks?{window}&verdict=down"), 5, 40),
        (format!("/api/v1/checks?{window}&error_type=cert_expiring"), 4, 25),
        (format!("/api/v1/checks?from={}&to={}", encoded(last - TimeDelta::seconds(9)), encoded(last)), 10, 45),
    ] {
        let all = pages(&address, &token, &path, limit).await;
        assert_eq!(all.len(), count, "{path} by {limit}");
        assert!(
            all.windows(2).all(|pair| place(&pair[0]) > place(&pair[1])),
            "{path} by {limit}: not in order, or twice"
        );
    }
    for (path, limit, count) in [
        ("/api/v1/monitors", 2, 5),
        ("/api/v1/monitors?status=paused", 2, 5),
        ("/api/v1/monitors?status=down", 2, 0),
        ("/api/v1/monitors?tag=a", 1, 2),
        ("/api/v1/monitors?source=file", 2, 0),
        ("/api/v1/monitors?q=NAME%203", 2, 1),
        ("/api/v1/monitors?q=host", 2, 5),
        ("/api/v1/monitors?q=100%25", 2, 0),
        ("/api/v1/incidents", 4, 50),
        ("/api/v1/incidents?status=open", 6, 25),
        ("/api/v1/monitors/k2/incidents", 3, 10),
        ("/api/v1/incidents?monitor=k2&status=resolved", 3, 5),
        ("/api/v1/uptime?days=1", 2, 5),
    ] {
        let all = pages(&address, &token, path, limit).await;
        let mut ids: Vec<String> = all.iter().map(|item| format!("{}{}", item["id"], item["monitor_id"])).collect();
        ids.sort();
        ids.dedup();
        assert_eq!((all.len(), ids.len()), (count, count), "{path}");
    }
    for item in pages(&address, &token, "/api/v1/uptime?days=1", 3).await {
        let sql = format!("SELECT calculate_uptime_percentage('{}', 1)::float8", item["monitor_id"].as_str().unwrap());
        let figure: f64 = db.get(&sql).await;
        assert!((item["uptime"].as_f64().unwrap() - figure).abs() < 1e-9 && item["checks"] == 60 && item["good"] == 52);
    }
}

#[tokio::test]
async fn mistakes_are_told_with_the_parameter() {
    let db = TestDb::new().await;
    history(&db).await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    for (path, parameter) in [
        ("/api/v1/monitors?limt=1", "limt"),
        ("/api/v1/monitors?limit=0", "limit"),
        ("/api/v1/monitors?status=broken", "status"),
        ("/api/v1/monitors?status=up&status=down", "status"),
        ("/api/v1/monitors?cursor=x", "cursor"),
        ("/api/v1/checks", "from"),
        ("/api/v1/checks?from=2026-01-01T00:00:00Z&to=2026-01-03T00:00:00Z", "from"),
        ("/api/v1/checks?from=2026-01-01T00:00:00Z&to=2025-01-03T00:00:00Z", "from"),
        ("/api/v1/monitors/k1/checks?verdict=down", "from"),
        ("/api/v1/monitors/k1/checks?verdict=unknown", "verdict"),
        ("/api/v1/monitors/k1/uptime?days=0", "days"),
        ("/api/v1/monitors/k1/uptime?days=1&month=2026-01", "days"),
        ("/api/v1/monitors/k1/uptime?month=2026-13", "month"),
        ("/api/v1/monitors/k1/uptime?month=9998-12", "month"),
        ("/api/v1/monitors/k1/uptime?timezone=Europe/Berlin", "timezone"),
        ("/api/v1/monitors/k1/uptime?month=2026-01&timezone=Mars", "timezone"),
        ("/api/v1/monitors/k1/uptime?explain=1", "explain"),
        ("/api/v1/uptime?explain=true", "explain"),
        ("/api/v1/incidents?monitor=nobody", "monitor"),
        ("/api/v1/incidents/1?evidence=true", "evidence"),
        ("/api/v1/overview?x=1", "x"),
    ] {
        let answer = get(&address, &token, path).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        let problem = answer.json();
        assert_eq!(problem["parameter"], parameter, "{path}");
        assert!(problem["type"].as_str().unwrap().starts_with("urn:lamplighter:problem:") && problem["status"] == 400);
        assert!(answer.head.contains("content-type: application/problem+json"));
    }
    let answer = send(&address, &token, "POST", "/api/v1/reload?force=yes", "").await;
    assert_eq!((answer.status, &answer.json()["parameter"]), (400, &"force".into()));
}

#[tokio::test]
async fn tags_heads_and_rows_of_others() {
    let db = TestDb::new().await;
    db.sql(
        "INSERT INTO monitors (user_id, name, url, key, is_active, last_checked, created_at, spec) \
         SELECT id, '<script>', 'postgres://u:hunter2@h/d', 'odd', false, 'infinity', '-infinity', '{\"auth\": \"hunter3\"}' \
         FROM users WHERE plan = 'system'; \
         INSERT INTO incidents (user_id, monitor_id, title, started_at, resolved_at) \
         SELECT user_id, id, 't', '-infinity', 'infinity' FROM monitors",
    )
    .await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    // Then it is at rest, and so is its tag.
    let answer = until("the row is told to be invalid", std::time::Duration::from_secs(10), async || {
        Some(get(&address, &token, "/api/v1/monitors/odd").await)
            .filter(|answer| answer.json()["invalid_reason"].is_string())
    })
    .await;
    assert!(answer.status == 200 && !answer.body.contains("hunter"), "{answer:?}");
    assert!(answer.json()["last_checked"].is_null() && answer.json()["created_at"].is_null());
    assert_eq!(items(&get(&address, &token, "/api/v1/incidents").await).len(), 1);

    let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_owned();
    for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let again = send(&address, &token, "GET", "/api/v1/monitors/odd", &format!("if-none-match: {known}\r\n")).await;
        assert!(again.status == 304 && again.body.is_empty() && again.head.contains(&tag), "{again:?}");
    }
    let other = send(&address, &token, "GET", "/api/v1/monitors/odd", "if-none-match: \"x\"\r\n").await;
    assert_eq!(other.status, 200);
    let head = send(&address, &token, "HEAD", "/api/v1/monitors/odd", "").await;
    assert!(head.status == 200 && head.body.is_empty());
    assert!(head.head.contains(&format!("content-length: {}", answer.body.len())), "{head:?}");
    let document = get(&address, &token, "/api/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn a_reload_over_http_answers_when_it_is_done() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    std::fs::write(home.config(), "broken = [\n").unwrap();
    let refused = send(&address, &token, "POST", "/api/v1/reload", "").await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("config.toml:1:"), "{refused:?}");
    assert_eq!(refused.json()["applied"], false);
    home.write(&on(&db.url, &monitor("new", "tcp://127.0.0.1:1")));
    let applied = send(&address, &token, "POST", "/api/v1/reload?force=false", "content-length: 0\r\n").await;
    assert_eq!((applied.status, &applied.json()["applied"]), (200, &true.into()), "{applied:?}");
    until("its row is there", std::time::Duration::from_secs(10), async || {
        (get(&address, &token, "/api/v1/monitors/new").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn readers_that_hang_keep_no_result_from_being_recorded() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("web", &target.url("/a"))));
    let (daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    daemon.wait_status("web", "up").await;
    // Somebody's migration: whoever reads incidents waits.
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let crowd = async {
        let mut answers = Vec::new();
        while answers.len() < 60 {
            let asked = (0..20).map(|_| get(&address, &token, "/api/v1/incidents"));
            answers.extend(futures_util::future::join_all(asked).await.into_iter().map(|answer| answer.status));
        }
        answers
    };
    let recorded = async {
        // Four more, while the crowd waits.
        let before: i64 = db.get("SELECT count(*) FROM monitor_checks").await;
        until("results are recorded", std::time::Duration::from_secs(20), async || {
            (db.get::<i64>("SELECT count(*) FROM monitor_checks").await >= before + 4).then_some(())
        })
        .await;
    };
    let (answers, ()) = tokio::join!(crowd, recorded);
    assert!(answers.iter().all(|status| *status == 503), "{answers:?}");
    lock.rollback().await.unwrap();
    assert_eq!(get(&address, &token, "/api/v1/incidents").await.status, 200);
}
