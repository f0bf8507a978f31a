//! What is known of the history in the database: how much there is, where it begins, how far it is recomputed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::chores::{SharedWake, next};
use super::gate::Gated;
use crate::metrics::work::WorkStats;
use crate::settings::{duration, size};
use crate::shutdown::Shutdown;
use crate::store::{Backfill, Kept, PruneCursor};

/// Rows that are too old are looked for so often; a day of them comes at once.
const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3600);

/// What the loops found the last time they looked, and what they did since the term began.
#[derive(Debug, Default)]
pub(super) struct History {
    inner: Mutex<Inner>,
    aged: AtomicU64,
    thinned: AtomicU64,
    pruned: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    kept: Option<Kept>,
    backfill: Option<Backfill>,
    /// Where this term found it.
    began: Option<(Instant, u16)>,
}

/// A copy, for those who tell.
#[derive(Clone, Debug, Default)]
pub(super) struct HistoryView {
    pub(super) kept: Option<Kept>,
    pub(super) backfill: Option<(Backfill, Option<Duration>)>,
    /// Partitions dropped by their age.
    pub(super) aged: u64,
    /// Partitions dropped for want of room.
    pub(super) thinned: u64,
    /// Other rows that were deleted by their age.
    pub(super) pruned: u64,
}

impl History {
    pub(super) fn view(&self) -> HistoryView {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        HistoryView {
            kept: inner.kept.clone(),
            backfill: inner.backfill.map(|backfill| (backfill, left(backfill, inner.began, Instant::now()))),
            aged: self.aged.load(Relaxed),
            thinned: self.thinned.load(Relaxed),
            pruned: self.pruned.load(Relaxed),
        }
    }

    /// Takes in how far the recomputing is, and tells the log.
    pub(super) fn backfilled(&self, backfill: Option<Backfill>) {
        let (text, done) = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut inner.backfill, backfill);
            match backfill {
                Some(backfill) => {
                    inner.began.get_or_insert((Instant::now(), backfill.permille));
                    (Some(progress(backfill, left(backfill, inner.began, Instant::now()))), false)
                }
                None => (None, before.is_some()),
            }
        };
        if let Some(text) = text {
            log::info!("{text}");
        } else if done {
            log::info!("every hour that was rolled up before has latency now, and every day is summed");
        }
    }

    fn retained(&self, kept: Kept) {
        let budget = kept.budget.map(size::format).unwrap_or_default();
        let begin = kept.raw_begin.map(|day| day.to_string()).unwrap_or_default();
        for dropped in &kept.dropped {
            let (day, bytes) = (dropped.day.to_string(), dropped.bytes);
            if dropped.thinned {
                self.thinned.fetch_add(1, Relaxed);
                log::warn!(day = day.as_str(), bytes;
                    "raw checks of a day were dropped for retention.disk_budget = {budget}; their roll-ups stay, and raw \
                     detail now begins on {begin}");
            } else {
                self.aged.fetch_add(1, Relaxed);
                log::info!(day = day.as_str(), bytes; "raw checks of a day were dropped by their age; their roll-ups stay");
            }
        }
        if let Some(day) = kept.held {
            log::debug!(day = day.to_string().as_str(); "raw checks of a day should go, and stay until they are rolled up or nobody reads them");
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let was_over = inner.kept.as_ref().is_some_and(|before| before.over_budget);
        let (is_over, bytes) = (kept.over_budget, kept.bytes());
        inner.kept = Some(kept);
        drop(inner);
        if is_over && !was_over {
            log::warn!(bytes; "history is larger than retention.disk_budget = {budget}, and no day can be dropped now");
        }
    }
}

/// How long it will take at the pace so far.
fn left(backfill: Backfill, began: Option<(Instant, u16)>, now: Instant) -> Option<Duration> {
    let (since, from) = began?;
    let gained = u32::from(backfill.permille.checked_sub(from)?);
    let rest = u32::from(1000_u16.saturating_sub(backfill.permille));
    let left = now.saturating_duration_since(since).checked_mul(rest)?.checked_div(gained)?;
    Some(Duration::from_secs(left.as_secs()))
}

/// One line for the log and for `/readyz`.
pub(super) fn progress(backfill: Backfill, left: Option<Duration>) -> String {
    let Backfill { day, last_day, permille } = backfill;
    let left = left.map_or_else(String::new, |left| format!(", about {} left", duration::format(left)));
    let (whole, tenth) = (permille / 10, permille % 10);
    format!(
        "roll-ups of before there was latency are recomputed: {whole}.{tenth} %, at {day} on the way to {last_day}{left}"
    )
}

/// Drops and prunes what is too old or too much, each minute.
pub(super) async fn keep_history(
    store: Arc<Gated>,
    wake: SharedWake,
    mut stop: Shutdown,
    stats: Arc<WorkStats>,
    history: Arc<History>,
) {
    let mut wake = wake.lock().await;
    let (mut cursor, mut pruned_at) = (PruneCursor::default(), None::<Instant>);
    while next(&mut wake, &mut stop).await {
        let Ok(store) = store.store() else { continue };
        let began = Instant::now();
        let kept = tokio::select! {
            kept = store.retain() => kept,
            () = stop.wait() => return,
        };
        let mut good = kept.is_ok();
        match kept {
            Ok(kept) => history.retained(kept),
            Err(fault) => log::warn!("old history could not be dropped and is tried again in a minute: {fault}"),
        }
        if pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            let pruned = tokio::select! {
                pruned = store.prune(&mut cursor) => pruned,
                () = stop.wait() => return,
            };
            good &= pruned.is_ok();
            match pruned {
                Ok((rows, done)) => {
                    history.pruned.fetch_add(rows, Relaxed);
                    if rows > 0 {
                        log::info!(rows; "roll-ups, incidents and gaps that were too old were deleted");
                    }
                    if done {
                        pruned_at = Some(Instant::now());
                    }
                }
                Err(fault) => {
                    log::warn!("old roll-ups and incidents could not be deleted and are tried again: {fault}")
                }
            }
        }
        stats.ran(began.elapsed(), good);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::NaiveDate;

    #[test]
    fn progress_has_a_share_and_the_time_left() {
        let day = |day| NaiveDate::from_ymd_opt(2026, 11, day).unwrap();
        let backfill = Backfill { day: day(20), last_day: day(1), permille: 255 };
        let began = Instant::now();
        let now = began + Duration::from_secs(100);
        assert_eq!(left(backfill, Some((began, 255)), now), None, "no pace yet");
        let left = left(backfill, Some((began, 5)), now);
        assert_eq!(left, Some(Duration::from_secs(298)));
        let text = progress(backfill, left);
        assert!(text.ends_with("25.5 %, at 2026-11-20 on the way to 2026-11-01, about 4m58s left"), "{text}");
    }

    #[test]
    fn what_was_dropped_is_counted_by_its_reason() {
        let dropped = |thinned| crate::store::Dropped { day: NaiveDate::MIN, bytes: 1, thinned };
        let history = History::default();
        history.retained(Kept { dropped: vec![dropped(true), dropped(false), dropped(false)], ..Kept::default() });
        let view = history.view();
        assert_eq!((view.aged, view.thinned), (2, 1));
    }
}
