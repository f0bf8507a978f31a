//! Frames and the methods of class `connection`. Section numbers are those of the specification of AMQP 0-9-1.

use crate::verdict::text;

/// What a client begins with (4.2.2).
pub(super) const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Type, channel and length of a frame (4.2.3); and as long as [`HEADER`] but for its last byte.
pub(super) const HEAD_BYTES: usize = 7;
pub(super) const END: u8 = 0xce;
const KIND_METHOD: u8 = 1;
const KIND_HEARTBEAT: u8 = 8;
/// The least that both sides may agree on (4.2.3), bytes.
const FRAME_MIN: u32 = 4096;
/// 200, "OK".
const REPLY_SUCCESS: u16 = 200;

/// Class and method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method(u16, u16);

impl Method {
    pub(super) const START: Self = Self(10, 10);
    const START_OK: Self = Self(10, 11);
    pub(super) const TUNE: Self = Self(10, 30);
    const TUNE_OK: Self = Self(10, 31);
    const OPEN: Self = Self(10, 40);
    pub(super) const OPEN_OK: Self = Self(10, 41);
    const CLOSE: Self = Self(10, 50);
    pub(super) const CLOSE_OK: Self = Self(10, 51);
}

/// A frame that arrived.
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// Type and payload length from a frame's head; none when it cannot be one of channel 0.
pub(super) fn head(head: &[u8]) -> Option<(u8, usize)> {
    let (kind, rest) = head.split_first()?;
    let (channel, length) = rest.split_first_chunk::<2>()?;
    let length = u32::from_be_bytes(*length.first_chunk()?);
    let known = matches!(*kind, KIND_METHOD | KIND_HEARTBEAT) && *channel == [0, 0];
    known.then_some((*kind, usize::try_from(length).ok()?))
}

impl Frame {
    /// The method with its arguments, if it is one.
    pub(super) fn method(&self) -> Option<(Method, &[u8])> {
        let mut bytes = Bytes(&self.payload);
        let method = Method(bytes.short()?, bytes.short()?);
        (self.kind == KIND_METHOD).then_some((method, bytes.0))
    }

    pub(super) const fn is_heartbeat(&self) -> bool {
        self.kind == KIND_HEARTBEAT
    }

    /// Code and text of a `Connection.Close`.
    pub(super) fn closing(&self) -> Option<(u16, &[u8])> {
        let (method, arguments) = self.method()?;
        let mut bytes = Bytes(arguments);
        let code = bytes.short()?;
        (method == Method::CLOSE).then_some((code, bytes.short_text()?))
    }
}

/// Takes fields off the front (4.2.5); none when there is too little.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn octet(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    fn long(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(*self.take(4)?.first_chunk()?))
    }

    fn short_text(&mut self) -> Option<&'a [u8]> {
        let length = self.octet()?;
        self.take(usize::from(length))
    }

    /// A long text or a table: both have four bytes of length.
    fn block(&mut self) -> Option<&'a [u8]> {
        let length = self.long()?;
        self.take(usize::try_from(length).ok()?)
    }
}

/// `Connection.Start`.
pub(super) struct Start {
    properties: Vec<(String, String)>,
    /// Separated by spaces.
    pub(super) mechanisms: String,
}

impl Start {
    pub(super) fn read(arguments: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(arguments);
        let (0, 9) = (bytes.octet()?, bytes.octet()?) else { return None };
        let properties = texts(bytes.block()?);
        let mechanisms = String::from_utf8_lossy(bytes.block()?).into_owned();
        Some(Self { properties, mechanisms })
    }

    pub(super) fn offers(&self, mechanism: &str) -> bool {
        self.mechanisms.split(' ').any(|offered| offered == mechanism)
    }

    /// What the server says of itself, each at most so many characters.
    pub(super) fn facts(&self, most: usize) -> Vec<(&'static str, String)> {
        let find = |name: &str| self.properties.iter().find(|(there, _)| there == name).map(|(_, value)| value);
        [("product", "product"), ("version", "version"), ("cluster", "cluster_name")]
            .into_iter()
            .filter_map(|(fact, name)| Some((fact, text::clean(find(name)?, most, false))))
            .collect()
    }
}

/// The texts of a table up to its first field of another sort but a nested table.
fn texts(table: &[u8]) -> Vec<(String, String)> {
    let mut bytes = Bytes(table);
    let mut found = Vec::new();
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while let Some(name) = bytes.short_text() {
        match (bytes.octet(), bytes.block()) {
            (Some(b'S'), Some(value)) => found.push((lossy(name), lossy(value))),
            (Some(b'F'), Some(_)) => {}
            _ => break,
        }
    }
    found
}

