//! Reading files that somebody else wrote: never more than a limit, and never waiting for a writer.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Reads a UTF-8 file of at most `most` bytes; a larger one is an error, and so is anything that is not a regular file.
pub fn read(path: &Path, most: u64) -> io::Result<String> {
    // One more, which tells of a file that grows while it is read.
    let (file, length) = regular(path, most)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1));
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(too_large(most));
    }
    String::from_utf8(bytes).map_err(|why| {
        let at = why.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("is not UTF-8 text (byte {at})"))
    })
}

/// The same for who reads it piece by piece: it ends after `most` bytes, also if it grows meanwhile.
pub fn open(path: &Path, most: u64) -> io::Result<io::Take<File>> {
    Ok(regular(path, most)?.0.take(most))
}

fn regular(path: &Path, most: u64) -> io::Result<(File, u64)> {
    // Opening a pipe would wait for its writer; O_NONBLOCK has no effect on regular files.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    if metadata.len() > most {
        return Err(too_large(most));
    }
    Ok((file, metadata.len()))
}

fn too_large(most: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("is larger than {most} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_within_the_limit_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), "12345");
        assert_eq!(read(&path, 4).unwrap_err().to_string(), "is larger than 4 bytes");
        std::fs::write(&path, b"ab\xff").unwrap();
        assert_eq!(read(&path, 5).unwrap_err().to_string(), "is not UTF-8 text (byte 2)");
        assert_eq!(read(folder.path(), 5).unwrap_err().to_string(), "is a folder");
        assert_eq!(read(Path::new("/dev/zero"), 5).unwrap_err().to_string(), "is not a regular file");
        assert_eq!(read(&folder.path().join("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read(&pipe, 5).unwrap_err().to_string(), "is not a regular file");
    }
}
