//! The configuration as the catalogue's loop sees it: read whole, validated, and only then applied.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::catalog::MonitorRow;
use crate::catalog::sync::{FileContent, FileOutcome, FileReading, FileSource, NewContent};
use crate::cli::{self, Exit, Stop};
use crate::maintenance::definition::FileMaintenance;
use crate::model::Keeping;
use crate::probe::net::{EgressOptions, Net, NetOptions};
use crate::settings::again::Former;
use crate::settings::defaults::Defaults;
use crate::settings::definition::{self, Definition, Located};
use crate::settings::diagnostic::SourceText;
use crate::settings::file::{self, Presence, Sources};
use crate::settings::model::{Refusal, Settings};
use crate::settings::monitor;
use crate::slo::Objective;
use crate::telemetry;

/// A configuration on disk, and what of it is in force.
pub(super) struct ConfigSource {
    path: PathBuf,
    presence: Presence,
    environment: cli::Environment,
    links: Links,
    /// What the last reading of valid sources has left. Readings do not overlap.
    former: Mutex<Former>,
    inner: Mutex<Inner>,
}

/// What a new configuration changes besides monitors.
pub(super) struct Links {
    /// The way out of the probes.
    pub(super) net: Arc<ArcSwap<Net>>,
    /// `probe.max_in_flight`.
    pub(super) max_in_flight: watch::Sender<usize>,
    /// `[[slo]]`.
    pub(super) slos: watch::Sender<Arc<[Objective]>>,
    /// For how long it keeps history.
    pub(super) keeping: Arc<ArcSwap<Keeping>>,
    /// Our own listeners and the store's address.
    pub(super) own: Vec<SocketAddr>,
    /// Where answers of domain registries are kept.
    pub(super) rdap: PathBuf,
    /// `[[maintenance]]`.
    pub(super) maintenances: watch::Sender<Arc<[FileMaintenance]>>,
}

struct Inner {
    /// What is in force.
    mark: Mark,
    /// Why the last reading was refused; none when it was not.
    refused: Option<String>,
    /// Sources that are valid and were refused all the same: read again only when somebody asks.
    refused_digest: Option<[u8; 32]>,
    /// What the daemon was started with: parts of it hold until the next start.
    started: Arc<Settings>,
    /// Without its monitors.
    settings: Arc<Settings>,
    /// The monitors in force; the catalogue shares them.
    definitions: Arc<[Located]>,
    /// Folders to watch.
    folders: Vec<PathBuf>,
    /// Read, and neither applied nor refused yet.
    next: Option<Next>,
}

/// What may come into force.
struct Next {
    mark: Mark,
    settings: Arc<Settings>,
    net: Net,
    definitions: Arc<[Located]>,
}

/// What is remembered of sources.
struct Mark {
    digest: [u8; 32],
    found: bool,
    /// Names of the sources that are not empty.
    filled: HashSet<String>,
    bytes: usize,
}

impl Mark {
    fn of(sources: &Sources) -> Self {
        let bytes = sources.texts.iter().map(|source| source.text.len()).sum();
        Self { digest: sources.hash, found: sources.found, filled: filled(sources), bytes }
    }
}

/// A first reading: the configuration that the daemon starts with.
pub(super) struct First {
    pub(super) path: PathBuf,
    pub(super) presence: Presence,
    pub(super) sources: Sources,
    pub(super) settings: Settings,
    /// For the next reading.
    pub(super) former: Former,
}

/// Reads the configuration that `run` starts with. Bad: exit code 78 with every finding.
pub(super) fn first(config: Option<&std::path::Path>, environment: &cli::Environment) -> Result<First, Stop> {
    let (path, presence) = cli::locate(config, environment);
    let sources = file::read(&path, presence);
    let mut former = Former::default();
    let settings = read_settings(&sources, environment, &mut former).map_err(|refusal| {
        let count = refusal.count();
        Stop::new(Exit::Config, format!("the configuration is invalid ({count} found)\n{refusal}"))
    })?;
    Ok(First { path, presence, sources, settings, former })
}

fn read_settings(sources: &Sources, environment: &cli::Environment, former: &mut Former) -> Result<Settings, Refusal> {
    cli::with_environment(environment, |environment| sources.settings_again(environment, former))
}

