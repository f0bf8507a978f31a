use super::super::finding::Level::{self, Ok as Good, Problem, Warning};
use super::*;
use crate::web::Reason;

/// A finding that is not ok has a way out.
fn level(finding: &Finding) -> Level {
    assert_eq!(finding.status == Good, finding.way_out.is_none(), "{finding:?}");
    finding.status
}

fn service() -> Subject {
    Subject { pid: None, uid: 990, groups: vec![980], capabilities: 0, descriptors: Some(65536) }
}

fn root() -> Subject {
    Subject { uid: 0, groups: vec![0], capabilities: u64::MAX, ..service() }
}

fn place(mode: u32, uid: u32, gid: u32) -> Place {
    Place { path: "/x".into(), mode, uid, gid }
}

const NEEDS: Needs = Needs { checks: 100, max_in_flight: 10_000, icmp: 1, names: 1 };

#[test]
fn configurations() {
    let path = Path::new("/c.toml");
    assert_eq!(level(&config(path, true, 3, None)), Good);
    assert_eq!(level(&config(path, false, 0, None)), Warning);
    let refusal = Refusal { messages: vec!["/c.toml:1:1: a".into(), "/c.toml:2:1: b".into()], more: 3 };
    let finding = config(path, true, 0, Some(&refusal));
    assert_eq!((level(&finding), finding.details.len()), (Problem, 3));
    assert!(finding.what.contains("5 errors"), "{}", finding.what);
}

#[test]
fn rights_of_a_configuration() {
    let service = service();
    let judged = |mode, gid, secrets| config_permissions(&[place(mode, 0, gid)], secrets, Some(&service)).unwrap();
    for (mode, gid, secrets, expected) in [
        (0o640, 980, 5, Good),
        (0o640, 0, 0, Problem),
        (0o644, 0, 0, Good),
        (0o644, 0, 1, Warning),
        (0o664, 980, 0, Problem),
        (0o646, 980, 0, Problem),
    ] {
        assert_eq!(level(&judged(mode, gid, secrets)), expected, "{mode:o} {gid} {secrets}");
    }
    assert_eq!(config_permissions(&[], 0, None), None);
}

#[test]
fn state_directories() {
    let full = Some(Disk { free_bytes: 1 << 40, free_files: None, read_only: false });
    let made = |found, token, disk| State { path: "/s".into(), found, token, disk };
    let folder = |mode, uid, writable| Found::Folder(place(mode, uid, 0), writable);
    let read_only = Some(Disk { free_bytes: 1 << 40, free_files: None, read_only: true });
    for (found, token, disk, expected) in [
        (folder(0o711, 990, true), None, full, Good),
        (folder(0o711, 990, false), None, full, Problem),
        (folder(0o711, 0, true), None, full, Problem),
        (folder(0o777, 990, true), None, full, Problem),
        (folder(0o711, 990, true), Some(0o600), full, Good),
        (folder(0o711, 990, true), Some(0o640), full, Problem),
        (folder(0o711, 990, true), None, read_only, Problem),
        (Found::Missing(Some("/".into()), true), None, full, Good),
        (Found::Missing(Some("/".into()), false), None, full, Problem),
        (Found::NoFolder, None, None, Problem),
        (Found::Hidden("no".into()), None, None, Problem),
    ] {
        let state_directory = made(found, token.map(|mode| place(mode, 990, 0)), disk);
        assert_eq!(level(&state(&state_directory, Some(&service()))), expected, "{state_directory:?}");
    }
}

#[test]
fn disks() {
    let backlog = 256 << 20;
    for (free, files, expected) in [
        (10 << 20, None, Problem),
        (200 << 20, None, Warning),
        (300 << 20, Some(5), Problem),
        (300 << 20, Some(5000), Good),
        (300 << 20, None, Good),
    ] {
        let disk = Disk { free_bytes: free, free_files: files, read_only: false };
        assert_eq!(level(&super::disk(Some(disk), backlog)), expected, "{disk:?}");
    }
    assert_eq!(level(&super::disk(None, backlog)), Warning);
}

