//! TLS checks from the outside: every way a handshake or a chain goes wrong has its name, its sentence and its phases.

use std::path::PathBuf;
use std::time::Duration;

use lamplighter::model::{
    Failure::{self, *},
    Observation,
};
use lamplighter::probe::net::Net;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, date_time_ymd,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::probing::{check_by, net_with, phases};
use crate::support::servers::dns::DnsServer;
use crate::support::servers::openssl::{Files, OpenSsl};
use crate::support::servers::tls::{Authority, Identity, RawServer, TlsServer, config, leaf_params, pem, self_signed};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(700);
const HOST: &str = "shop.test";

/// A network layer that trusts one root, and where every name is this host.
struct Room {
    folder: tempfile::TempDir,
    root: Authority,
    net: Net,
    _names: DnsServer,
}

async fn room() -> Room {
    let folder = tempfile::tempdir().unwrap();
    let root = Authority::root("Test Root");
    let names = DnsServer::start(|ask| vec![ask.answer(60, &["127.0.0.1"])]).await;
    let net = net_with(names.address, vec![root.write(&folder)]);
    Room { folder, root, net, _names: names }
}

impl Room {
    async fn check(&self, host: &str, port: u16, keys: &Value, timeout: Duration) -> Observation {
        let mut monitor = json!({ "url": format!("tls://{host}:{port}"), "ip_version": 4 });
        monitor.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        check_by(&self.net, &monitor, timeout).await
    }

