//! One daemon a state directory: a lock file that names its holder.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::ClusterError;
use crate::settings::limited;

/// Holds the state directory until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    dir: PathBuf,
    _file: File,
}

impl StateLock {
    /// Makes the directory if it is missing (mode 0711: the database's user passes through, and sees nothing) and locks it.
    ///
    /// # Errors
    /// [`ClusterError::Running`] with the holder's pid; [`ClusterError::State`].
    pub fn acquire(dir: &Path) -> Result<Self, ClusterError> {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(|e| ClusterError::state(dir, e))?;
        let dir = fs::canonicalize(dir).map_err(|e| ClusterError::state(dir, e))?;
        let path = dir.join("lock");
        let fail = |source| ClusterError::state(&path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // The directory may be somebody else's than root's, who must not be led elsewhere by it.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(fail)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(fail(error.into()));
            }
            let pid = limited::read(&path, 64).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            return Err(ClusterError::Running { pid, dir });
        }
        leave_to_owner(&file, &dir).map_err(fail)?;
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(fail)?;
        Ok(Self { dir, _file: file })
    }

    /// The directory, canonical.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What root makes in the directory of a service belongs to the service, which could not lock it otherwise.
fn leave_to_owner(file: &File, dir: &Path) -> std::io::Result<()> {
    let (owner, found) = (fs::metadata(dir)?, file.metadata()?);
    if !rustix::process::geteuid().is_root() || found.uid() == owner.uid() || found.nlink() != 1 {
        return Ok(());
    }
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}
