//! The state directory: made, checked, and held by one daemon at a time.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::cli::{Exit, Stop};

/// A state directory that this process holds. The lock ends with the process, however that ends.
pub(super) struct Home {
    path: PathBuf,
    _lock: File,
}

impl Home {
    /// Makes the directory when it is missing and takes its lock. When another daemon has it, the stop names its pid.
    pub(super) fn take(path: &Path) -> Result<Self, Stop> {
        let stop = |what: &str, error: &io::Error| {
            let way_out = "choose another with daemon.state_directory, or make it writable for this user";
            Stop::new(Exit::StateDirectory, format!("state directory {}: {what}: {error}; {way_out}", path.display()))
        };
        // Passable for others when root owns it: the embedded cluster's user must reach its folder. Files are 0600.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| stop("cannot be made", &error))?;
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock =
            options.open(path.join("daemon.lock")).map_err(|error| stop("cannot be written", &error))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            // The holder writes its pid right after it has the lock; an empty file only makes the message poorer.
            let _ = lock.by_ref().take(20).read_to_string(&mut pid);
            let pid = pid.trim();
            let who = if pid.is_empty() { "another daemon".to_owned() } else { format!("a daemon with pid {pid}") };
            let text = format!("{who} is already running with the state directory {}", path.display());
            return Err(Stop::new(Exit::Unavailable, text));
        }
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(|error| stop("cannot be written", &error))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Who this directory's daemon is to the lease: made once, kept for ever.
    pub(super) fn holder(&self) -> Result<Uuid, Stop> {
        let path = self.path.join("holder");
        if let Ok(text) = crate::settings::limited::read(&path, 100)
            && let Ok(id) = text.trim().parse()
        {
            return Ok(id);
        }
        let id = Uuid::new_v4();
        fs::write(&path, format!("{id}\n")).map_err(|error| {
            Stop::new(Exit::StateDirectory, format!("{}: cannot be written: {error}", path.display()))
        })?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state");
        let home = Home::take(&path).unwrap();
        let holder = home.holder().unwrap();
        let refused = Home::take(&path).err().unwrap();
        assert_eq!(refused.exit, Exit::Unavailable);
        assert!(refused.message.contains(&std::process::id().to_string()), "{}", refused.message);
        drop(home);
        assert_eq!(Home::take(&path).unwrap().holder().unwrap(), holder);
    }

    #[test]
    fn a_file_in_the_way_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Home::take(&file.path().join("state")).err().unwrap();
        assert_eq!(refused.exit, Exit::StateDirectory);
    }
}
