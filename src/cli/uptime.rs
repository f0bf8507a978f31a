//! `lamplighter uptime`: time-weighted uptime of a monitor, and the spans that make it up.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Environment, Exit, Stop, exit, reload, small_runtime, state};
use crate::telemetry::escape;
use crate::uptime::Month;
use crate::web::client;

const DEADLINE: Duration = Duration::from_secs(30);
/// The windows that are shown when none is asked for, in days.
const STANDARD: [u32; 5] = [1, 7, 30, 90, 365];
/// What `--explain` explains when no window is asked for.
const EXPLAINED: u32 = 30;

/// Arguments of `uptime`.
#[derive(Debug, clap::Args)]
pub(super) struct UptimeArgs {
    /// Id or key of the monitor
    monitor: String,
    /// Only the last so many days of 24 hours, 1 to 3650
    #[arg(long, conflicts_with = "month", value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: Option<u32>,
    /// Only this calendar month
    #[arg(long, value_name = "YYYY-MM", value_parser = month)]
    month: Option<Month>,
    /// Of calendar months, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", value_parser = zone, conflicts_with = "days")]
    timezone: Option<Tz>,
    /// Also list the spans that make up the figure; of 30 days unless a window is given
    #[arg(long)]
    explain: bool,
    /// Print the daemon's answers as JSON, one a line
    #[arg(long)]
    json: bool,
}

fn month(text: &str) -> Result<Month, String> {
    text.parse().map_err(|()| "must be a month such as 2026-11, 1970-01 to 9998-12".to_owned())
}

fn zone(text: &str) -> Result<Tz, String> {
    text.parse().map_err(|_| "must be a name of the IANA database, such as Europe/Berlin".to_owned())
}

/// What the table needs of `/api/v1/monitors/{id}/uptime`.
#[derive(Deserialize)]
struct Answer {
    monitor: String,
    time_weighted: Figures,
}

#[derive(Deserialize)]
struct Figures {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    uptime_text: String,
    coverage: Option<f64>,
    down_seconds: f64,
    maintenance_seconds: f64,
    unobserved_seconds: f64,
    incidents: usize,
    #[serde(default)]
    spans: Vec<Span>,
    #[serde(default)]
    spans_omitted: usize,
}

#[derive(Deserialize)]
struct Span {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    seconds: f64,
    state: String,
    reason: Option<String>,
    #[serde(default)]
    incidents: Vec<Incident>,
    #[serde(default)]
    maintenances: Vec<Planned>,
}

#[derive(Deserialize)]
struct Incident {
    id: i64,
    source: Option<String>,
    cause: Option<String>,
}

#[derive(Deserialize)]
struct Planned {
    maintenance: Option<String>,
    maintenance_id: String,
}

/// What the daemon says when it does not answer.
#[derive(Deserialize)]
struct Refused {
    status: u16,
    detail: String,
}

pub(super) fn run(arguments: &UptimeArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let directory = super::configured_state_directory(config, environment)?;
    let socket = state::admin_socket(&directory)?;
    let runtime = small_runtime()?;
    let monitor = utf8_percent_encode(&arguments.monitor, NON_ALPHANUMERIC).to_string();
    let mut answers = Vec::new();
    let mut ask = |name: String, window: &str| {
        let explain = if arguments.explain { "&explain=true" } else { "" };
        let path = format!("/api/v1/monitors/{monitor}/uptime?{window}{explain}");
        let body = runtime.block_on(client::get(&socket, &path, DEADLINE)).map_err(reload::client_stop)?;
        let answer: Answer = understood(&body, &arguments.monitor)?;
        if arguments.json {
            exit::say(&String::from_utf8_lossy(&body));
        }
        let now = answer.time_weighted.to;
        answers.push((name, answer));
        Ok::<_, Stop>(now)
    };
    let zone = arguments.timezone.unwrap_or(Tz::UTC);
    let of_month =
        |month: Month| format!("month={month}&timezone={}", utf8_percent_encode(zone.name(), NON_ALPHANUMERIC));
    let days = |days: u32| (if days == 1 { "24 h".to_owned() } else { format!("{days} days") }, format!("days={days}"));
    match (arguments.month, arguments.days) {
        (Some(month), _) => drop(ask(month.to_string(), &of_month(month))?),
        (None, Some(number)) => {
            let (name, window) = days(number);
            ask(name, &window)?;
        }
        (None, None) if arguments.explain => {
            let (name, window) = days(EXPLAINED);
            ask(name, &window)?;
        }
        (None, None) => {
            let mut now = None;
            for number in STANDARD {
                let (name, window) = days(number);
                now = Some(ask(name, &window)?);
            }
            if let Some(this) = now.map(|now| Month::of(now, zone)) {
                for month in [this, this.previous()] {
                    ask(month.to_string(), &of_month(month))?;
                }
            }
        }
    }
    if !arguments.json {
        exit::say(&text(&answers, arguments.explain, arguments.timezone));
    }
    Ok(Exit::Ok)
}

