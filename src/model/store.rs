//! What can go wrong with the store, for those who call it through a port.

use std::fmt;

/// Why the store did not do what it was asked. The text names no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// Not reachable, too slow, read-only, out of connections, out of disk: the same call may work later.
    Away(String),
    /// Another daemon holds the lease: this one must not write.
    Fenced(String),
    /// This call cannot work, later neither: a bug, or a schema that is not ours.
    Refused(String),
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why) => write!(f, "the database is away: {why}"),
            Self::Fenced(why) => write!(f, "another daemon is active: {why}"),
            Self::Refused(why) => write!(f, "the database refused: {why}"),
        }
    }
}

impl std::error::Error for StoreFault {}
