//! A response body: decoded as it arrives, counted, and kept as far as somebody will read it.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{DeflateDecoder, GzDecoder, ZlibDecoder};

/// How much of a body that no expectation reads is kept, for evidence.
pub(crate) const EXCERPT_BYTES: usize = 4 * 1024;

/// Whether more may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    More,
    /// The cap is crossed, encoded or decoded.
    Full,
}

/// Why an encoded body has no decoded form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Corrupt,
    /// The message was complete, its content was not.
    Truncated,
}

/// Decoded bytes: counted up to a cap, kept up to another.
#[derive(Debug, Default)]
struct Sink {
    kept: Vec<u8>,
    keep: usize,
    room: usize,
    over: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        let kept = taken.min(self.keep - self.kept.len());
        self.kept.extend_from_slice(bytes.get(..kept).unwrap_or_default());
        if taken < bytes.len() {
            self.over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Coding {
    Identity(Sink),
    Gzip(GzDecoder<Sink>),
    /// "deflate" is zlib (RFC 9110, 8.4.1.2), and raw deflate from some servers; its first two bytes tell.
    Deflate(Sink, Vec<u8>),
    Zlib(ZlibDecoder<Sink>),
    Raw(DeflateDecoder<Sink>),
}

/// Collects one body.
pub(crate) struct Body {
    coding: Coding,
    cap: u64,
    encoded: u64,
    /// The compressed stream has ended; what follows is padding, as browsers see it.
    ended: bool,
}

impl Body {
    /// `encoding` is the value of `Content-Encoding`: gzip and deflate are decoded, anything else is taken as it is.
    /// At most `cap` bytes are taken, encoded or decoded, and `keep` of the decoded ones kept.
    pub(crate) fn new(encoding: Option<&str>, keep: usize, cap: usize) -> Self {
        let sink = Sink { keep: keep.min(cap), room: cap, ..Sink::default() };
        let named = |name: &str| encoding.is_some_and(|encoding| encoding.trim().eq_ignore_ascii_case(name));
        let coding = if named("gzip") || named("x-gzip") {
            Coding::Gzip(GzDecoder::new(sink))
        } else if named("deflate") {
            Coding::Deflate(sink, Vec::new())
        } else {
            Coding::Identity(sink)
        };
        Self { coding, cap: cap as u64, encoded: 0, ended: false }
    }

    /// How many encoded bytes arrived.
    pub(crate) const fn encoded(&self) -> u64 {
        self.encoded
    }

    /// Takes a piece of the encoded body.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<Fed, Broken> {
        self.encoded += piece.len() as u64;
        self.settle_deflate(piece);
        let mut rest = piece;
        while !rest.is_empty() && !self.ended {
            let written = match &mut self.coding {
                Coding::Identity(sink) => sink.write(rest),
                Coding::Gzip(decoder) => decoder.write(rest),
                Coding::Deflate(..) => Ok(rest.len()),
                Coding::Zlib(decoder) => decoder.write(rest),
                Coding::Raw(decoder) => decoder.write(rest),
            };
            match written {
                Ok(0) => self.end_of_stream(rest)?,
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(_) if self.sink().over => return Ok(Fed::Full),
                Err(_) => return Err(Broken::Corrupt),
            }
        }
        let full = self.encoded > self.cap || self.sink().over;
        Ok(if full { Fed::Full } else { Fed::More })
    }

    /// The message is complete: checks that its content is.
    pub(crate) fn finish(&mut self) -> Result<Fed, Broken> {
        if self.encoded == 0 || self.ended {
            return Ok(Fed::More);
        }
        let finished = match &mut self.coding {
            Coding::Identity(_) => Ok(()),
            Coding::Deflate(..) => Err(io::ErrorKind::UnexpectedEof.into()),
            Coding::Gzip(decoder) => decoder.try_finish(),
            Coding::Zlib(decoder) => decoder.try_finish(),
            Coding::Raw(decoder) => decoder.try_finish(),
        };
        match finished {
            Ok(()) => {
                self.ended = true;
                Ok(Fed::More)
            }
            Err(_) if self.sink().over => Ok(Fed::Full),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Broken::Truncated),
            Err(_) => Err(Broken::Corrupt),
        }
    }

    /// What was decoded and kept so far.
    pub(crate) fn into_kept(mut self) -> Bytes {
        // Decoders hold back up to 32 KiB; what a broken stream still has to say matters little.
        let _ = match &mut self.coding {
            Coding::Gzip(decoder) if !self.ended => decoder.flush(),
            Coding::Zlib(decoder) if !self.ended => decoder.flush(),
            Coding::Raw(decoder) if !self.ended => decoder.flush(),
            _ => Ok(()),
        };
        std::mem::take(&mut self.sink().kept).into()
    }

    fn sink(&mut self) -> &mut Sink {
        match &mut self.coding {
            Coding::Identity(sink) | Coding::Deflate(sink, _) => sink,
            Coding::Gzip(decoder) => decoder.get_mut(),
            Coding::Zlib(decoder) => decoder.get_mut(),
            Coding::Raw(decoder) => decoder.get_mut(),
        }
    }

