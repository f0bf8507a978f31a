//! What stands in a request line: the path's segments, the query's parameters, cursors.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use hyper::StatusCode;
use url::form_urlencoded;
use uuid::Uuid;

use super::reply::Problem;
use crate::access::read::Before;
use crate::model::MonitorId;

/// Rows of a page where none is given, and at most.
pub(super) const LIMIT_DEFAULT: u16 = 100;
pub(super) const LIMIT_MOST: u16 = 1000;
/// Characters of a parameter.
const VALUE_MOST: usize = 1000;

/// The segments of a path, decoded once. What names nothing (control characters, bytes that are no text) is refused.
pub(super) fn segments(path: &str) -> Result<Vec<String>, Problem> {
    let bad = || {
        let text = "the path is not percent-encoded text without control characters";
        Problem::new(StatusCode::BAD_REQUEST, "bad_path", "bad request", text)
    };
    path.strip_prefix('/').unwrap_or(path).split('/').map(|segment| decoded(segment).ok_or_else(bad)).collect()
}

fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit(rest.next()?)? * 16 + digit(rest.next()?)?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

/// The parameters of a query: each is known to the route, given once, and without control characters.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut found = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let text = match known {
                    [] => "this route takes no parameters".to_owned(),
                    known => format!("this route takes {}", known.join(", ")),
                };
                return Err(Problem::parameter(&name, "unknown_parameter", text));
            }
            if value.chars().any(char::is_control) || value.chars().count() > VALUE_MOST {
                let text = format!("at most {VALUE_MOST} characters, and no control characters");
                return Err(Problem::parameter(&name, "bad_parameter", text));
            }
            if found.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(Problem::parameter(&name, "bad_parameter", "given twice"));
            }
        }
        Ok(Self(found))
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// A value that `read` understands; `allowed` is told otherwise.
    pub(super) fn value<T>(
        &self,
        name: &str,
        allowed: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        read(text).map(Some).ok_or_else(|| Problem::parameter(name, "bad_parameter", format!("must be {allowed}")))
    }

    pub(super) fn limit(&self) -> Result<u16, Problem> {
        let read = |text: &str| text.parse().ok().filter(|limit| (1..=LIMIT_MOST).contains(limit));
        Ok(self.value("limit", "a whole number, 1 to 1000", read)?.unwrap_or(LIMIT_DEFAULT))
    }

    pub(super) fn days(&self) -> Result<i32, Problem> {
        let read = |text: &str| text.parse().ok().filter(|days| (1..=3650).contains(days));
        Ok(self.value("days", "a whole number, 1 to 3650", read)?.unwrap_or(30))
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, Problem> {
        self.value(name, "a time such as 2026-11-22T12:00:00Z (RFC 3339)", |text| {
            // A plus sign that nobody encoded reads as a space.
            let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+")).ok()?.to_utc();
            is_sane(time).then_some(time)
        })
    }

    pub(super) fn cursor<T>(&self, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        self.value("cursor", "the `next` of a page before, unchanged", |text| {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            read(std::str::from_utf8(&bytes).ok()?)
        })
    }

    /// The path and query of the next page.
    pub(super) fn next(path: &str, query: Option<&str>, cursor: &str) -> String {
        let kept = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).filter(|(name, _)| name != "cursor");
        let mut next = form_urlencoded::Serializer::new(String::new());
        next.extend_pairs(kept).append_pair("cursor", cursor);
        format!("{path}?{}", next.finish())
    }
}

/// What the database can hold and compare.
fn is_sane(time: DateTime<Utc>) -> bool {
    (0..253_402_300_800).contains(&time.timestamp())
}

/// Cursors are texts that only we read: the letter says of which kind.
pub(super) fn cursor_of_monitor(id: MonitorId) -> String {
    URL_SAFE_NO_PAD.encode(format!("m{id}"))
}

pub(super) fn monitor_of_cursor(text: &str) -> Option<MonitorId> {
    text.strip_prefix('m').and_then(|id| Uuid::try_parse(id).ok()).map(MonitorId)
}

pub(super) fn cursor_of_place(place: Before) -> String {
    URL_SAFE_NO_PAD.encode(format!("t{}.{}", place.at.timestamp_micros(), place.id))
}

pub(super) fn place_of_cursor(text: &str) -> Option<Before> {
    let (micros, id) = text.strip_prefix('t')?.split_once('.')?;
    let at = DateTime::from_timestamp_micros(micros.parse().ok()?).filter(|at| is_sane(*at))?;
    Some(Before { at, id: id.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(segments("/a/b%20c/%E2%82%AC").unwrap(), ["a", "b c", "€"]);
        assert_eq!(segments("/a%252F").unwrap(), ["a%2F"]);
        assert_eq!(segments("/a%2Fb").unwrap(), ["a/b"]);
        assert_eq!(segments("//").unwrap(), ["", ""]);
        for bad in ["/%00", "/%", "/%4", "/%zz", "/%ff", "/a%0ab", "/%C3", "/%7f", "/%+1"] {
            assert!(segments(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_typo_is_told() {
        let known = ["limit", "status"];
        assert!(Query::parse(None, &[]).is_ok() && Query::parse(Some(""), &[]).is_ok());
        assert!(Query::parse(Some("limit=1&status=up"), &known).is_ok());
        for bad in
            ["limits=1", "limit=1&limit=2", "status=%00", "status=a%0Ab", &format!("status={}", "x".repeat(2000))]
        {
            assert!(Query::parse(Some(bad), &known).is_err(), "{bad}");
        }
        let limit = |text: &str| Query::parse(Some(text), &known).unwrap().limit();
        assert_eq!((limit("").unwrap(), limit("limit=1000").unwrap()), (100, 1000));
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=99999999999"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_with_and_without_encoding() {
        let time = |text: &str| Query::parse(Some(text), &["from"]).unwrap().time("from");
        let expected = time("from=2026-11-22T12:00:00Z").unwrap();
        assert!(expected.is_some());
        assert_eq!(time("from=2026-11-22T13:00:00%2B01:00").unwrap(), expected);
        assert_eq!(time("from=2026-11-22T13:00:00+01:00").unwrap(), expected);
        for bad in ["from=yesterday", "from=2026-11-22", "from=1969-12-31T23:59:59Z", "from=", "from=infinity"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_next_page_keeps_the_filters() {
        assert_eq!(Query::next("/p", Some("q=a%26b&cursor=old&limit=5"), "new"), "/p?q=a%26b&limit=5&cursor=new");
        assert_eq!(Query::next("/p", None, "new"), "/p?cursor=new");
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back(micros in 0_i64..253_402_300_800_000_000, id in 0_i64..) {
            let place = Before { at: DateTime::from_timestamp_micros(micros).unwrap(), id };
            let query = format!("cursor={}", cursor_of_place(place));
            let query = Query::parse(Some(&query), &["cursor"]).unwrap();
            prop_assert_eq!(query.cursor(place_of_cursor).unwrap(), Some(place));
            prop_assert!(query.cursor(monitor_of_cursor).is_err());
        }

        #[test]
        fn a_foreign_cursor_is_refused_or_harmless(text in "[A-Za-z0-9_-]{0,40}") {
            let query = Query::parse(Some(&format!("cursor={text}")), &["cursor"]).unwrap();
            if let Ok(Some(place)) = query.cursor(place_of_cursor) {
                prop_assert!(is_sane(place.at));
            }
        }
    }
}