    async fn present(&self, identity: &Identity, host: &str) -> Observation {
        let server = TlsServer::start(config(identity, rustls::ALL_VERSIONS, None)).await;
        self.check(host, server.address.port(), &json!({}), LONG).await
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn assert_fault(seen: &Observation, name: &str, failure: Option<Failure>, part: &str) {
    let got = seen.fault.as_ref().map(|fault| fault.failure);
    assert_eq!(got, failure, "{name}: {:?}", seen.fault);
    let message = seen.fault.as_ref().map_or("", |fault| fault.message.as_str());
    assert!(message.contains(part), "{name}: {message}");
}

fn leaf(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf_params(&[HOST]);
    change(&mut params);
    params
}

/// What is wrong, the chain, the failure, and a part of its sentence.
pub(crate) fn chains(root: &Authority) -> Vec<(&'static str, Identity, Option<Failure>, &'static str)> {
    let good = || leaf_params(&[HOST]);
    let year = |from, to| {
        move |params: &mut CertificateParams| {
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        }
    };
    let ca = |constraint| move |params: &mut CertificateParams| params.is_ca = IsCa::Ca(constraint);
    let names = |permitted, excluded| {
        move |params: &mut CertificateParams| {
            params.name_constraints =
                Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded });
        }
    };
    let dns = |name: &str| GeneralSubtree::DnsName(name.to_owned());
    let net = GeneralSubtree::IpAddress(CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0]));
    let issue = |authority: &Authority| authority.issue(&good());
    let no_ca = root.subordinate("No CA", |params| params.is_ca = IsCa::ExplicitNoCa);
    let no_sign = root.subordinate("No signer", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let shallow = root.subordinate("Shallow", ca(BasicConstraints::Constrained(0)));
    let inner = shallow.subordinate("Inner", |_| {});
    let (above, below) = (root.intermediate("Above"), Authority::root("Unrelated"));
    let swapped = {
        let mut identity = above.subordinate("Below", |_| {}).issue(&good());
        identity.chain.swap(1, 2);
        identity
    };
    let with = |mut identity: Identity, more: &[&Authority]| {
        identity.chain.extend(more.iter().map(|authority| authority.der()));
        identity
    };
    let doubled = {
        let mut identity = issue(&above);
        let all = identity.chain.clone();
        identity.chain.extend(all);
        identity
    };
    let only = |purpose| leaf(|params| params.extended_key_usages = vec![purpose]);
    let any = leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]);
    vec![
        ("root above", issue(root), None, ""),
        ("intermediate", issue(&above), None, ""),
        ("wrong order", swapped, None, ""),
        ("each twice", doubled, None, ""),
        ("with strangers", with(issue(&above), &[&below, &below]), None, ""),
        ("with its root", with(issue(&above), &[root]), None, ""),
        ("leaf expired", root.issue(&leaf(year(2020, 2026))), Some(CertExpired), "certificate expired"),
        ("leaf in future", root.issue(&leaf(year(2035, 2040))), Some(CertNotYetValid), "2035-01-01"),
        (
            "intermediate expired",
            issue(&root.subordinate("Old", year(2020, 2026))),
            Some(CertExpired),
            "an intermediate certificate expired",
        ),
        ("intermediate in future", issue(&root.subordinate("New", year(2035, 2040))), Some(CertNotYetValid), "2035"),
        ("intermediate missing", issue(&above).leaf_only(), Some(CertUntrusted), "missing"),
        ("stranger's", issue(&below), Some(CertUntrusted), "no path leads"),
        ("stranger's root sent", with(issue(&below), &[&below]), Some(CertUntrusted), "no path leads"),
        ("namesake of the root", issue(&Authority::root("Test Root")), Some(CertUntrusted), "old name"),
        ("self-signed", self_signed(&good()), Some(CertUntrusted), "signs itself"),
        (
            "self-signed CA",
            self_signed(&leaf(ca(BasicConstraints::Unconstrained))),
            Some(CertUntrusted),
            "signs itself",
        ),
        ("self-signed, expired", self_signed(&leaf(year(2020, 2026))), Some(CertUntrusted), "signs itself"),
        ("self-signed, other name", self_signed(&leaf_params(&["x.test"])), Some(CertUntrusted), "signs itself"),
        ("a CA as leaf", root.issue(&leaf(ca(BasicConstraints::Unconstrained))), Some(CertInvalid), ""),
        ("issuer is no CA", issue(&no_ca), Some(CertInvalid), ""),
        ("path too long", inner.issue(&good()), Some(CertInvalid), ""),
        ("issuer may not sign", issue(&no_sign), None, ""),
        ("permitted name", issue(&root.subordinate("P", names(vec![dns("test")], vec![]))), None, ""),
        (
            "not permitted name",
            issue(&root.subordinate("P", names(vec![dns("x.test")], vec![]))),
            Some(CertInvalid),
            "",
        ),
        ("excluded name", issue(&root.subordinate("E", names(vec![], vec![dns(HOST)]))), Some(CertInvalid), ""),
        (
            "not permitted net",
            {
                let authority = root.subordinate("N", names(vec![net], vec![]));
                authority.issue(&leaf_params(&[HOST, "192.0.2.1"]))
            },
            Some(CertInvalid),
            "",
        ),
        (
            "for clients",
            root.issue(&only(ExtendedKeyUsagePurpose::ClientAuth)),
            Some(CertInvalid),
            "extended key usage",
        ),
        ("for code", root.issue(&only(ExtendedKeyUsagePurpose::CodeSigning)), Some(CertInvalid), "extended key usage"),
        ("for anything", root.issue(&any), Some(CertInvalid), "extended key usage"),
        ("for no one said", root.issue(&leaf(|params| params.extended_key_usages.clear())), None, ""),
    ]
}

#[tokio::test]
async fn every_chain_has_its_name() {
    let room = room().await;
    for (name, identity, failure, part) in chains(&room.root) {
        let seen = room.present(&identity, HOST).await;
        assert_fault(&seen, name, failure, part);
        assert_eq!(phases(&seen), ["dns", "connect", "tls"], "{name}");
        let facts = seen.certificate.unwrap_or_else(|| panic!("{name}: no facts"));
        let more = facts.more.as_deref().unwrap();
        assert_eq!(facts.chain_length, identity.chain.len(), "{name}");
        assert_eq!(more.certificates.len(), identity.chain.len().min(8), "{name}");
        assert_eq!(more.tls_version.as_deref(), Some("1.3"), "{name}");
        assert_eq!(more.cipher.is_some(), failure.is_none(), "{name}");
        let ends = identity.chain.iter().zip(&more.certificates).map(|(_, told)| told.not_after);
        let first = ends.enumerate().min_by_key(|(index, end)| (*end, *index)).unwrap().0;
        assert_eq!(more.days_left_of, first, "{name}");
    }
}

