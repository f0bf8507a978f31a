//! As much of BSON (bsonspec.org) and of `OP_MSG` as a login and a ping take: flat documents out, top-level fields in.

use crate::probe::talk::{End, Talk};

const OP_MSG: i32 = 2013;
/// Header, flags, kind of section, and the least document.
const LEAST_BYTES: i32 = 16 + 4 + 1 + 5;
/// One reply. What TLS says to strangers is longer when it is taken for a length.
const MAX_REPLY_BYTES: i32 = 64 * 1024;
/// Fields of a reply that are looked at.
const MAX_FIELDS: usize = 256;

/// A document to send. Names and texts come from the program and from configuration without NUL.
#[derive(Default)]
pub(crate) struct Document(Vec<u8>);

impl Document {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn field(mut self, sort: u8, name: &str, value: &[u8]) -> Self {
        self.0.push(sort);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn int(self, name: &str, value: i32) -> Self {
        self.field(0x10, name, &value.to_le_bytes())
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.field(0x02, name, &[&length(value.len() + 1), value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn binary(self, name: &str, value: &[u8]) -> Self {
        self.field(0x05, name, &[&length(value.len())[..], &[0], value].concat())
    }
}

fn length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes()
}

/// A command as a whole message. Only one is ever under way, so that its number says nothing.
pub(crate) fn message(document: Document) -> Vec<u8> {
    let body = document.0;
    let mut out = length(16 + 4 + 1 + 4 + body.len() + 1).to_vec();
    for number in [1, 0, OP_MSG, 0] {
        out.extend_from_slice(&i32::to_le_bytes(number));
    }
    out.push(0);
    out.extend_from_slice(&length(4 + body.len() + 1));
    out.extend_from_slice(&body);
    out.push(0);
    out
}

/// The next reply; none when what came is none.
pub(crate) async fn read(talk: &mut Talk<'_>) -> Result<Option<Fields>, End> {
    // The length by itself: what is another protocol's may end before it has made a header.
    let length = i32_at(&talk.exact(4).await?, 0).unwrap_or_default();
    if !(LEAST_BYTES..=MAX_REPLY_BYTES).contains(&length) {
        return Ok(None);
    }
    if i32_at(&talk.exact(12).await?, 8) != Some(OP_MSG) {
        return Ok(None);
    }
    let body = talk.exact(usize::try_from(length - 16).unwrap_or_default()).await?;
    // Flags (a checksum behind the document does not disturb), then a section of kind 0.
    Ok(match body.get(4..) {
        Some([0, document @ ..]) => Fields::of(document),
        _ => None,
    })
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk().map(|chunk| i32::from_le_bytes(*chunk))
}

/// The top-level fields of a document: sort, name, bytes.
#[derive(Debug)]
pub(crate) struct Fields(Vec<(u8, Vec<u8>, Vec<u8>)>);

impl Fields {
    fn of(document: &[u8]) -> Option<Self> {
        let whole = usize::try_from(i32_at(document, 0)?).ok()?;
        let mut rest = document.get(4..whole)?;
        let mut fields = Vec::new();
        while let [sort, after @ ..] = rest
            && *sort != 0
        {
            let end = after.iter().position(|byte| *byte == 0)?;
            let (name, value) = (after.get(..end)?, after.get(end + 1..)?);
            let size = size(*sort, value)?;
            if fields.len() < MAX_FIELDS {
                fields.push((*sort, name.to_vec(), value.get(..size)?.to_vec()));
            }
            rest = value.get(size..)?;
        }
        Some(Self(fields))
    }

    fn get(&self, name: &[u8]) -> Option<(u8, &[u8])> {
        self.0.iter().find(|(_, own, _)| own == name).map(|(sort, _, value)| (*sort, &**value))
    }

    pub(crate) fn number(&self, name: &[u8]) -> Option<f64> {
        match self.get(name)? {
            (0x01, value) => value.first_chunk().map(|chunk| f64::from_le_bytes(*chunk)),
            (0x10, value) => i32_at(value, 0).map(f64::from),
            (0x12, value) => value.first_chunk().map(|chunk| i64::from_le_bytes(*chunk) as f64),
            _ => None,
        }
    }

    pub(crate) fn text(&self, name: &[u8]) -> Option<Vec<u8>> {
        match self.get(name)? {
            (0x02, value) => value.get(4..)?.strip_suffix(&[0]).map(<[u8]>::to_vec),
            _ => None,
        }
    }

    pub(crate) fn binary(&self, name: &[u8]) -> Option<Vec<u8>> {
        match self.get(name)? {
            (0x05, value) => value.get(5..).map(<[u8]>::to_vec),
            _ => None,
        }
    }

    pub(crate) fn is_true(&self, name: &[u8]) -> bool {
        matches!(self.get(name), Some((0x08, [1])))
    }
}

/// Bytes that a value takes.
fn size(sort: u8, value: &[u8]) -> Option<usize> {
    let counted = |extra: usize| usize::try_from(i32_at(value, 0)?).ok()?.checked_add(extra);
    match sort {
        0x01 | 0x09 | 0x11 | 0x12 => Some(8),
        0x02 | 0x0d | 0x0e => counted(4),
        0x03 | 0x04 | 0x0f => counted(0).filter(|size| *size >= 5),
        0x05 => counted(5),
        0x06 | 0x0a | 0x7f | 0xff => Some(0),
        0x07 => Some(12),
        0x08 => Some(1),
        0x10 => Some(4),
        0x13 => Some(16),
        // Regular expressions and pointers: no reply to these commands has one.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(document: Document) -> Option<Fields> {
        Fields::of(&message(document)[21..])
    }

    #[test]
    fn what_is_written_is_read() {
        let document = Document::new().int("ok", 1).text("errmsg", "no").binary("payload", b"r=1").text("$db", "");
        let fields = fields(document).unwrap();
        assert_eq!(fields.number(b"ok"), Some(1.0));
        assert_eq!(fields.text(b"errmsg").as_deref(), Some(&b"no"[..]));
        assert_eq!(fields.binary(b"payload").as_deref(), Some(&b"r=1"[..]));
        assert_eq!(fields.text(b"$db").as_deref(), Some(&b""[..]));
        assert_eq!(fields.text(b"ok"), None);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_panics_or_runs_on(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(fields) = Fields::of(&bytes) {
                for (_, name, _) in &fields.0 {
                    let _ = (fields.number(name), fields.text(name), fields.binary(name), fields.is_true(name));
                }
            }
        }
    }
}
