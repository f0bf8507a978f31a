//! SSH on the wire before encryption: data types (RFC 4251, 5) and packets (RFC 4253, 6).

use crate::probe::talk::{End, Talk};

/// The largest packet that is read, bytes: what RFC 4253, 6.1, asks every implementation to take.
const MAX_PACKET: usize = 35_000;
/// Without a cipher, packets are padded to this (RFC 4253, 6).
const BLOCK: usize = 8;
/// Ignorable messages before the awaited one.
const MAX_ASIDES: usize = 16;

/// Message numbers (RFC 4250, 4.1.2; RFC 5656, 7.1).
pub(crate) const DISCONNECT: u8 = 1;
const IGNORE: u8 = 2;
const UNIMPLEMENTED: u8 = 3;
const DEBUG: u8 = 4;
pub(crate) const KEXINIT: u8 = 20;
pub(crate) const ECDH_INIT: u8 = 30;
pub(crate) const ECDH_REPLY: u8 = 31;

/// Why a packet is not what was awaited.
pub(crate) enum NotRead {
    /// None came.
    Ended(End),
    /// Not SSH's form.
    Malformed,
    /// The server said goodbye, with this reason.
    Goodbye(String),
}

/// A payload being written.
#[derive(Default)]
pub(crate) struct Payload(pub(crate) Vec<u8>);

impl Payload {
    pub(crate) fn of(message: u8) -> Self {
        Self(vec![message])
    }

    pub(crate) fn uint32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn string(self, text: &[u8]) -> Self {
        let mut with = self.uint32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        with.0.extend_from_slice(text);
        with
    }

    /// A positive number, big-endian: no zeros in front but the one that keeps it positive.
    pub(crate) fn mpint(self, number: &[u8]) -> Self {
        let number = stripped(number);
        let mut positive = Vec::with_capacity(number.len() + 1);
        positive.extend(number.first().filter(|first| **first >= 0x80).map(|_| 0));
        positive.extend_from_slice(number);
        self.string(&positive)
    }
}

/// A number without zeros in front.
pub(crate) fn stripped(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A payload being read; none where it is too short.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn uint32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.uint32()?).ok()?;
        self.take(length)
    }

    /// Names separated by commas.
    pub(crate) fn names(&mut self) -> Option<Vec<&'a str>> {
        let text = std::str::from_utf8(self.string()?).ok()?;
        Some(text.split(',').collect())
    }
}

/// A whole packet around a payload. Zeros will do for padding where nothing is encrypted.
pub(crate) fn packet(payload: &[u8]) -> Vec<u8> {
    let unpadded = 4 + 1 + payload.len();
    let mut padding = BLOCK - unpadded % BLOCK;
    if padding < 4 {
        padding += BLOCK;
    }
    let length = u32::try_from(1 + payload.len() + padding).unwrap_or(u32::MAX);
    let mut packet = length.to_be_bytes().to_vec();
    packet.extend(u8::try_from(padding));
    packet.extend_from_slice(payload);
    packet.resize(unpadded + padding, 0);
    packet
}

/// The payload of the next packet that is this message; what may be ignored is.
pub(crate) async fn receive(talk: &mut Talk<'_>, awaited: u8) -> Result<Vec<u8>, NotRead> {
    for _ in 0..MAX_ASIDES {
        let head = talk.exact(4).await.map_err(NotRead::Ended)?;
        let length = Fields(&head).uint32().and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| (BLOCK - 3..=MAX_PACKET).contains(length)).ok_or(NotRead::Malformed)?;
        let body = talk.exact(length).await.map_err(NotRead::Ended)?;
        let (padding, rest) = body.split_first().ok_or(NotRead::Malformed)?;
        let end = rest.len().checked_sub(usize::from(*padding)).ok_or(NotRead::Malformed)?;
        let payload = rest.get(..end).unwrap_or_default();
        match payload.first() {
            Some(message) if *message == awaited => return Ok(payload.to_vec()),
            Some(&DISCONNECT) => return Err(NotRead::Goodbye(reason(payload))),
            Some(&(IGNORE | UNIMPLEMENTED | DEBUG)) => {}
            _ => return Err(NotRead::Malformed),
        }
    }
    Err(NotRead::Malformed)
}

fn reason(payload: &[u8]) -> String {
    let mut fields = Fields(payload.get(1..).unwrap_or_default());
    let text = fields.uint32().and_then(|_| fields.string()).unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_as_the_rfc_shows() {
        // RFC 4251, 5: the positive ones.
        for (number, wanted) in [
            (&[][..], &[0, 0, 0, 0][..]),
            (&[0, 0], &[0, 0, 0, 0]),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
            (
                &[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
                &[0, 0, 0, 8, 9, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
            ),
        ] {
            assert_eq!(Payload::default().mpint(number).0, wanted);
        }
    }

    proptest! {
        #[test]
        fn packets_are_padded_to_blocks(payload in proptest::collection::vec(any::<u8>(), 1..200)) {
            let packet = packet(&payload);
            let padding = usize::from(packet[4]);
            prop_assert_eq!(packet.len() % BLOCK, 0);
            prop_assert!((4..4 + BLOCK).contains(&padding));
            prop_assert_eq!(Fields(&packet).uint32().unwrap() as usize, packet.len() - 4);
            prop_assert_eq!(&packet[5..packet.len() - padding], &payload[..]);
        }

        #[test]
        fn fields_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut fields = Fields(&bytes);
            while fields.string().is_some() && !fields.0.is_empty() {}
            let _ = (Fields(&bytes).names(), reason(&bytes));
        }
    }
}
