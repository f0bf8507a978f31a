//! From what a database says of itself to findings. Pure.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::finding::Finding;
use crate::cli::counted;
use crate::store::{Examined, Found, Room, StartError};

/// Beside the pool: the listener, and a command or two.
const MORE_CONNECTIONS: i64 = 3;
/// Certificates and schedules go by our clock, leases by the database's: so much is felt by nobody.
const CLOCKS_APART: TimeDelta = TimeDelta::seconds(2);
/// So much is.
const CLOCKS_FAR_APART: TimeDelta = TimeDelta::seconds(60);

/// Which database it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// `database.url`.
    Url,
    /// The private cluster; whether it runs is known by its socket.
    Embedded { running: bool },
}

/// Installations of Postgres as major version and folder, and the version that the data are of.
pub(super) fn binaries(found: &[(u32, String)], data: Option<u32>) -> Finding {
    const NAME: &str = "postgres_binaries";
    let install = "install it: apt-get install postgresql, dnf install postgresql-server, or apk add postgresql; or set database.url";
    let list = || found.iter().map(|(major, dir)| format!("{major} in {dir}")).collect::<Vec<_>>().join(", ");
    if let Some(data) = data {
        if found.iter().any(|(major, _)| *major == data) {
            return Finding::ok(NAME, format!("PostgreSQL {data} of the embedded database is installed"));
        }
        let what = format!(
            "the embedded database is of PostgreSQL {data}, and installed is {}",
            if found.is_empty() { "none".to_owned() } else { list() }
        );
        let way_out = format!("install PostgreSQL {data}; docs/backup.md says how to move to a newer one");
        return Finding::problem(NAME, what, way_out);
    }
    match found.iter().find(|(major, _)| *major >= 14) {
        Some((major, dir)) => Finding::ok(NAME, format!("PostgreSQL {major} in {dir} will run the embedded database")),
        None if found.is_empty() => {
            Finding::problem(NAME, "no PostgreSQL is installed, which the embedded database needs", install)
        }
        None => {
            Finding::problem(NAME, format!("PostgreSQL 14 or newer is needed, and installed is {}", list()), install)
        }
    }
}

/// That it answers; or why not. None for an embedded one that nobody runs: there is nothing to look at.
pub(super) fn reached(which: &Which, examined: Option<&Result<Examined, StartError>>) -> Vec<Finding> {
    const NAME: &str = "database";
    let examined = match examined {
        None => {
            return vec![Finding::ok(NAME, "the embedded database runs while the daemon does, and does not run now")];
        }
        Some(Ok(examined)) => examined,
        Some(Err(error)) => return vec![unreachable(which, error)],
    };
    let what = match which {
        Which::Url => "the server of database.url answers",
        Which::Embedded { .. } => "the embedded database answers",
    };
    vec![Finding::ok(NAME, what), Finding::ok("database_version", format!("PostgreSQL {}", examined.version))]
}

fn unreachable(which: &Which, error: &StartError) -> Finding {
    let way_out = match error {
        StartError::Unreachable(_) if *which == Which::Url => {
            "start the server, or correct host and port in database.url; meanwhile results wait on disk"
        }
        StartError::Unreachable(_) => "see the log of the daemon, and postgres/start.log in the state directory",
        StartError::LoginRefused(_) => "correct user and password in database.url, or pg_hba.conf of the server",
        StartError::NoSuchDatabase(_) => "createdb, or correct the name in database.url",
        StartError::ServerTooOld(_) => {
            return Finding::problem("database_version", error.to_string(), "use a newer server");
        }
        StartError::BadUrl | StartError::BadSchema(_) => "correct it in the configuration",
        _ => "see docs/troubleshooting.md",
    };
    Finding::problem("database", error.to_string(), way_out)
}

