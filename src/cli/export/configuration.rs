//! `lamplighter export`: every monitor as `[[monitor]]`, with `[[maintenance]]` and `[[slo]]`, such that `check-config` accepts
//! it and the same is watched.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value};

use super::beside::{self, Beside, Monitors};
use super::ids::{Ids, Wanting};
use super::secrets::{Replaced, Secrets};
use super::{ConfigurationFormat, ExportArgs, SourceName, toml};
use crate::catalog::{CatalogStore as _, MonitorRow};
use crate::cli::{Environment, Exit, Stop, counted, exit, load, migrate, small_runtime};
use crate::maintenance::definition::MaintenanceRow;
use crate::model::{MonitorId, SYSTEM_USER, Source, UserId};
use crate::settings::defaults::Defaults;
use crate::settings::{duration, monitor};
use crate::slo::Objective;
use crate::telemetry::escape;

pub(super) fn run(arguments: &ExportArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let settings = load(config, environment)?;
    let (rows, maintenances, emails) = small_runtime()?.block_on(async {
        let store = migrate::readable(&settings, environment).await?;
        let away = |fault: crate::model::StoreFault| Stop::new(Exit::Unavailable, fault.to_string());
        let mut rows = store.load(None).await.map_err(away)?;
        let wanted = arguments.source.map(|source| match source {
            SourceName::File => Source::File,
            SourceName::Database => Source::Database,
            SourceName::Api => Source::Api,
        });
        rows.retain(|row| wanted.is_none_or(|wanted| row.source == wanted));
        let mut maintenances = store.all_maintenances().await.map_err(away)?;
        maintenances.retain(|row| wanted.is_none_or(|wanted| row.source == wanted));
        let owners: HashSet<UserId> = rows.iter().map(|row| row.user_id).collect();
        let emails = store.emails(&owners.into_iter().collect::<Vec<_>>()).await.map_err(away)?;
        store.close().await;
        Ok::<_, Stop>((rows, maintenances, emails))
    })?;
    let slos: &[Objective] = match arguments.source {
        None | Some(SourceName::File) => &settings.slos,
        Some(_) => &[],
    };
    let exported = Exported::of(All { rows, maintenances, slos }, &emails, &settings.defaults);
    for line in &exported.left_out {
        exit::complain_plainly(&format!("not exported: {line}"));
    }
    let beside = exported.maintenances.iter().chain(&exported.slos).flat_map(|one| &one.notes);
    for note in exported.monitors.iter().flat_map(|one| &one.notes).chain(beside) {
        exit::complain_plainly(note);
    }
    let variables: Vec<&Replaced> = exported.monitors.iter().flat_map(|one| &one.secrets).collect();
    if !variables.is_empty() {
        let text = format!("{} became references to environment variables", counted(variables.len(), "secret"));
        exit::complain_plainly(&format!("{text}: set them where the file is read, see the comments in it"));
    }
    exit::say(&match arguments.format {
        ConfigurationFormat::Toml => exported.toml(),
        ConfigurationFormat::Json => exported.json(),
    });
    Ok(Exit::Ok)
}

/// What there is.
struct All<'a> {
    rows: Vec<MonitorRow>,
    maintenances: Vec<MaintenanceRow>,
    slos: &'a [Objective],
}

/// The same in the words of a file.
struct Exported {
    monitors: Vec<One>,
    maintenances: Vec<Beside>,
    slos: Vec<Beside>,
    /// What a file cannot have, and why.
    left_out: Vec<String>,
}

struct One {
    keys: Map<String, Value>,
    row: MonitorId,
    source: Source,
    secrets: Vec<Replaced>,
    /// What could not be said in a file.
    notes: Vec<String>,
}

impl Exported {
    fn of(all: All<'_>, emails: &HashMap<UserId, String>, defaults: &Defaults) -> Self {
        let All { mut rows, maintenances, slos } = all;
        // The file's ids are its own; others give way to them.
        rows.sort_by_key(|row| (source_order(row.source), row.key.clone(), row.name.clone(), row.id));
        let mut left_out = Vec::new();
        let mut good = Vec::new();
        for row in rows {
            match spec_of(&row, defaults) {
                Ok(spec) => good.push((row, spec)),
                Err(why) => left_out.push(format!("{} {:?}: {}", row.id, escape(&row.name), escape(&why))),
            }
        }
        let (rows, specs): (Vec<MonitorRow>, Vec<_>) = good.into_iter().unzip();
        let wanting = rows.iter().map(|row| Wanting { row: row.id.0, key: row.key.as_deref(), name: &row.name });
        let ids = Ids::of(wanting, "monitor");
        let monitors = Monitors { rows: &rows, ids: &ids };
        let (maintenances, not_planned) = beside::maintenances(maintenances, &monitors);
        let (slos, not_aimed_at) = beside::objectives(slos, &monitors);
        left_out.extend(not_planned.into_iter().chain(not_aimed_at));
        let monitors = rows.iter().zip(specs).map(|(row, spec)| one(row, spec, &ids, emails)).collect();
        Self { monitors, maintenances, slos, left_out }
    }

