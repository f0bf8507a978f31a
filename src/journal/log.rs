//! The segments of the journal: one is written, the others are read, thinned and deleted.
//!
//! An opening never writes to what it finds: it begins another segment. So a place in the log means the same for ever,
//! also when the machine lost the end of a file.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::JournalError;
use super::marks::Position;
use super::segment::{self, Disk, End, HEADER, Header, Reader};
use super::thin::{self, Thinned};
use crate::model::Record;

struct Segment {
    bytes: u64,
    /// Without raw checks.
    thinned: bool,
    /// It could not be thinned.
    left: bool,
}

struct Active {
    number: u64,
    file: Arc<File>,
}

/// The log. Its methods block on the disk.
pub(super) struct Log {
    folder: PathBuf,
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    segments: BTreeMap<u64, Segment>,
    active: Option<Active>,
    next: u64,
    /// Files that were written and may not be on the disk yet.
    unsynced: Vec<Arc<File>>,
}

/// Segments whose checks are to go, in order, and the file that takes their place.
pub(super) struct Victims {
    numbers: Vec<u64>,
    paths: Vec<PathBuf>,
    into: PathBuf,
}

pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.log"))
}

impl Log {
    /// Opens what is in a folder. Segments are numbered from `least` on.
    pub(super) fn open(
        folder: &Path,
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        least: u64,
    ) -> Result<Self, JournalError> {
        let fail = |source| JournalError::io(folder, source);
        let mut segments = BTreeMap::new();
        let mut covered: Vec<(u64, u64)> = Vec::new();
        for entry in fs::read_dir(folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                // A thinning that was cut off; what it was made from is still there.
                fs::remove_file(&path).map_err(fail)?;
                continue;
            }
            let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
            let Some(number) = number.and_then(|name| u64::from_str_radix(name, 16).ok()) else { continue };
            let (header, _) = Reader::open(&path, HEADER, None).map_err(fail)?;
            let thinned = match header {
                Header::Newer(version) => return Err(JournalError::Newer { path, version }),
                Header::Good { covers } => {
                    covered.push((number, covers));
                    covers != number
                }
                Header::Bad => false,
            };
            let bytes = fs::metadata(&path).map_err(fail)?.len();
            segments.insert(number, Segment { bytes, thinned, left: false });
        }
        for (number, covers) in covered {
            // Replaced, and not deleted when the process ended.
            let replaced: Vec<u64> = segments.range(number..=covers.max(number)).skip(1).map(|(n, _)| *n).collect();
            for number in replaced {
                fs::remove_file(path(folder, number)).map_err(fail)?;
                segments.remove(&number);
            }
        }
        let next = segments.keys().next_back().map_or(0, |last| last + 1).max(least).max(1);
        Ok(Self { folder: folder.to_owned(), disk, segment_bytes, segments, active: None, next, unsynced: Vec::new() })
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// After everything that was written.
    pub(super) fn end(&self) -> Position {
        let active = self.active.as_ref().and_then(|active| Some((active.number, self.segments.get(&active.number)?)));
        match active {
            Some((segment, written)) => Position { segment, offset: written.bytes },
            None => Position { segment: self.next, offset: HEADER },
        }
    }

