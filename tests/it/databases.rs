//! The kinds redis, postgres and mysql against the real servers; what no server of Debian does is in the modules.

use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use lamplighter::model::{Observation, Secret};
use lamplighter::probe::net::Net;
use lamplighter::verdict::judge::judge;
use lamplighter::verdict::redact::Redactor;
use serde_json::{Value, json};

use crate::support::databases::{MARIA_CONNECTIONS, Maria, Postgres, REDIS_CLIENTS, Redis, Trust};
use crate::support::probing::{attempt, net, net_with, phases, prepare};

mod hostile;
mod scripted_mongodb;
mod scripted_mysql;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(1);

/// A monitor with a password, and other keys.
fn monitor(url: &str, password: &str, more: &Value) -> Value {
    let mut monitor = json!({ "url": url });
    if !password.is_empty() {
        monitor["auth"] = json!({ "basic": { "password": password } });
    }
    for (key, value) in more.as_object().into_iter().flatten() {
        monitor[key] = value.clone();
    }
    monitor
}

/// What a check finds and says, and what it saw. No password is ever in it.
async fn judged(net: &Net, monitor: &Value, timeout: Duration) -> (Option<Failure>, String, Observation) {
    let prepared = prepare(monitor);
    let seen = attempt(net, &prepared, monitor, timeout).await;
    let raw = seen.fault.as_ref().map(|fault| fault.message.clone()).unwrap_or_default();
    if let Some(password) = monitor["auth"]["basic"]["password"].as_str() {
        assert!(!raw.contains(password), "{raw}");
    }
    let judgement = judge(&seen, &prepared.expect, &Redactor::new(&[Secret::new("unrelated".to_owned())]));
    (judgement.failure, judgement.message.unwrap_or_default().into(), seen)
}

/// Address, password, other keys, failure, and a part of the sentence.
type Row = (String, &'static str, Value, Option<Failure>, &'static str);

async fn all_hold(rows: Vec<Row>, net: &Net) {
    let runs = rows.into_iter().map(|(url, password, more, failure, part)| async move {
        let monitor = monitor(&url, password, &more);
        let timeout = if failure == Some(ResponseTimeout) { SHORT } else { LONG };
        let (found, message, seen) = judged(net, &monitor, timeout).await;
        assert_eq!(found, failure, "{monitor}: {message}");
        assert!(message.contains(part), "{monitor}: {message}");
        if failure.is_none() {
            let tls: &[&str] = if seen.certificate.is_some() { &["tls"] } else { &[] };
            let wanted = [&["connect"], tls, &["send", "wait", "receive"]].concat();
            assert_eq!(phases(&seen), wanted, "{monitor}");
        }
    });
    futures_util::future::join_all(runs).await;
}

fn detail(seen: &Observation, name: &str) -> String {
    let mut facts = seen.details.as_deref().unwrap().iter();
    facts.find(|(own, _)| *own == name).and_then(|(_, value)| value.as_str()).unwrap_or_default().to_owned()
}

