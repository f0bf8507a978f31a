//! `lamplighter check-config [FILE] [--plan]`: every error of a configuration, or none; and what a reload would do.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{Environment, Exit, Stop, counted, exit, locate, migrate, small_runtime, state, with_environment};
use crate::catalog::merge;
use crate::catalog::plan::Plan;
use crate::daemon::{restart_parts, start_stop};
use crate::settings::file::{self, Sources};
use crate::settings::model::Settings;
use crate::store::Found;
use crate::telemetry::escape;
use crate::web::client;

/// The daemon's own answer is only needed for what needs a restart.
const DAEMON_DEADLINE: Duration = Duration::from_secs(10);
/// Monitors of one kind that are listed; `--json` has all.
const LISTED: usize = 20;

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Whether it is valid.
    Check,
    /// And what a reload would do.
    Plan,
    /// That, as JSON.
    PlanAsJson,
}

/// What a reload would do, all of it.
#[derive(Serialize)]
struct Planned {
    /// Rows of the file.
    #[serde(flatten)]
    plan: Plan,
    /// Parts that take effect at the next start; none: no daemon runs, or one of another version.
    needs_restart: Option<Vec<String>>,
}

/// Checks the file, or the one that `run` would take. Findings go to standard error.
pub(super) fn run(path: Option<&Path>, what: What, environment: &Environment) -> Result<Exit, Stop> {
    let (path, presence) = locate(path, environment);
    let sources = file::read(&path, presence);
    let name = path.display();
    match with_environment(environment, |environment| sources.settings(environment)) {
        Ok(settings) => {
            let text = match sources.texts.len() {
                0 => format!("{name}: not there, the built-in defaults are valid\n"),
                files => format!("{name}: valid: {}\n", summary(&settings, files)),
            };
            match what {
                What::Check => {
                    exit::say(&text);
                    warn_of_empty(&sources);
                }
                What::Plan => drop(exit::say(&format!("{text}{}", planned(&settings, environment)?.text()))),
                What::PlanAsJson => {
                    let json = serde_json::to_string(&planned(&settings, environment)?);
                    let json = json.map_err(|error| Stop::new(Exit::Failure, error.to_string()))?;
                    exit::say(&format!("{json}\n"));
                }
            }
            Ok(Exit::Ok)
        }
        Err(refusal) => {
            let count = refusal.count();
            let errors = if count == 1 { "error" } else { "errors" };
            exit::complain_plainly(&format!("{refusal}\n{name}: invalid: {count} {errors}"));
            Ok(Exit::Config)
        }
    }
}

/// Legal at the first start; that is what a reload takes for a mistake.
fn warn_of_empty(sources: &Sources) {
    for source in sources.texts.iter().filter(|source| !source.says_something()) {
        let what =
            "says nothing, which only a start takes: a running daemon that has something from it refuses the file";
        exit::complain_plainly(&format!("{}: warning: {what}", source.name));
    }
}

fn summary(settings: &Settings, files: usize) -> String {
    let paused = settings.monitors.iter().filter(|monitor| !monitor.active).count();
    let paused = if paused == 0 { String::new() } else { format!(" ({paused} paused)") };
    format!("{}{paused} in {}", counted(settings.monitors.len(), "monitor"), counted(files, "file"))
}

fn planned(settings: &Settings, environment: &Environment) -> Result<Planned, Stop> {
    small_runtime()?.block_on(async {
        let store = migrate::store(settings, environment)?;
        let found = store.classify().await.map_err(|error| {
            let stop = start_stop(&error);
            if settings.database.url.is_some() || stop.exit != Exit::Unavailable {
                return stop;
            }
            let way_out = "the embedded database runs only while the daemon does: start it with `lamplighter run`";
            Stop::new(Exit::Unavailable, format!("{}; {way_out}", stop.message))
        })?;
        let plan = match found {
            Found::Ours { pending: 0 } => {
                let rows = merge::file_rows(&settings.monitors).into();
                store.plan(rows).await.map_err(|fault| Stop::new(Exit::Unavailable, fault.to_string()))?
            }
            // The first start will make the tables, and a row for every monitor.
            Found::Empty | Found::Adoptable => {
                let keys = settings.monitors.iter().filter_map(|monitor| Some(monitor.key.as_ref()?.to_string()));
                Plan { added: keys.collect(), ..Plan::default() }
            }
            other => {
                let error = other.as_error().map(|error| start_stop(&error));
                let behind = || Stop::new(Exit::Config, format!("{other}: run `lamplighter migrate` first"));
                return Err(error.unwrap_or_else(behind));
            }
        };
        let needs_restart = needs_restart(settings, environment).await;
        store.close().await;
        Ok(Planned { plan, needs_restart })
    })
}

/// Compares with what the running daemon was started with.
async fn needs_restart(settings: &Settings, environment: &Environment) -> Option<Vec<String>> {
    let directory = state::directory(settings.daemon.state_directory.as_deref(), environment).ok()?;
    let socket = state::admin_socket(&directory).ok()?;
    let body = client::get(&socket, "/api/v1/overview", DAEMON_DEADLINE).await.ok()?;
    let overview: serde_json::Value = serde_json::from_slice(&body).ok()?;
    // Another version may hash otherwise.
    if overview.get("version")?.as_str()? != env!("CARGO_PKG_VERSION") {
        return None;
    }
    let started = overview.get("restart_parts")?;
    let differing = restart_parts(settings)
        .into_iter()
        .filter(|(name, hash)| started.get(*name).and_then(|known| known.as_str()) != Some(hash));
    Some(differing.map(|(name, _)| name.to_owned()).collect())
}

impl Planned {
    fn text(&self) -> String {
        let plan = &self.plan;
        let mut text = String::from("A reload would:\n");
        let keys = |keys: &[String]| keys.iter().map(|key| escape(key).into_owned()).collect::<Vec<_>>();
        list(&mut text, "add", &keys(&plan.added));
        list(&mut text, "bring back with its history", &keys(&plan.returned));
        let changed =
            plan.changed.iter().map(|changed| format!("{} ({})", changed.key, escape(&changed.keys.join(", "))));
        list(&mut text, "change", &changed.collect::<Vec<_>>());
        let renamed = plan.renamed.iter().map(|renamed| format!("{} to {}", escape(&renamed.from), renamed.to));
        list(&mut text, "rename", &renamed.collect::<Vec<_>>());
        list(&mut text, "archive", &keys(&plan.archived));
        if plan.is_empty() {
            text.push_str("  change no monitor\n");
        }
        let _ = writeln!(text, "  leave {} as they are", counted(plan.unchanged, "monitor"));
        match &self.needs_restart {
            None => text.push_str("No daemon of this version is running: what needs a restart is not known.\n"),
            Some(parts) if parts.is_empty() => {}
            Some(parts) => {
                let _ = writeln!(text, "These take effect at the next start: {}", parts.join(", "));
            }
        }
        if let Some(archiving) = &plan.refused {
            let _ = writeln!(
                text,
                "It would be REFUSED, because it archives {archiving}. `lamplighter reload --force` applies it."
            );
        }
        text
    }
}

fn list(text: &mut String, what: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "  {what} {}:", counted(items.len(), "monitor"));
    for item in items.iter().take(LISTED) {
        let _ = writeln!(text, "    {item}");
    }
    if let Some(more) = items.len().checked_sub(LISTED).filter(|more| *more > 0) {
        let _ = writeln!(text, "    and {more} more");
    }
}
