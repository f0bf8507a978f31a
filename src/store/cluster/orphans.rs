//! What an earlier daemon left behind, after a `kill -9` or a power cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::{ClusterError, POLL, signal_process};
use crate::settings::limited;

/// How long an orphan may take for its shutdown before it is asked less kindly.
const PATIENCE: Duration = Duration::from_secs(15);

/// Lines of `postmaster.pid` (PostgreSQL's pidfile.h): the pid first, the state eighth.
fn pid_file(data: &Path) -> Option<(u32, String)> {
    let text = limited::read(&data.join("postmaster.pid"), 4096).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    Some((pid, lines.nth(6).unwrap_or_default().trim().to_owned()))
}

/// Whether this postmaster accepts connections.
pub(super) fn is_ready(data: &Path, pid: u32) -> bool {
    pid_file(data).is_some_and(|(found, state)| found == pid && state == "ready")
}

/// Ends every process that still works on these data, and removes a stale pid file. We hold the state directory's lock, so
/// whoever works there belongs to a daemon that is gone.
pub(super) fn clear(data: &Path) -> Result<(), ClusterError> {
    for signal in [Signal::INT, Signal::QUIT, Signal::KILL] {
        let began = Instant::now();
        let mut told = false;
        loop {
            let holders = holders(data);
            if holders.is_empty() {
                return remove_pid_file(data);
            }
            if !told {
                // Only the postmaster is asked at first; its children follow it, or notice that it is gone.
                let postmaster = pid_file(data).map(|(pid, _)| pid).filter(|pid| holders.contains(pid));
                match (postmaster, signal) {
                    (Some(pid), Signal::INT | Signal::QUIT) => signal_process(pid, signal),
                    (_, Signal::INT) => {}
                    _ => holders.iter().for_each(|pid| signal_process(*pid, signal)),
                }
                told = true;
            }
            if began.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(POLL);
        }
    }
    Err(ClusterError::Start(format!("a process that works on {} does not end", data.display())))
}

fn remove_pid_file(data: &Path) -> Result<(), ClusterError> {
    let path = data.join("postmaster.pid");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ClusterError::state(&path, error)),
        _ => Ok(()),
    }
}

/// Processes whose working directory is the data folder: the postmaster and all its children, and nobody else.
fn holders(data: &Path) -> Vec<u32> {
    let is_holder = |path: PathBuf| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == data);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| is_holder(PathBuf::from(format!("/proc/{pid}"))) && !is_zombie(*pid))
        .collect()
}

fn is_zombie(pid: u32) -> bool {
    let stat = limited::read(Path::new(&format!("/proc/{pid}/stat")), 4096).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}
