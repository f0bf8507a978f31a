//! Gets the store ready and keeps the lease. What happens to it is told to the life loop, which starts and ends terms.
//!
//! The lease is a row on the database's clock ([`crate::store::Lease`]). It lasts [`LEASE_SECONDS`], is renewed every 2 s
//! under a deadline of 3 s, and a standby looks four times a second: after a kill or a freeze the standby is active within
//! the length of the lease and a second.
//!
//! # When the store does not answer
//!
//! A daemon whose renewals fail goes on checking, also when its own monotonic clock says that the lease has run out.
//! If the store is away for everybody, nobody can take the lease through it, and stepping down would only mean that
//! nobody observes. If it is away for us alone, another daemon may have taken over: then targets are asked twice as often,
//! which harms nobody, and nothing of ours is written, because every write checks the epoch. Which of the two it is only
//! the store can say. So the daemon asks it again, four times a second once the lease has run out, and steps down when it
//! says that another one holds the lease. What it saw meanwhile is dropped: the other's history covers that time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::role::{Role, SharedRole};
use crate::cli::{Exit, Stop};
use crate::clock::{SystemWall, Wall as _};
use crate::journal::disk::DiskJournal;
use crate::journal::{Journal as _, Unrecorded};
use crate::model::{Gap, Record, StoreFault};
use crate::shutdown::Shutdown;
use crate::store::{Adopting, Found, LEASE_SECONDS, Lease, StartError, Store};

/// `run` starts degraded when the store is not ready by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts to reach a store that is away.
const RETRY: Duration = Duration::from_secs(1);
/// How often a standby looks at the lease, and an active daemon whose lease has run out asks for it.
const LOOK: Duration = Duration::from_millis(250);
/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_secs(LEASE_SECONDS as u64);
/// How often it is told how far an adoption is.
const TELL: Duration = Duration::from_secs(5);

/// What the life loop is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The store is away, or still being prepared: start from memory.
    Away,
    /// Another daemon is active: end the term, if there is one. Nothing is asked for before that is dealt with.
    Standby,
    /// The lease is ours.
    Active,
    /// The store can never be used.
    Stop(Stop),
}

/// An event, and what is dropped when it is dealt with.
pub(super) type Told = (Event, oneshot::Sender<()>);

/// How far an attempt came.
enum Seen {
    Held,
    Taken,
    Away(String),
}

/// What the life loop knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Undecided,
    /// It checks without a store, since then.
    Away(Instant),
    Standby,
}

/// Keeps the store usable for this daemon.
pub(super) struct Keeper {
    store: Store,
    auto_migrate: bool,
    holder: String,
    role: Arc<SharedRole>,
    /// Somebody was refused by the epoch.
    suspect: Arc<Notify>,
    tell: mpsc::Sender<Told>,
    standing: Standing,
    journal: Arc<DiskJournal>,
    /// A preparation that is under way. It goes on when nobody waits for it: an adoption may take long, and must not be
    /// cut off and begun again.
    preparing: Option<JoinHandle<Result<Found, StartError>>>,
    /// When that was last told, or began.
    told: Instant,
}

impl Keeper {
    /// A keeper of this holder's lease.
    pub(super) fn new(
        store: Store,
        auto_migrate: bool,
        holder: String,
        role: Arc<SharedRole>,
        suspect: Arc<Notify>,
        tell: mpsc::Sender<Told>,
        journal: Arc<DiskJournal>,
    ) -> Self {
        let standing = Standing::Undecided;
        let told = Instant::now();
        Self { store, auto_migrate, holder, role, suspect, tell, standing, journal, preparing: None, told }
    }

    /// Gets the lease, keeps it, loses it, and so on until shutdown.
    pub(super) async fn run(mut self, mut shutdown: Shutdown) {
        while !shutdown.fired() {
            let waited = tokio::select! {
                () = shutdown.wait() => break,
                waited = self.wait_until_active() => waited,
            };
            if let Err(stop) = waited {
                // The life loop ends the process then.
                tokio::select! {
                    () = self.tell(Event::Stop(stop)) => shutdown.wait().await,
                    () = shutdown.wait() => {}
                }
            } else {
                self.hold(&mut shutdown).await;
            }
        }
        if let Some(preparing) = self.preparing {
            // The server rolls back what was not committed.
            preparing.abort();
        }
    }

