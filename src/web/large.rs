//! Large answers: views of all monitors, many megabytes when there are very many. They are made on threads where nothing
//! waits, a few at once, and what clients have not taken yet is bounded, so that slow readers cost no more than this.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::reply::Problem;

/// Made at once: each holds all monitors for a moment.
const MAKING: usize = 2;
/// Answers on their way, KiB. One that is larger goes alone.
const MEMORY_KIB: u32 = 128 * 1024;
/// How long a finished answer waits for those before it.
const ROOM: Duration = Duration::from_secs(2);

/// Makes large answers, within bounds.
pub(super) struct Large {
    making: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    memory_kib: u32,
}

/// An answer that gives its memory back when the last of it is sent, or its connection ends.
struct Held {
    bytes: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Default for Large {
    fn default() -> Self {
        Self::within(MAKING, MEMORY_KIB)
    }
}

impl Large {
    fn within(making: usize, memory_kib: u32) -> Self {
        let memory = Semaphore::new(memory_kib as usize);
        Self { making: Arc::new(Semaphore::new(making)), memory: Arc::new(memory), memory_kib }
    }

    /// What `make` makes. Waits for its turn, up to the route's deadline.
    pub(super) async fn make(&self, make: impl FnOnce() -> Vec<u8> + Send + 'static) -> Result<Bytes, Problem> {
        let failed = |why: String| {
            log::error!("an answer could not be made: {why}");
            let text = "see the daemon's log";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error", text)
        };
        let turn = Arc::clone(&self.making).acquire_owned().await.map_err(|error| failed(error.to_string()))?;
        // The turn goes with the work: a client that gives up waiting does not end it.
        let made = tokio::task::spawn_blocking(move || (make(), turn)).await;
        let (bytes, _turn) = made.map_err(|error| failed(error.to_string()))?;
        let size = u32::try_from(bytes.len() / 1024 + 1).unwrap_or(u32::MAX).min(self.memory_kib);
        match timeout(ROOM, Arc::clone(&self.memory).acquire_many_owned(size)).await {
            Ok(Ok(memory)) => Ok(Bytes::from_owner(Held { bytes, _memory: memory })),
            _ => {
                let text = "other clients are still taking large answers; it may be tried again";
                Err(Problem::unavailable("too_busy", text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_is_bounded_until_it_is_taken() {
        let large = Large::within(2, 4);
        let first = large.make(|| vec![0; 2500]).await.unwrap();
        let part = first.slice(..10);
        drop(first);
        let refused = large.make(|| vec![0; 2500]).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let small = large.make(|| vec![0; 10]).await.unwrap();
        drop((part, small));
        // Larger than all there is: alone.
        let huge = large.make(|| vec![0; 100_000]).await.unwrap();
        assert_eq!(huge.len(), 100_000);
        assert!(large.make(Vec::new).await.is_err());
        drop(huge);
        assert!(large.make(Vec::new).await.is_ok());
    }

    #[tokio::test]
    async fn who_gives_up_makes_no_room_for_another() {
        let large = Large::within(1, 4);
        let (release, wait) = oneshot::channel::<()>();
        let (begun, began) = oneshot::channel::<()>();
        let making = large.make(move || {
            let _ = begun.send(());
            let _ = wait.blocking_recv();
            Vec::new()
        });
        tokio::select! {
            _ = making => panic!("nobody released it"),
            _ = began => {}
        }
        assert_eq!(large.making.available_permits(), 0);
        release.send(()).unwrap();
        assert!(large.make(Vec::new).await.is_ok());
    }
}
