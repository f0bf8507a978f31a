//! How the server is started: by ourselves, see [`super::exec`], with settings that a file of the cluster cannot change.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::account::Account;
use super::{Binaries, ClusterError, ClusterOptions, Layout, SUBCOMMAND};

/// Beside what PostgreSQL has by default.
const SETTINGS: [&str; 15] = [
    "listen_addresses=",
    "port=5432",
    "unix_socket_permissions=0700",
    "jit=off",
    // One call for the file system instead of one for each of a thousand files: 0.3 s after a crash, not 4.
    "recovery_init_sync_method=syncfs",
    "max_connections=50",
    "shared_buffers=32MB",
    // After each checkpoint every page is logged once as a whole: of a small system that is much of the log. So fewer of
    // them; `max_wal_size` bounds what is left to do after a crash.
    "wal_compression=on",
    "checkpoint_timeout=30min",
    "timezone=UTC",
    // Seven files, each overwritten after a week: the log is bounded.
    "logging_collector=on",
    "log_directory=log",
    "log_filename=postgresql-%a.log",
    "log_rotation_age=1d",
    "log_truncate_on_rotation=on",
];

/// Starts it; what it says before it has a log of its own goes to `log`.
pub(super) fn spawn(
    layout: &Layout,
    binaries: &Binaries,
    account: &Account,
    options: &ClusterOptions,
    log: &Path,
) -> Result<Child, ClusterError> {
    // By descriptor, because the user that runs Postgres may not be able to walk to our own binary.
    let launcher = File::open(&options.launcher).map_err(|e| ClusterError::state(&options.launcher, e))?;
    let stderr = account.new_file(log).map_err(|e| ClusterError::state(log, e))?;
    let mut command = Command::new(format!("/proc/self/fd/{}", launcher.as_raw_fd()));
    command.arg(SUBCOMMAND).arg(std::process::id().to_string()).arg(binaries.postgres());
    command.arg("-D").arg(&layout.data);
    for setting in SETTINGS {
        command.arg("-c").arg(setting);
    }
    let mut sockets = OsString::from("unix_socket_directories=");
    // A list with quotes: a comma or space in the path must not end it.
    sockets.push(format!("\"{}\"", layout.socket.display().to_string().replace('"', "\"\"")));
    command.arg("-c").arg(sockets);
    account.apply(&mut command);
    // Not of our group: Ctrl-C in a terminal stops us first, and us it.
    command.process_group(0).current_dir(&layout.folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    command.spawn().map_err(|error| ClusterError::Start(format!("{}: {error}", options.launcher.display())))
}
