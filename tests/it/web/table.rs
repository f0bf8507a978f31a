//! What holds for every row of the table of routes.

use hyper::Method;
use lamplighter::access::Scope;
use lamplighter::web::routes::{Access, ROUTES};

use super::{admin_token, daemon, get, send, token, user};
use crate::support::daemon::{Home, say};
use crate::support::postgres::TestDb;

/// Every method and path of the table, with what it needs and whether it is built.
fn all() -> impl Iterator<Item = (&'static Method, String, Access, bool)> {
    ROUTES.iter().flat_map(|route| {
        let path = route
            .pattern
            .replace("{id}", "00000000-0000-4000-8000-0000000000ff")
            .replace("{token}", "x")
            .replace('*', "x");
        route.methods.iter().map(move |method| (method, path.clone(), route.access, route.is_built()))
    })
}

/// What a route that needs no token answers. No heartbeat has the address of these paths.
fn open(built: bool, path: &str) -> u16 {
    match path {
        _ if !built => 501,
        _ if path.starts_with("/ping/") || path.starts_with("/api/push/") => 404,
        _ => 200,
    }
}

#[tokio::test]
async fn every_route_asks_for_its_token_and_its_scope() {
    let db = TestDb::new().await;
    let home = Home::new(&super::super::daemon::on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let (read, write, admin) =
        (token(&db, Scope::Read, None).await, token(&db, Scope::Write, None).await, admin_token(&home));
    let mut seen = 0;
    for (method, path, access, built) in all() {
        let ask = async |token: &str| send(&address, token, method.as_str(), &path, "").await;
        let anonymous = ask("").await;
        let Access::Needs(scope) = access else {
            assert_eq!(anonymous.status, open(built, &path), "{method} {path}: {anonymous:?}");
            continue;
        };
        assert_eq!(anonymous.status, 401, "{method} {path}");
        assert!(anonymous.head.contains("www-authenticate: bearer"), "{method} {path}");
        for (token, has) in [(&read, Scope::Read), (&write, Scope::Write), (&admin, Scope::Admin)] {
            let answer = ask(token).await;
            if has < scope {
                assert_eq!(answer.status, 403, "{method} {path} as {has:?}");
                assert!(answer.json()["detail"].as_str().unwrap().contains(scope.name()), "{answer:?}");
                assert!(answer.head.contains("insufficient_scope"), "{answer:?}");
            } else if built {
                assert!(!matches!(answer.status, 401 | 403 | 405 | 500..), "{method} {path} as {has:?}: {answer:?}");
            } else {
                assert_eq!(answer.status, 501, "{method} {path} as {has:?}");
            }
        }
        seen += 1;
    }
    assert!(seen > 45, "{seen}");
    for path in ["/nowhere", "/api/v1", "/api/v1/monitor", "/api/v1/monitors/x/y/z"] {
        assert_eq!(get(&address, "", path).await.status, 401, "{path}");
        assert_eq!(get(&address, &read, path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn no_route_answers_to_another_name_or_to_another_site() {
    let db = TestDb::new().await;
    let home = Home::new(&super::super::daemon::on(&db.url, ""));
    home.write(&format!("server.public_url = \"https://lamp.example.com\"\n{}", super::super::daemon::on(&db.url, "")));
    let (_daemon, address) = daemon(&home).await;
    let admin = admin_token(&home);
    let at = async |host: &str, method: &str, path: &str, more: &str| {
        let stream = tokio::net::TcpStream::connect(address.strip_prefix("http://").unwrap()).await.unwrap();
        let authorization = format!("authorization: Bearer {admin}\r\n{more}");
        say(stream, &format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{authorization}connection: close\r\n\r\n"))
            .await
    };
    for (method, path, access, built) in all() {
        let answer = at("evil.example.com", method.as_str(), &path, "").await;
        assert_eq!(answer.status, 421, "{method} {path}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("server.public_url"));
        // Never anything for another origin to read, to frame or to guess the type of.
        assert!(!answer.head.contains("access-control"), "{answer:?}");
        // The address of a ping is all that it needs: whoever knows it may ping from wherever he is.
        if path.starts_with("/ping/") || path.starts_with("/api/push/") {
            continue;
        }
        if *method != Method::GET {
            let answer = at("localhost", method.as_str(), &path, "sec-fetch-site: cross-site\r\n").await;
            assert_eq!(answer.status, 403, "{method} {path}");
        } else if access == Access::Open {
            let answer = at("lamp.example.com", method.as_str(), &path, "origin: https://evil.example.com\r\n").await;
            assert_eq!(answer.status, open(built, &path), "{method} {path}");
            for header in [
                "x-content-type-options: nosniff",
                "cache-control: no-store",
                "content-security-policy: default-src 'none'",
            ] {
                assert!(answer.head.contains(header), "{path}: {answer:?}");
            }
            assert!(!answer.head.contains("access-control"), "{answer:?}");
        }
    }
    for host in ["127.0.0.1:8780", "[::1]", "nas:8780", "LAMP.example.com.:443"] {
        assert_eq!(at(host, "GET", "/healthz", "").await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn users_see_their_own_rows_and_nothing_of_each_other() {
    let db = TestDb::new().await;
    let ((one, first), (two, second)) = (user(&db, "one@example.com").await, user(&db, "two@example.com").await);
    // A maintenance each, under the id of the monitor.
    db.sql(&format!(
        "INSERT INTO maintenances (id, user_id, name, starts_at, duration_seconds) \
         SELECT id, user_id, name, now(), 60 FROM monitors WHERE id IN ('{one}', '{two}')"
    ))
    .await;
    // An objective about one's own monitor, and one about everybody's.
    let slo = |id: &str, monitors: &str| format!("[[slo]]\nid = \"{id}\"\nobjective = 99\nmonitor = [{monitors}]\n");
    let slos = [
        slo(&format!("slo-{first}"), &format!("\"{one}\"")),
        slo(&format!("slo-{second}"), &format!("\"{two}\"")),
        slo("all", &format!("\"{one}\", \"{two}\"")),
    ];
    let home = Home::new(&super::super::daemon::on(&db.url, &slos.concat()));
    let (_daemon, address) = daemon(&home).await;
    let admin = admin_token(&home);
    crate::support::target::until("objectives are evaluated", std::time::Duration::from_secs(60), async || {
        let all = super::items(&get(&address, &admin, "/api/v1/slos").await);
        (all.len() == 3).then_some(())
    })
    .await;
    let (of_one, of_two) = (
        token(&db, Scope::Read, Some("One@Example.com")).await,
        token(&db, Scope::Write, Some("two@example.com")).await,
    );
    let house = token(&db, Scope::Read, None).await;
    // Every route with an id: one's own is there, another's is not, the administrator's are all.
    let mut seen = 0;
    for route in ROUTES.iter().filter(|route| route.is_built() && route.pattern.contains("{id}")) {
        let path = |monitor: uuid::Uuid, incident: i64| {
            let id = match route.pattern {
                pattern if pattern.contains("/monitors/") || pattern.contains("/maintenances/") => monitor.to_string(),
                pattern if pattern.contains("/slos/") => format!("slo-{incident}"),
                _ => incident.to_string(),
            };
            route.pattern.replace("{id}", &id)
        };
        for (token, own, other) in
            [(&of_one, path(one, first), path(two, second)), (&of_two, path(two, second), path(one, first))]
        {
            let answer = get(&address, token, &own).await;
            assert!(answer.status == 200 && !answer.body.contains("\"items\":[]"), "{own}: {answer:?}");
            assert_eq!(get(&address, token, &other).await.status, 404, "{other}");
            assert_eq!(get(&address, &house, &other).await.status, 404, "{other}");
            assert_eq!(get(&address, &admin, &other).await.status, 200, "{other}");
        }
        seen += 1;
    }
    assert_eq!(seen, 8);
    assert_eq!(get(&address, &of_one, "/api/v1/slos/all").await.status, 404);
    // Every list has one's own rows only.
    let now = chrono::Utc::now();
    let (from, to) =
        ((now - chrono::TimeDelta::hours(1)).to_rfc3339(), (now + chrono::TimeDelta::hours(1)).to_rfc3339());
    for (path, own) in [
        ("/api/v1/monitors".to_owned(), 2),
        (format!("/api/v1/checks?from={from}&to={to}"), 2),
        ("/api/v1/incidents".to_owned(), 1),
        ("/api/v1/maintenances".to_owned(), 1),
        ("/api/v1/uptime".to_owned(), 2),
    ] {
        let count = async |token: &str| super::items(&get(&address, token, &path).await);
        assert_eq!(count(&admin).await.len(), 2 * own, "{path}");
        assert_eq!(count(&house).await.len(), 0, "{path}");
        let mine = count(&of_one).await;
        assert_eq!(mine.len(), own, "{path}");
        assert!(!serde_json::to_string(&mine).unwrap().contains("two@"), "{path}");
    }
    for (token, count) in [(&of_one, 1), (&of_two, 1), (&house, 0), (&admin, 3)] {
        assert_eq!(super::items(&get(&address, token, "/api/v1/slos").await).len(), count);
        let view = get(&address, token, "/api/v1/overview").await.json();
        assert_eq!(view["slos"].as_array().unwrap().len(), count, "{view}");
    }
    let filtered = format!("/api/v1/incidents?monitor={two}");
    assert_eq!(get(&address, &of_one, &filtered).await.status, 400);
    // The running view as well, and no paths of the machine in it.
    let view = get(&address, &of_one, "/api/v1/overview").await;
    assert_eq!(view.json()["monitors"].as_array().unwrap().len(), 2, "{view:?}");
    assert!(!view.body.contains("two@") && view.json()["config"].is_null(), "{view:?}");
    assert_eq!(get(&address, &admin, "/api/v1/overview").await.json()["monitors"].as_array().unwrap().len(), 4);
    assert!(get(&address, &admin, "/api/v1/overview").await.body.contains("config.toml"));
}
