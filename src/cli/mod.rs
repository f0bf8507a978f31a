//! The command line (contract, section 1).

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

mod backup;
mod check_config;
mod doctor;
pub mod environment;
mod exit;
mod export;
mod interrupt;
mod legacy;
mod manual;
mod migrate;
mod output;
mod passed;
mod probe;
pub mod progress;
mod reload;
mod state;
mod status;
mod support;
mod token;
mod uptime;

pub use environment::Environment;
pub use exit::{Exit, Stop};

pub(crate) use exit::say;
pub(crate) use passed::Passed;
pub(crate) use state::{admin_socket, directory as state_directory};

use crate::settings::file::{self, Presence};
use crate::settings::model::{self, Settings};

/// Watches whether your services work, and remembers.
#[derive(Debug, Parser)]
#[command(name = "lamplighter", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// The configuration file [default: $LAMPLIGHTER_CONFIG, else /etc/lamplighter/config.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run,
    /// Validate a configuration and report every error in it
    CheckConfig {
        /// The file [default: the one that `run` would use]
        file: Option<PathBuf>,
        /// Also print what a reload would add, change, rename and archive, and ask the database for that
        #[arg(long)]
        plan: bool,
        /// With --plan: print one JSON object
        #[arg(long, requires = "plan")]
        json: bool,
    },
    /// Check one URL, or monitors of a file, once
    Probe(probe::ProbeArgs),
    /// Ask the running daemon to reload its configuration
    Reload {
        /// Apply also what archives more than half of the monitors
        #[arg(long)]
        force: bool,
    },
    /// Bring the database's schema up to date
    Migrate {
        #[command(subcommand)]
        what: Option<MigrateWhat>,
        /// Print the SQL and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what the running daemon sees
    Status(status::StatusArgs),
    /// Show which share of the time a monitor was up
    Uptime(uptime::UptimeArgs),
    /// Say what is wrong with this installation, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Put what who helps must know into one file, without secrets
    SupportBundle(support::SupportArgs),
    /// The database
    Db {
        #[command(subcommand)]
        what: DbWhat,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print another program's configuration as ours (not built yet)
    Import(Later),
    /// Print monitors, maintenance and objectives as configuration; or checks or incidents as CSV or NDJSON
    Export(export::ExportArgs),
    /// API tokens
    Token {
        #[command(subcommand)]
        what: token::TokenCommand,
    },
    /// Runs the embedded database's server, bound to the life of its parent
    #[command(name = "__postgres", hide = true)]
    Postgres {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Writes the manual pages, for packages
    #[command(name = "__manual", hide = true)]
    Manual {
        /// Where to
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum MigrateWhat {
    /// Upgrade a database with integer keys; a run that was ended goes on with the next
    Legacy(legacy::LegacyArgs),
}

#[derive(Debug, Subcommand)]
enum DbWhat {
    /// Print how to reach the database; that of database.url without its password
    Url,
    /// Back up the whole store into a file, also while the daemon runs
    Dump {
        /// The file; it appears when it is complete
        file: PathBuf,
    },
    /// Restore a backup into an empty database, and compare the two
    Restore {
        /// The file, as `db dump` made it
        file: PathBuf,
        /// Where there is a store already: rename its schema, and restore beside it
        #[arg(long)]
        force: bool,
    },
    /// Read a backup to its end and say whether it is whole and unchanged
    Verify {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<std::ffi::OsString>,
}

/// Runs the command line; the caller ends the process with the code.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>, environment: &Environment) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing can only fail when nobody reads.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    match execute(cli, environment) {
        Ok(exit) => exit,
        Err(stop) => {
            exit::complain(&stop);
            stop.exit
        }
    }
}

fn execute(cli: Cli, environment: &Environment) -> Result<Exit, Stop> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Run => crate::daemon::run(config, environment),
        Command::CheckConfig { file, plan, json } => {
            let what = match (plan, json) {
                (false, _) => check_config::What::Check,
                (true, false) => check_config::What::Plan,
                (true, true) => check_config::What::PlanAsJson,
            };
            check_config::run(file.as_deref().or(config), what, environment)
        }
        Command::Probe(arguments) => probe::run(&arguments, config, environment),
        Command::Reload { force } => reload::run(force, config, environment),
        Command::Migrate { what: Some(MigrateWhat::Legacy(mut arguments)), dry_run } => {
            arguments.dry_run |= dry_run;
            legacy::run(&arguments, config, environment)
        }
        Command::Migrate { what: None, dry_run } => migrate::run(dry_run, config, environment),
        Command::Status(arguments) => status::run(&arguments, config, environment),
        Command::Uptime(arguments) => uptime::run(&arguments, config, environment),
        Command::Doctor(arguments) => doctor::run(&arguments, config, environment),
        Command::SupportBundle(arguments) => support::run(&arguments, config, environment),
        Command::Db { what: DbWhat::Url } => migrate::db_url(config, environment),
        Command::Db { what: DbWhat::Dump { file } } => backup::dump(&file, config, environment),
        Command::Db { what: DbWhat::Restore { file, force } } => backup::restore(&file, force, config, environment),
        Command::Db { what: DbWhat::Verify { file } } => backup::verify(&file),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lamplighter", &mut script);
            exit::say(&String::from_utf8_lossy(&script));
            Ok(Exit::Ok)
        }
        Command::Import(_) => Err(not_built_yet("import")),
        Command::Export(arguments) => export::run(&arguments, config, environment),
        Command::Token { what } => token::run(&what, config, environment),
        Command::Manual { folder } => manual::run(&folder),
        Command::Postgres { arguments } => Err(migrate::exec_postgres(&arguments)),
    }
}

