//! One check for people (a waterfall) and for programs (the contract's JSON). Pure.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::advice::next_step;
use crate::model::{CertificateFacts, ChainFacts, Check, MonitorId, Phase, Timings, check_time};

/// Columns that the total time fills.
const BAR_COLUMNS: usize = 48;

/// One check as JSON, in the shape and order of the contract, section 2. `label` is the monitor's key or name, or the
/// URL of a check without a monitor, which has no `id`. A kind that found out more than the contract names has a key
/// `details` behind it all.
#[must_use]
pub fn check_json(check: &Check, label: &str, id: Option<MonitorId>, region: &str) -> Value {
    let certificate = check.certificate.as_deref().map(|facts| {
        let mut object = json!({
            "subject": facts.subject,
            "issuer": facts.issuer,
            "not_before": seconds(facts.not_before),
            "not_after": seconds(facts.not_after),
            "days_left": facts.days_left,
            "fingerprint_sha256": facts.fingerprint_sha256,
        });
        if let (Some(more), Value::Object(object)) = (facts.more.as_deref(), &mut object) {
            object.extend(chain_json(facts, more));
        }
        object
    });
    let mut text = json!({
        "monitor": label,
        "monitor_id": id,
        "verdict": check.verdict,
        "failure": check.failure,
        "message": check.message,
        "status_code": check.status_code,
        "response_time_ms": check.timings.total_ms(),
        "timings_us": check.timings,
        "address": check.address.map(place),
        "http_version": check.http_version,
        "certificate": certificate,
        "attempt": check.attempt,
        "region": region,
        "checked_at": check_time(check.checked_at),
    });
    if let (Some(details), Value::Object(object)) = (&check.details, &mut text) {
        object.insert("details".to_owned(), Value::Object((**details).clone()));
    }
    text
}

/// What stands behind the contract's keys.
fn chain_json(facts: &CertificateFacts, more: &ChainFacts) -> serde_json::Map<String, Value> {
    let chain = more.certificates.iter().map(|certificate| {
        json!({
            "subject": certificate.subject,
            "issuer": certificate.issuer,
            "not_before": seconds(certificate.not_before),
            "not_after": seconds(certificate.not_after),
            "key_algorithm": certificate.key_algorithm,
            "key_bits": certificate.key_bits,
            "signature_algorithm": certificate.signature_algorithm,
            "fingerprint_sha256": certificate.fingerprint_sha256,
        })
    });
    [
        ("chain_length", json!(facts.chain_length)),
        ("days_left_of", json!(more.days_left_of)),
        ("names", json!(more.names)),
        ("names_total", json!(more.names_total)),
        ("weaknesses", json!(more.weaknesses)),
        ("chain", chain.collect()),
        ("tls_version", json!(more.tls_version)),
        ("cipher", json!(more.cipher)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// ICMP has no ports.
fn place(address: SocketAddr) -> String {
    if address.port() == 0 { address.ip().to_string() } else { address.to_string() }
}

fn seconds(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// One check for a terminal: verdict, a sentence that says what happened and what to do next, the phases one below the
/// other as they followed in time, and what was met. `label` is what [`check_json`] takes, `kind` the kind's name. Ends
/// with a line feed; control characters of the far side are not passed on.
#[must_use]
pub fn waterfall(check: &Check, label: &str, kind: &str) -> String {
    let mut out = format!("{} {}", check.verdict.name().to_uppercase(), printable(label));
    let _ = write!(out, " in {}", span(check.timings.total));
    if let Some(failure) = check.failure {
        let _ = write!(out, " ({failure})");
    }
    out.push('\n');
    if let Some(failure) = check.failure {
        let happened = check.message.as_deref().map_or_else(|| failure.name().to_owned(), printable);
        let _ = writeln!(out, "{happened}; {}", next_step(failure, kind));
    }
    out.push('\n');
    draw(&mut out, &check.timings);
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<11}  {}", printable(&value));
    };
    if let Some(status) = check.status_code {
        fact("status", check.http_version.map_or_else(|| status.to_string(), |version| format!("{status} {version}")));
    }
    if let Some(address) = check.address {
        fact("address", place(address));
    }
    if let Some(certificate) = check.certificate.as_deref() {
        certificate_facts(certificate, &mut fact);
    }
    for (name, value) in check.details.iter().flat_map(|details| details.iter()) {
        fact(&name.replace('_', " "), detail(value));
    }
    out
}

/// A fact of the kind's own as people write it: lists with commas, texts without quotes.
fn detail(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(detail).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", detail(value))).collect::<Vec<_>>().join(" ")
        }
        scalar => scalar.to_string(),
    }
}

