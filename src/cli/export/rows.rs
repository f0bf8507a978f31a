//! `lamplighter export checks|incidents`: straight from the store, page by page.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::moment::{self, Moment};
use crate::access::Viewer;
use crate::access::export::{Export, ExportError, ExportStore as _, Format, Subject, Wanted};
use crate::cli::output::{Output, interrupted};
use crate::cli::progress::Progress;
use crate::cli::{Environment, Exit, Stop, exit, load, migrate, small_runtime};
use crate::clock::{SystemWall, Wall as _};
use crate::model::StoreFault;

/// Arguments of `export checks` and `export incidents`.
#[derive(Debug, Args)]
pub(super) struct RowsArgs {
    /// How rows are written
    #[arg(long, value_enum, default_value_t = RowFormat::Csv)]
    format: RowFormat,
    /// From this moment on: a time, a day, or how long ago [default: the oldest]
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    from: Option<Moment>,
    /// Before this moment [default: to the newest]
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    to: Option<Moment>,
    /// Only of this monitor: its id, key or name; may be repeated
    #[arg(long = "monitor", value_name = "ID|KEY|NAME")]
    monitors: Vec<String>,
    /// Write to this file, which appears when it is complete [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RowFormat {
    /// RFC 4180 with a header; texts that a spreadsheet would take for a formula get an apostrophe
    Csv,
    /// A JSON object a line, texts as they are
    Ndjson,
}

impl RowFormat {
    const fn format(self) -> Format {
        match self {
            Self::Csv => Format::Csv,
            Self::Ndjson => Format::Ndjson,
        }
    }
}

pub(super) fn run(
    subject: Subject,
    arguments: &RowsArgs,
    config: Option<&Path>,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let now = SystemWall.now();
    let at = |moment: Option<Moment>| moment.map(|moment| moment.before(now));
    let wanted =
        Wanted { subject, from: at(arguments.from), to: at(arguments.to), monitors: arguments.monitors.clone() };
    if let (Some(from), Some(to)) = (wanted.from, wanted.to)
        && from > to
    {
        return Err(Stop::new(Exit::Usage, "--from is after --to"));
    }
    let settings = load(config, environment)?;
    small_runtime()?.block_on(async {
        let store = migrate::readable(&settings, environment).await?;
        let export = store.export(Viewer::Everything, wanted).await.map_err(stop)?;
        let (format, subject) = (arguments.format.format(), subject);
        let done = match &arguments.output {
            // A signal ends the process at once: nothing is to be cleared away.
            None => to_standard_output(export, subject, format).await,
            Some(path) => {
                let output = Output::begin(path, 0o666)?;
                tokio::select! {
                    done = to_file(export, subject, format, output) => done,
                    stop = interrupted() => Err(stop),
                }
            }
        };
        store.close().await;
        done
    })
}

fn stop(error: ExportError) -> Stop {
    match error {
        ExportError::Store(fault) => fault_stop(&fault),
        other => Stop::new(Exit::Usage, format!("--monitor: {other}")),
    }
}

fn fault_stop(fault: &StoreFault) -> Stop {
    let exit = if matches!(fault, StoreFault::Away(_)) { Exit::Unavailable } else { Exit::Failure };
    Stop::new(exit, fault.to_string())
}

/// Rows, one page after the other, with a display of how far it is.
struct Pages {
    export: Box<dyn Export>,
    format: Format,
    subject: Subject,
    progress: Progress,
    rows: u64,
}

impl Pages {
    fn new(export: Box<dyn Export>, subject: Subject, format: Format) -> Self {
        let progress = Progress::new(format!("exporting {}", subject.name()), 0, "rows");
        Self { export, format, subject, progress, rows: 0 }
    }

    /// The bytes of the next page, into `out`; false at the end.
    async fn next(&mut self, out: &mut Vec<u8>) -> Result<bool, Stop> {
        out.clear();
        let Some(page) = self.export.next().await.map_err(|fault| fault_stop(&fault))? else { return Ok(false) };
        self.format.write(&page.rows, out);
        self.rows += page.rows.len() as u64;
        // As many rows as there would be if the rest were like what is behind us.
        if page.done > 0.0 && self.rows > 0 {
            self.progress.set_total((self.rows as f64 / page.done).round() as u64);
        }
        self.progress.at(self.rows);
        Ok(true)
    }
}

async fn to_standard_output(export: Box<dyn Export>, subject: Subject, format: Format) -> Result<Exit, Stop> {
    let mut pages = Pages::new(export, subject, format);
    let mut bytes = format.head(subject);
    loop {
        match put(&bytes) {
            Ok(()) => {}
            // Whoever read has enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            Err(error) => return Err(Stop::new(Exit::Failure, format!("standard output: {error}"))),
        }
        if !pages.next(&mut bytes).await? {
            return Ok(Exit::Ok);
        }
    }
}

fn put(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

async fn to_file(export: Box<dyn Export>, subject: Subject, format: Format, mut output: Output) -> Result<Exit, Stop> {
    let mut pages = Pages::new(export, subject, format);
    output.write(&format.head(subject))?;
    let mut bytes = Vec::new();
    while pages.next(&mut bytes).await? {
        output.write(&bytes)?;
    }
    output.finish()?;
    let (rows, subject) = (pages.rows, pages.subject.name());
    drop(pages);
    exit::complain_plainly(&format!("{rows} {subject} exported"));
    Ok(Exit::Ok)
}
