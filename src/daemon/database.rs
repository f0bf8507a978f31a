//! Gets the store ready and keeps the lease: prepare, acquire, renew.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::cli::{Exit, Stop};
use crate::model::StoreFault;
use crate::shutdown::Shutdown;
use crate::store::{LEASE_SECONDS, Lease, StartError, Store};

/// `run` starts degraded when the store is not ready by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts to reach a store that is away, or to get a lease that another holds.
const RETRY: Duration = Duration::from_secs(1);

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

/// The role, shared with those who show it.
#[derive(Debug)]
pub(super) struct SharedRole(Mutex<Role>);

impl SharedRole {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Role::Starting("not asked yet".to_owned())))
    }

    pub(super) fn get(&self) -> Role {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, role: Role) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = role;
    }
}

/// Keeps the store usable for this daemon.
pub(super) struct Keeper {
    pub(super) store: Store,
    pub(super) auto_migrate: bool,
    pub(super) holder: String,
    pub(super) role: std::sync::Arc<SharedRole>,
    pub(super) gate: watch::Sender<bool>,
}

/// How far a first attempt came.
pub(super) enum Begun {
    /// The lease is ours.
    Active,
    /// The store is away: start from memory.
    Away,
    /// Another daemon is active: wait.
    Standby,
}

impl Keeper {
    /// The first attempt. A store that can never be used stops the daemon.
    pub(super) async fn begin(&self) -> Result<Begun, Stop> {
        match timeout(PATIENCE, self.attempt(Instant::now())).await {
            Ok(Ok(begun)) => Ok(begun),
            Ok(Err(stop)) => Err(stop),
            Err(_) => {
                self.role.set(Role::Starting(format!("no answer within {} s", PATIENCE.as_secs())));
                Ok(Begun::Away)
            }
        }
    }

    /// `checking_since`: from then on the time is no gap.
    async fn attempt(&self, checking_since: Instant) -> Result<Begun, Stop> {
        match self.store.prepare(self.auto_migrate).await {
            Ok(_) => {}
            Err(error) if error.is_away() => {
                self.role.set(Role::Starting(error.to_string()));
                return Ok(Begun::Away);
            }
            Err(error) => return Err(start_stop(&error)),
        }
        match self.store.acquire(&self.holder).await {
            Ok(Lease::Held { .. }) => {}
            Ok(Lease::Taken { holder, until }) => {
                self.role.set(Role::Standby(format!("daemon {holder} is active, its lease lasts until {until}")));
                return Ok(Begun::Standby);
            }
            Err(fault) => {
                self.role.set(Role::Starting(fault.to_string()));
                return Ok(Begun::Away);
            }
        }
        match self.store.record_downtime(checking_since.elapsed()).await {
            Ok(Some(gap)) => {
                let seconds = (gap.to_at - gap.from_at).num_seconds();
                log::info!(
                    "nothing was checked for {seconds} s, since {}: noted as a gap",
                    gap.from_at.format("%F %T UTC")
                );
            }
            Ok(None) => {}
            Err(fault) => {
                self.role.set(Role::Starting(fault.to_string()));
                return Ok(Begun::Away);
            }
        }
        self.role.set(Role::Active);
        self.gate.send_replace(true);
        Ok(Begun::Active)
    }

    /// Waits until the lease is ours; errors are final.
    pub(super) async fn wait_until_active(&self) -> Result<(), Stop> {
        // Checks run already unless we are a standby, whose time is a gap until it takes over.
        let began = Instant::now();
        let standby = matches!(self.role.get(), Role::Standby(_));
        loop {
            let checking_since = if standby { Instant::now() } else { began };
            if let Begun::Active = self.attempt(checking_since).await? {
                return Ok(());
            }
            sleep(RETRY).await;
        }
    }

    /// Gets the lease if it is not ours yet, then renews it until shutdown. An error ends the daemon.
    pub(super) async fn keep(self, mut shutdown: Shutdown) -> Result<(), Stop> {
        let keeping = async {
            if !matches!(self.role.get(), Role::Active) {
                self.wait_until_active().await?;
                log::info!("the database is there: this daemon is active");
            }
            let mut ticks = interval(Duration::from_secs(u64::from(LEASE_SECONDS) / 3));
            loop {
                ticks.tick().await;
                match self.store.renew().await {
                    Ok(()) | Err(StoreFault::Away(_)) => {}
                    Err(fault @ (StoreFault::Fenced(_) | StoreFault::Refused(_))) => {
                        self.gate.send_replace(false);
                        let text = format!("{fault}: this daemon steps down; start it again to wait as a standby");
                        return Err(Stop::new(Exit::Failure, text));
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.wait() => {}
            ended = keeping => return ended,
        }
        Ok(())
    }
}

/// How a store that cannot be used ends a command.
pub(crate) fn start_stop(error: &StartError) -> Stop {
    let exit = if error.exit_code() == Exit::Unavailable.code() { Exit::Unavailable } else { Exit::Config };
    Stop::new(exit, error.to_string())
}
