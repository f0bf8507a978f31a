//! What is kept of a check for a person who asks why: bounded, and without secrets.

use chrono::SubsecRound as _;
use serde_json::Value;

use super::judge::Judgement;
use super::redact::Redactor;
use super::text;
use crate::model::{CertificateFacts, Details, Evidence, HttpFacts, Observation, Phase, Verdict};

/// Bounds of what is kept, in characters and headers. Of a good check less is kept: every monitor holds one in memory.
struct Bounds {
    headers: usize,
    excerpt: usize,
    chain: bool,
}

const BAD: Bounds = Bounds { headers: 32, excerpt: 1024, chain: true };
const GOOD: Bounds = Bounds { headers: 16, excerpt: 256, chain: false };
/// Characters of a header's value.
const VALUE_MAX: usize = 256;
/// Characters of a header's name.
const NAME_MAX: usize = 128;
/// Characters of a distinguished name.
const SUBJECT_MAX: usize = 512;
/// Facts of the details, entries of a list in them, fields of an object in them.
const DETAILS_MAX: usize = 32;
/// Lists and objects in each other.
const DETAILS_DEPTH: usize = 2;

/// The evidence of a judged observation.
#[must_use]
pub fn evidence(observation: &Observation, judgement: &Judgement, redactor: &Redactor) -> Evidence {
    let bounds = if matches!(judgement.verdict, Verdict::Down | Verdict::Unknown) { BAD } else { GOOD };
    let http = observation.http.as_ref();
    Evidence {
        // As it is stored: what is read back is the same.
        checked_at: observation.started_at.trunc_subsecs(3),
        verdict: judgement.verdict,
        failure: judgement.failure,
        message: judgement.message.clone(),
        address: observation.address,
        status_code: http.map(|http| http.status),
        timings_us: timings(observation),
        headers: http.map(|http| headers(http, &bounds, redactor)).unwrap_or_default(),
        excerpt: http.and_then(|http| excerpt(&http.body, bounds.excerpt, redactor)),
        certificate: observation.certificate.as_deref().map(|facts| certificate(facts, bounds.chain)),
        details: observation.details.as_deref().map(|details| Box::new(self::details(details, redactor))),
    }
}

fn details(details: &Details, redactor: &Redactor) -> serde_json::Map<String, Value> {
    details.iter().take(DETAILS_MAX).map(|(name, value)| (name.to_owned(), cleaned(value, 0, redactor))).collect()
}

fn cleaned(value: &Value, depth: usize, redactor: &Redactor) -> Value {
    match value {
        Value::String(text) => Value::String(shown(text, VALUE_MAX, true, redactor).into()),
        Value::Array(items) if depth < DETAILS_DEPTH => {
            items.iter().take(DETAILS_MAX).map(|item| cleaned(item, depth + 1, redactor)).collect()
        }
        Value::Object(object) if depth < DETAILS_DEPTH => {
            let fields = object.iter().take(DETAILS_MAX);
            let fields = fields.map(|(name, value)| {
                (shown(name, NAME_MAX, false, redactor).into(), cleaned(value, depth + 1, redactor))
            });
            Value::Object(fields.collect())
        }
        Value::Array(_) | Value::Object(_) => Value::Null,
        scalar => scalar.clone(),
    }
}

fn timings(observation: &Observation) -> Vec<(Box<str>, u64)> {
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let phases = Phase::ALL.iter().filter_map(|phase| Some((phase.name(), observation.timings.get(*phase)?)));
    let total = std::iter::once(("total", observation.timings.total));
    phases.chain(total).map(|(name, time)| (name.into(), micros(time))).collect()
}

fn headers(http: &HttpFacts, bounds: &Bounds, redactor: &Redactor) -> Vec<(Box<str>, Box<str>)> {
    let kept = http.headers.iter().take(bounds.headers).map(|(name, value)| {
        let value = if is_sensitive(name) { "[redacted]".into() } else { shown(value, VALUE_MAX, false, redactor) };
        (shown(name, NAME_MAX, false, redactor), value)
    });
    kept.collect()
}

fn excerpt(body: &[u8], most: usize, redactor: &Redactor) -> Option<Box<str>> {
    if body.is_empty() {
        return None;
    }
    // A character has four bytes at the most; one more is there so that the cut is seen.
    let window = body.get(..(most + 1) * 4).unwrap_or(body);
    Some(shown(&String::from_utf8_lossy(window), most, true, redactor))
}

/// Secrets go before the cut, and so does a secret that the cut itself leaves the beginning of.
fn shown(text: &str, most: usize, lines: bool, redactor: &Redactor) -> Box<str> {
    // What lies far behind the cut is not looked through; 4 bytes a character, as above.
    let end = text.floor_char_boundary((most + 1) * 4);
    text::clean(&redactor.scrub(&text[..end]), most, lines).into()
}

