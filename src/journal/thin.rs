//! Segments without their raw checks: what stays of each monitor, one frame a monitor.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::kept::Kept;
use super::segment::{self, HEADER, Header, Reader};
use crate::model::{Check, Gap, GapReason, MonitorId, Record};

/// What thinning did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Thinned {
    /// Checks that became gaps.
    pub(super) checks: u64,
    /// Records less than before.
    pub(super) fewer: usize,
    /// Size of the new file.
    pub(super) bytes: u64,
    /// Sizes of the old ones, as far as they were read.
    pub(super) before: u64,
}

/// What stands for a check that will have no row.
pub(super) fn gap_of(check: &Check, reason: GapReason) -> Record {
    let (from_at, to_at) = (check.checked_at, check.ended_at());
    Record::Gap(Gap { monitor: Some(check.monitor), from_at, to_at, reason })
}

/// Writes what stays of the segments, in order, to a new file that is on the disk afterwards. Memory: what stays.
pub(super) fn thin(paths: &[PathBuf], into: &Path, covers: u64) -> io::Result<Thinned> {
    let mut kept: HashMap<Option<MonitorId>, Kept> = HashMap::new();
    let mut order: Vec<Option<MonitorId>> = Vec::new();
    let mut done = Thinned::default();
    for path in paths {
        let (header, mut reader) = Reader::open(path, HEADER, None)?;
        if !matches!(header, Header::Good { .. }) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its header cannot be read"));
        }
        loop {
            let records = match reader.next()? {
                Ok(records) => records,
                Err(segment::End::Whole) => break,
                // Left as it is: who reads it tells what is lost.
                Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is damaged")),
            };
            done.fewer += records.len();
            for record in records {
                let record = match record {
                    Record::Check(check) => {
                        done.checks += 1;
                        gap_of(&check, GapReason::StoreFull)
                    }
                    record => record,
                };
                let key = record.monitor();
                let of_one = kept.entry(key).or_insert_with(|| {
                    order.push(key);
                    Kept::default()
                });
                of_one.merge(record);
            }
        }
        done.before += reader.at();
    }
    let mut file = BufWriter::new(segment::create(into)?);
    let head = segment::header(covers);
    file.write_all(&head)?;
    done.bytes = head.len() as u64;
    let mut frame = Vec::new();
    for key in order {
        let Some(mut of_one) = kept.remove(&key) else { continue };
        let records = of_one.take(usize::MAX);
        done.fewer = done.fewer.saturating_sub(records.len());
        frame.clear();
        segment::frame(&records, &mut frame)?;
        file.write_all(&frame)?;
        done.bytes += frame.len() as u64;
    }
    let file: File = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_data()?;
    Ok(done)
}
