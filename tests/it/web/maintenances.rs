//! Maintenances over the API: definitions with their windows, and marks of incidents.

use lamplighter::access::Scope;
use serde_json::Value;

use super::{admin_token, daemon, get, items, token, user};
use crate::daemon::{monitor, on};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::Target;

#[tokio::test]
async fn definitions_are_shown_with_their_windows_to_their_user() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let file = "[[maintenance]]\nid = \"patch\"\nstarts_at = 2026-01-04T02:30:00\ntimezone = \"Europe/Berlin\"\nduration = \"2h\"\n\
        rrule = \"FREQ=WEEKLY;BYDAY=SU\"\n";
    let home = Home::new(&on(&db.url, &(monitor("shop", &target.url("/")) + file)));
    let (daemon, address) = daemon(&home).await;
    let (own, _) = user(&db, "a@example.com").await;
    user(&db, "b@example.com").await;
    db.sql(
        "INSERT INTO maintenances (user_id, name, starts_at, duration_seconds) \
            SELECT id, 'now of ' || email, now() - interval '1 minute', 3600 FROM users WHERE email IS NOT NULL;
         INSERT INTO maintenances (user_id, name, starts_at, duration_seconds, invalid_reason) \
            SELECT id, 'bad', now(), 0, 'duration_seconds: must be 1 second to 366 days' FROM users WHERE email LIKE 'a%'",
    )
    .await;
    daemon.wait_status("shop", "up").await;
    let admin = admin_token(&home);
    let of_a = token(&db, Scope::Read, Some("a@example.com")).await;
    let all = crate::support::target::until("the file's is there", std::time::Duration::from_secs(20), async || {
        Some(items(&get(&address, &admin, "/api/v1/maintenances").await)).filter(|all| all.len() == 4)
    })
    .await;
    let patch = all.iter().find(|one| one["key"] == "patch").unwrap();
    let windows = patch["windows"].as_array().unwrap();
    assert_eq!((windows.len(), &patch["source"], &patch["timezone"]), (5, &"file".into(), &"Europe/Berlin".into()));
    let hours = |window: &Value| {
        let time = |key: &str| window[key].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        (time("to") - time("from")).num_minutes()
    };
    assert!(windows.iter().all(|window| hours(window) == 120), "{patch}");

    let seen = items(&get(&address, &of_a, "/api/v1/maintenances").await);
    let names: Vec<&str> = seen.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.len() == 2 && names.contains(&"bad") && names.contains(&"now of a@example.com"), "{names:?}");
    for one in &seen {
        let (active, windows) = (one["active"].as_bool().unwrap(), one["windows"].as_array().unwrap().len());
        assert_eq!((active, windows), if one["name"] == "bad" { (false, 0) } else { (true, 1) }, "{one}");
        let path = format!("/api/v1/maintenances/{}", one["id"].as_str().unwrap());
        assert_eq!(get(&address, &of_a, &path).await.json()["name"], one["name"]);
    }
    let hidden = format!("/api/v1/maintenances/{}", patch["id"].as_str().unwrap());
    assert_eq!(get(&address, &of_a, &hidden).await.status, 404);
    assert_eq!(get(&address, &of_a, "/api/v1/maintenances/patch").await.status, 404);
    let by_key = get(&address, &admin, "/api/v1/maintenances/patch").await.json();
    assert_eq!(by_key["id"], patch["id"], "{by_key}");
    assert_eq!(get(&address, &admin, "/api/v1/maintenances/patc").await.status, 404);
    explained(&db, &address, own, (&admin, &of_a), patch["id"].as_str().unwrap()).await;
    let first = get(&address, &admin, "/api/v1/maintenances?limit=1").await.json();
    let next = format!("/api/v1/maintenances?limit=10&cursor={}", first["next"].as_str().unwrap());
    assert_eq!(items(&get(&address, &admin, &next).await).len(), 3);
    assert_eq!(super::send(&address, &admin, "DELETE", &hidden, "").await.status, 501);

    // Marks of incidents: that it opened in a window, and whether its monitor is in one now.
    db.sql("UPDATE incidents SET maintenance_id = gen_random_uuid()").await;
    let marked = async || items(&get(&address, &of_a, "/api/v1/incidents").await)[0].clone();
    crate::support::target::until("it is under maintenance", std::time::Duration::from_secs(20), async || {
        (marked().await["under_maintenance"] == true).then_some(())
    })
    .await;
    db.sql("DELETE FROM maintenances").await;
    crate::support::target::until("it is no longer", std::time::Duration::from_secs(20), async || {
        (marked().await["under_maintenance"] == false).then_some(())
    })
    .await;
    assert!(marked().await["maintenance_id"].is_string());
    db.sql(&format!(
        "INSERT INTO monitor_state (monitor_id, region, state, status) VALUES ('{own}', 'elsewhere', '{{}}', 'degraded');
         UPDATE monitors SET status = 'maintenance' WHERE id = '{own}'"
    ))
    .await;
    let shown = get(&address, &of_a, &format!("/api/v1/monitors/{own}")).await.json();
    assert_eq!((&shown["status"], &shown["status_beneath"]), (&"maintenance".into(), &"degraded".into()), "{shown}");
}

/// Spans of uptime name their maintenances, to those who may see them.
async fn explained(db: &TestDb, address: &str, own: uuid::Uuid, (admin, of_a): (&str, &str), patch: &str) {
    let gone = uuid::Uuid::new_v4();
    db.sql(&format!(
        "INSERT INTO maintenance_spans (maintenance_id, monitor_id, from_at, to_at, excluded) VALUES
            ('{patch}', '{own}', now() - interval '5 hours', now() - interval '4 hours', true),
            ('{gone}', '{own}', now() - interval '3 hours', now() - interval '2 hours', true)"
    ))
    .await;
    let planned = async |token: &str| {
        let path = format!("/api/v1/monitors/{own}/uptime?days=1&explain=true");
        let answer = get(address, token, &path).await.json();
        let spans = answer["time_weighted"]["spans"].as_array().unwrap().clone();
        let each = spans.iter().filter_map(|span| span["maintenances"].as_array()).flatten();
        each.map(|one| (one["maintenance"].clone(), one["maintenance_id"].clone())).collect::<Vec<_>>()
    };
    let own_one = "now of a@example.com";
    let told = crate::support::target::until("its own runs", std::time::Duration::from_secs(20), async || {
        Some(planned(of_a).await).filter(|told| told.iter().any(|(label, _)| label == own_one))
    })
    .await;
    let ids = |id: &str| Value::from(id);
    assert_eq!(told[..2], [(Value::Null, ids(patch)), (Value::Null, ids(&gone.to_string()))]);
    let told = planned(admin).await;
    assert_eq!(told[..2], [("patch".into(), ids(patch)), (Value::Null, ids(&gone.to_string()))]);
    assert_eq!((told.len(), &told[2].0), (3, &own_one.into()));
}