fn certificate_facts(facts: &CertificateFacts, fact: &mut dyn FnMut(&str, String)) {
    fact("certificate", facts.subject.clone());
    fact("issued by", facts.issuer.clone());
    let left = match facts.days_left {
        days if days < 0 => format!("expired {} days ago", days.unsigned_abs()),
        1 => "1 day left".to_owned(),
        days => format!("{days} days left"),
    };
    let (from, to) = (facts.not_before.date_naive(), facts.not_after.date_naive());
    let more = facts.more.as_deref();
    let whose = match more.filter(|more| more.days_left_of > 0).map(|more| more.certificates.get(more.days_left_of)) {
        None => String::new(),
        Some(above) => format!(" ({})", above.map_or("further up the chain", |above| &above.subject)),
    };
    fact("valid", format!("{from} to {to}, {left}{whose}"));
    if let Some(more) = more.filter(|more| more.names_total > 0) {
        let unnamed = more.names_total - more.names.len();
        let rest = if unnamed > 0 { format!(" and {unnamed} more") } else { String::new() };
        fact("names", format!("{}{rest}", more.names.join(", ")));
    }
    fact("sha256", facts.fingerprint_sha256.clone());
    let plural = if facts.chain_length == 1 { "" } else { "s" };
    fact("chain", format!("{} certificate{plural}", facts.chain_length));
    let Some(more) = more else { return };
    for (index, one) in more.certificates.iter().enumerate() {
        let (key, bits, signature) = (&one.key_algorithm, one.key_bits, &one.signature_algorithm);
        let until = one.not_after.date_naive();
        fact("", format!("{index} {}, {key} {bits}, {signature}, until {until}", one.subject));
    }
    for weakness in &more.weaknesses {
        fact("weak", format!("certificate {} has {}", weakness.certificate, weakness.what));
    }
    let session = [more.tls_version.as_deref(), more.cipher.as_deref()];
    let session: Vec<&str> = session.into_iter().flatten().collect();
    if !session.is_empty() {
        fact("tls", session.join(", "));
    }
}

/// Phases that were not reached have a dash; the others start where the one before them ended.
fn draw(out: &mut String, timings: &Timings) {
    let column = |time: Duration| {
        let share = time.as_secs_f64() / timings.total.as_secs_f64().max(1e-9);
        // Phases are at most the total: the product is within the columns.
        ((share * BAR_COLUMNS as f64).round() as usize).min(BAR_COLUMNS)
    };
    let mut passed = Duration::ZERO;
    for phase in Phase::ALL {
        let _ = match timings.get(phase) {
            None => writeln!(out, "  {:<11}  {:>9}", phase.name(), "-"),
            Some(time) => {
                let start = column(passed).min(BAR_COLUMNS - 1);
                passed += time;
                let length = column(passed).saturating_sub(start);
                let bar = if length == 0 { "▏".to_owned() } else { "█".repeat(length) };
                writeln!(out, "  {:<11}  {:>9}  {}{bar}", phase.name(), span(time), " ".repeat(start))
            }
        };
    }
    let _ = writeln!(out, "  {:<11}  {:>9}\n", "total", span(timings.total));
}

/// Three or more digits that matter: `812 µs`, `40.8 ms`, `2.13 s`.
fn span(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1_000.0),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

