//! The command line, as people and scripts meet it.

use std::process::Output;

use serde_json::Value;

use crate::support::daemon::Home;
use crate::support::postgres::{OwnPostgres, TestDb, url_text};
use crate::support::target::Target;

/// A command may not block the runtime on which the target answers.
async fn run(home: &Home, arguments: &[&str]) -> (i32, String, String) {
    let mut command = home.command(arguments);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code().unwrap(), out, err)
}

#[tokio::test]
async fn probe_of_a_url_says_what_was_met() {
    let target = Target::start().await;
    let home = Home::new("");
    let url = target.url("/x?a=1");
    let (code, out, _) = run(&home, &["probe", &url]).await;
    assert_eq!(code, 0);
    assert!(out.starts_with(&format!("UP {url} in ")), "{out}");
    for word in ["connect", "wait", "200 ", &target.address.to_string()] {
        assert!(out.contains(word), "{word}: {out}");
    }

    let (code, out, _) = run(&home, &["probe", &url, "--json"]).await;
    let json: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((code, out.lines().count()), (0, 1));
    assert_eq!(json["monitor"], url.as_str());
    assert_eq!((&json["monitor_id"], &json["verdict"], &json["failure"]), (&Value::Null, &"up".into(), &Value::Null));
    assert_eq!(
        (&json["status_code"], &json["attempt"], &json["region"]),
        (&200.into(), &1.into(), &"us-east-1".into())
    );
    assert_eq!(json["address"], target.address.to_string());
    let timings = &json["timings_us"];
    for phase in ["connect", "send", "wait", "receive", "total"] {
        assert!(timings[phase].is_u64(), "{phase}: {timings}");
    }
    assert!(timings["tls"].is_null() && json["certificate"].is_null());
    assert!(json["checked_at"].as_str().unwrap().ends_with('Z'));

    target.answer(503);
    let (code, out, _) = run(&home, &["probe", &url, "--json"]).await;
    let json: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((code, &json["verdict"], &json["failure"]), (1, &"down".into(), &"status_unexpected".into()));

    target.hold();
    let (code, out, _) = run(&home, &["probe", &url, "--timeout", "1s"]).await;
    assert!(code == 1 && out.contains("(response_timeout)") && out.contains("connect"), "{out}");
    let (code, out, _) = run(&home, &["probe", "tcp://127.0.0.1:1"]).await;
    assert!(code == 1 && out.contains("(connect_refused)"), "{out}");
}

#[tokio::test]
async fn probe_that_cannot_know_says_unknown() {
    // A resolver that is not there: that says nothing about the target.
    let home = Home::new("probe.resolvers = [\"127.0.0.1:1\"]\n");
    let (code, out, _) = run(&home, &["probe", "http://lamplighter.example/", "--timeout", "2s", "--json"]).await;
    let json: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((code, &json["verdict"], &json["failure"]), (2, &"unknown".into(), &"resolver_unavailable".into()));
}

#[tokio::test]
async fn probe_of_a_file_prints_its_monitors_in_order() {
    let target = Target::start().await;
    let entry = |id: &str, url: &str| format!("[[monitor]]\nid = {id:?}\nurl = {url:?}\ntimeout = \"2s\"\n");
    let up = entry("b-up", &target.url("/b")) + &entry("a-up", &target.url("/a"));
    let home = Home::new(&(up.clone() + &entry("paused", &target.url("/p")) + "active = false\n"));
    let (code, out, _) = run(&home, &["probe", "--all", "--json"]).await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = lines.iter().map(|line| line["monitor"].as_str().unwrap()).collect();
    assert_eq!((code, names), (0, vec!["b-up", "a-up"]));
    assert!(lines.iter().all(|line| line["monitor_id"].is_string()));
    assert_eq!(target.hits("/p"), 0);

    // One that is paused may be asked for by name.
    let (code, out, _) = run(&home, &["probe", "--monitor", "paused"]).await;
    assert!(code == 0 && out.starts_with("UP paused "), "{out}");
    let (code, _, err) = run(&home, &["probe", "--monitor", "nobody"]).await;
    assert!(code == 64 && err.contains("nobody"), "{err}");

    home.write(&(up + &entry("down", "tcp://127.0.0.1:1")));
    let (code, out, _) = run(&home, &["probe", "--all"]).await;
    assert!(code == 1 && out.contains("DOWN down "), "{out}");
}

#[tokio::test]
async fn usage_errors_are_64_and_help_is_not() {
    let home = Home::new("");
    for arguments in [
        &["bogus"] as &[&str],
        &[],
        &["probe"],
        &["probe", "--all", "--monitor", "x"],
        &["probe", "gopher://x"],
        &["probe", "not a url"],
        &["probe", "http://127.0.0.1/", "--timeout", "soon"],
        &["completions", "cobol"],
    ] {
        let (code, _, err) = run(&home, arguments).await;
        assert!(code == 64 && !err.is_empty(), "{arguments:?}: {code} {err}");
    }
    let (code, out, _) = run(&home, &["--version"]).await;
    assert_eq!((code, out.as_str()), (0, concat!("lamplighter ", env!("CARGO_PKG_VERSION"), "\n")));
    let (code, out, _) = run(&home, &["--help"]).await;
    assert!(code == 0 && out.contains("check-config") && !out.contains("__postgres"), "{out}");
    let (code, out, _) = run(&home, &["completions", "bash"]).await;
    assert!(code == 0 && out.contains("check-config") && out.contains("complete -F"), "{out}");
}

