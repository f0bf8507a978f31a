//! What this machine gives the daemon: looking, without a word on whether it is enough.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags};

use crate::settings::limited;

/// Files of /proc are small.
const PROC_MOST: u64 = 1 << 16;
/// capabilities(7).
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_RAW: u32 = 13;

/// Whose rights and limits count: the daemon's while it runs, else those of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// The daemon's process; none when it does not run.
    pub(super) pid: Option<u32>,
    pub(super) uid: u32,
    /// The group first, then the supplementary ones.
    pub(super) groups: Vec<u32>,
    /// Effective capabilities.
    pub(super) capabilities: u64,
    /// Soft limit of descriptors; none when it could not be read.
    pub(super) descriptors: Option<u64>,
}

impl Subject {
    pub(super) fn look(daemon: Option<u32>) -> Option<Self> {
        let folder = daemon.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let text = |name: &str| limited::read(&Path::new("/proc").join(&folder).join(name), PROC_MOST).ok();
        let mut subject = parse_status(&text("status")?)?;
        subject.pid = daemon;
        subject.descriptors = text("limits").as_deref().and_then(parse_limit);
        Some(subject)
    }

    /// The same program run by whoever owns the state directory: what root sees is not what a service of another user will.
    pub(super) fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.groups = vec![gid];
        self.capabilities = 0;
        self
    }

    pub(super) const fn may_send_raw(&self) -> bool {
        self.capabilities >> CAP_NET_RAW & 1 == 1
    }

    pub(super) const fn may_bind_low(&self) -> bool {
        self.capabilities >> CAP_NET_BIND_SERVICE & 1 == 1
    }

    /// Whether the mode bits let it do all of `wanted` (4 read, 2 write, 1 pass).
    pub(super) fn may(&self, place: &Place, wanted: u32) -> bool {
        let shift = match () {
            () if self.uid == 0 => return true,
            () if self.uid == place.uid => 6,
            () if self.groups.contains(&place.gid) => 3,
            () => 0,
        };
        place.mode >> shift & wanted == wanted
    }
}

/// `/proc/PID/status` (proc(5)): the second number of `Uid` and `Gid` is the effective one.
fn parse_status(text: &str) -> Option<Subject> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let numbers = |name: &str| -> Option<Vec<u32>> {
        field(name)?.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    let uid = *numbers("Uid")?.get(1)?;
    let mut groups = vec![*numbers("Gid")?.get(1)?];
    groups.extend(numbers("Groups").unwrap_or_default());
    let capabilities = u64::from_str_radix(field("CapEff")?.trim(), 16).ok()?;
    Some(Subject { pid: None, uid, groups, capabilities, descriptors: None })
}

/// The soft limit of `Max open files` in `/proc/PID/limits`.
fn parse_limit(text: &str) -> Option<u64> {
    let soft = text.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// A file or folder, as far as rights go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// The twelve bits of chmod(1).
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Place {
    pub(super) fn look(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self { path: path.to_owned(), mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() })
    }
}

/// The state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) path: PathBuf,
    pub(super) found: Found,
    /// `admin-token` in it.
    pub(super) token: Option<Place>,
    /// Of its file system, or of what will hold it.
    pub(super) disk: Option<Disk>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Not there; the folder that will hold it, and whether we may write there.
    Missing(Option<PathBuf>, bool),
    /// There, and no folder.
    NoFolder,
    /// Why nothing can be told.
    Hidden(String),
    /// There, and whether the kernel lets us write in it.
    Folder(Place, bool),
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) free_bytes: u64,
    /// None where a file system does not count them.
    pub(super) free_files: Option<u64>,
    pub(super) read_only: bool,
}

impl State {
    pub(super) fn look(path: &Path) -> Self {
        let found = match fs::metadata(path) {
            Ok(found) if !found.is_dir() => Found::NoFolder,
            Ok(_) => Place::look(path).map_or(Found::NoFolder, |place| Found::Folder(place, writable(path))),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                let parent = path.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned);
                let may = parent.as_deref().is_some_and(writable);
                Found::Missing(parent, may)
            }
            Err(why) => Found::Hidden(why.to_string()),
        };
        let holds = match &found {
            Found::Missing(parent, _) => parent.clone(),
            _ => Some(path.to_owned()),
        };
        let token = Place::look(&path.join("admin-token"));
        Self { path: path.to_owned(), found, token, disk: holds.as_deref().and_then(disk) }
    }
}

fn writable(folder: &Path) -> bool {
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

fn disk(folder: &Path) -> Option<Disk> {
    let room = rustix::fs::statvfs(folder).ok()?;
    Some(Disk {
        // What is kept for root is nobody's.
        free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        free_files: (room.f_files > 0).then_some(room.f_favail),
        read_only: room.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

/// Numbers of the kernel's settings, which are separated by white space.
pub(super) fn sysctl<const N: usize>(name: &str) -> Option<[u32; N]> {
    let text = limited::read(&Path::new("/proc/sys").join(name), PROC_MOST).ok()?;
    parse_numbers(&text)
}

fn parse_numbers<const N: usize>(text: &str) -> Option<[u32; N]> {
    let numbers: Option<Vec<u32>> = text.split_whitespace().map(|number| number.parse().ok()).collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tlamplighter\nUid:\t990\t991\t990\t990\nGid:\t980\t981\t980\t980\nGroups:\t4 27 \n\
                          CapPrm:\t0000000000000000\nCapEff:\t0000000000002400\n";

    #[test]
    fn a_process_is_read() {
        let subject = parse_status(STATUS).unwrap();
        assert_eq!((subject.uid, &subject.groups[..]), (991, &[981, 4, 27][..]));
        assert!(subject.may_send_raw() && subject.may_bind_low());
        assert!(!subject.clone().owned_by(5, 6).may_send_raw());
        assert_eq!(parse_status("Uid:\tx\n"), None);
        assert_eq!(
            parse_limit("Limit  Soft Limit\nMax open files            1024                 4096  files\n"),
            Some(1024)
        );
        assert_eq!(parse_limit("Max open files  unlimited unlimited files\n"), Some(u64::MAX));
        assert!(Subject::look(None).unwrap().descriptors.is_some(), "of this process");
    }

    #[test]
    fn mode_bits_count_for_who_they_are_of() {
        let subject = parse_status(STATUS).unwrap();
        let place = |mode, uid, gid| Place { path: "x".into(), mode, uid, gid };
        for (mode, uid, gid, may) in [
            (0o700, 991, 0, true),
            (0o070, 991, 981, false),
            (0o070, 0, 27, true),
            (0o007, 0, 27, false),
            (0o007, 0, 0, true),
            (0o005, 0, 0, false),
        ] {
            assert_eq!(subject.may(&place(mode, uid, gid), 3), may, "{mode:o} {uid} {gid}");
        }
        assert!(subject.owned_by(0, 0).may(&place(0, 5, 5), 7));
    }

    #[test]
    fn numbers_of_the_kernel() {
        assert_eq!(parse_numbers("32768\t60999\n"), Some([32768, 60999]));
        assert_eq!(parse_numbers::<2>("1"), None);
        assert_eq!(parse_numbers::<1>("-1"), None);
    }

    #[test]
    fn a_state_directory_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::look(folder.path());
        assert!(matches!(state.found, Found::Folder(_, true)) && state.disk.unwrap().free_bytes > 0);
        let missing = State::look(&folder.path().join("a/b"));
        assert_eq!(missing.found, Found::Missing(Some(folder.path().to_owned()), true));
        let file = folder.path().join("f");
        fs::write(&file, "").unwrap();
        assert_eq!(State::look(&file).found, Found::NoFolder);
    }
}
