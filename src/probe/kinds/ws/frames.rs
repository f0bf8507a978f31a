//! Frames and messages (RFC 6455, 5), as a client sends and reads them.

use std::io;

use super::foreign;
use crate::model::{Failure, Fault};
use crate::probe::authority::Authority;
use crate::probe::exchange::{Heard, Line};
use crate::probe::net::Stream;
use crate::probe::talk::{self, End, Talk};
use crate::verdict::text;

const OPCODE_CONTINUATION: u8 = 0;
const OPCODE_TEXT: u8 = 1;
const OPCODE_BINARY: u8 = 2;
pub(crate) const OPCODE_CLOSE: u8 = 8;
const OPCODE_PING: u8 = 9;
const OPCODE_PONG: u8 = 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// RFC 6455, 5.5.
const MAX_CONTROL_BYTES: u64 = 125;
/// What is kept of a message; the rest is read and dropped.
const MAX_KEPT_BYTES: usize = 64 * 1024;
const PIECE_BYTES: u64 = 4096;
const MAX_REASON: usize = 123;
/// Frames of one check: this many bound the work, and the answers to pings, that a sender of tiny ones can cause.
const MAX_FRAMES: u32 = 10_000;

/// A final frame, masked as those of clients are, by random bytes of the system.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut mask = [0; 4];
    getrandom::fill(&mut mask).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = vec![FIN | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..126), _) => bytes.push(MASKED | length),
        (_, Ok(length)) => {
            bytes.push(MASKED | 126);
            bytes.extend(length.to_be_bytes());
        }
        _ => {
            bytes.push(MASKED | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Ok(bytes)
}

/// What came.
enum Event {
    /// A whole message: in [`Socket::message`].
    Message,
    Pong(Vec<u8>),
}

/// Why nothing comes.
enum Stop {
    End(End),
    /// Against the rules: the sentence's end.
    Broken(&'static str),
    /// A close frame, with its reason.
    Closed(String),
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

/// A connection after its handshake.
pub(crate) struct Socket<'a> {
    talk: Talk<'a>,
    place: &'a Authority,
    /// What is kept of the message that came last, or is coming.
    message: Vec<u8>,
    /// A message began and goes on; the opcode it began with.
    begun: Option<u8>,
    close_code: Option<u16>,
    frames: u32,
    /// Why an exchange ends that is against the rules.
    broken: Option<&'static str>,
}

impl<'a> Socket<'a> {
    pub(crate) fn new(talk: Talk<'a>, place: &'a Authority) -> Self {
        Self { talk, place, message: Vec::new(), begun: None, close_code: None, frames: 0, broken: None }
    }

    /// The stream, and the code of a close frame that came.
    pub(crate) fn into_parts(self) -> (Stream, Option<u16>) {
        (self.talk.into_stream(), self.close_code)
    }

    /// A ping, and its pong; messages meanwhile are somebody's, not ours.
    pub(crate) async fn ping(&mut self) -> Result<(), Fault> {
        let mut payload = [0; 8];
        getrandom::fill(&mut payload)
            .map_err(|_| Fault::new(Failure::ResourceExhausted, "the system gave no random bytes"))?;
        self.send(OPCODE_PING, &payload).await.map_err(|stop| self.fault(stop))?;
        loop {
            match self.next().await.map_err(|stop| self.fault(stop))? {
                Event::Pong(back) if back == payload => return Ok(()),
                // RFC 6455, 5.5.3: a pong that nobody asked for is no answer.
                Event::Pong(_) | Event::Message => {}
            }
        }
    }

    fn fault(&self, stop: Stop) -> Fault {
        match stop {
            Stop::End(end) => end.fault(self.place, "a pong"),
            Stop::Broken(what) => foreign(self.place, what),
            Stop::Closed(why) => {
                let text = format!("{} ended the WebSocket {why} in place of an answer", self.place);
                Fault::new(Failure::ConnectionClosed, text)
            }
        }
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Stop> {
        let frame = frame(opcode, payload).map_err(End::Broken)?;
        Ok(self.talk.send(&frame).await?)
    }

    /// The next message or pong; pings are answered on the way.
    async fn next(&mut self) -> Result<Event, Stop> {
        loop {
            self.frames += 1;
            if self.frames > MAX_FRAMES {
                return Err(Stop::End(End::TooMuch));
            }
            let head = self.talk.exact(2).await?;
            let (Some(first), Some(second)) = (head.first().copied(), head.get(1).copied()) else {
                return Err(Stop::Broken("sent half a frame"));
            };
            let (last, opcode) = (first & FIN != 0, first & 0x0f);
            if first & RESERVED != 0 {
                return Err(Stop::Broken("set a reserved bit of a frame"));
            }
            if second & MASKED != 0 {
                return Err(Stop::Broken("masked a frame, as only clients do"));
            }
            let length = self.length(second).await?;
            match opcode {
                OPCODE_CLOSE | OPCODE_PING | OPCODE_PONG => {
                    if !last || length > MAX_CONTROL_BYTES {
                        return Err(Stop::Broken("sent a control frame in parts, or one that is too long"));
                    }
                    let payload = self.talk.exact(usize::try_from(length).unwrap_or_default()).await?;
                    match opcode {
                        OPCODE_PING => self.send(OPCODE_PONG, &payload).await?,
                        OPCODE_PONG => return Ok(Event::Pong(payload)),
                        _ => return Err(self.closed(&payload)),
                    }
                }
                OPCODE_CONTINUATION | OPCODE_TEXT | OPCODE_BINARY => {
                    if (opcode == OPCODE_CONTINUATION) != self.begun.is_some() {
                        return Err(Stop::Broken("mixed the parts of two messages"));
                    }
                    if self.begun.is_none() {
                        self.message.clear();
                        self.begun = Some(opcode);
                    }
                    self.payload(length).await?;
                    if last {
                        return self.whole();
                    }
                }
                _ => return Err(Stop::Broken("sent a frame of an unknown sort")),
            }
        }
    }

    async fn length(&mut self, second: u8) -> Result<u64, Stop> {
        let more = match second {
            126 => 2,
            127 => 8,
            short => return Ok(u64::from(short)),
        };
        let bytes = self.talk.exact(more).await?;
        let length = bytes.iter().fold(0, |length: u64, byte| length << 8 | u64::from(*byte));
        // RFC 6455, 5.2: the highest bit is 0.
        if length >> 63 == 1 {
            return Err(Stop::Broken("sent a frame of an impossible length"));
        }
        Ok(length)
    }

    async fn payload(&mut self, length: u64) -> Result<(), Stop> {
        let mut left = length;
        while left > 0 {
            let piece = self.talk.exact(usize::try_from(left.min(PIECE_BYTES)).unwrap_or_default()).await?;
            left -= piece.len() as u64;
            let room = MAX_KEPT_BYTES.saturating_sub(self.message.len()).min(piece.len());
            self.message.extend_from_slice(piece.get(..room).unwrap_or_default());
        }
        Ok(())
    }

    fn whole(&mut self) -> Result<Event, Stop> {
        let is_text = self.begun.take() == Some(OPCODE_TEXT);
        // One that was cut may end within a character.
        if is_text && self.message.len() < MAX_KEPT_BYTES && std::str::from_utf8(&self.message).is_err() {
            return Err(Stop::Broken("sent a text message that is not UTF-8"));
        }
        Ok(Event::Message)
    }

    fn closed(&mut self, payload: &[u8]) -> Stop {
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return Stop::Closed("without a code".to_owned());
        };
        let code = u16::from_be_bytes(*code);
        self.close_code = Some(code);
        let reason = text::quote(&String::from_utf8_lossy(reason), MAX_REASON);
        Stop::Closed(if reason == "\"\"" {
            format!("with code {code}")
        } else {
            format!("with code {code}, {reason},")
        })
    }

    /// As an exchange knows it: a close frame is the end, and what is against the rules breaks the line.
    fn end(&mut self, stop: Stop) -> End {
        match stop {
            Stop::End(end) => end,
            Stop::Closed(_) => End::Closed,
            Stop::Broken(what) => {
                self.broken = Some(what);
                End::Broken(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

impl Line for Socket<'_> {
    /// As a text message: what is sent comes from a text file.
    async fn say(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.send(OPCODE_TEXT, bytes).await.map_err(|stop| self.end(stop))
    }

    async fn hear(&mut self) -> Result<Heard, End> {
        loop {
            match self.next().await {
                Ok(Event::Message) => return Ok(Heard::Anew),
                Ok(Event::Pong(_)) => {}
                Err(stop) => return Err(self.end(stop)),
            }
        }
    }

    fn heard(&self) -> &[u8] {
        if self.begun.is_none() { &self.message } else { &[] }
    }

    fn broken(&self, error: &io::Error, place: &Authority) -> Fault {
        match self.broken {
            Some(what) => foreign(place, what),
            None => talk::broken(error, place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_masked_and_carry_their_length() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let payload = vec![b'x'; length];
            let bytes = frame(OPCODE_TEXT, &payload).unwrap();
            assert_eq!((bytes[0], bytes[1] & MASKED, bytes.len()), (0x81, MASKED, header + 4 + length), "{length}");
            let mask = &bytes[header..header + 4];
            let plain: Vec<u8> =
                bytes[header + 4..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            assert_eq!(plain, payload);
        }
    }
}
