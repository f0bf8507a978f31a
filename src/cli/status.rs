//! `lamplighter status`: the running daemon's view, as a table.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{Environment, Exit, Stop, exit, reload, small_runtime, state};
use crate::slo::{BudgetReport, SloStatus};
use crate::telemetry::escape;
use crate::web::{Readiness, client};

const DEADLINE: Duration = Duration::from_secs(30);
/// `--watch` draws anew so often.
const REDRAW: Duration = Duration::from_secs(1);
/// Longer texts are cut, so that a row stays a row.
const WIDEST_CELL: usize = 60;
/// The column of reasons, and what is left of it on a narrow terminal.
const WHY: usize = 6;
const SHORTEST_WHY: usize = 24;
/// Coming maintenances that are shown.
const NEXT: usize = 3;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
    /// Draw the table again, or print JSON again, every second until interrupted
    #[arg(long)]
    watch: bool,
}

/// What the table needs of `/api/v1/overview`; see `daemon::view`.
#[derive(Deserialize)]
struct Overview {
    version: String,
    started_at: DateTime<Utc>,
    now: DateTime<Utc>,
    database: String,
    readiness: Readiness,
    monitors: Vec<Row>,
    #[serde(default)]
    maintenances: Option<Vec<Maintenance>>,
    #[serde(default)]
    slos: Vec<Slo>,
}

#[derive(Deserialize)]
struct Maintenance {
    maintenance: String,
    active: bool,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    monitors: usize,
}

/// An objective; see `daemon::view`.
#[derive(Deserialize)]
struct Slo {
    id: String,
    status: SloStatus,
    objective: f64,
    window: String,
    uptime_text: String,
    budget: BudgetReport,
}

#[derive(Deserialize)]
struct Row {
    monitor: String,
    url: String,
    status: String,
    #[serde(default)]
    beneath: Option<String>,
    since: Option<DateTime<Utc>>,
    #[serde(default)]
    overdue: bool,
    last: Option<Last>,
    /// Why it is down, when no check of this daemon's life says it.
    #[serde(default)]
    first_bad: Option<Bad>,
}