fn method_frame(method: Method, arguments: &[u8]) -> Vec<u8> {
    let length = u32::try_from(arguments.len() + 4).unwrap_or(u32::MAX);
    let mut frame = vec![KIND_METHOD, 0, 0];
    frame.extend(length.to_be_bytes());
    frame.extend(method.0.to_be_bytes());
    frame.extend(method.1.to_be_bytes());
    frame.extend_from_slice(arguments);
    frame.push(END);
    frame
}

/// At most 255 bytes, as its callers see to.
fn put_short_text(into: &mut Vec<u8>, text: &str) {
    into.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    into.extend_from_slice(text.as_bytes());
}

fn put_block(into: &mut Vec<u8>, block: &[u8]) {
    into.extend(u32::try_from(block.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend_from_slice(block);
}

/// `Connection.StartOk` with the mechanism PLAIN (RFC 4616). The capability makes RabbitMQ say why it refuses, instead
/// of closing the connection without a word.
pub(super) fn start_ok(username: &str, password: &str) -> Vec<u8> {
    let mut capabilities = Vec::new();
    put_short_text(&mut capabilities, "authentication_failure_close");
    capabilities.extend_from_slice(b"t\x01");
    let mut properties = Vec::new();
    for (name, value) in [("product", "Lamplighter"), ("version", env!("CARGO_PKG_VERSION"))] {
        put_short_text(&mut properties, name);
        properties.push(b'S');
        put_block(&mut properties, value.as_bytes());
    }
    put_short_text(&mut properties, "capabilities");
    properties.push(b'F');
    put_block(&mut properties, &capabilities);
    let mut arguments = Vec::new();
    put_block(&mut arguments, &properties);
    put_short_text(&mut arguments, "PLAIN");
    put_block(&mut arguments, format!("\0{username}\0{password}").as_bytes());
    put_short_text(&mut arguments, "en_US");
    method_frame(Method::START_OK, &arguments)
}

/// `Connection.TuneOk`: what the server proposed, but for heartbeats, which a check is too short for.
pub(super) fn tune_ok(tune: &[u8]) -> Vec<u8> {
    let mut bytes = Bytes(tune);
    let channels = bytes.short().unwrap_or_default();
    // 0: no limit of the server's.
    let frame = bytes.long().filter(|most| *most >= FRAME_MIN).unwrap_or(FRAME_MIN);
    let mut arguments = Vec::from(channels.to_be_bytes());
    arguments.extend(frame.to_be_bytes());
    arguments.extend(0_u16.to_be_bytes());
    method_frame(Method::TUNE_OK, &arguments)
}

/// `Connection.Open`; two fields of its end are reserved.
pub(super) fn open(vhost: &str) -> Vec<u8> {
    let mut arguments = Vec::new();
    put_short_text(&mut arguments, vhost);
    arguments.extend_from_slice(&[0, 0]);
    method_frame(Method::OPEN, &arguments)
}

/// `Connection.Close`, in good order: no method was at fault.
pub(super) fn close() -> Vec<u8> {
    let mut arguments = Vec::from(REPLY_SUCCESS.to_be_bytes());
    put_short_text(&mut arguments, "done");
    arguments.extend_from_slice(&[0; 4]);
    method_frame(Method::CLOSE, &arguments)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_those_of_the_specification() {
        assert_eq!(open("/"), *b"\x01\0\0\0\0\0\x08\0\x0a\0\x28\x01/\0\0\xce");
        assert_eq!(tune_ok(b"\x07\xff\0\x02\0\0\0\x3c"), *b"\x01\0\0\0\0\0\x0c\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\0\xce");
        assert_eq!(head(b"\x01\0\0\0\0\x01\x02"), Some((1, 258)));
        for bad in [&b"\x01\0\x01\0\0\0\0"[..], b"\x02\0\0\0\0\0\0", b"HTTP/1.", b""] {
            assert_eq!(head(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_greeting_tells_of_its_server() {
        let table = b"\x0ccapabilitiesF\0\0\0\x04\x01xt\x01\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x033.8";
        let mut arguments = vec![0, 9];
        put_block(&mut arguments, table);
        put_block(&mut arguments, b"PLAIN AMQPLAIN");
        let start = Start::read(&arguments).unwrap();
        assert!(start.offers("PLAIN") && !start.offers("EXTERNAL") && !start.offers("AMQ"));
        assert_eq!(start.facts(4), [("product", "Rab…".to_owned()), ("version", "3.8".to_owned())]);
        assert!(Start::read(&[1, 0, 0, 0, 0, 0]).is_none());
    }

    proptest! {
        #[test]
        fn nothing_panics(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let frame = Frame { kind: KIND_METHOD, payload };
            let _ = frame.closing();
            if let Some((_, arguments)) = frame.method() {
                let _ = Start::read(arguments);
                let _ = tune_ok(arguments);
            }
        }
    }
}
