//! One monitor as it is defined, by a file or by a row, ready for the catalogue.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Cadence, Flap, MonitorKey, Secret};
use crate::probe::Prepared;

/// Where a definition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path of the source, as it is shown.
    pub source: Arc<str>,
    /// From 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

/// A valid definition. Bounds are those of `config.example.toml`.
#[derive(Clone)]
pub struct Definition {
    /// The file's `id`; a row may have none.
    pub key: Option<MonitorKey>,
    /// The key whose history this one carries on.
    pub renamed_from: Option<MonitorKey>,
    /// Display name.
    pub name: Box<str>,
    /// The address as written, references unexpanded: safe to show and to store.
    pub url: Box<str>,
    /// The address with references expanded: not to be shown.
    pub target: url::Url,
    /// E-mail of the owner; none: the system user, or the row's own.
    pub owner: Option<Box<str>>,
    /// The probe kind's name.
    pub kind: &'static str,
    /// When it is due.
    pub cadence: Cadence,
    /// Deadline of one check, whole seconds.
    pub timeout: Duration,
    /// Failed checks in a row before an incident opens.
    pub confirmations: u16,
    /// Good checks in a row before it resolves.
    pub recoveries: u16,
    /// Time between checks while confirming or recovering.
    pub retry_interval: Duration,
    /// Flap hold-down.
    pub flap: Flap,
    /// Whether it is checked.
    pub active: bool,
    /// Labels.
    pub tags: Box<[Box<str>]>,
    /// Keys of the monitors whose being down explains this one's. In a file they exist and make no cycle; in a row
    /// they are unchecked.
    pub depends_on: Box<[MonitorKey]>,
    /// Everything that is not a column of `monitors`, with the defaults that apply, references unexpanded.
    pub spec: serde_json::Map<String, serde_json::Value>,
    /// The probe and the expectations.
    pub prepared: Prepared,
    /// Texts to remove from evidence: what references stood for, and secrets written out.
    pub secrets: Arc<[Secret]>,
    /// Equal when nothing that matters differs, expanded secrets and files behind paths included. Only comparable
    /// within one run of one build.
    pub fingerprint: u64,
    /// Where it stands; none for a row.
    pub place: Option<Place>,
}

impl fmt::Debug for Definition {
    /// Only what can hold no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition")
            .field("key", &self.key)
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("cadence", &self.cadence)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Definition {
    /// Hashes everything that makes two definitions behave, or look, differently.
    pub(super) fn compute_fingerprint(&self, secrets: &[Secret], paths: &[PathBuf]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.key, &self.renamed_from, &self.name, &self.url, self.target.as_str()).hash(&mut hasher);
        (&self.owner, self.kind, self.timeout, self.confirmations, self.recoveries).hash(&mut hasher);
        match &self.cadence {
            Cadence::Every(interval) => interval.hash(&mut hasher),
            Cadence::Cron { expression, zone } => (expression, zone).hash(&mut hasher),
        }
        (self.retry_interval, self.flap.changes, self.flap.within, self.flap.hold).hash(&mut hasher);
        (self.active, &self.tags, &self.depends_on, &self.spec, secrets).hash(&mut hasher);
        for path in paths {
            (path, file_stamp(path)).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Size, change time and inode: a file that was replaced or written to differs in one of them.
fn file_stamp(path: &Path) -> Option<(u64, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}
