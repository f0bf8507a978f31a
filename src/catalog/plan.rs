//! What bringing the database's rows of the file to what the file says will do, and the guard over it. Pure. The merge
//! carries out what is planned here and `check-config --plan` prints it, so that the two cannot disagree.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::FileRow;
use crate::model::{MonitorId, UserId};

/// Below so many monitors the guard does not count halves (contract, section 3).
const GUARDED_FROM: usize = 20;
/// How many keys of a list are shown.
const SHOWN: usize = 5;

/// How much a merge may archive. `had` is how many monitors the file had when something came to be held: what is added
/// since must not make what is lost look like little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The daemon has just started: nobody has seen this configuration beside the running monitors. What is too much is
    /// held, all else is written. Without any monitor the configuration may be the wrong one: then all are held.
    #[allow(missing_docs, reason = "above")]
    Start { had: Option<usize> },
    /// The configuration has changed: what is too much is refused, and nothing is written.
    #[allow(missing_docs, reason = "above")]
    Reload { had: Option<usize> },
    /// The configuration in force is brought to the rows once more. What is too much is held, all else is written.
    #[allow(missing_docs, reason = "above")]
    Again { had: Option<usize> },
    /// Somebody said that it is meant.
    Force,
}

impl Guard {
    /// How many monitors the file had when something came to be held; none: nothing is.
    #[must_use]
    pub const fn had(self) -> Option<usize> {
        match self {
            Self::Start { had } | Self::Reload { had } | Self::Again { had } => had,
            Self::Force => None,
        }
    }
}

/// What would be archived, and may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archiving {
    /// How many monitors.
    pub count: usize,
    /// Of how many of the file that the database has.
    pub of: usize,
    /// The first few keys, in their order.
    pub first: Vec<String>,
}

impl fmt::Display for Archiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} monitors ({}", self.count, self.of, self.first.join(", "))?;
        match self.count.saturating_sub(self.first.len()) {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}

/// A row of the file as the database has it, but for its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// `id`.
    pub id: MonitorId,
    /// `key`.
    pub key: String,
    /// Whether it is archived.
    pub archived: bool,
}

/// Which row a monitor of the file gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one that has its key; the number is an index of the stored rows.
    Own(usize),
    /// That of its former key.
    Renamed(usize),
    /// A new one.
    New,
}

/// Which row every monitor of the file gets, and which rows are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// One for each monitor of the file, in its order.
    pub places: Vec<Place>,
    /// Rows that no monitor has and that are not archived yet, as indexes, by id.
    pub gone: Vec<usize>,
    /// Rows that are not archived.
    pub living: usize,
}

/// Assigns rows to monitors, each given as its key and its former key: the own row first, then that of the former key
/// unless that key is still in the file or another monitor has the row, then a new one.
pub fn assign<'a>(
    stored: &[StoredRow],
    wanted: impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone,
) -> Assignment {
    let by_key: HashMap<&str, usize> =
        stored.iter().enumerate().map(|(index, row)| (row.key.as_str(), index)).collect();
    let keys: HashSet<&str> = wanted.clone().map(|(key, _)| key).collect();
    let mut claimed = vec![false; stored.len()];
    let mut places = Vec::with_capacity(keys.len());
    for (key, former) in wanted {
        let own = by_key.get(key).map(|index| Place::Own(*index));
        let renamed = || {
            let index = *by_key.get(former.filter(|former| !keys.contains(former))?)?;
            (!claimed.get(index)?).then_some(Place::Renamed(index))
        };
        let place = own.or_else(renamed).unwrap_or(Place::New);
        if let Place::Own(index) | Place::Renamed(index) = place
            && let Some(claimed) = claimed.get_mut(index)
        {
            *claimed = true;
        }
        places.push(place);
    }
    let left = stored.iter().zip(&claimed).enumerate();
    let mut gone: Vec<usize> = left.filter(|(_, (row, claimed))| !row.archived && !**claimed).map(|at| at.0).collect();
    gone.sort_unstable_by_key(|index| stored.get(*index).map(|row| row.id));
    Assignment { places, gone, living: stored.iter().filter(|row| !row.archived).count() }
}

impl Assignment {
    /// What would be archived, if that is more than the guard lets through.
    #[must_use]
    pub fn guarded(&self, stored: &[StoredRow], guard: Guard) -> Option<Archiving> {
        let count = self.gone.len();
        let of = guard.had().map_or(self.living, |had| had.clamp(count, self.living));
        let most = of >= GUARDED_FROM && count > of / 2;
        let all = matches!(guard, Guard::Start { .. }) && self.places.is_empty() && count > 0;
        if guard == Guard::Force || !(most || all) {
            return None;
        }
        let mut keys: Vec<&str> = self.gone.iter().filter_map(|index| Some(stored.get(*index)?.key.as_str())).collect();
        keys.sort_unstable();
        Some(Archiving { count, of, first: keys.into_iter().take(SHOWN).map(str::to_owned).collect() })
    }
}

