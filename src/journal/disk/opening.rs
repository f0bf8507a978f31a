//! What an opening finds: how far the readers were, what they had not read, and what of it is damaged.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::RECORDER;
use crate::journal::log::{Log, Step};
use crate::journal::marks::{Found, Marks, MarksFile, Position, path as marks_path};
use crate::journal::segment::{self, Disk};
use crate::journal::{JournalError, delayed};
use crate::model::{Gap, GapReason, MonitorId, MonitorState, Record};

pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) marks: Marks,
    pub(super) marks_file: MarksFile,
    /// Records that wait to be read.
    pub(super) records: usize,
    /// The latest state of every monitor in them.
    pub(super) states: HashMap<MonitorId, MonitorState>,
    /// When the oldest of them began.
    pub(super) oldest: Option<DateTime<Utc>>,
}

/// A time that may not be known.
type Maybe = Option<DateTime<Utc>>;

/// What a scan of the unread part finds.
#[derive(Default)]
struct Scan {
    records: usize,
    states: HashMap<MonitorId, MonitorState>,
    /// The time of the latest record so far.
    alive: Option<DateTime<Utc>>,
    /// The beginning of the earliest that counts.
    oldest: Option<DateTime<Utc>>,
    /// Where damage begins, and between which times what it cost lies.
    damage: Vec<(Position, Maybe, Maybe)>,
    torn: Vec<Position>,
}

pub(super) fn open(
    folder: &Path,
    disk: &Arc<dyn Disk>,
    segment_bytes: u64,
    now: DateTime<Utc>,
) -> Result<Opened, JournalError> {
    let fail = |source| JournalError::io(folder, source);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
    let (mut marks_file, found) = MarksFile::open(folder).map_err(fail)?;
    let (mut marks, trusted) = match found {
        Found::Marks(marks) => (*marks, true),
        Found::Nothing | Found::Damaged => (Marks::default(), false),
        Found::Newer(version) => return Err(JournalError::Newer { path: marks_path(folder), version }),
    };
    let cursor = marks.cursors.entry(RECORDER.to_owned()).or_default().clone();
    let to = cursor.intent.as_ref().and_then(|intent| intent.to).unwrap_or_default();
    let least = cursor.at.segment.max(to.segment) + 1;
    let mut log = Log::open(folder, Arc::clone(disk), segment_bytes, least)?;
    let mut scan = Scan { alive: marks.alive, ..Scan::default() };
    let mut waiting = Vec::new();
    if let Err(error) = delayed::read(folder, cursor.delayed, &mut waiting) {
        log::error!("{}: results that waited for their monitors' rows are lost: {error}", folder.display());
        scan.damage.push((Position::default(), marks.alive, None));
    }
    waiting.into_iter().for_each(|record| scan.take(record, false));
    scan.walk(&log, cursor.at).map_err(fail)?;
    if !trusted && scan.records > 0 {
        scan.distrust(&log);
    }
    // What could not be read is told before it is cut off: killed in between, the same gap is told once more.
    scan.mend(folder, &mut log);
    if !trusted {
        marks.cursors.entry(RECORDER.to_owned()).or_default().at = scan.begin(&log);
    }
    if let Some(alive) = scan.alive {
        marks.was_down(alive, now);
    }
    marks.alive = scan.alive;
    marks_file.write(&marks, true).map_err(fail)?;
    log.delete_below(marks.lowest());
    delayed::delete_others(folder, cursor.delayed);
    if scan.records > 0 {
        log::info!(records = scan.records; "results of before are brought to the database from the journal");
    }
    Ok(Opened { log, marks, marks_file, records: scan.records, states: scan.states, oldest: scan.oldest })
}

impl Scan {
    fn walk(&mut self, log: &Log, from: Position) -> std::io::Result<()> {
        let mut walk = log.walk(from, log.end());
        while let Some(step) = walk.next()? {
            match step {
                Step::Group(records, _) => records.into_iter().for_each(|record| self.take(record, true)),
                Step::Lost { at, torn: true, .. } => self.torn.push(at),
                Step::Lost { at, .. } => self.damage.push((at, self.alive, None)),
            }
        }
        Ok(())
    }

    fn take(&mut self, record: Record, counts: bool) {
        self.records += usize::from(counts);
        if counts && let Some(began) = record.began() {
            self.oldest = Some(self.oldest.map_or(began, |oldest| oldest.min(began)));
        }
        if let Some(time) = record.time() {
            for (_, _, to) in self.damage.iter_mut().filter(|(_, _, to)| to.is_none()) {
                *to = Some(time);
            }
            self.alive = self.alive.max(Some(time));
        }
        if let Record::State(monitor, state) = record {
            self.states.insert(monitor, *state);
        }
    }

    /// Nobody knows what of it has been recorded: a gap is more honest than doubled checks.
    fn distrust(&mut self, log: &Log) {
        log::error!(records = self.records; "the journal's cursor is lost, and with it what was not recorded yet");
        self.damage.clear();
        let mut times: Vec<DateTime<Utc>> = Vec::new();
        let mut walk = log.walk(Position::default(), log.end());
        while let Ok(Some(step)) = walk.next() {
            if let Step::Group(records, _) = step {
                times.extend(records.iter().filter_map(Record::time));
            }
        }
        self.damage.push((Position::default(), times.iter().min().copied(), times.iter().max().copied()));
        (self.records, self.states) = (0, HashMap::new());
    }

    /// Tells what is lost as gaps, and cuts the segments off where their good part ends.
    fn mend(&mut self, folder: &Path, log: &mut Log) {
        for at in &self.torn {
            log::info!("{}: the last write to segment {:x} was cut off", folder.display(), at.segment);
        }
        for (at, from, to) in &self.damage {
            log::error!(
                "{}: segment {:x} is damaged at byte {}: what followed in it is lost, and a gap",
                folder.display(),
                at.segment,
                at.offset
            );
            let (Some(from_at), Some(to_at)) = (from.or(*to), to.or(self.alive)) else { continue };
            let reason = GapReason::RecordingLost;
            let gap = Gap { monitor: None, from_at, to_at: to_at.max(from_at), reason };
            let mut frame = Vec::new();
            match segment::frame(&[Record::Gap(gap)], &mut frame).and_then(|()| log.append(&frame)) {
                Ok(()) => self.records += 1,
                // Not cut off, and so found again by the next opening.
                Err(error) => {
                    log::error!("{}: cannot be written: {error}", folder.display());
                    return;
                }
            }
        }
        for at in self.torn.iter().chain(self.damage.iter().map(|(at, ..)| at)) {
            if *at != Position::default()
                && let Err(error) = log.cut(*at)
            {
                log::warn!("{}: {error}", folder.display());
            }
        }
    }

    /// Where to begin without a cursor: with the gap that tells of it.
    fn begin(&self, log: &Log) -> Position {
        let end = log.end();
        if self.records == 0 { end } else { Position { segment: end.segment, offset: segment::HEADER } }
    }
}
