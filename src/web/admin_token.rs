//! The token file: one admin token, made at the first start, which works while the store is away.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::access::token::{self, TokenHash};
use crate::settings::limited;

/// Its name in the state directory.
pub const FILE: &str = "admin-token";
const MODE: u32 = 0o600;
/// A token and white space around it.
const MOST_BYTES: u64 = 1024;

/// The hash of the token in the file; makes the file if there is none. A file that holds something else is left alone,
/// and nobody gets in with it: the daemon is more important than its API.
pub fn open(state_directory: &Path) -> Option<TokenHash> {
    let path = state_directory.join(FILE);
    match read(&path) {
        Ok(Some(hash)) => Some(hash),
        Ok(None) => {
            log::error!("{} holds no token: delete it, and the next start makes a new one", path.display());
            None
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create(&path) {
            Ok(hash) => {
                log::info!("a token for the API, scope admin, was written to {}", path.display());
                hash
            }
            Err(error) => {
                log::error!("{}: the token file cannot be written: {error}", path.display());
                None
            }
        },
        Err(error) => {
            log::error!("{}: the token file cannot be read: {error}", path.display());
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Option<TokenHash>> {
    let text = limited::read(path, MOST_BYTES)?;
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        log::warn!(
            "{} could be read by others, who may know the token now: delete it to get a new one",
            path.display()
        );
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
    }
    Ok(TokenHash::of(text.trim()))
}

fn create(path: &Path) -> io::Result<Option<TokenHash>> {
    let secret = token::generate().map_err(io::Error::other)?;
    let draft = path.with_extension("new");
    // Of a start that was cut off; it may have another mode.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&draft)?;
    writeln!(file, "{}", secret.expose())?;
    // Half a token after a power cut would lock the operator out.
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(TokenHash::of(secret.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        // Of a start that was killed.
        fs::write(path.with_extension("new"), "half").unwrap();
        let first = open(folder.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = limited::read(&path, 100).unwrap();
        assert_eq!(TokenHash::of(text.trim()), Some(first));
        assert_eq!(open(folder.path()), Some(first));
        assert!(!path.with_extension("new").exists());

        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(open(folder.path()), Some(first));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::write(&path, "something else\n").unwrap();
        assert_eq!(open(folder.path()), None);
        assert_eq!(limited::read(&path, 100).unwrap(), "something else\n");
        fs::remove_file(&path).unwrap();
        assert!(open(folder.path()).is_some_and(|again| again != first));
    }
}
