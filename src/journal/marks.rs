//! Where the readers are: `cursor`, two slots that are written in turn, so that one is always whole. The file keeps its
//! size, so a full disk does not stop it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The format that this version writes. Older ones are read.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"LAMPMARK";
const SLOT: usize = 64 << 10;
/// magic, version, sequence, length; then the CRC32C of these and the text.
const HEAD: usize = 8 + 4 + 8 + 4;
/// Refused parts of one batch that are remembered: with all of them the text still fits a slot.
const REFUSED_MOST: usize = 1_000;
/// Starts that no database has been told of yet.
const DOWNTIMES_MOST: usize = 100;

/// A place in the log: after everything before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// What is being brought. It is fixed on disk before the store hears of it, so that a repeat after a kill brings the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) id: Uuid,
    /// The end of the batch in the log; none: what was delayed is brought once more.
    pub(super) to: Option<Position>,
    /// Parts that the store refused: they are not tried whole again, also when it might take them now, because pieces of
    /// them may have been recorded.
    #[serde(default)]
    pub(super) refused: Vec<Uuid>,
}

/// How far one reader is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) at: Position,
    /// Which file holds the delayed records, and how much of it counts.
    #[serde(default)]
    pub(super) delayed: Extent,
    #[serde(default)]
    pub(super) intent: Option<Intent>,
}

/// The first bytes of a numbered file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    pub(super) file: u64,
    pub(super) bytes: u64,
}

/// Everything that is remembered beside the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    /// The readers by name. The log is kept from the lowest on.
    pub(super) cursors: BTreeMap<String, Cursor>,
    /// The lease under which the log was written.
    #[serde(default)]
    pub(super) epoch: Option<i64>,
    /// The epoch that this daemon was about to get.
    #[serde(default)]
    pub(super) expected: Option<i64>,
    /// The time of the latest record that was read.
    #[serde(default)]
    pub(super) alive: Option<DateTime<Utc>>,
    /// When this daemon did not run, oldest first, until the database knows.
    #[serde(default)]
    pub(super) downtimes: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Marks {
    /// The lowest place that a reader still needs.
    pub(super) fn lowest(&self) -> Position {
        self.cursors.values().map(|cursor| cursor.at).min().unwrap_or_default()
    }

    /// Notes that nothing ran between these times.
    pub(super) fn was_down(&mut self, from: DateTime<Utc>, to: DateTime<Utc>) {
        let to = to.max(from);
        match self.downtimes.last_mut() {
            // It never began to check in between.
            Some(last) if last.0 == from => last.1 = to,
            _ => self.downtimes.push((from, to)),
        }
        if self.downtimes.len() > DOWNTIMES_MOST {
            self.downtimes.remove(0);
        }
    }
}

/// What was found when the file was opened.
pub(super) enum Found {
    Marks(Box<Marks>),
    /// There was none.
    Nothing,
    /// It says nothing that can be used.
    Damaged,
    /// Of a later version than this program.
    Newer(u32),
}

/// The file.
pub(super) struct MarksFile {
    file: File,
    sequence: u64,
}

/// Its place in the journal's folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("cursor")
}