/// `wanted`: `database.max_connections`. `runs`: the daemon's own connections are among those in use.
pub(super) fn connections(room: &Room, wanted: u32, runs: bool) -> Finding {
    const NAME: &str = "database_connections";
    let wanted = i64::from(wanted) + MORE_CONNECTIONS;
    let own = [room.role_limit, room.database_limit].into_iter().filter(|limit| *limit >= 0).map(i64::from);
    let server = i64::from(room.most) - i64::from(room.reserved);
    let limit = own.fold(server, i64::min);
    let way_out =
        "raise max_connections (or the limit of role or database) on the server, or lower database.max_connections";
    if limit < wanted {
        let what = format!("the server lets {limit} connections in, and up to {wanted} are used");
        return Finding::problem(NAME, what, way_out);
    }
    let free = limit.saturating_sub(room.used).max(0);
    if !runs && free < wanted {
        return Finding::warning(
            NAME,
            format!("{free} connections are free now, and up to {wanted} are used"),
            way_out,
        );
    }
    Finding::ok(NAME, format!("{limit} connections are allowed, up to {wanted} are used"))
}

pub(super) fn settings(room: &Room, settings: &[(String, String)]) -> Finding {
    const NAME: &str = "database_settings";
    let is = |name: &str, value: &str| settings.iter().any(|(key, found)| key == name && found == value);
    if room.in_recovery {
        let what = "the server is a standby of another one, and refuses every write";
        return Finding::problem(NAME, what, "name the primary in database.url, or promote this one");
    }
    if room.read_only {
        let what = "sessions begin read-only (default_transaction_read_only)";
        return Finding::problem(NAME, what, "ALTER ROLE or ALTER SYSTEM RESET default_transaction_read_only");
    }
    if is("fsync", "off") {
        let what = "fsync is off: a crash of the machine may destroy the database";
        return Finding::problem(NAME, what, "ALTER SYSTEM RESET fsync, then SELECT pg_reload_conf()");
    }
    let risky = [
        ("full_page_writes", "full_page_writes is off: a power cut may damage pages"),
        ("synchronous_commit", "synchronous_commit is off: a crash of the server loses results that count as recorded"),
        ("autovacuum", "autovacuum is off: tables grow without end"),
    ];
    match risky.into_iter().find(|(name, _)| is(name, "off")) {
        Some((name, what)) => {
            Finding::warning(NAME, what, format!("ALTER SYSTEM RESET {name}, then SELECT pg_reload_conf()"))
        }
        None => Finding::ok(NAME, "fsync, synchronous_commit and autovacuum are on, and it can be written"),
    }
}

pub(super) fn schema(found: &Found, auto_migrate: bool) -> Finding {
    const NAME: &str = "schema";
    let at_start = if auto_migrate { "the next start of the daemon does it" } else { "run `lamplighter migrate`" };
    match found {
        Found::Ours { pending: 0 } => Finding::ok(NAME, "it is Lamplighter's and up to date"),
        Found::Ours { pending } => {
            let what = format!("{} to go", counted(*pending, "migration"));
            Finding::warning(NAME, what, format!("{at_start}; db dump first"))
        }
        Found::Empty if auto_migrate => Finding::ok(NAME, "it is empty; the first start makes the tables"),
        Found::Empty => {
            Finding::problem(NAME, "it is empty, and database.auto_migrate is false", "run `lamplighter migrate`")
        }
        Found::Adoptable => Finding::warning(NAME, found.to_string(), format!("back it up; {at_start}")),
        Found::Newer { .. } => Finding::problem(
            NAME,
            format!("the schema is of a newer Lamplighter ({found})"),
            "install that version again, or restore the backup from before the upgrade",
        ),
        Found::Legacy => Finding::problem(
            NAME,
            found.to_string(),
            "run `lamplighter migrate legacy --dry-run`, then without it; docs/upgrading-legacy.md is its guide",
        ),
        Found::HalfUpgraded => Finding::problem(
            NAME,
            found.to_string(),
            "run `lamplighter migrate legacy` again: it goes on where it ended",
        ),
        Found::Foreign(_) => {
            let what = format!("this database is not Lamplighter's: {found}");
            Finding::problem(NAME, what, "use another database or another database.schema; nothing was touched")
        }
    }
}

