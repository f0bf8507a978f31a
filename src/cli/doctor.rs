//! `lamplighter doctor`: what is wrong with this installation, and what to do about it.
//!
//! Looking ([`looks`], [`host`], [`sockets`], [`crate::store::Store::examine`]) is one thing and judging ([`judge`],
//! [`judge_database`]) another. Every look has a deadline, and none changes anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::support::shown::{self, Shown};
use super::{Environment, Exit, Stop, exit, locate, small_runtime, with_environment};
use crate::clock::{SystemWall, Wall as _};
use crate::model::Secret;
use crate::settings::file::{self, Sources};
use crate::settings::limited;
use crate::settings::model::{Refusal, Settings};
use crate::store::{Examined, StartError};

mod finding;
mod host;
mod judge;
mod judge_database;
mod looks;
mod needs;
mod sockets;

pub(super) use finding::Report;

use finding::Finding;
use host::{Place, State, Subject};
use judge_database::Which;
use looks::{Installed, LOOK, Looks};
use needs::Needs;

/// For threads that hang in the kernel: they end with the process.
const LEAVE: Duration = Duration::from_millis(100);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// All that was seen, for `support-bundle` as well.
pub(super) struct Seen {
    pub(super) report: Report,
    pub(super) settings: Settings,
    pub(super) shown: Shown,
    /// What its references stand for.
    pub(super) referred: Vec<Secret>,
    /// None: there is no state directory.
    pub(super) socket: Option<PathBuf>,
    pub(super) daemon: Option<u32>,
    pub(super) database: Option<Result<Examined, StartError>>,
    pub(super) binaries: Vec<(u32, String)>,
    pub(super) at: DateTime<Utc>,
}

pub(super) fn run(arguments: &DoctorArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let runtime = small_runtime()?;
    let seen = runtime.block_on(look(config, environment));
    runtime.shutdown_timeout(LEAVE);
    let report = seen.report;
    let text = if arguments.json {
        let json = serde_json::to_string_pretty(&report);
        json.map_err(|error| Stop::new(Exit::Failure, error.to_string()))? + "\n"
    } else {
        report.table()
    };
    exit::say(&text);
    Ok(report.exit())
}

/// The configuration, as good as it is.
struct Configured {
    path: PathBuf,
    found: bool,
    settings: Settings,
    refusal: Option<Refusal>,
    /// What is there of the sources.
    files: Vec<Place>,
    shown: Shown,
    referred: Vec<Secret>,
}

fn configured(config: Option<&Path>, environment: &Environment) -> Configured {
    let (path, presence) = locate(config, environment);
    let sources: Sources = file::read(&path, presence);
    let read = with_environment(environment, |environment| sources.settings(environment));
    let (settings, refusal) = match read {
        Ok(settings) => (settings, None),
        Err(refusal) => {
            (with_environment(environment, |environment| sources.settings_leniently(environment)), Some(refusal))
        }
    };
    let files = sources.texts.iter().filter_map(|text| Place::look(Path::new(&text.name))).collect();
    let shown = shown::show(&sources.texts);
    let referred = with_environment(environment, |environment| shown.referred(&sources.base, environment));
    Configured { path, found: sources.found, settings, refusal, files, shown, referred }
}

/// Looks at everything and judges it.
pub(super) async fn look(config: Option<&Path>, environment: &Environment) -> Seen {
    let at = SystemWall.now();
    let configured = configured(config, environment);
    let looks = Looks::take(&configured.settings, environment).await;
    let findings = judged(&configured, &looks, at);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        at: at.to_rfc3339_opts(SecondsFormat::Secs, true),
        config: configured.path.display().to_string(),
        state_directory: looks.directory.ok().map(|directory| directory.display().to_string()),
        healthy: !findings.iter().any(|finding| finding.status == finding::Level::Problem),
        findings,
    };
    let Configured { settings, shown, referred, .. } = configured;
    let Looks { socket, pid: daemon, database, binaries, .. } = looks;
    let binaries = binaries.map(|installed| installed.found).unwrap_or_default();
    Seen { report, settings, shown, referred, socket, daemon, database, binaries, at }
}

