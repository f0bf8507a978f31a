//! `lamplighter migrate`, `db url`, and the hidden subcommand of the embedded database.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::progress::Progress;
use super::{Environment, Exit, Stop, counted, exit, load, load_leniently, small_runtime, state};
use crate::daemon::{cluster_stop, start_stop};
use crate::model::Secret;
use crate::settings::model::Settings;
use crate::store::cluster::{self, Cluster, ClusterOptions, StateLock};
use crate::store::{Found, Migrated, StartError, Store, StoreSettings};

/// Between two looks at how far an adoption is.
const LOOK: Duration = Duration::from_millis(500);

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
            let migrated = Box::pin(shown(&store)).await.map_err(|error| start_stop(&error))?;
            let partitions = store.make_partitions_ahead().await;
            let partitions = partitions.map_err(|fault| Stop::new(Exit::Unavailable, fault.to_string()))?;
            match (migrated.applied, partitions) {
                (0, 0) => "the schema is up to date\n".to_owned(),
                (applied, made) => format!(
                    "{} applied, {} made\n",
                    counted(applied, "migration"),
                    counted(usize::try_from(made).unwrap_or(0), "partition")
                ),
            }
        };
        exit::say(&text);
        store.close().await;
        Ok(Exit::Ok)
    })
}

/// Migrates; how far an adoption is, which is one transaction, is told by a question beside it.
async fn shown(store: &Store) -> Result<Migrated, StartError> {
    let mut progress = None;
    let mut tick = tokio::time::interval(LOOK);
    let migrating = store.migrate();
    tokio::pin!(migrating);
    loop {
        tokio::select! {
            done = &mut migrating => return done,
            _ = tick.tick() => {
                if let Ok(Some(told)) = store.adopting().await
                    && told.moved > 0
                {
                    let what = "moving checks into partitions";
                    let progress = progress.get_or_insert_with(|| Progress::new(what, told.about, "rows"));
                    progress.set_total(told.about);
                    progress.at(told.moved);
                }
            }
        }
    }
}

/// Starts the embedded database for a command.
pub(super) fn embedded(settings: &Settings, environment: &Environment) -> Result<Cluster, Stop> {
    let directory = state::directory(settings.daemon.state_directory.as_deref(), environment)?;
    let lock = StateLock::acquire(&directory).map_err(|error| cluster_stop(&error))?;
    let options = ClusterOptions {
        bin_dir: environment.path("PG_BINDIR"),
        path: environment.path("PATH").map(Into::into),
        run_as: Some(settings.database.cluster_user.clone()),
        as_owner: true,
        ..ClusterOptions::default()
    };
    Cluster::start(&lock, &options).map_err(|error| cluster_stop(&error))
}

/// The embedded database, started for this command unless a daemon runs it.
pub(super) fn running_or_started(settings: &Settings, environment: &Environment) -> Result<Option<Cluster>, Stop> {
    if settings.database.url.is_some() {
        return Ok(None);
    }
    let directory = state::directory(settings.daemon.state_directory.as_deref(), environment)?;
    if !directory.join("postgres").exists() {
        let text = format!("{}: there is no database yet; start the daemon once", directory.display());
        return Err(Stop::new(Exit::Unavailable, text));
    }
    match StateLock::acquire(&directory) {
        Ok(lock) => {
            drop(lock);
            embedded(settings, environment).map(Some)
        }
        Err(cluster::ClusterError::Running { .. }) => Ok(None),
        Err(error) => Err(cluster_stop(&error)),
    }
}

/// The store of a command.
pub(super) fn store(settings: &Settings, environment: &Environment) -> Result<Store, Stop> {
    store_at(url(settings, environment)?, settings).map_err(|error| start_stop(&error))
}

/// A store of few connections.
pub(super) fn store_at(url: Secret, settings: &Settings) -> Result<Store, StartError> {
    Store::new(&StoreSettings {
        url,
        max_connections: 2,
        schema: settings.database.schema.clone(),
        region: settings.daemon.region.to_string(),
    })
}

/// Where the database of a command is.
pub(super) fn url(settings: &Settings, environment: &Environment) -> Result<Secret, Stop> {
    match &settings.database.url {
        Some(url) => Ok(url.clone()),
        None => Ok(cluster::url_of(&state::directory(settings.daemon.state_directory.as_deref(), environment)?)),
    }
}

