//! `lamplighter migrate`, `db url`, and the hidden subcommand of the embedded database.

use std::ffi::OsString;
use std::path::Path;

use super::{Environment, Exit, Stop, exit, load, load_leniently, small_runtime, state};
use crate::daemon::{cluster_stop, start_stop};
use crate::settings::model::Settings;
use crate::store::cluster::{self, Cluster, ClusterOptions, StateLock};
use crate::store::{Store, StoreSettings};

/// Brings the schema up to date, or prints the SQL.
pub(super) fn run(dry_run: bool, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let settings = load(config, environment)?;
    // The embedded database runs only while somebody runs it; beside a daemon the lock refuses, and there is nothing
    // to migrate: the daemon has done so.
    let _cluster = match &settings.database.url {
        Some(_) => None,
        None => Some(embedded(&settings, environment)?),
    };
    small_runtime()?.block_on(async {
        let store = store(&settings, environment)?;
        let text = if dry_run {
            store.migrate_dry_run().await.map_err(|error| start_stop(&error))?
        } else {
            let migrated = store.migrate().await.map_err(|error| start_stop(&error))?;
            let partitions = store.make_partitions_ahead().await;
            let partitions = partitions.map_err(|fault| Stop::new(Exit::Unavailable, fault.to_string()))?;
            match (migrated.applied, partitions) {
                (0, 0) => "the schema is up to date\n".to_owned(),
                (applied, made) => format!("{applied} migrations applied, {made} partitions made\n"),
            }
        };
        exit::say(&text);
        store.close().await;
        Ok(Exit::Ok)
    })
}

/// Starts the embedded database for a command.
pub(super) fn embedded(settings: &Settings, environment: &Environment) -> Result<Cluster, Stop> {
    let directory = state::directory(settings.daemon.state_directory.as_deref(), environment)?;
    let lock = StateLock::acquire(&directory).map_err(|error| cluster_stop(&error))?;
    let options = ClusterOptions {
        bin_dir: environment.path("PG_BINDIR"),
        path: environment.path("PATH").map(Into::into),
        run_as: Some(settings.database.cluster_user.clone()),
        ..ClusterOptions::default()
    };
    Cluster::start(&lock, &options).map_err(|error| cluster_stop(&error))
}

/// The store of a command.
pub(super) fn store(settings: &Settings, environment: &Environment) -> Result<Store, Stop> {
    let url = match &settings.database.url {
        Some(url) => url.clone(),
        None => cluster::url_of(&state::directory(settings.daemon.state_directory.as_deref(), environment)?),
    };
    Store::new(&StoreSettings {
        url,
        max_connections: 2,
        schema: settings.database.schema.clone(),
        region: settings.daemon.region.to_string(),
    })
    .map_err(|error| start_stop(&error))
}

/// Prints how to reach the embedded database.
pub(super) fn db_url(config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let settings = load_leniently(config, environment)?;
    if settings.database.url.is_some() {
        let text = "database.url is set: this daemon uses that database and has no embedded one";
        return Err(Stop::new(Exit::Failure, text));
    }
    let directory = state::directory(settings.daemon.state_directory.as_deref(), environment)?;
    let url = cluster::url_of(&directory);
    let schema = settings.database.schema.as_str();
    // So that psql finds the tables.
    let path = if schema == "public" { String::new() } else { format!("&options=-csearch_path%3D{schema}") };
    exit::say(&format!("{}{path}\n", url.expose()));
    Ok(Exit::Ok)
}

/// Becomes Postgres; returns only with the reason why not.
pub(super) fn exec_postgres(arguments: &[OsString]) -> Stop {
    Stop::new(Exit::Unavailable, cluster::exec_postgres(arguments.iter().cloned()))
}