fn understood<T: DeserializeOwned>(body: &[u8], monitor: &str) -> Result<T, Stop> {
    serde_json::from_slice(body).map_err(|error| match serde_json::from_slice::<Refused>(body) {
        Ok(refused) if refused.status == 404 => {
            let text = format!(
                "no monitor has the id or key {monitor:?}; of rows without a key the name is not enough: \
                 `lamplighter status --json` has the ids"
            );
            Stop::new(Exit::Failure, text)
        }
        Ok(refused) => Stop::new(Exit::Failure, refused.detail),
        Err(_) => Stop::new(Exit::Failure, format!("the daemon's answer is not understood: {error}")),
    })
}

fn text(answers: &[(String, Answer)], explain: bool, zone: Option<Tz>) -> String {
    let mut text = String::new();
    if let Some((_, first)) = answers.first() {
        let zone = zone.map_or_else(String::new, |zone| format!(", months in {}", zone.name()));
        let _ = writeln!(text, "{}{zone}\n", escape(&first.monitor));
    }
    let mut rows =
        vec![["WINDOW", "UPTIME", "COVERAGE", "DOWN", "INCIDENTS", "MAINTENANCE", "UNOBSERVED"].map(str::to_owned)];
    rows.extend(answers.iter().map(|(name, answer)| cells(name, &answer.time_weighted)));
    table(&mut text, &rows);
    for (_, answer) in answers.iter().filter(|_| explain) {
        explained(&mut text, &answer.time_weighted);
    }
    text
}

fn cells(name: &str, figures: &Figures) -> [String; 7] {
    let amount = |seconds: f64| if seconds > 0.0 { length(seconds) } else { "-".to_owned() };
    [
        name.to_owned(),
        figures.uptime_text.clone(),
        // Rounded down: 100 % only if all of it was observed.
        figures.coverage.map_or_else(|| "-".to_owned(), |share| format!("{:.2}%", (share * 10_000.0).floor() / 100.0)),
        amount(figures.down_seconds),
        if figures.incidents > 0 { figures.incidents.to_string() } else { "-".to_owned() },
        amount(figures.maintenance_seconds),
        amount(figures.unobserved_seconds),
    ]
}

fn explained(text: &mut String, figures: &Figures) {
    let time = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S%.3f").to_string();
    let _ = writeln!(text, "\nfrom {} to {}, UTC", time(figures.from), time(figures.to));
    if figures.spans_omitted > 0 {
        let _ = writeln!(text, "{} older spans are not shown: ask for a shorter window", figures.spans_omitted);
    }
    text.push('\n');
    let mut rows = vec![["FROM", "TO", "LENGTH", "STATE", "WHY"].map(str::to_owned)];
    rows.extend(figures.spans.iter().map(|span| {
        let incident = |incident: &Incident| {
            let source = incident.source.as_deref().map_or_else(String::new, |source| format!(" ({})", escape(source)));
            let cause = incident.cause.as_deref().map_or_else(String::new, |cause| format!(" {}", escape(cause)));
            format!("incident {}{source}{cause}", incident.id)
        };
        let maintenance = |planned: &Planned| match &planned.maintenance {
            Some(label) => format!("maintenance {} ({})", escape(label), escape(&planned.maintenance_id)),
            None => format!("maintenance {}", escape(&planned.maintenance_id)),
        };
        let mut why: Vec<String> = span.incidents.iter().map(incident).collect();
        why.extend(span.maintenances.iter().map(maintenance));
        why.extend(span.reason.iter().map(|reason| escape(reason).into_owned()));
        [time(span.from), time(span.to), length(span.seconds), escape(&span.state).into_owned(), why.join(", ")]
    }));
    table(text, &rows);
}

