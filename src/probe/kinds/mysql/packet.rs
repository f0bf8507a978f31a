//! Packets of MySQL's client/server protocol.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::probe::talk::{End, Talk};

/// One packet before the query, bytes.
pub(crate) const MAX_LOGIN_BYTES: usize = 16 * 1024;
/// One packet of a result, bytes; a row of a check is small.
pub(crate) const MAX_RESULT_BYTES: usize = 256 * 1024;

/// First bytes of packets.
pub(crate) const OK: u8 = 0x00;
pub(crate) const MORE: u8 = 0x01;
pub(crate) const NULL: u8 = 0xfb;
pub(crate) const SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;

pub(crate) const COM_QUIT: u8 = 0x01;
pub(crate) const COM_QUERY: u8 = 0x03;
pub(crate) const COM_PING: u8 = 0x0e;

const LONG_PASSWORD: u32 = 1;
const CONNECT_WITH_DB: u32 = 1 << 3;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
/// The plugin of servers that name none.
const NATIVE: &[u8] = b"mysql_native_password";
/// utf8mb4_general_ci: every server since 5.5 knows it.
const CHARSET: u8 = 45;

/// The server's first packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) version: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
    pub(crate) plugin: Vec<u8>,
    capabilities: u32,
}

impl Greeting {
    pub(crate) fn offers_tls(&self) -> bool {
        self.capabilities & SSL != 0
    }

    fn head(&self, database: &str, tls: bool) -> Vec<u8> {
        let mut wanted = LONG_PASSWORD | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION;
        wanted |= self.capabilities & PLUGIN_AUTH;
        wanted |= if database.is_empty() { 0 } else { CONNECT_WITH_DB };
        wanted |= if tls { SSL } else { 0 };
        let mut out = wanted.to_le_bytes().to_vec();
        out.extend_from_slice(&(1_u32 << 24).to_le_bytes());
        out.push(CHARSET);
        out.extend_from_slice(&[0; 23]);
        out
    }

    pub(crate) fn ssl_request(&self) -> Vec<u8> {
        self.head("", true)
    }

    /// `HandshakeResponse41`. Texts of the configuration hold no NUL; a scramble is at most 32 bytes. To a plugin that is
    /// not spoken here the answer is that to the oldest, and the server then names the plugin of the user's own.
    pub(crate) fn response(&self, user: &str, database: &str, password: &str, tls: bool) -> Vec<u8> {
        let (plugin, scramble) = match scramble(&self.plugin, password, &self.nonce) {
            Some(scramble) => (self.plugin.as_slice(), scramble),
            None => (NATIVE, scramble(NATIVE, password, &self.nonce).unwrap_or_default()),
        };
        let mut out = self.head(database, tls);
        out.extend_from_slice(user.as_bytes());
        out.push(0);
        out.push(u8::try_from(scramble.len()).unwrap_or(0));
        out.extend_from_slice(&scramble);
        if !database.is_empty() {
            out.extend_from_slice(database.as_bytes());
            out.push(0);
        }
        if self.capabilities & PLUGIN_AUTH != 0 {
            out.extend_from_slice(plugin);
            out.push(0);
        }
        out
    }
}

/// The answer to a nonce by a plugin; none for one that is not spoken here.
pub(crate) fn scramble(plugin: &[u8], password: &str, nonce: &[u8]) -> Option<Vec<u8>> {
    let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect();
    match plugin {
        NATIVE | b"caching_sha2_password" if password.is_empty() => Some(Vec::new()),
        NATIVE => {
            let once = Sha1::digest(password);
            Some(xor(&once, &Sha1::new().chain_update(nonce).chain_update(Sha1::digest(once)).finalize()))
        }
        b"caching_sha2_password" => {
            let once = Sha256::digest(password);
            let twice = Sha256::digest(once);
            Some(xor(&once, &Sha256::new().chain_update(twice).chain_update(nonce).finalize()))
        }
        _ => None,
    }
}

