//! Ids of a file for rows that may have none.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::model::MonitorKey;

/// Characters of an id that is made of a name.
const ID_MOST: usize = 48;

/// A row that wants an id.
#[derive(Clone, Copy)]
pub(super) struct Wanting<'a> {
    pub(super) row: Uuid,
    pub(super) key: Option<&'a str>,
    pub(super) name: &'a str,
}

/// Which row gets which id.
pub(super) struct Ids {
    by_row: HashMap<Uuid, String>,
    /// What rows call each other by.
    by_key: HashMap<String, String>,
}

impl Ids {
    /// The first of a key gets it. `what` is the id of a row whose name has nothing to make one of.
    pub(super) fn of<'a>(rows: impl Iterator<Item = Wanting<'a>> + Clone, what: &str) -> Self {
        let (mut ids, mut taken) = (Self { by_row: HashMap::new(), by_key: HashMap::new() }, HashSet::new());
        let valid = |row: &Wanting<'_>| row.key.filter(|key| key.parse::<MonitorKey>().is_ok()).map(str::to_owned);
        // Keys first, so that no name takes one away.
        for row in rows.clone() {
            if let Some(key) = valid(&row).filter(|key| taken.insert(key.clone())) {
                ids.by_key.insert(key.clone(), key.clone());
                ids.by_row.insert(row.row, key);
            }
        }
        for row in rows {
            ids.by_row.entry(row.row).or_insert_with(|| {
                let slug = slug(row.key.unwrap_or(row.name), what);
                let short = row.row.simple().to_string();
                let candidates = [slug.clone(), format!("{slug}-{}", short.get(..8).unwrap_or_default())];
                candidates.into_iter().find(|id| taken.insert(id.clone())).unwrap_or_else(|| {
                    taken.insert(short.clone());
                    short
                })
            });
        }
        ids
    }

    /// The id of a row.
    pub(super) fn of_row(&self, row: Uuid) -> Option<&String> {
        self.by_row.get(&row)
    }

    /// The id of what rows name by key or uuid.
    pub(super) fn named(&self, name: &str) -> Option<&String> {
        let by_row = || Uuid::try_parse(name).ok().and_then(|id| self.by_row.get(&id));
        self.by_key.get(name).or_else(by_row)
    }
}

/// `Web shop (EU)` as `web-shop-eu`.
fn slug(name: &str, what: &str) -> String {
    let mut slug = String::new();
    for char in name.chars().flat_map(char::to_lowercase) {
        if char.is_ascii_lowercase() || char.is_ascii_digit() {
            slug.push(char);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() >= ID_MOST {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { what.to_owned() } else { slug.to_owned() }
}
