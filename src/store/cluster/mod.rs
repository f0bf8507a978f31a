//! The embedded default: a private cluster run from the installed Postgres binaries.
//!
//! It lives in the state directory, listens on a socket only, dies with the daemon (the parent-death signal) and is
//! recovered after a `kill -9`. Everything here is blocking, and [`Cluster::start`] belongs on a thread that lives as long
//! as the cluster: the parent-death signal follows the thread that spawned, not the process.

mod account;
mod binaries;
mod exec;
mod init;
mod launch;
mod lock;
mod orphans;
mod tools;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

pub use binaries::Binaries;
pub use exec::exec_postgres;
pub use lock::StateLock;
pub use tools::{NoTools, Tools};

use crate::model::Secret;
use account::Account;

/// The hidden subcommand that the launcher must hand to [`exec_postgres`].
pub const SUBCOMMAND: &str = "__postgres";

/// Crash recovery replays up to `max_wal_size` of log; five minutes are far beyond that on a slow disk.
const START_LIMIT: Duration = Duration::from_secs(300);
/// A fast shutdown writes a checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// `sun_path` holds 108 bytes with its NUL (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;
const SOCKET_NAME: &str = ".s.PGSQL.5432";

/// Why there is no private cluster. One line each; [`Self::exit_code`] is for the command line.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nothing to run.
    #[error(
        "no PostgreSQL server binaries (14 or newer) were found{0}. Install them: Debian/Ubuntu `apt-get install \
         postgresql`, Fedora `dnf install postgresql-server`, Alpine `apk add postgresql`; or set PG_BINDIR, or \
         database.url to use a server of yours"
    )]
    NoBinaries(String),
    /// Another daemon runs on this state directory.
    #[error("another lamplighter (pid {pid}) runs on the state directory {dir}")]
    Running {
        /// Its process id; 0 when it could not be read.
        pid: u32,
        /// The directory.
        dir: PathBuf,
    },
    /// Postgres does not run as root, and there is no user for it.
    #[error(
        "PostgreSQL does not run as root, and there is no user {0:?}; create it, or run lamplighter as another user"
    )]
    NoUser(String),
    /// That user cannot pass a folder above the data.
    #[error(
        "user {user:?} cannot reach {path}; allow it to pass (chmod o+x {path}), or set daemon.state_directory elsewhere"
    )]
    OutOfReach {
        /// Who.
        user: String,
        /// The folder in the way.
        path: PathBuf,
    },
    /// A file operation in the state directory failed.
    #[error("{path}: {source}")]
    State {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data were written by another major version.
    #[error(
        "{path} was made by PostgreSQL {found}, and only {installed} is installed. Install PostgreSQL {found}, run \
         `lamplighter db dump FILE`, move {path} away, and `lamplighter db restore FILE` with the new version"
    )]
    OtherMajor {
        /// The data folder.
        path: PathBuf,
        /// Its major version.
        found: u32,
        /// What there is.
        installed: String,
    },
    /// `initdb` failed.
    #[error("the private database could not be made: {0}")]
    Init(String),
    /// The server did not come up.
    #[error("the private database did not start: {0}")]
    Start(String),
    /// [`ClusterOptions::given_up`] was set meanwhile.
    #[error("the private database was not waited for")]
    GivenUp,
}

impl ClusterError {
    /// 69 when something needed is not there, 73 when it is the state directory.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NoBinaries(_) | Self::NoUser(_) | Self::Start(_) | Self::GivenUp | Self::Running { .. } => 69,
            _ => 73,
        }
    }

    fn state(path: &Path, source: std::io::Error) -> Self {
        Self::State { path: path.to_owned(), source }
    }
}

/// What [`Cluster::start`] takes from the environment; `main` reads that.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `$PG_BINDIR`.
    pub bin_dir: Option<PathBuf>,
    /// `$PATH`.
    pub path: Option<OsString>,
    /// The user that Postgres runs as when we are root; none: `postgres`.
    pub run_as: Option<String>,
    /// As root, Postgres runs as the owner of the state directory if that is another user: what a command of root's
    /// does there, the service of that user goes on with.
    pub as_owner: bool,
    /// The program that knows [`SUBCOMMAND`]: this one, `/proc/self/exe`.
    pub launcher: PathBuf,
    /// Set while [`Cluster::start`] waits: it stops what it started and fails with [`ClusterError::GivenUp`].
    pub given_up: Arc<AtomicBool>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            bin_dir: None,
            path: None,
            run_as: None,
            as_owner: false,
            launcher: PathBuf::from("/proc/self/exe"),
            given_up: Arc::default(),
        }
    }
}

/// Where things are, given the state directory.
struct Layout {
    /// `postgres/` in the state directory, mode 0700.
    folder: PathBuf,
    data: PathBuf,
    socket: PathBuf,
}

impl Layout {
    fn of(state_dir: &Path) -> Self {
        let folder = state_dir.join("postgres");
        let socket = if folder.as_os_str().len() + 1 + SOCKET_NAME.len() <= SOCKET_PATH_LIMIT {
            folder.clone()
        } else {
            // Found again by `db url`, hence from the path alone.
            use sha2::Digest as _;
            use std::os::unix::ffi::OsStrExt as _;
            let hash = sha2::Sha256::digest(state_dir.as_os_str().as_bytes());
            let short: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            PathBuf::from(format!("/tmp/lamplighter-{short}"))
        };
        Self { data: folder.join("data"), socket, folder }
    }
}

