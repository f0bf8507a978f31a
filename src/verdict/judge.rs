//! Holds an observation against expectations. Pure: no clock, no I/O.
//!
//! The most severe verdict wins, and of equals the first in this order: a fault of the probe, `status`, `headers`, the
//! body's texts and patterns, `json`, `value`, `latency_down_above`; then what only degrades: a fault that degrades,
//! `latency_below`, `certificate_days_left`. A fault that is down or unknown ends the judgement: what was not measured
//! is not judged.

use std::borrow::Cow;
use std::time::Duration;

use super::expectation::json::{JsonRule, JsonTest};
use super::expectation::value::ValueTest;
use super::expectation::{BodyRule, Expectations, HeaderRule, HeaderTest, Rules};
use super::redact::Redactor;
use super::text;
use crate::model::{Answer, Check, Failure, HttpFacts, MonitorId, Observation, Verdict};
use crate::settings::duration;

/// A message is at most so many characters.
const MESSAGE_MAX: usize = 300;
/// A quotation inside a message is at most so many characters.
const QUOTE_MAX: usize = 80;

/// What an observation means. The message is one sentence without secrets, safe to show, at most 300 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not up.
    pub failure: Option<Failure>,
    /// The failure in a sentence.
    pub message: Option<Box<str>>,
}

impl Judgement {
    const UP: Self = Self { verdict: Verdict::Up, failure: None, message: None };
}

/// What was found wrong, before it is made a sentence that may be shown.
struct Finding(Verdict, Failure, String);

/// Judges an observation.
#[must_use]
pub fn judge(observation: &Observation, expect: &Expectations, redactor: &Redactor) -> Judgement {
    let Some(Finding(verdict, failure, message)) = find(observation, expect.rules(), redactor) else {
        return Judgement::UP;
    };
    // Once more as a whole: a fault's sentence was made by a probe, which may quote what the target sent.
    let message = text::clean(&redactor.scrub(&message), MESSAGE_MAX, false);
    Judgement { verdict, failure: Some(failure), message: Some(message.into()) }
}

/// The check that a judged observation makes: a row of `monitor_checks`. Without details, which are evidence's to clean.
#[must_use]
pub fn check(monitor: MonitorId, attempt: u16, observation: &Observation, judgement: Judgement) -> Check {
    Check {
        monitor,
        verdict: judgement.verdict,
        failure: judgement.failure,
        message: judgement.message,
        status_code: observation.http.as_ref().map(|http| http.status),
        timings: observation.timings,
        address: observation.address,
        http_version: observation.http.as_ref().map(|http| http.version),
        certificate: observation.certificate.clone(),
        details: None,
        attempt,
        checked_at: observation.started_at,
    }
}

fn find(observation: &Observation, rules: &Rules, redactor: &Redactor) -> Option<Finding> {
    let fault = observation.fault.as_ref();
    let fault = fault.map(|fault| {
        let verdict = observation.graded.unwrap_or(fault.failure.verdict());
        Finding(verdict, fault.failure, fault.message.clone())
    });
    if matches!(fault, Some(Finding(Verdict::Down | Verdict::Unknown, ..))) {
        return fault;
    }
    let response = Response { http: observation.http.as_ref(), redactor };
    let total = observation.timings.total;
    response
        .status(rules)
        .or_else(|| rules.headers.iter().find_map(|rule| response.header(rule)))
        .or_else(|| response.body(&rules.body))
        .or_else(|| response.json(&rules.json))
        .or_else(|| response.value(rules, observation.value.as_ref()))
        .or_else(|| slow(total, rules.latency_down_above, "latency_down_above", Verdict::Down))
        .or(fault)
        .or_else(|| slow(total, rules.latency_below, "latency_below", Verdict::Degraded))
        .or_else(|| expiring(observation, rules))
}

fn slow(total: Duration, bound: Option<Duration>, key: &str, verdict: Verdict) -> Option<Finding> {
    let bound = bound.filter(|bound| total > *bound)?;
    let message = format!("answered in {} ms, above {} ({key})", total.as_millis(), duration::format(bound));
    Some(Finding(verdict, Failure::LatencyExceeded, message))
}

