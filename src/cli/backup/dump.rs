//! `lamplighter db dump FILE`: pg_dump and our own sums see one snapshot.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;

use super::archive::{self, Manifest, TableSum};
use super::{MB, block_on, child, shown, tool_options};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::{Environment, Exit, Stop, exit, load, migrate};
use crate::daemon::start_stop;
use crate::settings::model::Settings;
use crate::store::Found;
use crate::store::backup::{Snapshot, Table};
use crate::store::cluster::Tools;

pub(in crate::cli) fn run(path: &Path, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let settings = load(config, environment)?;
    let _cluster = migrate::running_or_started(&settings, environment)?;
    block_on(dump(path, &settings, environment))
}

async fn dump(path: &Path, settings: &Settings, environment: &Environment) -> Result<Exit, Stop> {
    let store = migrate::store(settings, environment)?;
    match store.classify().await.map_err(|error| start_stop(&error))? {
        // A backup before the schema is brought up to date is one of those that matter.
        Found::Ours { .. } => {}
        found => {
            let nothing = || Stop::new(Exit::Config, format!("there is nothing to back up: {found}"));
            return Err(found.as_error().map_or_else(nothing, |error| start_stop(&error)));
        }
    }
    let away = |fault: crate::model::StoreFault| Stop::new(Exit::Unavailable, fault.to_string());
    let mut snapshot = store.snapshot().await.map_err(away)?;
    let tools = Tools::find(&tool_options(settings, environment), snapshot.major);
    let tools = tools.map_err(|error| Stop::new(Exit::Unavailable, error.to_string()))?;
    let mut output = Output::begin(path, 0o600)?;
    let mut command = tools.dump(&migrate::url(settings, environment)?);
    command.arg("--format=custom").arg("--compress=1").arg("--verbose").arg("--lock-wait-timeout=30s");
    command.arg(format!("--snapshot={}", snapshot.id)).arg("--file").arg(output.draft());
    for schema in &snapshot.schemas {
        command.arg(format!("--schema={}", pattern(schema)));
    }
    let shown_work = Work::new(&snapshot.tables);
    let tables = snapshot.tables.clone();
    let dumping = child::run(command, "pg_dump", |line| shown_work.heard(line));
    let (sums, ()) = tokio::try_join!(sums(&mut snapshot, &tables, &shown_work), dumping)?;
    drop(shown_work);
    let manifest = manifest(&snapshot, &tools, settings, sums);
    snapshot.close().await;
    store.close().await;
    let size = archive::seal(&mut output, &manifest, path).await?;
    output.finish()?;
    exit::say(&format!("{}: {} MB: {}\n", shown(path), size.div_ceil(MB), manifest.summary()));
    Ok(Exit::Ok)
}

async fn sums(snapshot: &mut Snapshot, tables: &[Table], work: &Work) -> Result<Vec<TableSum>, Stop> {
    let mut sums = Vec::with_capacity(tables.len());
    for table in tables {
        let sum = snapshot.sum(table).await;
        let sum =
            sum.map_err(|fault| Stop::new(Exit::Unavailable, format!("{}.{}: {fault}", table.schema, table.name)))?;
        work.add(table.bytes);
        let (schema, name) = (table.schema.clone(), table.name.clone());
        sums.push(TableSum { schema, name, rows: sum.rows, sum: sum.sum });
    }
    Ok(sums)
}

fn manifest(snapshot: &Snapshot, tools: &Tools, settings: &Settings, tables: Vec<TableSum>) -> Manifest {
    Manifest {
        format: 1,
        lamplighter: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at: snapshot.at,
        server: snapshot.server.clone(),
        pg_dump: tools.major,
        schema: settings.database.schema.clone(),
        schemas: snapshot.schemas.clone(),
        migrations: snapshot.migrations.clone(),
        tables,
    }
}

/// A name as a pattern of psql's that fits nothing else.
fn pattern(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Each table is read twice: by pg_dump, and for its sum.
struct Work {
    progress: RefCell<Progress>,
    done: Cell<u64>,
    sizes: HashMap<String, u64>,
    /// What pg_dump is at.
    at: Cell<u64>,
}

impl Work {
    fn new(tables: &[Table]) -> Self {
        let total: u64 = tables.iter().map(|table| table.bytes).sum();
        let sizes = tables.iter().map(|table| (format!("{}.{}", table.schema, table.name), table.bytes)).collect();
        let progress = RefCell::new(Progress::new("backing up", 2 * total / MB, "MB"));
        Self { progress, done: Cell::new(0), sizes, at: Cell::new(0) }
    }

    fn add(&self, bytes: u64) {
        self.done.set(self.done.get() + bytes);
        self.progress.borrow_mut().at(self.done.get() / MB);
    }

    /// `pg_dump: dumping contents of table "public.monitors"`.
    fn heard(&self, line: &str) {
        let Some(name) = line.split_once("dumping contents of table ").map(|(_, name)| name) else { return };
        let size = self.sizes.get(name.trim_matches('"')).copied().unwrap_or(0);
        self.add(self.at.replace(size));
    }
}
