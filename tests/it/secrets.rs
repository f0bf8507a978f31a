//! Twenty secrets, seeded wherever the configuration, rows and commands take any, and looked for wherever the program speaks:
//! support bundle, log, API, metrics, errors, tables, command lines and environments of its children.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use flate2::read::GzDecoder;

use crate::daemon::{on, wait_sql};
use crate::support::daemon::{Daemon, Home};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};
use crate::web::{admin_token, get};

/// The secret of this number. Long and strange enough for a heartbeat's token, and for nobody's word.
fn canary(number: u32) -> String {
    format!("CANARY{number:02}q7Zt4xK9wv")
}

/// Which canaries a text has, in any of the forms that they travel in.
fn found_in(text: &str) -> Vec<u32> {
    use base64::Engine as _;
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let holds = |number: &u32| {
        let secret = canary(*number);
        text.contains(&secret) || text.contains(&base64(&secret)) || text.contains(&base64(&format!("u:{secret}")))
    };
    (1..=20).filter(holds).collect()
}

/// Numbers 1 to 16: by value, by variable, by file and by credential.
fn configuration(home: &Home, db: &TestDb, target: &Target) -> String {
    let file = |name: &str, number: u32| std::fs::write(home.path().join(name), canary(number) + "\n").unwrap();
    file("four", 4);
    file("eight", 8);
    std::fs::create_dir(home.path().join("credentials")).unwrap();
    file("credentials/six", 6);
    let url = |path: &str| target.url(path);
    let parts = [
        format!("daemon.log_level = \"debug\"\nprobe.proxy = \"http://u:{}@127.0.0.1:1\"\n", canary(9)),
        entry(
            "basic",
            &url("/basic"),
            &format!("auth = {{ basic = {{ username = \"u\", password = \"{}\" }} }}", canary(2)),
        ),
        entry("bearer", &url("/bearer"), "auth = { bearer = \"${CANARY_THREE}\" }"),
        entry("header", &url("/header"), "headers = { Authorization = { file = \"four\" } }"),
        entry("api-key", &url("/key"), &format!("headers = {{ X-Api-Key = \"{}\" }}", canary(5))),
        entry("credential", &url("/credential"), "auth = { bearer = { credential = \"six\" } }"),
        format!("[[monitor]]\nid = \"beat\"\nurl = \"heartbeat:\"\nperiod = \"1h\"\ntoken = \"{}\"\n", canary(7)),
        "[[monitor]]\nid = \"beat-file\"\nurl = \"heartbeat:\"\nperiod = \"1h\"\ntoken = { file = \"eight\" }\n"
            .to_owned(),
        entry("proxied", "http://127.0.0.1:1/", "").replace("proxy = \"none\"\n", ""),
        entry("own-proxy", "http://127.0.0.1:1/", "")
            .replace("proxy = \"none\"", "proxy = \"http://u:${CANARY_ELEVEN}@127.0.0.1:1\""),
        entry("query", &url("/q?token=${CANARY_TWELVE}"), ""),
        entry("body", &url("/body"), "method = \"POST\"\nbody = \"pass=${CANARY_TEN}\""),
        plain("redis", "redis://127.0.0.1:1", "auth = { basic = { password = \"${CANARY_THIRTEEN}\" } }"),
        plain("said", "tcp://127.0.0.1:1", "exchange = [{ send = \"AUTH ${CANARY_FOURTEEN}\\r\\n\" }]"),
        plain("plugin", "exec:/bin/ls /none", &format!("env = {{ PASS = \"{}\" }}", canary(15))),
        plain(
            "postgres",
            "postgres://u@127.0.0.1:1/d",
            &format!("auth = {{ basic = {{ password = \"{}\" }} }}", canary(16)),
        ),
    ];
    // The server lets everybody in who comes by the socket, so that any password is right.
    on(&format!("{}&password={}", db.url, canary(1)), &parts.concat())
}

fn entry(id: &str, url: &str, keys: &str) -> String {
    plain(id, url, &format!("proxy = \"none\"\n{keys}"))
}

fn plain(id: &str, url: &str, keys: &str) -> String {
    let times = "interval = \"1s\"\ntimeout = \"1s\"\nconfirmations = 1\n";
    format!("[[monitor]]\nid = {id:?}\nurl = {url:?}\n{times}{keys}\n")
}

/// Numbers 17 and 18.
const ROWS: &str = "INSERT INTO monitors (user_id, name, url, interval_seconds, timeout_seconds, spec) \
    SELECT users.id, v.name, v.url, 1, 1, v.spec::jsonb FROM users, (VALUES \
        ('row-password', 'postgres://u:@17@@127.0.0.1:1/d', '{}'), \
        ('row-header', 'http://127.0.0.1:1/', '{\"headers\": {\"X-Token\": \"@18@\"}}')) v (name, url, spec) \
    WHERE users.plan = 'system'";

