//! Handshakes: good ones, and every way to spoil one.

use std::cell::RefCell;

use chrono::{DateTime, Utc};
use lamplighter::model::{CertificateFacts, Fault};
use lamplighter::probe::net::{TlsOptions, tls_fault};
use lamplighter::settings::diagnostic::Findings;
use lamplighter::settings::reader::{Origin, TableReader};
use lamplighter::settings::tree::Table;
use rcgen::{BasicConstraints, IsCa, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::support::servers::tls::{Authority, Identity, RawServer, TlsServer, config, leaf_params, pem, self_signed};

const HOST: &str = "shop.test";

fn now() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// `tls = …` of a monitor, with the messages when it is wrong.
fn options(tls: serde_json::Value) -> Result<TlsOptions, Vec<String>> {
    let serde_json::Value::Object(object) = serde_json::json!({ "tls": tls }) else { unreachable!() };
    let table = Table::from_json(&object);
    let base = PathBuf::from("/");
    let origin = Origin { trusted: true, env: &|_| None, base: &base, credentials: None };
    let (findings, secrets) = (Findings::default(), RefCell::default());
    let mut reader = TableReader::new(&table, None, "", &origin, &findings, &secrets);
    let options = TlsOptions::read(&mut reader);
    let messages = findings.into_sorted().0.into_iter().map(|found| format!("{}: {}", found.key, found.what)).collect();
    options.ok_or(messages)
}

struct Seen {
    result: Result<String, Fault>,
    certificate: Option<std::sync::Arc<CertificateFacts>>,
    timings: Timings,
}

impl Seen {
    fn failure(&self) -> Option<Failure> {
        self.result.as_ref().err().map(|fault| fault.failure)
    }
}

/// Dials, shakes hands, and reads what the server says first.
async fn visit(net: &Net, address: SocketAddr, host: &str, options: &TlsOptions, ms: u64) -> Seen {
    let literal = match address {
        SocketAddr::V4(v4) => url::Host::Ipv4(*v4.ip()),
        SocketAddr::V6(v6) => url::Host::Ipv6(*v6.ip()),
    };
    let (dialled, mut timings) = dial(net, literal, address.port(), IpVersion::Any, Profile::File, 5000).await;
    let stream = dialled.map_err(|not| not.fault).unwrap().stream;
    let host = url::Host::parse(host).unwrap();
    let host = match &host {
        url::Host::Domain(name) => url::Host::Domain(name.as_str()),
        url::Host::Ipv4(ip) => url::Host::Ipv4(*ip),
        url::Host::Ipv6(ip) => url::Host::Ipv6(*ip),
    };
    let handshaken = net.handshake(stream, &host, options, now(), in_ms(ms), &mut timings).await;
    assert_eq!(phases(&timings), (false, true, true), "the phase has a time also when it failed");
    let result = match handshaken.result {
        Err(fault) => Err(fault),
        Ok(mut stream) => {
            let alpn = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
            let mut hello = [0; 5];
            match stream.read_exact(&mut hello).await {
                Ok(_) => Ok(alpn.unwrap_or_default()),
                Err(error) => Err(tls_fault(&error).unwrap_or_else(|| panic!("{error}"))),
            }
        }
    };
    Seen { result, certificate: handshaken.certificate, timings }
}

struct Room {
    folder: tempfile::TempDir,
    root: Authority,
    net: Net,
}

fn room() -> Room {
    let folder = tempfile::tempdir().unwrap();
    let root = Authority::root("Test Root");
    let net = net(&[], &[root.write(&folder)], EgressOptions::default());
    Room { folder, root, net }
}

async fn present(identity: &Identity) -> TlsServer {
    TlsServer::start(config(identity, rustls::ALL_VERSIONS, None)).await
}

#[tokio::test]
async fn a_good_chain_gives_its_facts() {
    let room = room();
    let identity = room.root.intermediate_until("Test Intermediate", 2027).issue(&leaf_params(&[HOST]));
    let server = present(&identity).await;
    let seen = visit(&room.net, server.address, HOST, &TlsOptions::default(), 5000).await;
    assert_eq!(seen.result, Ok(String::new()), "no protocol was offered");
    let facts = seen.certificate.unwrap();
    assert_eq!(facts.subject, format!("CN={HOST}"));
    assert_eq!(facts.issuer, "CN=Test Intermediate");
    assert_eq!((facts.chain_length, facts.days_left), (2, 39), "the intermediate ends on 2027-01-01");
    assert_eq!(facts.not_after.to_rfc3339(), "2040-01-01T00:00:00+00:00");
    // By the handshake that a new visitor has, each time; and as an address and with a final dot too.
    let again =
        visit(&room.net, server.address, "shop.test.", &TlsOptions::default().with_alpn(&["http/1.1"]), 5000).await;
    assert_eq!(again.result, Ok("http/1.1".to_owned()));
}

#[tokio::test]
async fn addresses_are_names_too() {
    let room = room();
    let server = TlsServer::start_on("[::1]:0", {
        config(&room.root.issue(&leaf_params(&["127.0.0.1", "::1"])), rustls::ALL_VERSIONS, None)
    })
    .await;
    for (host, wanted) in [("127.0.0.1", None), ("[::1]", None), ("127.0.0.2", Some(Failure::CertHostnameMismatch))] {
        let seen = visit(&room.net, server.address, host, &TlsOptions::default(), 5000).await;
        assert_eq!(seen.failure(), wanted, "{host}: {:?}", seen.result);
    }
}

fn critical_extension() -> rcgen::CustomExtension {
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

/// What is wrong, the chain, the failure, and a part of its sentence.
fn spoiled(room: &Room) -> Vec<(&'static str, Identity, Failure, &'static str)> {
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = leaf_params(&[HOST]);
        change(&mut params);
        params
    };
    let expired = with(&|params| params.not_after = date_time_ymd(2026, 10, 23));
    let future = with(&|params| params.not_before = date_time_ymd(2027, 1, 1));
    let issue = |params: &rcgen::CertificateParams| room.root.issue(params);
    let stranger = Authority::root("Stranger");
    let ca = with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let no_ca = with(&|params| params.is_ca = IsCa::ExplicitNoCa);
    let client_only = with(&|params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]);
    let critical = with(&|params| {
        params.custom_extensions.push(critical_extension());
    });
    let other = leaf_params(&["a.test", "b.test", "*.shop.test", "d.test"]);
    let old = room.root.intermediate_until("Old Intermediate", 2026);
    use Failure::*;
    vec![
        ("expired", issue(&expired), CertExpired, "certificate expired 30 days ago (2026-10-23)"),
        (
            "expired above",
            old.issue(&leaf_params(&[HOST])),
            CertExpired,
            "an intermediate certificate expired 325 days ago",
        ),
        ("not yet", issue(&future), CertNotYetValid, "not valid before 2027-01-01 00:00 UTC"),
        ("signs itself", self_signed(&leaf_params(&[HOST])), CertUntrusted, "signs itself"),
        ("signs itself, a CA", self_signed(&ca), CertUntrusted, "signs itself"),
        ("signs itself, no CA", self_signed(&no_ca), CertUntrusted, "signs itself"),
        ("signs itself, odd", self_signed(&critical), CertUntrusted, "signs itself"),
        ("signs itself, expired", self_signed(&expired), CertUntrusted, "signs itself"),
        ("unknown CA", stranger.issue(&leaf_params(&[HOST])), CertUntrusted, "no path leads"),
        ("unknown CA and expired", stranger.issue(&expired), CertExpired, "30 days ago"),
        ("unknown CA and another name", stranger.issue(&other), CertUntrusted, "no path leads"),
        (
            "no intermediate",
            room.root.intermediate("I").issue(&leaf_params(&[HOST])).leaf_only(),
            CertUntrusted,
            "missing",
        ),
        ("another name", issue(&other), CertHostnameMismatch, "a.test, b.test, *.shop.test, 1 more, not for shop.test"),
        ("a CA of the same name", Authority::root("Test Root").issue(&leaf_params(&[HOST])), CertUntrusted, "old name"),
        ("critical extension", issue(&critical), CertInvalid, "not acceptable"),
        ("not for servers", issue(&client_only), CertInvalid, "extended key usage"),
    ]
}

