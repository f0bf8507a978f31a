//! Text that others wrote, made safe to show in a terminal, a log, a mail or a page, and to store as JSON.

use std::fmt::Write as _;

/// Cleans a text and cuts it at `most` characters, the last of them `…` when something was cut. Control characters
/// (NUL too, which `jsonb` refuses), bidirectional overrides, zero-width and line-separating characters become
/// `\u{..}`. Line feeds and tabs stay where `lines` says that the text may have several lines.
#[must_use]
pub fn clean(text: &str, most: usize, lines: bool) -> String {
    // Nearly all text is like this, and every check has some.
    if text.len() <= most && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len().min(most));
    let mut left = most;
    // Where the last place for a "…" is, should the rest not fit.
    let mut fits = 0;
    for c in text.chars() {
        let escaped = is_hostile(c) && !(lines && matches!(c, '\n' | '\t'));
        let width = if escaped { format!("\\u{{{:x}}}", u32::from(c)).len() } else { 1 };
        if width > left {
            out.truncate(fits);
            if most > 0 {
                out.push('…');
            }
            return out;
        }
        if escaped {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
        left -= width;
        if left > 0 {
            fits = out.len();
        }
    }
    out
}

/// In double quotes, cleaned, cut at `most` characters. Quotes inside are escaped, so that the end is plain to see.
#[must_use]
pub fn quote(text: &str, most: usize) -> String {
    let cleaned = clean(text, most, false);
    format!("\"{}\"", cleaned.replace('"', "\\\""))
}

/// Whether a character could forge, hide or turn around what is shown: what [`clean`] spells out.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_characters_are_spelled_out() {
        assert_eq!(clean("a\0b\u{202e}c\nd", 99, false), "a\\u{0}b\\u{202e}c\\u{a}d");
        assert_eq!(clean("a\n\tb\r", 99, true), "a\n\tb\\u{d}");
        assert_eq!(quote("say \"hi\"\u{1b}[2J", 99), "\"say \\\"hi\\\"\\u{1b}[2J\"");
    }

    #[test]
    fn it_is_cut_with_a_sign() {
        assert_eq!(clean("abcdef", 6, false), "abcdef");
        assert_eq!(clean("abcdefg", 6, false), "abcde…");
        assert_eq!(clean("äöüäöü", 3, false), "äö…");
        assert_eq!(clean("ab\0", 4, false), "ab…");
        assert_eq!(clean("abc", 0, false), "");
    }

    proptest! {
        #[test]
        fn it_never_grows_past_its_bound(text in "\\PC*|[\\x00-\\x20a\u{202e}]*", most in 0usize..40) {
            let cleaned = clean(&text, most, false);
            prop_assert!(cleaned.chars().count() <= most);
            prop_assert!(!cleaned.chars().any(is_hostile));
        }
    }
}
