//! Messages of PostgreSQL's protocol 3.0.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};

use crate::model::Secret;
use crate::probe::talk::{End, Talk};

/// One message of the server, bytes.
const MAX_MESSAGE_BYTES: u32 = 256 * 1024;

/// An error without a length.
const MAX_UNFRAMED_BYTES: usize = 1024;

pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
pub(crate) const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

pub(crate) enum Message {
    Authentication(u32, Vec<u8>),
    Error(Error),
    Parameter(Vec<u8>, Vec<u8>),
    Ready,
    Row(Vec<u8>),
    /// `COPY FROM STDIN`: it waits for data.
    CopyIn,
    Other,
}

/// An `ErrorResponse`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Error {
    /// SQLSTATE.
    pub(crate) code: Vec<u8>,
    pub(crate) message: Vec<u8>,
}

/// The next message; none when what came is no message, and [`End::TooMuch`] when it is longer than is read here.
pub(crate) async fn read(talk: &mut Talk<'_>) -> Result<Option<Message>, End> {
    let head = talk.exact(5).await?;
    let [tag, length @ ..] = head.as_slice() else { return Ok(None) };
    let length = <[u8; 4]>::try_from(length).map_or(0, u32::from_be_bytes);
    if length < 4 || !tag.is_ascii_alphanumeric() {
        return Ok(None);
    }
    if length > MAX_MESSAGE_BYTES {
        // A server that cannot start a process for us says so without a length: "E", a text, NUL.
        return if *tag == b'E' { unframed_error(talk, &head).await } else { Err(End::TooMuch) };
    }
    let body = talk.exact(usize::try_from(length - 4).unwrap_or(usize::MAX)).await?;
    Ok(match tag {
        b'R' => body
            .split_first_chunk::<4>()
            .map(|(kind, rest)| Message::Authentication(u32::from_be_bytes(*kind), rest.to_vec())),
        b'E' => Some(Message::Error(error(&body))),
        b'S' => {
            let mut parts = body.split(|byte| *byte == 0);
            parts.next().zip(parts.next()).map(|(name, value)| Message::Parameter(name.to_vec(), value.to_vec()))
        }
        b'Z' => Some(Message::Ready),
        b'D' => Some(Message::Row(body)),
        b'G' | b'W' => Some(Message::CopyIn),
        _ => Some(Message::Other),
    })
}

async fn unframed_error(talk: &mut Talk<'_>, head: &[u8]) -> Result<Option<Message>, End> {
    let mut message = head.get(1..).unwrap_or_default().to_vec();
    while message.len() < MAX_UNFRAMED_BYTES {
        let byte = talk.exact(1).await?;
        if byte == [0] {
            return Ok(Some(Message::Error(Error { code: Vec::new(), message })));
        }
        message.extend(byte);
    }
    Ok(None)
}

fn error(body: &[u8]) -> Error {
    let mut error = Error::default();
    for field in body.split(|byte| *byte == 0) {
        match field.split_first() {
            Some((b'C', code)) => error.code = code.to_vec(),
            Some((b'M', message)) => error.message = message.to_vec(),
            _ => {}
        }
    }
    error
}

/// The first field of a `DataRow`: none when the row is cut, the inner none when it is null or the row has no field.
pub(crate) fn first_field(row: &[u8]) -> Option<Option<&[u8]>> {
    let (count, rest) = row.split_first_chunk::<2>()?;
    if u16::from_be_bytes(*count) == 0 {
        return Some(None);
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 => Some(None),
        length => rest.get(..usize::try_from(length).ok()?).map(Some),
    }
}

fn framed(tag: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = tag.into_iter().collect();
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    out
}

pub(crate) fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    framed(Some(tag), body)
}

/// Texts of the configuration hold no NUL: their readers refuse control characters.
pub(crate) fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    let parameters =
        [("user", user), ("database", database), ("application_name", "lamplighter"), ("client_encoding", "UTF8")];
    for (name, value) in parameters {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    framed(None, &body)
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut body = text.as_bytes().to_vec();
    body.push(0);
    tagged(b'Q', &body)
}