/// The network layer of a configuration. An error names the setting or the file.
pub(crate) fn net_of(settings: &Settings, own: Vec<SocketAddr>) -> Result<Net, String> {
    let net = Net::new(NetOptions {
        resolvers: settings.probe.resolvers.clone(),
        ca_files: settings.probe.ca_files.clone(),
        egress: EgressOptions {
            allow: settings.egress.allow.clone(),
            deny: settings.egress.deny.clone(),
            rows_public_only: settings.egress.rows_public_only,
            own,
        },
        user_agent: settings.probe.user_agent.clone(),
        max_body: settings.probe.max_body,
    })?;
    let net = net.with_rdap_bootstrap(settings.probe.rdap_bootstrap.clone());
    Ok(net.with_proxy(settings.probe.proxy.clone()))
}

/// The parts of a configuration that hold until the next start, each with a hash over all that it says, in hex (JSON's
/// numbers would round it). Hashes are equal within one version of this program.
pub(crate) fn restart_parts(settings: &Settings) -> [(&'static str, String); 4] {
    let hash = |part: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        part(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    let Settings { server, database, daemon, .. } = settings;
    [
        ("[server]", hash(&|hasher| server.hash(hasher))),
        ("[database]", hash(&|hasher| database.hash(hasher))),
        ("daemon.state_directory", hash(&|hasher| daemon.state_directory.hash(hasher))),
        ("daemon.region", hash(&|hasher| daemon.region.hash(hasher))),
    ]
}

impl ConfigSource {
    /// What the daemon was started with, see [`restart_parts`].
    pub(super) fn started(&self) -> [(&'static str, String); 4] {
        restart_parts(&self.lock().started)
    }

    /// The source that goes on from a first reading.
    pub(super) fn new(first: First, environment: &cli::Environment, links: Links) -> Self {
        let mut settings = first.settings;
        let definitions = std::mem::take(&mut settings.monitors).into();
        let settings = Arc::new(settings);
        let inner = Inner {
            mark: Mark::of(&first.sources),
            refused: None,
            refused_digest: None,
            started: Arc::clone(&settings),
            settings,
            definitions,
            folders: first.sources.folders.into_iter().collect(),
            next: None,
        };
        Self {
            path: first.path,
            presence: first.presence,
            environment: environment.clone(),
            links,
            former: Mutex::new(first.former),
            inner: Mutex::new(inner),
        }
    }

    /// What a catalogue begins with: with `reread` what the sources say now, unless that is refused, and else what is in
    /// force. Blocks on the disk. Findings are told by the catalogue's own first reading.
    pub(super) fn begin(&self, reread: bool) -> FileContent {
        if reread && let FileOutcome::Content(_) = self.read(false).outcome {
            self.apply();
        }
        let mut inner = self.lock();
        (inner.refused, inner.refused_digest) = (None, None);
        FileContent { definitions: Arc::clone(&inner.definitions), folders: inner.folders.clone() }
    }

    /// The path, as it is shown.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that must be right before anything of it counts.
    fn validate(&self, sources: &Sources) -> Result<(Settings, Net), String> {
        let (had_file, filled_before, in_force) = {
            let inner = self.lock();
            (inner.mark.found, inner.mark.filled.clone(), Arc::clone(&inner.definitions))
        };
        let settings = {
            let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
            let mut settings =
                read_settings(sources, &self.environment, &mut former).map_err(|refusal| refusal.to_string())?;
            // What is equal to what is in force is there once, whoever holds it.
            definition::share(&in_force, &mut settings.monitors);
            former.adopt(&settings.monitors);
            settings
        };
        if had_file && !sources.found {
            return Err(format!("{}: the file is gone; restore it, or restart to run without it", self.path.display()));
        }
        // Also what a reader sees while somebody writes the file anew.
        let is_empty = |source: &&SourceText| !source.says_something() && filled_before.contains(&source.name);
        if let Some(emptied) = sources.texts.iter().find(is_empty) {
            return Err(format!(
                "{}: the file was emptied; fill it, or restart to run without its content",
                emptied.name
            ));
        }
        let net = net_of(&settings, self.links.own.clone())?.with_rdap_folder(self.links.rdap.clone());
        Ok((settings, net))
    }

    fn outcome(&self, sources: &Sources, asked: bool) -> FileOutcome {
        {
            let mut inner = self.lock();
            inner.next = None;
            let (digest, sound) = (sources.hash, sources.problems.is_empty());
            if inner.mark.digest == digest && inner.mark.found == sources.found && sound && !asked {
                (inner.refused, inner.refused_digest) = (None, None);
                return FileOutcome::Unchanged;
            }
            if inner.refused_digest == Some(digest) && sound && !asked {
                return FileOutcome::StillRefused;
            }
        }
        // What was refused is read again even if it is the same: what it refers to may be there now.
        let validated = self.validate(sources);
        let mut inner = self.lock();
        match validated {
            Ok((mut settings, net)) => {
                let definitions: Arc<[Located]> = std::mem::take(&mut settings.monitors).into();
                let mark = Mark::of(sources);
                let unfinished = |source: &SourceText| !source.text.is_empty() && !source.text.ends_with('\n');
                let cut = mark.bytes < inner.mark.bytes || sources.texts.iter().any(unfinished);
                let settings = Arc::new(settings);
                inner.next = Some(Next { mark, settings, net, definitions: Arc::clone(&definitions) });
                FileOutcome::Content(NewContent { definitions, digest: sources.hash, cut })
            }
            Err(findings) if !asked && inner.refused.as_ref() == Some(&findings) => FileOutcome::StillRefused,
            Err(findings) => {
                (inner.refused, inner.refused_digest) = (Some(findings.clone()), None);
                FileOutcome::Refused(findings)
            }
        }
    }
}

fn filled(sources: &Sources) -> HashSet<String> {
    sources.texts.iter().filter(|source| source.says_something()).map(|source| source.name.clone()).collect()
}

impl FileSource for ConfigSource {
    fn read(&self, asked: bool) -> FileReading {
        let sources = file::read(&self.path, self.presence);
        let outcome = self.outcome(&sources, asked);
        let folders: Vec<PathBuf> = sources.folders.into_iter().collect();
        self.lock().folders.clone_from(&folders);
        FileReading { folders, outcome }
    }

    fn read_row(&self, row: &MonitorRow) -> Result<Definition, String> {
        let defaults = Arc::clone(&self.lock().settings.defaults);
        monitor::read_row(row, &defaults)
    }

    fn read_held(&self, row: &MonitorRow, trusted: bool) -> Result<Definition, String> {
        if !trusted {
            return monitor::read_row(row, &Defaults::default());
        }
        let base = file::base(&self.path);
        cli::with_environment(&self.environment, |environment| monitor::read_own_row(row, &base, environment))
    }

    fn keeping(&self) -> Arc<Keeping> {
        Arc::clone(&self.lock().settings.keeping)
    }

    fn refuse(&self, why: &str) {
        let mut inner = self.lock();
        inner.refused_digest = inner.next.take().map(|next| next.mark.digest);
        inner.refused = Some(why.to_owned());
    }

    fn apply(&self) -> Vec<String> {
        let mut inner = self.lock();
        let Some(Next { mark, settings, net, definitions }) = inner.next.take() else { return Vec::new() };
        inner.definitions = definitions;
        (inner.mark, inner.refused, inner.refused_digest) = (mark, None, None);
        inner.settings = Arc::clone(&settings);
        let before = Arc::clone(&inner.started);
        drop(inner);
        self.links.net.store(Arc::new(net));
        self.links.max_in_flight.send_if_modified(|limit| {
            std::mem::replace(limit, settings.probe.max_in_flight) != settings.probe.max_in_flight
        });
        self.links.maintenances.send_replace(settings.maintenances.as_slice().into());
        self.links.slos.send_if_modified(|slos| {
            let changed = *slos != settings.slos;
            if changed {
                *slos = Arc::clone(&settings.slos);
            }
            changed
        });
        self.links.keeping.store(Arc::clone(&settings.keeping));
        telemetry::set_filter(&settings.daemon.log_level);
        let parts = restart_parts(&before).into_iter().zip(restart_parts(&settings));
        parts.filter(|(before, now)| before != now).map(|(_, (name, _))| name.to_owned()).collect()
    }
}

/// What is watched, for the greeting.
pub(super) fn watched(first: &First) -> String {
    let path = first.path.display();
    match (first.sources.found, first.settings.monitors.len()) {
        (false, _) => format!("no {path}, so built-in defaults: monitors come from the database only"),
        (true, 0) => format!("{path}, which has no monitors yet"),
        (true, 1) => format!("{path}, 1 monitor"),
        (true, number) => format!("{path}, {}", cli::counted(number, "monitor")),
    }
}

#[cfg(test)]
mod tests;
