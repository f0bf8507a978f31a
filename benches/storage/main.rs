//! What the database costs: recording at a steady rate, roll-ups, and answers over a long history.
//!
//! `cargo bench --bench storage -- [--rate N] [--seconds N] [--monitors N] [--rows N] [--only record|history] [--keep DIR]`
//!
//! Everything runs on a private cluster as the daemon makes it, in a folder of its own; docs/benchmarks.md says what is
//! measured and how.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, reason = "a command-line tool")]

use std::path::PathBuf;
use std::process::ExitCode;

mod history;
mod house;
mod recording;
mod yardstick;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What is asked for.
struct Options {
    /// Checks a second, and monitors: each is checked once a second of ours, which stands for a minute.
    rate: usize,
    /// Seconds of recording: minutes of the history that it makes, so 60 are an hour.
    seconds: u32,
    /// Monitors of the long history.
    monitors: i32,
    /// Raw rows of it, over 30 days.
    rows: i64,
    record: bool,
    history: bool,
    /// Where the cluster of the history stays; none: it goes with us.
    keep: Option<PathBuf>,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> std::result::Result<Self, String> {
        let mut options = Self {
            rate: 15_000,
            seconds: 60,
            monitors: 10_000,
            rows: 20_000_000,
            record: true,
            history: true,
            keep: None,
        };
        while let Some(name) = arguments.next() {
            // What `cargo bench` passes to every benchmark.
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse::<u32>().map_err(|error| format!("{name} {value}: {error}"));
            match name.as_str() {
                "--rate" => options.rate = number()? as usize,
                "--seconds" => options.seconds = number()?.clamp(1, 60),
                "--monitors" => options.monitors = i32::try_from(number()?).map_err(|error| error.to_string())?,
                "--rows" => options.rows = i64::from(number()?),
                "--keep" => options.keep = Some(value.into()),
                "--only" => match value.as_str() {
                    "record" => options.history = false,
                    "history" => options.record = false,
                    _ => return Err(format!("--only {value}: record or history")),
                },
                _ => return Err(format!("{name} is not known")),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(64);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// On the main thread, because the cluster ends with the thread that started it.
fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if options.record {
        let house = house::House::open(&runtime, None)?;
        runtime.block_on(recording::measure(&house, options))?;
    }
    if options.history {
        let house = house::House::open(&runtime, options.keep.as_deref())?;
        runtime.block_on(history::measure(&house, options))?;
    }
    Ok(())
}
