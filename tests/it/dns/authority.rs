//! knot, with a signed zone: what a real authority says; and a name server over TLS.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lamplighter::model::Failure;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{LONG, check, phases};
use crate::support::servers::tls::{Authority, config, leaf_params};
use crate::support::target::until;

const PROGRAM: &str = "/usr/sbin/knotd";
const ZONE: &str = "$ORIGIN zone.test.
$TTL 300
@ SOA ns.zone.test. root.zone.test. 2026112201 7200 3600 1209600 60
@ NS ns
@ MX 10 mail
@ TXT \"v=spf1 \" \"-all\"
@ CAA 0 issue \"ca.example\"
ns A 192.0.2.53
www A 192.0.2.1
www A 192.0.2.2
www AAAA 2001:db8::1
alias CNAME www
nowhere CNAME gone
outside CNAME www.elsewhere.example.
_sip._tcp SRV 1 2 5060 sip
1.2 PTR www
*.wild A 192.0.2.3
sub NS ns.sub
ns.sub A 192.0.2.54
";

/// Killed when dropped.
struct Knot {
    address: SocketAddr,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Knot {
    async fn start() -> Self {
        assert!(std::path::Path::new(PROGRAM).exists(), "there is no {PROGRAM}: tests/run installs it");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("db")).unwrap();
        let root = folder.path().display();
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        // More than a datagram of 1232 octets may hold.
        let large: String = (0..40).map(|n| format!("large TXT \"{n:03}{}\"\n", "x".repeat(100))).collect();
        std::fs::write(folder.path().join("zone"), format!("{ZONE}{large}")).unwrap();
        let (ip, port) = (address.ip(), address.port());
        let text = format!(
            "server:\n  listen: {ip}@{port}\n  rundir: {root}\ndatabase:\n  storage: {root}/db\n\
             template:\n  - id: default\n    storage: {root}\n    dnssec-signing: on\n    zonefile-sync: -1\n    journal-content: none\n\
             zone:\n  - domain: zone.test\n    file: zone\n"
        );
        let conf = folder.path().join("knot.conf");
        std::fs::write(&conf, text).unwrap();
        let mut command = Command::new(PROGRAM);
        let process = command.arg("-c").arg(&conf).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let knot = Self { address, process, _folder: folder };
        until("knot has signed its zone", Duration::from_secs(30), async || {
            let seen = check(&knot.monitor("zone.test", "SOA", json!({})), Duration::from_secs(1)).await;
            seen.fault.is_none().then_some(())
        })
        .await;
        knot
    }

    fn monitor(&self, name: &str, record: &str, expect: Value) -> Value {
        json!({ "url": format!("dns:{name}"), "record": record, "resolver": self.address.to_string(), "expect": expect })
    }
}

#[tokio::test]
async fn a_real_authority_answers_every_type() {
    use Failure::*;
    let knot = Knot::start().await;
    let only = |answers: &[&str]| json!({ "answers": answers, "answers_exact": true });
    for (name, record, expect, fault) in [
        ("www.zone.test", "A", only(&["192.0.2.2", "192.0.2.1"]), None),
        ("WWW.Zone.Test.", "AAAA", only(&["2001:db8::1"]), None),
        ("alias.zone.test", "A", only(&["192.0.2.1", "192.0.2.2"]), None),
        ("alias.zone.test", "CNAME", only(&["www.zone.test."]), None),
        ("zone.test", "MX", only(&["10 mail.zone.test"]), None),
        ("zone.test", "NS", only(&["ns.zone.test"]), None),
        ("zone.test", "TXT", only(&["v=spf1 -all"]), None),
        ("zone.test", "CAA", only(&["0 issue ca.example"]), None),
        ("_sip._tcp.zone.test", "SRV", only(&["1 2 5060 sip.zone.test"]), None),
        ("1.2.zone.test", "PTR", only(&["www.zone.test"]), None),
        ("any.wild.zone.test", "A", only(&["192.0.2.3"]), None),
        // The signer counts on from the file's.
        ("zone.test", "SOA", json!({ "serial_at_least": 2_026_112_201u32 }), None),
        ("zone.test", "SOA", json!({ "serial_at_least": 2_030_000_000u32 }), Some(DnsAnswerMismatch)),
        ("www.zone.test", "MX", json!({}), Some(DnsNoRecords)),
        ("www.zone.test", "MX", json!({ "answers": [] }), None),
        ("gone.zone.test", "A", json!({}), Some(DnsNxdomain)),
        ("gone.zone.test", "A", json!({ "rcode": "NXDOMAIN" }), None),
        ("nowhere.zone.test", "A", json!({}), Some(DnsNxdomain)),
        ("outside.zone.test", "A", json!({}), Some(DnsNoRecords)),
        ("host.sub.zone.test", "A", json!({}), Some(DnsNoRecords)),
        ("elsewhere.example", "A", json!({}), Some(DnsRefused)),
        ("elsewhere.example", "A", json!({ "rcode": "REFUSED" }), None),
        // An authority never says that an answer was validated.
        ("www.zone.test", "A", json!({ "authenticated": true }), Some(DnsAnswerMismatch)),
    ] {
        let seen = check(&knot.monitor(name, record, expect), LONG).await;
        let found = seen.fault.as_ref().map(|fault| fault.failure);
        assert_eq!(found, fault, "{name} {record}: {:?}", seen.fault);
        assert_eq!(phases(&seen), ["send", "wait", "receive"], "{name} {record}");
    }
    let seen = check(&knot.monitor("large.zone.test", "TXT", json!({})), LONG).await;
    assert_eq!(seen.fault, None);
    assert_eq!(phases(&seen), ["connect", "send", "wait", "receive"]);
    let details = serde_json::to_value(seen.details.unwrap()).unwrap();
    assert_eq!((&details["truncated"], &details["transport"]), (&true.into(), &"tcp".into()));
    assert_eq!((&details["authoritative"], &details["authenticated"]), (&true.into(), &false.into()));
    assert_eq!(details["answers"].as_array().unwrap().len(), 32);
}

#[tokio::test]
async fn dns_over_tls_verifies_whom_it_asks() {
    let knot = Knot::start().await;
    let back = knot.address;
    let identity = Authority::root("Root").issue(&leaf_params(&["127.0.0.1"]));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config(&identity, rustls::ALL_VERSIONS, None)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let resolver = format!("tls://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut near) = acceptor.accept(stream).await else { continue };
            let mut far = TcpStream::connect(back).await.unwrap();
            let (mut question, mut answer) = (vec![0; 4096], vec![0; 4096]);
            let length = near.read(&mut question).await.unwrap();
            far.write_all(&question[..length]).await.unwrap();
            let length = far.read(&mut answer).await.unwrap();
            near.write_all(&answer[..length]).await.unwrap();
            let _ = near.flush().await;
            let _ = near.read(&mut question).await;
        }
    });
    let monitor = |verify: bool| {
        json!({ "url": "dns:www.zone.test", "resolver": resolver, "tls": { "verify": verify },
            "expect": { "answers": ["192.0.2.1"], "certificate_days_left": 1 } })
    };
    let seen = check(&monitor(false), LONG).await;
    assert_eq!(seen.fault, None);
    assert_eq!(phases(&seen), ["connect", "tls", "send", "wait", "receive"]);
    assert_eq!(serde_json::to_value(seen.details.unwrap()).unwrap()["transport"], "tls");
    let seen = check(&monitor(true), LONG).await;
    assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), Some(Failure::CertUntrusted), "{:?}", seen.fault);
    assert_eq!(phases(&seen), ["connect", "tls"]);
    assert!(seen.certificate.is_some());
    serving.abort();
}