pub(super) fn partitions(missing: &[NaiveDate], today: NaiveDate) -> Finding {
    const NAME: &str = "partitions";
    if missing.is_empty() {
        return Finding::ok(NAME, "those of today and the next three days are there");
    }
    let days: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let what = format!("monitor_checks has no partition for {}", days.join(", "));
    let way_out = "run `lamplighter migrate`, which makes them; the daemon does so when it may create tables";
    // The daemon makes one that a batch lacks, and the days to come every hour; a person may have dropped them.
    if missing.contains(&today) { Finding::problem(NAME, what, way_out) } else { Finding::warning(NAME, what, way_out) }
}

/// `own`: the id of this state directory's daemon; `runs`: that one runs.
pub(super) fn lease(lease: Option<&(String, DateTime<Utc>, bool)>, own: Option<&str>, runs: bool) -> Finding {
    const NAME: &str = "lease";
    match lease {
        Some((holder, until, false)) => {
            let whose = if own == Some(holder.as_str()) { "this state directory's daemon" } else { "another daemon" };
            Finding::ok(NAME, format!("{whose} ({holder}) holds it until {}", until.format("%F %T UTC")))
        }
        _ if runs => Finding::warning(
            NAME,
            "a daemon runs here, and nobody holds the lease of its region",
            "look again in ten seconds; then see what the daemon says of the database",
        ),
        _ => Finding::ok(NAME, "nobody holds it: no daemon of this region is active"),
    }
}