#[tokio::test]
async fn names_match_as_rfc_9525_has_it() {
    let room = room().await;
    let rows = [
        ("shop.test", vec!["SHOP.test"], true),
        ("shop.test", vec!["a.test", "shop.test"], true),
        ("www.shop.test", vec!["*.shop.test"], true),
        ("WWW.Shop.Test", vec!["*.shop.test"], true),
        ("shop.test", vec!["*.shop.test"], false),
        ("a.b.shop.test", vec!["*.shop.test"], false),
        ("bücher.test", vec!["xn--bcher-kva.test"], true),
        ("127.0.0.1", vec!["127.0.0.1"], true),
        ("127.0.0.1", vec!["127.0.0.2"], false),
        ("localhost", vec!["127.0.0.1"], false),
        ("2130706433", vec!["127.0.0.1"], true),
    ];
    for (host, names, fits) in rows {
        let seen = room.present(&room.root.issue(&leaf_params(&names)), host).await;
        let wanted = (!fits).then_some(CertHostnameMismatch);
        assert_fault(&seen, &format!("{host} and {names:?}"), wanted, if fits { "" } else { names[0] });
    }
    // The subject alone says nothing (RFC 9525, 6.2): no browser has looked at it since 2017.
    let seen = room.present(&room.root.issue(&leaf(|params| params.subject_alt_names.clear())), HOST).await;
    assert_fault(&seen, "only a subject", Some(CertHostnameMismatch), "names no host");
}

#[tokio::test]
async fn huge_chains_are_bounded() {
    let room = room().await;
    let mut long = room.root.issue(&leaf_params(&[HOST]));
    let small = Authority::root("Stranger").der();
    long.chain.extend(std::iter::repeat_n(small, 99));
    let seen = room.present(&long, HOST).await;
    assert_fault(&seen, "a hundred certificates", None, "");
    let facts = seen.certificate.unwrap();
    assert_eq!((facts.chain_length, facts.more.as_deref().unwrap().certificates.len()), (100, 8));
    for (name, count) in [("two thousand names", 2_000), ("ten thousand names", 10_000)] {
        let hosts: Vec<String> = (0..count).map(|n| format!("h{n}.shop.test")).collect();
        let mut hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        hosts.push(HOST);
        let identity = room.root.issue(&leaf_params(&hosts));
        let fits = identity.chain[0].len() < 0xffff;
        let seen = room.present(&identity, HOST).await;
        assert_fault(&seen, name, (!fits).then_some(TlsHandshake), if fits { "" } else { "more than 64 KiB" });
        if let Some(facts) = seen.certificate {
            let more = facts.more.as_deref().unwrap();
            assert_eq!((more.names.len(), more.names_total), (16, count + 1));
        }
        let mut megabyte = identity;
        while megabyte.chain.iter().map(|der| der.len()).sum::<usize>() < 1 << 20 {
            let first = megabyte.chain[0].clone();
            megabyte.chain.push(first);
        }
        let seen = room.present(&megabyte, HOST).await;
        assert_fault(&seen, name, Some(TlsHandshake), "more than 64 KiB");
    }
}

/// A server that answers the first bytes with an alert (RFC 8446, 6).
async fn alerting(code: u8) -> RawServer {
    RawServer::start(move |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, code]).await;
        while stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {}
    })
    .await
}