#[tokio::test]
async fn what_is_not_built_yet_says_so() {
    let home = Home::new("");
    let (code, out, err) = run(&home, &["import", "kuma", "file"]).await;
    assert!(code == 69 && out.is_empty() && err.contains("not built yet"), "{code} {out}{err}");
}

#[tokio::test]
async fn commands_without_a_daemon_say_that_none_is_running() {
    let home = Home::new("");
    for arguments in [&["status"] as &[&str], &["status", "--json"], &["reload"]] {
        let (code, out, err) = run(&home, arguments).await;
        assert!(code == 3 && out.is_empty() && err.contains("no daemon is running"), "{arguments:?}: {code} {err}");
    }
    // A socket that a dead daemon left behind.
    std::fs::create_dir_all(home.state()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(home.socket()).unwrap());
    assert_eq!(run(&home, &["status"]).await.0, 3);
}

#[tokio::test]
async fn migrate_prints_then_makes_then_has_nothing_to_do() {
    let db = TestDb::empty().await;
    let home = Home::new(&format!("database.url = {:?}\n", db.url));
    let (code, out, _) = run(&home, &["migrate", "--dry-run"]).await;
    assert!(code == 0 && out.contains("CREATE TABLE IF NOT EXISTS monitors"), "{out}");
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(db.get::<i64>(tables).await, 0, "a dry run changes nothing");
    let (code, out, _) = run(&home, &["migrate"]).await;
    assert!(code == 0 && out.contains("migrations applied, 5 partitions made"), "{out}");
    let (code, out, _) = run(&home, &["migrate"]).await;
    assert_eq!((code, out.as_str()), (0, "the schema is up to date\n"));
    let (code, out, _) = run(&home, &["migrate", "--dry-run"]).await;
    assert!(code == 0 && out.contains("up to date"), "{out}");
}

#[tokio::test]
async fn migrate_tells_a_database_that_is_away_from_one_that_is_not_ours() {
    let server = OwnPostgres::start();
    let home = Home::new(&format!("database.url = {:?}\n", server.url));
    server.sql("CREATE TABLE orders (id uuid)").await;
    for arguments in [&["migrate"] as &[&str], &["migrate", "--dry-run"]] {
        let (code, _, err) = run(&home, arguments).await;
        assert!(code == 78 && err.contains("orders"), "{arguments:?}: {err}");
    }
    server.stop();
    for arguments in [&["migrate"] as &[&str], &["migrate", "--dry-run"]] {
        let (code, _, err) = run(&home, arguments).await;
        assert!(code == 69 && err.lines().count() == 1, "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn db_url_is_that_of_the_database_without_its_password() {
    let home = Home::new("");
    let (code, out, _) = run(&home, &["db", "url"]).await;
    assert_eq!((code, out.trim()), (0, url_text(&home.state()).as_str()));
    home.write("database.url = \"postgres://u:geheim@db.example/x\"\n");
    let (code, out, err) = run(&home, &["db", "url"]).await;
    assert_eq!((code, out.as_str()), (0, "postgres://u@db.example/x\n"));
    assert!(err.contains("database.url") && err.contains("without its password") && !err.contains("geheim"), "{err}");
}

#[tokio::test]
async fn a_mistaken_url_is_complained_about_without_a_place_that_nobody_wrote() {
    let home = Home::new("");
    let (code, _, err) = run(&home, &["probe", "example.com"]).await;
    assert_eq!(code, 64);
    assert!(err.starts_with("lamplighter: url: ") && err.lines().count() == 1, "{err}");
}

#[tokio::test]
async fn probe_needs_only_its_own_part_of_the_configuration() {
    let target = Target::start().await;
    let home = Home::new("[[monitor]]\nid = \"x\"\nurl = \"http://${LAMPLIGHTER_NOT_SET}/\"\n");
    assert_eq!(run(&home, &["probe", &target.url("/")]).await.0, 0);
    assert_eq!(run(&home, &["probe", "--all"]).await.0, 78);
    assert_eq!(run(&home, &["db", "url"]).await.0, 0);
    // A url that is there and cannot be read is not none.
    std::fs::write(home.config(), "[database]\nurl = { credential = \"database-url\" }\n").unwrap();
    let (code, out, err) = run(&home, &["db", "url"]).await;
    assert_eq!((code, out.as_str()), (78, ""), "{err}");
    assert!(err.contains("database.url"), "{err}");
}

#[tokio::test]
async fn nothing_to_probe_is_nothing_wrong() {
    let home = Home::new("");
    assert_eq!(run(&home, &["probe", "--all", "--json"]).await, (0, String::new(), String::new()));
    assert_eq!(run(&home, &["probe", "--monitor", "x"]).await.0, 64);
}

#[tokio::test]
async fn status_is_drawn_again_and_again() {
    let db = TestDb::new().await;
    let home = Home::new(&format!("database.url = {:?}\n", db.url));
    let daemon = home.start();
    daemon.overview().await;
    let mut command = home.command(&["status", "--watch", "--json"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let out = child.stdout.take().unwrap();
    let lines = tokio::task::spawn_blocking(move || {
        std::io::BufRead::lines(std::io::BufReader::new(out)).take(3).map(Result::unwrap).collect::<Vec<_>>()
    });
    for line in lines.await.unwrap() {
        assert!(serde_json::from_str::<Value>(&line).unwrap()["monitors"].is_array(), "{line}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