pub(crate) fn password_message(password: &[u8]) -> Vec<u8> {
    let mut body = password.to_vec();
    body.push(0);
    tagged(b'p', &body)
}

pub(crate) fn sasl_initial(mechanism: &str, first: &str) -> Vec<u8> {
    let mut body = mechanism.as_bytes().to_vec();
    body.push(0);
    body.extend_from_slice(&u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(first.as_bytes());
    tagged(b'p', &body)
}

/// `"md5" || md5(md5(password || user) || salt)`, in hex.
pub(crate) fn md5(password: &Secret, user: &str, salt: &[u8]) -> String {
    let hex = |digest: &[u8]| {
        digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let inner = hex(&Md5::new().chain_update(password.expose()).chain_update(user).finalize());
    format!("md5{}", hex(&Md5::new().chain_update(inner).chain_update(salt).finalize()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probe::kinds::testing::heard;

    fn first(bytes: &[u8]) -> String {
        heard(bytes, async |talk| match read(talk).await {
            Ok(Some(Message::Error(error))) => format!("error {}", error.message.escape_ascii()),
            Ok(Some(Message::Row(row))) => format!("row of {}", row.len()),
            Ok(Some(Message::Authentication(kind, _))) => format!("authentication {kind}"),
            Ok(Some(_)) => "other".to_owned(),
            Ok(None) => "foreign".to_owned(),
            Err(End::TooMuch) => "large".to_owned(),
            Err(_) => "end".to_owned(),
        })
    }

    #[test]
    fn messages_are_framed_bounded_or_foreign() {
        for (bytes, wanted) in [
            (&b"R\0\0\0\x08\0\0\0\x0a"[..], "authentication 10"),
            (b"R\0\0\0\x06\0\0", "foreign"),
            (b"D\0\0\0\x04", "row of 0"),
            (b"D\0\0\0\x03", "foreign"),
            (b"D\xff\xff\xff\xff", "large"),
            (b"HTTP/1.1 400", "large"),
            (
                b"Ecould not fork new process for connection: x\n\0",
                "error could not fork new process for connection: x\\n",
            ),
            (b"Ecould not fo", "end"),
            (b"\x15\x03\x03\0\x02\x02\x28", "foreign"),
            (b"Z\0\0", "end"),
        ] {
            assert_eq!(first(bytes), wanted, "{}", bytes.escape_ascii());
        }
        assert_eq!(first(&[b'E'; 4096]), "foreign");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nothing_that_comes_panics(tag in "[RESZDGC]", length in 0_u8..64, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            first(&[tag.as_bytes(), &[0, 0, 0, length], &bytes].concat());
            let _ = (first_field(&bytes), error(&bytes));
        }
    }

    #[test]
    fn fields_and_errors_are_read_and_cut_ones_are_none() {
        assert_eq!(first_field(&[0, 1, 0, 0, 0, 2, b'4', b'2']), Some(Some(&b"42"[..])));
        for null in [&[0, 0][..], &[0, 1, 255, 255, 255, 255]] {
            assert_eq!(first_field(null), Some(None), "{null:?}");
        }
        for cut in [&[0, 1, 0, 0, 0, 2, b'4'][..], &[], &[0, 1, 255, 255, 255, 254], &[0, 1, 0, 0]] {
            assert_eq!(first_field(cut), None, "{cut:?}");
        }
        let found = error(b"SFATAL\0C28P01\0Mno way\0\0");
        assert_eq!(found, Error { code: b"28P01".to_vec(), message: b"no way".to_vec() });
        assert_eq!(error(b""), Error::default());
    }

    #[test]
    fn an_md5_answer_is_as_psql_makes_it() {
        // SELECT 'md5' || md5(md5('secret' || 'bob') || 'salt')
        let answer = md5(&Secret::new("secret".to_owned()), "bob", b"salt");
        assert_eq!(answer, "md5a472781a92412d8a652b427f4c5b7f3f");
    }

    #[test]
    fn a_startup_message_counts_itself() {
        let message = startup("u", "d");
        assert_eq!(message.get(..4), Some(&u32::try_from(message.len()).unwrap().to_be_bytes()[..]));
        assert!(message.ends_with(b"client_encoding\0UTF8\0\0"));
    }
}
