//! Findings about a configuration: all of them, each with its place and the way out.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};

use super::tree::Span;

/// How much of the source line a message may quote: errors reach logs and HTTP answers, secrets must not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quote {
    /// The value at the place; other strings of the line are blanked.
    #[default]
    Value,
    /// The place is, or may be, a secret: every value there and every string of the line is blanked.
    Shape,
    /// The line does not parse, so that a secret without quotes looks like anything: up to its first `=`.
    Keys,
    /// Nothing: the line stands inside a multi-line string.
    Nothing,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where; none in rows of the database.
    pub span: Option<Span>,
    /// The dotted key, such as `monitor.expect.status`.
    pub key: String,
    /// What is wrong, with what was found. Never a secret.
    pub what: String,
    /// What is allowed instead.
    pub allowed: Option<String>,
    /// What may be shown of the source.
    pub quote: Quote,
}

impl fmt::Display for Diagnostic {
    /// Without its place: `key: what, allowed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        match &self.allowed {
            Some(allowed) => write!(f, ", {allowed}"),
            None => Ok(()),
        }
    }
}

/// Collects diagnostics while a tree is read. Keeps the first thousand and counts the rest.
#[derive(Debug, Default)]
pub struct Findings {
    list: RefCell<Vec<Diagnostic>>,
    more: Cell<usize>,
    /// Every key that a reader asked for, lists as `[]`: the test of the example configuration compares.
    #[cfg(test)]
    pub(crate) asked: RefCell<std::collections::BTreeSet<String>>,
}

impl Findings {
    /// More than this nobody reads.
    const MOST: usize = 1000;

    /// Adds one.
    pub fn push(&self, diagnostic: Diagnostic) {
        let mut list = self.list.borrow_mut();
        if list.len() < Self::MOST {
            list.push(diagnostic);
        } else {
            self.more.set(self.more.get() + 1);
        }
    }

    /// Adds those of a part that was read on its own, after what is here.
    pub fn append(&self, part: Self) {
        #[cfg(test)]
        self.asked.borrow_mut().append(&mut part.asked.borrow_mut());
        for diagnostic in part.list.into_inner() {
            self.push(diagnostic);
        }
        self.more.set(self.more.get() + part.more.get());
    }

    /// How many there are so far: a reader compares before and after.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.borrow().len() + self.more.get()
    }

    /// Whether further ones are only counted, so that costly explanations can be left out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.more.get() > 0 || self.list.borrow().len() >= Self::MOST
    }

    /// All of them in the order of the sources, and how many more there were.
    #[must_use]
    pub fn into_sorted(self) -> (Vec<Diagnostic>, usize) {
        let mut list = self.list.into_inner();
        list.sort_by_key(|d| d.span.map_or((u16::MAX, u32::MAX), |s| (s.source, s.start)));
        (list, self.more.get())
    }
}

/// One source of the configuration.
#[derive(Clone)]
pub struct SourceText {
    /// The path, as it is shown.
    pub name: String,
    /// The text.
    pub text: String,
    /// First byte of every line, so that a hundred thousand places are found in one pass.
    line_starts: Vec<u32>,
}

impl fmt::Debug for SourceText {
    /// Without the text, which holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceText({:?}, {} bytes)", self.name, self.text.len())
    }
}

/// A place as an editor counts it.
struct Place<'a> {
    line_number: usize,
    /// In characters, from 1.
    column: usize,
    line: &'a str,
    /// Byte offsets of the span inside `line`.
    start: usize,
    end: usize,
}

impl SourceText {
    /// Comments and blank lines say nothing.
    #[must_use]
    pub fn says_something(&self) -> bool {
        self.text.lines().map(str::trim_start).any(|line| !line.is_empty() && !line.starts_with('#'))
    }

