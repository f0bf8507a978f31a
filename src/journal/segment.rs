//! One file of the journal: a header, then frames of length, CRC32C and payload.
//!
//! ```text
//! header   "LAMPJRNL"  version u32  covers u64  crc32c u32     (24 bytes, little endian)
//! frame    length u32  crc32c u32 (of length and payload)  payload
//! ```
//!
//! `covers` is the number of the last segment whose place this one takes: its own, or a later one after thinning.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::wire;
use crate::model::Record;

/// The format that this version writes. Older ones are read.
pub(super) const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"LAMPJRNL";
/// Bytes of a header.
pub(super) const HEADER: u64 = 24;
/// Bytes before a payload.
const FRAME: usize = 8;
/// A length beyond this is damage: a group is a check with its evidence, some kilobytes.
const FRAME_MOST: usize = 64 << 20;
const READ_AT_ONCE: usize = 256 << 10;

/// What a header says.
pub(super) enum Header {
    Good {
        covers: u64,
    },
    /// Of a later version than this program.
    Newer(u32),
    /// Cut off or damaged.
    Bad,
}

/// How the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a whole frame.
    Whole,
    /// In the middle of a frame, or with zeros: the write that was under way at the end of the process or machine.
    Torn,
    /// With a whole frame that is not what was written.
    Damaged,
}

/// Makes a file that nobody else may read.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

pub(super) fn header(covers: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(covers.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// Appends a frame with a group to a buffer.
pub(super) fn frame(records: &[Record], buffer: &mut Vec<u8>) -> io::Result<()> {
    let start = buffer.len();
    buffer.extend([0; FRAME]);
    if let Err(error) = wire::encode(records, buffer) {
        buffer.truncate(start);
        return Err(io::Error::other(error));
    }
    let length = u32::try_from(buffer.len() - start - FRAME).map_err(io::Error::other)?.to_le_bytes();
    let (_, fresh) = buffer.split_at_mut(start);
    let (head, payload) = fresh.split_at_mut(FRAME);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), payload).to_le_bytes();
    let (first, second) = head.split_at_mut(4);
    first.copy_from_slice(&length);
    second.copy_from_slice(&crc);
    Ok(())
}

/// Reads the frames of a segment one after the other.
pub(super) struct Reader {
    file: File,
    /// Of the next frame.
    at: u64,
    /// Never read beyond: somebody may be writing there.
    limit: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Reader {
    /// A reader from an offset (at least the header's) up to `limit`; none: the end of the file as it is now.
    pub(super) fn open(path: &Path, at: u64, limit: Option<u64>) -> io::Result<(Header, Self)> {
        let mut file = File::open(path)?;
        let limit = match limit {
            Some(limit) => limit,
            None => file.metadata()?.len(),
        };
        let mut head = Vec::new();
        (&mut file).take(HEADER).read_to_end(&mut head)?;
        let at = at.max(HEADER);
        file.seek(SeekFrom::Start(at))?;
        let reader = Self { file, at, limit, buffer: Vec::new(), used: 0 };
        Ok((parse_header(&head), reader))
    }

    /// Where the next frame begins.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// The next group, or how the frames end.
    pub(super) fn next(&mut self) -> io::Result<Result<Vec<Record>, End>> {
        if self.at >= self.limit {
            return Ok(Err(End::Whole));
        }
        if !self.fill(FRAME)? {
            return Ok(Err(End::Torn));
        }
        let (length, crc) = (self.number(0), self.number(4));
        let size = length as usize;
        if size == 0 || size > FRAME_MOST {
            return Ok(Err(self.zeros_or_damage()?));
        }
        if !self.fill(FRAME + size)? {
            return Ok(Err(End::Torn));
        }
        let payload = self.buffer.get(self.used + FRAME..self.used + FRAME + size).unwrap_or_default();
        if crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), payload) != crc {
            return Ok(Err(End::Damaged));
        }
        let records = wire::decode(payload);
        // Whole, and yet nothing that this version knows: as good as damaged.
        let Ok(records) = records else { return Ok(Err(End::Damaged)) };
        self.used += FRAME + size;
        self.at += (FRAME + size) as u64;
        Ok(Ok(records))
    }

    /// Has `size` bytes from the next frame on in the buffer; false when there are not so many.
    fn fill(&mut self, size: usize) -> io::Result<bool> {
        let have = self.buffer.len() - self.used;
        if have >= size {
            return Ok(true);
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        let left = self.limit.saturating_sub(self.at + have as u64);
        if (size - have) as u64 > left {
            return Ok(false);
        }
        let want = left.min((size - have).max(READ_AT_ONCE) as u64);
        (&mut self.file).take(want).read_to_end(&mut self.buffer)?;
        Ok(self.buffer.len() >= size)
    }

    fn number(&self, offset: usize) -> u32 {
        let at = self.used + offset;
        let bytes = self.buffer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    }

    /// A file that grew without its data having reached the disk ends with zeros.
    fn zeros_or_damage(&mut self) -> io::Result<End> {
        let mut rest = self.buffer.split_off(self.used);
        let left = self.limit.saturating_sub(self.at + rest.len() as u64);
        let mut file = (&mut self.file).take(left);
        loop {
            if rest.iter().any(|byte| *byte != 0) {
                return Ok(End::Damaged);
            }
            rest.resize(READ_AT_ONCE, 0);
            let read = file.read(&mut rest)?;
            if read == 0 {
                return Ok(End::Torn);
            }
            rest.truncate(read);
        }
    }
}

fn parse_header(head: &[u8]) -> Header {
    let Ok(head): Result<&[u8; HEADER as usize], _> = head.try_into() else { return Header::Bad };
    let (said, crc) = head.split_at(HEADER as usize - 4);
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap_or_default());
    if !said.starts_with(MAGIC) {
        return Header::Bad;
    }
    let (version, covers) = said.split_at(MAGIC.len() + 4);
    let version = number(version.get(MAGIC.len()..).unwrap_or_default());
    // Before the sum: a later version may sum up something else.
    if version > VERSION {
        return Header::Newer(version);
    }
    if number(crc) != crc32c::crc32c(said) {
        return Header::Bad;
    }
    Header::Good { covers: u64::from_le_bytes(covers.try_into().unwrap_or_default()) }
}

/// The disk as the journal writes to it; in tests one that becomes full.
pub(super) trait Disk: Send + Sync {
    /// Writes all bytes at the end of a file, or some of them and an error.
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
}

/// The real one.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let mut file = file;
        file.write_all(bytes)
    }
}
