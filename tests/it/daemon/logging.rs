//! The log of the real daemon: storms, hostile text, levels, a reader that does not read, a real journal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::UnixStream;

use super::{MOST, insert, monitor, on, wait_sql};
use crate::support::daemon::{Daemon, Home, PROGRAM, ask, has_code};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// A sample of `/metrics`.
async fn metric(socket: &Path, name: &str) -> f64 {
    let answer = ask(UnixStream::connect(socket).await.unwrap(), "GET", "/metrics").await;
    let line = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {}", answer.body)).parse().unwrap()
}

async fn wait_log(daemon: &Daemon, text: &str) {
    until(&format!("the log says {text:?}"), MOST, async || daemon.log().contains(text).then_some(())).await;
}

/// Lines that claim to be the daemon's own begin with a time; others are continuations.
fn assert_no_forgery(log: &str) {
    let bad = log.chars().find(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{202a}'..='\u{202e}'));
    assert_eq!(bad, None, "{log}");
    let year = chrono::Utc::now().format("%Y-").to_string();
    for line in log.lines().filter(|line| line.starts_with(&year)) {
        let level = line.split(' ').nth(1).unwrap();
        assert!(["ERROR", "WARN", "INFO"].contains(&level) && !line.starts_with("2026-01-01"), "{line}");
    }
}

#[tokio::test]
async fn at_debug_every_check_is_a_line() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let config = format!("daemon.log_level = \"info,verdict=debug\"\n{}", monitor("shop", &target.url("/")));
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    target.answer(500);
    wait_sql(&db, "it is down", "SELECT count(*) = 1 FROM incidents").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" DEBUG ")).collect();
    let rows: i64 = db.get("SELECT count(*) FROM monitor_checks").await;
    assert_eq!(i64::try_from(lines.len()).unwrap(), rows, "{log}");
    assert!(lines.iter().all(|line| line.contains("monitor=shop") && line.contains(" ms")), "{log}");
    assert!(lines[0].contains("DEBUG up in "), "{log}");
    assert!(
        lines.iter().any(|line| line.contains("DEBUG down in ") && line.contains("failure=status_unexpected")),
        "{log}"
    );
}

#[tokio::test]
async fn a_storm_is_a_few_lines_and_a_count() {
    let db = TestDb::new().await;
    let monitors: String = (0..200).map(|n| monitor(&format!("m{n}"), "tcp://127.0.0.1:1")).collect();
    let home = Home::new(&on(&db.url, &monitors));
    let mut daemon = home.start();
    wait_sql(&db, "all are down", "SELECT count(*) = 200 FROM incidents WHERE resolved_at IS NULL").await;
    let suppressed = metric(&home.socket(), "lamplighter_log_lines_suppressed_total").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    until("the end is in the log", MOST, async || daemon.log().contains("ended").then_some(())).await;
    let log = daemon.log();
    let shown = log.lines().filter(|line| line.contains("WARN  down since ")).count();
    // One window or, on a slow machine, a few.
    let summaries = log.lines().filter(|line| line.contains("more lines like \"down since "));
    let counted: usize =
        summaries.map(|line| line.rsplit_once("suppressed=").unwrap().1.parse::<usize>().unwrap()).sum();
    assert_eq!(shown + counted, 200, "{log}");
    assert!((20..=60).contains(&shown) && suppressed as usize == counted, "{shown} {suppressed} {counted}");
    assert!(log.contains("among others suppressed="), "monitors are named: {log}");
}

#[tokio::test]
async fn hostile_text_forges_no_line() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    let forged = "x\u{1b}[2J\u{202e}\r\n2026-01-01T00:00:00.000Z ERROR [x] forged\u{0085}\u{2028}";
    // A row's name, and its url.
    insert(&db, &format!("name {forged}"), &target.url("/b")).await;
    insert(&db, "bidi \u{202e}", &format!("http://{forged}/")).await;
    insert(&db, "down \u{202e}\u{2066}", "tcp://127.0.0.1:1").await;
    wait_log(&daemon, "monitor=\"down \\u{202e}\\u{2066}\"").await;
    // What the database says.
    db.sql(&format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', {}; END $$",
        "E'no \\x1b[31m \\n2026-01-01T00:00:00.000Z ERROR [x] forged'"
    ))
    .await;
    db.sql("CREATE TRIGGER refuse BEFORE INSERT ON monitor_checks FOR EACH ROW EXECUTE FUNCTION refuse()").await;
    wait_log(&daemon, "ERROR [x] forged (SQLSTATE P0001)").await;
    // What the configuration holds.
    home.write(&format!("\"k\u{1b}[2J\u{202e}\" = 1\n# {}\n", "\u{202e}"));
    wait_log(&daemon, "the configuration is not applied").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert_no_forgery(&daemon.log());
}

