//! Notices that the configuration may have changed. Carries no data: who is woken reads and compares.
//!
//! Watched are the FOLDERS of the sources and of what their links point to: a watch on a file is dead after the first
//! save by rename and never sees a link being swapped. Where notifications fail (network file systems), a poll helps.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use notify::RecursiveMode;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::shutdown::Shutdown;

/// An editor writes several times; so long nothing must happen before the file is read.
const QUIET: Duration = Duration::from_millis(300);
/// Continuous writing does not put off the reading for longer.
const MOST_DELAY: Duration = Duration::from_secs(1);
/// For folders whose changes nobody tells.
const POLL: Duration = Duration::from_secs(30);

/// Watches folders; `folders` brings the list anew after each load. `wake` gets one message for a burst of changes;
/// when one is still unread there, nothing is added.
pub async fn run(mut folders: mpsc::Receiver<Vec<PathBuf>>, wake: mpsc::Sender<()>, mut shutdown: Shutdown) {
    let (seen, mut events) = mpsc::channel::<()>(1);
    let mut watcher = match notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
        // Reading our own files must not wake us.
        if event.as_ref().map_or(true, |event| !event.kind.is_access()) {
            // Full means that a wake-up is already on its way.
            let _ = seen.try_send(());
        }
    }) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            log::warn!("file changes are only noticed every {} s: {error}", POLL.as_secs());
            None
        }
    };
    let mut watched = Watched::default();
    let mut poll_at = Instant::now() + POLL;
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            list = folders.recv() => match list {
                Some(list) => {
                    if watcher.as_mut().is_some_and(|watcher| watched.follow(watcher, list)) {
                        // What changed between the reading and the watch went unseen.
                        let _ = wake.try_send(());
                    }
                }
                None => return,
            },
            Some(()) = events.recv() => {
                settle(&mut events, &mut shutdown).await;
                let _ = wake.try_send(());
            }
            () = sleep_until(poll_at) => {
                poll_at = Instant::now() + POLL;
                let _ = wake.try_send(());
            }
        }
    }
}

async fn settle(events: &mut mpsc::Receiver<()>, shutdown: &mut Shutdown) {
    let latest = Instant::now() + MOST_DELAY;
    loop {
        let quiet_at = (Instant::now() + QUIET).min(latest);
        tokio::select! {
            () = shutdown.wait() => return,
            () = sleep_until(quiet_at) => return,
            event = events.recv() => if event.is_none() { return },
        }
    }
}

#[derive(Default)]
struct Watched {
    folders: HashSet<PathBuf>,
    /// Folders that cannot be watched, and whose owner knows.
    unwatchable: HashSet<PathBuf>,
}

impl Watched {
    /// Watches these folders and no others; true when one of them was not watched before.
    fn follow(&mut self, watcher: &mut impl notify::Watcher, list: Vec<PathBuf>) -> bool {
        let wanted: HashSet<PathBuf> = list.into_iter().collect();
        for gone in self.folders.difference(&wanted) {
            // A folder that was deleted has lost its watch by itself.
            let _ = watcher.unwatch(gone);
        }
        self.unwatchable.retain(|folder| wanted.contains(folder));
        let before = std::mem::take(&mut self.folders);
        for folder in wanted {
            // Watching again is harmless and heals a folder that was replaced.
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.unwatchable.remove(&folder);
                    self.folders.insert(folder);
                }
                Err(error) => {
                    if self.unwatchable.insert(folder.clone()) {
                        let (folder, seconds) = (folder.display(), POLL.as_secs());
                        log::warn!("{folder}: changes there are only noticed every {seconds} s: {error}");
                    }
                }
            }
        }
        self.folders.difference(&before).next().is_some()
    }
}
