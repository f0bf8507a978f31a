//! `lamplighter probe`: checks from the command line, without a store.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::interrupt::Interrupts;
use super::{Environment, Exit, Stop, exit, load, load_leniently, small_runtime, with_environment};
use crate::catalog::{Entry, merge};
use crate::clock::{SystemWall, Wall as _};
use crate::daemon::net_of;
use crate::model::{Check, MonitorId, MonitorKey, SYSTEM_USER, Source, Status, Verdict};
use crate::probe::driven::{Driven, Member};
use crate::probe::net::Net;
use crate::probe::{kinds, pool, report};
use crate::settings::definition::Definition;
use crate::settings::diagnostic::SourceText;
use crate::settings::model::{self, Settings};
use crate::verdict::Finished;
use crate::verdict::gathering::{self, Standing};

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
    let wanted = |entry: &Entry| {
        let key = entry.monitor.key.as_ref().map(MonitorKey::as_str);
        arguments.monitor.as_deref().is_none_or(|id| key == Some(id))
    };
    if let [only] = entries.as_slice()
        && matches!(only.prepared.probe.driven(), Driven::Pings(_))
    {
        return Err(Stop::new(Exit::Usage, "a heartbeat is pinged by its job and cannot be probed"));
    }
    let mut told = Told { json: arguments.json, named, region: region.to_string(), down: false, unknown: false };
    let checking = async {
        // Up to the first group the checks are told as they end; a group waits for all of them.
        let mut order = entries.iter().cloned().collect::<VecDeque<_>>();
        let probed: Vec<Arc<Entry>> = entries.iter().filter(|entry| is_probed(entry)).cloned().collect();
        let mut checks = stream::iter(probed).map(|entry| check(entry, &net)).buffered(AT_ONCE);
        let mut done: HashMap<MonitorId, Check> = HashMap::new();
        while let Some((entry, check)) = checks.next().await {
            done.insert(entry.monitor.id, check);
            if !told.tell_first(&mut order, &done, &wanted) {
                return told.exit();
            }
        }
        gather(&entries, &mut done);
        for entry in order {
            if wanted(&entry) && !told.tell(&entry, done.get(&entry.monitor.id)) {
                break;
            }
        }
        told.exit()
    };
    small_runtime()?.block_on(async {
        let failed = |error| Stop::new(Exit::Failure, format!("signals cannot be handled: {error}"));
        let mut interrupts = Interrupts::listen().map_err(failed)?;
        // Dropped with its checks, which take their plugins along.
        Ok(tokio::select! {
            exit = checking => exit,
            signal = interrupts.next() => Exit::Interrupted(signal),
        })
    })
}

/// What was printed, and what it means for the exit code.
struct Told {
    json: bool,
    named: bool,
    region: String,
    down: bool,
    unknown: bool,
}

impl Told {
    /// Tells what is known at the front of the line; false when nobody reads any more.
    fn tell_first(
        &mut self,
        order: &mut VecDeque<Arc<Entry>>,
        done: &HashMap<MonitorId, Check>,
        wanted: &impl Fn(&Entry) -> bool,
    ) -> bool {
        while let Some(entry) = order.front() {
            let check = done.get(&entry.monitor.id);
            if check.is_none() && !matches!(entry.prepared.probe.driven(), Driven::Pings(_)) {
                return true;
            }
            if wanted(entry) && !self.tell(entry, check) {
                return false;
            }
            order.pop_front();
        }
        true
    }

    /// Without a check, says why on the other stream: it is not a result.
    fn tell(&mut self, entry: &Entry, check: Option<&Check>) -> bool {
        let label = entry.monitor.label();
        let Some(check) = check else {
            exit::complain_plainly(&match entry.prepared.probe.driven() {
                Driven::Pings(_) => format!("{label}: left out, a heartbeat is pinged by its job and cannot be probed"),
                _ => format!("{label}: left out, none of its members could be probed"),
            });
            return true;
        };
        self.down |= check.verdict == Verdict::Down;
        self.unknown |= check.verdict == Verdict::Unknown;
        let text = if self.json {
            format!("{}\n", report::check_json(check, label, self.named.then_some(entry.monitor.id), &self.region))
        } else {
            report::waterfall(check, label, entry.monitor.kind)
        };
        exit::say(&text)
    }

