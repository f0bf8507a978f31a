//! Where the frames of HTTP/2 begin and end (RFC 9113, 4.1): what the phases of a check are measured by. A connection
//! has other traffic than the answer, so its first byte says nothing.

/// Bytes before the first frame of a client (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The header of a frame, without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    kind: u8,
    flags: u8,
}

impl Frame {
    /// A head begins: an interim or the final one.
    pub(super) const fn is_head(self) -> bool {
        self.kind == HEADERS
    }

    /// A head is complete with this frame.
    pub(super) const fn ends_head(self) -> bool {
        (self.kind == HEADERS || self.kind == CONTINUATION) && self.flags & END_HEADERS != 0
    }

    /// Part of a message, whose last frame this may be.
    const fn is_message(self) -> bool {
        matches!(self.kind, DATA | HEADERS | CONTINUATION)
    }

    const fn ends_stream(self) -> bool {
        (self.kind == DATA || self.kind == HEADERS) && self.flags & END_STREAM != 0
    }
}

/// What a piece of the stream completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    Inside,
    /// The header of a frame that has a payload.
    Begun(Frame),
    /// A frame.
    Ended(Frame),
}

/// One direction of a connection, looked at as its bytes pass.
#[derive(Debug)]
pub(super) struct Scan {
    /// Bytes until the next boundary.
    left: usize,
    header: [u8; HEADER_BYTES],
    /// The frame whose payload passes; none: a header passes.
    inside: Option<Frame>,
    preface: bool,
}

impl Scan {
    /// What a server sends.
    pub(super) const fn incoming() -> Self {
        Self { left: HEADER_BYTES, header: [0; HEADER_BYTES], inside: None, preface: false }
    }

    /// What a client sends.
    pub(super) const fn outgoing() -> Self {
        Self { left: PREFACE_BYTES, header: [0; HEADER_BYTES], inside: None, preface: true }
    }

    /// Bytes up to the next boundary, at least 1.
    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// Takes the next bytes, at most [`Self::left`] of them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Step {
        if self.inside.is_none() && !self.preface {
            let at = HEADER_BYTES - self.left;
            for (slot, byte) in self.header.iter_mut().skip(at).zip(bytes) {
                *slot = *byte;
            }
        }
        self.left = self.left.saturating_sub(bytes.len());
        if self.left > 0 {
            return Step::Inside;
        }
        if std::mem::take(&mut self.preface) {
            self.left = HEADER_BYTES;
            return Step::Inside;
        }
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        match self.inside.take() {
            None if length > 0 => {
                self.left = length;
                self.inside = Some(Frame { kind, flags });
                Step::Begun(Frame { kind, flags })
            }
            _ => {
                self.left = HEADER_BYTES;
                Step::Ended(Frame { kind, flags })
            }
        }
    }
}

/// Finds the end of the one request of a connection in what is sent.
#[derive(Debug)]
pub(super) struct RequestEnd {
    scan: Scan,
    last_frame: bool,
}

impl RequestEnd {
    pub(super) const fn new() -> Self {
        Self { scan: Scan::outgoing(), last_frame: false }
    }

    /// Whether these bytes ended the request, or a piece of its head after the frame that says so.
    pub(super) fn passes(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.scan.left().min(bytes.len()));
            if let Step::Ended(frame) = self.scan.take(piece) {
                self.last_frame |= frame.ends_stream();
                ended |= self.last_frame && frame.is_message();
            }
            bytes = rest;
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(length).unwrap().to_be_bytes();
        let mut bytes = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEADER_BYTES + length, 0xff);
        bytes
    }

    #[test]
    fn frames_are_found_whatever_pieces_they_come_in() {
        let stream =
            [frame(4, 0, 18), frame(4, 1, 0), frame(HEADERS, END_HEADERS, 300), frame(DATA, 1, 70_000)].concat();
        for step in [1, 7, 9, 4096, usize::MAX] {
            let mut scan = Scan::incoming();
            let (mut rest, mut ended) = (&stream[..], Vec::new());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(scan.left().min(rest.len()).min(step));
                if let Step::Ended(frame) = scan.take(piece) {
                    ended.push((frame.kind, frame.ends_head(), frame.ends_stream()));
                }
                rest = behind;
            }
            assert_eq!(ended, [(4, false, false), (4, false, false), (HEADERS, true, false), (DATA, false, true)]);
            assert_eq!(scan.left(), HEADER_BYTES);
        }
    }

    #[test]
    fn the_end_of_a_request_is_that_of_its_last_frame() {
        let preface = vec![b'x'; PREFACE_BYTES];
        let mut bare = RequestEnd::new();
        assert!(!bare.passes(&[preface.clone(), frame(4, 0, 30)].concat()));
        assert!(bare.passes(&frame(HEADERS, END_STREAM | END_HEADERS, 40)));
        assert!(!bare.passes(&frame(4, 1, 0)), "a later acknowledgement is no part of it");

        let mut long = RequestEnd::new();
        assert!(!long.passes(&[preface, frame(HEADERS, END_HEADERS, 40), frame(DATA, 0, 16_384)].concat()));
        let last = frame(DATA, END_STREAM, 100);
        assert!(!long.passes(&last[..50]));
        assert!(long.passes(&last[50..]));
    }

    proptest! {
        #[test]
        fn any_bytes_pass(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut scan = Scan::incoming();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                prop_assert!(scan.left() > 0);
                let (piece, behind) = rest.split_at(scan.left().min(rest.len()));
                scan.take(piece);
                rest = behind;
            }
            RequestEnd::new().passes(&bytes);
        }
    }
}
