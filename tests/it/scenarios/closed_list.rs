//! Every failure of the closed list occurs for its right reason, and something shows it.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use lamplighter::model::Failure;

use super::staging::Room;

/// What needs more than a server on this host: the file below `tests/it`, and the test in it.
const ELSEWHERE: &[(Failure, &str, &str)] = &[
    (Failure::PacketLoss, "icmp.rs", "loss_is_counted_and_all_lost_is_a_timeout"),
    (Failure::HostUnreachable, "links.rs", "links_and_routers_have_their_names_for_connections"),
    (Failure::NetworkUnreachable, "links.rs", "links_and_routers_have_their_names_for_connections"),
    (Failure::ObserverOffline, "links.rs", "links_and_routers_have_their_names_for_connections"),
    (Failure::ResourceExhausted, "links.rs", "no_port_and_no_descriptor_are_ours"),
    (Failure::IcmpTimeout, "icmp.rs", "loss_is_counted_and_all_lost_is_a_timeout"),
    (Failure::HeartbeatFailed, "daemon/heartbeat.rs", "jobs_are_heard_as_healthchecks_hears_them"),
    (Failure::HeartbeatMissed, "daemon/heartbeat.rs", "silence_is_told_to_the_second_and_ends_with_a_ping"),
    (Failure::HeartbeatOverran, "daemon/heartbeat.rs", "silence_is_told_to_the_second_and_ends_with_a_ping"),
    (Failure::MemberDown, "daemon/heartbeat.rs", "a_group_is_what_its_members_are"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a test, from its attribute to the brace that ends it at the beginning of a line.
fn test_in<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begins = ["#[test]\nfn ", "#[tokio::test]\nasync fn "];
    let at = begins.iter().find_map(|begin| text.find(&format!("{begin}{name}()")))?;
    let rest = &text[at..];
    Some(rest.find("\n}\n").map_or(rest, |end| &rest[..end]))
}

/// Names that the documentation says cannot occur: "`name` is reserved: the reason.", in a line of its own.
fn reserved(docs: &str) -> HashSet<&str> {
    let lines = docs.lines().filter_map(|line| line.strip_prefix('`')?.split_once("` is reserved: "));
    lines.filter(|(_, reason)| reason.len() > 10).map(|(name, _)| name).collect()
}

/// What is wrong with the claim that a test shows a failure.
fn unproven(failure: Failure, text: &str, test: &str) -> Option<String> {
    let Some(body) = test_in(text, test) else { return Some(format!("there is no test {test}")) };
    // A literal, as it stands in what the program says: other words of the test may contain the name.
    let literal = format!("\"{}\"", failure.name());
    (!body.contains(&literal)).then(|| format!("{test} does not name {literal}"))
}

/// Failures that nothing shows and nothing excuses, and those that are excused and occur.
fn out_of_place(in_rows: &HashSet<&str>, claims: &[(Failure, &str, &str)], reserved: &HashSet<&str>) -> Vec<String> {
    let wrong = Failure::ALL.iter().filter_map(|failure| {
        let shown = in_rows.contains(failure.name()) || claims.iter().any(|(of, ..)| of == failure);
        match (shown, reserved.contains(failure.name())) {
            (true, true) => Some(format!("{failure}: occurs, and is said to be reserved")),
            (false, false) => Some(format!("{failure}: occurs nowhere")),
            _ => None,
        }
    });
    wrong.collect()
}

#[test]
fn every_failure_of_the_closed_list_occurs() {
    let rows = super::table(&Room::new());
    let mut in_rows: HashSet<&str> = rows.iter().filter_map(|row| row.failure).collect();
    let docs = fs::read_to_string(root().join("docs/failures.md")).unwrap();
    let reserved = reserved(&docs);
    let mut wrong = out_of_place(&in_rows, ELSEWHERE, &reserved);
    for (failure, file, test) in ELSEWHERE {
        let text = fs::read_to_string(root().join("tests/it").join(file)).unwrap_or_default();
        wrong.extend(unproven(*failure, &text, test).map(|why| format!("{failure}: {file}: {why}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // One row less, one claim less, one excuse less or too many: each is seen.
    in_rows.remove("tls_version");
    let planted = out_of_place(&in_rows, &ELSEWHERE[1..], &HashSet::from(["cert_expired"]));
    let planted: Vec<&str> = planted.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(planted, ["tls_version", "cert_expired", "cert_revoked", "packet_loss"]);
}

#[test]
fn a_claim_without_proof_is_found() {
    let text = "#[test]\nfn one() {\n    f(\"packet_loss\");\n}\n\nfn two() {\n    f(\"icmp_timeout\");\n}\n";
    assert_eq!(unproven(Failure::PacketLoss, text, "one"), None);
    assert!(unproven(Failure::IcmpTimeout, text, "one").unwrap().contains("does not name"));
    assert!(unproven(Failure::IcmpTimeout, text, "two").unwrap().contains("no test"));
    assert_eq!(
        reserved("`a` is reserved: nobody asks for it.\n`b` is reserved: no.\n`c` occurs\n"),
        HashSet::from(["a"])
    );
}
