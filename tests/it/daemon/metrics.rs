//! `/metrics`: what promtool says of it, and whether its figures are those of the database and of the target.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::{MOST, insert, monitor, on};
use crate::support::daemon::{Answer, Home, ask};
use crate::support::postgres::{OwnPostgres, TestDb};
use crate::support::target::{Target, until};

/// Runs Prometheus's own tool on a text; what it says, and whether it was content.
pub(super) fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of Debian's package prometheus is needed; tests/run installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

/// Scrapes over the socket; samples by their text up to the value.
async fn scrape(home: &Home) -> HashMap<String, f64> {
    let answer = ask(UnixStream::connect(home.socket()).await.unwrap(), "GET", "/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    let parsed = samples.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    let list: Vec<(String, f64)> = parsed.collect();
    let (count, map) = (list.len(), list.into_iter().collect::<HashMap<_, _>>());
    assert_eq!(map.len(), count, "a series is there twice");
    map
}

/// The sum of a family's samples.
fn sum(samples: &HashMap<String, f64>, prefix: &str) -> f64 {
    samples.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
}

/// Waits until a sample has a value.
async fn wait(home: &Home, name: &str, wanted: f64) {
    let what = format!("{name} is {wanted}");
    until(&what, MOST, async || (scrape(home).await.get(name) == Some(&wanted)).then_some(())).await;
}

async fn get(address: &str, method: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).await.unwrap();
    let request = format!("{method} /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn figures_are_those_of_the_database_and_of_the_target() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let monitors = |active: &str| {
        let web = ["/a", "/b"].map(|path| monitor(&path[1..], &target.url(path)) + active);
        // Nothing listens there.
        format!("{}{}{active}", web.concat(), monitor("port", "tcp://127.0.0.1:1"))
    };
    let home = Home::new(&on(&db.url, &monitors("")));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    daemon.wait_status("port", "down").await;
    until("there are some checks", MOST, async || (target.hits("/a") >= 3).then_some(())).await;
    let samples = scrape(&home).await;
    let of = |name: &str| samples.iter().find(|(sample, _)| sample.starts_with(name)).map(|(_, value)| *value);
    assert_eq!(of("lamplighter_monitor_up{monitor=\"a\""), Some(1.0));
    assert_eq!(of("lamplighter_monitor_up{monitor=\"port\""), Some(0.0));
    assert_eq!(samples["lamplighter_incidents_open"], 1.0);
    assert_eq!(samples["lamplighter_monitors{source=\"file\",status=\"up\"}"], 2.0);
    assert!(samples["process_resident_memory_bytes"] > 1e6 && samples["process_open_fds"] > 5.0);
    let now = chrono::Utc::now().timestamp() as f64;
    for stamp in ["lamplighter_start_timestamp_seconds", "lamplighter_lease_renewed_timestamp_seconds"] {
        assert!((now - samples[stamp]).abs() < 60.0, "{stamp}: {}", samples[stamp]);
    }

    home.write(&on(&db.url, &monitors("active = false\n")));
    wait(&home, "lamplighter_monitors{source=\"file\",status=\"paused\"}", 3.0).await;
    wait(&home, "lamplighter_checks_in_flight", 0.0).await;
    until("all is recorded", MOST, async || {
        let samples = scrape(&home).await;
        (samples["lamplighter_backlog_records"] + samples["lamplighter_recorder_in_hand_records"] == 0.0).then_some(())
    })
    .await;
    let samples = scrape(&home).await;
    let rows: i64 = db.get("SELECT count(*) FROM monitor_checks").await;
    assert_eq!(sum(&samples, "lamplighter_checks_total{"), rows as f64);
    assert_eq!(samples["lamplighter_recorder_checks_total"], rows as f64);
    assert_eq!(sum(&samples, "lamplighter_monitor_checks_total{"), rows as f64);
    let discarded = samples["lamplighter_checks_discarded_total"];
    assert_eq!(samples["lamplighter_checks_started_total"], rows as f64 + discarded);
    assert_eq!(samples["lamplighter_check_lateness_seconds_count"], rows as f64 + discarded);
    let http = sum(&samples, "lamplighter_checks_total{kind=\"http\"");
    let hits = target.all_answers() as f64;
    assert!(http <= hits && hits <= http + discarded, "{http} {discarded} {hits}");
    let events =
        ["opened", "resolved"].map(|event| samples[&format!("lamplighter_incidents_total{{event={event:?}}}")]);
    assert_eq!((events, samples["lamplighter_incidents_open"]), ([1.0, 1.0], 0.0));
    assert_eq!(samples["lamplighter_unrecorded_age_seconds"], 0.0);
    assert!(sum(&samples, "lamplighter_task_busy_seconds_total{") > 0.0);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_refused_file_is_told_until_it_is_good_again() {
    const SUCCESSFUL: &str = "lamplighter_config_last_reload_successful";
    const STAMP: &str = "lamplighter_config_last_reload_success_timestamp_seconds";
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let before = scrape(&home).await;
    assert_eq!(before[SUCCESSFUL], 1.0);
    let good = std::fs::read_to_string(home.config()).unwrap();
    home.write("monitors = [");
    wait(&home, SUCCESSFUL, 0.0).await;
    let bad = scrape(&home).await;
    assert_eq!(bad[STAMP], before[STAMP]);
    assert_eq!(bad["lamplighter_config_reloads_total{result=\"refused\"}"], 1.0);
    // The same as before, by the editor's undo.
    std::fs::write(home.config(), good).unwrap();
    wait(&home, SUCCESSFUL, 1.0).await;
    let after = scrape(&home).await;
    assert!(after[STAMP] > before[STAMP]);
    assert_eq!(after["lamplighter_config_reloads_total{result=\"applied\"}"], 1.0);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_store_that_is_away_is_told() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    wait(&home, "lamplighter_store_up", 1.0).await;
    until("a result is recorded", MOST, async || {
        (scrape(&home).await["lamplighter_recorder_checks_total"] > 0.0).then_some(())
    })
    .await;
    server.stop();
    wait(&home, "lamplighter_store_up", 0.0).await;
    wait(&home, "lamplighter_ready", 0.0).await;
    until("results pile up", MOST, async || {
        let samples = scrape(&home).await;
        let age = samples["lamplighter_unrecorded_age_seconds"];
        assert_eq!(samples["lamplighter_readiness_reason{code=\"store_away\",kind=\"reason\"}"], 1.0);
        (age > 2.0 && samples["lamplighter_store_write_failures_total"] > 0.0).then_some(())
    })
    .await;
    server.resume();
    wait(&home, "lamplighter_ready", 1.0).await;
    until("all is recorded", MOST, async || {
        (scrape(&home).await["lamplighter_unrecorded_age_seconds"] < 2.0).then_some(())
    })
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn prometheus_reads_it_whatever_monitors_are_called() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(
        &db.url,
        &format!("server.metrics_public = true\nserver.metrics_monitors = 3\n{}", monitor("first", &target.url("/a"))),
    ));
    let mut daemon = home.start();
    let address = daemon.address().await;
    daemon.wait_status("first", "up").await;
    // Among them two of one name: the id keeps them apart.
    for name in ["a\"} 1 \\n # \\", "\u{202e}x", "twin", "twin"] {
        insert(&db, name, &target.url("/b")).await;
    }
    wait(&home, "lamplighter_metrics_monitors_omitted", 2.0).await;

    let plain = get(&address, "GET", "").await;
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", plain.head);
    assert_eq!(promtool(&["check", "metrics"], &plain.body), (true, String::new()), "{}", plain.body);
    assert!(!plain.body.contains(['\u{1b}', '\u{202e}']));
    assert_eq!(plain.body.lines().filter(|line| line.starts_with("lamplighter_ready ")).count(), 1);
    let series = plain.body.lines().filter(|line| line.starts_with("lamplighter_monitor_info{"));
    assert_eq!(series.clone().count(), 3);
    assert!(series.clone().any(|line| line.contains("monitor=\"first\"")), "those of the file come first");

    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";
    let open = get(&address, "GET", accept).await;
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.body.ends_with("# EOF\n"));
    reads_as_openmetrics(home.path(), &open.body);

    assert_eq!(get(&address, "HEAD", "").await.body, "");
    assert_eq!(get(&address, "POST", "content-length: 0\r\n").await.status, 405);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