/// Hands the environment to the settings, in the form they take it.
pub(crate) fn with_environment<T>(environment: &Environment, read: impl FnOnce(model::Environment<'_>) -> T) -> T {
    let credentials = environment.path("CREDENTIALS_DIRECTORY");
    let variable = |name: &str| environment.raw(name);
    read(model::Environment { variable: &variable, credentials: credentials.as_deref() })
}

/// The configuration file that a command uses.
pub(crate) fn locate(config: Option<&Path>, environment: &Environment) -> (PathBuf, Presence) {
    with_environment(environment, |environment| file::locate(config, environment))
}

/// The configuration of a command; bad is exit code 78 with every finding.
fn load(config: Option<&Path>, environment: &Environment) -> Result<Settings, Stop> {
    let (path, presence) = locate(config, environment);
    let sources = file::read(&path, presence);
    with_environment(environment, |environment| sources.settings(environment))
        .map_err(|refusal| Stop::new(Exit::Config, refusal.to_string()))
}

/// What can be read of the configuration, whatever is wrong with the rest: for commands that need little of it.
fn load_leniently(config: Option<&Path>, environment: &Environment) -> Result<Settings, Stop> {
    let (path, presence) = locate(config, environment);
    let sources = file::read(&path, presence);
    if presence == Presence::Required && !sources.found {
        let why = sources.problems.first().map(ToString::to_string);
        return Err(Stop::new(Exit::Config, why.unwrap_or_else(|| format!("{}: no such file", path.display()))));
    }
    Ok(with_environment(environment, |environment| sources.settings_leniently(environment)))
}

/// The state directory of the daemon that a command talks to. The configuration may be bad by now, and the daemon runs
/// on: then what can still be read of it counts.
fn configured_state_directory(config: Option<&Path>, environment: &Environment) -> Result<PathBuf, Stop> {
    let settings = load_leniently(config, environment)?;
    state::directory(settings.daemon.state_directory.as_deref(), environment)
}

/// The same when the file itself cannot be read: what is left of the configuration says it, or the default does.
fn remaining_state_directory(config: Option<&Path>, environment: &Environment) -> Result<PathBuf, Stop> {
    let (path, presence) = locate(config, environment);
    let sources = file::read(&path, presence);
    let settings = with_environment(environment, |environment| sources.settings_leniently(environment));
    state::directory(settings.daemon.state_directory.as_deref(), environment)
}

/// `1 monitor`, `2 monitors`.
pub(crate) fn counted(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

fn not_built_yet(what: &str) -> Stop {
    Stop::new(Exit::Unavailable, format!("{what}: not built yet in this version"))
}

/// A runtime for commands that talk to one thing at a time.
fn small_runtime() -> Result<tokio::runtime::Runtime, Stop> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::new(Exit::Failure, format!("cannot start: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
