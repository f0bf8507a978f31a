//! From what this machine gives to findings. Pure.

use std::path::Path;

use chrono::{DateTime, Datelike as _, Utc};

use super::finding::Finding;
use super::host::{Disk, Found, Place, State, Subject};
use super::needs::Needs;
use super::sockets::Port;
use crate::cli::counted;
use crate::settings::model::Refusal;
use crate::settings::sections::Listen;
use crate::settings::size;
use crate::web::Readiness;

/// A full disk is near: the embedded database alone needs some for its write-ahead log.
const LEAST_FREE_BYTES: u64 = 64 << 20;
const LEAST_FREE_FILES: u64 = 1000;
/// Descriptors beside those of checks: database, pages (a quarter of the limit is theirs at the most), journal, resolver.
const OWN_DESCRIPTORS: u64 = 200;
/// A check may dial two addresses at once, or ask a resolver while it holds a connection.
const DESCRIPTORS_OF_A_CHECK: u64 = 2;
/// Local ports to one target are held for a minute after a connection (TIME_WAIT).
const LEAST_PORTS: u64 = 1000;
/// This program was not there before.
const FIRST_YEAR: i32 = 2025;
const LAST_YEAR: i32 = 2200;

pub(super) fn config(path: &Path, found: bool, monitors: usize, refusal: Option<&Refusal>) -> Finding {
    const NAME: &str = "config";
    match refusal {
        Some(refusal) => {
            let what = format!("the configuration has {}", counted(refusal.count(), "error"));
            let way_out =
                "correct them: a running daemon keeps its last good configuration, and a new one does not start";
            let mut finding = Finding::problem(NAME, what, way_out);
            finding.details.clone_from(&refusal.messages);
            if refusal.more > 0 {
                finding.details.push(format!("and {} more errors", refusal.more));
            }
            finding
        }
        None if !found => {
            let what = format!("there is no {}, so everything has its default", path.display());
            let way_out = "write one, beginning with config.example.toml, or name yours with --config";
            Finding::warning(NAME, what, way_out)
        }
        None => Finding::ok(NAME, format!("{} is valid, with {}", path.display(), counted(monitors, "monitor"))),
    }
}

/// `files`: what is there of the sources. `secrets`: how many stand in them as they are.
pub(super) fn config_permissions(files: &[Place], secrets: usize, subject: Option<&Subject>) -> Option<Finding> {
    const NAME: &str = "config_permissions";
    let first = files.first()?;
    if let Some(file) = files.iter().find(|file| file.mode & 0o022 != 0) {
        let what = format!("others may write {} (mode {:04o})", file.path.display(), file.mode);
        return Some(Finding::problem(NAME, what, format!("chmod go-w {}", file.path.display())));
    }
    let unreadable = files.iter().find(|file| subject.is_some_and(|subject| !subject.may(file, 4)));
    if let (Some(file), Some(subject)) = (unreadable, subject) {
        let what = format!("the daemon's user {} cannot read {}", subject.uid, file.path.display());
        return Some(Finding::problem(
            NAME,
            what,
            format!("give its group the right: chmod g+r {}", file.path.display()),
        ));
    }
    let open = files.iter().find(|file| file.mode & 0o004 != 0).filter(|_| secrets > 0);
    Some(match open {
        Some(file) => {
            let what = format!(
                "everybody may read {} (mode {:04o}), and {} in the configuration as they are",
                file.path.display(),
                file.mode,
                if secrets == 1 { "one secret stands".to_owned() } else { format!("{secrets} secrets stand") }
            );
            Finding::warning(
                NAME,
                what,
                "chmod o-r it, or write secrets as { file = \"path\" } or { credential = \"name\" }",
            )
        }
        None => Finding::ok(NAME, format!("{} has mode {:04o}", first.path.display(), first.mode)),
    })
}

/// Of whom rights are told.
fn who(subject: Option<&Subject>) -> String {
    subject.map_or_else(|| "the daemon".to_owned(), |subject| format!("user {}", subject.uid))
}