    /// Takes a text of less than 4 GiB.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let next = breaks.map(|(at, _)| u32::try_from(at + 1).unwrap_or(u32::MAX));
        let line_starts = std::iter::once(0).chain(next).collect();
        Self { name: name.into(), text, line_starts }
    }

    /// The number of the line that holds a byte, from 1.
    #[must_use]
    pub fn line_of(&self, byte: u32) -> u32 {
        u32::try_from(self.line_starts.partition_point(|start| *start <= byte)).unwrap_or(u32::MAX)
    }

    /// Where every line begins, in bytes.
    pub(super) fn line_starts(&self) -> impl Iterator<Item = usize> {
        self.line_starts.iter().map(|start| *start as usize)
    }

    fn place(&self, span: Span) -> Place<'_> {
        let at = |byte: u32| self.text.floor_char_boundary(byte as usize);
        let start = at(span.start);
        let line_number = self.line_of(u32::try_from(start).unwrap_or(u32::MAX)) as usize;
        let line_start = self.line_starts.get(line_number - 1).map_or(0, |byte| at(*byte));
        let rest = self.text.get(line_start..).unwrap_or_default();
        let line = rest.lines().next().unwrap_or_default();
        // A span at the line's end, or on its "\r", points just behind the text.
        let start = (start - line_start).min(line.len());
        let end = at(span.end).saturating_sub(line_start).clamp(start, line.len());
        let column = line.get(..start).unwrap_or_default().chars().count() + 1;
        Place { line_number, column, line, start, end }
    }
}

/// Renders as `file:line:column: key: what, allowed` with the source line and a caret under the place.
#[must_use]
pub fn render(diagnostic: &Diagnostic, sources: &[SourceText]) -> String {
    let located = diagnostic.span.and_then(|span| Some((span, sources.get(usize::from(span.source))?)));
    let Some((span, source)) = located else { return diagnostic.to_string() };
    let place = source.place(span);
    let mut out = format!("{}:{}:{}: {diagnostic}", source.name, place.line_number, place.column);
    if place.line.trim().is_empty() || diagnostic.quote == Quote::Nothing {
        return out;
    }
    let shown = blank_strings(&place, diagnostic.quote);
    // A window of the line, so that a line of a megabyte does not flood the terminal.
    let first = shown.start.saturating_sub(60);
    let text: String = shown.text.iter().skip(first).take(140).collect();
    let width = (shown.end - shown.start).clamp(1, 60);
    let gutter = place.line_number.to_string();
    let (pad, indent) = (" ".repeat(gutter.len()), " ".repeat(shown.start - first));
    let _ = write!(out, "\n  {gutter} | {}\n  {pad} | {indent}{}", text.trim_end(), "^".repeat(width));
    out
}

/// A line that may be shown, with the span in characters of it.
struct Shown {
    text: Vec<char>,
    start: usize,
    end: usize,
}

/// Blanks every string but the one that stands exactly at the place, and that one too when it may be secret.
fn blank_strings(place: &Place<'_>, quote: Quote) -> Shown {
    let mut shown = Shown { text: Vec::with_capacity(place.line.len()), start: 0, end: 0 };
    let mut inside: Option<(char, bool)> = None;
    let mut escaped = false;
    let mut comment = false;
    for (at, char) in place.line.char_indices() {
        if at <= place.start {
            shown.start = shown.text.len();
        }
        let in_span = at >= place.start && at < place.end;
        match inside {
            Some((delimiter, visible)) => {
                let closes = char == delimiter && !escaped;
                escaped = char == '\\' && delimiter == '"' && !escaped;
                if closes {
                    inside = None;
                }
                if visible || closes {
                    shown.text.push(plain(char));
                }
            }
            None if !comment && (char == '"' || char == '\'') => {
                let visible = at == place.start && quote == Quote::Value;
                inside = Some((char, visible));
                shown.text.push(char);
                if !visible {
                    shown.text.push('…');
                }
            }
            // The comment behind a value often repeats it.
            None if comment => {}
            None if char == '#' => {
                comment = true;
                shown.text.extend("# …".chars());
            }
            None if in_span && quote == Quote::Shape => {
                if shown.text.last() != Some(&'…') {
                    shown.text.push('…');
                }
            }
            None if char == '=' && quote == Quote::Keys => {
                shown.text.extend("= …".chars());
                if place.start > at {
                    shown.start = shown.text.len() - 1;
                }
                break;
            }
            None => shown.text.push(plain(char)),
        }
        if in_span {
            shown.end = shown.text.len();
        }
    }
    if place.start >= place.line.len() && quote != Quote::Keys {
        shown.start = shown.text.len();
    }
    shown.end = shown.end.max(shown.start);
    shown
}

