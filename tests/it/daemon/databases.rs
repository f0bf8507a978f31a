//! A monitor with a query, from the file to the incident, and no password anywhere.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{on, wait_sql};
use crate::support::daemon::Home;
use crate::support::databases::{Redis, Trust};
use crate::support::postgres::TestDb;

async fn say(redis: &Redis, command: &str) {
    let mut stream = tokio::net::TcpStream::connect(redis.plain).await.unwrap();
    stream.write_all(format!("AUTH pass-word\r\n{command}\r\nQUIT\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(!answer.contains("-ERR"), "{answer}");
}

#[tokio::test]
async fn a_query_opens_and_resolves_an_incident() {
    let db = TestDb::new().await;
    let trust = Trust::new();
    let redis = Redis::start(&trust).await;
    say(&redis, "RPUSH jobs a").await;
    let home = Home::new("");
    std::fs::write(home.path().join("password"), "pass-word\n").unwrap();
    let monitor = |id: &str, query: &str| {
        format!(
            "[[monitor]]\nid = {id:?}\nurl = \"redis://{}\"\ninterval = \"1s\"\ntimeout = \"2s\"\nquery = {query:?}\n\
             auth = {{ basic = {{ password = {{ file = \"password\" }} }} }}\nexpect = {{ value = {{ below = 3 }} }}\n",
            redis.plain
        )
    };
    let jobs = monitor("jobs", "LLEN jobs");
    // One whose server repeats the password in its error.
    let telltale = monitor("telltale", "EVAL \"return redis.error_reply('no pass' .. '-word here')\" 0");
    home.write(&on(&db.url, &(jobs + &telltale)));
    let mut daemon = home.start();
    daemon.wait_status("jobs", "up").await;
    daemon.wait_status("telltale", "down").await;

    say(&redis, "RPUSH jobs b c d").await;
    daemon.wait_status("jobs", "down").await;
    wait_sql(
        &db,
        "the failed check is recorded",
        "SELECT count(*) > 0 FROM monitor_checks c JOIN monitors m ON m.id = c.monitor_id WHERE m.key = 'jobs'
         AND c.error_type = 'query_failed'",
    )
    .await;
    let message = "SELECT count(*) = 1 FROM incidents
        WHERE evidence->'first_bad'->>'message' = 'the query gave \"4\", expected a number below 3'";
    wait_sql(&db, "the incident says what the query gave", message).await;
    say(&redis, "LTRIM jobs 0 0").await;
    daemon.wait_status("jobs", "up").await;
    wait_sql(&db, "the incident is resolved", "SELECT count(*) = 1 FROM incidents WHERE status = 'resolved'").await;
    let told = "SELECT count(*) = 1 FROM incidents WHERE evidence->'first_bad'->>'message' LIKE '%no [secret] here%'";
    wait_sql(&db, "the other incident has no password in it", told).await;
    assert_eq!(daemon.stop().await.code(), Some(0));

    for table in ["monitors", "monitor_checks", "incidents"] {
        let told = format!("SELECT count(*) FROM {table} t WHERE t::text LIKE '%pass-word%'");
        assert_eq!(db.get::<i64>(&told).await, 0, "{table}");
    }
    assert!(!daemon.log().contains("pass-word"), "{}", daemon.log());
}