pub(super) fn state(state: &State, subject: Option<&Subject>) -> Finding {
    const NAME: &str = "state_directory";
    let path = state.path.display();
    let give = || match subject {
        Some(subject) if subject.uid != 0 => {
            format!(
                "chown {} {path}, or set daemon.state_directory; if another user runs the daemon, ask as that one or as root",
                subject.uid
            )
        }
        _ => "make it writable, or set daemon.state_directory".to_owned(),
    };
    if state.disk.is_some_and(|disk| disk.read_only) {
        let what = format!("{path} is on a file system that is mounted read-only");
        return Finding::problem(
            NAME,
            what,
            "remount it for writing (dmesg says whether the disk failed), or set daemon.state_directory",
        );
    }
    match &state.found {
        Found::Missing(_, true) => Finding::ok(NAME, format!("{path} is not there yet; the first start makes it")),
        Found::Missing(parent, false) => {
            let parent = parent.as_deref().unwrap_or(Path::new("/")).display();
            let way_out = format!("make {path} for the daemon's user, or set daemon.state_directory");
            Finding::problem(NAME, format!("{path} is not there, and {parent} is not writable"), way_out)
        }
        Found::NoFolder => {
            Finding::problem(NAME, format!("{path} is no folder"), "move it away, or set daemon.state_directory")
        }
        Found::Hidden(why) => {
            Finding::problem(NAME, format!("{path}: {why}"), "run doctor as the daemon's user or as root")
        }
        Found::Folder(place, writable) => {
            // The mode bits where another user's rights count, the kernel's word where ours do.
            if !(*writable && subject.is_none_or(|subject| subject.may(place, 3))) {
                return Finding::problem(
                    NAME,
                    format!("{} cannot write in {path} (mode {:04o})", who(subject), place.mode),
                    give(),
                );
            }
            if place.mode & 0o022 != 0 {
                let what = format!("others may write in {path} (mode {:04o})", place.mode);
                return Finding::problem(NAME, what, format!("chmod go-w {path}"));
            }
            match state.token.as_ref().filter(|token| token.mode & 0o077 != 0) {
                Some(token) => {
                    let token_path = token.path.display();
                    let what = format!("others may read {token_path} (mode {:04o})", token.mode);
                    let way_out = format!("chmod 600 {token_path}, then remove it and restart for a new token");
                    Finding::problem(NAME, what, way_out)
                }
                None => Finding::ok(NAME, format!("{path} is writable (mode {:04o})", place.mode)),
            }
        }
    }
}

/// `backlog`: the bound of the journal, which grows up to it while the database is away.
pub(super) fn disk(disk: Option<Disk>, backlog: u64) -> Finding {
    const NAME: &str = "disk";
    let Some(disk) = disk else {
        return Finding::warning(NAME, "how much is free could not be told", "ask df, as the daemon's user");
    };
    let shift = if disk.free_bytes < 10 << 30 { 20 } else { 30 };
    let free = size::format(disk.free_bytes >> shift << shift);
    let way_out = "free some, or set daemon.state_directory to a larger file system";
    if disk.free_bytes < LEAST_FREE_BYTES {
        return Finding::problem(NAME, format!("only {free} are free for the state directory"), way_out);
    }
    if let Some(files) = disk.free_files.filter(|files| *files < LEAST_FREE_FILES) {
        return Finding::problem(NAME, format!("only {files} more files fit beside the state directory"), way_out);
    }
    if disk.free_bytes < backlog {
        let what = format!("{free} are free, less than the {} that database.backlog allows", size::format(backlog));
        return Finding::warning(
            NAME,
            what,
            "free some, or lower database.backlog: it fills while the database is away",
        );
    }
    Finding::ok(NAME, format!("{free} are free for the state directory"))
}

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Daemon {
    NotRunning,
    /// There is a socket that we may not use, or no answer on it.
    Silent(String),
    Answers(Readiness),
}