/// Waits until a check ends so.
async fn becomes(net: &Net, monitor: &Value, wanted: Failure, part: &str) {
    let begin = std::time::Instant::now();
    loop {
        let (found, message, _) = judged(net, monitor, LONG).await;
        if found == Some(wanted) && message.contains(part) {
            return;
        }
        assert!(begin.elapsed() < LONG, "{monitor}: {found:?} {message}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_real_redis() {
    let trust = Trust::new();
    let redis = Redis::start(&trust).await;
    let net = net_with(([127, 0, 0, 1], 9).into(), vec![trust.ca_file()]);
    let url = |rest: &str| format!("redis://{}{rest}", redis.plain);
    let reader = || format!("redis://reader@{}", redis.plain);
    let tls = format!("rediss://{}", redis.tls);
    let none = || json!({});
    let query = |query: &str, value: Value| json!({ "query": query, "expect": { "value": value } });
    let all = "pass-word";
    // Things to ask for, by the door that the probe itself is.
    for command in
        ["RPUSH jobs 7 8 9", "SET word hello", "EVAL \"redis.call('SET','big',string.rep('x',200000)) return 1\" 0"]
    {
        let (found, message, _) = judged(&net, &monitor(&url(""), all, &json!({ "query": command })), LONG).await;
        assert_eq!(found, None, "{message}");
    }
    let rows: Vec<Row> = vec![
        (url(""), all, none(), None, ""),
        (url("/3"), all, none(), None, ""),
        (reader(), "reader-password", none(), None, ""),
        (tls.clone(), all, json!({ "expect": { "certificate_days_left": 5 } }), None, ""),
        (url(""), "wrong-word", none(), Some(QueryFailed), "WRONGPASS invalid username-password pair"),
        (url(""), "", none(), Some(QueryFailed), "set auth.basic.password"),
        (format!("redis://nobody@{}", redis.plain), all, none(), Some(QueryFailed), "check auth.basic"),
        (url("/99"), all, none(), Some(QueryFailed), "refused SELECT with \"ERR DB index is out of range\""),
        (format!("redis://nothing@{}", redis.plain), "nothing-password", none(), Some(QueryFailed), "NOPERM"),
        (
            reader(),
            "reader-password",
            query("SET jobs 1", json!("OK")),
            Some(QueryFailed),
            "give its user the permission",
        ),
        (reader(), "reader-password", query("LLEN jobs", json!({ "below": 10 })), None, ""),
        (url(""), all, query("LLEN jobs", json!(3)), None, ""),
        (
            url(""),
            all,
            query("LLEN jobs", json!({ "below": 3 })),
            Some(QueryFailed),
            "gave \"3\", expected a number below 3",
        ),
        (url(""), all, query("LRANGE jobs 0 -1", json!("7")), None, ""),
        (url(""), all, query("LRANGE none 0 -1", json!("7")), Some(QueryFailed), "the query gave nothing"),
        (url(""), all, query("GET none", json!("x")), Some(QueryFailed), "no value (null)"),
        (url(""), all, query("GET word", json!({ "matches": "^hel" })), None, ""),
        (url(""), all, query("GET 'a b' c", json!("x")), Some(QueryFailed), "wrong number of arguments"),
        (url(""), all, json!({ "query": "GET big" }), Some(QueryFailed), "let the query ask for less"),
        (url(""), all, json!({ "query": "BLPOP never 0" }), Some(ResponseTimeout), "its reply to the query"),
    ];
    all_hold(rows, &net).await;

    let plain_net = self::net();
    let rows: Vec<Row> = vec![
        (tls.clone(), all, none(), Some(CertUntrusted), ""),
        (tls.clone(), all, json!({ "tls": { "verify": false } }), None, ""),
    ];
    all_hold(rows, &plain_net).await;

    let mut held = Vec::new();
    for _ in 0..REDIS_CLIENTS {
        held.push(tokio::net::TcpStream::connect(redis.plain).await.unwrap());
    }
    becomes(&net, &monitor(&url(""), all, &none()), QueryFailed, "raise maxclients there").await;
}

#[tokio::test]
async fn a_real_postgres() {
    let trust = Trust::new();
    let postgres = Postgres::start(&trust).await;
    let net = net_with(([127, 0, 0, 1], 9).into(), vec![trust.ca_file()]);
    let url = |rest: &str| format!("postgres://{rest}").replace('@', &format!("@{}", postgres.address));
    let query = |query: &str, value: Value| json!({ "query": query, "expect": { "value": value } });
    let tls = || json!({ "tls": {} });
    let none = || json!({});
    let scram = "scram-password";
    let shop = || url("scram@/shop");
    let rows: Vec<Row> = vec![
        (shop(), scram, none(), None, ""),
        (url("clear@/shop"), "clear-password", none(), None, ""),
        (url("digest@/shop"), "digest-password", none(), None, ""),
        (url("postgres@"), "", none(), None, ""),
        (shop(), scram, json!({ "tls": {}, "expect": { "certificate_days_left": 5 } }), None, ""),
        (url("covered@/shop"), "covered-password", tls(), None, ""),
        (url("covered@/shop"), "covered-password", none(), Some(QueryFailed), "look at pg_hba.conf"),
        (shop(), "wrong-word", none(), Some(QueryFailed), "(28P01): check auth.basic"),
        (url("digest@/shop"), "wrong-word", none(), Some(QueryFailed), "(28P01): check auth.basic"),
        (url("clear@/shop"), "wrong-word", none(), Some(QueryFailed), "(28P01): check auth.basic"),
        (shop(), "", none(), Some(QueryFailed), "wants a password of user \"scram\""),
        (url("nobody@/shop"), scram, none(), Some(QueryFailed), "(28P01)"),
        (url("stranger@/shop"), scram, none(), Some(QueryFailed), "(28000): look at pg_hba.conf"),
        (url("rejected@/shop"), "rejected-password", none(), Some(QueryFailed), "(28000)"),
        (url("scram@/none"), scram, none(), Some(QueryFailed), "(3D000): name an existing database"),
        (url("scram@/closed"), scram, none(), Some(QueryFailed), "(42501): grant its user the right"),
        (url("crowded@/shop"), "crowded-password", none(), Some(QueryFailed), "(53300)"),
        (
            url("scram@/postgres"),
            scram,
            query("SELECT * FROM secrets", json!(1)),
            Some(QueryFailed),
            "permission denied for table",
        ),
        (shop(), scram, query("SELECT 41 + 1", json!(42)), None, ""),
        (shop(), scram, query("SELECT 1 = 1", json!(true)), None, ""),
        (
            shop(),
            scram,
            query("SELECT pg_is_in_recovery()", json!({ "not_equals": false })),
            Some(QueryFailed),
            "gave \"f\", expected anything but false",
        ),
        (shop(), scram, query("SELECT 5, 6 UNION SELECT 7, 8 ORDER BY 1", json!({ "above": 4.5 })), None, ""),
        (
            shop(),
            scram,
            query("SELECT 5", json!({ "above": 5 })),
            Some(QueryFailed),
            "gave \"5\", expected a number above 5",
        ),
        (shop(), scram, query("SELECT 'Zürich'", json!("Zürich")), None, ""),
        (shop(), scram, query("SELECT NULL", json!("x")), Some(QueryFailed), "gave no value (null)"),
        (shop(), scram, query("SELECT 1 WHERE false", json!(1)), Some(QueryFailed), "gave nothing"),
        (shop(), scram, query("SET search_path = public", json!(1)), Some(QueryFailed), "gave nothing"),
        (shop(), scram, query("  -- no statement", json!(1)), Some(QueryFailed), "gave nothing"),
        (shop(), scram, json!({ "query": "SELEC 1" }), Some(QueryFailed), "refused the query with \"syntax error"),
        (shop(), scram, json!({ "query": "SELECT 'scram-password'::int" }), Some(QueryFailed), "[secret]"),
        (
            shop(),
            scram,
            json!({ "query": "SELECT 1/(g-3) FROM generate_series(1,5) g" }),
            Some(QueryFailed),
            "division by zero",
        ),
        (shop(), scram, json!({ "query": "COPY pg_class FROM STDIN" }), Some(QueryFailed), ""),
        (
            shop(),
            scram,
            json!({ "query": "CREATE TEMP TABLE t (x int); COPY t FROM STDIN" }),
            Some(QueryFailed),
            "waits for data",
        ),
        (shop(), scram, query("COPY (SELECT 1) TO STDOUT", json!(1)), Some(QueryFailed), "gave nothing"),
        (
            shop(),
            scram,
            json!({ "query": "SELECT repeat('x', 300000)" }),
            Some(QueryFailed),
            "let the query select less",
        ),
        (
            shop(),
            scram,
            json!({ "query": "SELECT repeat('x', 1000) FROM generate_series(1, 1000)" }),
            Some(QueryFailed),
            "let the query select less",
        ),
        (shop(), scram, json!({ "query": "SELECT pg_sleep(60)" }), Some(ResponseTimeout), "within the timeout"),
        (
            shop(),
            scram,
            json!({ "query": "SELECT pg_terminate_backend(pg_backend_pid())" }),
            Some(QueryFailed),
            "(57P01)",
        ),
    ];
    all_hold(rows, &net).await;

    let (_, _, seen) = judged(&net, &monitor(&shop(), scram, &none()), LONG).await;
    let version = detail(&seen, "server_version");
    assert!(version.starts_with(char::is_numeric), "{version}");
    let long = monitor(&shop(), scram, &json!({ "query": "SELECT repeat('ä', 9999)" }));
    let lamplighter::model::Answer::Value(value) = judged(&net, &long, LONG).await.2.value.unwrap() else { panic!() };
    assert_eq!(&*value, "ä".repeat(2048));

    let plain_net = self::net();
    let rows: Vec<Row> = vec![
        (shop(), scram, tls(), Some(CertUntrusted), ""),
        (shop(), scram, json!({ "tls": { "verify": false } }), None, ""),
    ];
    all_hold(rows, &plain_net).await;

    postgres.let_expire(&trust);
    becomes(&net, &monitor(&shop(), scram, &tls()), CertExpired, "").await;

    let mut admin = postgres.connect().await.unwrap();
    sqlx::query("ALTER SYSTEM SET log_min_messages = error").execute(&mut admin).await.unwrap();
    postgres.wind_down();
    becomes(&net, &monitor(&shop(), scram, &none()), QueryFailed, "(57P03): it starts, stops or recovers").await;
}

#[tokio::test]
async fn a_real_mariadb() {
    let trust = Trust::new();
    let maria = Maria::start(&trust).await;
    let net = net_with(([127, 0, 0, 1], 9).into(), vec![trust.ca_file()]);
    let url = |rest: &str| format!("mysql://{rest}").replace('@', &format!("@{}", maria.address));
    let query = |query: &str, value: Value| json!({ "query": query, "expect": { "value": value } });
    let none = || json!({});
    let tls = || json!({ "tls": {} });
    let native = "native-password";
    let shop = || url("native@/shop");
    let rows: Vec<Row> = vec![
        (shop(), native, none(), None, ""),
        (url("native@"), native, none(), None, ""),
        (url("bare@"), "", none(), None, ""),
        (shop(), native, json!({ "tls": {}, "expect": { "certificate_days_left": 5 } }), None, ""),
        (url("covered@"), "covered-password", tls(), None, ""),
        (url("covered@"), "covered-password", none(), Some(QueryFailed), "(1045)"),
        (shop(), "wrong-word", none(), Some(QueryFailed), "(1045): check auth.basic"),
        (shop(), "", none(), Some(QueryFailed), "using password: NO"),
        (url("nobody@/shop"), native, none(), Some(QueryFailed), "(1045)"),
        (
            url("edwards@"),
            "edwards-password",
            none(),
            Some(QueryFailed),
            "log in by \"client_ed25519\", not spoken here",
        ),
        (url("native@/none"), native, none(), Some(QueryFailed), "(1044): grant its user the right"),
        (url("native@/closed"), native, none(), Some(QueryFailed), "(1044): grant its user the right"),
        (shop(), native, query("SELECT 41 + 1", json!(42)), None, ""),
        (shop(), native, query("SELECT TRUE", json!(true)), None, ""),
        (shop(), native, query("SELECT 5, 6 UNION SELECT 7, 8", json!({ "above": 4.5 })), None, ""),
        (
            shop(),
            native,
            query("SELECT 5", json!({ "above": 5 })),
            Some(QueryFailed),
            "gave \"5\", expected a number above 5",
        ),
        (shop(), native, query("SELECT 'Zürich'", json!("Zürich")), None, ""),
        (shop(), native, query("SELECT ''", json!("")), None, ""),
        (shop(), native, query("SELECT NULL", json!("x")), Some(QueryFailed), "gave no value (null)"),
        (shop(), native, query("SELECT 1 FROM wide WHERE 1 = 0", json!(1)), Some(QueryFailed), "gave nothing"),
        (shop(), native, query("SET @x = 1", json!(1)), Some(QueryFailed), "gave nothing"),
        (shop(), native, json!({ "query": "SELECT LEFT(x, 60000) FROM wide LIMIT 2" }), None, ""),
        (shop(), native, json!({ "query": "SELEC 1" }), Some(QueryFailed), "(1064)"),
        (shop(), native, json!({ "query": "SELECT 1; SELECT 2" }), Some(QueryFailed), "(1064)"),
        (shop(), native, json!({ "query": "DELETE FROM wide" }), Some(QueryFailed), "(1142): grant its user the right"),
        (shop(), native, json!({ "query": "SELEC 'native-password'" }), Some(QueryFailed), "[secret]"),
        (shop(), native, json!({ "query": "SELECT x FROM wide" }), Some(QueryFailed), "let the query select less"),
        (
            shop(),
            native,
            json!({ "query": "SELECT REPEAT('x', 300000)" }),
            Some(QueryFailed),
            "let the query select less",
        ),
        (shop(), native, json!({ "query": "SELECT SLEEP(60)" }), Some(ResponseTimeout), "within the timeout"),
    ];
    all_hold(rows, &net).await;

    let (_, _, seen) = judged(&net, &monitor(&shop(), native, &none()), LONG).await;
    let version = detail(&seen, "server_version");
    assert!(version.contains("MariaDB"), "{version}");

    let plain_net = self::net();
    let rows: Vec<Row> = vec![
        (shop(), native, tls(), Some(CertUntrusted), ""),
        (shop(), native, json!({ "tls": { "verify": false } }), None, ""),
    ];
    all_hold(rows, &plain_net).await;

    let mut held = Vec::new();
    // One place more is kept for an administrator.
    for _ in 0..=MARIA_CONNECTIONS {
        held.push(tokio::net::TcpStream::connect(maria.address).await.unwrap());
    }
    becomes(&net, &monitor(&shop(), native, &none()), QueryFailed, "raise max_connections there").await;
}
