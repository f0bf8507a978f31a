//! What makes the checks of a monitor: a schedule, its own sender, or other monitors. Only the first goes through the
//! dispatcher and the pool; the verdict stage makes the checks of the others from what it is told and what it knows.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::model::{MonitorId, MonitorKey};

/// See the module.
#[derive(Clone, Copy)]
pub enum Driven<'a> {
    /// Due at its interval or schedule: `Probe::probe` is called.
    Schedule,
    /// Pings come in; silence is a check as well.
    Pings(&'a Heartbeat),
    /// The statuses of other monitors.
    Members(&'a Group),
}

impl Driven<'_> {
    /// Whether the dispatcher has to do with it.
    #[must_use]
    pub const fn is_scheduled(self) -> bool {
        matches!(self, Self::Schedule)
    }
}

/// When a sender is expected to be heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The longest time between two signs of life; none: the monitor's cron schedule says when they are expected.
    pub period: Option<Duration>,
    /// How much later one may come; none: as long as the period, or the time to the next one of a schedule, at most an
    /// hour.
    pub grace: Option<Duration>,
    /// The longest time from a start ping to the end of its run; none: any.
    pub max_run: Option<Duration>,
    /// The secret in the address; none: the monitor's id.
    pub token: Option<PingToken>,
}

/// The SHA-256 of a ping token, so that none is held, shown or compared byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PingToken([u8; 32]);

impl PingToken {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// How the statuses of others make one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Whose.
    pub members: Box<[Member]>,
    /// How many of them must work.
    pub require: Require,
}

/// A monitor as a group names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Member {
    /// By its key, among monitors of the same source and owner; in a file among all of the file.
    Key(MonitorKey),
    /// By its id, among monitors of the same owner.
    Id(MonitorId),
}

/// `require`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Require {
    /// Every member that counts.
    All,
    /// One at least.
    Any,
    /// So many at least.
    AtLeast(u16),
}
