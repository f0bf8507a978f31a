//! The API of the real daemon: who may, what it answers, and what it withstands.

mod api;
mod crowd;
mod hostile;
mod latency;
mod maintenances;
mod table;
mod tokens;

use lamplighter::access::Scope;
use lamplighter::access::token::{TokenHash, generate};
use tokio::net::TcpStream;

use crate::support::daemon::{Answer, Daemon, Home, say};
use crate::support::postgres::{TestDb, store_at};

/// Asks over TCP with a token; further header lines end with CRLF.
async fn send(address: &str, token: &str, method: &str, path: &str, more: &str) -> Answer {
    let stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).await.unwrap();
    let authorization = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    say(
        stream,
        &format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{authorization}{more}connection: close\r\n\r\n"),
    )
    .await
}

pub async fn get(address: &str, token: &str, path: &str) -> Answer {
    send(address, token, "GET", path, "").await
}

/// The token of the state directory.
pub fn admin_token(home: &Home) -> String {
    std::fs::read_to_string(home.state().join("admin-token")).unwrap().trim().to_owned()
}

/// A token as `token create` makes it.
pub async fn token(db: &TestDb, scope: Scope, user: Option<&str>) -> String {
    let store = store_at(&db.url, "us-east-1", "public");
    let secret = generate().unwrap();
    let hash = TokenHash::of(secret.expose()).unwrap();
    let new = lamplighter::store::NewToken { name: "test", scope, user, expires: None };
    store.create_token(&new, &hash).await.unwrap();
    store.close().await;
    secret.expose().to_owned()
}

/// A user with two monitors (active only if that is said), an incident, and a check a minute ago; id of the first monitor
/// and of the incident.
pub async fn user(db: &TestDb, email: &str) -> (uuid::Uuid, i64) {
    let id: uuid::Uuid = sqlx::query_scalar(
        "WITH u AS (INSERT INTO users (email) VALUES ($1) RETURNING id) INSERT INTO monitors (user_id, name, url, is_active) \
         SELECT u.id, $1 || n, 'tcp://127.0.0.1:1', false FROM u, generate_series(1, 2) n RETURNING id",
    )
    .bind(email)
    .fetch_all(&db.pool)
    .await
    .unwrap()[0];
    let incident = sqlx::query_scalar(
        "WITH c AS (INSERT INTO monitor_checks (monitor_id, status, checked_at, wait_us) \
             SELECT id, true, date_trunc('second', now()) - interval '1 minute', 7 FROM monitors WHERE user_id = \
                (SELECT user_id FROM monitors WHERE id = $1)) \
         INSERT INTO incidents (user_id, monitor_id, title, evidence) SELECT user_id, id, 'down', '{\"x\": 1}' \
         FROM monitors WHERE id = $1 RETURNING id",
    )
    .bind(id)
    .fetch_one(&db.pool)
    .await
    .unwrap();
    (id, incident)
}

/// A daemon on a database, and its address.
pub async fn daemon(home: &Home) -> (Daemon, String) {
    let daemon = home.start();
    let address = daemon.address().await;
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    (daemon, address)
}

/// The items of a list.
fn items(answer: &Answer) -> Vec<serde_json::Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().unwrap().clone()
}
