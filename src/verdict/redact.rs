//! Takes secrets out of what targets send back: some echo the request that carried them.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::model::Secret;

/// What stands where a secret stood.
pub const MARK: &str = "[secret]";

/// Shorter texts are in everything by chance.
const SHORTEST: usize = 4;

/// Knows the secrets of one monitor in the forms in which they come back: as they are, percent-encoded in any mixture,
/// escaped for JSON or HTML, and inside base64 (as in `Authorization: Basic`) at any alignment.
#[derive(Default)]
pub struct Redactor {
    literal: Vec<String>,
    base64: Vec<String>,
    with_space: bool,
}

impl Redactor {
    /// For the secrets of a monitor; those shorter than four bytes are left alone.
    #[must_use]
    pub fn new(secrets: &[Secret]) -> Self {
        let mut redactor = Self::default();
        for secret in secrets.iter().map(Secret::expose).filter(|secret| secret.len() >= SHORTEST) {
            redactor.with_space |= secret.contains(' ');
            redactor.literal.push(secret.to_owned());
            if let Ok(json) = serde_json::to_string(secret) {
                redactor.literal.push(json[1..json.len() - 1].to_owned());
                redactor.literal.push(json[1..json.len() - 1].replace('/', "\\/"));
            }
            let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            redactor.literal.push(html.replace('"', "&quot;").replace('\'', "&#39;"));
            redactor.literal.push(html.replace('"', "&#34;").replace('\'', "&#x27;"));
            for offset in 0..3 {
                redactor.base64.extend(inside_base64(secret.as_bytes(), offset));
            }
        }
        for forms in [&mut redactor.literal, &mut redactor.base64] {
            forms.sort_unstable();
            forms.dedup();
        }
        redactor
    }

    /// The text without secrets. An end that may be the beginning of a secret which was cut off goes too.
    #[must_use]
    pub fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.literal.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut found = Vec::new();
        for form in &self.literal {
            found.extend(text.match_indices(form.as_str()).map(|(at, _)| at..at + form.len()));
            found.extend(cut_off(text, form));
        }
        if text.contains('%') || (self.with_space && text.contains('+')) {
            self.find_encoded(text, false, &mut found);
            self.find_encoded(text, true, &mut found);
        }
        for form in &self.base64 {
            let places = text.match_indices(form.as_str()).map(|(at, _)| at..at + form.len());
            found.extend(places.chain(cut_off(text, form)).map(|range| whole_run(text, range)));
        }
        if found.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(blank(text, found)) }
    }

    /// Looks for literal forms in the percent-decoded text, and gives their places in the text as it is.
    fn find_encoded(&self, text: &str, plus_is_space: bool, found: &mut Vec<Range<usize>>) {
        let bytes = text.as_bytes();
        let (mut decoded, mut places) = (Vec::with_capacity(bytes.len()), Vec::with_capacity(bytes.len() + 1));
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            places.push(at);
            let escape = bytes.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(hex);
            decoded.push(match (escape, byte) {
                (Some(value), _) => value,
                (None, b'+') if plus_is_space => b' ',
                (None, byte) => byte,
            });
            at += if escape.is_some() { 3 } else { 1 };
        }
        places.push(bytes.len());
        for form in &self.literal {
            let form = form.as_bytes();
            let starts = decoded.windows(form.len()).enumerate().filter(|(_, window)| *window == form);
            found.extend(starts.filter_map(|(start, _)| {
                // A byte that was not encoded may be the middle of a character of the text: only whole ones are cut.
                let range = *places.get(start)?..*places.get(start + form.len())?;
                text.is_char_boundary(range.start).then_some(range).filter(|range| text.is_char_boundary(range.end))
            }));
            // A cut may have left the beginning of a form, and of an escape behind it.
            let dangling = bytes.iter().rev().take(2).position(|byte| *byte == b'%').map_or(0, |back| back + 1);
            let whole = &decoded[..decoded.len().saturating_sub(dangling)];
            let left = (SHORTEST..form.len()).rev().find(|length| whole.ends_with(&form[..*length]));
            let start = left.and_then(|length| places.get(whole.len() - length).copied());
            found.extend(start.filter(|start| text.is_char_boundary(*start)).map(|start| start..text.len()));
        }
    }
}

