//! Signals, heard on the main thread by a runtime of its own: they count also when every thread of the daemon's runtime
//! hangs.

use std::future::Future;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::{Exit, Stop};
use crate::shutdown::Trigger;

/// The signals that the daemon listens to. From its making on, none of them has its default effect.
pub(super) struct Signals {
    runtime: Runtime,
    term: Signal,
    int: Signal,
    hup: Signal,
}

/// What a signal asks for.
enum Asked {
    End,
    Reload,
}

impl Signals {
    /// Call it first of all: a SIGHUP would end a program that is still reading its configuration.
    pub(super) fn new() -> Result<Self, Stop> {
        let failed = |error: std::io::Error| Stop::new(Exit::Failure, format!("signals cannot be handled: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let inside = runtime.enter();
        let on = |kind| signal(kind).map_err(failed);
        let (term, int, hup) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
        drop(inside);
        Ok(Self { runtime, term, int, hup })
    }

    /// Listens until `life` ends. The first TERM or INT fires `end`, a HUP asks for a `reload`; a second TERM or INT is
    /// not waited for by anybody: none.
    pub(super) fn attend<T>(
        mut self,
        life: impl Future<Output = T>,
        end: &Trigger,
        reload: &mpsc::Sender<()>,
    ) -> Option<T> {
        let mut ending = false;
        self.runtime.block_on(async {
            tokio::pin!(life);
            loop {
                let asked = tokio::select! {
                    ended = &mut life => return Some(ended),
                    _ = self.term.recv() => Asked::End,
                    _ = self.int.recv() => Asked::End,
                    _ = self.hup.recv() => Asked::Reload,
                };
                match asked {
                    Asked::End if ending => return None,
                    Asked::End => {
                        ending = true;
                        end.fire();
                    }
                    // Full: a reload that has not begun yet will see the same file.
                    Asked::Reload => drop(reload.try_send(())),
                }
            }
        })
    }
}