/// What all of it comes to, finding by finding.
fn judged(configured: &Configured, looks: &Looks, at: DateTime<Utc>) -> Vec<Finding> {
    let Looks { directory, daemon, pid, state, subject, which, .. } = looks;
    let Looks { resolved, database, port, binaries, certificates, .. } = looks;
    let (settings, state, subject, database) =
        (&configured.settings, state.as_ref(), subject.as_ref(), database.as_ref());
    let needs = Needs::of(settings, database.and_then(|database| database.as_ref().ok()));
    let mut findings =
        vec![judge::config(&configured.path, configured.found, settings.monitors.len(), configured.refusal.as_ref())];
    findings.extend(judge::config_permissions(&configured.files, configured.shown.written_out(), subject));
    findings.extend(of_state(directory, state, subject, settings));
    findings.push(judge::daemon(daemon));
    findings.push(match port {
        Ok(port) => {
            let low = host::sysctl("net/ipv4/ip_unprivileged_port_start").map(|[low]| low);
            judge::listen(&settings.server.listen, port, subject, low)
        }
        Err(what) => hangs("listen", what),
    });
    findings.push(judge::resolver(&needs, resolved, !settings.probe.resolvers.is_empty()));
    findings.push(match certificates {
        Some((trusted, errors)) => judge::certificates(*trusted, settings.probe.ca_files.len(), errors),
        None => hangs("certificates", "the certificate store"),
    });
    findings.push(judge::clock(at));
    findings.push(judge::icmp(&needs, host::sysctl("net/ipv4/ping_group_range"), subject));
    findings.push(judge::descriptors(&needs, subject));
    findings.push(judge::ports(&needs, host::sysctl("net/ipv4/ip_local_port_range")));
    let holder = directory.as_ref().ok().and_then(|directory| limited::read(&directory.join("holder"), 100).ok());
    let (binaries, holder) = (binaries.as_ref(), holder.as_deref());
    findings.extend(of_database(which, settings, database, binaries, holder, pid.is_some(), at));
    findings
}

fn of_state(
    directory: &Result<PathBuf, Stop>,
    state: Option<&State>,
    subject: Option<&Subject>,
    settings: &Settings,
) -> Vec<Finding> {
    match (directory, state) {
        (Err(stop), _) => {
            vec![Finding::problem("state_directory", stop.message.clone(), "set daemon.state_directory")]
        }
        (Ok(directory), None) => vec![hangs("state_directory", &directory.display().to_string())],
        (Ok(_), Some(state)) => {
            vec![judge::state(state, subject), judge::disk(state.disk, settings.database.backlog as u64)]
        }
    }
}

fn of_database(
    which: &Which,
    settings: &Settings,
    database: Option<&Result<Examined, StartError>>,
    binaries: Option<&Installed>,
    holder: Option<&str>,
    runs: bool,
    at: DateTime<Utc>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if *which != Which::Url {
        findings.push(match binaries {
            Some(Installed { found, data }) => judge_database::binaries(found, *data),
            None => hangs("postgres_binaries", "looking for PostgreSQL"),
        });
    }
    findings.extend(judge_database::reached(which, database));
    let Some(Ok(seen)) = database else { return findings };
    findings.push(judge_database::settings(&seen.room, &seen.settings));
    findings.push(judge_database::connections(&seen.room, settings.database.max_connections, runs));
    findings.push(judge_database::clock(seen.clock_ahead, seen.clock_slack));
    findings.push(judge_database::schema(&seen.found, settings.database.auto_migrate));
    if let Some(ours) = &seen.ours {
        // The database's day, whatever ours is.
        let today = (at + seen.clock_ahead).date_naive();
        findings.push(judge_database::partitions(&ours.missing_days, today));
        findings.push(judge_database::lease(ours.lease.as_ref(), holder.map(str::trim), runs));
    }
    findings
}

fn hangs(name: &'static str, what: &str) -> Finding {
    let seconds = LOOK.as_secs();
    Finding::problem(
        name,
        format!("{what}: no answer within {seconds} s"),
        "see whether a file system or a disk hangs (dmesg)",
    )
}