fn table<const COLUMNS: usize>(text: &mut String, rows: &[[String; COLUMNS]]) {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// `2d 3h 4m 5s`: whole seconds, rounded up, so that no downtime is shown as none.
fn length(seconds: f64) -> String {
    // At most some years, as the daemon computed it.
    let whole = seconds.ceil().max(0.0) as u64;
    let parts = [(whole / 86_400, "d"), (whole / 3600 % 24, "h"), (whole / 60 % 60, "m"), (whole % 60, "s")];
    let shown: Vec<String> =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_well() {
        let answer: Answer = serde_json::from_str(
            r#"{"monitor":"shop","time_weighted":{"from":"2026-11-01T00:00:00Z","to":"2026-11-02T00:00:00Z",
                "uptime_text":"99.98%","coverage":0.999999,"down_seconds":12.2,"maintenance_seconds":0,
                "unobserved_seconds":90061.0,"incidents":2,"spans":[
                  {"from":"2026-11-01T00:00:00Z","to":"2026-11-01T00:00:10.5Z","seconds":10.5,"state":"unobserved","reason":"not_running"},
                  {"from":"2026-11-01T00:00:10.5Z","to":"2026-11-01T00:01:00Z","seconds":49.5,"state":"down",
                   "incidents":[{"id":7,"source":"daemon","cause":"connect_refused"},{"id":9,"source":"man\nual","cause":null}]},
                  {"from":"2026-11-01T00:01:00Z","to":"2026-11-01T00:02:00Z","seconds":60,"state":"maintenance",
                   "maintenances":[{"maintenance":"patch-night","maintenance_id":"6d0c"},{"maintenance":null,"maintenance_id":"77e1"}]}],
                "spans_omitted":3}}"#,
        )
        .unwrap();
        let shown = text(&[("24 h".to_owned(), answer)], true, Some(Tz::Europe__Berlin));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "shop, months in Europe/Berlin");
        assert_eq!(lines[2], "WINDOW  UPTIME  COVERAGE  DOWN  INCIDENTS  MAINTENANCE  UNOBSERVED");
        assert_eq!(lines[3], "24 h    99.98%  99.99%    13s   2          -            1d 1h 1m 1s");
        assert_eq!(lines[5], "from 2026-11-01 00:00:00.000 to 2026-11-02 00:00:00.000, UTC");
        assert_eq!(lines[6], "3 older spans are not shown: ask for a shorter window");
        assert_eq!(lines[9], "2026-11-01 00:00:00.000  2026-11-01 00:00:10.500  11s     unobserved   not_running");
        assert!(
            lines[10].ends_with("down         incident 7 (daemon) connect_refused, incident 9 (man\\u{a}ual)"),
            "{shown}"
        );
        assert!(
            lines[11].ends_with("1m      maintenance  maintenance patch-night (6d0c), maintenance 77e1"),
            "{shown}"
        );
        assert_eq!(lines.len(), 12);
    }

    #[test]
    fn lengths_are_never_rounded_to_nothing() {
        for (seconds, text) in [(0.0, "0s"), (0.001, "1s"), (59.0, "59s"), (60.0, "1m"), (86_400.5, "1d 1s")] {
            assert_eq!(length(seconds), text);
        }
    }
}
