//! Who Postgres runs as: ourselves, or, because it refuses root, another user.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::ClusterError;
use crate::settings::limited;

/// Large directories of users are not kept in this file.
const PASSWD_LIMIT: u64 = 4 << 20;

/// A user of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether we, as root, must become it.
    switch: bool,
}

impl Account {
    /// As root: the owner of this folder, if one is given and it is not root's; else `run_as`, else `postgres`. Otherwise
    /// ourselves.
    pub(super) fn choose(owner_of: Option<&Path>, run_as: Option<&str>) -> Result<Self, ClusterError> {
        let passwd = limited::read(Path::new("/etc/passwd"), PASSWD_LIMIT).unwrap_or_default();
        let me = rustix::process::geteuid().as_raw();
        if me != 0 {
            let gid = rustix::process::getegid().as_raw();
            let name = entries(&passwd).find(|e| e.uid == me).map_or_else(|| me.to_string(), |e| e.name);
            return Ok(Self { name, uid: me, gid, switch: false });
        }
        if let Some(folder) = owner_of {
            let found = fs::metadata(folder).map_err(|e| ClusterError::state(folder, e))?;
            if found.uid() != 0 {
                let name = entries(&passwd).find(|e| e.uid == found.uid()).map(|e| e.name);
                let name = name.unwrap_or_else(|| found.uid().to_string());
                return Ok(Self { name, uid: found.uid(), gid: found.gid(), switch: true });
            }
        }
        let wanted = run_as.unwrap_or("postgres");
        entries(&passwd)
            .find(|entry| entry.name == wanted && entry.uid != 0)
            .ok_or_else(|| ClusterError::NoUser(wanted.to_owned()))
    }

    /// Whether it is another user than ours.
    pub(super) const fn switches(&self) -> bool {
        self.switch
    }

    /// Makes the command run as this user. The standard library drops the supplementary groups with it. Our environment is not
    /// for it.
    pub(super) fn apply(&self, command: &mut Command) {
        tidy_environment(command, false);
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// A new file of this user's, in place of one that may be there. Links in its folders are not followed: we may be root.
    pub(super) fn new_file(&self, path: &Path) -> io::Result<File> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::create_new(path)?;
        if self.switch {
            fchown(&file, Some(self.uid), Some(self.gid))?;
        }
        Ok(file)
    }

    /// Whether the user may pass every folder down to this one: as the mode bits say, without access lists.
    pub(super) fn check_reach(&self, dir: &Path) -> Result<(), ClusterError> {
        if !self.switch {
            return Ok(());
        }
        for folder in dir.ancestors() {
            let found = fs::metadata(folder).map_err(|e| ClusterError::state(folder, e))?;
            let bit = match () {
                () if found.uid() == self.uid => 0o100,
                () if found.gid() == self.gid => 0o010,
                () => 0o001,
            };
            if found.mode() & bit == 0 {
                return Err(ClusterError::OutOfReach { user: self.name.clone(), path: folder.to_owned() });
            }
        }
        Ok(())
    }
}

/// What programs of Postgres may know of our environment. The rest stays here: it may hold secrets that the configuration
/// refers to by `${NAME}`, and what the service manager told us, with which Postgres would report itself as us.
const NEEDED: &[&str] =
    &["PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TZDIR", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD"];

/// Takes out of a child's environment what it does not need; also everything of Postgres's own clients, unless it is one.
pub(super) fn tidy_environment(command: &mut Command, is_client: bool) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let locale = text.starts_with("LC_");
        let client = is_client && text.starts_with("PG");
        // What was set for this command counts, whatever ours says.
        let given = command.get_envs().any(|(key, _)| key == name);
        if !(given || locale || client || NEEDED.contains(&&*text)) {
            command.env_remove(&name);
        }
    }
}

/// passwd(5): `name:password:uid:gid:...`.
fn entries(passwd: &str) -> impl Iterator<Item = Account> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Account { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, switch: true })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_is_read() {
        let text =
            "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\npostgres:x:101:104::/var/lib/postgresql:/bin/sh\n";
        let all: Vec<_> = entries(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1], Account { name: "postgres".into(), uid: 101, gid: 104, switch: true });
    }
}