#[tokio::test]
async fn every_alert_has_its_sentence() {
    let room = room().await;
    for (code, failure, part) in [
        (10, TlsHandshake, "UnexpectedMessage"),
        (20, TlsHandshake, "BadRecordMac"),
        (22, TlsHandshake, "RecordOverflow"),
        (40, TlsHandshake, "no cipher and key exchange in common"),
        (42, TlsHandshake, "does not accept our client certificate"),
        (47, TlsHandshake, "IllegalParameter"),
        (48, TlsHandshake, "UnknownCA"),
        (50, TlsHandshake, "DecodeError"),
        (70, TlsVersion, "does not speak a TLS version"),
        (71, TlsHandshake, "no cipher"),
        (80, TlsHandshake, "inside the server"),
        (86, TlsHandshake, "InappropriateFallback"),
        (109, TlsHandshake, "MissingExtension"),
        (112, TlsHandshake, "no certificate for the name"),
        (116, TlsHandshake, "wants a client certificate"),
        (120, TlsHandshake, "ALPN"),
        (200, TlsHandshake, "alert"),
    ] {
        let server = alerting(code).await;
        let seen = room.check("127.0.0.1", server.address.port(), &json!({}), LONG).await;
        assert_fault(&seen, &format!("alert {code}"), Some(failure), part);
        assert_eq!(phases(&seen), ["connect", "tls"], "alert {code}");
    }
}

