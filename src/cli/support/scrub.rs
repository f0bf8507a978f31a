//! Texts without secrets: those that are known, by what they are; and others by where they stand.

use std::borrow::Cow;

use regex::{Captures, Regex};
use serde_json::Value;

use super::super::{Exit, Stop};
use crate::model::Secret;
use crate::verdict::redact::Redactor;

/// What stands where something was taken away.
pub(in crate::cli) const MARK: &str = "<redacted>";

/// Parameters of addresses whose values say how, and not who.
const HARMLESS_PARAMETERS: &[&str] =
    &["sslmode", "host", "port", "dbname", "connect_timeout", "application_name", "target_session_attrs"];
/// A longer piece of a path with letters and digits is more likely a key than a word.
const LONGEST_WORD: usize = 15;
/// Longer ones are keys without digits as well.
const LONGEST_WORDS: usize = 39;

/// Removes the secrets of one installation.
pub(in crate::cli) struct Scrubber {
    known: Redactor,
    addresses: Regex,
    patterns: Vec<(Regex, &'static str)>,
}

impl Scrubber {
    pub(super) fn new(secrets: &[Secret]) -> Result<Self, Stop> {
        let compiled = |pattern: &str| {
            Regex::new(pattern)
                .map_err(|error| Stop::new(Exit::Failure, format!("a pattern does not compile: {error}")))
        };
        let patterns = [
            // A token of ours.
            (r"lamp_[0-9a-fA-F]{8,}", "<redacted>"),
            (r"(?i)\b(bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{8,}", "$1 <redacted>"),
            (
                r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]*(?:key|token|secret))(\s*[:=]\s*)[^\r\n]+",
                "$1$2<redacted>",
            ),
            (
                r#"(?i)([a-z0-9_-]*(?:password|passwd|secret|api[_-]?key|access[_-]?key|token))(["']?\s*[:=]\s*["']?)[^\s"',;&]{4,}"#,
                "$1$2<redacted>",
            ),
            (r"/(ping|api/push)/[^/\s\x22?]+", "/$1/<redacted>"),
        ];
        let patterns: Result<Vec<_>, Stop> =
            patterns.into_iter().map(|(pattern, with)| Ok((compiled(pattern)?, with))).collect();
        Ok(Self {
            known: Redactor::new(secrets),
            addresses: compiled(r#"[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>]+"#)?,
            patterns: patterns?,
        })
    }

    /// Free text, line by line: a log, an error, metrics.
    pub(super) fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            out.push_str(&self.line(line));
            out.push_str(end);
        }
        out
    }

    fn line(&self, line: &str) -> String {
        let known = self.known.scrub(line);
        let mut text = self.addresses.replace_all(&known, |found: &Captures<'_>| address(&found[0]).0).into_owned();
        for (pattern, with) in &self.patterns {
            if let Cow::Owned(changed) = pattern.replace_all(&text, *with) {
                text = changed;
            }
        }
        text
    }

    /// Every text of a JSON value; those under `url` are addresses, whatever their form.
    pub(super) fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(text) if key == "url" => *text = self.text(&address(text).0),
                        other => self.json(other),
                    }
                }
            }
            _ => {}
        }
    }
}

/// An address without user, keys in its path, values of its query, arguments of its command; and what was taken away.
pub(super) fn address(text: &str) -> (String, Vec<Secret>) {
    let mut taken = Vec::new();
    let shown = take_address(text, &mut taken);
    (shown, taken)
}

fn take_address(text: &str, taken: &mut Vec<Secret>) -> String {
    if let Some(command) = text.strip_prefix("exec:") {
        let (program, arguments) = command.trim_start().split_once(char::is_whitespace).unwrap_or((command, ""));
        let more = if arguments.trim().is_empty() { String::new() } else { format!(" {MARK}") };
        taken.extend(arguments.split_whitespace().filter(|word| is_random(word)).map(Secret::new));
        return format!("exec:{program}{more}");
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => match text.split_once(':') {
            Some((scheme, rest)) => (format!("{scheme}:"), rest),
            None => (String::new(), text),
        },
    };
    let (place, end) = rest.find(['/', '\\', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    let host = match place.rsplit_once('@') {
        Some((user, host)) => {
            // A name alone is a secret when it is a token; others stand in every second line of a log.
            match user.split_once(':') {
                Some((_, password)) => taken.extend((!is_reference(password)).then(|| Secret::new(password))),
                None => taken.extend(is_random(user).then(|| Secret::new(user))),
            }
            format!("{MARK}@{host}")
        }
        // An "@" further on: the user or password may have had one of the signs that end it.
        None if end.contains('@') && place.contains(':') => {
            taken.push(Secret::new(rest));
            return format!("{scheme}{MARK}");
        }
        None => place.to_owned(),
    };
    let (path, query) = end.find(['?', '#']).map_or((end, ""), |at| end.split_at(at));
    let path: Vec<&str> = path.split('/').map(|piece| hide(piece, taken)).collect();
    let mut shown = format!("{scheme}{host}{}", path.join("/"));
    let (query, fragment) = query.split_once('#').map_or((query, false), |(query, _)| (query, true));
    if let Some(query) = query.strip_prefix('?') {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, value)) if HARMLESS_PARAMETERS.contains(&name) || is_reference(value) || value.is_empty() => {
                pair.to_owned()
            }
            Some((name, value)) => {
                // Others are hidden here, and may be words of every second line of a log.
                taken.extend((names_secret(name) || is_random(value)).then(|| Secret::new(value)));
                format!("{name}={MARK}")
            }
            None => hide(pair, taken).to_owned(),
        });
        shown.push('?');
        shown.push_str(&pairs.collect::<Vec<_>>().join("&"));
    }
    if fragment {
        shown.push_str(&format!("#{MARK}"));
    }
    shown
}

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "key", "sig", "auth"].iter().any(|word| name.contains(word))
}

