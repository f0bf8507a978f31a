//! A domain in the daemon: asked once, also over a restart.

use super::{insert, monitor, on};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::servers::http::{Server, answer};

#[tokio::test]
async fn a_registry_is_asked_once() {
    let body = "{\"objectClassName\":\"domain\",\"events\":[{\"eventAction\":\"expiration\",\"eventDate\":\"2999-01-01T00:00:00Z\"}]}";
    let server = Server::start(|_| answer("200 OK", "", body.as_bytes())).await;
    let db = TestDb::new().await;
    let home = Home::new("");
    let list = serde_json::json!({ "services": [[["test"], [server.url("/")]]] });
    std::fs::write(home.path().join("dns.json"), list.to_string()).unwrap();
    home.write(&on(
        &db.url,
        &("probe.rdap_bootstrap = \"dns.json\"\n".to_owned() + &monitor("ours", "domain:ours.test")),
    ));
    let mut daemon = home.start();
    daemon.wait_status("ours", "up").await;
    insert(&db, "row", "domain:row.test").await;
    daemon.wait_status("row", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let mut daemon = home.start();
    daemon.wait_status("ours", "up").await;
    daemon.wait_status("row", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let mut asked: Vec<String> = server.requests().iter().map(|request| request.path().to_owned()).collect();
    asked.sort();
    assert_eq!(asked, ["/domain/ours.test", "/domain/row.test"]);
}