#[tokio::test]
async fn handshakes_that_do_not_come_about() {
    let room = room().await;
    let says = |text: &'static [u8]| {
        RawServer::start(move |mut stream| async move {
            let _ = stream.write_all(text).await;
            while stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {}
        })
    };
    let closes = RawServer::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    });
    let resets = RawServer::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 16]).await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let drips = RawServer::start(|mut stream| async move {
        while stream.write_all(&[0x16]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    for (name, server, timeout, failure, part) in [
        ("stalls", says(b"").await, SHORT, TlsTimeout, "did not end within"),
        ("half a record", says(&[0x16, 3, 3, 0, 100, 2]).await, SHORT, TlsTimeout, "did not end"),
        ("a mail server", says(b"220 mail ESMTP\r\n").await, LONG, TlsHandshake, "plain-text port"),
        ("a web server", says(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, LONG, TlsHandshake, "plain-text port"),
        ("closes", closes.await, LONG, TlsHandshake, "closed the connection"),
        ("resets", resets.await, LONG, ConnectionReset, "reset"),
        ("drips", drips.await, SHORT, TlsHandshake, "not TLS"),
    ] {
        let seen = room.check("127.0.0.1", server.address.port(), &json!({}), timeout).await;
        assert_fault(&seen, name, Some(failure), part);
        assert_eq!(phases(&seen), ["connect", "tls"], "{name}");
        assert!(seen.certificate.is_none(), "{name}");
    }
}

/// Also without anything to read afterwards: with TLS 1.3 the server's refusal comes after the handshake.
#[tokio::test]
async fn client_certificates_wanted_and_refused() {
    let room = room().await;
    let identity = room.root.issue(&leaf_params(&[HOST]));
    let pair = |name: &str, identity: &Identity| {
        let certificate = room.write(&format!("{name}.pem"), &pem(&identity.chain[0]));
        let key = room.write(&format!("{name}.key"), &identity.key_pem());
        json!({ "tls": { "client_certificate": certificate, "client_key": key } })
    };
    let member = pair("member", &room.root.issue(&leaf_params(&["client"])));
    let stranger = pair("stranger", &Authority::root("Stranger").issue(&leaf_params(&["client"])));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = TlsServer::start_silent(config(&identity, &[version], Some(&room.root))).await;
        for (name, keys, failure, part) in [
            ("a member", &member, None, ""),
            ("nobody", &json!({}), Some(TlsHandshake), "set tls.client_certificate"),
            ("a stranger", &stranger, Some(TlsHandshake), "does not accept our client certificate"),
        ] {
            let seen = room.check(HOST, server.address.port(), keys, LONG).await;
            assert_fault(&seen, &format!("{name} {version:?}"), failure, part);
            assert_eq!(phases(&seen), ["dns", "connect", "tls"], "{name}");
            assert!(seen.certificate.is_some() && seen.timings.total < Duration::from_secs(5), "{name}");
        }
    }
}

#[tokio::test]
async fn an_exchange_under_tls() {
    let room = room().await;
    let server = TlsServer::start(config(&room.root.issue(&leaf_params(&[HOST])), rustls::ALL_VERSIONS, None)).await;
    for (pattern, timeout, failure) in [("^again$", LONG, None), ("^nothing", SHORT, Some(ExchangeMismatch))] {
        let keys = json!({ "exchange": [{ "expect": "^hello" }, { "send": "\nagain\n" }, { "expect": pattern }] });
        let seen = room.check(HOST, server.address.port(), &keys, timeout).await;
        assert_fault(&seen, pattern, failure, "");
        assert_eq!(phases(&seen), ["dns", "connect", "tls", "send", "wait", "receive"]);
    }
}

/// What our own TLS library cannot serve.
#[tokio::test]
async fn openssl_of_every_age() {
    let room = room().await;
    let files = Files::make(&room.folder).await;
    type Row = (&'static str, &'static [&'static str], &'static str, Value, Option<Failure>, &'static str);
    let rows: Vec<Row> = vec![
        ("1.0", &["-tls1"], "rsa2048", json!({}), Some(TlsVersion), "does not"),
        ("1.1", &["-tls1_1"], "rsa2048", json!({}), Some(TlsVersion), "does not"),
        ("1.2", &["-tls1_2"], "rsa2048", json!({}), None, ""),
        ("1.3", &["-tls1_3"], "rsa2048", json!({}), None, ""),
        (
            "1.2, but 1.3 wanted",
            &["-tls1_2"],
            "rsa2048",
            json!({ "tls": { "min_version": "1.3" } }),
            Some(TlsVersion),
            "",
        ),
        ("only CBC", &["-tls1_2", "-cipher", "AES128-SHA"], "rsa2048", json!({}), Some(TlsHandshake), "no cipher"),
        (
            "client wanted, 1.2",
            &["-tls1_2", "-Verify", "1", "-verify_return_error"],
            "rsa2048",
            json!({}),
            Some(TlsHandshake),
            "set tls.client",
        ),
        (
            "client wanted, 1.3",
            &["-tls1_3", "-Verify", "1", "-verify_return_error"],
            "rsa2048",
            json!({}),
            Some(TlsHandshake),
            "set tls.client",
        ),
        ("no tickets", &["-tls1_3", "-num_tickets", "0", "-verify", "1"], "rsa2048", json!({}), None, ""),
        ("RSA 1024", &[], "rsa1024", json!({}), Some(CertInvalid), "an RSA key of 1024 bits"),
        ("RSA 1024, unverified", &[], "rsa1024", json!({ "tls": { "verify": false } }), Some(CertInvalid), "1024"),
        (
            "issuer with RSA 1024",
            &[],
            "under1024",
            json!({}),
            Some(CertInvalid),
            "certificate 1 above it has an RSA key of 1024",
        ),
        ("SHA-1", &[], "sha1", json!({}), Some(CertInvalid), "sha1WithRSAEncryption"),
        ("SHA-1, unverified", &[], "sha1", json!({ "tls": { "verify": false } }), None, ""),
        (
            "name on request",
            &["-servername", "elsewhere.test", "-servername_fatal", "-cert2", "rsa2048.pem", "-key2", "rsa2048.key"],
            "rsa2048",
            json!({}),
            Some(TlsHandshake),
            "no certificate for the name",
        ),
    ];
    let net = net_with(room._names.address, vec![files.root.clone()]);
    for (name, arguments, certificate, keys, failure, part) in rows {
        let server = OpenSsl::start(&files, certificate, arguments).await;
        let mut monitor = json!({ "url": format!("tls://{HOST}:{}", server.port), "ip_version": 4 });
        monitor.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let seen = check_by(&net, &monitor, LONG).await;
        assert_fault(&seen, name, failure, part);
        assert_eq!(phases(&seen), ["dns", "connect", "tls"], "{name}");
        if certificate != "rsa2048" {
            let weak = &seen.certificate.as_ref().unwrap().more.as_deref().unwrap().weaknesses;
            assert!(!weak.is_empty(), "{name}");
        }
    }
}