#[tokio::test]
async fn every_spoiled_chain_has_its_failure_and_its_facts() {
    let room = room();
    let unverified = options(serde_json::json!({ "verify": false })).unwrap();
    for (what, identity, failure, sentence) in spoiled(&room) {
        let server = present(&identity).await;
        let seen = visit(&room.net, server.address, HOST, &TlsOptions::default(), 5000).await;
        let fault = seen.result.expect_err(what);
        assert_eq!(fault.failure, failure, "{what}: {}", fault.message);
        assert!(fault.message.contains(sentence), "{what}: {}", fault.message);
        let facts = seen.certificate.expect(what);
        assert_eq!(facts.chain_length, identity.chain.len(), "{what}");
        let seen = visit(&room.net, server.address, HOST, &unverified, 5000).await;
        assert_eq!(seen.result, Ok(String::new()), "{what}: unverified");
        let (whole, cut) = (seen.certificate.unwrap(), facts);
        assert_eq!((&whole.subject, whole.days_left), (&cut.subject, cut.days_left), "{what}");
        // What was agreed on is only known when the handshake was not cut short.
        let (whole, cut) = (whole.more.clone().unwrap(), cut.more.clone().unwrap());
        assert_eq!((whole.certificates, whole.tls_version), (cut.certificates, cut.tls_version), "{what}");
        assert!(whole.cipher.is_some() && cut.cipher.is_none(), "{what}");
    }
}

