//! `catalog.json` in the state directory: what a start without Postgres needs to know.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::ser::{Error as _, SerializeMap as _};
use serde::{Deserialize, Serialize, Serializer};

use super::MonitorRow;
use super::limits::Owners;
use super::merge::{Ids, Seals};
use crate::model::{MonitorId, MonitorKey, MonitorState, UserId};
use crate::settings::limited;

/// 250,000 rows of a kilobyte.
const MOST_BYTES: u64 = 256 * 1024 * 1024;
/// What of it is in memory at once, in bytes.
const BUFFER: usize = 64 * 1024;

/// The content of the file, as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
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
    /// Plans of users, as far as they limit monitors.
    #[serde(default)]
    pub owners: Owners,
    /// The states when it was written.
    pub states: HashMap<MonitorId, MonitorState>,
}

/// What is written, besides the states: what the catalogue holds itself, and no copy of it.
pub struct Known {
    /// As [`Remembered::keys`].
    pub keys: Arc<Ids>,
    /// As [`Remembered::seals`].
    pub seals: Arc<Seals>,
    /// As [`Remembered::rows`].
    pub rows: Vec<Arc<MonitorRow>>,
    /// As [`Remembered::owners`].
    pub owners: Arc<Owners>,
}

/// [`Remembered`], as it is written.
#[derive(Serialize)]
struct Written<'a, S: Serialize> {
    version: u32,
    keys: &'a Ids,
    seals: &'a Seals,
    #[serde(serialize_with = "rows")]
    rows: &'a [Arc<MonitorRow>],
    owners: &'a Owners,
    states: S,
}

fn rows<S: Serializer>(rows: &[Arc<MonitorRow>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(|row| &**row))
}

/// States that are written while they come, once.
struct Coming<I> {
    states: Cell<Option<I>>,
    evidence: bool,
    /// What kept one from coming; serde's errors have no kind.
    fault: Cell<Option<io::Error>>,
}

impl<I: Iterator<Item = io::Result<(MonitorId, MonitorState)>>> Serialize for Coming<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for state in self.states.take().into_iter().flatten() {
            let (id, mut state) = state.map_err(|error| {
                let told = S::Error::custom(&error);
                self.fault.set(Some(error));
                told
            })?;
            if !self.evidence {
                (state.last_good, state.first_bad) = (None, None);
            }
            map.serialize_entry(&id, &state)?;
        }
        map.end()
    }
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
    let file = match limited::open(path, MOST_BYTES) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let remembered: Remembered = serde_json::from_reader(io::BufReader::with_capacity(BUFFER, file))?;
    Ok((remembered.version == VERSION).then_some(remembered))
}

/// Replaces the file as a whole: a reader or a crash sees the old or the new one, never a part. Mode 0600. What would be
/// too large to be read again goes without evidence: then `states` is called a second time. What is too large even so is
/// an error, as is one of `states`, and the old file stays.
pub fn write<I>(path: &Path, known: &Known, states: impl Fn() -> I) -> io::Result<()>
where
    I: Iterator<Item = io::Result<(MonitorId, MonitorState)>>,
{
    write_within(MOST_BYTES, path, known, states)
}

fn write_within<I>(most: u64, path: &Path, known: &Known, states: impl Fn() -> I) -> io::Result<()>
where
    I: Iterator<Item = io::Result<(MonitorId, MonitorState)>>,
{
    let draft = path.with_extension("json.new");
    let mut written = write_draft(most, &draft, known, states(), true);
    if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::FileTooLarge) {
        written = write_draft(most, &draft, known, states(), false);
    }
    if let Err(error) = written {
        // Not there if it could not be made; it would fill a disk that may be full already.
        let _ = std::fs::remove_file(&draft);
        return Err(error);
    }
    std::fs::rename(&draft, path)
}

fn write_draft<I>(most: u64, draft: &Path, known: &Known, states: I, evidence: bool) -> io::Result<()>
where
    I: Iterator<Item = io::Result<(MonitorId, MonitorState)>>,
{
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = Bounded { file: options.open(draft)?, left: most };
    let mut file = io::BufWriter::with_capacity(BUFFER, file);
    let states = Coming { states: Cell::new(Some(states)), evidence, fault: Cell::new(None) };
    let Known { keys, seals, rows, owners } = known;
    let written = Written { version: VERSION, keys, seals, rows, owners, states };
    let done = serde_json::to_writer(&mut file, &written);
    if let Some(fault) = written.states.fault.take() {
        return Err(fault);
    }
    done?;
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

    fn known() -> Known {
        Known { keys: Arc::default(), seals: Arc::default(), rows: Vec::new(), owners: Arc::default() }
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        assert!(read(&path).unwrap().is_none());
        let key: MonitorKey = "shop".parse().unwrap();
        let keys = Ids::from([(key.clone(), (MonitorId::of_key(&key), crate::model::SYSTEM_USER))]);
        let known = Known { keys: Arc::new(keys.clone()), ..known() };
        write(&path, &known, std::iter::empty).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().keys, keys);
        std::fs::write(&path, "{\"version\":1,").unwrap();
        assert!(read(&path).is_err());
        std::fs::write(&path, "{\"version\":1,\"keys\":{},\"rows\":[],\"states\":{}}x").unwrap();
        assert!(read(&path).is_err());
        std::fs::File::create(&path).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_too_large_goes_without_evidence_and_never_replaces_what_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        let evidence: crate::model::Evidence = serde_json::from_value(serde_json::json!({
            "checked_at": "2026-11-22T12:00:00Z", "verdict": "up", "timings_us": {}, "message": "x".repeat(100_000)
        }))
        .unwrap();
        let state = MonitorState { last_good: Some(Box::new(evidence)), failures: 3, ..MonitorState::default() };
        let id = MonitorId(uuid::Uuid::from_u128(7));
        let states = || std::iter::once(Ok((id, state.clone())));
        write_within(3000, &path, &known(), states).unwrap();
        let found = read(&path).unwrap().unwrap();
        assert_eq!((found.states[&id].failures, &found.states[&id].last_good), (3, &None));
        assert_eq!(write_within(20, &path, &known(), states).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        // Who knows the states has ended in the middle.
        let cut = || states().chain([Err(io::ErrorKind::BrokenPipe.into())]);
        assert_eq!(write(&path, &known(), cut).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(read(&path).unwrap().is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