    fn toml(&self) -> String {
        let mut text = String::from(
            "# Monitors, maintenance windows and objectives, exported by `lamplighter export`.\n\
             # Other tables of the configuration, such as retention and plans, are not in it.\n",
        );
        if self.monitors.iter().any(|one| one.source == Source::File) {
            text.push_str("# Relative paths start from the folder of the file that they stand in.\n");
        }
        for one in &self.monitors {
            let _ = writeln!(text, "\n# {} {}", one.source.name(), one.row);
            for note in &one.notes {
                let _ = writeln!(text, "# {note}");
            }
            for Replaced { variable, place, .. } in &one.secrets {
                let _ = writeln!(text, "# ${{{variable}}}: set it to {}, as it stands in the row", escape(place));
            }
            toml::table("monitor", &one.keys, &mut text);
        }
        for (list, tables) in [("maintenance", &self.maintenances), ("slo", &self.slos)] {
            for one in tables {
                let _ = writeln!(text, "\n# {}", one.origin);
                for note in &one.notes {
                    let _ = writeln!(text, "# {note}");
                }
                toml::table(list, &one.keys, &mut text);
            }
        }
        text
    }

    fn json(&self) -> String {
        let monitors: Vec<Value> = self.monitors.iter().map(|one| Value::Object(one.keys.clone())).collect();
        let variables = self
            .monitors
            .iter()
            .flat_map(|one| &one.secrets)
            .map(|Replaced { variable, place, .. }| serde_json::json!({ "variable": variable, "place": place }));
        let keys = |tables: &[Beside]| tables.iter().map(|one| Value::Object(one.keys.clone())).collect::<Vec<_>>();
        let all = serde_json::json!({
            "monitor": monitors,
            "maintenance": keys(&self.maintenances),
            "slo": keys(&self.slos),
            "secrets": variables.collect::<Vec<_>>(),
        });
        format!("{all:#}\n")
    }
}

const fn source_order(source: Source) -> u8 {
    match source {
        Source::File => 0,
        Source::Api => 1,
        Source::Database => 2,
    }
}

/// What is not a column. A row of a file is what a file said, with references that only the daemon may resolve.
fn spec_of(row: &MonitorRow, defaults: &Defaults) -> Result<Map<String, Value>, String> {
    if row.source == Source::File {
        return Ok(row.spec.as_object().cloned().unwrap_or_default());
    }
    let definition = monitor::read_row(row, defaults)?;
    Ok(monitor::row_spec(row, definition.kind, defaults))
}

fn one(row: &MonitorRow, mut spec: Map<String, Value>, ids: &Ids, emails: &HashMap<UserId, String>) -> One {
    let id = ids.of_row(row.id.0).cloned().unwrap_or_default();
    let mut secrets = Secrets::of(&id);
    let mut notes = Vec::new();
    for list in ["depends_on", "members"] {
        if let Some(Value::Array(names)) = spec.get_mut(list) {
            let mut seen = HashSet::new();
            names.retain_mut(|name| match name.as_str().map(|name| (ids.named(name), name.to_owned())) {
                Some((Some(found), _)) if *found != id => {
                    *name = found.clone().into();
                    // A key and an id may be of one row.
                    seen.insert(found.clone())
                }
                Some((_, gone)) => {
                    notes
                        .push(format!("{id}: {list} named {:?}, which is not exported; it is left out", escape(&gone)));
                    false
                }
                None => true,
            });
        }
    }
    let mut keys = Map::new();
    let mut put = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
    put("url", secrets.take_from_url(&row.url).into());
    if row.name != id {
        put("name", row.name.clone().into());
    }
    match emails.get(&row.user_id) {
        Some(email) => put("owner", email.clone().into()),
        None if row.user_id == SYSTEM_USER => {}
        None => {
            notes.push(format!("{id}: its owner {} has no e-mail address, so the system user gets it", row.user_id))
        }
    }
    let seconds = |seconds: i32| duration::format(std::time::Duration::from_secs(seconds.unsigned_abs().into()));
    // A heartbeat's column says nothing, and a file may not say it.
    let is_heartbeat = row.url.split(':').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("heartbeat"));
    if !spec.contains_key("schedule") && !is_heartbeat {
        put("interval", seconds(row.interval_seconds).into());
    }
    put("timeout", seconds(row.timeout_seconds).into());
    if !row.is_active {
        put("active", false.into());
    }
    if !row.tags.is_empty() {
        put("tags", row.tags.clone().into());
    }
    secrets.take_from_spec(&mut spec);
    let mut all = Map::new();
    all.insert("id".to_owned(), id.into());
    all.extend(keys);
    all.extend(spec);
    One { keys: all, row: row.id, source: row.source, secrets: secrets.replaced, notes }
}

#[cfg(test)]
mod tests;
