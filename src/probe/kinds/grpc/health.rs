//! The two messages of `grpc.health.v1`, and what they mean. They are so small that they are written by hand:
//! `HealthCheckRequest { string service = 1 }`, `HealthCheckResponse { ServingStatus status = 1 }`.

use super::call::Status;
use crate::model::{Failure, Fault};
use crate::probe::authority::Authority;

/// Field 1, a text (wire type 2).
const TAG_SERVICE: u8 = 1 << 3 | 2;
/// Field 1, a number (wire type 0).
const TAG_STATUS: u64 = 1 << 3;
/// Bytes before a message: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// `HealthCheckResponse.ServingStatus`; unknown numbers are kept, since enums of proto3 are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serving(u64);

impl Serving {
    const SERVING: Self = Self(1);

    pub(super) fn name(self) -> String {
        match self.0 {
            0 => "UNKNOWN".to_owned(),
            1 => "SERVING".to_owned(),
            2 => "NOT_SERVING".to_owned(),
            3 => "SERVICE_UNKNOWN".to_owned(),
            other => other.to_string(),
        }
    }
}

/// The request's message with its prefix; the service has at most 255 bytes.
pub(super) fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(TAG_SERVICE);
        put_varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(message);
    framed
}

fn put_varint(into: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        into.push(number.to_le_bytes().first().copied().unwrap_or_default() | 0x80);
        number >>= 7;
    }
    into.push(number.to_le_bytes().first().copied().unwrap_or_default());
}

/// Takes a number off the front; none when it is cut off or has more than 64 bits.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Reads the one message of an answer. No field is the default, `UNKNOWN`; fields of later versions are skipped.
fn status(mut message: &[u8]) -> Option<Serving> {
    let mut found = Serving(0);
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let skip = match tag & 7 {
            0 => {
                let number = take_varint(&mut message)?;
                if tag == TAG_STATUS {
                    found = Serving(number);
                }
                0
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(skip..)?;
    }
    Some(found)
}

/// Reads the answer's body: one message with its prefix, uncompressed, as we asked for.
pub(super) fn read(place: &Authority, body: &[u8]) -> Result<Serving, Fault> {
    let not = |what: &str| Err(Fault::new(Failure::ExchangeMismatch, format!("{place} {what}")));
    let Some((prefix, message)) = body.split_first_chunk::<PREFIX_BYTES>() else {
        return not("answered the health check with no message");
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return not("compressed its answer, which nobody offered");
    }
    if u32::from_be_bytes(length) as usize != message.len() {
        return not("answered the health check with something else than one message");
    }
    match status(message) {
        Some(serving) => Ok(serving),
        None => not("answered with a message that is not a HealthCheckResponse"),
    }
}

/// Only `SERVING` is up.
pub(super) fn judge(place: &Authority, serving: Serving, service: &str) -> Result<(), Fault> {
    if serving == Serving::SERVING {
        return Ok(());
    }
    let text = format!("{place} says that {} is {}", named(service), serving.name());
    Err(Fault::new(Failure::GrpcNotServing, text))
}

/// The fault of a call that ended with a status. Who we are is refused as `query_failed`, as at every login; every other
/// status is a server that does not serve this.
pub(super) fn refusal(place: &Authority, status: Status, said: Option<&str>, service: &str) -> Fault {
    let mut text = format!("{place} ended the health check with {}", status.name());
    if let Some(said) = said {
        text.push_str(&format!(", {said}"));
    }
    let failure = match status {
        Status::UNAUTHENTICATED | Status::PERMISSION_DENIED => {
            text.push_str(": set auth or headers");
            Failure::QueryFailed
        }
        Status::UNIMPLEMENTED => {
            text.push_str(": it has no grpc.health.v1.Health");
            Failure::GrpcNotServing
        }
        Status::NOT_FOUND => {
            text.push_str(&format!(": it does not know {}", named(service)));
            Failure::GrpcNotServing
        }
        _ => Failure::GrpcNotServing,
    };
    Fault::new(failure, text)
}

fn named(service: &str) -> String {
    if service.is_empty() { "the server".to_owned() } else { format!("the service {service:?}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> Authority {
        Authority { host: url::Host::Domain("h".to_owned()), port: 1 }
    }

    #[test]
    fn requests_are_those_of_protobuf() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab"), *b"\0\0\0\0\x04\x0a\x02ab");
        let long = request(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn answers() {
        for (message, wanted) in [
            (&b""[..], Some(0)),
            (b"\x08\x01", Some(1)),
            (b"\x08\x02", Some(2)),
            (b"\x08\x81\x01", Some(129)),
            // Fields of tomorrow: a text, a double, a float.
            (b"\x12\x02hi\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x08\x01", Some(1)),
            (b"\x08\x02\x08\x01", Some(1)),
            (b"\x08", None),
            (b"\x12\x05hi", None),
            (b"\x0b", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
        ] {
            assert_eq!(status(message), wanted.map(Serving), "{message:?}");
        }
        for (body, good) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], true),
            (b"\x01\0\0\0\x02\x08\x01", false),
            (b"\0\0\0\0\x02\x08", false),
            (b"\0\0\0\0\x02\x08\x01\0\0\0\0\x02\x08\x01", false),
            (b"", false),
        ] {
            let read = read(&place(), body);
            let failure = read.as_ref().err().map(|fault| fault.failure);
            assert_eq!(failure, (!good).then_some(Failure::ExchangeMismatch), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = status(&body);
            let _ = read(&place(), &body);
        }
    }
}
