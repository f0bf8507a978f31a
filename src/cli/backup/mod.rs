//! `lamplighter db dump`, `db restore` and `db verify`.

use std::path::Path;

use super::output::interrupted;
use super::{Environment, Stop, small_runtime};
use crate::settings::model::Settings;
use crate::store::cluster::ClusterOptions;

mod archive;
mod child;
mod dump;
mod restore;

pub(super) use archive::verify;
pub(super) use dump::run as dump;
pub(super) use restore::run as restore;

/// Bytes of a megabyte, which is what long work is shown in.
const MB: u64 = 1_000_000;

/// Where the programs of PostgreSQL are looked for.
fn tool_options(settings: &Settings, environment: &Environment) -> ClusterOptions {
    ClusterOptions {
        bin_dir: environment.path("PG_BINDIR"),
        path: environment.path("PATH").map(Into::into),
        run_as: Some(settings.database.cluster_user.clone()),
        ..ClusterOptions::default()
    }
}

/// Runs work that a signal ends in order: files that are half done are removed, programs that were started are ended.
fn block_on<T>(work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    small_runtime()?.block_on(async {
        tokio::select! {
            done = work => done,
            stop = interrupted() => Err(stop),
        }
    })
}

/// A path as it is shown.
fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}