/// The store of a command that reads what is there: its schema is ours and up to date. A private cluster is reached while
/// its daemon runs it.
pub(super) async fn readable(settings: &Settings, environment: &Environment) -> Result<Store, Stop> {
    let store = store(settings, environment)?;
    let found = store.classify().await.map_err(|error| {
        let stop = start_stop(&error);
        if settings.database.url.is_some() || stop.exit != Exit::Unavailable {
            return stop;
        }
        let way_out = "the embedded database runs only while the daemon does: start it with `lamplighter run`";
        Stop::new(Exit::Unavailable, format!("{}; {way_out}", stop.message))
    })?;
    match found {
        Found::Ours { pending: 0 } => Ok(store),
        other => {
            let error = other.as_error().map(|error| start_stop(&error));
            let behind = || Stop::new(Exit::Config, format!("{other}: run `lamplighter migrate` first"));
            Err(error.unwrap_or_else(behind))
        }
    }
}

/// Prints how to reach the database, for `psql`. A configured URL comes without its password: the output ends up in
/// histories and logs, and psql has .pgpass and PGPASSWORD for it.
pub(super) fn db_url(config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let settings = load_leniently(config, environment)?;
    // One that is there and cannot be read, such as a credential of the service, must not pass for none.
    if settings.database.url.is_none()
        && let Err(refused) = load(config, environment)
        && refused.message.contains("database.url")
    {
        return Err(refused);
    }
    let mut url = if let Some(url) = &settings.database.url {
        let Some((url, hidden)) = without_password(url.expose()) else {
            return Err(Stop::new(Exit::Config, "database.url cannot be read as a postgres:// URL"));
        };
        let more = if hidden { ", shown without its password" } else { "" };
        exit::complain_plainly(&format!("database.url is set: this is that database, not an embedded one{more}"));
        url
    } else {
        let directory = state::directory(settings.daemon.state_directory.as_deref(), environment)?;
        cluster::url_of(&directory).expose().to_owned()
    };
    let schema = settings.database.schema.as_str();
    // So that psql finds the tables.
    if schema != "public" && !url.contains("search_path") {
        url.push(if url.contains('?') { '&' } else { '?' });
        let _ = write!(url, "options=-csearch_path%3D{schema}");
    }
    exit::say(&format!("{url}\n"));
    Ok(Exit::Ok)
}

/// A database URL without what must not be shown, and whether there was any.
fn without_password(text: &str) -> Option<(String, bool)> {
    let mut url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "postgres" | "postgresql"))?;
    let had = url.password().is_some();
    if had {
        url.set_password(None).ok()?;
    }
    let is_secret = |pair: &&str| pair.split('=').next().is_some_and(|key| matches!(key, "password" | "sslpassword"));
    let pairs: Vec<&str> = url.query().unwrap_or_default().split('&').collect();
    let kept: Vec<&str> = pairs.iter().copied().filter(|pair| !is_secret(pair)).collect();
    let hidden = had || kept.len() < pairs.len();
    let kept = kept.join("&");
    url.set_query((!kept.is_empty()).then_some(&kept));
    Some((url.into(), hidden))
}

/// Becomes Postgres; returns only with the reason why not.
pub(super) fn exec_postgres(arguments: &[OsString]) -> Stop {
    Stop::new(Exit::Unavailable, cluster::exec_postgres(arguments.iter().cloned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_shown_without_its_password() {
        for (text, shown) in [
            ("postgres://u:geheim@db.example:5433/x", Some(("postgres://u@db.example:5433/x", true))),
            ("postgres://u@db.example/x?sslmode=require", Some(("postgres://u@db.example/x?sslmode=require", false))),
            (
                "postgresql://db/x?password=geheim&sslmode=require&sslpassword=geheim",
                Some(("postgresql://db/x?sslmode=require", true)),
            ),
            ("postgres:///x?host=/run/pg", Some(("postgres:///x?host=/run/pg", false))),
            ("host=db password=geheim", None),
            ("mysql://u:geheim@db/x", None),
        ] {
            assert_eq!(without_password(text), shown.map(|(url, hidden)| (url.to_owned(), hidden)), "{text}");
        }
    }
}