    /// Appends whole frames by one write. After an error nothing of them is there.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        let size = |log: &Self, active: &Active| log.segments.get(&active.number).map_or(0, |segment| segment.bytes);
        let full = |log: &Self, active: &Active| size(log, active) + frames.len() as u64 > log.segment_bytes;
        if self.active.as_ref().is_some_and(|active| full(self, active) && size(self, active) > HEADER) {
            self.active = None;
        }
        if self.active.is_none() {
            self.begin()?;
        }
        let Some(active) = &self.active else { return Err(io::Error::other("no segment")) };
        let Some(segment) = self.segments.get_mut(&active.number) else { return Err(io::Error::other("no segment")) };
        if let Err(error) = self.disk.append(&active.file, frames) {
            // What came through is cut off again. If even that fails, the reader finds a torn end there.
            let _ = active.file.set_len(segment.bytes);
            self.active = None;
            return Err(error);
        }
        segment.bytes += frames.len() as u64;
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let number = self.next;
        let path = path(&self.folder, number);
        let file = segment::create(&path)?;
        if let Err(error) = self.disk.append(&file, &segment::header(number)) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let file = Arc::new(file);
        self.unsynced.push(Arc::clone(&file));
        self.next = number + 1;
        self.segments.insert(number, Segment { bytes: HEADER, thinned: false, left: false });
        self.active = Some(Active { number, file });
        Ok(())
    }

    /// What is appended from now on goes to another segment.
    pub(super) fn rotate(&mut self) {
        self.active = None;
    }

    /// Files to be synced, of which the active one stays on the list.
    pub(super) fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        let active = self.active.as_ref().map(|active| Arc::clone(&active.file));
        std::mem::replace(&mut self.unsynced, active.into_iter().collect())
    }

    /// Everything between two places.
    pub(super) fn walk(&self, from: Position, until: Position) -> Walk {
        let parts = self.segments.range(from.segment..=until.segment.max(from.segment)).map(|(number, segment)| {
            let limit = if *number == until.segment { segment.bytes.min(until.offset) } else { segment.bytes };
            (*number, path(&self.folder, *number), limit)
        });
        Walk { parts: parts.collect(), current: None, from }
    }

    /// Cuts a segment off where its good part ends.
    pub(super) fn cut(&mut self, at: Position) -> io::Result<()> {
        let path = path(&self.folder, at.segment);
        if at.offset <= HEADER {
            fs::remove_file(path)?;
            self.segments.remove(&at.segment);
            return Ok(());
        }
        File::options().write(true).open(path)?.set_len(at.offset)?;
        if let Some(segment) = self.segments.get_mut(&at.segment) {
            segment.bytes = at.offset;
        }
        Ok(())
    }

    /// Deletes what lies wholly before a place.
    pub(super) fn delete_below(&mut self, at: Position) {
        let active = self.active.as_ref().map(|active| active.number);
        let is_read = |number: u64, segment: &Segment| {
            number < at.segment || (number == at.segment && at.offset >= segment.bytes && active != Some(number))
        };
        let read = self.segments.iter().filter(|(number, segment)| is_read(**number, segment));
        let read: Vec<u64> = read.map(|(number, _)| *number).filter(|number| active != Some(*number)).collect();
        for number in read {
            if let Err(error) = fs::remove_file(path(&self.folder, number)) {
                log::warn!("{}: {error}", path(&self.folder, number).display());
            }
            self.segments.remove(&number);
        }
    }

    /// The oldest segments after `pinned` that hold checks, with what was thinned right before them.
    pub(super) fn victims(&self, pinned: u64) -> Option<Victims> {
        let active = self.active.as_ref().map(|active| active.number);
        let free: Vec<(u64, bool)> = self
            .segments
            .range(pinned + 1..)
            .filter(|(number, segment)| active != Some(**number) && !segment.left)
            .map(|(number, segment)| (*number, segment.thinned))
            .collect();
        let numbers: Vec<u64> = match free.iter().position(|(_, thinned)| !thinned) {
            Some(at) => free.get(at.saturating_sub(1)..=at)?.iter().map(|(number, _)| *number).collect(),
            // All are thinned: two of them may still have states in common.
            None if free.len() > 1 => free.iter().take(2).map(|(number, _)| *number).collect(),
            None => return None,
        };
        let paths: Vec<PathBuf> = numbers.iter().map(|number| path(&self.folder, *number)).collect();
        let into = paths.first()?.with_extension("new");
        Some(Victims { numbers, paths, into })
    }

    /// Puts what [`Victims::thin`] has written in the place of the segments.
    pub(super) fn replace(&mut self, victims: &Victims, thinned: &Thinned) -> io::Result<()> {
        let (Some(first), Some(target)) = (victims.numbers.first(), victims.paths.first()) else { return Ok(()) };
        fs::rename(&victims.into, target)?;
        self.segments.insert(*first, Segment { bytes: thinned.bytes, thinned: true, left: false });
        for (number, path) in victims.numbers.iter().zip(&victims.paths).skip(1) {
            // If it stays, the next opening deletes it: the first covers it.
            let _ = fs::remove_file(path);
            self.segments.remove(number);
        }
        Ok(())
    }
}

impl Log {
    /// These cannot be thinned: the next time others are.
    pub(super) fn leave(&mut self, victims: &Victims) {
        for number in &victims.numbers {
            if let Some(segment) = self.segments.get_mut(number) {
                segment.left = true;
            }
        }
    }
}

impl Victims {
    /// Writes what stays of the segments to a file beside them.
    pub(super) fn thin(&self) -> io::Result<Thinned> {
        let covers = self.numbers.last().copied().unwrap_or_default();
        thin::thin(&self.paths, &self.into, covers).inspect_err(|_| drop(fs::remove_file(&self.into)))
    }

    /// The first of them.
    pub(super) fn first(&self) -> u64 {
        self.numbers.first().copied().unwrap_or_default()
    }

    /// Removes what [`Self::thin`] has written.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.into);
    }
}

/// What a walk comes by.
pub(super) enum Step {
    /// Records that belong together, and the place after them.
    Group(Vec<Record>, Position),
    /// From here to the end of its segment nothing can be read.
    Lost { at: Position, torn: bool, why: String },
}

/// Reads on through the segments.
pub(super) struct Walk {
    parts: VecDeque<(u64, PathBuf, u64)>,
    current: Option<(u64, Reader)>,
    from: Position,
}

impl Walk {
    /// Gives up the segment that cannot be read; the place from which on.
    pub(super) fn skip(&mut self) -> Option<Position> {
        let (segment, reader) = self.current.take()?;
        Some(Position { segment, offset: reader.at() })
    }

    /// The next step; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Step>> {
        loop {
            let Some((segment, reader)) = &mut self.current else {
                let Some((number, path, limit)) = self.parts.pop_front() else { return Ok(None) };
                let at = if number == self.from.segment { self.from.offset.max(HEADER) } else { HEADER };
                let (header, reader) = Reader::open(&path, at, Some(limit))?;
                if matches!(header, Header::Good { .. }) {
                    self.current = Some((number, reader));
                    continue;
                }
                let torn = limit < HEADER;
                let at = Position { segment: number, offset: 0 };
                return Ok(Some(Step::Lost { at, torn, why: "its header cannot be read".to_owned() }));
            };
            let segment = *segment;
            match reader.next()? {
                Ok(records) => return Ok(Some(Step::Group(records, Position { segment, offset: reader.at() }))),
                Err(End::Whole) => self.current = None,
                Err(end) => {
                    let at = Position { segment, offset: reader.at() };
                    self.current = None;
                    let why = if end == End::Torn { "it is cut off" } else { "its checksum is wrong" };
                    return Ok(Some(Step::Lost { at, torn: end == End::Torn, why: why.to_owned() }));
                }
            }
        }
    }
}
