//! Findings about a configuration: all of them, each with its place and the way out.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use super::tree::Span;

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
}

/// Collects diagnostics while a tree is read. Keeps the first thousand and counts the rest.
#[derive(Debug, Default)]
pub struct Findings {
    list: RefCell<Vec<Diagnostic>>,
    more: Cell<usize>,
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

    /// How many there are so far: a reader compares before and after.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.borrow().len() + self.more.get()
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
#[derive(Clone, Debug)]
pub struct SourceText {
    /// The path, as it is shown.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Renders as `file:line:column: key: what, allowed` with the source line and a caret under the place.
#[must_use]
pub fn render(diagnostic: &Diagnostic, sources: &[SourceText]) -> String {
    let mut out = String::new();
    let place = diagnostic.span.and_then(|span| {
        let source = sources.get(usize::from(span.source))?;
        let start = floor_char_boundary(&source.text, span.start as usize);
        let line_start = source.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source.text[start..].find('\n').map_or(source.text.len(), |at| start + at);
        let number = source.text[..line_start].bytes().filter(|b| *b == b'\n').count() + 1;
        let column = source.text[line_start..start].chars().count() + 1;
        let end = floor_char_boundary(&source.text, (span.end as usize).min(line_end)).max(start);
        let width = source.text[start..end].chars().count().clamp(1, 60);
        Some((source, number, column, source.text[line_start..line_end].trim_end(), width))
    });
    if let Some((source, number, column, ..)) = &place {
        let _ = write!(out, "{}:{number}:{column}: ", source.name);
    }
    if !diagnostic.key.is_empty() {
        let _ = write!(out, "{}: ", diagnostic.key);
    }
    out.push_str(&diagnostic.what);
    if let Some(allowed) = &diagnostic.allowed {
        let _ = write!(out, ", {allowed}");
    }
    if let Some((_, number, column, line, width)) = place
        && !line.is_empty()
    {
        // A window of the line, so that a 1 MB line does not flood the terminal.
        let first = column.saturating_sub(60);
        let shown: String = line.chars().skip(first.saturating_sub(1)).take(140).collect();
        let indent = column - first.max(1);
        let gutter = number.to_string();
        let pad = " ".repeat(gutter.len());
        let shown = shown.replace('\t', " ");
        let _ = write!(out, "\n  {gutter} | {shown}\n  {pad} | {}{}", " ".repeat(indent), "^".repeat(width));
    }
    out
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The candidate nearest to a mistyped word, if one is near: one edit in three characters.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