pub(super) fn daemon(daemon: &Daemon) -> Finding {
    const NAME: &str = "daemon";
    let list = |reasons: &[crate::web::Reason]| -> Vec<String> {
        let one = |reason: &crate::web::Reason| match &reason.detail {
            Some(detail) => format!("{}: {detail}", reason.code),
            None => reason.code.clone(),
        };
        reasons.iter().map(one).collect()
    };
    match daemon {
        Daemon::NotRunning => Finding::warning(
            NAME,
            "no daemon runs with this state directory, so nothing is checked",
            "start it: systemctl start lamplighter, or `lamplighter run`",
        ),
        Daemon::Silent(why) => {
            Finding::problem(NAME, why.clone(), "run doctor as the daemon's user or as root; else restart it")
        }
        Daemon::Answers(readiness) if readiness.role == "standby" => {
            let mut finding = Finding::ok(NAME, "it waits as a standby: another daemon is active");
            finding.details = list(&readiness.reasons);
            finding
        }
        Daemon::Answers(readiness) if !readiness.ready => {
            let mut finding =
                Finding::problem(NAME, "it runs and is not ready", "see the reasons, and docs/operating.md");
            finding.details = list(&readiness.reasons);
            finding
        }
        Daemon::Answers(readiness) if !readiness.notes.is_empty() => {
            let mut finding = Finding::warning(NAME, "it is active, and has something to say", "see the notes");
            finding.details = list(&readiness.notes);
            finding
        }
        Daemon::Answers(_) => Finding::ok(NAME, "it is active and ready"),
    }
}

/// `low`: ports below it are for the privileged.
pub(super) fn listen(listen: &Listen, port: &Port, subject: Option<&Subject>, low: Option<u32>) -> Finding {
    const NAME: &str = "listen";
    match port {
        Port::Ours => Finding::ok(NAME, format!("the daemon listens on {listen}")),
        Port::Free => {
            let is_any = matches!(listen, Listen::Tcp(address) if address.port() == 0);
            let number = match listen {
                Listen::Tcp(address) if address.port() > 0 => Some(u32::from(address.port())),
                _ => None,
            };
            let refused = number.zip(low).is_some_and(|(number, low)| number < low)
                && subject.is_some_and(|subject| subject.uid != 0 && !subject.may_bind_low());
            if refused {
                let what = format!("{listen} is for privileged programs, and the daemon's user is none");
                let way_out = "choose a port from 1024 on with server.listen, or give the unit AmbientCapabilities=CAP_NET_BIND_SERVICE";
                return Finding::problem(NAME, what, way_out);
            }
            Finding::ok(NAME, if is_any { format!("any free port ({listen})") } else { format!("{listen} is free") })
        }
        Port::Taken(by) => {
            let who = match by {
                Some((pid, name)) => format!("{name:?} (process {pid})"),
                None => "another program".to_owned(),
            };
            Finding::problem(
                NAME,
                format!("{who} listens on {listen}"),
                "stop it, or choose another address with server.listen",
            )
        }
        Port::Refused(why) => {
            let way_out = "choose an address of this machine that the daemon's user may use, with server.listen";
            Finding::problem(NAME, format!("nobody can listen on {listen}: {why}"), way_out)
        }
    }
}

pub(super) fn clock(now: DateTime<Utc>) -> Finding {
    const NAME: &str = "clock";
    if (FIRST_YEAR..=LAST_YEAR).contains(&now.year()) {
        return Finding::ok(NAME, format!("it says {}", now.format("%F %T UTC")));
    }
    let what = format!("this machine's clock says {}, which cannot be", now.format("%F"));
    Finding::problem(NAME, what, "set it, and let NTP keep it: timedatectl set-ntp true")
}

/// `range`: `net.ipv4.ping_group_range`.
pub(super) fn icmp(needs: &Needs, range: Option<[u32; 2]>, subject: Option<&Subject>) -> Finding {
    const NAME: &str = "icmp";
    if needs.icmp == 0 {
        return Finding::ok(NAME, "no monitor pings");
    }
    let monitors = counted(usize::try_from(needs.icmp).unwrap_or(usize::MAX), "monitor");
    let (Some([from, to]), Some(subject)) = (range, subject) else {
        let what = format!("whether the {monitors} may ping could not be told");
        return Finding::warning(NAME, what, "ask sysctl net.ipv4.ping_group_range");
    };
    if subject.may_send_raw() || subject.groups.iter().any(|group| (from..=to).contains(group)) {
        return Finding::ok(NAME, format!("{monitors} may ping"));
    }
    let what = format!(
        "{} may not ping: its groups are not in net.ipv4.ping_group_range ({from} to {to}), so {monitors} cannot run",
        who(Some(subject))
    );
    let way_out = "set the sysctl to \"0 2147483647\", or give the unit AmbientCapabilities=CAP_NET_RAW; docs/install.md has both files";
    Finding::problem(NAME, what, way_out)
}