/// promtool's parser of this format wants a time at every sample.
fn reads_as_openmetrics(folder: &Path, body: &str) {
    let stamped =
        body.lines().map(|line| if line.starts_with('#') { line.to_owned() } else { format!("{line} 1700000000") });
    let (file, blocks) = (folder.join("openmetrics"), folder.join("blocks"));
    std::fs::write(&file, stamped.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let arguments = ["tsdb", "create-blocks-from", "openmetrics", file.to_str().unwrap(), blocks.to_str().unwrap()];
    let (good, said) = promtool(&arguments, "");
    assert!(good, "{said}\n{body}");
}

#[tokio::test]
async fn strangers_see_nothing_unless_they_may() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let mut daemon = home.start();
    let address = daemon.address().await;
    let answer = get(&address, "GET", "").await;
    assert!(answer.status == 401 && !answer.body.contains("lamplighter_build"), "{answer:?}");
    assert!(scrape(&home).await.contains_key("lamplighter_ready"));
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[test]
fn the_alert_rules_of_the_documentation_work() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let path = |name: &str| docs.join(name).display().to_string();
    let (good, said) = promtool(&["check", "rules", "--lint-fatal", &path("alerts.yml")], "");
    assert!(good, "{said}");
    let (good, said) = promtool(&["test", "rules", &path("alerts-test.yml")], "");
    assert!(good, "{said}");
}

#[tokio::test]
async fn every_series_is_documented() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    let answer = ask(UnixStream::connect(home.socket()).await.unwrap(), "GET", "/metrics").await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(docs).unwrap();
    let families = answer.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let families: Vec<&str> = families.collect();
    let missing: Vec<_> = families.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty() && families.len() > 50, "not in docs/metrics.md: {missing:?}");
    let documented = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let unknown: Vec<_> = documented.filter(|name| !families.contains(name)).collect();
    assert!(unknown.is_empty(), "in docs/metrics.md and not served: {unknown:?}");
    assert_eq!(daemon.stop().await.code(), Some(0));
}
