//! Exports of the real program, from the command line and over HTTP.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::daemon::on;
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::until;
use crate::web::{admin_token, daemon, get, token, user};

const MOST: Duration = Duration::from_secs(60);

async fn run(home: &Home, arguments: &[&str]) -> Output {
    let mut command = home.command(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Monitors, and checks of the three days up to today, `each` a monitor and day, two at the very edge of each day.
async fn history(db: &TestDb, monitors: u32, each: u32) {
    db.sql(&format!(
        "INSERT INTO monitors (user_id, name, url, is_active) \
            SELECT '00000000-0000-4000-8000-000000000001', 'm' || n, 'tcp://127.0.0.1:1', false FROM generate_series(1, {monitors}) n; \
         SELECT ensure_check_partitions(now() - interval '3 days', now()); \
         INSERT INTO monitor_checks (monitor_id, status, checked_at, error_type, status_code, response_time_ms, wait_us) \
            SELECT m.id, n % 7 <> 0, d + n * (interval '1 day' / {each}), CASE WHEN n % 7 = 0 THEN 'connect_refused' END, \
                CASE WHEN n % 2 = 0 THEN 200 END, n, n * 1000 \
            FROM monitors m, generate_series(0, {each} - 1) n, \
                generate_series(date_trunc('day', now(), 'UTC') - interval '3 days', date_trunc('day', now(), 'UTC') - interval '1 day', interval '1 day') d"
    ))
    .await;
}

/// Loads CSV as PostgreSQL reads it, and says how many rows of the table and of the file differ.
async fn differing(db: &TestDb, csv: &Path, condition: &str) -> i64 {
    let mut conn = db.pool.acquire().await.unwrap();
    sqlx::raw_sql(
        "CREATE TEMP TABLE loaded (id bigint, monitor_id uuid, monitor text, checked_at timestamptz, verdict text, status boolean, \
         error_type text, status_code integer, response_time_ms integer, attempt smallint, region text, dns_us integer, \
         connect_us integer, tls_us integer, send_us integer, wait_us integer, receive_us integer)",
    )
    .execute(&mut *conn)
    .await
    .unwrap();
    let mut copy = conn.copy_in_raw("COPY loaded FROM STDIN (FORMAT csv, HEADER)").await.unwrap();
    copy.send(std::fs::read(csv).unwrap()).await.unwrap();
    copy.finish().await.unwrap();
    let columns = "id, monitor_id, checked_at, status, error_type, status_code, response_time_ms, attempt, region, dns_us, wait_us";
    let sql = format!(
        "SELECT count(*) FROM ((SELECT {columns} FROM loaded EXCEPT ALL SELECT {columns} FROM monitor_checks WHERE {condition}) \
         UNION ALL (SELECT {columns} FROM monitor_checks WHERE {condition} EXCEPT ALL SELECT {columns} FROM loaded)) x"
    );
    let count = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *conn).await.unwrap();
    sqlx::raw_sql("DROP TABLE loaded").execute(&mut *conn).await.unwrap();
    count
}

#[tokio::test]
async fn what_is_exported_is_what_the_table_has() {
    let db = TestDb::new().await;
    history(&db, 3, 1000).await;
    db.sql("UPDATE monitors SET name = '=cmd|'' /C calc''!A0' WHERE name = 'm3'").await;
    let home = Home::new(&on(&db.url, ""));
    let file = home.path().join("checks.csv");
    let path = file.to_str().unwrap();
    let output = run(&home, &["export", "checks", "--output", path]).await;
    assert!(output.status.success(), "{}", err(&output));
    assert!(err(&output).contains("9000 checks exported"), "{}", err(&output));
    assert_eq!(differing(&db, &file, "true").await, 0);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("id,monitor_id,monitor,checked_at,verdict,status,") && text.ends_with("\r\n"));
    assert!(text.contains(",\"'=cmd|' /C calc'!A0\",") && !text.contains(",=cmd"), "a name is no formula");

    // Half-open: midnight belongs to the day that it begins.
    let day = |n: u8| format!("date_trunc('day', now(), 'UTC') - interval '{n} days'");
    let written: String = db.get(&format!("SELECT to_char(({}) AT TIME ZONE 'UTC', 'YYYY-MM-DD')", day(2))).await;
    let until: String = db.get(&format!("SELECT to_char(({}) AT TIME ZONE 'UTC', 'YYYY-MM-DD')", day(1))).await;
    let first = "(SELECT id FROM monitors WHERE name = 'm1')";
    let output =
        run(&home, &["export", "checks", "--from", &written, "--to", &until, "--monitor", "m1", "--output", path])
            .await;
    assert!(err(&output).contains("1000 checks exported"), "{}", err(&output));
    let condition = format!("checked_at >= {} AND checked_at < {} AND monitor_id = {first}", day(2), day(1));
    assert_eq!(differing(&db, &file, &condition).await, 0);

    // Lines are objects, in time order, texts to the letter.
    let output = run(&home, &["export", "checks", "--format", "ndjson", "--from", "10d ago"]).await;
    let lines: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(lines.len(), 9000);
    let place = |line: &Value| (line["checked_at"].as_str().unwrap().to_owned(), line["id"].as_i64().unwrap());
    assert!(lines.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])));
    assert!(lines.iter().any(|line| line["monitor"] == "=cmd|' /C calc'!A0"));
}

