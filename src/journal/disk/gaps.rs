//! Gaps that a reading tells: of what cannot be read any more, and how far those of thinned checks go.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::model::{Gap, GapReason, MonitorId, Record};

/// What is told of frames that cannot be read any more: a gap of all monitors that begins where the records before end.
pub(super) fn lost_after(records: &[Record]) -> Option<Record> {
    let at = records.iter().filter_map(Record::time).max()?;
    Some(Record::Gap(Gap { monitor: None, from_at: at, to_at: at, reason: GapReason::RecordingLost }))
}

/// A gap of thinned checks ends with the next record of its monitor: it is told once more with that end, which the store
/// knows for the same gap by its beginning.
pub(super) fn end_gaps(
    lost: &mut HashMap<MonitorId, (DateTime<Utc>, DateTime<Utc>)>,
    records: Vec<Record>,
) -> Vec<Record> {
    let is_store_full =
        |record: &Record| matches!(record, Record::Gap(Gap { monitor: Some(_), reason: GapReason::StoreFull, .. }));
    if lost.is_empty() && !records.iter().any(is_store_full) {
        return records;
    }
    let mut told = Vec::with_capacity(records.len());
    for record in records {
        let Some(monitor) = record.monitor() else {
            told.push(record);
            continue;
        };
        if let Record::Gap(Gap { from_at, to_at, reason: GapReason::StoreFull, .. }) = record {
            let span = lost.entry(monitor).or_insert((from_at, to_at));
            span.1 = span.1.max(to_at);
            let gap = Gap { monitor: Some(monitor), from_at: span.0, to_at: span.1, reason: GapReason::StoreFull };
            told.push(Record::Gap(gap));
            continue;
        }
        let begins = match &record {
            Record::Check(check) => Some(check.checked_at),
            Record::Gap(gap) => Some(gap.from_at),
            // Those that were thinned as well tell no end.
            Record::State(..) | Record::Open(_) | Record::Resolve(_) => None,
        };
        if let Some(begins) = begins
            && let Some((from_at, to_at)) = lost.remove(&monitor)
        {
            let reason = GapReason::StoreFull;
            told.push(Record::Gap(Gap { monitor: Some(monitor), from_at, to_at: begins.max(to_at), reason }));
        }
        told.push(record);
    }
    told
}
