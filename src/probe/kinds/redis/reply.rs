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
pub(super) enum Reply {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Reply>),
}

impl Reply {
    pub(super) fn text(&self) -> Vec<u8> {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Bulk(text) => text.clone(),
            Self::Integer(integer) => integer.to_string().into_bytes(),
            Self::Null => b"null".to_vec(),
            Self::Array(items) => format!("a list of {}", items.len()).into_bytes(),
        }
    }
}

/// Why there is no reply.
pub(super) enum Bad {
    End(End),
    /// What came is no RESP.
    Foreign,
}

impl From<End> for Bad {
    fn from(end: End) -> Self {
        match end {
            End::TooMuch => Self::Foreign,
            other => Self::End(other),
        }
    }
}

pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Reads one whole reply.
pub(super) async fn read(talk: &mut Talk<'_>) -> Result<Reply, Bad> {
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
                    return Err(Bad::Foreign);
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
    let line = talk.line(MAX_LINE_BYTES).await?;
    let Some((sort, rest)) = line.split_first() else { return Err(Bad::Foreign) };
    let number = || std::str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok()).ok_or(Bad::Foreign);
    let reply = match sort {
        b'+' => Reply::Simple(rest.to_vec()),
        b'-' => Reply::Error(rest.to_vec()),
        b':' => Reply::Integer(number()?),
        b'$' | b'*' if number()? == -1 => Reply::Null,
        b'*' => return usize::try_from(number()?).map(Piece::List).map_err(|_| Bad::Foreign),
        b'$' => {
            let length = usize::try_from(number()?).ok().filter(|length| *length <= MAX_BULK_BYTES);
            let length = length.ok_or(Bad::Foreign)?;
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
