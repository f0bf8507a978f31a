//! What systemd is told (sd_notify(3)): datagrams to the socket that `NOTIFY_SOCKET` names. Without one, nothing.
//!
//! The watchdog is fed by progress only: by the scheduler's while there is a term, by the keeper's of the lease otherwise.
//! A scheduler that stands still is silent here, and systemd ends the process.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::catalog::sync::Reloads;
use crate::cli::Environment;
use crate::shutdown::Shutdown;

/// Whoever made no progress for so long stands still. The dispatcher looks at its wheel, and the keeper at the lease, far
/// more often.
pub(super) const STILL: Duration = Duration::from_secs(5);
/// How often the status line is made anew.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// A manager that reads nothing holds us up for so long at the most.
const SEND: Duration = Duration::from_millis(200);
/// Longest status line, bytes: systemd shows one line.
const STATUS_MOST: usize = 256;

/// The way to systemd. Cheap to clone.
#[derive(Clone)]
pub(super) struct Systemd(Option<Arc<Inner>>);

struct Inner {
    socket: UnixDatagram,
    /// Half of `WATCHDOG_USEC`, if it is meant for us.
    ping_every: Option<Duration>,
    ready: watch::Sender<bool>,
    status: Mutex<String>,
}

impl Systemd {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`. An address that cannot be used is logged.
    pub(super) fn new(environment: &Environment) -> Self {
        let Some(address) = environment.get("NOTIFY_SOCKET") else { return Self(None) };
        let socket = match connect(address) {
            Ok(socket) => socket,
            Err(error) => {
                log::warn!("NOTIFY_SOCKET={address} cannot be used, so systemd is told nothing: {error}");
                return Self(None);
            }
        };
        let own = environment.get("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let usec = environment.get("WATCHDOG_USEC").and_then(|usec| usec.parse::<u64>().ok()).filter(|usec| *usec > 0);
        let ping_every = usec.filter(|_| own).map(|usec| Duration::from_micros(usec) / 2);
        Self(Some(Arc::new(Inner { socket, ping_every, ready: watch::Sender::new(false), status: Mutex::default() })))
    }

    /// Whether there is somebody to be told.
    pub(super) const fn listens(&self) -> bool {
        self.0.is_some()
    }

    fn send(&self, text: &str) {
        if let Some(inner) = &self.0
            && let Err(error) = inner.socket.send(text.as_bytes())
        {
            log::debug!("systemd could not be told: {error}");
        }
    }

    /// It runs: active, degraded or as a standby. Told once.
    pub(super) fn ready(&self) {
        if let Some(inner) = &self.0
            && !inner.ready.send_replace(true)
        {
            self.send("READY=1");
        }
    }

    async fn wait_until_ready(&self, stop: &mut Shutdown) -> bool {
        let Some(inner) = &self.0 else { return false };
        let mut ready = inner.ready.subscribe();
        tokio::select! {
            () = stop.wait() => false,
            ready = ready.wait_for(|ready| *ready) => ready.is_ok(),
        }
    }

    /// A shutdown begins.
    pub(super) fn stopping(&self) {
        if let Some(inner) = &self.0 {
            inner.ready.send_replace(false);
        }
        self.send("STOPPING=1\nSTATUS=shutting down");
    }

    /// One line for `systemctl status`, told when it differs from the last.
    pub(super) fn status(&self, line: &str) {
        let Some(inner) = &self.0 else { return };
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut end = line.len().min(STATUS_MOST);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let line = line.get(..end).unwrap_or_default();
        let mut last = inner.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != line {
            line.clone_into(&mut last);
            drop(last);
            self.send(&format!("STATUS={line}"));
        }
    }

    /// Asks for more time to start while `starting` goes on: what it waits for may be a recovery.
    pub(super) async fn while_starting<T>(&self, starting: impl Future<Output = T>) -> T {
        let mut ticks = interval(Duration::from_secs(5));
        tokio::pin!(starting);
        loop {
            tokio::select! {
                done = &mut starting => return done,
                _ = ticks.tick() => self.send("EXTEND_TIMEOUT_USEC=30000000"),
            }
        }
    }

    /// Feeds the watchdog while `ending` goes on. The scheduler moves no more then, and systemd would end what is still
    /// being recorded; each stage of the end has a deadline of its own.
    pub(super) async fn while_ending<T>(&self, ending: impl Future<Output = T>) -> T {
        let Some(every) = self.0.as_ref().and_then(|inner| inner.ping_every) else { return ending.await };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(ending);
        loop {
            tokio::select! {
                done = &mut ending => return done,
                _ = ticks.tick() => self.send("WATCHDOG=1"),
            }
        }
    }

    /// Tells the beginning and the end of every reload, until shutdown.
    pub(super) async fn follow_reloads(self, mut reloads: watch::Receiver<Reloads>, mut stop: Shutdown) {
        // READY=1 would end the start.
        if !self.wait_until_ready(&mut stop).await {
            return;
        }
        // Those of before this loop were told by the one of before, or by none.
        let mut told = reloads.borrow_and_update().ended;
        loop {
            let now = *reloads.borrow_and_update();
            if now.begun > told {
                self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now_usec()));
                if now.ended >= now.begun {
                    self.send("READY=1");
                    told = now.ended;
                    continue;
                }
                tokio::select! {
                    () = stop.wait() => return,
                    ended = reloads.wait_for(|reloads| reloads.ended >= now.begun) => match ended {
                        Ok(reloads) => told = reloads.ended,
                        Err(_) => return,
                    },
                }
                self.send("READY=1");
            } else {
                tokio::select! {
                    () = stop.wait() => return,
                    changed = reloads.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// Keeps the status line current, until shutdown.
    pub(super) async fn keep_status(self, line: impl Fn() -> String, mut stop: Shutdown) {
        let mut ticks = interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.wait() => return,
                _ = ticks.tick() => self.status(&line()),
            }
        }
    }

    /// Feeds the watchdog while `progress` was made within [`STILL`], until shutdown.
    pub(super) async fn keep_watchdog(self, progress: impl Fn() -> Instant, mut stop: Shutdown) {
        let Some(inner) = &self.0 else { return stop.wait().await };
        let Some(every) = inner.ping_every else { return stop.wait().await };
        // The watchdog begins with READY=1.
        if !self.wait_until_ready(&mut stop).await {
            return;
        }
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut still = false;
        loop {
            tokio::select! {
                () = stop.wait() => return,
                _ = ticks.tick() => {}
            }
            if !*inner.ready.borrow() {
                // The end is under way, and feeds it.
                continue;
            }
            let since = Instant::now().saturating_duration_since(progress());
            if since < STILL {
                self.send("WATCHDOG=1");
            } else if !still {
                log::error!("no progress for {} s: the watchdog is not fed any more", since.as_secs());
            }
            still = since >= STILL;
        }
    }
}

fn connect(address: &str) -> std::io::Result<UnixDatagram> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND))?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// CLOCK_MONOTONIC, which `MONOTONIC_USEC` is on.
fn now_usec() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000
}

#[cfg(test)]
mod tests;