/// An `ERR_Packet`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) code: u16,
    pub(crate) message: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Packet(Vec<u8>);

impl Packet {
    pub(crate) fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.0.get(1..).unwrap_or_default()
    }

    pub(crate) fn error(&self) -> Option<Error> {
        let (code, rest) = self.body().split_first_chunk::<2>().filter(|_| self.tag() == Some(ERROR))?;
        // "#" and five characters of SQLSTATE come first, but not before the handshake is over.
        let message = if rest.first() == Some(&b'#') { rest.get(6..).unwrap_or_default() } else { rest };
        Some(Error { code: u16::from_le_bytes(*code), message: message.to_vec() })
    }

    /// `EOF_Packet`: a row that begins with this byte is longer.
    pub(crate) fn is_end(&self) -> bool {
        self.tag() == Some(SWITCH) && self.0.len() < 9
    }

    /// Protocol version 10 and what follows.
    pub(crate) fn greeting(&self) -> Option<Greeting> {
        let rest = self.0.strip_prefix(&[10])?;
        let (version, rest) = split_nul(rest)?;
        // Thread, first part of the nonce, filler, capabilities, character set, status, capabilities, length, reserved.
        let nonce = rest.get(4..12)?;
        let low = u16::from_le_bytes(*rest.get(13..15)?.first_chunk()?);
        let high = rest.get(18..20).and_then(|high| high.first_chunk()).map_or(0, |high| u16::from_le_bytes(*high));
        let more = rest.get(31..).unwrap_or_default();
        let (second, after) = split_nul(more).unwrap_or((more, &[]));
        let plugin = split_nul(after).map_or(after, |(plugin, _)| plugin);
        let plugin = if plugin.is_empty() { NATIVE } else { plugin };
        Some(Greeting {
            version: version.to_vec(),
            nonce: [nonce, second].concat(),
            plugin: plugin.to_vec(),
            capabilities: u32::from(low) | (u32::from(high) << 16),
        })
    }

    /// `AuthSwitchRequest`: a plugin and its nonce.
    pub(crate) fn switch(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (plugin, nonce) = split_nul(self.body())?;
        Some((plugin.to_vec(), nonce.strip_suffix(&[0]).unwrap_or(nonce).to_vec()))
    }

    /// The first field of a row of the text protocol: none when cut, the inner none when null.
    pub(crate) fn first_field(&self) -> Option<Option<&[u8]>> {
        if self.tag()? == NULL {
            return Some(None);
        }
        let (length, rest) = match (self.tag()?, self.body()) {
            (short @ 0..=0xfa, rest) => (usize::from(short), rest),
            (0xfc, rest) => {
                rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest))?
            }
            (0xfd, [a, b, c, rest @ ..]) => (usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16, rest),
            _ => return None,
        };
        rest.get(..length).map(Some)
    }
}

fn split_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

/// Packets over a conversation: each has its number.
pub(crate) struct Wire<'a> {
    talk: Talk<'a>,
    sequence: u8,
}

impl<'a> Wire<'a> {
    pub(crate) const fn new(talk: Talk<'a>) -> Self {
        Self { talk, sequence: 0 }
    }

    /// Goes on under TLS.
    pub(crate) const fn resumed(talk: Talk<'a>, sequence: u8) -> Self {
        Self { talk, sequence }
    }

    pub(crate) fn into_parts(self) -> (Talk<'a>, u8) {
        (self.talk, self.sequence)
    }

    /// A command begins a count of its own.
    pub(crate) const fn begin(&mut self) {
        self.sequence = 0;
    }

