//! `lamplighter db restore FILE`: all of it or nothing, and what came of it is compared with the manifest.

use std::path::Path;

use super::archive::{self, Manifest, TableSum};
use super::{MB, block_on, child, shown, tool_options};
use crate::cli::output::interrupted;
use crate::cli::progress::Progress;
use crate::cli::{Environment, Exit, Stop, counted, exit, load, migrate, small_runtime};
use crate::clock::{SystemWall, Wall as _};
use crate::daemon::start_stop;
use crate::model::StoreFault;
use crate::settings::model::Settings;
use crate::store::Store;
use crate::store::backup::{Moved, RestoreError, Table, newest_migration};
use crate::store::cluster::Tools;

pub(in crate::cli) fn run(
    path: &Path,
    force: bool,
    config: Option<&Path>,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let settings = load(config, environment)?;
    // Before anything is touched or started.
    let manifest = block_on(archive::read(path))?;
    check(&manifest, &settings, path)?;
    let tools = Tools::find(&tool_options(&settings, environment), manifest.pg_dump);
    let tools = tools.map_err(|error| Stop::new(Exit::Unavailable, error.to_string()))?;
    // A private cluster is started for the time; beside its daemon the lock refuses.
    let _cluster = match &settings.database.url {
        Some(_) => None,
        None => Some(migrate::embedded(&settings, environment)?),
    };
    small_runtime()?.block_on(restore(path, &manifest, &tools, force, &settings, environment))
}

fn check(manifest: &Manifest, settings: &Settings, path: &Path) -> Result<(), Stop> {
    let refuse = |text: String| Err(Stop::new(Exit::Config, format!("{}: {text}", shown(path))));
    let (newest, known) = (manifest.migrations.iter().max().copied().unwrap_or(0), newest_migration());
    if newest > known {
        let made = &manifest.lamplighter;
        return refuse(format!(
            "is of a newer Lamplighter ({made}, migration {newest}; this one knows {known}): restore it with that version or newer"
        ));
    }
    if manifest.schema != settings.database.schema {
        let (theirs, ours) = (&manifest.schema, &settings.database.schema);
        return refuse(format!("was made of schema {theirs:?}: set database.schema = {theirs:?} (it is {ours:?})"));
    }
    Ok(())
}

async fn restore(
    path: &Path,
    manifest: &Manifest,
    tools: &Tools,
    force: bool,
    settings: &Settings,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let store = migrate::store(settings, environment)?;
    let suffix = format!("before_{}", SystemWall.now().format("%Y%m%d_%H%M%S"));
    let moved = store.make_room(&manifest.schemas, force, &suffix).await.map_err(stop)?;
    let mut command = tools.restore(&migrate::url(settings, environment)?);
    command.args(["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", "--verbose"]);
    // The schemas are there; with these it makes what is in them and not the schemas.
    for schema in &manifest.schemas {
        command.arg(format!("--schema={schema}"));
    }
    command.arg(path);
    let loaded = tokio::select! {
        loaded = load_archive(command, manifest) => loaded,
        stop = interrupted() => Err(stop),
    };
    if let Err(stop) = loaded {
        return Err(taken_back(&store, &moved, stop).await);
    }
    for Moved { now, .. } in &moved {
        let text =
            format!("what was there is now in schema {now:?}; when you do not need it: DROP SCHEMA {now:?} CASCADE");
        exit::complain_plainly(&text);
    }
    let migrations = tokio::select! {
        done = complete(&store, manifest) => done?,
        _ = interrupted() => {
            let text = "interrupted: it is restored, and was not compared with the backup to the end";
            return Err(Stop::new(Exit::Failure, text));
        }
    };
    store.close().await;
    let more = match migrations {
        0 => String::new(),
        applied => format!("; {} applied", counted(applied, "migration")),
    };
    exit::say(&format!("restored, and equal to the backup: {}{more}\n", manifest.summary()));
    if settings.database.url.is_some() {
        exit::complain_plainly("owners and rights of other roles are not restored: GRANT them anew");
    }
    Ok(Exit::Ok)
}

/// Nothing was restored: what was moved aside comes back.
async fn taken_back(store: &Store, moved: &[Moved], stop: Stop) -> Stop {
    let Err(fault) = store.take_back(moved).await else { return stop };
    let names: Vec<String> = moved.iter().map(|one| format!("{:?} is now called {:?}", one.schema, one.now)).collect();
    if names.is_empty() {
        return stop;
    }
    Stop::new(
        stop.exit,
        format!("{}; schema {}, and could not be renamed back: {fault}", stop.message, names.join(", ")),
    )
}