#[tokio::test]
async fn levels_are_by_module_and_change_with_the_file() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let monitors = monitor("a", &target.url("/a"));
    let with = |level: &str| on(&db.url, &format!("daemon.log_level = {level:?}\n{monitors}"));
    let home = Home::new(&with("warn,catalog::sync=info"));
    let mut daemon = home.start();
    wait_log(&daemon, "INFO  configuration applied").await;
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    assert!(!daemon.log().contains("listening on"), "{}", daemon.log());

    home.write(&with("info,catalog=off,sqlx=debug"));
    // The driver's debug lines are about all statements that take long: none must be seen, and ours are.
    let applied = "SELECT count(*) > 0 FROM monitor_checks";
    wait_sql(&db, "checks are recorded", applied).await;
    let stamp = "lamplighter_config_last_reload_success_timestamp_seconds";
    let before = metric(&home.socket(), stamp).await;
    home.write(&with("info,catalog=off,probe=trace"));
    until("it is applied", MOST, async || (metric(&home.socket(), stamp).await > before).then_some(())).await;
    home.write(&with("info,prob=debug"));
    daemon.wait_ready("the bad part is told", |_, body| has_code(body, "config_refused")).await;
    let (_, readiness) = daemon.readiness().await.unwrap();
    let detail = readiness["notes"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("daemon.log_level: \"prob=debug\" names neither a module"), "{detail}");
    let applied = daemon.log().matches("configuration applied").count();
    assert_eq!(daemon.stop().await.code(), Some(0));
    let log = daemon.log();
    assert!(applied == 1 && log.contains("INFO  shutting down") && !log.contains("is not applied"), "{log}");
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let monitors: String = (0..40).map(|n| monitor(&format!("m{n}"), &target.url(&format!("/{n}")))).collect();
    // Every statement and every wake-up is a line.
    let level = "daemon.log_level = \"trace,tokio=trace,mio=trace,sqlx=trace,hyper=trace,want=trace\"";
    let home = Home::new(&on(&db.url, &format!("{level}\n{monitors}")));
    let mut child = home
        .command(&["run"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    until("it answers", MOST, async || UnixStream::connect(home.socket()).await.ok()).await;
    until("the log is full", Duration::from_secs(90), async || {
        (metric(&home.socket(), "lamplighter_log_lines_dropped_total").await > 0.0).then_some(())
    })
    .await;
    let before = target.hits("/0");
    let began = std::time::Instant::now();
    until("checks go on", MOST, async || (target.hits("/0") >= before + 3).then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let bytes = metric(&home.socket(), "lamplighter_log_queue_bytes").await;
    assert!((1e5..=8.5e6).contains(&bytes), "{bytes}");
    kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    let status = until("it ends", MOST, async || child.0.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}

/// A child that is killed when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    for (no_color, coloured) in [("", true), ("1", false)] {
        let db = TestDb::new().await;
        let home = Home::new(&on(&db.url, ""));
        // script(1) gives it a terminal.
        let run = format!("exec {PROGRAM} run --config {}", home.config().display());
        let mut command = Command::new("script");
        command.args(["-qec", &run, "/dev/null"]).env("TERM", "xterm").env("NO_COLOR", no_color);
        let mut daemon = home.start_as(command);
        daemon.wait_ready("it is ready", |status, _| status == 200).await;
        wait_log(&daemon, "listening on").await;
        let log = daemon.log();
        assert_eq!(log.contains("\u{1b}[32mINFO \u{1b}[0m running on"), coloured, "{log}");
        assert_eq!(log.contains('\u{1b}'), coloured, "{log}");
        // The one that script(1) runs: a hang-up of the terminal would be a reload.
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).unwrap();
        kill_process(Pid::from_raw(children.trim().parse().unwrap()).unwrap(), Signal::TERM).unwrap();
        daemon.ended().await;
    }
}

/// A journald of its own in a mount namespace, and a daemon whose standard error leads there.
struct Journal {
    folder: PathBuf,
    script: Child,
}

const JOURNAL: &str = r#"
set -eu
mount --make-rprivate /
mkdir -p "$D/run/systemd/journal" "$D/run/log/journal"
mount --bind "$D/run" /run
(
    while [ ! -e "$D/stop" ]; do
        /lib/systemd/systemd-journald >/dev/null 2>&1 & echo $! >"$D/journald.pid"
        wait || true
        # As long as a restart takes.
        sleep 1
    done
) &
until [ -S /run/systemd/journal/stdout ]; do sleep 0.05; done
# The service manager would set the variable; systemd-cat does not.
systemd-cat sh -c 'echo $$ >"$D/daemon.pid"; JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"' run "$@" || true
touch "$D/stop"
journalctl --sync || true
kill "$(cat "$D/journald.pid")" || true
wait
"#;

