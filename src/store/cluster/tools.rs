//! pg_dump and pg_restore: found as the server's binaries are, and told where the database is without a secret on their
//! command lines.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ClusterOptions;
use super::account::tidy_environment;
use super::binaries::{ask, from_pg_config, major_of, side_by_side};
use crate::model::Secret;

/// No program that can do it.
#[derive(Debug, thiserror::Error)]
#[error(
    "pg_dump and pg_restore of PostgreSQL {least} or newer are needed{seen}. Install them: Debian/Ubuntu `apt-get install \
     postgresql-client`, Fedora `dnf install postgresql`, Alpine `apk add postgresql-client`; or set PG_BINDIR to their folder"
)]
pub struct NoTools {
    least: u32,
    seen: String,
}

/// A folder with both programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    dir: PathBuf,
    /// Their major version.
    pub major: u32,
}

impl Tools {
    /// The oldest that are new enough: they read servers and files of their own version and of older ones.
    ///
    /// # Errors
    /// [`NoTools`].
    pub fn find(options: &ClusterOptions, least: u32) -> Result<Self, NoTools> {
        let dirs = match &options.bin_dir {
            Some(dir) => vec![dir.clone()],
            None => {
                let path = options.path.iter().flat_map(std::env::split_paths);
                let mut dirs: Vec<PathBuf> = path.filter_map(|dir| from_path(&dir)).collect();
                dirs.extend(from_pg_config(options));
                dirs.extend(side_by_side());
                dirs.sort_unstable();
                dirs.dedup();
                dirs
            }
        };
        let found: Vec<Self> = dirs.into_iter().filter_map(Self::at).collect();
        let fitting = found.iter().filter(|tools| tools.major >= least).min_by_key(|tools| tools.major);
        fitting.cloned().ok_or_else(|| {
            let list: Vec<String> = found.iter().map(|one| format!("{} in {}", one.major, one.dir.display())).collect();
            let seen = if list.is_empty() { String::new() } else { format!(" (there is only {})", list.join(", ")) };
            NoTools { least, seen }
        })
    }

    fn at(dir: PathBuf) -> Option<Self> {
        if !dir.join("pg_restore").is_file() {
            return None;
        }
        let out = ask(&dir.join("pg_dump"), "--version")?;
        let major = major_of(&String::from_utf8_lossy(&out.stdout))?;
        Some(Self { dir, major })
    }

    /// `pg_dump` of this database.
    #[must_use]
    pub fn dump(&self, url: &Secret) -> Command {
        self.command("pg_dump", url)
    }

    /// `pg_restore` into this database.
    #[must_use]
    pub fn restore(&self, url: &Secret) -> Command {
        self.command("pg_restore", url)
    }

    fn command(&self, program: &str, url: &Secret) -> Command {
        let mut command = Command::new(self.dir.join(program));
        let place = Place::of(url.expose());
        command.arg(format!("--dbname={}", place.url)).arg("--no-password");
        if let Some(password) = place.password {
            // Anybody may read another's command line, only oneself and root its environment (proc(5)).
            command.env("PGPASSWORD", password);
        }
        command.env("LC_ALL", "C").env("PGAPPNAME", "lamplighter").env_remove("PGOPTIONS");
        tidy_environment(&mut command, true);
        // Not of our group: Ctrl-C is for us, and we end it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// The folder of a program that is no wrapper; Debian's leads to another place, which is looked at anyway.
fn from_path(dir: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(dir.join("pg_dump")).ok()?;
    if real.file_name() != Some(OsStr::new("pg_dump")) {
        return None;
    }
    real.parent().map(Path::to_owned)
}

/// Where a database is, for libpq.
struct Place {
    url: String,
    password: Option<String>,
}

/// Parameters of a url that libpq knows by other names than the driver, or not at all.
const RENAMED: &[(&str, &str)] = &[
    ("ssl-mode", "sslmode"),
    ("ssl-root-cert", "sslrootcert"),
    ("ssl-ca", "sslrootcert"),
    ("ssl-cert", "sslcert"),
    ("ssl-key", "sslkey"),
];
const UNKNOWN: &[&str] = &["statement-cache-capacity"];

impl Place {
    fn of(text: &str) -> Self {
        // The driver has parsed it before.
        let Ok(mut url) = url::Url::parse(text) else { return Self { url: String::new(), password: None } };
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut password = url.password().map(decoded);
        let mut kept = Vec::new();
        for pair in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let renamed = RENAMED.iter().find(|(driver, _)| *driver == name).map_or(name, |(_, libpq)| *libpq);
            if name == "password" {
                password = Some(decoded(&value.replace('+', "%20")));
            } else if !UNKNOWN.contains(&name) && !name.starts_with("options[") {
                kept.push(format!("{renamed}={}", value.replace('+', "%20")));
            }
        }
        // Of a url without a host this fails, and it has no password either.
        let _ = url.set_password(None);
        url.set_query((!kept.is_empty()).then_some(kept.join("&").as_str()));
        Self { url: url.into(), password }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_stands_in_a_url() {
        for (text, shown, password) in [
            ("postgres://u:p%40w@h:5433/d", "postgres://u@h:5433/d", Some("p@w")),
            ("postgres://h/d?password=a+b&ssl-mode=require", "postgres://h/d?sslmode=require", Some("a b")),
            ("postgres://localhost/l?host=%2Frun%2Fx&user=l", "postgres://localhost/l?host=%2Frun%2Fx&user=l", None),
            ("postgres://u@h/d?statement-cache-capacity=5&options[x]=y", "postgres://u@h/d", None),
        ] {
            let place = Place::of(text);
            assert_eq!((place.url.as_str(), place.password.as_deref()), (shown, password), "{text}");
        }
        let tools = Tools { dir: "/x".into(), major: 15 };
        let command = tools.dump(&Secret::new("postgres://u:hunter2@h/d"));
        assert!(command.get_args().all(|argument| !argument.to_string_lossy().contains("hunter2")));
        assert!(command.get_envs().any(|(name, value)| name == "PGPASSWORD" && value == Some(OsStr::new("hunter2"))));
    }

    #[test]
    fn what_is_missing_is_told_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let options = ClusterOptions { bin_dir: Some(folder.path().to_owned()), ..ClusterOptions::default() };
        let text = Tools::find(&options, 15).unwrap_err().to_string();
        assert!(text.contains("PostgreSQL 15 or newer are needed. Install") && text.contains("PG_BINDIR"), "{text}");
    }
}