fn command(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.command(arguments);
    for (name, number) in
        [("THREE", 3), ("TEN", 10), ("ELEVEN", 11), ("TWELVE", 12), ("THIRTEEN", 13), ("FOURTEEN", 14)]
    {
        command.env(format!("CANARY_{name}"), canary(number));
    }
    command.env("CREDENTIALS_DIRECTORY", home.path().join("credentials"));
    // A journal with what some other version of us, or a library, let slip.
    command.env("PATH", format!("{}:{}", home.path().join("bin").display(), std::env::var("PATH").unwrap()));
    command
}

/// A `journalctl` that says all there is.
fn journal(home: &Home) {
    let folder = home.path().join("bin");
    std::fs::create_dir(&folder).unwrap();
    let lines: String = (1..=20)
        .map(|n| match n {
            // What a configuration does not know: only its look tells.
            17 => format!("dialling postgres://u:{}@127.0.0.1:1/d\n", canary(17)),
            18 => format!("sent X-Token: {}\n", canary(18)),
            19 | 20 => String::new(),
            n => format!("it said {} to us\n", canary(n)),
        })
        .collect();
    let script = format!("#!/bin/sh\ncat <<'END'\n{lines}the last line is well\nEND\n");
    std::fs::write(folder.join("journalctl"), script).unwrap();
    std::fs::set_permissions(folder.join("journalctl"), PermissionsExt::from_mode(0o755)).unwrap();
}

async fn output(home: &Home, arguments: &[&str]) -> (i32, String, String) {
    let mut command = command(home, arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Every file of a bundle.
fn unpack(path: &Path) -> BTreeMap<String, String> {
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(path).unwrap()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name.split_once('/').unwrap().1.to_owned(), text);
    }
    files
}

/// Every row of every table as text.
async fn tables(db: &TestDb) -> Vec<(String, String)> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p')",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let mut rows = Vec::new();
    for name in names {
        let text: Option<String> = db.get(&format!("SELECT string_agg(t::text, E'\\n') FROM {name} t")).await;
        rows.push((name, text.unwrap_or_default()));
    }
    rows
}

/// Command lines of everybody below a process, and environments; but not of plugins, which are given theirs.
fn children(of: u32) -> String {
    let read = |pid: u32, name: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', "\n")
    };
    let (mut text, mut todo) = (read(of, "cmdline"), vec![of]);
    while let Some(pid) = todo.pop() {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().map(|child| child.parse().unwrap()) {
                let line = read(child, "cmdline");
                if !line.starts_with("/bin/ls") {
                    text += &line;
                    text += &read(child, "environ");
                    todo.push(child);
                }
            }
        }
    }
    text
}

/// Rows of the table `monitors` without what their owners wrote out: rows their own, and the file what stands in it by value, which
/// its rows repeat (a monitor that is held back from archiving runs on from its row). What is a reference stays one.
fn theirs(text: &str) -> String {
    [2, 5, 7, 15, 16, 17, 18].into_iter().fold(text.to_owned(), |text, number| text.replace(&canary(number), ""))
}

async fn settled(db: &TestDb, daemon: &Daemon) {
    for monitor in ["basic", "bearer", "header", "api-key", "credential", "query", "body"] {
        daemon.wait_status(monitor, "down").await;
    }
    for monitor in ["proxied", "own-proxy", "row-header"] {
        daemon.wait_status(monitor, "unknown").await;
    }
    for monitor in ["redis", "said", "plugin", "postgres"] {
        daemon.wait_status(monitor, "down").await;
    }
    wait_sql(
        db,
        "a password in a row's url is refused",
        "SELECT count(*) = 1 FROM monitors WHERE invalid_reason <> ''",
    )
    .await;
    until("incidents are recorded", std::time::Duration::from_secs(30), async || {
        let open: i64 = db.get("SELECT count(*) FROM incidents").await;
        (open >= 11).then_some(())
    })
    .await;
}