/// A certificate's name may hold anything, also what a terminal obeys.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Failure, Verdict};

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn expired() -> Check {
        let mut timings = Timings::default();
        for (phase, micros) in [(Phase::Dns, 812), (Phase::Connect, 95), (Phase::Tls, 39_883)] {
            timings.add(phase, Duration::from_micros(micros));
        }
        timings.total = Duration::from_micros(40_790);
        let certificate = CertificateFacts {
            subject: "CN=shop.example".to_owned(),
            issuer: "CN=Some CA\u{1b}[31m".to_owned(),
            not_before: time("2026-07-25T00:00:00Z"),
            not_after: time("2026-10-23T00:00:00Z"),
            days_left: -30,
            fingerprint_sha256: "ab".repeat(32),
            chain_length: 2,
            more: None,
        };
        Check {
            monitor: MonitorId(uuid::Uuid::nil()),
            verdict: Verdict::Down,
            failure: Some(Failure::CertExpired),
            message: Some("certificate expired 30 days ago (2026-10-23)".into()),
            status_code: None,
            timings,
            address: Some("203.0.113.7:443".parse().unwrap()),
            http_version: None,
            certificate: Some(Arc::new(certificate)),
            details: None,
            attempt: 1,
            checked_at: time("2026-11-22T12:00:00.123456Z"),
        }
    }

    #[test]
    fn json_is_the_contracts() {
        let id = MonitorId(uuid::Uuid::from_u128(1));
        let text = check_json(&expired(), "shop", Some(id), "us-east-1").to_string();
        let fingerprint = "ab".repeat(32);
        assert_eq!(
            text,
            format!(
                "{{\"monitor\":\"shop\",\"monitor_id\":\"00000000-0000-0000-0000-000000000001\",\"verdict\":\"down\",\
                 \"failure\":\"cert_expired\",\"message\":\"certificate expired 30 days ago (2026-10-23)\",\
                 \"status_code\":null,\"response_time_ms\":40,\"timings_us\":{{\"dns\":812,\"connect\":95,\"tls\":39883,\
                 \"send\":null,\"wait\":null,\"receive\":null,\"total\":40790}},\"address\":\"203.0.113.7:443\",\
                 \"http_version\":null,\"certificate\":{{\"subject\":\"CN=shop.example\",\
                 \"issuer\":\"CN=Some CA\\u001b[31m\",\"not_before\":\"2026-07-25T00:00:00Z\",\
                 \"not_after\":\"2026-10-23T00:00:00Z\",\"days_left\":-30,\"fingerprint_sha256\":\"{fingerprint}\"}},\
                 \"attempt\":1,\"region\":\"us-east-1\",\"checked_at\":\"2026-11-22T12:00:00.123Z\"}}"
            )
        );
        let bare = check_json(&Check { certificate: None, ..expired() }, "https://h/", None, "r");
        assert!(bare["monitor_id"].is_null() && bare["certificate"].is_null());
        let details = json!({"packets_sent": 3, "answers": ["192.0.2.1", "192.0.2.2"], "rtt_ms": {"min": 0.1}});
        let details = details.as_object().cloned().map(Box::new);
        let full = Check { details, ..expired() };
        assert_eq!(check_json(&full, "x", None, "r")["details"]["packets_sent"], 3);
        let text = waterfall(&full, "x", "dns");
        assert!(text.contains("packets sent  3\n"), "{text}");
        assert!(
            text.contains("answers      192.0.2.1, 192.0.2.2\n") && text.contains("rtt ms       min=0.1\n"),
            "{text}"
        );
    }

    #[test]
    fn the_waterfall_steps_down() {
        let text = waterfall(&expired(), "https://shop.example/", "http");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "DOWN https://shop.example/ in 40.8 ms (cert_expired)");
        let step = "renew it, let the server load it, and see why the renewal did not run";
        assert_eq!(lines[1], format!("certificate expired 30 days ago (2026-10-23); {step}"));
        assert_eq!(lines[3], "  dns             812 µs  █");
        assert_eq!(lines[4], "  connect          95 µs   ▏");
        assert_eq!(lines[5], format!("  tls            39.9 ms   {}", "█".repeat(47)));
        assert_eq!(lines[6], "  send                 -");
        assert!(text.contains("total          40.8 ms"));
        assert!(text.contains("valid        2026-07-25 to 2026-10-23, expired 30 days ago"));
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn every_failure_is_explained_in_one_line_with_what_to_do() {
        for failure in Failure::ALL {
            for message in [Some("what happened".into()), None] {
                let check = Check { failure: Some(*failure), message, ..expired() };
                let text = waterfall(&check, "x", "http");
                let line = text.lines().nth(1).unwrap();
                let (happened, step) = line.split_once("; ").unwrap();
                assert_eq!(happened, check.message.as_deref().unwrap_or(failure.name()), "{failure}");
                assert_eq!(step, next_step(*failure, "http"), "{failure}");
            }
        }
        let up = Check { failure: None, message: None, verdict: Verdict::Up, ..expired() };
        assert_eq!(waterfall(&up, "x", "http").lines().nth(1), Some(""));
    }

    #[test]
    fn nothing_reached_and_extremes_are_drawn() {
        let mut check = Check { timings: Timings::default(), certificate: None, ..expired() };
        assert!(waterfall(&check, "x", "http").contains("in 0 µs"));
        check.timings.add(Phase::Receive, Duration::from_secs(90));
        check.timings.total = Duration::from_secs(90);
        check.timings.add(Phase::Dns, Duration::from_secs(90));
        let text = waterfall(&check, "x", "http");
        let mut drawn = text.lines().skip(2);
        assert!(text.contains("90.00 s") && drawn.all(|line| line.chars().count() < 100), "{text}");
    }
}
