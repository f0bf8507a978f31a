//! `lamplighter migrate legacy`.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::progress::Progress;
use super::{Environment, Exit, Stop, exit, load, migrate, small_runtime};
use crate::daemon::start_stop;
use crate::store::Store;
use crate::store::legacy::{Copied, Dropped, Step, TableReport, UpgradeError, UpgradeOptions, UpgradeReport};
use crate::telemetry::escape;

#[derive(Debug, Args)]
pub(super) struct LegacyArgs {
    /// Print where every table, column and row would go, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Make the old status reports count: also as rows of monitor_checks
    #[arg(long)]
    copy_reports: bool,
    /// The zone of times without one [default: UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// When the upgrade is finished: drop the old tables
    #[arg(long, conflicts_with = "timezone")]
    drop_legacy: bool,
    /// Print the plan or the report as one JSON object
    #[arg(long)]
    json: bool,
}

/// Upgrades, or shows what it would do.
pub(super) fn run(arguments: &LegacyArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let settings = load(config, environment)?;
    let _cluster = match &settings.database.url {
        Some(_) => None,
        None => Some(migrate::embedded(&settings, environment)?),
    };
    small_runtime()?.block_on(async {
        let store = migrate::store(&settings, environment)?;
        let report = tokio::select! {
            report = Box::pin(work(&store, arguments)) => report.map_err(|error| stop(&error)),
            why = interrupted() => Err(why),
        };
        store.close().await;
        let report = report?;
        let text = if arguments.json { json(&report)? } else { shown(&report) };
        exit::say(&text);
        Ok(if report.tables.iter().any(|table| table.missing > 0) { Exit::Failure } else { Exit::Ok })
    })
}

async fn work(store: &Store, arguments: &LegacyArgs) -> Result<UpgradeReport, UpgradeError> {
    let options = UpgradeOptions {
        timezone: arguments.timezone.clone(),
        copy_reports: arguments.copy_reports,
        drop_legacy: arguments.drop_legacy,
    };
    let mut progress: Option<Progress> = None;
    let mut watch = |step: Step<'_>| match step {
        Step::Begin { what, total, unit } => progress = Some(Progress::new(what, total, unit)),
        Step::At(done) => {
            if let Some(progress) = &mut progress {
                progress.at(done);
            }
        }
        Step::Note(text) => match &progress {
            Some(progress) => progress.note(text),
            None => exit::complain_plainly(text),
        },
    };
    if arguments.dry_run {
        store.upgrade_dry_run(&options, &mut watch).await
    } else {
        store.upgrade(&options, &mut watch).await
    }
}

/// The first signal ends it between two statements; what is committed stays.
async fn interrupted() -> Stop {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        // Without handlers a signal ends the process, which the next run survives as well.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Stop::new(Exit::Failure, "interrupted; `lamplighter migrate legacy` goes on where this ended")
}

fn stop(error: &UpgradeError) -> Stop {
    if let UpgradeError::Start(error) = error {
        return start_stop(error);
    }
    let exit = match error.exit_code() {
        64 => Exit::Usage,
        69 => Exit::Unavailable,
        78 => Exit::Config,
        _ => Exit::Failure,
    };
    let more = match (error, exit) {
        (UpgradeError::Sql(_), Exit::Unavailable) => "; `lamplighter migrate legacy` goes on where this ended",
        (UpgradeError::Sql(_), _) => {
            "; nothing is lost, and `lamplighter migrate legacy` goes on when that is put right"
        }
        _ => "",
    };
    Stop::new(exit, format!("{error}{more}"))
}

fn json(report: &UpgradeReport) -> Result<String, Stop> {
    let text = serde_json::to_string(report);
    text.map(|text| text + "\n").map_err(|error| Stop::new(Exit::Failure, format!("cannot print the report: {error}")))
}

/// Names of tables and columns are other people's.
fn shown(report: &UpgradeReport) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let out = &mut text;
    if report.dry_run {
        let _ = writeln!(out, "Dry run: nothing was changed. Times without a zone are {}.\n", report.timezone);
    }
    for table in &report.tables {
        show_table(out, table, report);
    }
    let (stay, go) = if report.dry_run { ("stay", "go") } else { ("stayed", "went") };
    for other in &report.others {
        let where_to = if other.to_legacy {
            format!("{go} to schema {}, because a new table has the name", report.legacy_schema)
        } else {
            format!("{stay} where they are")
        };
        let _ = writeln!(out, "{}: {} rows {where_to}", escape(&other.table), other.rows);
        for (name, outcome) in &other.references {
            let _ = writeln!(out, "  foreign key {} {}", escape(name), escape(outcome));
        }
    }
    if let Some(copied) = &report.copied {
        show_copied(out, *copied);
    }
    if let Some(dropped) = &report.dropped {
        show_dropped(out, dropped, &report.legacy_schema);
    }
    text
}

