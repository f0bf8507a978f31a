//! Signals that end a command early: what it started must not outlive it. A plugin leads a process group of its own, so
//! the Ctrl-C of a terminal reaches only us.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::settings::limited;

/// More than `/proc/self/status` has.
const STATUS_MOST: u64 = 64 * 1024;

/// The signals that are listened to. From its making on, none of them has its default effect.
pub(super) struct Interrupts {
    streams: Vec<(u8, Signal)>,
}

impl Interrupts {
    /// SIGINT, SIGTERM and SIGHUP, but for those that whoever started us has them ignored (nohup(1), a shell's background
    /// job). Inside a runtime.
    pub(super) fn listen() -> io::Result<Self> {
        let status = limited::read(Path::new("/proc/self/status"), STATUS_MOST).unwrap_or_default();
        let ignored = ignored(&status);
        let ends = [(1, SignalKind::hangup()), (2, SignalKind::interrupt()), (15, SignalKind::terminate())];
        let heard = ends.into_iter().filter(|(number, _)| ignored >> (number - 1) & 1 == 0);
        let streams: io::Result<_> = heard.map(|(number, kind)| Ok((number, signal(kind)?))).collect();
        Ok(Self { streams: streams? })
    }

    /// The number of the next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> u8 {
        poll_fn(|cx| {
            let came = self
                .streams
                .iter_mut()
                .find_map(|(number, stream)| matches!(stream.poll_recv(cx), Poll::Ready(Some(()))).then_some(*number));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The ignored signals of `/proc/PID/status`, the first in the lowest bit (proc(5), `SigIgn`).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001003\nSigCgt:\t0000000000000001\n"), 0x1003);
        assert_eq!(ignored(""), 0);
    }
}