fn hide<'t>(piece: &'t str, taken: &mut Vec<Secret>) -> &'t str {
    // A user with a slash in it looks like a host with a path.
    let harmless = !is_random(piece) && !piece.trim_start_matches('@').contains('@');
    if is_reference(piece) || harmless {
        return piece;
    }
    taken.push(Secret::new(piece));
    MARK
}

/// Whether a word looks made by a machine.
pub(super) fn is_random(word: &str) -> bool {
    let has = |test: fn(&u8) -> bool| word.as_bytes().iter().any(test);
    word.len() > LONGEST_WORDS || (word.len() > LONGEST_WORD && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic))
}

/// `${NAME}` and nothing else.
pub(super) fn is_reference(text: &str) -> bool {
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("https://h:8443/health", "https://h:8443/health"),
            ("https://h/?a=1&key=geheim", "https://h/?a=<redacted>&key=<redacted>"),
            ("postgres://u:geheim@h:5432/d?sslmode=require", "postgres://<redacted>@h:5432/d?sslmode=require"),
            ("postgres://u:${P}@h/d?password=geheim", "postgres://<redacted>@h/d?password=<redacted>"),
            ("redis://:geheim@h", "redis://<redacted>@h"),
            ("https://geheim@h/x", "https://<redacted>@h/x"),
            ("postgres://u:ge/heim@h/d", "postgres://<redacted>"),
            ("postgres://u:ge?heim@h/d", "postgres://<redacted>"),
            ("postgres://u:1/heim@h/d", "postgres://<redacted>"),
            ("https://h/@user/a", "https://h/@user/a"),
            ("https://ge/heim@h", "https://ge/<redacted>"),
            (
                "https://hooks.example/services/T0/B0/abcDEF0123456789xyz",
                "https://hooks.example/services/T0/B0/<redacted>",
            ),
            ("https://h/#geheim", "https://h/#<redacted>"),
            ("https://h/?${Q}", "https://h/?${Q}"),
            ("exec:/usr/lib/nagios/check_x -p geheim", "exec:/usr/lib/nagios/check_x <redacted>"),
            ("exec:/bin/true", "exec:/bin/true"),
            ("icmp:192.0.2.1", "icmp:192.0.2.1"),
            ("heartbeat:", "heartbeat:"),
            ("dns:example.org", "dns:example.org"),
            ("x:u:geheim@h", "x:<redacted>@h"),
            ("", ""),
        ] {
            assert_eq!(address(text).0, shown, "{text}");
        }
        let taken: Vec<_> =
            address("https://u:hunter22@h/?k=hello&api_key=hunter33").1.iter().map(|s| s.expose().to_owned()).collect();
        assert_eq!(taken, ["hunter22", "hunter33"]);
    }

    #[test]
    fn lines_of_a_log() {
        let scrubber = Scrubber::new(&[Secret::new("hunter22")]).unwrap();
        for (line, shown) in [
            ("all is well at 12:00", "all is well at 12:00"),
            ("it said hunter22", "it said [secret]"),
            ("GET https://h/x?k=abc failed", "GET https://h/x?k=<redacted> failed"),
            ("Authorization: Bearer abc.def", "Authorization: <redacted>"),
            ("sent Bearer abcdefgh123", "sent Bearer <redacted>"),
            ("lamp_0123456789abcdef is a token", "<redacted> is a token"),
            ("password=geheim, x=1", "password=<redacted>, x=1"),
            ("DB_PASSWORD: \"geheim\"", "DB_PASSWORD: \"<redacted>\""),
            ("POST /api/push/geheim?x", "POST /api/push/<redacted>?x"),
        ] {
            assert_eq!(scrubber.text(line), shown);
            assert_eq!(scrubber.text(&format!("{line}\n{line}\n")), format!("{shown}\n{shown}\n"));
        }
        let mut value = json!({ "url": "exec:/bin/x geheim", "list": ["hunter22", 3], "a": { "b": "https://u:p@h/" } });
        scrubber.json(&mut value);
        let shown =
            json!({ "url": "exec:/bin/x <redacted>", "list": ["[secret]", 3], "a": { "b": "https://<redacted>@h/" } });
        assert_eq!(value, shown);
    }

    proptest! {
        #[test]
        fn no_password_stays(user in "[a-z]{1,8}", password in "[!-~&&[^@]]{6,20}", path in "[a-z/]{0,9}") {
            let shown = address(&format!("postgres://{user}:{password}@db.example/{path}")).0;
            prop_assert!(!shown.contains(&password), "{shown}");
        }

        #[test]
        fn any_text_is_an_address(text in "\\PC{0,60}") {
            address(&text);
        }
    }
}
