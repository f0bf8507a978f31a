//! What a registry says of a domain (RFC 9083), and what that means.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Failure, Fault, Observation};

/// Status values and their characters that are kept.
const MAX_STATUS: usize = 16;
const MAX_CHARS: usize = 128;
/// An answer; registries send some 20 KB.
pub(super) const MAX_BYTES: usize = 128 * 1024;
/// Objects and commas of an answer: read, an object of 8 bytes takes 600. Those of registries have some hundred.
const MAX_OBJECTS: usize = 512;
const MAX_COMMAS: usize = 4096;

/// What is kept of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// False: the registry does not know the name (404).
    pub(super) registered: bool,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) status: Vec<String>,
    pub(super) registrar: Option<String>,
}

impl Answer {
    /// None: not an answer about this domain.
    pub(super) fn read(body: &[u8], domain: &str) -> Option<Self> {
        let answer: Value =
            Some(body).filter(|body| is_of_size(body)).and_then(|body| serde_json::from_slice(body).ok())?;
        let is_domain = answer["objectClassName"].as_str()?.eq_ignore_ascii_case("domain");
        let named = answer["ldhName"].as_str().map(|name| name.trim_end_matches('.'));
        if !is_domain || named.is_some_and(|name| !name.eq_ignore_ascii_case(domain)) {
            return None;
        }
        let texts = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten().filter_map(Value::as_str).take(MAX_STATUS);
            items.map(|text| text.chars().take(MAX_CHARS).collect::<String>().to_ascii_lowercase()).collect()
        };
        Some(Self {
            registered: true,
            expires_at: event(&answer, "expiration"),
            status: texts(&answer["status"]),
            registrar: registrar(&answer),
        })
    }

    /// Tells the facts.
    pub(super) fn note(&self, now: DateTime<Utc>, seen: &mut Observation) {
        if let Some(expires_at) = self.expires_at {
            seen.note("expires_at", expires_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
            seen.note("days_left", (expires_at - now).num_days());
        }
        if let Some(registrar) = &self.registrar {
            seen.note("registrar", registrar.as_str());
        }
        if !self.status.is_empty() {
            seen.note("domain_status", self.status.clone());
        }
    }

    /// What is wrong with the domain at this time; an error: the registry does not tell.
    pub(super) fn judge(&self, domain: &str, now: DateTime<Utc>, least_days: i64) -> Result<Option<Fault>, String> {
        let fault = |failure, text: String| Ok(Some(Fault::new(failure, text)));
        if !self.registered {
            let text =
                format!("{domain} is not registered (the registry answers 404), or is a name below a registered one");
            return fault(Failure::QueryFailed, text);
        }
        // RFC 8056, 2: what a registry does with a domain that was not renewed.
        if let Some(status) =
            self.status.iter().find(|status| matches!(&***status, "redemption period" | "pending delete"))
        {
            let text = format!("{domain} was deleted and is in the {status}: have the registrar restore it at once");
            return fault(Failure::DomainExpired, text);
        }
        let Some(expires_at) = self.expires_at else {
            return Err(format!("the registry does not tell when {domain} expires"));
        };
        let (day, left) = (expires_at.date_naive(), (expires_at - now).num_days());
        if expires_at <= now {
            return fault(Failure::DomainExpired, format!("{domain} expired {} days ago ({day}): renew it", -left));
        }
        if left < least_days {
            let text =
                format!("{domain} expires in {left} days ({day}), expected at least {least_days} (domain_days_left)");
            return fault(Failure::DomainExpiring, text);
        }
        Ok(None)
    }
}

/// Whether an answer, read, takes little memory. What stands in texts is counted as well.
fn is_of_size(body: &[u8]) -> bool {
    let count = |wanted: u8| body.iter().filter(|byte| **byte == wanted).count();
    count(b'{') <= MAX_OBJECTS && count(b',') <= MAX_COMMAS
}

/// The time of an event (RFC 9083, 4.5).
fn event(answer: &Value, action: &str) -> Option<DateTime<Utc>> {
    let events = answer["events"].as_array()?;
    let event =
        events.iter().find(|event| event["eventAction"].as_str().is_some_and(|a| a.eq_ignore_ascii_case(action)))?;
    DateTime::parse_from_rfc3339(event["eventDate"].as_str()?).ok().map(|time| time.to_utc())
}

/// The formatted name of the registrar's jCard (RFC 7095).
fn registrar(answer: &Value) -> Option<String> {
    let is_registrar = |entity: &&Value| {
        entity["roles"].as_array().into_iter().flatten().any(|role| role.as_str() == Some("registrar"))
    };
    let entity = answer["entities"].as_array()?.iter().find(is_registrar)?;
    let properties = entity["vcardArray"][1].as_array()?;
    let name = properties.iter().find(|property| property[0].as_str() == Some("fn"))?[3].as_str()?;
    Some(name.chars().take(MAX_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn answer(expiration: &str, status: &[&str]) -> Answer {
        let body = json!({
            "objectClassName": "domain", "ldhName": "EXAMPLE.org.", "status": status,
            "events": [{ "eventAction": "registration", "eventDate": "1999-01-01T00:00:00Z" },
                       { "eventAction": "expiration", "eventDate": expiration }],
            "entities": [{ "roles": ["abuse"] }, { "roles": ["registrar"], "vcardArray":
                ["vcard", [["version", {}, "text", "4.0"], ["fn", {}, "text", "Some Registrar"]]] }],
        });
        Answer::read(body.to_string().as_bytes(), "example.org").unwrap()
    }

    #[test]
    fn dates_and_states_have_their_names() {
        use Failure::*;
        for (expiration, status, wanted) in [
            ("2027-11-22T12:00:00Z", "active", None),
            ("2026-12-22T12:00:00Z", "active", None),
            ("2026-12-22T11:59:59Z", "active", Some(DomainExpiring)),
            ("2026-11-22T14:00:01+02:00", "active", Some(DomainExpiring)),
            ("2026-11-22T14:00:00+02:00", "active", Some(DomainExpired)),
            ("2020-01-01T00:00:00.5Z", "active", Some(DomainExpired)),
            ("2027-11-22T12:00:00Z", "Redemption Period", Some(DomainExpired)),
            ("2027-11-22T12:00:00Z", "pending delete", Some(DomainExpired)),
            ("2027-11-22T12:00:00Z", "client hold", None),
        ] {
            let answer = answer(expiration, &[status]);
            assert_eq!(answer.registrar.as_deref(), Some("Some Registrar"));
            let fault = answer.judge("example.org", now(), 30).unwrap();
            assert_eq!(fault.map(|fault| fault.failure), wanted, "{expiration} {status}");
        }
        assert!(answer("soon", &[]).judge("example.org", now(), 30).unwrap_err().contains("does not tell"));
        let unknown = Answer::default().judge("example.org", now(), 30).unwrap().unwrap();
        assert_eq!(unknown.failure, QueryFailed);
    }

    #[test]
    fn other_answers_are_none() {
        for body in [
            "",
            "[]",
            "{}",
            "null",
            "{\"objectClassName\":\"entity\"}",
            "{\"objectClassName\":\"domain\",\"ldhName\":\"other.org\"}",
        ] {
            assert_eq!(Answer::read(body.as_bytes(), "example.org"), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\{\"objectClassName\":\"domain\",\"(events|status|entities)\":[\\[\\]{}\":a-z0-9,]{0,40}\\}") {
            let _ = Answer::read(text.as_bytes(), "example.org");
        }
    }
}
