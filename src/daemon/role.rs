//! What the daemon is to the store, as it is shown.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the daemon is to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Not ready yet, or away since the start; why.
    Starting(String),
    /// Another daemon is active; which.
    Standby(String),
    /// The lease is ours.
    Active,
}

/// The role, and why the lease could not be renewed the last time; shared with those who show it.
#[derive(Debug)]
pub(super) struct SharedRole(Mutex<(Role, Option<String>)>);

impl SharedRole {
    pub(super) fn new() -> Self {
        Self(Mutex::new((Role::Starting("it was not asked yet".to_owned()), None)))
    }

    fn lock(&self) -> MutexGuard<'_, (Role, Option<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> Role {
        self.lock().0.clone()
    }

    /// Why the store did not answer the last renewal.
    pub(super) fn fault(&self) -> Option<String> {
        self.lock().1.clone()
    }

    pub(super) fn set(&self, role: Role) {
        *self.lock() = (role, None);
    }

    pub(super) fn renewed(&self, fault: Option<String>) {
        self.lock().1 = fault;
    }
}