#[tokio::test]
async fn incidents_are_exported_with_what_people_wrote() {
    let db = TestDb::new().await;
    user(&db, "one@example.com").await;
    db.sql(
        "UPDATE incidents SET title = '@SUM(1)', description = E'two\\nlines, \"quoted\"', started_at = '2026-01-02 03:04:05.678901+00', \
            maintenance_id = '00000000-0000-4000-8000-00000000000b'; \
         INSERT INTO incidents (user_id, monitor_id, title, started_at, resolved_at) \
            SELECT user_id, monitor_id, 'strange', 'infinity', '-infinity' FROM incidents",
    )
    .await;
    let home = Home::new(&on(&db.url, ""));
    let output = run(&home, &["export", "incidents", "--format", "ndjson"]).await;
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{}", err(&output));
    assert_eq!((&lines[0]["title"], &lines[0]["evidence"]), (&"@SUM(1)".into(), &serde_json::json!({ "x": 1 })));
    assert_eq!(lines[0]["started_at"], "2026-01-02T03:04:05.678901Z");
    assert_eq!(lines[0]["maintenance_id"], "00000000-0000-4000-8000-00000000000b");
    assert_eq!((&lines[1]["title"], &lines[1]["resolved_at"]), (&"strange".into(), &Value::Null));
    let output = run(&home, &["export", "incidents", "--to", "2026-01-03"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(",\"'@SUM(1)\",\"two\nlines, \"\"quoted\"\"\",") && !text.contains("strange"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_exported_is_told() {
    let db = TestDb::new().await;
    user(&db, "one@example.com").await;
    db.sql("UPDATE monitors SET name = 'twin'").await;
    let home = Home::new(&on(&db.url, ""));
    for (arguments, code, word) in [
        (&["--monitor", "nobody"] as &[&str], 64, "no monitor \"nobody\""),
        (&["--monitor", "twin"], 64, "2 monitors are called \"twin\""),
        (&["--from", "2026-01-02", "--to", "2026-01-01"], 64, "after"),
        (&["--from", "yesterday"], 64, "how long ago"),
        (&["--format", "xml"], 64, "csv"),
        (&["--output", "/dev/null"], 1, "not a regular file"),
    ] {
        let output = run(&home, &[&["export", "checks"], arguments].concat()).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(output.stdout.is_empty() && err(&output).contains(word), "{arguments:?}: {}", err(&output));
    }
    let embedded = Home::new("");
    std::fs::create_dir_all(embedded.state()).unwrap();
    for what in [&["export", "checks"] as &[&str], &["export"]] {
        let output = run(&embedded, what).await;
        assert_eq!(output.status.code(), Some(69), "{}", err(&output));
        assert!(err(&output).contains("only while the daemon does"), "{}", err(&output));
    }
}

#[tokio::test]
async fn memory_does_not_grow_with_the_rows() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let file = home.path().join("x.csv");
    let mut peaks = Vec::new();
    for (each, rows) in [(1_000, 30_000), (10_000, 300_000)] {
        db.sql("DELETE FROM monitors").await;
        history(&db, 10, each).await;
        let mut child = home.command(&["export", "checks", "--output", file.to_str().unwrap()]);
        let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        // The kernel keeps the peak; the last look before the end has nearly all of it.
        let peak = tokio::task::spawn_blocking(move || {
            let mut peak_kib = 0;
            while child.try_wait().unwrap().is_none() {
                let text = std::fs::read_to_string(&status).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
                peak_kib = peak_kib.max(kib.unwrap_or(0));
                std::thread::sleep(Duration::from_millis(2));
            }
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert!(child.wait().unwrap().success() && said.contains(&format!("{rows} checks exported")), "{said}");
            peak_kib
        });
        peaks.push(peak.await.unwrap());
    }
    println!("peak memory, KiB: 30,000 rows {}, 300,000 rows {}", peaks[0], peaks[1]);
    assert!(peaks[0] > 0 && peaks[1] < peaks[0] + 8 * 1024, "{peaks:?}");
}

#[tokio::test]
async fn an_export_shows_one_moment_and_holds_up_nobody() {
    let db = TestDb::new().await;
    history(&db, 10, 2_000).await;
    let home = Home::new(&on(&db.url, ""));
    let mut child = home.command(&["export", "checks", "--format", "ndjson"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    // The pipe is full by now or soon: it waits for us, in the first of three days.
    db.sql(
        "INSERT INTO monitor_checks (monitor_id, status, checked_at, region) \
         SELECT id, true, date_trunc('day', now(), 'UTC') - interval '1 minute', 'later' FROM monitors",
    )
    .await;
    let day: String = db.get("SELECT to_char((now() - interval '2 days') AT TIME ZONE 'UTC', 'YYYYMMDD')").await;
    let drop = format!("SET lock_timeout = '2s'; DROP TABLE monitor_checks_{day}");
    until("a day can be dropped meanwhile", MOST, async || {
        let mut conn = db.pool.acquire().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(drop.clone())).execute(&mut *conn).await.ok()
    })
    .await;
    let rest: Vec<String> = tokio::task::spawn_blocking(move || lines.map(Result::unwrap).collect()).await.unwrap();
    assert!(child.wait().unwrap().success());
    let all: Vec<Value> = [first].iter().chain(&rest).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(all.iter().all(|row| row["region"] != "later"), "rows of after its beginning are not in it");
    // What was dropped before its turn is not there; the days around it are whole.
    let of = |n: u8| {
        let all = &all;
        let db = &db;
        async move {
            let sql = format!("SELECT to_char((now() - interval '{n} days') AT TIME ZONE 'UTC', 'YYYY-MM-DD')");
            let day: String = db.get(&sql).await;
            all.iter().filter(|row| row["checked_at"].as_str().unwrap().starts_with(&day)).count()
        }
    };
    assert_eq!((of(3).await, of(2).await, of(1).await), (20_000, 0, 20_000));
}

#[tokio::test]
async fn a_reader_that_has_enough_is_no_error() {
    let db = TestDb::new().await;
    history(&db, 10, 2_000).await;
    let home = Home::new(&on(&db.url, ""));
    let mut child = home.command(&["export", "checks"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut head = [0; 100];
    child.stdout.as_mut().unwrap().read_exact(&mut head).unwrap();
    drop(child.stdout.take());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()));
}

#[tokio::test]
async fn over_http_everybody_gets_their_own_rows() {
    use lamplighter::access::Scope;
    let db = TestDb::new().await;
    let ((one, _), (two, _)) = (user(&db, "one@example.com").await, user(&db, "two@example.com").await);
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let (mine, admin) = (token(&db, Scope::Read, Some("one@example.com")).await, admin_token(&home));
    for (subject, own) in [("checks", 2), ("incidents", 1)] {
        let path = format!("/api/v1/export/{subject}?format=ndjson");
        let rows = |body: &str| body.lines().filter(|line| line.starts_with('{')).count();
        let answer = get(&address, &mine, &path).await;
        assert_eq!((answer.status, rows(&answer.body)), (200, own), "{answer:?}");
        assert!(answer.head.contains("content-type: application/x-ndjson") && answer.head.contains("chunked"));
        assert!(answer.head.contains(&format!("attachment; filename=\"{subject}.ndjson\"")), "{answer:?}");
        assert!(!answer.body.contains(&two.to_string()) && answer.body.contains(&one.to_string()), "{answer:?}");
        assert_eq!(rows(&get(&address, &admin, &path).await.body), 2 * own);
        let answer = get(&address, &mine, &format!("{path}&monitor={one}")).await;
        assert_eq!((answer.status, rows(&answer.body)), (200, 1), "{answer:?}");
        assert_eq!(get(&address, &mine, &format!("{path}&monitor={two}")).await.status, 400);
        let answer = get(&address, &mine, &format!("{path}&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z")).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let csv = get(&address, &mine, &format!("/api/v1/export/{subject}")).await;
        assert!(csv.head.contains("text/csv") && csv.body.contains("id,"), "{csv:?}");
    }
}

/// Asks, and reads no more than the head.
async fn begin(address: &str, token: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).await.unwrap();
    let request = format!(
        "GET /api/v1/export/checks HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = vec![0; 64];
    stream.read_exact(&mut head).await.unwrap();
    (stream, String::from_utf8(head).unwrap())
}

#[tokio::test]
async fn exports_over_http_are_bounded_and_never_look_whole_when_they_are_not() {
    let db = TestDb::new().await;
    history(&db, 10, 10_000).await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    let begun = |head: &str| head.starts_with("HTTP/1.1 200");
    // One that waits for its reader is given up after a minute.
    let held = until("a third export is refused", MOST, async || {
        let (one, two) = (begin(&address, &token).await, begin(&address, &token).await);
        let (mut third, head) = begin(&address, &token).await;
        let refused = begun(&one.1) && begun(&two.1) && head.starts_with("HTTP/1.1 503");
        if !refused {
            return None;
        }
        let mut rest = String::new();
        third.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("too_busy"), "{head}{rest}");
        Some((one, two))
    })
    .await;
    assert_eq!(get(&address, &token, "/api/v1/monitors").await.status, 200, "others are answered");
    // Those that go away make room. The database is gone in the middle of the next.
    drop(held);
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
        AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND (query LIKE '%SAVEPOINT page%' OR query LIKE '%LATERAL%')";
    let mut two = until("an export is cut off", MOST, async || {
        let (stream, head) = begin(&address, &token).await;
        (begun(&head) && db.get::<i64>(cut).await > 0).then_some(stream)
    })
    .await;
    let mut body = Vec::new();
    // The end of a connection that is cut may be a reset.
    let _ = two.read_to_end(&mut body).await;
    assert!(body.len() > 1000 && !body.ends_with(b"0\r\n\r\n"), "{} bytes", body.len());
}

#[tokio::test]
async fn the_configuration_is_exported_as_a_file_that_watches_the_same() {
    let db = TestDb::new().await;
    db.sql(
        "INSERT INTO users (email) VALUES ('a@example.com'); \
         INSERT INTO monitors (user_id, name, url, interval_seconds, spec, tags, is_active) SELECT id, 'Shop (EU)', \
            'https://127.0.0.1:1/?token=geheim-1', 60, '{\"auth\": {\"bearer\": \"geheim-2\"}, \"expect\": {\"status\": [\"2xx\"]}}', \
            '{prod}', false FROM users WHERE email = 'a@example.com'; \
         INSERT INTO monitors (user_id, name, url) SELECT id, 'bad', 'gopher://x' FROM users WHERE email = 'a@example.com'; \
         INSERT INTO maintenances (user_id, source, key, name, starts_at, duration_seconds, rrule, timezone) SELECT id, 'database', \
            NULL, 'Patch ${NIGHT}', '2026-11-29 01:00+00', 5400, 'FREQ=WEEKLY', 'Europe/Berlin' FROM users WHERE email = 'a@example.com'; \
         INSERT INTO maintenances (user_id, name, starts_at, duration_seconds) SELECT id, 'wrong', now(), 0 FROM users",
    )
    .await;
    let slo = "[[slo]]\nid = \"prod\"\ntags = [\"prod\"]\nobjective = 99.95\nwindow = \"calendar_month\"\n";
    let home = Home::new(&on(&db.url, slo));
    let output = run(&home, &["export"]).await;
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success() && err(&output).contains("not exported") && err(&output).contains("2 secrets"));
    assert!(!text.contains("geheim") && text.contains("owner = \"a@example.com\""), "{text}");
    assert!(
        text.contains("# Other tables of the configuration, such as retention and plans, are not in it."),
        "{text}"
    );
    for lines in [
        "[[maintenance]]\nid = \"patch-night\"\nname = \"Patch $${NIGHT}\"\nstarts_at = \"2026-11-29T02:00:00+01:00\"\n\
         duration = \"1h30m\"\nrrule = \"FREQ=WEEKLY\"\ntimezone = \"Europe/Berlin\"\n",
        "[[slo]]\nid = \"prod\"\ntags = [\"prod\"]\nobjective = 99.95\nwindow = \"calendar_month\"\n",
    ] {
        assert!(text.contains(lines), "{lines}: {text}");
    }
    let wrong = format!(
        "not exported: maintenance {}",
        db.get::<uuid::Uuid>("SELECT id FROM maintenances WHERE name = 'wrong'").await
    );
    assert!(err(&output).contains(&wrong), "{}", err(&output));
    let file = home.path().join("exported.toml");
    std::fs::write(&file, &text).unwrap();
    let mut check = home.command(&["check-config", file.to_str().unwrap()]);
    check.env("LAMPLIGHTER_SHOP_EU__URL_TOKEN", "geheim-1").env("LAMPLIGHTER_SHOP_EU__AUTH_BEARER", "geheim-2");
    let output = check.output().unwrap();
    assert!(output.status.success(), "{}\n{text}", err(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 monitor (1 paused)"));
    let output = run(&home, &["export", "--format", "json"]).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["monitor"][0]["id"].as_str(), json["secrets"].as_array().unwrap().len()), (Some("shop-eu"), 2));
    assert_eq!(
        (json["maintenance"][0]["duration"].as_str(), json["slo"][0]["objective"].as_f64()),
        (Some("1h30m"), Some(99.95))
    );
    // Of the file is the objective only, and of the database everything else.
    let tables = async |source: &str| {
        let text = run(&home, &["export", "--source", source]).await.stdout;
        let text = String::from_utf8(text).unwrap();
        text.lines().filter(|line| line.starts_with("[[")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(tables("file").await, ["[[slo]]"]);
    assert_eq!(tables("database").await, ["[[monitor]]", "[[maintenance]]"]);
}
