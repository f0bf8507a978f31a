//! A file that is there when it is complete, and not before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{Exit, Stop};

/// A file under a temporary name beside its place. Dropped before [`Self::finish`], it is removed.
#[derive(Debug)]
pub(super) struct Output {
    place: PathBuf,
    draft: PathBuf,
    file: File,
    finished: bool,
}

impl Output {
    /// Begins a file with this mode, which the umask narrows. What stands in its place stays until the end; only a regular
    /// file may stand there.
    pub(super) fn begin(path: &Path, mode: u32) -> Result<Self, Stop> {
        // A link stays a link: its target is replaced.
        let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if fs::metadata(&place).is_ok_and(|found| !found.is_file()) {
            return Err(Stop::new(Exit::Failure, format!("{}: is not a regular file", path.display())));
        }
        let Some(name) = place.file_name() else {
            return Err(Stop::new(Exit::Failure, format!("{}: is not the name of a file", path.display())));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        let draft = place.with_file_name(hidden);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&draft);
        let file = file.map_err(|error| failed(&draft, &error))?;
        Ok(Self { place, draft, file, finished: false })
    }

    /// The temporary name.
    pub(super) fn draft(&self) -> &Path {
        &self.draft
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Adds to the file.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.file.write_all(bytes).map_err(|error| failed(&self.place, &error))
    }

    /// Brings the file to disk and under its name.
    pub(super) fn finish(mut self) -> Result<(), Stop> {
        let done = self.file.sync_all().and_then(|()| fs::rename(&self.draft, &self.place));
        done.map_err(|error| failed(&self.place, &error))?;
        self.finished = true;
        // The name itself must be on disk as well; file systems that cannot say so are as safe as they get.
        let folder = self.place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.draft);
        }
    }
}

pub(super) fn failed(path: &Path, error: &io::Error) -> Stop {
    Stop::new(Exit::Failure, format!("{}: {error}", path.display()))
}

/// Waits for SIGINT, SIGTERM or SIGHUP, so that whoever is told to end can clear away what is half done.
pub(super) async fn interrupted() -> Stop {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = || {
        let one = |kind| signal(kind).ok();
        Some((one(SignalKind::interrupt())?, one(SignalKind::terminate())?, one(SignalKind::hangup())?))
    };
    match listen() {
        Some((mut interrupt, mut terminate, mut hangup)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        }
        // Then the signal ends the process as ever, and the temporary file stays.
        None => std::future::pending().await,
    }
    Stop::new(Exit::Failure, "interrupted: nothing is left behind")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        crate::settings::limited::read(path, 100).unwrap()
    }

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        fs::write(&path, "old").unwrap();
        let mut output = Output::begin(&path, 0o600).unwrap();
        output.write(b"new").unwrap();
        assert_eq!(read(&path), "old");
        output.finish().unwrap();
        assert_eq!(read(&path), "new");
        let mut output = Output::begin(&path, 0o600).unwrap();
        output.write(b"half").unwrap();
        drop(output);
        assert_eq!(read(&path), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn only_a_regular_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        for path in [Path::new("/dev/null"), folder.path(), Path::new("/")] {
            assert_eq!(Output::begin(path, 0o600).unwrap_err().exit, Exit::Failure);
        }
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut output = Output::begin(&link, 0o600).unwrap();
        output.write(b"new").unwrap();
        output.finish().unwrap();
        assert!(link.is_symlink());
        assert_eq!(read(&target), "new");
    }
}
