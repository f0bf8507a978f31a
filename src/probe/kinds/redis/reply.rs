//! RESP2: commands as lists of words, and replies (redis.io's protocol specification).

use crate::probe::talk::{End, Talk};

/// A line: an error's text is the longest.
const MAX_LINE_BYTES: usize = 4 * 1024;
/// A bulk string.
const MAX_BULK_BYTES: usize = 128 * 1024;
/// Items of a list, over all depths.
const MAX_ITEMS: usize = 1024;
/// Lists in lists.
const MAX_DEPTH: usize = 4;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Reply>),
}

impl Reply {
    pub(crate) fn text(&self) -> Vec<u8> {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Bulk(text) => text.clone(),
            Self::Integer(integer) => integer.to_string().into_bytes(),
            Self::Null => b"null".to_vec(),
            Self::Array(items) => format!("a list of {}", items.len()).into_bytes(),
        }
    }
}

/// Why there is no reply.
pub(crate) enum Bad {
    End(End),
    /// What came is no RESP.
    Foreign,
    /// A reply beyond the bounds above.
    Large,
}

impl From<End> for Bad {
    fn from(end: End) -> Self {
        match end {
            End::TooMuch => Self::Large,
            other => Self::End(other),
        }
    }
}

pub(crate) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Reads one whole reply.
pub(crate) async fn read(talk: &mut Talk<'_>) -> Result<Reply, Bad> {
    // Lists that are not complete yet, with how many items each still lacks.
    let mut open: Vec<(usize, Vec<Reply>)> = Vec::new();
    let mut items = 0;
    loop {
        let mut reply = match one(talk).await? {
            Piece::Reply(reply) => reply,
            Piece::List(0) => Reply::Array(Vec::new()),
            Piece::List(length) => {
                items += length;
                if items > MAX_ITEMS || open.len() == MAX_DEPTH {
                    return Err(Bad::Large);
                }
                open.push((length, Vec::new()));
                continue;
            }
        };
        loop {
            let Some((lacking, list)) = open.last_mut() else { return Ok(reply) };
            list.push(reply);
            *lacking -= 1;
            if *lacking > 0 {
                break;
            }
            reply = Reply::Array(std::mem::take(list));
            open.pop();
        }
    }
}

enum Piece {
    Reply(Reply),
    List(usize),
}

async fn one(talk: &mut Talk<'_>) -> Result<Piece, Bad> {
    // By itself: what is no RESP may never have the end of a line.
    let sort = talk.exact(1).await?;
    if !matches!(sort.as_slice(), b"+" | b"-" | b":" | b"$" | b"*") {
        return Err(Bad::Foreign);
    }
    let line = talk.line(MAX_LINE_BYTES).await?;
    let (sort, rest) = (sort.first(), line.as_slice());
    let number = || std::str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok()).ok_or(Bad::Foreign);
    let reply = match sort {
        Some(b'+') => Reply::Simple(line),
        Some(b'-') => Reply::Error(line),
        Some(b':') => Reply::Integer(number()?),
        Some(b'$' | b'*') if number()? == -1 => Reply::Null,
        Some(b'*') => return usize::try_from(number()?).map(Piece::List).map_err(|_| Bad::Foreign),
        Some(b'$') => {
            let length = usize::try_from(number()?).map_err(|_| Bad::Foreign)?;
            if length > MAX_BULK_BYTES {
                return Err(Bad::Large);
            }
            let mut bulk = talk.exact(length + 2).await?;
            if !bulk.ends_with(b"\r\n") {
                return Err(Bad::Foreign);
            }
            bulk.truncate(length);
            Reply::Bulk(bulk)
        }
        _ => return Err(Bad::Foreign),
    };
    Ok(Piece::Reply(reply))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probe::kinds::testing::heard;

    fn reply(bytes: &[u8]) -> Result<Reply, &'static str> {
        heard(bytes, async |talk| {
            read(talk).await.map_err(|bad| match bad {
                Bad::End(_) => "end",
                Bad::Foreign => "foreign",
                Bad::Large => "large",
            })
        })
    }

    fn written(reply: &Reply) -> Vec<u8> {
        match reply {
            Reply::Simple(text) => [b"+", text.as_slice(), b"\r\n"].concat(),
            Reply::Error(text) => [b"-", text.as_slice(), b"\r\n"].concat(),
            Reply::Integer(integer) => format!(":{integer}\r\n").into_bytes(),
            Reply::Bulk(text) => [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat(),
            Reply::Null => b"$-1\r\n".to_vec(),
            Reply::Array(items) => {
                let head = format!("*{}\r\n", items.len()).into_bytes();
                items.iter().map(written).fold(head, |all, item| [all, item].concat())
            }
        }
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let line = "[ -~]{0,8}".prop_map(String::into_bytes);
        let leaf = prop_oneof![
            line.clone().prop_map(Reply::Simple),
            line.prop_map(Reply::Error),
            any::<i64>().prop_map(Reply::Integer),
            prop::collection::vec(any::<u8>(), 0..16).prop_map(Reply::Bulk),
            Just(()).prop_map(|()| Reply::Null),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Reply::Array))
    }

    #[test]
    fn bounds_and_broken_replies() {
        for (bytes, wanted) in [
            (&b"*5000\r\n"[..], "large"),
            (b"*9223372036854775807\r\n", "large"),
            (b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "large"),
            (b"$4294967295\r\n", "large"),
            (b"$-2\r\n", "foreign"),
            (b"*-7\r\n", "foreign"),
            (b":x\r\n", "foreign"),
            (b"$1\r\nabc", "foreign"),
            (b"\x15\x03\x01", "foreign"),
            (b"+PON", "end"),
            (b"", "end"),
        ] {
            assert_eq!(reply(bytes), Err(wanted), "{}", bytes.escape_ascii());
        }
        assert_eq!(reply(b"*-1\r\n"), Ok(Reply::Null));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read(wanted in replies()) {
            prop_assert_eq!(reply(&written(&wanted)), Ok(wanted));
        }

        #[test]
        fn nothing_that_comes_panics(sort in "[-+:$*]", bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = reply(&[sort.as_bytes(), &bytes].concat());
        }
    }
}
