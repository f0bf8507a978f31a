//! `catalog.json` in the state directory: what a start without Postgres needs to know.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MonitorRow;
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
    /// Rows that are not the file's. They hold no secrets: rows cannot.
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

/// Replaces the file as a whole: a reader or a crash sees the old or the new one, never a part. Mode 0600.
pub fn write(path: &Path, remembered: &Remembered) -> io::Result<()> {
    let draft = path.with_extension("json.new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = io::BufWriter::new(options.open(&draft)?);
    serde_json::to_writer(&mut file, remembered)?;
    file.flush()?;
    file.get_ref().sync_data()?;
    std::fs::rename(&draft, path)
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
        write(&path, &remembered).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().keys, remembered.keys);
        std::fs::write(&path, "{\"version\":1,").unwrap();
        assert!(read(&path).is_err());
    }
}
