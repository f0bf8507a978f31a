//! Who may see what through the API, and the ports that answer it.

use serde::{Deserialize, Serialize};

use crate::model::{SYSTEM_USER, UserId};

pub mod export;
pub mod read;
pub mod token;

/// What a token may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// See.
    Read,
    /// Change what is the token's user's.
    Write,
    /// See and change everything, and command the daemon.
    Admin,
}

impl Scope {
    /// Every scope, weakest first.
    pub const ALL: &'static [Self] = &[Self::Read, Self::Write, Self::Admin];

    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.name() == name)
    }
}

/// Whose rows somebody sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// Everybody's.
    Everything,
    /// One user's.
    User(UserId),
}

impl Viewer {
    /// The one user, if it is one.
    #[must_use]
    pub const fn user(self) -> Option<UserId> {
        match self {
            Self::Everything => None,
            Self::User(user) => Some(user),
        }
    }

    /// Whether rows of this owner are seen.
    #[must_use]
    pub fn sees(self, owner: UserId) -> bool {
        self.user().is_none_or(|user| user == owner)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What they may do.
    pub scope: Scope,
    /// What they see.
    pub viewer: Viewer,
}

impl Caller {
    /// Somebody who may do everything.
    pub const ADMIN: Self = Self { scope: Scope::Admin, viewer: Viewer::Everything };

    /// Somebody of the house: an administrator, or a token that belongs to no person.
    #[must_use]
    pub fn is_of_the_house(&self) -> bool {
        self.viewer.sees(SYSTEM_USER)
    }
}