pub(super) fn clock(ahead: TimeDelta, slack: TimeDelta) -> Finding {
    const NAME: &str = "database_clock";
    let apart = ahead.abs() - slack;
    if apart <= CLOCKS_APART {
        return Finding::ok(NAME, "the database's clock and this machine's agree");
    }
    let side = if ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
    let seconds = ahead.abs().num_seconds();
    let what = format!("the database's clock is {seconds} s {side} this machine's");
    let way_out = "let NTP keep both: timedatectl set-ntp true on the one that is wrong";
    if apart > CLOCKS_FAR_APART { Finding::problem(NAME, what, way_out) } else { Finding::warning(NAME, what, way_out) }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level::{self, Ok as Good, Problem, Warning};
    use super::*;

    const ROOM: Room = Room {
        most: 100,
        reserved: 3,
        role_limit: -1,
        database_limit: -1,
        used: 5,
        in_recovery: false,
        read_only: false,
    };

    /// A finding that is not ok has a way out.
    fn level(finding: &Finding) -> Level {
        assert_eq!(finding.status == Good, finding.way_out.is_none(), "{finding:?}");
        finding.status
    }

    #[test]
    fn installed_binaries() {
        let found = |majors: &[u32]| majors.iter().map(|major| (*major, format!("/pg/{major}"))).collect::<Vec<_>>();
        for (majors, data, expected) in [
            (&[] as &[u32], None, Problem),
            (&[13], None, Problem),
            (&[13, 15], None, Good),
            (&[17], Some(15), Problem),
            (&[17, 15], Some(15), Good),
            (&[], Some(15), Problem),
        ] {
            assert_eq!(level(&binaries(&found(majors), data)), expected, "{majors:?} {data:?}");
        }
    }

    #[test]
    fn a_database_that_cannot_be_used() {
        let url = Which::Url;
        for (error, name) in [
            (StartError::Unreachable("x".into()), "database"),
            (StartError::LoginRefused("x".into()), "database"),
            (StartError::NoSuchDatabase("x".into()), "database"),
            (StartError::BadUrl, "database"),
            (StartError::ServerTooOld("13.1".into()), "database_version"),
        ] {
            let findings = reached(&url, Some(&Err(error)));
            assert_eq!((findings.len(), findings[0].name, level(&findings[0])), (1, name, Problem));
        }
        assert_eq!(level(&reached(&Which::Embedded { running: false }, None)[0]), Good);
    }

    #[test]
    fn room_for_connections() {
        for (room, wanted, runs, expected) in [
            (ROOM, 8, false, Good),
            (Room { most: 13, ..ROOM }, 8, false, Problem),
            (Room { role_limit: 10, ..ROOM }, 8, true, Problem),
            (Room { role_limit: 11, used: 1, ..ROOM }, 8, false, Warning),
            (Room { database_limit: 0, ..ROOM }, 2, true, Problem),
            (Room { used: 95, ..ROOM }, 8, false, Warning),
            (Room { used: 95, ..ROOM }, 8, true, Good),
            (Room { used: 500, ..ROOM }, 8, false, Warning),
        ] {
            assert_eq!(level(&connections(&room, wanted, runs)), expected, "{room:?}");
        }
    }

    #[test]
    fn settings_that_matter() {
        let with = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for (room, list, expected) in [
            (ROOM, with("fsync", "on"), Good),
            (ROOM, with("fsync", "off"), Problem),
            (ROOM, with("full_page_writes", "off"), Warning),
            (ROOM, with("synchronous_commit", "off"), Warning),
            (ROOM, with("synchronous_commit", "local"), Good),
            (ROOM, with("autovacuum", "off"), Warning),
            (Room { in_recovery: true, ..ROOM }, with("fsync", "on"), Problem),
            (Room { read_only: true, ..ROOM }, Vec::new(), Problem),
        ] {
            assert_eq!(level(&settings(&room, &list)), expected, "{list:?}");
        }
    }

    #[test]
    fn schemas() {
        for (found, auto, expected) in [
            (Found::Ours { pending: 0 }, true, Good),
            (Found::Ours { pending: 2 }, true, Warning),
            (Found::Ours { pending: 2 }, false, Warning),
            (Found::Empty, true, Good),
            (Found::Empty, false, Problem),
            (Found::Adoptable, true, Warning),
            (Found::Newer { found: 99, known: 9 }, true, Problem),
            (Found::Legacy, true, Problem),
            (Found::HalfUpgraded, true, Problem),
            (Found::Foreign("orders".into()), true, Problem),
        ] {
            assert_eq!(level(&schema(&found, auto)), expected, "{found:?}");
        }
    }

    #[test]
    fn days_without_a_partition() {
        let day = |d| NaiveDate::from_ymd_opt(2026, 1, d).unwrap();
        assert_eq!(level(&partitions(&[], day(1))), Good);
        assert_eq!(level(&partitions(&[day(2)], day(1))), Warning);
        let finding = partitions(&[day(1), day(2)], day(1));
        assert!(level(&finding) == Problem && finding.what.ends_with("2026-01-01, 2026-01-02"), "{finding:?}");
    }

    #[test]
    fn leases() {
        let at = DateTime::UNIX_EPOCH;
        let held = ("a".to_owned(), at, false);
        assert!(lease(Some(&held), Some("a"), true).what.starts_with("this state"));
        assert!(lease(Some(&held), Some("b"), false).what.starts_with("another"));
        assert_eq!(level(&lease(Some(&("a".to_owned(), at, true)), Some("a"), true)), Warning);
        assert_eq!(level(&lease(None, None, false)), Good);
    }

    #[test]
    fn clocks() {
        let seconds = TimeDelta::seconds;
        for (ahead, slack, expected) in
            [(0, 0, Good), (3, 0, Warning), (3, 2, Good), (-61, 0, Problem), (-5, 0, Warning)]
        {
            assert_eq!(level(&clock(seconds(ahead), seconds(slack))), expected, "{ahead} {slack}");
        }
        assert!(clock(seconds(-61), seconds(0)).what.contains("61 s behind"));
    }
}