#[test]
fn daemons() {
    let reason = |code: &str| Reason { code: code.into(), detail: Some("why".into()) };
    let answers =
        |ready, role: &str, reasons, notes| Daemon::Answers(Readiness { ready, role: role.into(), reasons, notes });
    for (seen, expected) in [
        (Daemon::NotRunning, Warning),
        (Daemon::Silent("no answer".into()), Problem),
        (answers(true, "active", vec![], vec![]), Good),
        (answers(true, "active", vec![], vec![reason("config_refused")]), Warning),
        (answers(false, "active", vec![reason("store_away")], vec![]), Problem),
        (answers(false, "standby", vec![reason("standby")], vec![]), Good),
        (answers(false, "starting", vec![reason("store_away")], vec![]), Problem),
    ] {
        assert_eq!(level(&daemon(&seen)), expected, "{seen:?}");
    }
}

#[test]
fn addresses_to_listen_on() {
    let tcp = |text: &str| Listen::Tcp(text.parse().unwrap());
    let (high, low) = (tcp("127.0.0.1:8780"), tcp("0.0.0.0:443"));
    for (address, port, subject, expected) in [
        (&high, Port::Free, service(), Good),
        (&high, Port::Ours, service(), Good),
        (&high, Port::Taken(Some((1, "nginx".into()))), service(), Problem),
        (&high, Port::Taken(None), service(), Problem),
        (&high, Port::Refused("no".into()), service(), Problem),
        (&low, Port::Free, service(), Problem),
        (&low, Port::Free, root(), Good),
        (&low, Port::Free, Subject { capabilities: 1 << 10, ..service() }, Good),
        (&tcp("127.0.0.1:0"), Port::Free, service(), Good),
        (&Listen::Unix("/s".into()), Port::Free, service(), Good),
    ] {
        assert_eq!(level(&listen(address, &port, Some(&subject), Some(1024))), expected, "{address} {port:?}");
    }
}

#[test]
fn clocks() {
    let at = |text: &str| text.parse().unwrap();
    assert_eq!(level(&clock(at("2026-11-28T12:00:00Z"))), Good);
    assert_eq!(level(&clock(at("1970-01-01T00:00:10Z"))), Problem);
    assert_eq!(level(&clock(at("2400-01-01T00:00:00Z"))), Problem);
}

#[test]
fn pings() {
    let closed = Some([1, 0]);
    for (needs, range, subject, expected) in [
        (Needs { icmp: 0, ..NEEDS }, closed, Some(service()), Good),
        (NEEDS, closed, Some(service()), Problem),
        (NEEDS, Some([0, 2_147_483_647]), Some(service()), Good),
        (NEEDS, Some([0, 979]), Some(service()), Problem),
        (NEEDS, closed, Some(Subject { capabilities: 1 << 13, ..service() }), Good),
        (NEEDS, None, Some(service()), Warning),
        (NEEDS, closed, None, Warning),
    ] {
        assert_eq!(level(&icmp(&needs, range, subject.as_ref())), expected, "{range:?} {subject:?}");
    }
}

#[test]
fn limits() {
    for (checks, limit, expected) in [
        (100, Some(1024), Good),
        (10_000, Some(1024), Warning),
        (10_000, Some(65536), Good),
        (1, Some(64), Problem),
        (1, None, Warning),
    ] {
        let subject = Subject { descriptors: limit, ..service() };
        assert_eq!(level(&descriptors(&Needs { checks, ..NEEDS }, Some(&subject))), expected, "{checks} {limit:?}");
    }
    assert_eq!(level(&descriptors(&NEEDS, None)), Warning);
    for (range, expected) in [
        (Some([32768, 60999]), Good),
        (Some([50000, 50009]), Problem),
        (Some([50000, 50500]), Warning),
        (Some([9, 1]), Problem),
        (None, Warning),
    ] {
        assert_eq!(level(&ports(&NEEDS, range)), expected, "{range:?}");
    }
}

#[test]
fn names_and_certificates() {
    let failed = Resolved::Failed("no answer from 127.0.0.1:53".into());
    let nobody = Needs { names: 0, ..NEEDS };
    assert_eq!(level(&resolver(&NEEDS, &Resolved::Answered("a".into(), 2), false)), Good);
    assert_eq!(level(&resolver(&NEEDS, &Resolved::Declined("a".into(), "REFUSED".into()), false)), Warning);
    assert_eq!(level(&resolver(&NEEDS, &failed, true)), Problem);
    assert_eq!(level(&resolver(&nobody, &failed, true)), Warning);
    assert!(resolver(&NEEDS, &failed, true).way_out.unwrap().contains("probe.resolvers"));
    assert_eq!(level(&certificates(140, 0, &[])), Good);
    assert_eq!(level(&certificates(0, 1, &[])), Warning);
    assert_eq!(level(&certificates(0, 0, &["x".into()])), Problem);
}
