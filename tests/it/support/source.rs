//! Reads Rust source as words and paths: as much of the grammar as finding the names of modules takes.

/// A word, `::` or one other character, with the line it begins on (from 1).
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path that begins with the crate (then `crate::…` from its root), or with any other name followed by `::`.
pub struct Named {
    pub path: String,
    pub line: usize,
}

/// The words of a text, without comments, strings and characters.
pub fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let length = match bytes[at] {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => block_comment(rest),
            b'"' => string(rest),
            b'\'' => character_or_lifetime(rest),
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                match (&rest[..end], rest.as_bytes().get(end)) {
                    ("r" | "br", Some(b'"' | b'#')) if is_raw_string(&rest[end..]) => end + raw_string(&rest[end..]),
                    ("b" | "c", Some(b'"')) => end + string(&rest[end..]),
                    ("b", Some(b'\'')) => end + character_or_lifetime(&rest[end..]),
                    (word, _) => {
                        found.push(Token { text: word.to_owned(), line });
                        end
                    }
                }
            }
            byte if byte.is_ascii_whitespace() => 1,
            _ if rest.starts_with("::") => {
                found.push(Token { text: "::".to_owned(), line });
                2
            }
            _ => {
                let width = rest.chars().next().map_or(1, char::len_utf8);
                found.push(Token { text: rest[..width].to_owned(), line });
                width
            }
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_raw_string(rest: &str) -> bool {
    rest.trim_start_matches('#').starts_with('"')
}

fn raw_string(rest: &str) -> usize {
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    rest[hashes + 1..].find(&end).map_or(rest.len(), |at| hashes + 1 + at + end.len())
}

fn character_or_lifetime(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        // After the escaped character, which may be a quote itself.
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            rest[from..].find('\'').map_or(rest.len(), |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Every path that the words of `module` (such as `schedule::wheel`) name, `use` trees unfolded.
pub fn paths(tokens: &[Token], module: &str) -> Vec<Named> {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let children: Vec<&str> =
        (0..tokens.len()).filter(|&at| word(at) == "mod" && word(at + 2) == ";").map(|at| word(at + 1)).collect();
    let mut here: Vec<&str> = module.split("::").collect();
    // Depths of braces at which modules inside this file begin.
    let (mut inside, mut depth) = (Vec::new(), 0_usize);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match word(at) {
            "mod" if word(at + 2) == "{" => {
                here.push(word(at + 1));
                inside.push(depth);
                depth += 1;
                at += 3;
                continue;
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inside.last() == Some(&depth) {
                    inside.pop();
                    here.pop();
                }
            }
            // `pub(in crate::x)` says who may look, not what is looked at.
            first if is_name(first) && word(at + 1) == "::" && !(at > 0 && matches!(word(at - 1), "::" | "in")) => {
                let (prefix, next) = match first {
                    "crate" | "lamplighter" => ("crate".to_owned(), at + 2),
                    "super" => up(&here, tokens, at),
                    "self" => (format!("crate::{}", here.join("::")), at + 2),
                    child if inside.is_empty() && children.contains(&child) => {
                        (format!("crate::{}::{child}", here.join("::")), at + 2)
                    }
                    other => (other.to_owned(), at + 2),
                };
                at = unfold(tokens, next, &prefix, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Where `super::super::` leads, and the first word after it.
fn up(here: &[&str], tokens: &[Token], mut at: usize) -> (String, usize) {
    let mut left = here.len();
    while tokens.get(at).is_some_and(|token| token.text == "super") {
        left = left.saturating_sub(1);
        at += 2;
    }
    let path = std::iter::once("crate").chain(here[..left].iter().copied()).collect::<Vec<_>>();
    (path.join("::"), at)
}

/// Reads on after `prefix::`, a name, `*` or a group; the index after it is the answer.
fn unfold(tokens: &[Token], mut at: usize, prefix: &str, found: &mut Vec<Named>) -> usize {
    let Some(token) = tokens.get(at) else { return at };
    let line = token.line;
    match token.text.as_str() {
        "{" => {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text != "}") {
                at = match tokens[at].text.as_str() {
                    "as" => at + 2,
                    name if is_name(name) || name == "*" => unfold(tokens, at, prefix, found),
                    _ => at + 1,
                };
            }
            at + 1
        }
        name if is_name(name) => {
            let path = if name == "self" { prefix.to_owned() } else { format!("{prefix}::{name}") };
            if tokens.get(at + 1).is_some_and(|token| token.text == "::") {
                unfold(tokens, at + 2, &path, found)
            } else {
                found.push(Named { path, line });
                at + 1
            }
        }
        // A glob, or the `<` of a type's own parameters: the prefix is what is named.
        _ => {
            found.push(Named { path: prefix.to_owned(), line });
            at + 1
        }
    }
}