#[derive(Deserialize)]
struct Bad {
    failure: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Last {
    checked_at: DateTime<Utc>,
    response_time_ms: i64,
    failure: Option<String>,
    message: Option<String>,
}

pub(super) fn run(arguments: &StatusArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let runtime = small_runtime()?;
    let ask = |socket: &Path| runtime.block_on(client::get(socket, "/api/v1/overview", DEADLINE));
    let socket = match super::configured_state_directory(config, environment) {
        Ok(directory) => state::admin_socket(&directory)?,
        // The file is gone; its daemon may run on, and is looked for where it would be without the file.
        Err(lost) if lost.exit == Exit::Config => {
            let directory = super::remaining_state_directory(config, environment)?;
            let socket = state::admin_socket(&directory)?;
            if ask(&socket).is_err() {
                let text = format!("{}; and no daemon answers at {}", lost.message, socket.display());
                return Err(Stop::new(Exit::Config, text));
            }
            let found = format!("the daemon of the default state directory is shown, at {}", socket.display());
            exit::complain(&Stop::new(Exit::Config, format!("{}: {found}", lost.message)));
            socket
        }
        Err(stop) => return Err(stop),
    };
    loop {
        let body = ask(&socket).map_err(reload::client_stop)?;
        let overview: Overview = serde_json::from_slice(&body)
            .map_err(|error| Stop::new(Exit::Failure, format!("the daemon's answer is not understood: {error}")))?;
        let stdout = std::io::stdout();
        let width = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten();
        let width = width.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        let text = if arguments.json { String::from_utf8_lossy(&body).into_owned() } else { table(&overview, width) };
        // Home and clear below, so that a redraw does not flicker.
        let redraw = arguments.watch && !arguments.json && stdout.is_terminal();
        let text = if redraw { format!("\x1b[H\x1b[J{text}") } else { text };
        if !exit::say(&text) || !arguments.watch {
            return Ok(exit_of(&overview));
        }
        runtime.block_on(async { tokio::time::sleep(REDRAW).await });
    }
}

/// A daemon that checks nothing, such as a standby, must not pass for one that finds everything up.
fn exit_of(overview: &Overview) -> Exit {
    if overview.monitors.iter().any(|row| row.status == "down") {
        Exit::Failure
    } else if overview.monitors.is_empty() && overview.readiness.role != "active" {
        Exit::NotRunning
    } else {
        Exit::Ok
    }
}

/// `width`: columns of the terminal; what goes elsewhere is not cut.
fn table(overview: &Overview, width: Option<usize>) -> String {
    let mut text = format!(
        "Lamplighter {}, running for {}, database: {}\n",
        overview.version,
        age(overview.started_at, overview.now),
        overview.database
    );
    for reason in overview.readiness.reasons.iter().chain(&overview.readiness.notes) {
        let detail = reason.detail.as_deref().unwrap_or_default();
        // Findings about a configuration are several lines.
        let detail: Vec<_> = detail.lines().map(escape).collect();
        let _ = writeln!(text, "! {}: {}", reason.code, detail.join("\n    "));
    }
    text.push('\n');
    if overview.monitors.is_empty() {
        text.push_str(match overview.readiness.role.as_str() {
            "active" => {
                "No monitors yet: add [[monitor]] tables to the configuration file, or rows to the table monitors.\n"
            }
            "standby" => "A standby checks nothing. Ask for the monitors where the active daemon runs.\n",
            _ => "It is starting and watches nothing yet.\n",
        });
        return text;
    }
    let mut rows = vec![["MONITOR", "STATUS", "SINCE", "CHECKED", "TIME", "URL", "WHY"].map(str::to_owned)];
    rows.extend(overview.monitors.iter().map(|row| cells(row, overview.now)));
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    // The last column gets what is left, but enough for the name of a failure, which may wrap then.
    let others: usize = widths.iter().take(6).map(|width| width + 2).sum();
    let last = width.map_or(usize::MAX, |width| width.saturating_sub(others).max(SHORTEST_WHY));
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column == WHY {
                line.push_str(&shortened(cell, last));
            } else {
                let _ = write!(line, "{cell:width$}  ");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let count = |status: &str| overview.monitors.iter().filter(|row| row.status == status).count();
    let counts = ["up", "degraded", "down", "unknown", "pending", "paused", "maintenance"]
        .into_iter()
        .map(|status| (status, count(status)))
        .filter(|(_, number)| *number > 0)
        .map(|(status, number)| format!("{number} {status}"));
    let _ = writeln!(text, "\n{}", counts.collect::<Vec<_>>().join(", "));
    objectives(&mut text, &overview.slos);
    text.push_str(&maintenances(overview));
    text
}

/// What runs, and what comes next.
fn maintenances(overview: &Overview) -> String {
    let mut text = String::new();
    let form = "%F %H:%M UTC";
    let all = overview.maintenances.as_deref().unwrap_or_default();
    for Maintenance { maintenance, to, monitors, .. } in all.iter().filter(|one| one.active) {
        let (name, left) = (cut(maintenance), age(overview.now, *to));
        let of = super::counted(*monitors, "monitor");
        let _ = writeln!(text, "maintenance: {name}, {of}, until {} (in {left})", to.format(form));
    }
    for Maintenance { maintenance, from, to, .. } in all.iter().filter(|one| !one.active).take(NEXT) {
        let (name, wait, length) = (cut(maintenance), age(overview.now, *from), age(*from, *to));
        let _ = writeln!(text, "next maintenance: {name}, {} (in {wait}), for {length}", from.format(form));
    }
    text
}

fn objectives(text: &mut String, slos: &[Slo]) {
    for slo in slos {
        let window = if slo.window == "calendar_month" { "this month" } else { slo.window.as_str() };
        let left = slo.budget.left_share.map_or_else(String::new, |share| {
            // Rounded down, as all that could look better than it is.
            format!(", {}% of its budget left", (share * 100.0).floor())
        });
        let (id, status) = (cut(&slo.id), slo.status.name());
        let _ = writeln!(
            text,
            "objective {id}: {status}, {} of {}% in {}{left}",
            slo.uptime_text,
            slo.objective,
            escape(window)
        );
    }
}

fn cells(row: &Row, now: DateTime<Utc>) -> [String; 7] {
    let ago = |at: Option<DateTime<Utc>>| at.map_or_else(|| "-".to_owned(), |at| age(at, now));
    let last = row.last.as_ref();
    let bad = row.first_bad.as_ref().map(|bad| (&bad.failure, &bad.message));
    let why = match last.map(|last| (&last.failure, &last.message)).or(bad) {
        Some((Some(failure), Some(message))) => Some(format!("{failure}: {message}")),
        Some((Some(failure), None)) => Some(failure.clone()),
        _ => None,
    };
    let why = match (row.overdue, why) {
        (true, Some(why)) => Some(format!("overdue; {why}")),
        (true, None) => Some("overdue".to_owned()),
        (false, why) => why,
    };
    [
        cut(&row.monitor),
        match &row.beneath {
            Some(beneath) if row.status == "maintenance" => format!("maintenance ({beneath})"),
            _ => row.status.clone(),
        },
        ago(row.since),
        ago(last.map(|last| last.checked_at)),
        last.map_or_else(|| "-".to_owned(), |last| format!("{} ms", last.response_time_ms)),
        cut(&row.url),
        why.map_or_else(String::new, |why| escape(&why).into_owned()),
    ]
}

fn cut(text: &str) -> String {
    shortened(&escape(text), WIDEST_CELL)
}

/// At most so many characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// `8s`, `5m`, `3h`, `12d`.
fn age(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - at).num_seconds().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_not_told_to_add_monitors() {
        let overview: Overview = serde_json::from_str(
            r#"{"version":"0.1.0","started_at":"2026-01-01T00:00:00Z","now":"2026-01-01T01:00:00Z","database":"external",
                "readiness":{"ready":false,"role":"standby","reasons":[{"code":"standby","detail":"x"}],"notes":[]},
                "monitors":[]}"#,
        )
        .unwrap();
        assert_eq!(exit_of(&overview), Exit::NotRunning, "nothing is known of any monitor here");
        let text = table(&overview, None);
        assert!(text.contains("A standby checks nothing") && !text.contains("No monitors yet"), "{text}");
    }

