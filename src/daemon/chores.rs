//! Loops that keep the database in order while this daemon is active.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::gate::Gated;
use crate::schedule::jobs::Wake;
use crate::shutdown::Shutdown;

/// A job's wake-ups, for a loop that may be run again.
pub(super) type SharedWake = Arc<Mutex<Wake>>;

/// Closes hours and recomputes dirty ones, each minute.
pub(super) async fn roll_up(store: Arc<Gated>, wake: SharedWake, mut stop: Shutdown) {
    let mut wake = wake.lock().await;
    while next(&mut wake, &mut stop).await {
        let Ok(store) = store.store() else { continue };
        let rolled = tokio::select! {
            rolled = store.roll_up() => rolled,
            () = stop.wait() => return,
        };
        match rolled {
            Ok(rolled) if rolled.recomputed > 0 => log::debug!(hours = rolled.recomputed; "hours rolled up"),
            Ok(_) => {}
            Err(fault) => log::debug!("roll-ups wait: {fault}"),
        }
    }
}

/// Makes partitions ahead, each hour.
pub(super) async fn make_partitions(store: Arc<Gated>, wake: SharedWake, mut stop: Shutdown) {
    let mut wake = wake.lock().await;
    while next(&mut wake, &mut stop).await {
        let Ok(store) = store.store() else { continue };
        let made = tokio::select! {
            made = store.make_partitions_ahead() => made,
            () = stop.wait() => return,
        };
        match made {
            Ok(0) => {}
            Ok(made) => log::info!(partitions = made; "partitions made ahead"),
            Err(fault) => log::warn!("partitions could not be made ahead and are tried again in an hour: {fault}"),
        }
    }
}

async fn next(wake: &mut Wake, stop: &mut Shutdown) -> bool {
    tokio::select! {
        () = stop.wait() => false,
        wake = wake.recv() => wake.is_some(),
    }
}