    pub(crate) async fn send(&mut self, body: &[u8]) -> Result<(), End> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
        let head = [length[0], length[1], length[2], self.sequence];
        self.sequence = self.sequence.wrapping_add(1);
        self.talk.send(&[&head, body].concat()).await
    }

    /// The next packet; none when what came is no packet, or out of turn, and [`End::TooMuch`] when it is longer than
    /// `most` bytes.
    pub(crate) async fn next(&mut self, most: usize) -> Result<Option<Packet>, End> {
        let head = self.talk.exact(4).await?;
        let [a, b, c, sequence] = head.as_slice() else { return Ok(None) };
        let length = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
        if *sequence != self.sequence || length == 0 {
            return Ok(None);
        }
        if length > most {
            return Err(End::TooMuch);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.talk.exact(length).await.map(|body| Some(Packet(body)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn greeting() -> Vec<u8> {
        let mut out = b"\x0a8.0.36\0".to_vec();
        out.extend_from_slice(&[1, 0, 0, 0]);
        out.extend_from_slice(b"abcdefgh\0");
        out.extend_from_slice(&[0xff, 0xff, 45, 2, 0, 0xff, 0xdf, 21]);
        out.extend_from_slice(&[0; 10]);
        out.extend_from_slice(b"ijklmnopqrst\0caching_sha2_password\0");
        out
    }

    #[test]
    fn a_greeting_is_read_and_a_cut_one_is_none_or_poorer() {
        let whole = Packet(greeting()).greeting().unwrap();
        assert_eq!((&*whole.version, &*whole.nonce), (&b"8.0.36"[..], &b"abcdefghijklmnopqrst"[..]));
        assert_eq!(whole.plugin, b"caching_sha2_password");
        assert!(whole.offers_tls());
        for length in 0..greeting().len() {
            // Nothing to assert but that it ends: whatever is left is a poorer greeting or none.
            if let Some(cut) = Packet(greeting()[..length].to_vec()).greeting() {
                assert!(cut.nonce.len() <= 20);
            }
        }
        assert_eq!(Packet(b"\x09old\0".to_vec()).greeting(), None);
    }

    #[test]
    fn fields_of_every_length_are_read() {
        let field = |bytes: &[u8]| Packet(bytes.to_vec()).first_field().map(|field| field.map(<[u8]>::to_vec));
        assert_eq!(field(&[2, b'4', b'2', 1, b'x']), Some(Some(b"42".to_vec())));
        assert_eq!(field(&[NULL]), Some(None));
        assert_eq!(field(&[0xfc, 1, 0, b'a']), Some(Some(b"a".to_vec())));
        assert_eq!(field(&[0xfd, 1, 0, 0, b'a']), Some(Some(b"a".to_vec())));
        for cut in [&[][..], &[3, b'a'], &[0xfc, 1], &[0xfd, 9, 0, 0, b'a'], &[0xff, 1]] {
            assert_eq!(field(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn scrambles_are_those_of_the_plugins() {
        // Computed with Python's hashlib for the password "s3cr3t!" and this nonce.
        let answer = |plugin: &str, password| {
            let bytes = scramble(plugin.as_bytes(), password, b"abcdefghijklmnopqrst")?;
            Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        };
        assert_eq!(
            answer("mysql_native_password", "s3cr3t!").as_deref(),
            Some("62e3042c792efdb9280e21e3b0e985de3a27e3ab")
        );
        assert_eq!(
            answer("caching_sha2_password", "s3cr3t!").as_deref(),
            Some("f88b928954ebc5cb4c364d166848c4dc969fff6e18b1e386ba2f031a5461f686")
        );
        assert_eq!(answer("caching_sha2_password", "").as_deref(), Some(""));
        assert_eq!(answer("client_ed25519", "s3cr3t!"), None);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_panics(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            let packet = Packet(bytes);
            let _ = (packet.error(), packet.greeting(), packet.switch(), packet.first_field(), packet.is_end());
        }
    }

    #[test]
    fn errors_lose_their_state() {
        let error = Packet(b"\xff\x15\x04#28000Access denied".to_vec()).error().unwrap();
        assert_eq!((error.code, &*error.message), (1045, &b"Access denied"[..]));
        let early = Packet(b"\xff\x10\x04Too many connections".to_vec()).error().unwrap();
        assert_eq!((early.code, &*early.message), (1040, &b"Too many connections"[..]));
        assert_eq!(Packet(vec![ERROR, 1]).error(), None);
    }
}
