//! The admin server over TCP.

use serde_json::Value;
use tokio::net::TcpStream;

use super::{monitor, on};
use crate::support::daemon::{Answer, Home, ask, has_code};
use crate::support::postgres::TestDb;
use crate::support::target::Target;

async fn get(address: &str, method: &str, path: &str) -> Answer {
    let stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).await.unwrap();
    ask(stream, method, path).await
}

#[tokio::test]
async fn routes_answer_as_the_contract_says() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    let address = daemon.address().await;
    daemon.wait_status("a", "up").await;

    let answer = get(&address, "GET", "/healthz").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    let answer = get(&address, "HEAD", "/healthz").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let answer = get(&address, "GET", "/").await;
    assert!(answer.status == 200 && answer.body.contains("/readyz"));

    // Codes for everybody, details for those on this machine.
    std::fs::write(home.config(), "broken = [\n").unwrap();
    daemon.wait_ready("the file is refused", |status, body| status == 200 && has_code(body, "config_refused")).await;
    let answer = get(&address, "GET", "/readyz").await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert!(answer.status == 200 && answer.head.contains("content-type: application/json"), "{answer:?}");
    assert_eq!((&body["ready"], &body["role"]), (&true.into(), &"active".into()));
    assert!(has_code(&body, "config_refused"));
    assert!(!answer.body.contains("detail") && !answer.body.contains("config.toml"), "{}", answer.body);
    let (_, local) = daemon.readiness().await.unwrap();
    assert!(local["notes"][0]["detail"].as_str().unwrap().contains("config.toml:1:"), "{local}");

    // What the socket may, a stranger may not: neither the view nor a reload, nor what is not there.
    let closed =
        ["/metrics", "/api/v1/monitors", "/api/v1/overview", "/api/v1/channels", "/probe?target=x", "/nowhere", "//"];
    for (method, path) in closed.map(|path| ("GET", path)).into_iter().chain([("POST", "/api/v1/reload")]) {
        let answer = get(&address, method, path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.head.contains("application/problem+json") && answer.head.contains("www-authenticate: bearer"));
    }
    for method in ["POST", "PUT", "DELETE"] {
        let answer = get(&address, method, "/readyz").await;
        assert!(answer.status == 405 && answer.head.contains("allow: get, head"), "{answer:?}");
    }
    let local =
        async |method, path| ask(tokio::net::UnixStream::connect(home.socket()).await.unwrap(), method, path).await;
    for path in ["/status/x", "/badge/x", "/probe?target=x", "/api/v1/channels"] {
        let answer = local("GET", path).await;
        assert_eq!((answer.status, &answer.json()["title"]), (501, &"not built yet".into()), "{path}");
    }
    for path in ["/nowhere", "/healthz/x", "/metricsx", "//"] {
        let answer = local("GET", path).await;
        assert!(answer.status == 404 && answer.head.contains("problem+json"), "{path}: {answer:?}");
    }
    let socket = tokio::net::UnixStream::connect(home.socket()).await.unwrap();
    let answer = ask(socket, "GET", "/api/v1/reload").await;
    assert!(answer.status == 405 && answer.head.contains("allow: post"), "{answer:?}");
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_connection_does_not_keep_the_daemon() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let mut daemon = home.start();
    let address = daemon.address().await;
    let mut idle = Vec::new();
    for _ in 0..600 {
        // More than have places.
        idle.push(TcpStream::connect(address.strip_prefix("http://").unwrap()).await.unwrap());
    }
    // The socket has places of its own.
    daemon.wait_ready("it answers", |status, _| status == 200).await;
    let began = std::time::Instant::now();
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    drop(idle);
}
