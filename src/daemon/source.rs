//! The configuration as the catalogue's loop sees it: read whole, validated, and only then applied.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::catalog::MonitorRow;
use crate::catalog::sync::{FileContent, FileReading, FileSource};
use crate::cli::{self, Exit, Stop};
use crate::probe::net::{EgressOptions, Net, NetOptions};
use crate::settings::definition::Definition;
use crate::settings::file::{self, Presence, Sources};
use crate::settings::model::{Refusal, Settings};
use crate::settings::monitor;
use crate::telemetry;

/// A configuration on disk, and what of it is in force.
pub(super) struct ConfigSource {
    path: PathBuf,
    presence: Presence,
    environment: cli::Environment,
    links: Links,
    inner: Mutex<Inner>,
}

/// What a new configuration changes besides monitors.
pub(super) struct Links {
    /// The way out of the probes.
    pub(super) net: Arc<ArcSwap<Net>>,
    /// `probe.max_in_flight`.
    pub(super) max_in_flight: watch::Sender<usize>,
    /// Our own listeners and the store's address.
    pub(super) own: Vec<SocketAddr>,
}

struct Inner {
    hash: [u8; 32],
    found: bool,
    filled: bool,
    refused: Option<[u8; 32]>,
    /// Without its monitors: those are the catalogue's.
    settings: Arc<Settings>,
    /// Read, and not yet applied.
    next: Option<(Arc<Settings>, Net)>,
}

/// A first reading: the configuration that the daemon starts with.
pub(super) struct First {
    pub(super) path: PathBuf,
    pub(super) presence: Presence,
    pub(super) sources: Sources,
    pub(super) settings: Settings,
}

/// Reads the configuration that `run` starts with. Bad: exit code 78 with every finding.
pub(super) fn first(config: Option<&std::path::Path>, environment: &cli::Environment) -> Result<First, Stop> {
    let (path, presence) = cli::locate(config, environment);
    let sources = file::read(&path, presence);
    let settings = read_settings(&sources, environment).map_err(|refusal| {
        let count = refusal.count();
        Stop::new(Exit::Config, format!("the configuration is invalid ({count} found)\n{refusal}"))
    })?;
    Ok(First { path, presence, sources, settings })
}

fn read_settings(sources: &Sources, environment: &cli::Environment) -> Result<Settings, Refusal> {
    cli::with_environment(environment, |environment| sources.settings(environment))
}

/// Whether the sources say anything: comments and blank lines do not.
fn is_filled(sources: &Sources) -> bool {
    let says = |line: &str| !line.trim_start().is_empty() && !line.trim_start().starts_with('#');
    sources.texts.iter().any(|source| source.text.lines().any(says))
}

/// The network layer of a configuration. An error names the setting or the file.
pub(crate) fn net_of(settings: &Settings, own: Vec<SocketAddr>) -> Result<Net, String> {
    Net::new(NetOptions {
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
    })
}

impl ConfigSource {
    /// The source that goes on from a first reading, and that reading's content.
    pub(super) fn new(first: First, environment: &cli::Environment, links: Links) -> (Self, FileContent) {
        let mut settings = first.settings;
        let definitions = std::mem::take(&mut settings.monitors);
        let filled = is_filled(&first.sources);
        let content = FileContent { definitions, folders: first.sources.folders.into_iter().collect() };
        let inner = Inner {
            hash: first.sources.hash,
            found: first.sources.found,
            filled,
            refused: None,
            settings: Arc::new(settings),
            next: None,
        };
        let source = Self {
            path: first.path,
            presence: first.presence,
            environment: environment.clone(),
            links,
            inner: Mutex::new(inner),
        };
        (source, content)
    }

    /// The path, as it is shown.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that must be right before anything of it counts.
    fn validate(&self, sources: &Sources, had_file: bool, was_filled: bool) -> Result<(Settings, Net), String> {
        if had_file && !sources.found {
            let path = self.path.display();
            return Err(format!("{path}: the file is gone; restore it (an empty configuration must be a started one)"));
        }
        let settings = read_settings(sources, &self.environment).map_err(|refusal| refusal.to_string())?;
        if was_filled && !is_filled(sources) {
            return Err(format!("{}: the file is empty; to watch nothing, restart with it", self.path.display()));
        }
        let net = net_of(&settings, self.links.own.clone())?;
        Ok((settings, net))
    }
}

impl FileSource for ConfigSource {
    fn read(&self, force: bool) -> FileReading {
        let sources = file::read(&self.path, self.presence);
        let (had_file, was_filled) = {
            let mut inner = self.lock();
            if !force && inner.hash == sources.hash && sources.problems.is_empty() && inner.found == sources.found {
                inner.refused = None;
                return FileReading::Unchanged;
            }
            if !force && inner.refused == Some(sources.hash) {
                return FileReading::StillRefused;
            }
            (inner.found, inner.filled)
        };
        let outcome = self.validate(&sources, had_file, was_filled);
        let mut inner = self.lock();
        match outcome {
            Ok((mut settings, net)) => {
                let definitions = std::mem::take(&mut settings.monitors);
                inner.hash = sources.hash;
                inner.found = sources.found;
                inner.filled = is_filled(&sources);
                inner.refused = None;
                inner.next = Some((Arc::new(settings), net));
                FileReading::Content(FileContent { definitions, folders: sources.folders.into_iter().collect() })
            }
            Err(findings) => {
                inner.refused = Some(sources.hash);
                FileReading::Refused(findings)
            }
        }
    }

    fn read_row(&self, row: &MonitorRow) -> Result<Definition, String> {
        let inner = self.lock();
        let defaults = inner.next.as_ref().map_or(&inner.settings.defaults, |(settings, _)| &settings.defaults);
        let defaults = Arc::clone(defaults);
        drop(inner);
        monitor::read_row(row, &defaults)
    }

    fn apply(&self) -> Vec<String> {
        let mut inner = self.lock();
        let Some((settings, net)) = inner.next.take() else { return Vec::new() };
        let before = std::mem::replace(&mut inner.settings, Arc::clone(&settings));
        drop(inner);
        self.links.net.store(Arc::new(net));
        self.links.max_in_flight.send_if_modified(|limit| {
            std::mem::replace(limit, settings.probe.max_in_flight) != settings.probe.max_in_flight
        });
        telemetry::set_level(settings.daemon.log_level);
        let parts = [
            ("[server]", before.server != settings.server),
            ("[database]", before.database != settings.database),
            ("daemon.state_directory", before.daemon.state_directory != settings.daemon.state_directory),
            ("daemon.region", before.daemon.region != settings.daemon.region),
        ];
        parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()).collect()
    }
}