    /// Chooses between zlib and raw deflate once two bytes are there, and hands the chosen one what came before.
    fn settle_deflate(&mut self, piece: &[u8]) {
        let Coding::Deflate(sink, held) = &mut self.coding else { return };
        let before = held.len();
        held.extend(piece.iter().take(2 - before));
        let [first, second] = held.as_slice() else { return };
        // RFC 1950: method 8, and the two bytes are a multiple of 31.
        let zlib = first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0;
        let earlier = held.get(..before).unwrap_or_default().to_vec();
        let sink = std::mem::take(sink);
        // One byte cannot be an error yet, nor fill anything.
        self.coding = if zlib {
            let mut decoder = ZlibDecoder::new(sink);
            let _ = decoder.write_all(&earlier);
            Coding::Zlib(decoder)
        } else {
            let mut decoder = DeflateDecoder::new(sink);
            let _ = decoder.write_all(&earlier);
            Coding::Raw(decoder)
        };
    }

    /// A compressed stream ended before its bytes did: another gzip member (RFC 1952, 2.2) or padding.
    fn end_of_stream(&mut self, rest: &[u8]) -> Result<(), Broken> {
        const GZIP_MAGIC: u8 = 0x1f;
        let fed = self.finish()?;
        match &mut self.coding {
            Coding::Gzip(decoder) if rest.first() == Some(&GZIP_MAGIC) && fed == Fed::More => {
                let sink = std::mem::take(decoder.get_mut());
                *decoder = GzDecoder::new(sink);
                self.ended = false;
            }
            _ => self.ended = true,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Feeds in pieces of `step`; what came out, and how it ended.
    fn decode(encoding: &str, bytes: &[u8], step: usize, cap: usize) -> (Bytes, Result<Fed, Broken>) {
        let mut body = Body::new(Some(encoding), cap, cap);
        for piece in bytes.chunks(step) {
            match body.feed(piece) {
                Ok(Fed::More) => {}
                other => return (body.into_kept(), other),
            }
        }
        let end = body.finish();
        (body.into_kept(), end)
    }

    proptest! {
        #[test]
        fn every_coding_gives_the_text_back(text in proptest::collection::vec(any::<u8>(), 0..4000), step in 1usize..700) {
            for (name, bytes) in [("gzip", gzip(&text)), ("deflate", zlib(&text)), ("deflate", raw(&text)), ("br", text.clone())] {
                let (out, end) = decode(name, &bytes, step, 1 << 20);
                prop_assert_eq!(end, Ok(Fed::More));
                prop_assert_eq!(&out[..], &text[..]);
            }
        }

        #[test]
        fn garbage_ends_somehow(bytes in proptest::collection::vec(any::<u8>(), 1..400), step in 1usize..50) {
            for name in ["gzip", "deflate"] {
                let _ = decode(name, &bytes, step, 4096);
            }
        }
    }

    #[test]
    fn a_bomb_ends_at_the_cap() {
        let bomb = gzip(&vec![0u8; 64 << 20]);
        let (out, end) = decode("gzip", &bomb, 1024, 10_000);
        assert_eq!(end, Ok(Fed::Full));
        assert!(out.len() <= 10_000);
    }

    #[test]
    fn the_cap_itself_is_not_over_it() {
        for (text, end) in [(vec![7u8; 1000], Fed::More), (vec![7u8; 1001], Fed::Full)] {
            assert_eq!(decode("gzip", &gzip(&text), 64, 1000).1, Ok(end));
            assert_eq!(decode("identity", &text, 64, 1000).1, Ok(end));
        }
    }

    #[test]
    fn broken_streams_are_named() {
        let whole = gzip(b"hello hello hello hello");
        let cut = &whole[..whole.len() - 12];
        assert_eq!(decode("gzip", cut, 5, 1000).1, Err(Broken::Truncated));
        let mut wrong_sum = whole.clone();
        let at = wrong_sum.len() - 6;
        wrong_sum[at] ^= 1;
        assert_eq!(decode("gzip", &wrong_sum, 5, 1000).1, Err(Broken::Corrupt));
        assert_eq!(decode("gzip", b"<html>not compressed</html>", 5, 1000).1, Err(Broken::Corrupt));
        assert_eq!(decode("deflate", b"x", 5, 1000).1, Err(Broken::Truncated));
    }

    #[test]
    fn members_and_padding_after_a_gzip_stream() {
        let mut two = gzip(b"one ");
        two.extend(gzip(b"two"));
        assert_eq!(&decode("x-gzip", &two, 7, 1000).0[..], b"one two");
        let mut padded = gzip(b"one");
        padded.extend([0u8; 20]);
        let (out, end) = decode("gzip", &padded, 7, 1000);
        assert_eq!((&out[..], end), (&b"one"[..], Ok(Fed::More)));
    }

    #[test]
    fn nothing_at_all_is_a_body_of_no_bytes() {
        assert_eq!(decode("gzip", b"", 1, 10), (Bytes::new(), Ok(Fed::More)));
    }

    #[test]
    fn only_the_excerpt_is_kept() {
        let mut body = Body::new(None, 10, 1000);
        assert_eq!(body.feed(&[b'x'; 900]), Ok(Fed::More));
        assert_eq!(body.encoded(), 900);
        assert_eq!(body.into_kept().len(), 10);
    }
}
