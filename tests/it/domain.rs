//! Domains, asked of registries of ours: found, redirected, refused, slow, wrong; and how seldom they are asked.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lamplighter::model::Failure::{self, *};
use lamplighter::model::{Observation, Verdict};
use lamplighter::probe::net::{EgressOptions, Net, NetOptions};
use lamplighter::probe::{Prepared, ProbeContext};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::probing::prepare;
use crate::support::servers::http::{Act, Request, Server, answer, text};
use crate::support::servers::tls::{Authority, config, leaf_params};

const LONG: Duration = Duration::from_secs(20);

fn now() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn net(bootstrap: &str, folder: Option<&Path>, ca_files: Vec<std::path::PathBuf>) -> Net {
    let net = Net::new(NetOptions {
        resolvers: vec!["127.0.0.1:9".parse().unwrap()],
        ca_files,
        egress: EgressOptions::default(),
        user_agent: "lamplighter-test/1".to_owned(),
        max_body: 1 << 20,
    });
    let net = net.unwrap().with_rdap_bootstrap(bootstrap.to_owned());
    match folder {
        Some(folder) => net.with_rdap_folder(folder.join("rdap")),
        None => net,
    }
}

async fn check(net: &Net, prepared: &Prepared, at: DateTime<Utc>, timeout: Duration) -> Observation {
    let begin = Instant::now();
    let context = ProbeContext { net, deadline: begin + timeout, started_at: at };
    let seen = prepared.probe.probe(&context).await;
    assert!(begin.elapsed() < timeout + Duration::from_millis(900), "{:?}", begin.elapsed());
    assert!(seen.certificate.is_none(), "the registry's certificate is not the target's");
    seen
}

/// Verdict and failure, as the judge will give them.
fn told(seen: &Observation) -> Option<(Verdict, Failure)> {
    seen.fault.as_ref().map(|fault| (seen.graded.unwrap_or(fault.failure.verdict()), fault.failure))
}

fn detail(seen: &Observation, name: &str) -> Value {
    serde_json::to_value(seen.details.as_deref()).unwrap()[name].clone()
}

fn domain(expires: &str) -> Vec<Act> {
    let body = json!({ "objectClassName": "domain", "ldhName": "example.test", "status": ["active"],
        "events": [{ "eventAction": "expiration", "eventDate": expires }] });
    answer("200 OK", "Content-Type: application/rdap+json\r\n", body.to_string().as_bytes())
}