/// Tabs and control characters would move the caret, or the terminal.
fn plain(char: char) -> char {
    match char {
        '\t' => ' ',
        char if char.is_control() => '·',
        char => char,
    }
}

/// The candidate nearest to a mistyped word, if one is near: one edit in three characters.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // No key is longer; the distance costs the product of the lengths.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let most = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str, needle: &str, quote: Quote) -> String {
        let start = u32::try_from(text.find(needle).unwrap()).unwrap();
        let end = start + u32::try_from(needle.len()).unwrap();
        let span = Some(Span { source: 0, start, end });
        let allowed = Some("must be good".to_owned());
        let diagnostic = Diagnostic { span, key: "a.b".into(), what: "is bad".into(), allowed, quote };
        render(&diagnostic, &[SourceText::new("c.toml", text)])
    }

    #[test]
    fn the_place_is_shown_and_nothing_beside_it() {
        let text = "x = 1\r\ny = { k = \"hunter2\", ü = 'v', n = 5 } # hunter2\r\n";
        assert_eq!(
            at(text, "'v'", Quote::Value),
            "c.toml:2:26: a.b: is bad, must be good\n  2 | y = { k = \"…\", ü = 'v', n = 5 } # …\n    |                    ^^^"
        );
        assert_eq!(
            at(text, "\"hunter2\"", Quote::Shape),
            "c.toml:2:11: a.b: is bad, must be good\n  2 | y = { k = \"…\", ü = '…', n = 5 } # …\n    |           ^^^"
        );
        assert!(at(text, "5", Quote::Shape).contains("n = … }"));
        assert_eq!(at(text, "5", Quote::Nothing), "c.toml:2:35: a.b: is bad, must be good");
        // A table is not its strings.
        assert!(!at(text, "{ k = \"hunter2\", ü = 'v', n = 5 }", Quote::Value).contains("hunter2"));
    }

    #[test]
    fn a_long_line_is_a_window() {
        let text = format!("a = [{}, oops]", "1, ".repeat(100_000));
        let shown = at(&text, "oops", Quote::Value);
        assert!(shown.len() < 500, "{}", shown.len());
        assert!(shown.contains("oops"));
    }

    #[test]
    fn the_thousandth_is_the_last_that_is_kept() {
        let findings = Findings::default();
        for number in 0..1010 {
            let (what, key) = (number.to_string(), String::new());
            findings.push(Diagnostic { span: None, key, what, allowed: None, quote: Quote::Value });
        }
        assert!(findings.is_full());
        let (list, more) = findings.into_sorted();
        assert_eq!((list.len(), more), (1000, 10));
    }

    #[test]
    fn near_words_are_found() {
        assert_eq!(nearest("intervall", ["interval", "timeout"]), Some("interval"));
        assert_eq!(nearest("x", ["interval", "timeout"]), None);
        assert_eq!(nearest(&"y".repeat(1 << 20), ["interval"]), None);
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_renders(text in "(?s).{0,60}", start in 0u32..80, length in 0u32..80) {
            let span = Some(Span { source: 0, start, end: start + length });
            for quote in [Quote::Value, Quote::Shape, Quote::Keys, Quote::Nothing] {
                let diagnostic = Diagnostic { span, key: String::new(), what: "w".into(), allowed: None, quote };
                let shown = render(&diagnostic, &[SourceText::new("f", text.as_str())]);
                prop_assert!(shown.starts_with("f:"));
            }
        }
    }
}
