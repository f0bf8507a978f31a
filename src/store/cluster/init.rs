//! Making the cluster: beside its place, then moved there whole, so that a kill in the middle leaves nothing half made.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::Account;
use super::{Binaries, ClusterError, Layout};
use crate::settings::limited;

/// Who may log in over the socket, and as whom.
const HBA: &str = "# Written by lamplighter: the socket only, by the kernel's word, see pg_ident.conf.\n\
    local all all peer map=lamplighter\n";

/// The major version of a data folder; none if there is none yet.
pub(super) fn version_of(data: &Path) -> Result<Option<u32>, ClusterError> {
    let path = data.join("PG_VERSION");
    match limited::read(&path, 64) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            ClusterError::state(&path, io::Error::new(io::ErrorKind::InvalidData, "is not a version number"))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !data.exists() => Ok(None),
        Err(error) => Err(ClusterError::state(&path, error)),
    }
}

/// Makes the cluster if it is not there, with its one database.
pub(super) fn ensure(layout: &Layout, binaries: &Binaries, account: &Account) -> Result<(), ClusterError> {
    if layout.data.exists() {
        return Ok(());
    }
    let fresh = layout.folder.join("data.new");
    remove(&fresh)?;
    // Some systems do not have C.UTF-8; C sorts the same.
    let mut failure = String::new();
    let made = ["C.UTF-8", "C"].iter().any(|locale| match initdb(&fresh, binaries, account, locale) {
        Ok(()) => true,
        Err(why) => {
            failure = why;
            let _ = fs::remove_dir_all(&fresh);
            false
        }
    });
    if !made {
        return Err(ClusterError::Init(failure));
    }
    write(&fresh.join("pg_hba.conf"), HBA)?;
    write(&fresh.join("pg_ident.conf"), &ident(account))?;
    create_database(&fresh, binaries, account).map_err(ClusterError::Init)?;
    // One sync for all: initdb's own, file by file, is what it spends most of its time with.
    let sync = || rustix::fs::syncfs(fs::File::open(&fresh)?).map_err(io::Error::from);
    sync().map_err(|e| ClusterError::state(&fresh, e))?;
    fs::rename(&fresh, &layout.data).map_err(|e| ClusterError::state(&layout.data, e))?;
    // The rename itself must be on disk before anything is promised.
    fs::File::open(&layout.folder).and_then(|f| f.sync_all()).map_err(|e| ClusterError::state(&layout.folder, e))
}

fn remove(path: &Path) -> Result<(), ClusterError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ClusterError::state(path, error)),
        _ => Ok(()),
    }
}

fn initdb(data: &Path, binaries: &Binaries, account: &Account, locale: &str) -> Result<(), String> {
    let mut command = Command::new(binaries.initdb());
    command.arg("-D").arg(data).args([
        "-U",
        "lamplighter",
        "--encoding=UTF8",
        "--auth=peer",
        "--data-checksums",
        "--no-sync",
    ]);
    command.arg(format!("--locale={locale}"));
    finish(command, account, data, None)
}

/// In single-user mode: no server is needed, and nobody else is there.
fn create_database(data: &Path, binaries: &Binaries, account: &Account) -> Result<(), String> {
    let mut command = Command::new(binaries.postgres());
    command.args(["--single", "-D"]).arg(data).args(["-c", "exit_on_error=on", "postgres"]);
    finish(command, account, data, Some("CREATE DATABASE lamplighter;\n"))
}

fn finish(mut command: Command, account: &Account, data: &Path, input: Option<&str>) -> Result<(), String> {
    account.apply(&mut command);
    command.current_dir(data.parent().unwrap_or(data));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let run = || -> io::Result<std::process::Output> {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.unwrap_or_default().as_bytes())?;
        }
        child.wait_with_output()
    };
    let mut run = run;
    let out = run().map_err(|error| error.to_string())?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let said: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    Err(format!("{}: {}", out.status, said.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("; ")))
}

/// root, lamplighter and postgres, and whoever runs the server, are the cluster's one role.
fn ident(account: &Account) -> String {
    let mut names = vec!["root", "lamplighter", "postgres"];
    if !names.contains(&account.name.as_str()) {
        names.push(&account.name);
    }
    let mut text = String::from("# Written by lamplighter: map, system user, role.\n");
    for name in names {
        text += &format!("lamplighter \"{name}\" lamplighter\n");
    }
    text
}

/// Writes over a file that initdb made, keeping its owner and mode.
fn write(path: &PathBuf, text: &str) -> Result<(), ClusterError> {
    let open = || fs::OpenOptions::new().write(true).truncate(true).open(path);
    open()
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|e| ClusterError::state(path, e))
}