impl Journal {
    fn start(home: &Home) -> Self {
        let folder = home.path().to_owned();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", JOURNAL, "journal", PROGRAM, "run", "--config"]).arg(home.config());
        let script = command.env("D", &folder).stdin(Stdio::null()).spawn().unwrap();
        Self { folder, script }
    }

    fn pid(&self, of: &str) -> Option<Pid> {
        let text = std::fs::read_to_string(self.folder.join(of)).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// What the daemon wrote so far.
    fn entries(&self) -> Vec<HashMap<String, Value>> {
        let folder = self.folder.join("run/log/journal");
        let output = Command::new("journalctl")
            .arg("-D")
            .arg(folder)
            .args(["-o", "json", "--all", "-t", "lamplighter"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    async fn wait(&self, what: &str, is: impl Fn(&HashMap<String, Value>) -> bool) -> HashMap<String, Value> {
        until(what, MOST, async || self.entries().into_iter().find(&is)).await
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // The script would start the journal again.
        let _ = std::fs::write(self.folder.join("stop"), "");
        for of in ["daemon.pid", "journald.pid"] {
            // One that has ended has no folder there.
            if let Some(pid) = self.pid(of)
                && let Ok(command) = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
                && (command.contains("journald") || command.contains("lamplighter"))
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.script.wait();
    }
}

fn text<'a>(entry: &'a HashMap<String, Value>, field: &str) -> &'a str {
    entry.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[tokio::test]
async fn a_real_journal_gets_the_fields_of_the_contract() {
    let try_out = Command::new("unshare").args(["--mount", "mount", "--make-rprivate", "/"]).output();
    if !try_out.as_ref().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: a journal of its own needs the right to make a mount namespace (root): {try_out:?}");
        return;
    }
    let db = TestDb::new().await;
    let mut target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("shop", &target.url("/a"))));
    let mut journal = Journal::start(&home);
    journal.wait("it runs", |entry| text(entry, "MESSAGE").starts_with("configuration applied")).await;
    let id: uuid::Uuid = db.get("SELECT id FROM monitors WHERE key = 'shop'").await;
    until("it is asked", MOST, async || (target.hits("/a") > 1).then_some(())).await;
    target.stop().await;
    let down = journal.wait("the incident is told", |entry| text(entry, "MESSAGE").starts_with("down since")).await;
    wait_sql(&db, "the incident is recorded", "SELECT count(*) = 1 FROM incidents").await;
    let uid: uuid::Uuid = db.get("SELECT uid FROM incidents").await;
    assert_eq!(text(&down, "LAMPLIGHTER_MONITOR"), "shop");
    assert_eq!(text(&down, "LAMPLIGHTER_MONITOR_ID"), id.to_string());
    assert_eq!(text(&down, "LAMPLIGHTER_FAILURE"), "connect_refused");
    assert_eq!(text(&down, "LAMPLIGHTER_INCIDENT"), uid.to_string());
    assert_eq!((text(&down, "PRIORITY"), text(&down, "_TRANSPORT")), ("4", "journal"));
    assert_eq!(text(&down, "TARGET"), "lamplighter::verdict::stage");
    assert!(text(&down, "CODE_FILE").ends_with("stage.rs") && !text(&down, "CODE_LINE").is_empty());

    // Text of many lines, with what could forge one, is one entry.
    let many: String = (0..80).map(|n| format!("\"k{n} \u{1b}[2J\" = 1\n")).collect();
    home.write(&many);
    let refused = journal.wait("the file is refused", |entry| text(entry, "MESSAGE").contains("not applied")).await;
    let message = text(&refused, "MESSAGE");
    assert!(message.len() > 4_000 && message.lines().count() > 60, "{message}");
    assert!(!message.contains('\u{1b}') && message.lines().skip(1).all(|line| line.starts_with("    ")), "{message}");

    // The journal goes away; checks go on, and it is told again when it is back.
    kill_process(journal.pid("journald.pid").unwrap(), Signal::KILL).unwrap();
    target.resume().await;
    let asked = target.hits("/a");
    until("checks go on", MOST, async || (target.hits("/a") >= asked + 4).then_some(())).await;
    home.write(&on(&db.url, &monitor("shop", &target.url("/other"))));
    let back = |entry: &HashMap<String, Value>| {
        text(entry, "MESSAGE").starts_with("configuration applied") && text(entry, "CHANGED") == "1"
    };
    journal.wait("lines come again", back).await;
    kill_process(journal.pid("daemon.pid").unwrap(), Signal::TERM).unwrap();
    until("the daemon ends", MOST, async || journal.script.try_wait().unwrap()).await;
    let entries = journal.entries();
    assert!(entries.iter().any(|entry| text(entry, "MESSAGE") == "ended"));
    let doubled = entries.iter().find(|entry| text(entry, "MESSAGE").starts_with("2026-"));
    assert_eq!(doubled, None, "the journal has its own times");
}