fn expiring(observation: &Observation, rules: &Rules) -> Option<Finding> {
    let least = rules.certificate_days_left?;
    let left = observation.certificate.as_ref()?.days_left;
    if left >= least {
        return None;
    }
    let when = match left {
        i64::MIN..=-1 => format!("expired {} days ago", left.unsigned_abs()),
        0 => "expires within a day".to_owned(),
        1 => "expires in 1 day".to_owned(),
        _ => format!("expires in {left} days"),
    };
    let message = format!("a certificate of the chain {when}, expected at least {least} days (certificate_days_left)");
    Some(Finding(Verdict::Degraded, Failure::CertExpiring, message))
}

/// The response of an HTTP probe, where there is one: without it there is nothing to hold against these rules.
struct Response<'a> {
    http: Option<&'a HttpFacts>,
    redactor: &'a Redactor,
}

impl Response<'_> {
    /// Secrets go before the cut, which could leave a part of one.
    fn quote(&self, text: &str) -> String {
        text::quote(&self.redactor.scrub(text), QUOTE_MAX)
    }

    fn status(&self, rules: &Rules) -> Option<Finding> {
        let http = self.http.filter(|http| !rules.status.contains(http.status))?;
        let message = format!("answered {}, expected {}", http.status, rules.status);
        Some(Finding(Verdict::Down, Failure::StatusUnexpected, message))
    }

    fn header(&self, rule: &HeaderRule) -> Option<Finding> {
        let mut first = None;
        for (name, value) in &self.http?.headers {
            if !name.eq_ignore_ascii_case(&rule.name) {
                continue;
            }
            let holds = match &rule.test {
                HeaderTest::Equals(wanted) => value == wanted,
                HeaderTest::Contains(wanted) => value.contains(&**wanted),
                HeaderTest::Matches(regex) => regex.is_match(value),
            };
            if holds {
                return None;
            }
            first.get_or_insert(value);
        }
        let wanted = match &rule.test {
            HeaderTest::Equals(wanted) => self.quote(wanted),
            HeaderTest::Contains(wanted) => format!("one that contains {}", self.quote(wanted)),
            HeaderTest::Matches(regex) => format!("one that matches {}", self.quote(regex.as_str())),
        };
        let name = &rule.name;
        let message = match first {
            // What a session cookie or a token is must not be told, whatever it was compared with.
            Some(_) if super::evidence::is_sensitive(name) => {
                format!("header {name} has another value than the expected one")
            }
            Some(value) => format!("header {name} is {}, expected {wanted}", self.quote(value)),
            None => format!("header {name} is missing, expected {wanted}"),
        };
        Some(Finding(Verdict::Down, Failure::HeaderMismatch, message))
    }

    fn body(&self, rules: &[BodyRule]) -> Option<Finding> {
        if rules.is_empty() {
            return None;
        }
        let body: Cow<'_, str> = String::from_utf8_lossy(&self.http?.body);
        let undecoded = self.undecoded();
        let found = rules.iter().find_map(|rule| match rule {
            BodyRule::Contains(wanted) if !body.contains(&**wanted) => {
                Some((Failure::BodyMismatch, format!("the body does not contain {}", self.quote(wanted))))
            }
            BodyRule::Matches(regex) if !regex.is_match(&body) => {
                Some((Failure::BodyMismatch, format!("the body does not match {}", self.quote(regex.as_str()))))
            }
            BodyRule::NotContains(unwanted) if body.contains(&**unwanted) => {
                Some((Failure::BodyForbidden, format!("the body contains {}", self.quote(unwanted))))
            }
            BodyRule::NotMatches(regex) => regex.find(&body).map(|found| {
                let (found, pattern) = (self.quote(found.as_str()), self.quote(regex.as_str()));
                (Failure::BodyForbidden, format!("the body contains {found}, which matches {pattern}"))
            }),
            _ => None,
        });
        let (failure, message) = match (found, undecoded) {
            (Some((Failure::BodyMismatch, message)), Some(why)) => (Failure::BodyMismatch, format!("{message}: {why}")),
            (Some(found), _) => found,
            // What must not be there may well be, where nobody can look for it.
            (None, Some(why)) if rules.iter().any(BodyRule::forbids) => {
                (Failure::BodyMismatch, format!("the body cannot be read: {why}"))
            }
            (None, _) => return None,
        };
        Some(Finding(Verdict::Down, failure, message))
    }

    /// Why the body cannot be read, when it came in an encoding that is not decoded and is no text as it is.
    fn undecoded(&self) -> Option<String> {
        let http = self.http?;
        let (_, encoding) = http.headers.iter().find(|(name, _)| &**name == "content-encoding")?;
        let decoded =
            ["", "identity", "gzip", "x-gzip", "deflate"].iter().any(|name| encoding.trim().eq_ignore_ascii_case(name));
        let unread = !decoded && std::str::from_utf8(&http.body).is_err();
        unread.then(|| {
            format!("it is encoded as {}, which nobody asked for and is not decoded here", self.quote(encoding))
        })
    }

    fn json(&self, rules: &[JsonRule]) -> Option<Finding> {
        if rules.is_empty() {
            return None;
        }
        let body = &self.http?.body;
        // RFC 8259, section 8.1: a parser may ignore a byte order mark.
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let message = match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(document) => rules.iter().find_map(|rule| self.json_rule(rule, &document))?,
            Err(_) if body.is_empty() => "the body is empty, expected JSON".to_owned(),
            Err(error) => match self.undecoded() {
                Some(why) => format!("the body is not JSON: {why}"),
                None => format!("the body is not JSON (line {}, column {})", error.line(), error.column()),
            },
        };
        Some(Finding(Verdict::Down, Failure::JsonMismatch, message))
    }

    /// Of a kind without a query there is nothing to hold against it.
    fn value(&self, rules: &Rules, answer: Option<&Answer>) -> Option<Finding> {
        let test = rules.value.as_ref()?;
        let message = match answer? {
            Answer::Value(value) if test.holds(value) => return None,
            Answer::Value(value) => format!("the query gave {}, expected {}", self.quote(value), self.safe(test)),
            Answer::Null => format!("the query gave no value (null), expected {}", self.safe(test)),
            Answer::Nothing => format!("the query gave nothing, expected {}", self.safe(test)),
        };
        Some(Finding(Verdict::Down, Failure::QueryFailed, message))
    }

    fn safe(&self, test: &ValueTest) -> String {
        text::clean(&self.redactor.scrub(&test.to_string()), QUOTE_MAX, false)
    }

    /// The sentence when a rule does not hold.
    fn json_rule(&self, rule: &JsonRule, document: &serde_json::Value) -> Option<String> {
        let nodes = rule.path.query(document);
        let path = self.quote(&rule.text);
        match (&rule.test, nodes.first()) {
            (JsonTest::Exists(true), Some(_)) | (JsonTest::Exists(false), None) => return None,
            (JsonTest::Exists(false), Some(node)) => {
                return Some(format!("JSON at {path} is {}, expected nothing there", self.show(node)));
            }
            (_, None) => return Some(format!("JSON has nothing at {path}")),
            _ => {}
        }
        let node = nodes.iter().find(|node| !holds(&rule.test, node))?;
        let wanted = match &rule.test {
            JsonTest::Equals(wanted) => self.scalar(wanted),
            JsonTest::NotEquals(unwanted) => format!("anything but {}", self.scalar(unwanted)),
            JsonTest::Above(bound) => format!("a number above {bound}"),
            JsonTest::Below(bound) => format!("a number below {bound}"),
            JsonTest::Matches(regex) => format!("a match of {}", self.quote(regex.as_str())),
            JsonTest::Exists(_) => return None,
        };
        Some(format!("JSON at {path} is {}, expected {wanted}", self.show(node)))
    }

    fn scalar(&self, scalar: &super::expectation::json::Scalar) -> String {
        match scalar {
            super::expectation::json::Scalar::Text(text) => self.quote(text),
            other => other.to_string(),
        }
    }

    fn show(&self, node: &serde_json::Value) -> String {
        match node {
            serde_json::Value::String(text) => self.quote(text),
            serde_json::Value::Array(items) => format!("an array of {}", items.len()),
            serde_json::Value::Object(_) => "an object".to_owned(),
            scalar => scalar.to_string(),
        }
    }
}

fn holds(test: &JsonTest, node: &serde_json::Value) -> bool {
    match test {
        JsonTest::Equals(wanted) => wanted.equals(node),
        JsonTest::NotEquals(unwanted) => !unwanted.equals(node),
        JsonTest::Above(bound) => node.as_f64().is_some_and(|number| number > *bound),
        JsonTest::Below(bound) => node.as_f64().is_some_and(|number| number < *bound),
        JsonTest::Matches(regex) => match node {
            serde_json::Value::String(text) => regex.is_match(text),
            serde_json::Value::Number(_) | serde_json::Value::Bool(_) => regex.is_match(&node.to_string()),
            _ => false,
        },
        JsonTest::Exists(wanted) => *wanted,
    }
}

#[cfg(test)]
mod tests;
