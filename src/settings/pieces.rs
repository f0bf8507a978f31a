//! A configuration cut into its `[[monitor]]` tables and the rest, without parsing it.
//!
//! Cuts are made where a line looks like a header. That may be wrong (inside a string of several lines), but is never
//! believed: a text that ends inside of a string or a list does not parse. When every piece parses by itself, each ends
//! between two statements, and the whole says what its pieces say one after the other.

use sha2::{Digest as _, Sha256};

use super::diagnostic::SourceText;

/// Tells pieces apart; half of a SHA-256 is enough against two texts with the same.
pub(super) type Digest = [u8; 16];

/// One `[[monitor]]` with its sub-tables, up to the next header that is none of them.
pub(super) struct Piece<'a> {
    /// Index of its source.
    pub(super) source: usize,
    /// Where it begins, from 1.
    pub(super) line: usize,
    pub(super) text: &'a str,
    pub(super) digest: Digest,
}

/// A configuration in pieces.
#[derive(Default)]
pub(super) struct Pieces<'a> {
    /// In the order of the sources.
    pub(super) monitors: Vec<Piece<'a>>,
    /// What is no monitor, by source.
    pub(super) rest: Vec<Vec<&'a str>>,
}

/// What a line means for the cuts.
enum Line {
    Monitor,
    Other,
    /// Goes on with what was before.
    Within,
}

impl Line {
    fn of(text: &str, start: usize) -> Self {
        // Most lines are told by their first byte.
        let bytes = text.as_bytes().get(start..).unwrap_or_default();
        let indent = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let line = bytes.get(indent..).unwrap_or_default();
        if line.first() != Some(&b'[') {
            Self::Within
        } else if line.starts_with(b"[[monitor]]") {
            Self::Monitor
        } else if line.starts_with(b"[monitor.") || line.starts_with(b"[[monitor.") {
            Self::Within
        } else {
            Self::Other
        }
    }
}

/// Cuts sources into pieces.
pub(super) fn cut(texts: &[SourceText]) -> Pieces<'_> {
    let mut pieces = Pieces::default();
    for (source, text) in texts.iter().enumerate() {
        let mut rest = Vec::new();
        // Where the present piece began, and in which line if it is a monitor.
        let (mut begun, mut monitor) = (0, None);
        let mut end = |from: usize, to: usize, monitor: Option<usize>| {
            let text = text.text.get(from..to).unwrap_or_default();
            match monitor {
                Some(line) => pieces.monitors.push(Piece { source, line, text, digest: digest(text) }),
                None if !text.is_empty() => rest.push(text),
                None => {}
            }
        };
        for (index, start) in text.line_starts().enumerate() {
            let next = match Line::of(&text.text, start) {
                Line::Within => continue,
                Line::Monitor => Some(index + 1),
                Line::Other => None,
            };
            end(begun, start, monitor);
            (begun, monitor) = (start, next);
        }
        end(begun, text.text.len(), monitor);
        pieces.rest.push(rest);
    }
    pieces
}

fn digest(text: &str) -> Digest {
    let whole: [u8; 32] = Sha256::digest(text).into();
    let mut half = Digest::default();
    half.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_the_text() {
        let text = "a = 1\n[[monitor]]\nid = 'a'\n [monitor.expect]\nx = 1\n[server]\nb = 2\n\t[[monitor]] # c\r\nid = 'b'\n\
                    [[monitor.x]]\n[[monitor]]\n[x]";
        let sources = [SourceText::new("1", text), SourceText::new("2", ""), SourceText::new("3", "[[monitor]]")];
        let pieces = cut(&sources);
        let monitors: Vec<_> = pieces.monitors.iter().map(|piece| (piece.source, piece.line, piece.text)).collect();
        assert_eq!(
            monitors,
            [
                (0, 2, "[[monitor]]\nid = 'a'\n [monitor.expect]\nx = 1\n"),
                (0, 8, "\t[[monitor]] # c\r\nid = 'b'\n[[monitor.x]]\n"),
                (0, 11, "[[monitor]]\n"),
                (2, 1, "[[monitor]]"),
            ]
        );
        assert_eq!(pieces.rest, [vec!["a = 1\n", "[server]\nb = 2\n", "[x]"], vec![], vec![]]);
    }
}