    /// Tells the life loop, and waits until it has dealt with it.
    async fn tell(&self, event: Event) {
        let (done, dealt) = oneshot::channel();
        // Whoever does not listen any more is ending.
        if self.tell.send((event, done)).await.is_ok() {
            let _ = dealt.await;
        }
    }

    async fn prepare(&mut self) -> Result<Found, StartError> {
        let task = self.preparing.get_or_insert_with(|| {
            let (store, auto_migrate) = (self.store.clone(), self.auto_migrate);
            self.told = Instant::now();
            tokio::spawn(async move { store.prepare(auto_migrate).await })
        });
        let ended = loop {
            tokio::select! {
                ended = &mut *task => break ended,
                // It may take long, and is no standstill of ours.
                () = sleep(RETRY) => self.role.beat(),
            }
            if self.told.elapsed() >= TELL {
                self.told = Instant::now();
                let waited_for = matches!(self.standing, Standing::Away(_)).then_some(&*self.role);
                tell_adoption(&self.store, waited_for).await;
            }
        };
        self.preparing = None;
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

    /// One attempt to get the lease.
    async fn attempt(&mut self) -> Result<Seen, Stop> {
        self.role.beat();
        if self.standing == Standing::Standby {
            match self.store.lease().await {
                Ok(Some(Lease::Taken { holder, until })) => return Ok(self.taken(&holder, until)),
                Ok(_) => {}
                Err(fault) => return Ok(Seen::Away(fault.to_string())),
            }
        }
        // Also at a take-over: the one that was active may have brought a newer schema.
        match self.prepare().await {
            Ok(_) => {}
            Err(error) if error.is_away() => return Ok(Seen::Away(error.to_string())),
            Err(error) => return Err(start_stop(&error)),
        }
        let row = match self.store.lease_row().await {
            Ok(row) => row.map(|(holder, epoch)| (holder == self.holder, epoch)),
            Err(fault) => return Ok(Seen::Away(fault.to_string())),
        };
        let mut dropped = self.journal_does(move |journal| journal.before_lease(row)).await;
        match self.store.acquire(&self.holder, &self.unrecorded()).await {
            Ok(Lease::Held { epoch }) => {
                dropped = self.journal_does(move |journal| journal.leased(epoch)).await.or(dropped);
            }
            Ok(Lease::Taken { holder, until }) => return Ok(self.taken(&holder, until)),
            Err(fault) => return Ok(Seen::Away(fault.to_string())),
        }
        // Who has checked without a store was running.
        let checking = match self.standing {
            // What was seen without the lease was dropped as well.
            Standing::Away(_) if dropped.is_some() => Duration::ZERO,
            Standing::Away(since) => since.elapsed(),
            Standing::Undecided | Standing::Standby => Duration::ZERO,
        };
        if let Some(records) = dropped {
            log::warn!(records; "another daemon was active since: what this one had not recorded is dropped");
        }
        match self.store.lost(checking).await {
            // Ours from now on: they wait for their monitors' rows as results do. Killed before they are forgotten there,
            // the same gaps are written once more.
            Ok(lost) => self.keep(lost).await,
            Err(fault) => return Ok(Seen::Away(fault.to_string())),
        }
        let downtimes = self.journal_does(DiskJournal::downtimes).await;
        match self.store.record_downtime(checking, &downtimes, &self.unrecorded()).await {
            Ok(Some(gap)) => {
                let seconds = (gap.to_at - gap.from_at).as_seconds_f64();
                let since = gap.from_at.format("%F %T UTC");
                log::info!("nothing was checked for {seconds:.1} s, since {since}: noted as a gap");
            }
            Ok(None) => {}
            Err(fault) => return Ok(Seen::Away(fault.to_string())),
        }
        self.journal_does(DiskJournal::downtimes_recorded).await;
        Ok(Seen::Held)
    }

    fn unrecorded(&self) -> Unrecorded {
        self.journal.unrecorded(SystemWall.now())
    }

    async fn keep(&self, lost: Vec<Gap>) {
        if lost.is_empty() {
            return;
        }
        let monitors = lost.len();
        log::warn!(monitors; "the daemon of before could not record these monitors' results: they are gaps");
        let records = lost.into_iter().map(|gap| vec![Record::Gap(gap)]).collect();
        self.journal_does(move |journal| journal.write(records)).await;
    }

    fn taken(&self, holder: &str, until: chrono::DateTime<chrono::Utc>) -> Seen {
        self.role.set(Role::Standby(format!(
            "daemon {holder} is active, its lease lasts until {}",
            until.format("%F %T UTC")
        )));
        Seen::Taken
    }

    /// Waits until the lease is ours; an error is final.
    async fn wait_until_active(&mut self) -> Result<(), Stop> {
        let began = Instant::now();
        loop {
            let seen = if self.standing == Standing::Undecided {
                let left = PATIENCE.saturating_sub(began.elapsed());
                timeout(left, self.attempt()).await.unwrap_or_else(|_| {
                    let seconds = PATIENCE.as_secs();
                    Ok(Seen::Away(format!("it does not answer, or is still being prepared, after {seconds} s")))
                })?
            } else {
                self.attempt().await?
            };
            match seen {
                Seen::Held => break,
                Seen::Taken => {
                    if self.standing != Standing::Standby {
                        self.standing = Standing::Standby;
                        self.tell(Event::Standby).await;
                    }
                    sleep(LOOK).await;
                }
                Seen::Away(why) => {
                    self.away(why).await;
                    sleep(RETRY).await;
                }
            }
        }
        self.standing = Standing::Standby;
        self.role.set(Role::Active);
        // Not waited for: the lease must be renewed while the term begins.
        let (done, _) = oneshot::channel();
        let _ = self.tell.send((Event::Active, done)).await;
        Ok(())
    }

    async fn away(&mut self, why: String) {
        match self.standing {
            // A standby does not begin to check: it cannot know that nobody else does.
            Standing::Standby => self.role.set(Role::Standby(format!("who is active cannot be told: {why}"))),
            Standing::Away(_) => self.role.set(Role::Starting(why)),
            Standing::Undecided => {
                self.role.set(Role::Starting(why));
                self.standing = Standing::Away(Instant::now());
                self.tell(Event::Away).await;
            }
        }
    }

    /// Renews the lease until another daemon has it, or until shutdown. A renewal that is under way is not cut off: the
    /// server might do it after the lease was given up.
    async fn hold(&self, shutdown: &mut Shutdown) {
        let (mut renewed_at, mut told) = (Instant::now(), false);
        loop {
            let lapsed = renewed_at.elapsed() >= LEASE;
            if lapsed && !told {
                log::warn!(
                    "the lease ran out: a daemon that reaches the database may be active by now; checks go on here"
                );
            }
            told = lapsed;
            tokio::select! {
                () = sleep(if lapsed { LOOK } else { RENEW }) => {}
                () = self.suspect.notified() => {}
                () = shutdown.wait() => return,
            }
            let asked_at = Instant::now();
            self.role.beat();
            match self.store.renew(&self.unrecorded()).await {
                Ok(()) => {
                    renewed_at = asked_at;
                    self.role.renewed(None);
                }
                Err(fault @ StoreFault::Fenced(_)) => {
                    self.store.forget_lease();
                    log::warn!("{fault}; this one steps down and waits as a standby");
                    self.role.set(Role::Standby(fault.to_string()));
                    tokio::select! {
                        () = self.tell(Event::Standby) => {}
                        () = shutdown.wait() => {}
                    }
                    return;
                }
                Err(fault) => self.role.renewed(Some(match renewed_at.elapsed().checked_sub(LEASE) {
                    Some(since) => format!(
                        "{fault}; the lease ran out {} s ago, so another daemon may be active by now",
                        since.as_secs()
                    ),
                    None => fault.to_string(),
                })),
            }
        }
    }
}

/// Says how far an adoption is, which may take many minutes, also to those who ask whether the daemon is ready.
async fn tell_adoption(store: &Store, role: Option<&SharedRole>) {
    let Ok(Some(Adopting { moved, about })) = store.adopting().await else { return };
    let text = match moved {
        0 => "adopting the database: its tables get what they lack".to_owned(),
        _ if moved < about => {
            format!("adopting the database: {moved} of about {about} checks are moved into partitions")
        }
        _ => format!("adopting the database: all {moved} checks are moved into partitions, and rolled up now"),
    };
    log::info!("{text}");
    if let Some(role) = role {
        role.set(Role::Starting(text));
    }
}

/// How a store that cannot be used ends a command.
pub(crate) fn start_stop(error: &StartError) -> Stop {
    let exit = if error.exit_code() == Exit::Unavailable.code() { Exit::Unavailable } else { Exit::Config };
    Stop::new(exit, error.to_string())
}
