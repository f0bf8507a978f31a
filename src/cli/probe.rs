//! `lamplighter probe`: checks from the command line, without a store.

use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{Environment, Exit, Stop, exit, load, load_leniently, small_runtime, with_environment};
use crate::catalog::{Entry, merge};
use crate::clock::{SystemWall, Wall as _};
use crate::daemon::net_of;
use crate::model::{Check, MonitorId, SYSTEM_USER, Source, Verdict};
use crate::probe::net::Net;
use crate::probe::{kinds, pool, report};
use crate::settings::diagnostic::SourceText;
use crate::settings::model::{self, Settings};
use crate::verdict::Finished;

/// Checks of `--all` that run at the same time.
/// More would show in each other's times.
const AT_ONCE: usize = 16;

/// Arguments of `probe`.
#[derive(Debug, clap::Args)]
pub(super) struct ProbeArgs {
    /// What to check, such as https://example.org/ or tcp://127.0.0.1:5432
    #[arg(required_unless_present_any = ["all", "monitor"], conflicts_with_all = ["all", "monitor"])]
    url: Option<String>,
    /// Deadline of the check, whole seconds
    #[arg(long, default_value = "10s", value_name = "DURATION", conflicts_with_all = ["all", "monitor"])]
    timeout: String,
    /// Check every active monitor of the configuration file
    #[arg(long, conflicts_with = "monitor")]
    all: bool,
    /// Check one monitor of the configuration file
    #[arg(long, value_name = "ID")]
    monitor: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ProbeArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let (settings, entries) = match &arguments.url {
        Some(url) => one(url, &arguments.timeout, config, environment)?,
        None => of_file(arguments.monitor.as_deref(), config, environment)?,
    };
    let net = net_of(&settings, Vec::new()).map_err(|error| Stop::new(Exit::Config, error))?;
    let region = &settings.daemon.region;
    let named = arguments.url.is_none();
    small_runtime()?.block_on(async {
        let (mut down, mut unknown) = (false, false);
        let mut checks = stream::iter(entries).map(|entry| check(entry, &net)).buffered(AT_ONCE);
        while let Some((entry, check)) = checks.next().await {
            let label = entry.monitor.label();
            let text = if arguments.json {
                format!("{}\n", report::check_json(&check, label, named.then_some(entry.monitor.id), region))
            } else {
                report::waterfall(&check, label)
            };
            down |= check.verdict == Verdict::Down;
            unknown |= check.verdict == Verdict::Unknown;
            if !exit::say(&text) {
                break;
            }
        }
        Ok(if down {
            Exit::Failure
        } else if unknown {
            Exit::Unknown
        } else {
            Exit::Ok
        })
    })
}

/// A URL of the command line becomes a configuration of one monitor, so that it is read, and complained about, as any.
fn one(
    url: &str,
    timeout: &str,
    config: Option<&Path>,
    environment: &Environment,
) -> Result<(Settings, Vec<Arc<Entry>>), Stop> {
    // JSON's escapes are among TOML's. What looks like a reference is part of the URL here.
    let quoted = |text: &str| serde_json::Value::String(text.replace("${", "$${")).to_string();
    let text =
        format!("[[monitor]]\nid = \"probe\"\nurl = {}\ntimeout = {}\nname = {0}\n", quoted(url), quoted(timeout));
    let sources = [SourceText::new("command line".to_owned(), text)];
    let read = with_environment(environment, |environment| model::read(&sources, Path::new("."), environment, &[]));
    let mut settings = read.map_err(|refusal| {
        let exit = if is_later(url) { Exit::Unavailable } else { Exit::Usage };
        Stop::new(exit, plain(&refusal.messages))
    })?;
    // [probe] and [egress] of the configuration count here too; what is wrong elsewhere in it does not matter.
    let configured = load_leniently(config, environment)?;
    settings.probe = configured.probe;
    settings.egress = configured.egress;
    settings.daemon = configured.daemon;
    let entries = settings.monitors.iter().map(|definition| {
        let mut entry =
            merge::build(definition, MonitorId::of_key(definition.key.as_ref()?), SYSTEM_USER, Source::File);
        entry.monitor.key = None;
        Some(Arc::new(entry))
    });
    let entries = entries.flatten().collect();
    Ok((settings, entries))
}

/// Whether it is of a kind that this version does not have: nothing is wrong with it, but what it needs is not there.
fn is_later(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, _)| kinds::LATER.contains(&&*scheme.to_ascii_lowercase()))
}

/// Findings without their places in a text that the user has never seen.
fn plain(messages: &[String]) -> String {
    let first_lines = messages.iter().filter_map(|message| message.lines().next());
    let unplaced = first_lines.map(|line| line.split_once("monitor.").map_or(line, |(_, finding)| finding));
    // The name is the URL once more.
    unplaced.filter(|finding| !finding.starts_with("name:")).collect::<Vec<_>>().join("\n")
}

fn of_file(
    id: Option<&str>,
    config: Option<&Path>,
    environment: &Environment,
) -> Result<(Settings, Vec<Arc<Entry>>), Stop> {
    let settings = load(config, environment)?;
    let wanted = settings.monitors.iter().filter(|definition| match id {
        Some(id) => definition.key.as_ref().is_some_and(|key| key.as_str() == id),
        None => definition.active,
    });
    let entries: Vec<Arc<Entry>> = wanted
        .filter_map(|definition| {
            let id = MonitorId::of_key(definition.key.as_ref()?);
            Some(Arc::new(merge::build(definition, id, SYSTEM_USER, Source::File)))
        })
        .collect();
    if let (Some(id), true) = (id, entries.is_empty()) {
        return Err(Stop::new(Exit::Usage, format!("the configuration has no monitor {id:?}")));
    }
    Ok((settings, entries))
}

async fn check(entry: Arc<Entry>, net: &Net) -> (Arc<Entry>, Check) {
    let observation = pool::observe(net, &entry, SystemWall.now(), Instant::now()).await;
    let finished = Finished::of(Arc::clone(&entry), 1, &observation);
    (entry, finished.check)
}