fn hex(pair: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let [high, low] = pair else { return None };
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// The characters of a base64 text that depend on the secret alone, when it stands `offset` bytes (mod 3) into what
/// was encoded; in both alphabets.
fn inside_base64(secret: &[u8], offset: usize) -> Vec<String> {
    let mut padded = vec![0; offset];
    padded.extend_from_slice(secret);
    let first = (offset * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    let cut = |text: String| text.get(first..last).filter(|form| form.len() >= SHORTEST).map(str::to_owned);
    [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)].into_iter().filter_map(cut).collect()
}

/// The end of the text that is the beginning of a form, if it is long enough to say something.
fn cut_off(text: &str, form: &str) -> Option<Range<usize>> {
    let longest = form.len().saturating_sub(1).min(text.len());
    (SHORTEST..=longest)
        .rev()
        .map(|length| text.len() - length)
        .find(|&start| text.is_char_boundary(start) && form.starts_with(&text[start..]))
        .map(|start| start..text.len())
}

/// The run of base64 characters around a place: what is encoded beside a secret (its user name) goes with it.
fn whole_run(text: &str, range: Range<usize>) -> Range<usize> {
    let inside = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let bytes = text.as_bytes();
    let before = bytes[..range.start].iter().rev().take_while(inside).count();
    let after = bytes[range.end..].iter().take_while(|byte| inside(byte) || **byte == b'=').count();
    range.start - before..range.end + after
}

fn blank(text: &str, mut found: Vec<Range<usize>>) -> String {
    found.sort_unstable_by_key(|range| (range.start, range.end));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for range in found {
        if range.start >= done {
            out.push_str(&text[done..range.start]);
            out.push_str(MARK);
        }
        done = done.max(range.end);
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn scrub(secret: &str, text: &str) -> String {
        Redactor::new(&[Secret::new(secret)]).scrub(text).into_owned()
    }

    #[test]
    fn every_form_goes() {
        let secret = "p&ss \"w/rd";
        for text in [
            "x p&ss \"w/rd y",
            "x p%26ss%20%22w%2Frd y",
            "x p%26ss+%22w%2frd y",
            "x p&ss%20\"w/rd y",
            "x p&ss \\\"w/rd y",
            "x p&ss \\\"w\\/rd y",
            "x p&amp;ss &quot;w/rd y",
        ] {
            assert_eq!(scrub(secret, text), "x [secret] y", "{text}");
        }
        assert_eq!(scrub("hunter22", "hunter22hunter22 hunter2"), "[secret][secret] [secret]");
        assert_eq!(scrub("abc", "abc"), "abc");
        for harmless in ["100% pure, a+b", "%", "%%", "%zz%", "ä%c3"] {
            assert_eq!(scrub("hunter22", harmless), harmless);
        }
    }

    #[test]
    fn a_key_before_base64_stays() {
        assert_eq!(scrub("hunter22", &format!("auth={}&x", STANDARD.encode("me:hunter22"))), "auth=[secret]&x");
    }

    #[test]
    fn the_beginning_of_a_cut_secret_goes() {
        assert_eq!(scrub("hunter22", "token hunt"), "token [secret]");
        assert_eq!(scrub("hunter22", "token hun"), "token hun");
        for cut in ["hu%6eter", "h%75nte", "hunt%", "hunt%6", "%68unt%6"] {
            assert_eq!(scrub("hunter22", &format!("token {cut}")), "token [secret]", "{cut}");
        }
    }

    proptest! {
        #[test]
        fn basic_auth_goes_at_any_alignment(user in "[a-z]{0,12}", secret in "[ -~]{4,24}", tail in "[a-z]{0,5}") {
            let encoded = STANDARD.encode(format!("{user}:{secret}{tail}"));
            let text = format!("Authorization: Basic {encoded}\nnext");
            prop_assert_eq!(scrub(&secret, &text), "Authorization: Basic [secret]\nnext");
        }

        #[test]
        fn nothing_panics_and_nothing_stays(secret in "\\PC{4,10}", before in "\\PC{0,20}", after in "\\PC{0,20}") {
            let text = format!("{before}{secret}{after}");
            prop_assert!(!scrub(&secret, &text).contains(&secret) || MARK.contains(&secret));
        }
    }
}
