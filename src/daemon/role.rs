//! What the daemon is to the store, as it is shown.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::metrics::work::Moment;

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
pub(super) struct SharedRole(Mutex<(Role, Option<String>)>, Mutex<Instant>, Moment);

impl SharedRole {
    pub(super) fn new() -> Self {
        Self(
            Mutex::new((Role::Starting("it was not asked yet".to_owned()), None)),
            Mutex::new(Instant::now()),
            Moment::default(),
        )
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

    /// When the lease was taken or last renewed; none: never.
    pub(super) fn renewed_at(&self) -> Option<Instant> {
        self.2.get()
    }

    /// The keeper of the lease moves.
    pub(super) fn beat(&self) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When it last did, at least every 4 s.
    pub(super) fn pulse(&self) -> Instant {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, role: Role) {
        if role == Role::Active {
            self.2.set(Some(Instant::now()));
        }
        *self.lock() = (role, None);
    }

    pub(super) fn renewed(&self, fault: Option<String>) {
        if fault.is_none() {
            self.2.set(Some(Instant::now()));
        }
        self.lock().1 = fault;
    }
}
