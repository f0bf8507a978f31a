//! A monitor's URL: what is wrong with it, said better than a URL parser can.

use url::Url;

use super::diagnostic::nearest;
use crate::probe::Kind;
use crate::probe::form::{Form, NotOfForm};

/// A URL as written; with references expanded it may be four times as long.
const MAX_CHARS: usize = 2048;

/// What is wrong, and what is allowed. Quotes nothing of the URL but its scheme.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) what: String,
    pub(crate) allowed: String,
}

fn complaint<T>(what: impl Into<String>, allowed: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint { what: what.into(), allowed: allowed.into() })
}

/// Parses an expanded URL and finds the kind that its scheme names. `later` are schemes of kinds to come.
pub(crate) fn parse(
    written: &str,
    expanded: &str,
    kinds: &[&'static Kind],
    later: &[&str],
) -> Result<(Url, &'static Kind), Complaint> {
    if expanded.is_empty() {
        return complaint("is empty", schemes_allowed(kinds));
    }
    if written.chars().count() > MAX_CHARS || expanded.len() > 4 * MAX_CHARS {
        return complaint("is too long", format!("at most {MAX_CHARS} characters"));
    }
    let kind = scheme(expanded, kinds, later)?;
    match kind.form.parse(expanded) {
        Ok(url) => Ok((url, kind)),
        Err(NotOfForm(what)) if what.contains("space") && kind.form != Form::Command => {
            complaint(what, "write %20 for a space")
        }
        Err(NotOfForm(what)) => complaint(what, format!("such as {}", kind.example_url)),
    }
}

fn scheme(text: &str, kinds: &[&'static Kind], later: &[&str]) -> Result<&'static Kind, Complaint> {
    let none = || complaint("has no scheme", schemes_allowed(kinds));
    let Some((scheme, rest)) = text.split_once(':') else { return none() };
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let (head, lower) = (scheme.as_bytes().first(), scheme.to_ascii_lowercase());
    if !head.is_some_and(u8::is_ascii_alphabetic) || !scheme.bytes().all(valid) {
        return none();
    }
    if let Some(kind) = kinds.iter().find(|kind| kind.schemes.contains(&&*lower)) {
        return Ok(kind);
    }
    if later.contains(&&*lower) {
        return complaint(format!("scheme {lower:?} is not built yet in this version"), schemes_allowed(kinds));
    }
    // "example.com:443" and "user:password@host" are hosts, not schemes.
    if !rest.starts_with("//")
        && (scheme.contains('.') || rest.contains('@') || rest.starts_with(|c: char| c.is_ascii_digit()))
    {
        return none();
    }
    let known = kinds.iter().flat_map(|kind| kind.schemes.iter().copied());
    match nearest(&lower, known) {
        Some(near) => complaint(format!("unknown scheme {lower:?}"), format!("did you mean {near:?}?")),
        None => complaint(format!("unknown scheme {:?}", short(&lower)), schemes_allowed(kinds)),
    }
}

fn short(scheme: &str) -> String {
    scheme.chars().take(20).collect()
}

fn schemes_allowed(kinds: &[&'static Kind]) -> String {
    let schemes: Vec<String> =
        kinds.iter().flat_map(|kind| kind.schemes.iter().map(|scheme| begin(kind, scheme))).collect();
    format!("must begin with one of {}", schemes.join(", "))
}

fn begin(kind: &Kind, scheme: &str) -> String {
    let slashes = if kind.form == Form::Authority { "//" } else { "" };
    format!("{scheme}:{slashes}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HTTP: Kind = Kind {
        name: "http",
        schemes: &["http", "https"],
        form: Form::Authority,
        example_url: "https://example.com/path",
        keys: &[],
        prepare: |_, _| None,
        example: "",
    };
    const TCP: Kind = Kind {
        name: "tcp",
        schemes: &["tcp"],
        form: Form::Authority,
        example_url: "tcp://example.com:1234",
        keys: &[],
        prepare: |_, _| None,
        example: "",
    };
    const KINDS: &[&Kind] = &[&HTTP, &TCP];

    fn read(text: &str) -> Result<(Url, &'static Kind), Complaint> {
        parse(text, text, KINDS, &["icmp", "dns"])
    }

    #[test]
    fn good_ones_find_their_kind() {
        for (text, kind) in [
            ("http://h", "http"),
            ("HTTPS://example.com:8443/p?q#f", "http"),
            ("tcp://h:1", "tcp"),
            ("https://[::1]/", "http"),
        ] {
            assert_eq!(read(text).unwrap().1.name, kind, "{text}");
        }
    }

    #[test]
    fn bad_ones_say_what_to_write() {
        let all = "must begin with one of http://, https://, tcp://";
        for (text, what, allowed) in [
            ("", "is empty", all),
            ("example.com", "has no scheme", all),
            ("example.com:443", "has no scheme", all),
            ("localhost:80/x", "has no scheme", all),
            ("user:hunter2@host", "has no scheme", all),
            ("//example.com", "has no scheme", all),
            ("htps://x", "unknown scheme \"htps\"", "did you mean \"https\"?"),
            ("gopher://x", "unknown scheme \"gopher\"", all),
            ("icmp:h", "scheme \"icmp\" is not built yet in this version", all),
            ("https:example.com", "has no \"//\" behind the scheme", "such as https://example.com/path"),
            ("https://a b/", "has a space or control character in it", "write %20 for a space"),
            ("https://h:99999/", "is not a URL: invalid port number", "such as https://example.com/path"),
            ("https://", "is not a URL: empty host", "such as https://example.com/path"),
            ("tcp:///x", "has no host", "such as tcp://example.com:1234"),
        ] {
            let found = read(text).err().unwrap();
            assert_eq!((&*found.what, &*found.allowed), (what, allowed), "{text}");
        }
        assert_eq!(read(&format!("http://{}", "x".repeat(3000))).err().unwrap().what, "is too long");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in r"(https?|tcp|icmp|[a-z]{0,3}):?/{0,3}(.{0,12}@)?.{0,20}(:[0-9]{0,6})?.{0,5}") {
            if let Err(found) = read(&text) {
                prop_assert!(!found.what.is_empty() && !found.allowed.is_empty());
            }
        }
    }
}