fn show_table(out: &mut String, table: &TableReport, report: &UpgradeReport) {
    let moved = if report.dry_run { "to move" } else { "moved" };
    let _ = writeln!(
        out,
        "{}: {} rows = {} {moved} to {}.{}",
        escape(&table.table),
        table.rows,
        table.moved,
        escape(&report.schema),
        table.to
    );
    for (reason, rows) in &table.kept {
        let why = match reason.as_str() {
            "orphan" => "orphans: what they belong to is not there",
            "duplicate_id" => "with the id of another row",
            "no_id" => "without an id",
            "no_time" => "without a time",
            other => other,
        };
        let _ = writeln!(out, "  + {rows} kept in {}.{} only: {why}", report.legacy_schema, escape(&table.table));
    }
    if table.missing > 0 {
        let _ = writeln!(out, "  + {} MISSING: they were moved and are not there", table.missing);
    }
    if report.dry_run {
        for column in &table.columns {
            let to = if column.to == "legacy" { "legacy (jsonb), under its name" } else { column.to.as_str() };
            let _ = writeln!(out, "    {} -> {to}", escape(&column.column));
        }
    }
    for (name, rows) in &table.legacy_values {
        let _ = writeln!(out, "    {}: the old value of {rows} rows is in the column legacy", escape(name));
    }
}

fn show_copied(out: &mut String, copied: Copied) {
    let Copied { rows, copied, undecided, out_of_range } = copied;
    let _ = writeln!(
        out,
        "status_reports: of {rows} reports {copied} are checks now, {undecided} say neither up nor down, {out_of_range} \
         are of before 2000 or of the future; all of them stay readable"
    );
}

fn show_dropped(out: &mut String, dropped: &Dropped, schema: &str) {
    let (head, went) = match dropped.dry_run {
        true => ("Dry run: nothing was dropped. --drop-legacy would drop", "would go as well"),
        false => ("Dropped", "went as well"),
    };
    let _ = writeln!(out, "\n{head}");
    for table in &dropped.tables {
        let rows = if table.rows == 1 { "row" } else { "rows" };
        let _ = write!(out, "  {schema}.{}: {} {rows}", escape(&table.table), table.rows);
        let _ = match table.only_there {
            0 => writeln!(out, ", all of them in the new table as well"),
            only => writeln!(out, ", {only} of them in no new table"),
        };
    }
    if dropped.tables.is_empty() {
        let _ = writeln!(out, "  no table: none of the old ones is there");
    }
    let _ = match dropped.schema {
        true => writeln!(out, "  the schema {schema} {went}"),
        false => writeln!(out, "  the schema {schema} stays: it was there before, or something else is in it"),
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::legacy::{DroppedTable, OtherTable};

    #[test]
    fn a_report_says_where_every_row_is() {
        let table = TableReport {
            table: "monitors\u{1b}[2J".to_owned(),
            to: "monitors".to_owned(),
            rows: 10,
            moved: 8,
            kept: BTreeMap::from([("orphan".to_owned(), 2)]),
            legacy_values: BTreeMap::from([("note".to_owned(), 3)]),
            ..TableReport::default()
        };
        let other = OtherTable {
            table: "api_keys".to_owned(),
            rows: 4,
            references: BTreeMap::from([("k".to_owned(), "points at the new table".to_owned())]),
            ..OtherTable::default()
        };
        let report = UpgradeReport {
            schema: "public".to_owned(),
            legacy_schema: "legacy".to_owned(),
            tables: vec![table],
            others: vec![other],
            copied: Some(Copied { rows: 3, copied: 2, undecided: 1, out_of_range: 0 }),
            ..UpgradeReport::default()
        };
        let text = shown(&report);
        for line in [
            "10 rows = 8 moved to public.monitors",
            "+ 2 kept in legacy",
            "of 3 rows",
            "api_keys: 4 rows",
            "2 are checks now",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains("MISSING") && !text.contains("ropped"));
    }

    #[test]
    fn what_is_dropped_is_named_and_counted() {
        let table = |table: &str, rows, only_there| DroppedTable { table: table.to_owned(), rows, only_there };
        let tables = vec![table("users\u{1b}", 3, 1), table("monitors", 1, 0)];
        let shown = |dropped: &Dropped| {
            let mut text = String::new();
            show_dropped(&mut text, dropped, "legacy");
            text
        };
        let mut dropped = Dropped { dry_run: false, tables, schema: true };
        assert_eq!(
            shown(&dropped),
            "\nDropped\n  legacy.users\\u{1b}: 3 rows, 1 of them in no new table\n  \
             legacy.monitors: 1 row, all of them in the new table as well\n  the schema legacy went as well\n"
        );
        dropped = Dropped { dry_run: true, tables: Vec::new(), schema: false };
        let text = shown(&dropped);
        for part in ["nothing was dropped. --drop-legacy would drop", "no table", "legacy stays"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