impl MarksFile {
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Found)> {
        let path = path(folder);
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let size = 2 * SLOT as u64;
        if file.metadata()?.len() < size {
            // Real blocks, not a hole: a full disk must not stop the first write to them.
            let have = file.metadata()?.len();
            let zeros = vec![0; usize::try_from(size - have).unwrap_or(0)];
            file.write_all_at(&zeros, have)?;
            file.sync_all()?;
        }
        let mut slots: Vec<(u64, Marks)> = Vec::new();
        let mut empty = true;
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT];
            file.read_exact_at(&mut bytes, slot * SLOT as u64)?;
            empty &= bytes.iter().all(|byte| *byte == 0);
            match parse(&bytes) {
                Ok(Some(found)) => slots.push(found),
                Ok(None) => {}
                Err(newer) => return Ok((Self { file, sequence: 0 }, Found::Newer(newer))),
            }
        }
        let latest = slots.into_iter().max_by_key(|(sequence, _)| *sequence);
        let sequence = latest.as_ref().map_or(0, |(sequence, _)| *sequence);
        let found = match latest {
            Some((_, marks)) => Found::Marks(Box::new(marks)),
            None if empty => Found::Nothing,
            None => Found::Damaged,
        };
        Ok((Self { file, sequence }, found))
    }

    /// Replaces what is remembered. With `sync` it is on the disk afterwards, else it survives the process only.
    pub(super) fn write(&mut self, marks: &Marks, sync: bool) -> io::Result<()> {
        let mut marks = marks.clone();
        for cursor in marks.cursors.values_mut() {
            if let Some(intent) = &mut cursor.intent {
                intent.refused.truncate(REFUSED_MOST);
            }
        }
        let text = serde_json::to_vec(&marks)?;
        let length = u32::try_from(text.len()).ok().filter(|length| (*length as usize) < SLOT - HEAD - 4);
        let length =
            length.ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "the cursor outgrows its slot"))?;
        let sequence = self.sequence + 1;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &text);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(text);
        self.file.write_all_at(&bytes, (sequence % 2) * SLOT as u64)?;
        // Only now: a write that failed is repeated in the same slot, and the other one stays.
        self.sequence = sequence;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

/// A slot; an error is a later version.
fn parse(bytes: &[u8]) -> Result<Option<(u64, Marks)>, u32> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else { return Ok(None) };
    if !head.starts_with(MAGIC) {
        return Ok(None);
    }
    let word = |at: usize| {
        u32::from_le_bytes(head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default())
    };
    if word(8) > VERSION {
        return Err(word(8));
    }
    let sequence = u64::from(word(12)) | u64::from(word(16)) << 32;
    let text = rest.split_at_checked(4).and_then(|(crc, text)| Some((crc, text.get(..word(20) as usize)?)));
    let Some((crc, text)) = text else { return Ok(None) };
    let sum = crc32c::crc32c_append(crc32c::crc32c(head), text);
    if crc != sum.to_le_bytes() {
        return Ok(None);
    }
    Ok(serde_json::from_slice(text).ok().map(|marks| (sequence, marks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(epoch: i64) -> Marks {
        Marks { epoch: Some(epoch), ..Marks::default() }
    }

    fn bytes_of(path: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut File::open(path).unwrap(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_torn_write_leaves_what_was_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut file, found) = MarksFile::open(folder.path()).unwrap();
        assert!(matches!(found, Found::Nothing));
        for epoch in 1..=2 {
            file.write(&marks(epoch), true).unwrap();
        }
        let whole = bytes_of(&path(folder.path()));
        file.write(&marks(3), true).unwrap();
        let after = bytes_of(&path(folder.path()));
        let changed: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != after[*at]).collect();
        for cut in changed {
            let torn = [&after[..cut], &whole[cut..]].concat();
            std::fs::write(path(folder.path()), torn).unwrap();
            let (_, found) = MarksFile::open(folder.path()).unwrap();
            let Found::Marks(found) = found else { panic!("cut at {cut}") };
            assert_eq!(found.epoch, Some(2), "cut at {cut}");
        }
        std::fs::write(path(folder.path()), &after).unwrap();
        let Found::Marks(found) = MarksFile::open(folder.path()).unwrap().1 else { panic!() };
        assert_eq!(*found, marks(3));
    }

    #[test]
    fn damage_and_later_versions_are_told() {
        let folder = tempfile::tempdir().unwrap();
        MarksFile::open(folder.path()).unwrap().0.write(&marks(1), false).unwrap();
        let good = bytes_of(&path(folder.path()));
        let mut bad = good.clone();
        bad[SLOT + 40] ^= 1;
        std::fs::write(path(folder.path()), &bad).unwrap();
        assert!(matches!(MarksFile::open(folder.path()).unwrap().1, Found::Damaged));
        let mut newer = good;
        newer[SLOT + 8] = 9;
        std::fs::write(path(folder.path()), &newer).unwrap();
        assert!(matches!(MarksFile::open(folder.path()).unwrap().1, Found::Newer(9)));
    }
}
