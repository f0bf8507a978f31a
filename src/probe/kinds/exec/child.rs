//! A plugin's process: started in a process group of its own, its output read within bounds, and never left behind.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::probe::net::spare_descriptor;

/// Of each of standard output and error so much is kept; the rest is read and dropped.
pub(super) const KEPT_BYTES: usize = 64 * 1024;
/// A plugin that writes more than this is stopped: reading on would cost a processor until the deadline.
pub(super) const MOST_BYTES: usize = 16 << 20;
/// Between SIGTERM and SIGKILL. With [`DRAIN`] it stays well below the second after which a result is late.
const GRACE: Duration = Duration::from_millis(300);
/// How long the pipes are read when the plugin has ended: only what has left its group can hold them open.
const DRAIN: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 16 * 1024;

/// How a plugin ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// By itself, or by a signal that was not ours.
    Exited(ExitStatus),
    /// It was stopped at the deadline.
    TimedOut,
    /// It wrote more than [`MOST_BYTES`] and was stopped.
    Flooded,
}

/// A plugin that ran.
pub(super) struct Ran {
    pub(super) ending: Ending,
    /// The first [`KEPT_BYTES`].
    pub(super) stdout: Vec<u8>,
    /// The first [`KEPT_BYTES`].
    pub(super) stderr: Vec<u8>,
}

/// Runs to the end or the deadline. An error is one of starting, or `TimedOut` when even that took until the deadline.
/// Cancel-safe: dropped, the whole group is killed.
pub(super) async fn run(mut command: Command, deadline: Instant) -> io::Result<Ran> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // The pipes come from the runtime.
    spare_descriptor()?;
    // Before the start, so that no end is missed.
    let mut ends = signal(SignalKind::child())?;
    // A file on a dead network mount holds the starting thread: not one that other checks need.
    let starting = tokio::task::spawn_blocking(move || Group::start(&mut command));
    let started = timeout_at(deadline, starting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    let mut group = started.map_err(io::Error::other)??;
    let (mut stdout, mut stderr) = (Capture::default(), Capture::default());
    let (out, err) = (group.child.stdout.take(), group.child.stderr.take());
    let ending = {
        let reading = async { tokio::try_join!(stdout.fill(out), stderr.fill(err)) };
        tokio::pin!(reading);
        let mut is_open = true;
        let ending = loop {
            tokio::select! {
                // What was written before the end or the deadline counts, whichever is noticed first.
                biased;
                read = &mut reading, if is_open => {
                    is_open = false;
                    if read.is_err() {
                        break Some(Ending::Flooded);
                    }
                }
                () = group.ended(&mut ends) => break None,
                () = sleep_until(deadline) => break Some(Ending::TimedOut),
            }
        };
        if ending.is_some() {
            group.send(Signal::TERM);
            let _ = timeout(GRACE, async {
                if is_open {
                    let _ = (&mut reading).await;
                    is_open = false;
                }
                group.ended(&mut ends).await;
            })
            .await;
        }
        // Also when it has ended: what it left running in its group ends with it.
        group.send(Signal::KILL);
        if is_open {
            let _ = timeout(DRAIN, reading).await;
        }
        ending
    };
    // One that cannot even be killed (state D) is left to the runtime to reap.
    let status = timeout(DRAIN, group.ended(&mut ends)).await.ok().and_then(|()| group.reap());
    let ending = match (ending, status) {
        (Some(ending), _) => ending,
        (None, Some(status)) => Ending::Exited(status),
        (None, None) => return Err(io::Error::other("the end of the process was lost")),
    };
    Ok(Ran { ending, stdout: stdout.kept, stderr: stderr.kept })
}

/// A process that leads its group. Dropped, the group is killed; the runtime reaps the leader.
struct Group {
    child: Child,
    /// Also the group's id. Until the leader is reaped the kernel gives it to nobody else.
    pid: Option<Pid>,
}

impl Group {
    fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, pid })
    }

    fn send(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // ESRCH: nobody is left, which is what was wanted.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Waits for the leader's end without reaping it, so that its group can still be told safely.
    async fn ended(&self, ends: &mut Stream) {
        let Some(pid) = self.pid else { return };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::Pid(pid), look) {
                Ok(None) => {}
                Err(Errno::INTR) => continue,
                Ok(Some(_)) | Err(_) => return,
            }
            if ends.recv().await.is_none() {
                return;
            }
        }
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        self.pid = None;
        Some(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.send(Signal::KILL);
    }
}

/// More than [`MOST_BYTES`] came.
#[derive(Debug)]
struct Flood;

#[derive(Default)]
struct Capture {
    kept: Vec<u8>,
    received: usize,
}

impl Capture {
    /// Reads until the other side closes.
    async fn fill(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> Result<(), Flood> {
        let Some(mut pipe) = pipe else { return Ok(()) };
        let mut piece = vec![0; READ_BYTES];
        loop {
            let length = match pipe.read(&mut piece).await {
                Ok(length @ 1..) => length,
                // A pipe has no errors but our own; what was read counts.
                Ok(0) | Err(_) => return Ok(()),
            };
            let room = KEPT_BYTES - self.kept.len();
            self.kept.extend_from_slice(piece.get(..length.min(room)).unwrap_or_default());
            self.received += length;
            if self.received > MOST_BYTES {
                return Err(Flood);
            }
        }
    }
}
