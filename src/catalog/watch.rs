//! Notices that the configuration may have changed. Carries no data: who is woken reads and compares.
//!
//! Watched are the FOLDERS of the sources and of what their links point to: a watch on a file is dead after the first
//! save by rename and never sees a link being swapped. Where notifications fail (network file systems), a poll helps.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
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
pub async fn run(folders: &mut mpsc::Receiver<Vec<PathBuf>>, wake: mpsc::Sender<()>, mut shutdown: Shutdown) {
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
    /// With device and inode: a folder that was replaced is another one under the same name.
    folders: HashMap<PathBuf, Option<(u64, u64)>>,
    /// Folders that cannot be watched, and whose owner knows.
    unwatchable: HashSet<PathBuf>,
}

impl Watched {
    /// Watches these folders and no others; true when one of them was not watched before.
    fn follow(&mut self, watcher: &mut impl notify::Watcher, list: Vec<PathBuf>) -> bool {
        let wanted: HashSet<PathBuf> = list.into_iter().collect();
        for gone in self.folders.keys().filter(|folder| !wanted.contains(*folder)) {
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
                    let identity = std::fs::metadata(&folder).ok().map(|found| (found.dev(), found.ino()));
                    self.folders.insert(folder, identity);
                }
                Err(error) => {
                    if self.unwatchable.insert(folder.clone()) {
                        let (folder, seconds) = (folder.display(), POLL.as_secs());
                        log::warn!("{folder}: changes there are only noticed every {seconds} s: {error}");
                    }
                }
            }
        }
        self.folders.iter().any(|(folder, identity)| before.get(folder) != Some(identity))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use tokio::time::timeout;

    use super::*;
    use crate::settings::file::{Presence, read};
    use crate::shutdown;

    /// Follows a configuration until what is read is as it shall be; far sooner than the poll would find it.
    async fn reads(file: &Path, wakes: &mut mpsc::Receiver<()>, folders: &mpsc::Sender<Vec<PathBuf>>, wanted: &[&str]) {
        let found = async {
            loop {
                wakes.recv().await.unwrap();
                let sources = read(file, Presence::Required);
                folders.send(sources.folders.into_iter().collect()).await.unwrap();
                let texts: Vec<&str> = sources.texts.iter().map(|source| source.text.as_str()).collect();
                if texts == wanted {
                    break;
                }
            }
        };
        timeout(POLL / 2, found).await.unwrap_or_else(|_| panic!("{wanted:?} was not noticed"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_way_of_changing_a_configuration_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let (folder, elsewhere) = (root.path().join("etc"), root.path().join("elsewhere"));
        for (version, text) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir_all(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("config.toml"), text).unwrap();
        }
        // As Kubernetes mounts a ConfigMap.
        symlink("v1", folder.join("..data")).unwrap();
        symlink("..data/config.toml", folder.join("config.toml")).unwrap();
        let file = folder.join("config.toml");
        let (folders, mut folders_end) = mpsc::channel(1);
        let (wake, mut wakes) = mpsc::channel(1);
        let (trigger, shutdown) = shutdown::channel();
        let task = tokio::spawn(async move { run(&mut folders_end, wake, shutdown).await });
        folders.send(read(&file, Presence::Required).folders.into_iter().collect()).await.unwrap();
        // The first watch wakes: something may have changed before it.
        reads(&file, &mut wakes, &folders, &["one"]).await;

        symlink("v2", folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        reads(&file, &mut wakes, &folders, &["two"]).await;
        // In place, where the link leads now.
        fs::write(folder.join("v2").join("config.toml"), "three").unwrap();
        reads(&file, &mut wakes, &folders, &["three"]).await;
        // An editor's rename.
        for text in ["four", "five"] {
            fs::write(folder.join(".config.swp"), text).unwrap();
            fs::rename(folder.join(".config.swp"), &file).unwrap();
            reads(&file, &mut wakes, &folders, &[text]).await;
        }
        fs::create_dir(folder.join("config.d")).unwrap();
        fs::write(folder.join("config.d/a.toml"), "more").unwrap();
        reads(&file, &mut wakes, &folders, &["five", "more"]).await;
        fs::write(folder.join("config.d/a.toml"), "less").unwrap();
        reads(&file, &mut wakes, &folders, &["five", "less"]).await;
        fs::remove_file(folder.join("config.d/a.toml")).unwrap();
        reads(&file, &mut wakes, &folders, &["five"]).await;
        // The whole folder is another one, and then changes.
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("config.toml"), "six").unwrap();
        fs::rename(&folder, root.path().join("old")).unwrap();
        fs::rename(&elsewhere, &folder).unwrap();
        reads(&file, &mut wakes, &folders, &["six"]).await;
        fs::write(&file, "seven").unwrap();
        reads(&file, &mut wakes, &folders, &["seven"]).await;

        trigger.fire();
        timeout(POLL / 2, task).await.expect("it ends").unwrap();
    }
}
