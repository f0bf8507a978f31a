//! `catalog.json` in the state directory: what a start without Postgres needs to know.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MonitorRow;
use super::merge::Seals;
use crate::model::{MonitorId, MonitorKey, MonitorState, UserId};
use crate::settings::limited;

/// 250,000 rows of a kilobyte.
const MOST_BYTES: u64 = 256 * 1024 * 1024;

/// The content of the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Remembered {
    /// Format; another one is ignored.
    pub version: u32,
    /// Id and owner of every file monitor.
    pub keys: HashMap<MonitorKey, (MonitorId, UserId)>,
    /// What the file says of its monitors, hashed: a row that is what a file has written, and no other, may refer to secrets.
    #[serde(default)]
    pub seals: Seals,
    /// Rows that are not the file's, and those that the guard holds. They hold no secrets: rows cannot.
    pub rows: Vec<MonitorRow>,
    /// The states when it was written.
    pub states: HashMap<MonitorId, MonitorState>,
}

/// The format that this version writes.
pub const VERSION: u32 = 1;

/// The file's place in a state directory.
#[must_use]
pub fn path(state_directory: &Path) -> PathBuf {
    state_directory.join("catalog.json")
}

/// Reads the file. None when there is none; a damaged one is an error that the caller logs and goes on without.
pub fn read(path: &Path) -> io::Result<Option<Remembered>> {
    let text = match limited::read(path, MOST_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let remembered: Remembered = serde_json::from_str(&text)?;
    Ok((remembered.version == VERSION).then_some(remembered))
}

/// Replaces the file as a whole: a reader or a crash sees the old or the new one, never a part. Mode 0600. What would be
/// too large to be read again goes without evidence; what is too large even so is an error, and the old file stays.
pub fn write(path: &Path, remembered: &mut Remembered) -> io::Result<()> {
    write_within(MOST_BYTES, path, remembered)
}

fn write_within(most: u64, path: &Path, remembered: &mut Remembered) -> io::Result<()> {
    let draft = path.with_extension("json.new");
    let mut written = write_draft(most, &draft, remembered);
    if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::FileTooLarge) {
        for state in remembered.states.values_mut() {
            (state.last_good, state.first_bad) = (None, None);
        }
        written = write_draft(most, &draft, remembered);
    }
    if let Err(error) = written {
        // Not there if it could not be made; it would fill a disk that may be full already.
        let _ = std::fs::remove_file(&draft);
        return Err(error);
    }
    std::fs::rename(&draft, path)
}

fn write_draft(most: u64, draft: &Path, remembered: &Remembered) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = io::BufWriter::new(Bounded { file: options.open(draft)?, left: most });
    serde_json::to_writer(&mut file, remembered)?;
    file.flush()?;
    file.get_ref().file.sync_data()
}

struct Bounded {
    file: std::fs::File,
    left: u64,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "too large to be read again"))?;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        assert!(read(&path).unwrap().is_none());
        let key: MonitorKey = "shop".parse().unwrap();
        let mut remembered = Remembered { version: VERSION, ..Remembered::default() };
        remembered.keys.insert(key.clone(), (MonitorId::of_key(&key), crate::model::SYSTEM_USER));
        write(&path, &mut remembered).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().keys, remembered.keys);
        std::fs::write(&path, "{\"version\":1,").unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn what_is_too_large_goes_without_evidence_and_never_replaces_what_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        let mut remembered = Remembered { version: VERSION, ..Remembered::default() };
        let evidence: crate::model::Evidence = serde_json::from_value(serde_json::json!({
            "checked_at": "2026-11-22T12:00:00Z", "verdict": "up", "timings_us": {}, "message": "x".repeat(5000)
        }))
        .unwrap();
        let state = MonitorState { last_good: Some(Box::new(evidence)), failures: 3, ..MonitorState::default() };
        let id = MonitorId(uuid::Uuid::from_u128(7));
        remembered.states.insert(id, state);
        write_within(3000, &path, &mut remembered).unwrap();
        let found = read(&path).unwrap().unwrap();
        assert_eq!((found.states[&id].failures, &found.states[&id].last_good), (3, &None));
        assert_eq!(write_within(20, &path, &mut remembered).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read(&path).unwrap().is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