#[tokio::test]
async fn a_certificate_that_signs_itself_may_be_trusted_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = leaf_params(&[HOST]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let good = self_signed(&params);
    params.not_after = date_time_ymd(2026, 1, 1);
    let old = self_signed(&params);
    let path = folder.path().join("own.pem");
    std::fs::write(&path, format!("{}{}", pem(&good.chain[0]), pem(&old.chain[0]))).unwrap();
    let net = net(&[], &[path], EgressOptions::default());
    for (identity, host, wanted) in [
        (&good, HOST, None),
        (&good, "other.test", Some(Failure::CertHostnameMismatch)),
        (&old, HOST, Some(Failure::CertExpired)),
    ] {
        let server = present(identity).await;
        let seen = visit(&net, server.address, host, &TlsOptions::default(), 5000).await;
        assert_eq!(seen.failure(), wanted, "{host}: {:?}", seen.result);
    }
}

#[tokio::test]
async fn a_server_without_the_key_is_found_out_even_unverified() {
    let room = room();
    // Also when webpki cannot read the certificate, and the signature is checked without it.
    let mut params = leaf_params(&[HOST]);
    params.custom_extensions.push(critical_extension());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let issue = || room.root.issue(&leaf_params(&[HOST]));
        let odd = room.root.issue(&params).with_key_of(issue());
        let server = TlsServer::start(config(&odd, &[version], None)).await;
        let unverified = options(serde_json::json!({ "verify": false })).unwrap();
        let seen = visit(&room.net, server.address, HOST, &unverified, 5000).await;
        assert_eq!(seen.failure(), Some(Failure::CertInvalid), "{:?}", seen.result);
        let server = TlsServer::start(config(&issue().with_key_of(issue()), &[version], None)).await;
        for verify in [true, false] {
            let options = options(serde_json::json!({ "verify": verify })).unwrap();
            let seen = visit(&room.net, server.address, HOST, &options, 5000).await;
            assert_eq!(seen.failure(), Some(Failure::CertInvalid), "{verify}: {:?}", seen.result);
            assert!(seen.certificate.is_some());
        }
    }
}

