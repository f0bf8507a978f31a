//! A command line into its arguments, without a shell.
//!
//! Spaces part arguments. `'…'` is taken as it is. In `"…"` a backslash keeps `"` and `\` from meaning anything; outside
//! of quotes it keeps any character from doing so. Nothing else means anything: no variable, pattern, pipe or comment.

/// What a command line is not, as a sentence's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unfinished(pub(super) &'static str);

/// The arguments; the program's path is the first.
pub(super) fn split(line: &str) -> Result<Vec<String>, Unfinished> {
    let mut arguments = Vec::new();
    // None between arguments; quotes alone make an empty one.
    let mut argument: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' => arguments.extend(argument.take()),
            '\'' => {
                let inside = argument.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(Unfinished("has a ' without its end")),
                        Some('\'') => break,
                        Some(c) => inside.push(c),
                    }
                }
            }
            '"' => double(&mut chars, argument.get_or_insert_default())?,
            '\\' => match chars.next() {
                None => return Err(Unfinished("ends with a backslash")),
                Some(c) => argument.get_or_insert_default().push(c),
            },
            c => argument.get_or_insert_default().push(c),
        }
    }
    arguments.extend(argument);
    Ok(arguments)
}

fn double(chars: &mut std::str::Chars<'_>, inside: &mut String) -> Result<(), Unfinished> {
    let end = Unfinished("has a \" without its end");
    loop {
        match chars.next().ok_or(end)? {
            '"' => return Ok(()),
            '\\' => match chars.next().ok_or(end)? {
                c @ ('"' | '\\') => inside.push(c),
                c => inside.extend(['\\', c]),
            },
            c => inside.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_and_backslashes() {
        for (line, wanted) in [
            ("/a", &["/a"][..]),
            ("/a  b ", &["/a", "b"]),
            ("/a 'b c' \"d e\" f\\ g", &["/a", "b c", "d e", "f g"]),
            ("/a ''", &["/a", ""]),
            ("/a x'y'\"z\"", &["/a", "xyz"]),
            (r#"/a "q\"\\\n$" '\n"'"#, &["/a", r#"q"\\n$"#, r#"\n""#]),
            ("/a $HOME *.c # | ; && `x` ~", &["/a", "$HOME", "*.c", "#", "|", ";", "&&", "`x`", "~"]),
            ("/'a b'/c", &["/a b/c"]),
        ] {
            assert_eq!(split(line).unwrap(), wanted, "{line}");
        }
        for (line, what) in [
            ("/a 'b", "has a ' without its end"),
            ("/a \"b\\\"", "has a \" without its end"),
            ("/a \\", "ends with a backslash"),
        ] {
            assert_eq!(split(line), Err(Unfinished(what)), "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(arguments in proptest::collection::vec("[ -~é]{0,12}", 1..6)) {
            let line: Vec<String> =
                arguments.iter().map(|text| format!("'{}'", text.replace('\'', "'\\''"))).collect();
            prop_assert_eq!(split(&line.join(" ")).unwrap(), arguments);
        }
    }
}