/// What is known of the chain beyond the leaf was bounded and cleaned when it was read.
fn certificate(facts: &CertificateFacts, chain: bool) -> CertificateFacts {
    CertificateFacts {
        subject: text::clean(&facts.subject, SUBJECT_MAX, false),
        issuer: text::clean(&facts.issuer, SUBJECT_MAX, false),
        not_before: facts.not_before,
        not_after: facts.not_after,
        days_left: facts.days_left,
        fingerprint_sha256: facts.fingerprint_sha256.clone(),
        chain_length: facts.chain_length,
        more: facts.more.clone().filter(|_| chain),
    }
}

/// Whether a header's value is one that lets its holder in.
pub(super) fn is_sensitive(name: &str) -> bool {
    const EXACT: &[&str] = &["authorization", "cookie", "cookie2", "set-cookie", "set-cookie2", "authentication-info"];
    let name = name.as_bytes();
    let begins_with = |name: &[u8], part: &str| {
        name.get(..part.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(part.as_bytes()))
    };
    // By its first letter and not by `contains`, which prepares a search for each part: with all headers of all good
    // checks that was a tenth of what a check costs.
    let parts_from = |first: u8| -> &[&str] {
        match first.to_ascii_lowercase() {
            b'a' => &["api-key", "apikey"],
            b'c' => &["credential"],
            b'p' => &["password", "passwd"],
            b's' => &["secret", "session"],
            b't' => &["token"],
            b'x' => &["x-auth"],
            _ => &[],
        }
    };
    begins_with(name, "proxy-")
        || EXACT.iter().any(|exact| exact.as_bytes().eq_ignore_ascii_case(name))
        || name.iter().enumerate().any(|(at, first)| {
            parts_from(*first).iter().any(|part| name.get(at..).is_some_and(|rest| begins_with(rest, part)))
        })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::model::{Failure, Secret};

    fn seen(headers: &[(&str, &str)], body: &str) -> Observation {
        let mut observation = Observation::new(DateTime::UNIX_EPOCH);
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let body = body.as_bytes().to_vec().into();
        observation.http = Some(HttpFacts { status: 500, version: "HTTP/1.1", headers, body, ..HttpFacts::default() });
        observation
    }

    fn down() -> Judgement {
        Judgement { verdict: Verdict::Down, failure: Some(Failure::StatusUnexpected), message: None }
    }

    #[test]
    fn it_is_bounded_and_can_be_stored() {
        let many: Vec<(String, String)> = (0..99).map(|n| (format!("h{n}"), "v\0".repeat(5000))).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let observation = seen(&many, &"ü\u{0}\n".repeat(4000));
        let evidence = evidence(&observation, &down(), &Redactor::default());
        assert_eq!(evidence.headers.len(), 32);
        assert!(evidence.headers.iter().all(|(_, value)| value.chars().count() <= 256));
        let excerpt = evidence.excerpt.as_deref().unwrap();
        assert!(excerpt.chars().count() <= 1024 && excerpt.starts_with("ü\\u{0}\nü"));
        let json = serde_json::to_string(&evidence).unwrap();
        assert!(!json.contains("\\u0000"));
        assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
    }

    #[test]
    fn a_good_check_leaves_less() {
        let judgement = Judgement { verdict: Verdict::Up, failure: None, message: None };
        let evidence = evidence(&seen(&[], &"x".repeat(4000)), &judgement, &Redactor::default());
        assert_eq!(evidence.excerpt.unwrap().chars().count(), 256);
        assert_eq!(evidence.timings_us, [("total".into(), 0)]);
    }

    #[test]
    fn secrets_go_wherever_the_cut_falls() {
        let redactor = Redactor::new(&[Secret::new("correct-horse-battery")]);
        for before in 900..1100 {
            let body = format!("{}correct-horse-battery{}", "x".repeat(before), "y".repeat(4000));
            let excerpt = evidence(&seen(&[], &body), &down(), &redactor).excerpt.unwrap();
            assert!(!excerpt.contains("corr"), "{before}: {excerpt}");
        }
        let headers =
            [("x-echo", "a correct-horse-battery"), ("Set-Cookie", "id=1"), ("x-csrf-token", "t"), ("etag", "e")];
        let evidence = evidence(&seen(&headers, ""), &down(), &redactor);
        let values: Vec<&str> = evidence.headers.iter().map(|(_, value)| &**value).collect();
        assert_eq!(values, ["a [secret]", "[redacted]", "[redacted]", "e"]);
        assert_eq!(evidence.excerpt, None);
    }
}
