//! The process's own figures, from `/proc/self` (proc(5)); none where that is not mounted.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::settings::limited;

/// More than any of the files read here.
const FILE_MOST: u64 = 64 * 1024;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Bytes in memory.
    pub resident_bytes: u64,
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// The soft limit of them; none: no limit.
    pub max_fds: Option<u64>,
}

/// The figures now.
#[must_use]
pub fn read() -> Option<ProcessFigures> {
    let stat = limited::read(Path::new("/proc/self/stat"), FILE_MOST).ok()?;
    let mut figures = parse_stat(
        &stat,
        rustix::param::clock_ticks_per_second(),
        u64::try_from(rustix::param::page_size()).unwrap_or_default(),
    )?;
    // One of them is the folder that is being read.
    figures.open_fds = (std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1);
    figures.max_fds = getrlimit(Resource::Nofile).current;
    Some(figures)
}

/// `/proc/self/stat`: the name in parentheses may hold anything, so fields count from the last of them.
fn parse_stat(stat: &str, ticks: u64, page: u64) -> Option<ProcessFigures> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first of them is number 3 (state) in proc(5).
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    let cpu_ticks = field(14)?.saturating_add(field(15)?);
    Some(ProcessFigures {
        cpu: Duration::from_millis(cpu_ticks.saturating_mul(1000).checked_div(ticks)?),
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)?.saturating_mul(page),
        open_fds: 0,
        max_fds: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_shifts_nothing() {
        let stat =
            "7 (a) R (b) S 1 7 7 0 -1 4194304 10 0 0 0 150 50 0 0 20 0 9 0 123 4096000 25 18446744073709551615 0";
        let figures = parse_stat(stat, 100, 4096).unwrap();
        assert_eq!((figures.cpu, figures.threads), (Duration::from_secs(2), 9));
        assert_eq!((figures.virtual_bytes, figures.resident_bytes), (4_096_000, 102_400));
        for broken in ["", "7 (a", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 4194304 10 0 0 0 x 50 0 0 20 0 9 0 123 4096000 25"]
        {
            assert_eq!(parse_stat(broken, 100, 4096), None, "{broken}");
        }
    }

    #[test]
    fn this_process_has_figures() {
        let before = read().unwrap();
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let after = read().unwrap();
        drop(file);
        assert!(before.resident_bytes > 1 << 20 && before.threads >= 1 && after.open_fds >= 4, "{before:?} {after:?}");
        assert!(after.cpu >= before.cpu && after.max_fds.is_none_or(|most| most > after.open_fds));
    }
}