#[tokio::test]
async fn the_whole_way_and_how_seldom() {
    let folder = tempfile::tempdir().unwrap();
    let root = Authority::root("Root");
    let tls = config(&root.issue(&leaf_params(&["localhost"])), rustls::DEFAULT_VERSIONS, None);
    let status = Arc::new(AtomicU16::new(200));
    let (code, port) = (Arc::clone(&status), Arc::new(AtomicU16::new(0)));
    let own = Arc::clone(&port);
    let server = Server::start_tls_as(tls, move |request: &Request| {
        let port = own.load(Ordering::Relaxed);
        match (request.path(), code.load(Ordering::Relaxed)) {
            ("/dns.json", 200) => {
                let list = json!({ "services": [[["test"], [format!("https://localhost:{port}/rdap")]]] });
                answer("200 OK", "", list.to_string().as_bytes())
            }
            ("/rdap/domain/example.test", 200) => answer("302 Found", "Location: ../../moved?x=1\r\n", b""),
            ("/moved?x=1", 200) => domain("2026-12-25T00:00:00Z"),
            _ => answer("503 Service Unavailable", "", b""),
        }
    })
    .await;
    port.store(server.address.port(), Ordering::Relaxed);
    let net = net(
        &format!("https://localhost:{}/dns.json", server.address.port()),
        Some(folder.path()),
        vec![root.write(&folder)],
    );
    let monitor = json!({ "url": "domain:Example.test." });
    let probe = prepare(&monitor);
    let seen = check(&net, &probe, now(), LONG).await;
    assert_eq!(told(&seen), None, "{:?}", seen.fault);
    assert_eq!((detail(&seen, "days_left"), detail(&seen, "expires_at")), (json!(32), json!("2026-12-25T00:00:00Z")));
    assert_eq!(server.requests().len(), 3);
    let asked = server.requests().pop().unwrap();
    assert_eq!(asked.header("accept"), Some("application/rdap+json"));
    assert_eq!(asked.header("user-agent"), Some("lamplighter-test/1"));

    // Kept: in memory, and over restarts.
    let seen = check(&net, &probe, now() + TimeDelta::hours(23), LONG).await;
    assert_eq!((told(&seen), detail(&seen, "answer_age_s")), (None, json!(23 * 3600)));
    let restarted = prepare(&monitor);
    assert_eq!(told(&check(&net, &restarted, now() + TimeDelta::hours(1), LONG).await), None);
    assert_eq!(server.requests().len(), 3);
    // After a day all is asked anew; that is when it begins to be short.
    let later = now() + TimeDelta::days(3);
    assert_eq!(told(&check(&net, &probe, later, LONG).await), Some((Verdict::Degraded, DomainExpiring)));
    assert_eq!(server.requests().len(), 6);

    // The registry fails: the answer that there is counts on, and it is left alone for a while.
    status.store(503, Ordering::Relaxed);
    let later = later + TimeDelta::days(1);
    let seen = check(&net, &probe, later, LONG).await;
    assert_eq!(told(&seen), Some((Verdict::Degraded, DomainExpiring)));
    assert!(detail(&seen, "rdap_error").as_str().unwrap().contains("503"), "{:?}", seen.details);
    // The list that there is counts as well: two requests.
    assert_eq!(server.requests().len(), 8);
    check(&net, &probe, later + TimeDelta::seconds(299), LONG).await;
    check(&net, &prepare(&monitor), later + TimeDelta::seconds(299), LONG).await;
    assert_eq!(server.requests().len(), 8);
    check(&net, &probe, later + TimeDelta::seconds(301), LONG).await;
    assert!(server.requests().len() > 8);
    // It may have been renewed since it was told.
    let expired = check(&net, &probe, now() + TimeDelta::days(40), LONG).await;
    assert_eq!(told(&expired), Some((Verdict::Unknown, QueryFailed)), "{:?}", expired.fault);
    status.store(200, Ordering::Relaxed);
    let expired = check(&net, &probe, now() + TimeDelta::days(41), LONG).await;
    assert_eq!(told(&expired), Some((Verdict::Down, DomainExpired)), "{:?}", expired.fault);
    // A clock that was wrong does not keep an answer for ever.
    let before = server.requests().len();
    check(&net, &probe, now(), LONG).await;
    assert!(server.requests().len() > before);
}