/// Compares, and makes what was restored ready for use. Says how many migrations were applied.
async fn complete(store: &Store, manifest: &Manifest) -> Result<usize, Stop> {
    let tables = verify(store, manifest).await?;
    let away = |fault: StoreFault| {
        Stop::new(Exit::Unavailable, format!("it is restored and equal to the backup, but {fault}"))
    };
    store.analyze(&tables).await.map_err(away)?;
    let migrated = store.migrate().await.map_err(|error| start_stop(&error))?;
    store.make_partitions_ahead().await.map_err(away)?;
    Ok(migrated.applied)
}

async fn load_archive(command: std::process::Command, manifest: &Manifest) -> Result<(), Stop> {
    let mut progress = Progress::new("restoring", manifest.tables.len() as u64, "tables");
    let mut begun = 0_u64;
    let restored = child::run(command, "pg_restore", |line| {
        // `pg_restore: processing data for table "public.monitors"`
        if line.contains("processing data for table ") {
            progress.at(begun);
            begun += 1;
        }
    });
    restored.await.map_err(|stop| Stop::new(stop.exit, format!("nothing was restored: {}", stop.message)))
}

/// Compares every table with the manifest. Returns the tables.
async fn verify(store: &Store, manifest: &Manifest) -> Result<Vec<Table>, Stop> {
    let mut progress = Progress::new("comparing with the backup", 0, "MB");
    let mut bytes = 0;
    let sums = store.sums(&manifest.schemas, |table| {
        bytes += table.bytes;
        progress.at(bytes / MB);
    });
    let sums = sums.await.map_err(|fault| {
        Stop::new(Exit::Unavailable, format!("it is restored and could not be compared with the backup: {fault}"))
    })?;
    drop(progress);
    let (tables, found): (Vec<Table>, Vec<TableSum>) = sums
        .into_iter()
        .map(|(table, sum)| {
            let (schema, name) = (table.schema.clone(), table.name.clone());
            (table, TableSum { schema, name, rows: sum.rows, sum: sum.sum })
        })
        .unzip();
    let differing = differences(&manifest.tables, &found);
    if differing.is_empty() {
        return Ok(tables);
    }
    let text = format!("it is restored, and NOT equal to the backup; do not use it: {}", differing.join("; "));
    Err(Stop::new(Exit::Failure, text))
}

/// What a person needs to know of each table that is not as it was.
fn differences(before: &[TableSum], now: &[TableSum]) -> Vec<String> {
    let find = |list: &[TableSum], table: &TableSum| {
        list.iter().find(|other| other.schema == table.schema && other.name == table.name).cloned()
    };
    let missing = before.iter().filter_map(|table| {
        let name = format!("{}.{}", table.schema, table.name);
        match find(now, table) {
            None => Some(format!("{name} is missing")),
            Some(found) if found.rows != table.rows => {
                Some(format!("{name} has {} rows, not {}", found.rows, table.rows))
            }
            Some(found) if found.sum != table.sum => Some(format!("{name} has other rows")),
            Some(_) => None,
        }
    });
    let more = now.iter().filter(|table| find(before, table).is_none());
    missing.chain(more.map(|table| format!("{}.{} is new", table.schema, table.name))).collect()
}

fn stop(error: RestoreError) -> Stop {
    match error {
        RestoreError::Start(error) => start_stop(&error),
        RestoreError::Store(StoreFault::Away(_)) => Stop::new(Exit::Unavailable, error.to_string()),
        other => Stop::new(Exit::Failure, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_told() {
        let table = |name: &str, rows, sum: &str| TableSum {
            schema: "s".to_owned(),
            name: name.to_owned(),
            rows,
            sum: sum.to_owned(),
        };
        let before = [table("a", 1, "1"), table("b", 2, "2"), table("c", 3, "3"), table("d", 4, "4")];
        assert_eq!(differences(&before, &before), Vec::<String>::new());
        let now = [table("a", 1, "1"), table("b", 1, "2"), table("c", 3, "x"), table("e", 0, "0")];
        let told = ["s.b has 1 rows, not 2", "s.c has other rows", "s.d is missing", "s.e is new"];
        assert_eq!(differences(&before, &now), told);
    }
}
