//! Gets the store ready and keeps the lease: prepare, acquire, renew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::cli::{Exit, Stop};
use crate::journal::disk::DiskJournal;
use crate::model::StoreFault;
use crate::shutdown::Shutdown;
use crate::store::{Found, LEASE_SECONDS, Lease, StartError, Store};

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

    fn set(&self, role: Role) {
        *self.lock() = (role, None);
    }

    fn renewed(&self, fault: Option<String>) {
        self.lock().1 = fault;
    }
}

/// Keeps the store usable for this daemon.
pub(super) struct Keeper {
    store: Store,
    auto_migrate: bool,
    holder: String,
    role: Arc<SharedRole>,
    gate: watch::Sender<bool>,
    journal: Arc<DiskJournal>,
    /// A preparation that is under way. It goes on when nobody waits for it: an adoption may take long, and must not be
    /// cut off and begun again.
    preparing: tokio::sync::Mutex<Option<JoinHandle<Result<Found, StartError>>>>,
}

/// How far a first attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// The lease is ours.
    Active,
    /// The store is away, or still being prepared: start from memory.
    Away,
    /// Another daemon is active: wait.
    Standby,
}

impl Keeper {
    /// A keeper that opens the gate when this daemon may write.
    pub(super) fn new(
        store: Store,
        auto_migrate: bool,
        holder: String,
        role: Arc<SharedRole>,
        gate: watch::Sender<bool>,
        journal: Arc<DiskJournal>,
    ) -> Self {
        Self { store, auto_migrate, holder, role, gate, journal, preparing: tokio::sync::Mutex::new(None) }
    }

    /// The first attempt. A store that can never be used stops the daemon.
    pub(super) async fn begin(&self) -> Result<Begun, Stop> {
        match timeout(PATIENCE, self.attempt(Instant::now())).await {
            Ok(begun) => begun,
            Err(_) => {
                let text = format!("it does not answer, or is still being prepared, after {} s", PATIENCE.as_secs());
                self.role.set(Role::Starting(text));
                Ok(Begun::Away)
            }
        }
    }

    async fn prepare(&self) -> Result<Found, StartError> {
        let mut preparing = self.preparing.lock().await;
        let task = preparing.get_or_insert_with(|| {
            let (store, auto_migrate) = (self.store.clone(), self.auto_migrate);
            tokio::spawn(async move { store.prepare(auto_migrate).await })
        });
        let ended = task.await;
        *preparing = None;
        ended.unwrap_or_else(|error| Err(StartError::Migration(error.to_string())))
    }

    /// Does what blocks on the disk.
    async fn journal_does<T: Send + 'static>(&self, work: impl FnOnce(&DiskJournal) -> T + Send + 'static) -> T {
        let journal = Arc::clone(&self.journal);
        match tokio::task::spawn_blocking(move || work(&journal)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is ending.
            Err(_) => std::future::pending().await,
        }
    }

    /// `checking_since`: from then on the time is no gap.
    async fn attempt(&self, checking_since: Instant) -> Result<Begun, Stop> {
        let away = |why: String| {
            self.role.set(Role::Starting(why));
            Ok(Begun::Away)
        };
        match self.prepare().await {
            Ok(_) => {}
            Err(error) if error.is_away() => return away(error.to_string()),
            Err(error) => return Err(start_stop(&error)),
        }
        let row = match self.store.lease_row().await {
            Ok(row) => row.map(|(holder, epoch)| (holder == self.holder, epoch)),
            Err(fault) => return away(fault.to_string()),
        };
        let mut dropped = self.journal_does(move |journal| journal.before_lease(row)).await;
        match self.store.acquire(&self.holder).await {
            Ok(Lease::Held { epoch }) => {
                dropped = self.journal_does(move |journal| journal.leased(epoch)).await.or(dropped);
            }
            Ok(Lease::Taken { holder, until }) => {
                self.role.set(Role::Standby(format!("daemon {holder} is active, its lease lasts until {until}")));
                return Ok(Begun::Standby);
            }
            Err(fault) => return away(fault.to_string()),
        }
        if let Some(records) = dropped {
            log::warn!(records; "another daemon was active since: what this one had not recorded is dropped");
        }
        // What was seen without the lease is dropped as well, so it was not observed.
        let checking = if dropped.is_some() { Duration::ZERO } else { checking_since.elapsed() };
        match self.store.record_downtime(checking, &self.journal.downtimes()).await {
            Ok(Some(gap)) => {
                let (seconds, since) = ((gap.to_at - gap.from_at).num_seconds(), gap.from_at.format("%F %T UTC"));
                log::info!("nothing was checked for {seconds} s, since {since}: noted as a gap");
            }
            Ok(None) => {}
            Err(fault) => return away(fault.to_string()),
        }
        self.journal_does(DiskJournal::downtimes_recorded).await;
        self.role.set(Role::Active);
        self.gate.send_replace(true);
        Ok(Begun::Active)
    }

    /// Waits until the lease is ours; errors are final. A daemon that checks already steps down when another is active:
    /// what it saw meanwhile must not be written beside the other's history.
    async fn wait_until_active(&self, begun: Begun) -> Result<(), Stop> {
        let began = Instant::now();
        loop {
            // The time of a standby is a gap until it takes over.
            let checking_since = if begun == Begun::Standby { Instant::now() } else { began };
            match self.attempt(checking_since).await? {
                Begun::Active => return Ok(()),
                Begun::Standby if begun == Begun::Away => {
                    let text = "another daemon became active on this database while it was away from this one: this daemon \
                        ends, and what it saw meanwhile is not recorded; started again it waits as a standby";
                    return Err(Stop::new(Exit::Failure, text));
                }
                Begun::Standby | Begun::Away => sleep(RETRY).await,
            }
        }
    }

    /// Gets the lease if it is not ours yet, then renews it until shutdown. An error ends the daemon.
    pub(super) async fn keep(self, begun: Begun, mut shutdown: Shutdown) -> Result<(), Stop> {
        let keeping = async {
            if begun != Begun::Active {
                self.wait_until_active(begun).await?;
                log::info!("the database is there: this daemon is active");
            }
            let mut ticks = interval(Duration::from_secs(u64::from(LEASE_SECONDS) / 3));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match self.store.renew().await {
                    Ok(()) => self.role.renewed(None),
                    Err(fault @ StoreFault::Fenced(_)) => {
                        self.gate.send_replace(false);
                        let text = format!("{fault}: this daemon ends; started again it waits as a standby");
                        return Err(Stop::new(Exit::Failure, text));
                    }
                    Err(fault) => self.role.renewed(Some(fault.to_string())),
                }
            }
        };
        tokio::select! {
            () = shutdown.wait() => Ok(()),
            ended = keeping => ended,
        }
    }
}

/// How a store that cannot be used ends a command.
pub(crate) fn start_stop(error: &StartError) -> Stop {
    let exit = if error.exit_code() == Exit::Unavailable.code() { Exit::Unavailable } else { Exit::Config };
    Stop::new(exit, error.to_string())
}
