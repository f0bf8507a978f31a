//! The hidden subcommand: from here on this process is Postgres.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Asks for SIGINT (a fast shutdown) when the daemon dies, and becomes Postgres. `args`: what follows the subcommand, that
/// is the daemon's pid, the program and its arguments. Returns only with the reason why it could not; exit with 69 then.
pub fn exec_postgres(args: impl IntoIterator<Item = OsString>) -> String {
    let mut args = args.into_iter();
    let (Some(parent), Some(program)) = (args.next(), args.next()) else {
        return "this subcommand is for lamplighter itself".to_owned();
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::INT)) {
        return format!("the parent-death signal cannot be set: {error}");
    }
    // Who died before the line above will not be noticed by it.
    let alive = getppid().is_some_and(|pid| parent.to_str() == Some(&pid.as_raw_nonzero().to_string()));
    if !alive {
        return "the daemon that asked for this database is gone".to_owned();
    }
    let error = Command::new(&program).args(args).exec();
    format!("{}: {error}", program.display())
}