#[tokio::test]
async fn versions() {
    let room = room();
    let identity = room.root.issue(&leaf_params(&[HOST]));
    let old = TlsServer::start(config(&identity, &[&rustls::version::TLS12], None)).await;
    let new = TlsServer::start(config(&identity, &[&rustls::version::TLS13], None)).await;
    let strict = options(serde_json::json!({ "min_version": "1.3" })).unwrap();
    for (server, options, wanted) in [
        (&old, &TlsOptions::default(), None),
        (&new, &TlsOptions::default(), None),
        (&new, &strict, None),
        (&old, &strict, Some(Failure::TlsVersion)),
    ] {
        let seen = visit(&room.net, server.address, HOST, options, 5000).await;
        assert_eq!(seen.failure(), wanted, "{:?}", seen.result);
    }
    // A server of another age answers with TLS 1.0.
    let ancient = RawServer::start(|mut stream| async move {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let mut hello = vec![0x16, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
        hello.extend([7; 32]);
        hello.extend([0, 0x00, 0x2f, 0]);
        let _ = stream.write_all(&hello).await;
        let _ = stream.read(&mut buffer).await;
    })
    .await;
    let seen = visit(&room.net, ancient.address, HOST, &TlsOptions::default(), 5000).await;
    assert_eq!(seen.failure(), Some(Failure::TlsVersion), "{:?}", seen.result);
}

#[tokio::test]
async fn client_certificates() {
    let room = room();
    let identity = room.root.issue(&leaf_params(&[HOST]));
    let write = |name: &str, text: String| {
        let path = room.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let client = room.root.issue(&leaf_params(&["client"]));
    let certificate = write("client.pem", pem(&client.chain[0]));
    let key = write("client.key", client.key_pem());
    let with = options(serde_json::json!({ "client_certificate": certificate, "client_key": key })).unwrap();
    assert!(!format!("{with:?}").contains("BEGIN") && format!("{with:?}").contains("Client { .. }"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = TlsServer::start(config(&identity, &[version], Some(&room.root))).await;
        let seen = visit(&room.net, server.address, HOST, &with, 5000).await;
        assert_eq!(seen.result, Ok(String::new()), "{version:?}");
        let seen = visit(&room.net, server.address, HOST, &TlsOptions::default(), 5000).await;
        assert_eq!(seen.failure(), Some(Failure::TlsHandshake), "{version:?}: {:?}", seen.result);
        assert!(seen.certificate.is_some());
    }
    let stranger = write("stranger.key", identity.key_pem());
    let garbage = write("garbage.pem", "nothing".to_owned());
    for (tls, wanted) in [
        (serde_json::json!({ "client_certificate": certificate, "client_key": stranger }), "does not belong"),
        (serde_json::json!({ "client_certificate": certificate }), "has no key"),
        (serde_json::json!({ "client_key": key }), "has no certificate"),
        (serde_json::json!({ "client_certificate": garbage, "client_key": key }), "has no PEM block"),
        (serde_json::json!({ "client_certificate": certificate, "client_key": garbage }), "private key"),
        (serde_json::json!({ "client_certificate": "/nonexistent", "client_key": key }), "/nonexistent"),
        (serde_json::json!({ "min_version": "1.1" }), "\"1.1\" is no TLS version"),
        (serde_json::json!({ "verfiy": false }), "unknown key"),
        (serde_json::json!(true), "found"),
    ] {
        let messages = options(tls.clone()).expect_err("wrong");
        assert_eq!(messages.len(), 1, "{tls}: {messages:?}");
        assert!(messages[0].contains(wanted), "{tls}: {messages:?}");
        assert!(!messages[0].contains("BEGIN"), "{messages:?}");
    }
}

#[tokio::test]
async fn what_is_not_tls() {
    let room = room();
    let http = RawServer::start(|mut stream| async move {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        let _ = stream.read(&mut buffer).await;
    });
    let closes = RawServer::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    });
    let resets = RawServer::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 16]).await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let stalls = RawServer::start(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    // An endless message: 16 MiB announced in a handshake header.
    let floods = RawServer::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let mut record = vec![0x16, 3, 3, 0x40, 0, 0x0b, 0xff, 0xff, 0xff];
        record.resize(5 + 0x4000, 0);
        while stream.write_all(&record).await.is_ok() {
            record[5..9].fill(0);
        }
    });
    let (http, closes, resets, stalls, floods) = tokio::join!(http, closes, resets, stalls, floods);
    for (what, server, wanted) in [
        ("http", &http, Failure::TlsHandshake),
        ("closes", &closes, Failure::TlsHandshake),
        ("resets", &resets, Failure::ConnectionReset),
        ("stalls", &stalls, Failure::TlsTimeout),
        ("floods", &floods, Failure::TlsHandshake),
    ] {
        let seen = visit(&room.net, server.address, HOST, &TlsOptions::default(), 500).await;
        assert_eq!(seen.failure(), Some(wanted), "{what}: {:?}", seen.result);
        assert!(seen.certificate.is_none());
        let took = seen.timings.get(Phase::Tls).unwrap();
        assert!(took < Duration::from_millis(1500), "{what}: {took:?}");
        assert_eq!(took >= Duration::from_millis(495), what == "stalls", "{what}: {took:?}");
    }
}

#[tokio::test]
async fn a_chain_of_a_megabyte_is_not_read() {
    let room = room();
    let mut identity = room.root.issue(&leaf_params(&[HOST]));
    // A hundred small certificates fit, and are counted.
    let small = identity.chain[0].clone();
    identity.chain.extend(std::iter::repeat_n(small, 99));
    let server = present(&identity).await;
    let seen = visit(&room.net, server.address, HOST, &TlsOptions::default(), 5000).await;
    assert_eq!(seen.result, Ok(String::new()));
    assert_eq!(seen.certificate.unwrap().chain_length, 100);
    let names: Vec<String> = (0..2000).map(|n| format!("host{n}.shop.test")).collect();
    let big = room.root.issue(&leaf_params(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    identity.chain.extend(std::iter::repeat_n(big.chain[0].clone(), 20));
    let server = present(&identity).await;
    let seen = visit(&room.net, server.address, HOST, &TlsOptions::default(), 5000).await;
    assert_eq!(seen.failure(), Some(Failure::TlsHandshake), "{:?}", seen.result);
    assert!(seen.result.unwrap_err().message.contains("more than 64 KiB"));
}

#[test]
fn a_missing_ca_file_is_named() {
    let options = NetOptions {
        resolvers: Vec::new(),
        ca_files: vec!["/nonexistent/ca.pem".into()],
        egress: EgressOptions::default(),
        user_agent: String::new(),
        max_body: 0,
    };
    let error = Net::new(options).err().unwrap();
    assert!(error.contains("probe.ca_files") && error.contains("/nonexistent/ca.pem"), "{error}");
}
