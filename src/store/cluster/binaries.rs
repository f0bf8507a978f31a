//! Finding the installed Postgres.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::account::tidy_environment;
use super::{ClusterError, ClusterOptions};

/// The oldest major version that runs our schema.
const OLDEST: u32 = 14;

/// A folder with `initdb` and `postgres`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The folder.
    pub dir: PathBuf,
    /// Their major version.
    pub major: u32,
}

impl Binaries {
    /// Every usable installation, the preferred first: `$PG_BINDIR` (then nothing else), PATH, `pg_config`, and where
    /// Debian, PGDG's rpms and Alpine put several versions side by side, the newest first.
    #[must_use]
    pub fn find(options: &ClusterOptions) -> Vec<Self> {
        let mut dirs = Vec::new();
        if let Some(dir) = &options.bin_dir {
            dirs.push(dir.clone());
        } else {
            dirs.extend(options.path.iter().flat_map(std::env::split_paths).filter_map(|dir| from_path(&dir)));
            dirs.extend(from_pg_config(options));
            dirs.extend(side_by_side());
        }
        let mut found: Vec<Self> = Vec::new();
        for dir in dirs {
            if !found.iter().any(|other| other.dir == dir)
                && let Some(binaries) = Self::at(dir)
            {
                found.push(binaries);
            }
        }
        found
    }

    /// The installation for this data folder: of its major version when there are data, else the preferred one.
    pub(super) fn choose(options: &ClusterOptions, wanted: Option<u32>, data: &Path) -> Result<Self, ClusterError> {
        let found = Self::find(options);
        let list: Vec<String> = found.iter().map(|b| format!("{} in {}", b.major, b.dir.display())).collect();
        match wanted {
            Some(wanted) if !found.is_empty() => {
                found.into_iter().find(|binaries| binaries.major == wanted).ok_or_else(|| ClusterError::OtherMajor {
                    path: data.to_owned(),
                    found: wanted,
                    installed: list.join(", "),
                })
            }
            _ => found.into_iter().find(|binaries| binaries.major >= OLDEST).ok_or_else(|| {
                let seen = if list.is_empty() { String::new() } else { format!(" (only {})", list.join(", ")) };
                ClusterError::NoBinaries(seen)
            }),
        }
    }

    fn at(dir: PathBuf) -> Option<Self> {
        if !dir.join("initdb").is_file() {
            return None;
        }
        let out = ask(&dir.join("postgres"), "--version")?;
        let major = major_of(&String::from_utf8_lossy(&out.stdout))?;
        Some(Self { dir, major })
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
pub(super) fn major_of(version: &str) -> Option<u32> {
    let number = version.split(") ").nth(1)?;
    number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// PATH often holds a link to one binary only: its target's folder has the others.
fn from_path(dir: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(dir.join("postgres")).ok()?;
    real.parent().map(Path::to_owned)
}

pub(super) fn from_pg_config(options: &ClusterOptions) -> Option<PathBuf> {
    let dirs = options.path.as_ref()?;
    let tool = std::env::split_paths(dirs).map(|dir| dir.join("pg_config")).find(|path| path.is_file())?;
    let out = ask(&tool, "--bindir")?;
    let text = String::from_utf8(out.stdout).ok()?;
    fs::canonicalize(text.trim()).ok()
}

pub(super) fn ask(program: &Path, question: &str) -> Option<Output> {
    let mut command = Command::new(program);
    tidy_environment(&mut command, true);
    command.arg(question).stdin(Stdio::null()).output().ok()
}

pub(super) fn side_by_side() -> Vec<PathBuf> {
    let places = [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin"), ("/usr/libexec", "postgresql", "")];
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (root, prefix, sub) in places {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|v| v.parse().ok());
            if let Some(version) = version {
                found.push((version, entry.path().join(sub)));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

#[cfg(test)]
mod tests {
    use super::major_of;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("something else"), None);
    }
}