#[tokio::test]
async fn twenty_secrets_are_nowhere() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    target.answer(500);
    let home = Home::new("");
    journal(&home);
    home.write(&configuration(&home, &db, &target));
    let daemon = home.start_as(command(&home, &["run"]));
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    db.sql(&ROWS.replace("@17@", &canary(17)).replace("@18@", &canary(18))).await;
    settled(&db, &daemon).await;

    // Two that the program makes itself, 19 and 20, are looked for as they are.
    let (code, token, said) = output(&home, &["token", "create", "--name", "x", "--scope", "read"]).await;
    assert_eq!(code, 0, "{said}");
    let own = [token.trim().to_owned(), admin_token(&home)];
    let mut leaks = Vec::new();
    let mut look = |place: &str, text: &str| {
        assert!(!text.is_empty(), "{place} says nothing");
        let known = found_in(text).into_iter().map(|number| (place.to_owned(), number));
        leaks.extend(known);
        leaks.extend(
            own.iter().zip(19..).filter(|(token, _)| text.contains(*token)).map(|(_, n)| (place.to_owned(), n)),
        );
    };

    let address = daemon.address().await;
    let paths = ["overview", "monitors", "incidents", "checks", "uptime", "export/checks", "export/incidents"];
    for path in paths
        .map(|path| format!("/api/v1/{path}"))
        .iter()
        .map(String::as_str)
        .chain(["/readyz", "/healthz", "/metrics"])
    {
        look(path, &get(&address, &own[1], path).await.body);
    }
    for arguments in [
        &["doctor", "--json"][..],
        &["doctor"],
        &["status"],
        &["status", "--json"],
        &["db", "url"],
        &["token", "list"],
        &["export"],
        &["probe", "--all", "--json"],
        &["check-config", "--plan", "--json"],
        &["reload"],
        &["migrate", "--dry-run"],
    ] {
        let (_, out, err) = output(&home, arguments).await;
        // Monitors of the file as they are written are what `export` is for; it has references for those by value.
        look(&arguments.join(" "), &(out + &err));
    }

    let bundle = home.path().join("bundle.tar.gz");
    let (code, out, err) = output(&home, &["support-bundle", bundle.to_str().unwrap()]).await;
    assert_eq!((code, out.trim()), (0, bundle.to_str().unwrap()), "{err}");
    let files = unpack(&bundle);
    let names = ["README.txt", "doctor.json", "versions.json", "database.json", "config/000.json", "status.json"];
    for name in names.into_iter().chain(["readyz.json", "metrics.txt", "log.txt"]) {
        look(&format!("bundle: {name}"), files.get(name).unwrap_or_else(|| panic!("no {name}")));
    }
    assert!(
        files["log.txt"].contains("the last line is well") && files["log.txt"].contains("it said"),
        "{}",
        files["log.txt"]
    );
    assert!(files["metrics.txt"].contains("lamplighter_"), "{}", files["metrics.txt"]);
    assert!(files["status.json"].contains("row-header") && files["config/000.json"].contains("X-Api-Key"));
    assert!(files["database.json"].contains("monitor_checks_") && files["database.json"].contains("fsync"));
    assert_eq!(files.len(), 9, "{:?}", files.keys());

    look("children", &children(daemon.pid()));
    for (table, text) in tables(&db).await {
        if !text.is_empty() {
            let text = if table == "monitors" { theirs(&text) } else { text };
            look(&format!("table {table}"), &text);
        }
    }

    // Errors beside secrets.
    let good = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(home.config(), good.replace("interval = \"1s\"", "interval = 1").replace("period = ", "peroid = "))
        .unwrap();
    for arguments in [&["check-config"][..], &["reload"], &["doctor"]] {
        let (code, out, err) = output(&home, arguments).await;
        assert_ne!(code, 0);
        look(&format!("bad: {}", arguments.join(" ")), &(out + &err));
    }
    let (code, _, err) = output(&home, &["support-bundle", bundle.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{err}");
    let files = unpack(&bundle);
    assert!(files["log.txt"].contains("the last line is well"), "{}", files["log.txt"]);
    for (name, text) in files {
        look(&format!("bundle of a bad one: {name}"), &text);
    }
    std::fs::write(home.config(), good.replace("X-Api-Key = ", "X-Api-Key ")).unwrap();
    let (_, out, err) = output(&home, &["check-config"]).await;
    look("broken: check-config", &(out + &err));
    let (code, _, err) = output(&home, &["support-bundle", bundle.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{err}");
    for (name, text) in unpack(&bundle) {
        look(&format!("bundle of a broken one: {name}"), &text);
    }
    look("log", &daemon.log());
    assert!(leaks.is_empty(), "{leaks:#?}");
}

#[tokio::test]
async fn the_embedded_database_is_given_no_secret() {
    let home = Home::new("[[monitor]]\nid = \"a\"\nurl = \"tcp://127.0.0.1:1\"\n");
    let mut daemon = home.start_as(command(&home, &["run"]));
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let text = children(daemon.pid());
    assert!(text.contains("postgres") && text.contains("PATH="), "{text}");
    assert_eq!(found_in(&text), [] as [u32; 0], "{text}");
    assert_eq!(daemon.stop().await.code(), Some(0));
}