/// The content of a stored row.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// `user_id`.
    pub user_id: Option<UserId>,
    /// `name`.
    pub name: String,
    /// `url`.
    pub url: String,
    /// `interval_seconds`.
    pub interval_seconds: Option<i32>,
    /// `timeout_seconds`.
    pub timeout_seconds: Option<i32>,
    /// `is_active`.
    pub is_active: Option<bool>,
    /// `kind`.
    pub kind: Option<String>,
    /// `spec`.
    pub spec: Option<serde_json::Value>,
    /// `tags`.
    pub tags: Option<Vec<Option<String>>>,
}

/// The keys of the configuration in which a row differs from what the file says; none: it is as it shall be. `owner` is
/// the user of the file's e-mail, none when there is no such user yet.
#[must_use]
pub fn differences(stored: &Content, row: &FileRow, owner: Option<UserId>) -> Vec<String> {
    let tags = |tags: &Vec<Option<String>>| tags.iter().map(Option::as_deref).eq(row.tags.iter().map(|t| Some(&**t)));
    let columns = [
        ("owner", owner.is_some() && stored.user_id == owner),
        ("name", stored.name == *row.name),
        ("url", stored.url == *row.url),
        ("interval", stored.interval_seconds == Some(row.interval_seconds)),
        ("timeout", stored.timeout_seconds == Some(row.timeout_seconds)),
        ("active", stored.is_active == Some(row.is_active)),
        ("kind", stored.kind.as_deref() == Some(row.kind)),
        ("tags", stored.tags.as_ref().is_some_and(tags)),
    ];
    let differing = columns.into_iter().filter(|(_, same)| !same).map(|(name, _)| name.to_owned());
    let mut names: Vec<String> = differing.collect();
    let spec = row.spec();
    if stored.spec.as_ref() != Some(&spec) {
        names.extend(differing_keys(stored.spec.as_ref(), &spec));
    }
    names
}

/// Keys of the first level; a spec that is no object differs as a whole.
fn differing_keys(stored: Option<&serde_json::Value>, wanted: &serde_json::Value) -> Vec<String> {
    let (Some(serde_json::Value::Object(stored)), serde_json::Value::Object(wanted)) = (stored, wanted) else {
        return vec!["spec".to_owned()];
    };
    let keys: HashSet<&String> = stored.keys().chain(wanted.keys()).collect();
    let mut keys: Vec<String> = keys.into_iter().filter(|key| stored.get(*key) != wanted.get(*key)).cloned().collect();
    keys.sort_unstable();
    keys
}

/// What a reload would do to the rows of the file, in words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Keys of monitors that the database does not have.
    pub added: Vec<String>,
    /// Keys of archived monitors that come back with their history.
    pub returned: Vec<String>,
    /// Monitors that differ, with the keys of the configuration in which they do.
    pub changed: Vec<Changed>,
    /// Monitors that carry on the history of a former key.
    pub renamed: Vec<Renamed>,
    /// Keys of monitors that leave.
    pub archived: Vec<String>,
    /// Monitors that stay as they are.
    pub unchanged: usize,
    /// What a reload is refused for without `--force`.
    pub refused: Option<Archiving>,
}

/// A monitor that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Its key in the file.
    pub key: String,
    /// In what.
    pub keys: Vec<String>,
}

/// A monitor with another key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// The former key.
    pub from: String,
    /// The key in the file.
    pub to: String,
}

impl Plan {
    /// Puts an assignment into words. `differing` gives, for a monitor of the file by its index, the keys in which it
    /// differs from the row that it gets.
    pub fn describe(
        rows: &[FileRow],
        stored: &[StoredRow],
        assignment: &Assignment,
        differing: impl Fn(usize) -> Vec<String>,
    ) -> Self {
        let mut plan = Self { refused: assignment.guarded(stored, Guard::Reload { had: None }), ..Self::default() };
        for (index, (row, place)) in rows.iter().zip(&assignment.places).enumerate() {
            let key = row.key.to_string();
            let (Place::Own(at) | Place::Renamed(at)) = place else {
                plan.added.push(key);
                continue;
            };
            let Some(before) = stored.get(*at) else { continue };
            let keys = differing(index);
            let mut same = keys.is_empty();
            if matches!(place, Place::Renamed(_)) {
                plan.renamed.push(Renamed { from: before.key.clone(), to: key.clone() });
                same = false;
            }
            if before.archived {
                plan.returned.push(key.clone());
                same = false;
            }
            plan.unchanged += usize::from(same);
            if !keys.is_empty() {
                plan.changed.push(Changed { key, keys });
            }
        }
        plan.archived = assignment.gone.iter().filter_map(|at| Some(stored.get(*at)?.key.clone())).collect();
        plan.archived.sort_unstable();
        plan
    }

    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let lists =
            [self.added.len(), self.returned.len(), self.changed.len(), self.renamed.len(), self.archived.len()];
        lists.iter().all(|length| *length == 0)
    }
}

#[cfg(test)]
mod tests;