/// The URL of the private cluster of a state directory, for us, for psql and for pg_dump. The cluster need not run.
#[must_use]
pub fn url_of(state_dir: &Path) -> Secret {
    let state_dir = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let socket = Layout::of(&state_dir).socket;
    let socket = url::form_urlencoded::byte_serialize(socket.as_os_str().as_encoded_bytes()).collect::<String>();
    // Form encoding writes a space as '+', which libpq does not read back.
    let socket = socket.replace('+', "%20");
    Secret::new(format!("postgres://localhost/lamplighter?host={socket}&user=lamplighter"))
}

/// A running private cluster. Dropping it stops it.
#[derive(Debug)]
pub struct Cluster {
    child: Child,
    url: Secret,
}

impl Cluster {
    /// Starts the cluster of a locked state directory, making it at the first time, and waits until it answers. The
    /// cluster dies with the calling thread. What an earlier daemon left behind (a postmaster that is still stopping, a stale pid file, half
    /// an initdb) is cleared away first.
    ///
    /// # Errors
    /// Every [`ClusterError`] but `Running`.
    pub fn start(lock: &StateLock, options: &ClusterOptions) -> Result<Self, ClusterError> {
        let owner_of = options.as_owner.then(|| lock.dir());
        let account = Account::choose(owner_of, options.run_as.as_deref())?;
        let layout = Layout::of(lock.dir());
        account.check_reach(lock.dir())?;
        make_folder(&layout.folder, &account)?;
        if layout.socket != layout.folder {
            make_folder(&layout.socket, &account)?;
        }
        let binaries = Binaries::choose(options, init::version_of(&layout.data)?, &layout.data)?;
        init::ensure(&layout, &binaries, &account)?;
        orphans::clear(&layout.data)?;
        let log = layout.folder.join("start.log");
        let child = launch::spawn(&layout, &binaries, &account, options, &log)?;
        let mut cluster = Self { child, url: url_of(lock.dir()) };
        cluster.wait_until_ready(&layout, &log, &options.given_up)?;
        Ok(cluster)
    }

    /// How to reach it.
    #[must_use]
    pub const fn url(&self) -> &Secret {
        &self.url
    }

    /// The postmaster's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has: then start another one.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Stops it: connections are cut, everything committed is on disk. Waits for the end, 40 seconds at the most.
    pub fn stop(&mut self) {
        self.stop_within(STOP_LIMIT, STOP_LIMIT);
    }

    /// The same with limits of one's own. A server that keeps to neither is killed; the next start recovers.
    pub fn stop_within(&mut self, fast: Duration, immediate: Duration) {
        // Fast shutdown, then, if a checkpoint hangs, immediate: the next start recovers.
        for (signal, limit) in [(Signal::INT, fast), (Signal::QUIT, immediate)] {
            if self.exited().is_some() {
                return;
            }
            signal_process(self.child.id(), signal);
            if self.wait_for_exit(limit) {
                return;
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait_for_exit(&mut self, limit: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < limit {
            if self.exited().is_some() {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }

    fn wait_until_ready(&mut self, layout: &Layout, log: &Path, given_up: &AtomicBool) -> Result<(), ClusterError> {
        let began = Instant::now();
        while began.elapsed() < START_LIMIT {
            if let Some(status) = self.exited() {
                return Err(ClusterError::Start(format!("{status}; {}", tail(log))));
            }
            if orphans::is_ready(&layout.data, self.child.id()) {
                return Ok(());
            }
            if given_up.load(Ordering::Relaxed) {
                self.stop();
                return Err(ClusterError::GivenUp);
            }
            std::thread::sleep(POLL);
        }
        self.stop();
        Err(ClusterError::Start(format!("not ready after {} s; {}", START_LIMIT.as_secs(), tail(log))))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn signal_process(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Gone already is as good.
        let _ = kill_process(pid, signal);
    }
}

/// A folder of the account's own, mode 0700. In /tmp somebody else may have been first: then it is refused.
fn make_folder(path: &Path, account: &Account) -> Result<(), ClusterError> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
    let fail = |source| ClusterError::state(path, source);
    match fs::DirBuilder::new().mode(0o700).create(path) {
        // What we make is ours already, and a hardened service may not even say so (SystemCallFilter=~@privileged).
        Ok(()) if account.switches() => chown(path, Some(account.uid), Some(account.gid)).map_err(fail)?,
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail(error)),
    }
    let found = fs::symlink_metadata(path).map_err(fail)?;
    if !found.is_dir() || found.uid() != account.uid {
        let text = format!("is not a folder of user {:?}", account.name);
        return Err(fail(std::io::Error::new(std::io::ErrorKind::PermissionDenied, text)));
    }
    if found.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fail)?;
    }
    Ok(())
}

/// The last lines that it said, for an error message.
fn tail(log: &Path) -> String {
    let text = crate::settings::limited::read(log, 1 << 16).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("; ");
    if last.is_empty() { format!("see {}", log.display()) } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_long_paths_are_short() {
        let short = Layout::of(Path::new("/var/lib/lamplighter"));
        assert_eq!(short.socket, Path::new("/var/lib/lamplighter/postgres"));
        let long = PathBuf::from(format!("/srv/{}", "x".repeat(90)));
        let layout = Layout::of(&long);
        assert!(layout.socket.starts_with("/tmp"));
        assert!(layout.socket.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_LIMIT);
        // The longest that fits, to the byte.
        let exact =
            PathBuf::from(format!("/{}", "y".repeat(SOCKET_PATH_LIMIT - 1 - "/postgres/".len() - SOCKET_NAME.len())));
        let layout = Layout::of(&exact);
        assert_eq!(layout.socket.join(SOCKET_NAME).as_os_str().len(), SOCKET_PATH_LIMIT);
    }
}
