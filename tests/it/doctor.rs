//! `lamplighter doctor` on installations that are well, and on broken ones. What a machine lends itself, such as a clock that
//! is wrong, is judged in `src/cli/doctor`.

use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use serde_json::Value;

use crate::daemon::{monitor, on};
use crate::support::daemon::Home;
use crate::support::postgres::{OwnPostgres, TestDb};
use crate::support::servers::dns::DnsServer;
use crate::support::servers::http::closed_port;

/// A command may not block the runtime on which the resolver answers.
async fn run(home: &Home, arguments: &[&str]) -> (i32, String) {
    let mut command = home.command(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, "");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

struct Report {
    code: i32,
    json: Value,
}

impl Report {
    async fn of(home: &Home) -> Self {
        let (code, text) = run(home, &["doctor", "--json"]).await;
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let any = json["findings"].as_array().unwrap().iter().any(|finding| finding["status"] == "problem");
        assert_eq!((code, json["healthy"].as_bool().unwrap()), (i32::from(any), !any), "{json:#}");
        Self { code, json }
    }

    fn finding(&self, name: &str) -> &Value {
        let found = self.json["findings"].as_array().unwrap().iter().find(|finding| finding["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {:#}", self.json))
    }

    #[track_caller]
    fn says(&self, name: &str, status: &str, words: &str) {
        let finding = self.finding(name);
        assert_eq!(finding["status"], status, "{finding}");
        assert!(finding["what"].as_str().unwrap().contains(words), "{finding}");
        assert_eq!(finding["way_out"].is_null(), status == "ok", "{finding}");
    }
}

/// A resolver that answers.
async fn resolver() -> DnsServer {
    DnsServer::start(|ask| vec![ask.code(ResponseCode::NoError)]).await
}

fn resolvers(server: &DnsServer) -> String {
    format!("probe.resolvers = [\"{}\"]\n", server.address)
}

#[tokio::test]
async fn an_embedded_installation_is_well() {
    let dns = resolver().await;
    let home = Home::new(&(resolvers(&dns) + &monitor("a", "tcp://localhost:1")));
    let before = Report::of(&home).await;
    before.says("daemon", "warning", "no daemon runs");
    before.says("state_directory", "ok", "not there yet");
    before.says("database", "ok", "does not run now");
    before.says("postgres_binaries", "ok", "will run the embedded database");
    assert_eq!(before.code, 0, "{:#}", before.json);
    assert!(!home.state().exists(), "looking makes nothing");

    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let report = Report::of(&home).await;
    for name in ["config", "state_directory", "disk", "daemon", "listen", "resolver", "certificates", "clock", "icmp"] {
        report.says(name, "ok", "");
    }
    for name in ["database", "database_version", "database_settings", "database_connections", "database_clock"] {
        report.says(name, "ok", "");
    }
    for (name, words) in [
        ("schema", "up to date"),
        ("partitions", "are there"),
        ("lease", "this state directory's daemon"),
        ("postgres_binaries", "is installed"),
        ("descriptors", "the daemon's limit"),
    ] {
        report.says(name, "ok", words);
    }
    assert_eq!(report.json["version"], env!("CARGO_PKG_VERSION"));
    let (code, table) = run(&home, &["doctor"]).await;
    assert!(code == 0 && table.contains("0 problems") && table.contains("ok       schema"), "{table}");
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn the_port_is_ours_or_another_programs() {
    let port = closed_port().await.port();
    let home = Home::new("");
    let text = std::fs::read_to_string(home.config()).unwrap().replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    std::fs::write(home.config(), text).unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let report = Report::of(&home).await;
    report.says("listen", "problem", &format!("(process {})", std::process::id()));
    drop(taken);
    Report::of(&home).await.says("listen", "ok", "is free");
    let mut daemon = home.start();
    daemon.overview().await;
    Report::of(&home).await.says("listen", "ok", "the daemon listens");
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_bad_configuration_does_not_hide_the_rest() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, "nonsense = 1\nprobe.max_in_flight = 0\n"));
    std::fs::set_permissions(home.config(), PermissionsExt::from_mode(0o666)).unwrap();
    let report = Report::of(&home).await;
    report.says("config", "problem", "2 errors");
    let details = report.finding("config")["details"].as_array().unwrap();
    let place = home.config().display().to_string();
    assert!(details.len() == 2 && details.iter().all(|line| line.as_str().unwrap().starts_with(&place)), "{details:?}");
    report.says("config_permissions", "problem", "others may write");
    report.says("schema", "ok", "up to date");
    // The cluster of the tests is not durable, to be quick.
    report.says("database_settings", "problem", "fsync is off");
    let (_, table) = run(&home, &["doctor"]).await;
    assert!(table.contains("PROBLEM  config") && table.contains("nonsense"), "{table}");

    std::fs::remove_file(home.config()).unwrap();
    Report::of(&home).await.says("config", "problem", "1 error");
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written() {
    let home = Home::new("");
    std::fs::create_dir(home.state()).unwrap();
    std::fs::set_permissions(home.state(), PermissionsExt::from_mode(0o555)).unwrap();
    if rustix::process::geteuid().is_root() {
        // As a package leaves it: of another user than who asks.
        chown(home.state(), Some(65534), Some(65534)).unwrap();
    }
    Report::of(&home).await.says("state_directory", "problem", "cannot write");
    std::fs::set_permissions(home.state(), PermissionsExt::from_mode(0o777)).unwrap();
    Report::of(&home).await.says("state_directory", "problem", "others may write");
    std::fs::remove_dir(home.state()).unwrap();
    std::fs::write(home.state(), "").unwrap();
    Report::of(&home).await.says("state_directory", "problem", "is no folder");
}

#[tokio::test]
async fn a_schema_that_is_not_as_it_should_be() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    // The database that this one is cloned from may be of yesterday.
    assert!(home.output(&["migrate"]).status.success());
    Report::of(&home).await.says("partitions", "ok", "");
    let day = async |ahead: i32| -> String {
        db.get(&format!("SELECT to_char((now() AT TIME ZONE 'UTC')::date + {ahead}, 'YYYYMMDD')")).await
    };
    db.sql(&format!("DROP TABLE monitor_checks_{}, monitor_checks_{}", day(2).await, day(3).await)).await;
    Report::of(&home).await.says("partitions", "warning", "no partition for");
    db.sql(&format!("DROP TABLE monitor_checks_{}", day(0).await)).await;
    let report = Report::of(&home).await;
    report.says("partitions", "problem", "no partition for");
    assert_eq!(report.code, 1);
    // The way out is one.
    assert!(home.output(&["migrate"]).status.success());
    Report::of(&home).await.says("partitions", "ok", "");

    db.sql(
        "INSERT INTO monitors (user_id, name, url) SELECT id, 'p', 'icmp:127.0.0.1' FROM users WHERE plan = 'system'",
    )
    .await;
    let may_ping = rustix::process::geteuid().is_root();
    if may_ping {
        Report::of(&home).await.says("icmp", "ok", "1 monitor may ping");
    }

    db.sql(
        "INSERT INTO lamplighter_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', true, '', 0)",
    )
    .await;
    Report::of(&home).await.says("schema", "problem", "newer Lamplighter");
    let empty = TestDb::empty().await;
    home.write(&on(&empty.url, "database.auto_migrate = false\n"));
    Report::of(&home).await.says("schema", "problem", "empty");
    empty.sql("CREATE TABLE orders (id int)").await;
    Report::of(&home).await.says("schema", "problem", "not Lamplighter's");
}

#[tokio::test]
async fn what_does_not_answer_is_waited_for_a_short_time() {
    let silent = DnsServer::start(|_| Vec::new()).await;
    let home = Home::new("");
    let names = resolvers(&silent) + &monitor("a", "https://shop.example/");
    home.write(&on(&format!("postgres://u:geheim@{}/x", closed_port().await), &names));
    let report = Report::of(&home).await;
    report.says("database", "problem", "refused");
    report.says("resolver", "problem", "");
    assert!(!report.json.to_string().contains("geheim"));

    let own = OwnPostgres::start();
    home.write(&on(&own.url, &(resolvers(&silent) + &monitor("a", "tcp://127.0.0.1:1"))));
    Report::of(&home).await.says("schema", "ok", "first start");
    own.freeze(true);
    let began = Instant::now();
    let report = Report::of(&home).await;
    let took = began.elapsed();
    own.freeze(false);
    report.says("database", "problem", "no answer");
    report.says("resolver", "warning", "no monitor of the file needs it");
    // Three seconds for a connection, six for the resolver, at the same time; the rest is for a loaded machine.
    assert!(took < Duration::from_secs(30), "{took:?}");
}
