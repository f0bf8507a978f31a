//! The thin binary: everything is in the library.

use std::io::Write as _;
use std::process::ExitCode;

use lamplighter::store::cluster;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == cluster::SUBCOMMAND) {
        // The private database's process: it must become Postgres before anything else is begun.
        let why = cluster::exec_postgres(args);
        // To the file that `Cluster::start` quotes from; when that is gone as well, nobody is there to tell.
        let _ = writeln!(std::io::stderr(), "{why}");
        return ExitCode::from(69);
    }
    ExitCode::SUCCESS
}
