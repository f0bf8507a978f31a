//! Where the daemon keeps its state, and how commands reach it there.

use std::path::{Path, PathBuf};

use super::{Environment, Exit, Stop};

/// Where packages put it.
const SYSTEM: &str = "/var/lib/lamplighter";
/// `sun_path` holds 108 bytes with its final zero (unix(7)).
const SOCKET_PATH_MOST: usize = 107;

/// The state directory (contract, section 1): the configured one, else `$STATE_DIRECTORY`, else the system's when root
/// or when it exists, else the XDG state home.
pub(crate) fn directory(configured: Option<&Path>, environment: &Environment) -> Result<PathBuf, Stop> {
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    if let Some(list) = environment.get("STATE_DIRECTORY") {
        // systemd separates several by colons.
        return Ok(PathBuf::from(list.split(':').next().unwrap_or(list)));
    }
    if rustix::process::geteuid().is_root() || Path::new(SYSTEM).is_dir() {
        return Ok(PathBuf::from(SYSTEM));
    }
    let home = environment.path("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let home = home.or_else(|| environment.path("HOME").map(|home| home.join(".local/state")));
    home.map(|home| home.join("lamplighter")).ok_or_else(|| {
        let way_out = "neither $HOME nor $XDG_STATE_HOME is set: set daemon.state_directory in the configuration";
        Stop::new(Exit::StateDirectory, format!("no place for the state directory: {way_out}"))
    })
}

/// The socket that commands use.
pub(crate) fn admin_socket(state_directory: &Path) -> Result<PathBuf, Stop> {
    let path = state_directory.join("admin.sock");
    if path.as_os_str().len() > SOCKET_PATH_MOST {
        let text = format!(
            "{}: the path of a unix socket may have {SOCKET_PATH_MOST} bytes: choose a shorter daemon.state_directory",
            path.display()
        );
        return Err(Stop::new(Exit::StateDirectory, text));
    }
    Ok(path)
}
