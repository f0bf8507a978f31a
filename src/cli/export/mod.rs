//! `lamplighter export`: monitors, maintenance and objectives as configuration; checks and incidents as CSV or NDJSON.

use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};

use super::{Environment, Exit, Stop};

mod beside;
mod configuration;
mod ids;
mod moment;
mod rows;
mod secrets;
mod toml;

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ExportArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// Of the configuration: how it is written
    #[arg(long, value_enum, default_value_t = ConfigurationFormat::Toml)]
    format: ConfigurationFormat,
    /// Of the configuration: only what is of this source [default: all that is not archived]
    #[arg(long, value_enum)]
    source: Option<SourceName>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print checks, oldest first
    Checks(rows::RowsArgs),
    /// Print incidents, oldest first
    Incidents(rows::RowsArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ConfigurationFormat {
    /// `[[monitor]]`, `[[maintenance]]` and `[[slo]]` tables that `check-config` accepts
    Toml,
    /// The same keys as one JSON object
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SourceName {
    File,
    Database,
    Api,
}

pub(super) fn run(arguments: &ExportArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    use crate::access::export::Subject;
    match &arguments.what {
        Some(What::Checks(rows)) => rows::run(Subject::Checks, rows, config, environment),
        Some(What::Incidents(rows)) => rows::run(Subject::Incidents, rows, config, environment),
        None => configuration::run(arguments, config, environment),
    }
}
