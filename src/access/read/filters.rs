//! Which rows are asked for: names, filters, and places in a list.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::model::{MaintenanceId, MonitorId, Source, Status, Verdict};

/// How something with a uuid is named in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<Id> {
    /// By id.
    Id(Id),
    /// By key: the file's, else the API's, else a row's.
    Key(String),
}

impl<Id: From<Uuid>> Named<Id> {
    /// A hyphenated uuid is an id, anything else a key.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(id) if text.len() == 36 => Self::Id(id.into()),
            _ => Self::Key(text.to_owned()),
        }
    }
}

/// How a monitor is named in a path.
pub type MonitorName = Named<MonitorId>;
/// How a maintenance is.
pub type MaintenanceName = Named<MaintenanceId>;

/// Which monitors; they come by id.
#[derive(Clone, Debug, Default)]
pub struct MonitorFilter {
    /// With this status.
    pub status: Option<Status>,
    /// With this label.
    pub tag: Option<String>,
    /// Of this source.
    pub source: Option<Source>,
    /// With this text in name, key or url, whatever the case.
    pub text: Option<String>,
    /// Behind this one.
    pub after: Option<MonitorId>,
    /// At most so many.
    pub limit: u16,
}

/// A place in a list that goes from new to old: what comes behind it is older, or has a smaller number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// The time.
    pub at: DateTime<Utc>,
    /// The number.
    pub id: i64,
}

/// Which checks; newest first.
#[derive(Clone, Debug, Default)]
pub struct CheckFilter {
    /// Not older.
    pub from: Option<DateTime<Utc>>,
    /// Older.
    pub to: Option<DateTime<Utc>>,
    /// Of this verdict; there are no rows of unknown ones.
    pub verdict: Option<Verdict>,
    /// With this failure.
    pub failure: Option<String>,
    /// Behind this place.
    pub before: Option<Before>,
    /// At most so many.
    pub limit: u16,
}

/// Which incidents; newest first.
#[derive(Clone, Debug, Default)]
pub struct IncidentFilter {
    /// With this status.
    pub status: Option<String>,
    /// Of this monitor.
    pub monitor: Option<MonitorId>,
    /// Not begun before.
    pub from: Option<DateTime<Utc>>,
    /// Begun before.
    pub to: Option<DateTime<Utc>>,
    /// Behind this place.
    pub before: Option<Before>,
    /// At most so many.
    pub limit: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usual_form_of_a_uuid_is_an_id() {
        let id = "00000000-0000-4000-8000-000000000001";
        assert!(matches!(MonitorName::of(id), MonitorName::Id(_)));
        for key in ["shop", &id.replace('-', ""), &format!("{{{id}}}"), &format!("urn:uuid:{id}"), ""] {
            assert!(matches!(MonitorName::of(key), MonitorName::Key(_)), "{key}");
        }
    }
}