    #[test]
    fn the_table_reads_well_and_hostile_names_stay_in_their_cell() {
        let overview: Overview = serde_json::from_str(
            r#"{"version":"0.1.0","started_at":"2026-01-01T00:00:00Z","now":"2026-01-01T01:00:00Z","database":"embedded",
                "readiness":{"ready":false,"role":"active","reasons":[{"code":"store_away","detail":"refused"}],"notes":[]},
                "monitors":[
                  {"monitor":"shop","url":"https://shop.example/","status":"up","since":"2026-01-01T00:00:01Z",
                   "last":{"checked_at":"2026-01-01T00:59:55Z","response_time_ms":41,"failure":null,"message":null}},
                  {"monitor":"old","url":"tcp://127.0.0.1:2","status":"down","since":null,"last":null,
                   "first_bad":{"checked_at":"2026-01-01T00:00:00.000Z","failure":"dns_nxdomain","message":"no such name"}},
                  {"monitor":"a\nb","url":"tcp://127.0.0.1:1","status":"down","since":null,"overdue":true,
                   "last":{"checked_at":"2026-01-01T00:59:59Z","response_time_ms":0,"failure":"connect_refused","message":"nobody listens"}}]}"#,
        )
        .unwrap();
        assert_eq!(exit_of(&overview), Exit::Failure);
        let text = table(&overview, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Lamplighter 0.1.0, running for 60m, database: embedded");
        assert_eq!(lines[1], "! store_away: refused");
        assert_eq!(lines[3], "MONITOR  STATUS  SINCE  CHECKED  TIME   URL                    WHY");
        assert_eq!(lines[4], "shop     up      59m    5s       41 ms  https://shop.example/");
        assert!(lines[5].starts_with("old ") && lines[5].ends_with("dns_nxdomain: no such name"), "{text}");
        assert_eq!(
            lines[6],
            "a\\u{a}b  down    -      1s       0 ms   tcp://127.0.0.1:1      overdue; connect_refused: nobody listens"
        );
        assert_eq!(lines[8], "1 up, 2 down");
        let narrow = table(&overview, Some(94));
        let row = narrow.lines().nth(6).unwrap();
        assert!(row.ends_with("overdue; connect_refused: nobo…") && row.chars().count() == 94, "{row}");
        let narrower = table(&overview, Some(20));
        assert!(narrower.lines().nth(6).unwrap().ends_with("  overdue; connect_refuse…"), "{narrower}");
    }

    #[test]
    fn without_monitors_it_says_why() {
        for (role, text) in [("active", "No monitors yet"), ("standby", "A standby"), ("starting", "It is starting")] {
            let overview = serde_json::json!({
                "version": "0.1.0", "started_at": "2026-01-01T00:00:00Z", "now": "2026-01-01T00:00:00Z",
                "database": "external", "monitors": [],
                "readiness": {"ready": role == "active", "role": role, "reasons": [], "notes": []},
            });
            let overview: Overview = serde_json::from_value(overview).unwrap();
            assert_eq!(exit_of(&overview), if role == "active" { Exit::Ok } else { Exit::NotRunning });
            let shown = table(&overview, None);
            assert!(shown.lines().nth(2).unwrap().starts_with(text), "{shown}");
        }
    }
}