    const fn exit(&self) -> Exit {
        if self.down {
            Exit::Failure
        } else if self.unknown {
            Exit::Unknown
        } else {
            Exit::Ok
        }
    }
}

fn is_probed(entry: &Entry) -> bool {
    entry.prepared.probe.driven().is_scheduled()
}

/// Makes the checks of groups from those of their members. Settings let no cycle through, so each round makes at least one.
fn gather(entries: &[Arc<Entry>], done: &mut HashMap<MonitorId, Check>) {
    let groups = || entries.iter().filter(|entry| matches!(entry.prepared.probe.driven(), Driven::Members(_)));
    let mut open: HashSet<MonitorId> = groups().map(|entry| entry.monitor.id).collect();
    let ids: HashMap<&MonitorKey, MonitorId> =
        entries.iter().filter_map(|entry| Some((entry.monitor.key.as_ref()?, entry.monitor.id))).collect();
    while !open.is_empty() {
        let before = open.len();
        for entry in groups() {
            let Driven::Members(group) = entry.prepared.probe.driven() else { continue };
            let members = group.members.iter().filter_map(|member| match member {
                Member::Key(key) => Some((key.as_str(), ids.get(key).copied())),
                Member::Id(_) => None,
            });
            let members: Vec<_> = members.collect();
            let waits = members.iter().any(|(_, id)| id.is_some_and(|id| open.contains(&id)));
            if waits || !open.remove(&entry.monitor.id) {
                continue;
            }
            // A member that was not checked, such as a heartbeat or a paused one, is left out.
            let status = |id: Option<MonitorId>| match id.and_then(|id| done.get(&id)).map(|check| check.verdict) {
                Some(Verdict::Up) => Status::Up,
                Some(Verdict::Degraded) => Status::Degraded,
                Some(Verdict::Down) => Status::Down,
                Some(Verdict::Unknown) => Status::Unknown,
                None => Status::Pending,
            };
            let standing: Vec<Standing<'_>> = members.iter().map(|(name, id)| (*name, Some(status(*id)))).collect();
            if let Some(seen) = gathering::observe(group, &standing, SystemWall.now()) {
                done.insert(entry.monitor.id, Finished::of(Arc::clone(entry), 1, &seen).check);
            }
        }
        if open.len() == before {
            break;
        }
    }
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
    let asked = id.map(|id| with_members(&settings, id));
    let wanted = settings.monitors.iter().filter(|definition| match (&asked, &definition.key) {
        (Some(asked), Some(key)) => key.as_str() == id.unwrap_or_default() || definition.active && asked.contains(key),
        _ => definition.active,
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

/// A monitor of the file and, when it is a group, everything that it is made of.
fn with_members(settings: &Settings, id: &str) -> HashSet<MonitorKey> {
    let by_key: HashMap<&MonitorKey, &Definition> =
        settings.monitors.iter().filter_map(|definition| Some((definition.key.as_ref()?, &**definition))).collect();
    let mut found = HashSet::new();
    let mut ahead: Vec<MonitorKey> = id.parse().into_iter().collect();
    while let Some(key) = ahead.pop() {
        if let Some(Driven::Members(group)) = by_key.get(&key).map(|definition| definition.prepared.probe.driven()) {
            let members = group.members.iter().filter_map(|member| match member {
                Member::Key(key) if !found.contains(key) => Some(key.clone()),
                Member::Key(_) | Member::Id(_) => None,
            });
            ahead.extend(members);
        }
        found.insert(key);
    }
    found
}

async fn check(entry: Arc<Entry>, net: &Net) -> (Arc<Entry>, Check) {
    let observation = pool::observe(net, &entry, SystemWall.now(), Instant::now()).await;
    let finished = Finished::of(Arc::clone(&entry), 1, &observation);
    (entry, finished.check)
}
