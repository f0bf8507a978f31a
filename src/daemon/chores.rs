//! Loops that keep the database in order while this daemon is active.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::gate::Gated;
use super::history::History;
use crate::metrics::work::WorkStats;
use crate::schedule::jobs::Wake;
use crate::shutdown::Shutdown;

/// A job's wake-ups, for a loop that may be run again.
pub(super) type SharedWake = Arc<Mutex<Wake>>;

/// Closes hours and recomputes dirty ones, each minute.
pub(super) async fn roll_up(
    store: Arc<Gated>,
    wake: SharedWake,
    mut stop: Shutdown,
    stats: Arc<WorkStats>,
    history: Arc<History>,
) {
    let mut wake = wake.lock().await;
    while next(&mut wake, &mut stop).await {
        let Ok(store) = store.store() else { continue };
        let began = Instant::now();
        let rolled = tokio::select! {
            rolled = store.roll_up() => rolled,
            () = stop.wait() => return,
        };
        stats.ran(began.elapsed(), rolled.is_ok());
        if let Ok(rolled) = &rolled
            && !rolled.more
        {
            history.backfilled(rolled.backfill);
        }
        match rolled {
            Ok(rolled) if rolled.recomputed > 0 => log::debug!(hours = rolled.recomputed; "hours rolled up"),
            Ok(_) => {}
            Err(fault) => log::debug!("roll-ups wait: {fault}"),
        }
    }
}

/// Makes partitions ahead, each hour.
pub(super) async fn make_partitions(store: Arc<Gated>, wake: SharedWake, mut stop: Shutdown, stats: Arc<WorkStats>) {
    let mut wake = wake.lock().await;
    while next(&mut wake, &mut stop).await {
        let Ok(store) = store.store() else { continue };
        let began = Instant::now();
        let made = tokio::select! {
            made = store.make_partitions_ahead() => made,
            () = stop.wait() => return,
        };
        stats.ran(began.elapsed(), made.is_ok());
        match made {
            Ok(0) => {}
            Ok(made) => log::info!(partitions = made; "partitions made ahead"),
            Err(fault) => log::warn!("partitions could not be made ahead and are tried again in an hour: {fault}"),
        }
    }
}

pub(super) async fn next(wake: &mut Wake, stop: &mut Shutdown) -> bool {
    tokio::select! {
        () = stop.wait() => false,
        wake = wake.recv() => wake.is_some(),
    }
}