pub(super) fn descriptors(needs: &Needs, subject: Option<&Subject>) -> Finding {
    const NAME: &str = "descriptors";
    let Some((subject, limit)) = subject.and_then(|subject| Some((subject, subject.descriptors?))) else {
        return Finding::warning(NAME, "the limit of descriptors could not be told", "ask prlimit --nofile");
    };
    let whose = if subject.pid.is_some() { "the daemon's limit" } else { "the limit here (the daemon does not run)" };
    let wanted = OWN_DESCRIPTORS + needs.checks * DESCRIPTORS_OF_A_CHECK;
    let way_out =
        format!("set LimitNOFILE={} in the unit, or lower probe.max_in_flight", wanted.next_power_of_two().max(65536));
    if limit < OWN_DESCRIPTORS {
        return Finding::problem(NAME, format!("{whose} is {limit}, too few for the daemon itself"), way_out);
    }
    if limit < wanted {
        let what = format!(
            "{whose} is {limit}, and {} checks at once may need {wanted} (probe.max_in_flight is {})",
            needs.checks, needs.max_in_flight
        );
        return Finding::warning(NAME, what, way_out);
    }
    Finding::ok(NAME, format!("{whose} is {limit}, {wanted} may be needed"))
}

/// `range`: `net.ipv4.ip_local_port_range`.
pub(super) fn ports(needs: &Needs, range: Option<[u32; 2]>) -> Finding {
    const NAME: &str = "ports";
    let Some([from, to]) = range else {
        let way_out = "ask sysctl net.ipv4.ip_local_port_range";
        return Finding::warning(NAME, "how many local ports there are could not be told", way_out);
    };
    let there = u64::from(to.saturating_sub(from)) + u64::from(to >= from);
    let way_out = "widen it: sysctl net.ipv4.ip_local_port_range=\"15000 60999\"";
    if there < needs.checks || there == 0 {
        let what = format!("{there} local ports are fewer than {} checks at once", needs.checks);
        return Finding::problem(NAME, what, way_out);
    }
    if there < LEAST_PORTS {
        let what =
            format!("only {there} local ports, and each is held for a minute after a connection to the same target");
        return Finding::warning(NAME, what, way_out);
    }
    Finding::ok(NAME, format!("{there} local ports ({from} to {to})"))
}

/// `system`: certificates in the system's store.
pub(super) fn certificates(system: usize, own_files: usize, errors: &[String]) -> Finding {
    const NAME: &str = "certificates";
    let way_out = "install them: apt-get install ca-certificates, or dnf install ca-certificates";
    match (system, own_files) {
        (0, 0) => {
            let mut finding = Finding::problem(
                NAME,
                "this system trusts no certificate authority, so every https check fails",
                way_out,
            );
            finding.details = errors.to_vec();
            finding
        }
        (0, _) => Finding::warning(
            NAME,
            "the system trusts no certificate authority; only those of probe.ca_files count",
            way_out,
        ),
        (system, _) => Finding::ok(NAME, format!("the system trusts {system} certificate authorities")),
    }
}

/// What came of asking the resolver for the root's name servers, which any resolver knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// By whom, in how many milliseconds.
    Answered(String, u128),
    /// By whom, and the code that says it does not serve us.
    Declined(String, String),
    Failed(String),
}

pub(super) fn resolver(needs: &Needs, resolved: &Resolved, configured: bool) -> Finding {
    const NAME: &str = "resolver";
    let place = if configured { "probe.resolvers" } else { "/etc/resolv.conf" };
    let what = match resolved {
        Resolved::Answered(who, ms) => return Finding::ok(NAME, format!("{who} answers after {ms} ms")),
        Resolved::Declined(who, code) => {
            let what = format!("{who} answers {code} when it is asked for the root");
            return Finding::warning(NAME, what, format!("if names do not resolve, correct {place} or that server"));
        }
        Resolved::Failed(why) => why.clone(),
    };
    let way_out = format!("correct {place}, or see why that server is away");
    if needs.names == 0 {
        return Finding::warning(NAME, format!("{what}; no monitor of the file needs it"), way_out);
    }
    Finding::problem(NAME, what, way_out)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
