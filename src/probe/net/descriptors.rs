//! Descriptors that checks leave to the rest of the daemon. Ten thousand checks in flight would take them all, and with
//! them the journal, the store and the pages; a check without one is `resource_exhausted`, and loses nobody anything.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Socket, Type};

/// The part of the limit that checks leave alone: more than the places of the admin server, an eighth.
const SHARE: u64 = 4;
/// Nor more than this: all places of the admin server, the store's connections and the files of the journal are fewer.
const MOST: u64 = 1024;

/// What the kernel gave, unless it is one of the last: then `EMFILE`, as if the kernel had none. It gives the lowest free
/// number, so one near the limit means that nearly all below are taken. The limit is asked each time, since it may be
/// changed from outside (prlimit(1)).
pub(super) fn keep<T: AsFd>(new: T) -> io::Result<T> {
    let number = u64::try_from(new.as_fd().as_raw_fd()).unwrap_or_default();
    match getrlimit(Resource::Nofile).current {
        Some(limit) if number >= left_to_checks(limit) => Err(Errno::MFILE.into()),
        _ => Ok(new),
    }
}

/// Whether a check may take a few more, for those that come from elsewhere, such as pipes.
pub fn spare_descriptor() -> io::Result<()> {
    keep(Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?).map(drop)
}

/// Numbers below this are for checks.
const fn left_to_checks(limit: u64) -> u64 {
    let share = limit / SHARE;
    limit - if share < MOST { share } else { MOST }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_left_and_at_most_a_thousand() {
        for (limit, below) in [(0, 0), (3, 3), (16, 12), (1024, 768), (4096, 3072), (524_288, 523_264)] {
            assert_eq!(left_to_checks(limit), below, "{limit}");
        }
        assert!(spare_descriptor().is_ok(), "this test has few open");
    }
}