#[tokio::test]
async fn registries_of_all_sorts() {
    let unknown = Some((Verdict::Unknown, QueryFailed));
    let plain = |status: &str, headers: &str, body: &str| answer(status, headers, body.as_bytes());
    type Row = (&'static str, Vec<Act>, Option<(Verdict, Failure)>);
    let rows: Vec<Row> = vec![
        ("good", domain("2028-01-01T00:00:00Z"), None),
        ("expiring", domain("2026-12-01T00:00:00Z"), Some((Verdict::Degraded, DomainExpiring))),
        ("expired", domain("2026-11-22T11:00:00Z"), Some((Verdict::Down, DomainExpired))),
        ("not registered", plain("404 Not Found", "", "{}"), Some((Verdict::Down, QueryFailed))),
        ("no date", plain("200 OK", "", "{\"objectClassName\":\"domain\"}"), unknown),
        ("too many", plain("429 Too Many Requests", "Retry-After: 7200\r\n", ""), unknown),
        ("forbidden", plain("403 Forbidden", "", ""), unknown),
        ("a page", plain("200 OK", "", "<html>"), unknown),
        ("another domain", plain("200 OK", "", "{\"objectClassName\":\"domain\",\"ldhName\":\"a.test\"}"), unknown),
        ("deep", plain("200 OK", "", &"[".repeat(100_000)), unknown),
        ("silent", vec![Act::Hang], unknown),
        ("half", vec![text("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), Act::Hang], unknown),
        ("cut off", vec![text("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")], unknown),
        (
            "dripping",
            vec![text("HTTP/1.1 200 OK\r\n\r\n"), Act::Drip(vec![b' '; 9000], Duration::from_millis(9))],
            unknown,
        ),
        ("huge", vec![text("HTTP/1.1 200 OK\r\n\r\n"), Act::Endless(vec![b' '; 65536])], unknown),
        ("endless head", vec![text("HTTP/1.1 200 OK\r\n"), Act::Endless(b"a: b\r\n".repeat(1000))], unknown),
        ("no HTTP", vec![text("220 mail\r\n"), Act::Hang], unknown),
        ("in circles", plain("301 Moved", "Location: /again\r\n", ""), unknown),
        ("elsewhere", plain("301 Moved", "Location: file:///etc/passwd\r\n", ""), unknown),
        (
            "metadata",
            plain("301 Moved", "Location: http://169.254.169.254/\r\n", ""),
            Some((Verdict::Down, EgressBlocked)),
        ),
        ("reset", vec![Act::Reset], unknown),
    ];
    let runs = rows.into_iter().map(|(name, acts, wanted)| async move {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(move |_| acts.clone()).await;
        let net = net("/nowhere", Some(folder.path()), Vec::new());
        let probe = prepare(&json!({ "url": "domain:example.test", "rdap": server.url("/base") }));
        let seen = check(&net, &probe, now(), Duration::from_secs(2)).await;
        assert_eq!(told(&seen), wanted, "{name}: {:?}", seen.fault);
        assert_eq!(server.requests()[0].path(), "/base/domain/example.test", "{name}");
        assert!(server.sent() < 16 << 20, "{name}");
        let asked = server.requests().len();
        // Whatever it was: nobody is asked again a minute later, nor within Retry-After.
        let soon = if name == "too many" { TimeDelta::seconds(7199) } else { TimeDelta::minutes(1) };
        let seen = check(&net, &probe, now() + soon, LONG).await;
        assert_eq!(told(&seen), wanted, "{name}: {:?}", seen.fault);
        assert_eq!(server.requests().len(), asked, "{name}");
    });
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
async fn what_is_not_found_or_not_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("dns.json");
    std::fs::write(&list, "{\"services\":[[[\"test\"],[\"http://127.0.0.1:9/\"]]]}").unwrap();
    let net = net(list.to_str().unwrap(), None, Vec::new());
    for (name, what) in [("example.other", "no RDAP server is known for .other"), ("example.test", "refused")] {
        let seen = check(&net, &prepare(&json!({ "url": format!("domain:{name}") })), now(), LONG).await;
        assert_eq!(told(&seen), Some((Verdict::Unknown, QueryFailed)), "{name}: {:?}", seen.fault);
        assert!(seen.fault.as_ref().unwrap().message.contains(what), "{:?}", seen.fault);
    }
    // Our own trouble has its own names, and costs no patience.
    let seen =
        check(&net, &prepare(&json!({ "url": "domain:a.test", "rdap": "http://rdap.test/" })), now(), LONG).await;
    assert_eq!(told(&seen), Some((Verdict::Unknown, ResolverUnavailable)), "{:?}", seen.fault);
    let missing = self::net("/nowhere/dns.json", None, Vec::new());
    let seen = check(&missing, &prepare(&json!({ "url": "domain:a.test" })), now(), LONG).await;
    assert_eq!(told(&seen), Some((Verdict::Unknown, Internal)), "{:?}", seen.fault);
}
