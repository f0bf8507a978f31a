//! Tokens end to end: made by the command, used over TCP and a unix socket, revoked, and without the store.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::net::UnixStream;

use super::{admin_token, daemon, get, send};
use crate::daemon::on;
use crate::support::daemon::{Home, ask, say};
use crate::support::postgres::{OwnPostgres, TestDb};
use crate::support::target::until;

const MOST: Duration = Duration::from_secs(30);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `token create`; the id and the token.
fn create(home: &Home, arguments: &[&str]) -> (String, String) {
    let output = home.output(&[&["token", "create"], arguments].concat());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    let id = err.split_whitespace().nth(1).unwrap().trim_end_matches(',').to_owned();
    (id, out.trim().to_owned())
}

#[tokio::test]
async fn a_token_lives_from_create_to_revoke() {
    let db = TestDb::new().await;
    db.sql("INSERT INTO users (email) VALUES ('a@example.com')").await;
    let home = Home::new(&on(&db.url, ""));
    let (daemon, address) = daemon(&home).await;
    let (id, token) =
        create(&home, &["--name", "grafana", "--scope", "read", "--user", "A@example.com", "--expires", "90d"]);
    assert!(token.starts_with("lamp_") && token.len() == 77, "{token}");
    assert_eq!(get(&address, &token, "/api/v1/monitors").await.status, 200);
    let scheme = format!("authorization: bEARER {token}\r\n");
    assert_eq!(send(&address, "", "GET", "/api/v1/monitors", &scheme).await.status, 200);

    let listed = text(&home.output(&["token", "list"]).stdout);
    let line = listed.lines().find(|line| line.contains("grafana")).unwrap();
    assert!(
        line.contains(&id) && line.contains("a@example.com") && line.contains("until ") && !line.contains("never"),
        "{listed}"
    );
    assert!(!listed.contains("lamp_"), "{listed}");
    // Neither the database nor the log has it.
    let dump: String = db.get("SELECT string_agg(t::text, ' ') FROM tokens t").await;
    assert!(!dump.contains(&token[5..]) && !daemon.log().contains(&token[5..]));

    let output = home.output(&["token", "revoke", &id]);
    assert!(output.status.success() && text(&output.stdout).contains("grafana"), "{output:?}");
    until("the daemon notices", Duration::from_secs(12), async || {
        (get(&address, &token, "/api/v1/monitors").await.status == 401).then_some(())
    })
    .await;
    assert!(home.output(&["token", "revoke", &id]).status.success());
    assert!(text(&home.output(&["token", "list"]).stdout).contains("revoked"));

    let (_, short) = create(&home, &["--name", "short", "--scope", "admin", "--expires", "2s"]);
    assert_eq!(get(&address, &short, "/api/v1/overview").await.status, 200);
    until("it expires", MOST, async || (get(&address, &short, "/api/v1/overview").await.status == 401).then_some(()))
        .await;

    for (arguments, code) in [
        (&["create", "--name", "x", "--scope", "read", "--user", "nobody@example.com"] as &[&str], 1),
        (&["create", "--name", "x", "--scope", "root"], 64),
        (&["create", "--name", "x", "--scope", "read", "--expires", "soon"], 64),
        (&["create", "--scope", "read"], 64),
        (&["revoke", "00000000-0000-4000-8000-000000000000"], 1),
        (&["revoke", "x"], 64),
    ] {
        let output = home.output(&[&["token"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(!text(&output.stdout).contains("lamp_"), "{arguments:?}");
    }
}

#[tokio::test]
async fn the_embedded_database_has_tokens_with_and_without_its_daemon() {
    let home = Home::new("");
    let output = home.output(&["token", "list"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(text(&output.stderr).contains("start the daemon once"), "{output:?}");
    let (mut daemon, address) = daemon(&home).await;
    let (_, beside) = create(&home, &["--name", "beside", "--scope", "write"]);
    assert_eq!(get(&address, &beside, "/api/v1/monitors").await.status, 200);
    assert_eq!(daemon.stop().await.code(), Some(0));
    let (_, alone) = create(&home, &["--name", "alone", "--scope", "write"]);
    let (_daemon, address) = super::daemon(&home).await;
    for token in [&beside, &alone, &admin_token(&home)] {
        assert_eq!(get(&address, token, "/api/v1/monitors").await.status, 200);
    }
}

#[tokio::test]
async fn the_token_file_is_made_once_and_is_for_its_owner() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let (mut first, address) = daemon(&home).await;
    let token = admin_token(&home);
    let mode = std::fs::metadata(home.state().join("admin-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(first.log().contains("admin-token") && !first.log().contains(&token[5..]), "{}", first.log());
    assert_eq!(get(&address, &token, "/api/v1/overview").await.status, 200);
    let wrong = format!("{}{}", &token[..76], if token.ends_with('0') { '1' } else { '0' });
    assert_eq!(get(&address, &wrong, "/api/v1/overview").await.status, 401);
    assert!(first.stop().await.success());
    let (_second, _) = daemon(&home).await;
    assert_eq!(admin_token(&home), token);
}

#[tokio::test]
async fn a_socket_of_the_configuration_needs_a_token_and_the_own_socket_does_not() {
    let db = TestDb::new().await;
    let home = Home::new("");
    let path = home.path().join("http.sock");
    let config = format!(
        "daemon.state_directory = {:?}\nserver.listen = \"unix:{}\"\n{}",
        home.state().display().to_string(),
        path.display(),
        on(&db.url, "")
    );
    std::fs::write(home.config(), config).unwrap();
    let daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let open = async || UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(open().await, "GET", "/healthz").await.status, 200);
    assert_eq!(ask(open().await, "GET", "/api/v1/overview").await.status, 401);
    let request = format!(
        "GET /api/v1/overview HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        admin_token(&home)
    );
    assert_eq!(say(open().await, &request).await.status, 200);
    let own = UnixStream::connect(home.socket()).await.unwrap();
    assert_eq!(ask(own, "GET", "/api/v1/overview").await.status, 200);
}

#[tokio::test]
async fn without_the_database_known_tokens_and_that_of_the_file_work() {
    let postgres = OwnPostgres::start();
    let home = Home::new(&on(&postgres.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let (_, known) = create(&home, &["--name", "known", "--scope", "read"]);
    let (_, unknown) = create(&home, &["--name", "unknown", "--scope", "read"]);
    assert_eq!(get(&address, &known, "/api/v1/monitors").await.status, 200);
    postgres.stop();
    for token in [&known, &admin_token(&home)] {
        assert_eq!(get(&address, token, "/api/v1/overview").await.status, 200);
        let answer = get(&address, token, "/api/v1/monitors").await;
        assert!(answer.status == 503 && answer.head.contains("retry-after: "), "{answer:?}");
        assert!(answer.json()["type"].as_str().unwrap().ends_with("store_away"), "{answer:?}");
    }
    assert_eq!(get(&address, &unknown, "/api/v1/overview").await.status, 503);
    postgres.resume();
    until("the database is back", MOST, async || {
        (get(&address, &unknown, "/api/v1/monitors").await.status == 200).then_some(())
    })
    .await;
}
