//! One monitor as it is defined, by a file or by a row, ready for the catalogue.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Deref;
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
    pub name: Arc<str>,
    /// The address as written, references unexpanded: safe to show and to store.
    pub url: Arc<str>,
    /// E-mail of the owner; none: the system user, or the row's own.
    pub owner: Option<Arc<str>>,
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
    pub tags: Arc<[Box<str>]>,
    /// Keys of the monitors whose being down explains this one's. In a file they exist and make no cycle; in a row
    /// they are unchecked.
    pub depends_on: Box<[MonitorKey]>,
    /// Everything that is not a column of `monitors`, with the defaults that apply, references unexpanded: a JSON object
    /// as text, which takes a tenth of the tree. See [`Self::spec`].
    pub spec: Arc<str>,
    /// The probe and the expectations.
    pub prepared: Prepared,
    /// Texts to remove from evidence: what references stood for, and secrets written out.
    pub secrets: Arc<[Secret]>,
    /// Equal when nothing that matters differs, expanded secrets and files behind paths included. Only comparable
    /// within one run of one build.
    pub fingerprint: u64,
    /// Whether reading it again may give something else although its text is the same: it names files.
    pub(super) reads_files: bool,
}

/// A monitor of the file and where it stands. Readings share what did not change, but for its line.
#[derive(Clone, Debug)]
pub struct Located {
    /// What it says.
    pub definition: Arc<Definition>,
    /// Where it stands.
    pub place: Option<Place>,
}

impl Deref for Located {
    type Target = Definition;

    fn deref(&self) -> &Definition {
        &self.definition
    }
}

/// How many definitions two lists share at their beginnings, and at their ends.
fn shared(before: &[Located], now: &[Located]) -> (usize, usize) {
    let same = |(before, now): &(&Located, &Located)| Arc::ptr_eq(&before.definition, &now.definition);
    let front = before.iter().zip(now).take_while(same).count();
    let most = before.len().min(now.len()) - front;
    (front, before.iter().rev().zip(now.iter().rev()).take(most).take_while(same).count())
}

fn middle(list: &[Located], (front, back): (usize, usize)) -> &[Located] {
    list.get(front..list.len() - back).unwrap_or_default()
}

/// Lets definitions that are equal to one of `before` share it, so that what did not change is there once.
pub fn share(before: &[Located], now: &mut [Located]) {
    let ends = shared(before, now);
    let until = now.len() - ends.1;
    let now = now.get_mut(ends.0..until).unwrap_or_default();
    if now.is_empty() {
        return;
    }
    let keyed = middle(before, ends).iter().filter_map(|before| Some((before.key.as_ref()?, &before.definition)));
    let by_key: HashMap<&MonitorKey, &Arc<Definition>> = keyed.collect();
    for located in now {
        let former = located.key.as_ref().and_then(|key| by_key.get(key));
        if let Some(former) = former.filter(|former| former.fingerprint == located.fingerprint) {
            located.definition = Arc::clone(former);
        }
    }
}

/// What lies between two readings of a file.
pub struct Edits<'a> {
    /// Definitions that the former did not have, or had otherwise.
    pub changed: Vec<&'a Located>,
    /// Keys that the latter does not have.
    pub gone: Vec<&'a MonitorKey>,
}

impl<'a> Edits<'a> {
    /// Compares. Definitions that are not shared count as changed.
    #[must_use]
    pub fn between(before: &'a [Located], now: &'a [Located]) -> Self {
        let ends = shared(before, now);
        let keyed = middle(before, ends).iter().filter_map(|before| Some((before.key.as_ref()?, &before.definition)));
        let mut by_key: HashMap<&MonitorKey, &Arc<Definition>> = keyed.collect();
        let is_changed = |located: &&'a Located| {
            let former = located.key.as_ref().and_then(|key| by_key.remove(key));
            former.is_none_or(|former| !Arc::ptr_eq(former, &located.definition))
        };
        let changed = middle(now, ends).iter().filter(is_changed).collect();
        Self { changed, gone: by_key.into_keys().collect() }
    }
}

impl fmt::Debug for Definition {
    /// Only what can hold no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition")
            .field("key", &self.key)
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("cadence", &self.cadence)
            .finish_non_exhaustive()
    }
}

/// What a definition is made of and does not keep.
pub(super) struct Made<'a> {
    /// The address with references expanded.
    pub(super) target: &'a url::Url,
    pub(super) spec: &'a serde_json::Map<String, serde_json::Value>,
    pub(super) secrets: &'a [Secret],
    pub(super) paths: &'a [PathBuf],
}

impl Definition {
    /// [`Self::spec`] as a tree.
    #[must_use]
    pub fn spec(&self) -> serde_json::Map<String, serde_json::Value> {
        // It was written by the same library from such a tree.
        serde_json::from_str(&self.spec).unwrap_or_default()
    }

    /// Hashes everything that makes two definitions behave, or look, differently.
    pub(super) fn compute_fingerprint(&self, made: &Made<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.key, &self.renamed_from, &self.name, &self.url, made.target.as_str()).hash(&mut hasher);
        (&self.owner, self.kind, self.timeout, self.confirmations, self.recoveries).hash(&mut hasher);
        match &self.cadence {
            Cadence::Every(interval) => interval.hash(&mut hasher),
            Cadence::Cron { expression, zone, .. } => (expression, zone).hash(&mut hasher),
        }
        (self.retry_interval, self.flap.changes, self.flap.within, self.flap.hold).hash(&mut hasher);
        (self.active, &self.tags, &self.depends_on, made.spec, made.secrets).hash(&mut hasher);
        for path in made.paths {
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
