//! Targets of HTTP: the head and the framing as our connection reads them, and the codings of a body.

use std::io::Read as _;

use super::wire::{BOTH, converse, deadline};
use crate::model::{Failure, HttpFacts};
use crate::probe::kinds::http::body::{Body, Broken, Fed};
use crate::probe::kinds::http::fuzz::{Seen, converse as ask};

/// Cap on a body in these targets, bytes.
const MAX_BODY: usize = 16 * 1024;

/// What the program makes of an answer, which must not depend on how it arrives.
fn asked(bytes: &[u8], follow: bool) -> Seen {
    let bytes = bytes.get(..2048).unwrap_or(bytes);
    let [whole, single] =
        BOTH.map(|pieces| converse(bytes, pieces, async |stream| ask(stream, follow, MAX_BODY, deadline()).await).0);
    // How much of a body is there when it breaks is a matter of pieces. And hyper looks at a head again only when its
    // end has come: of one that is both broken and cut off, either may be told.
    let same = |seen: &Seen| match &seen.facts {
        None if seen.failure == Some(Failure::HttpProtocol) => {
            Seen { failure: Some(Failure::ConnectionClosed), ..seen.clone() }
        }
        Some(facts) if seen.failure.is_some() => {
            let facts = HttpFacts { body: Default::default(), body_bytes: 0, ..facts.clone() };
            Seen { facts: Some(facts), ..seen.clone() }
        }
        _ => seen.clone(),
    };
    assert_eq!(same(&whole), same(&single), "in one piece, and byte by byte");
    whole
}

/// The first byte says whether redirects are followed; then comes the answer.
pub fn head(bytes: &[u8]) {
    let Some((follow, answer)) = bytes.split_first() else { return };
    let seen = asked(answer, follow & 1 == 1);
    let Some(facts) = &seen.facts else {
        return assert!(seen.failure.is_some(), "neither an answer nor a failure");
    };
    assert!((200..1000).contains(&facts.status) || facts.status == 101, "{facts:?}");
    assert!(facts.headers.len() <= 100 && facts.body.len() <= MAX_BODY);
    assert!(facts.body_bytes <= answer.len() as u64, "more body than bytes");
    assert!(matches!(facts.version, "HTTP/1.0" | "HTTP/1.1"));
    // RFC 9112, 2.2: an empty line or two may come first.
    let begun = answer.iter().position(|byte| !b"\r\n".contains(byte)).and_then(|start| answer.get(start..));
    assert!(begun.is_some_and(|begun| begun.starts_with(b"HTTP/1.")), "a head out of nothing");
    let lower = answer.to_ascii_lowercase();
    for (name, _) in &facts.headers {
        assert!(lower.windows(name.len()).any(|there| there == name.as_bytes()), "{name} is not in the answer");
    }
    assert_ne!(seen.failure, Some(Failure::Internal));
}

/// A chunked body is what a plain reading of RFC 9112, 7.1, gives; what breaks its grammar badly is no whole body.
pub fn chunked(bytes: &[u8]) {
    let answer = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", bytes].concat();
    let bytes = bytes.get(..bytes.len().min(2000)).unwrap_or_default();
    let seen = asked(answer.get(..49 + bytes.len()).unwrap_or(&answer), false);
    let facts = seen.facts.clone().unwrap_or_default();
    if let Some(wanted) = plain_chunks(bytes, true) {
        assert_eq!(seen.failure, None, "a chunked body by the book");
        assert_eq!(&facts.body[..], wanted);
    } else if seen.failure.is_none() {
        assert_eq!(plain_chunks(bytes, false).as_deref(), Some(&facts.body[..]), "a body by no book");
    }
}

/// All chunks and the trailer; none when it is not complete. `strict` is the grammar of the RFC; otherwise white space
/// may stand behind a size, as RFC 9112 tells recipients of bad extensions, and what follows the last chunk is anything
/// up to an empty line.
fn plain_chunks(mut rest: &[u8], strict: bool) -> Option<Vec<u8>> {
    let line = |bytes: &[u8]| bytes.windows(2).position(|pair| pair == b"\r\n");
    let mut body = Vec::new();
    loop {
        let end = if strict { line(rest)? } else { rest.iter().position(|byte| *byte == b'\n')? };
        let (head, after) = (rest.get(..end)?, rest.get(end + if strict { 2 } else { 1 }..)?);
        let digits = head.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = head.get(digits..)?;
        let plain = extension.is_empty() || (extension.starts_with(b";") && extension.get(1..)?.iter().all(is_token));
        if digits == 0 || (strict && (!plain || extension == b";" || digits > 8)) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(head.get(..digits)?).ok()?, 16).ok()?;
        if size == 0 {
            // No trailer is the only one that nobody argues about.
            return (!strict || after.starts_with(b"\r\n")).then_some(body);
        }
        body.extend_from_slice(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

const fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// The first byte names the coding and the length of the pieces; a decoded body is what another decoder makes of it.
pub fn coding(bytes: &[u8]) {
    let Some((how, encoded)) = bytes.split_first() else { return };
    let (name, step) = ([None, Some("gzip"), Some("deflate")][usize::from(how % 3)], usize::from(how / 3) + 1);
    let decode = |step: usize| {
        let mut body = Body::new(name, MAX_BODY / 2, MAX_BODY);
        let mut result = Ok(Fed::More);
        for piece in encoded.chunks(step) {
            result = body.feed(piece);
            if result != Ok(Fed::More) {
                break;
            }
        }
        let result = if result == Ok(Fed::More) { body.finish() } else { result };
        (result, body.into_kept())
    };
    let (result, kept) = decode(step);
    assert!(kept.len() <= MAX_BODY / 2);
    let (whole, kept_whole) = decode(encoded.len().max(1));
    // One that is broken and too long is told as what its decoder meets first, which the pieces decide.
    let either = |result: &Result<Fed, Broken>| matches!(result, Ok(Fed::Full) | Err(Broken::Corrupt));
    assert!(result == whole || either(&result) && either(&whole), "{result:?} in pieces of {step}, {whole:?} at once");
    // A broken stream is kept as far as its decoder had given it out.
    if result == Ok(Fed::More) {
        assert_eq!(kept, kept_whole);
        let mut plain = Vec::new();
        let limit = MAX_BODY as u64;
        let read = match name {
            None => {
                plain.extend_from_slice(encoded);
                Ok(())
            }
            Some("gzip") => flate2::read::GzDecoder::new(encoded).take(limit).read_to_end(&mut plain).map(drop),
            _ if zlib(encoded) => flate2::read::ZlibDecoder::new(encoded).take(limit).read_to_end(&mut plain).map(drop),
            _ => flate2::read::DeflateDecoder::new(encoded).take(limit).read_to_end(&mut plain).map(drop),
        };
        // A second member of gzip, which that decoder does not look for, makes ours the longer.
        if read.is_ok() && !encoded.is_empty() {
            assert!(plain.starts_with(&kept) || kept.starts_with(&plain), "decoded to something else");
        }
        assert!(read.is_ok() || encoded.is_empty(), "{read:?}");
    }
}

fn zlib(encoded: &[u8]) -> bool {
    matches!(encoded, [first, second, ..] if first & 15 == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}
