//! How many instructions a check costs, counted by callgrind and held against `baseline.txt` beside this file.
//!
//! Run it by `benches/check-instructions`, which chooses the profile; docs/benchmarks.md says what is counted and why.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::path::Path;
use std::process::ExitCode;

mod baseline;
mod callgrind;
mod target;
mod work;

/// Checks of the shorter run; the longer makes twice as many, and the difference is what these cost without start-up.
const CHECKS: u32 = 500;
/// Growth or shrinkage beyond this share fails. Runs on one machine differ by less than a tenth of it.
const TOLERANCE: f64 = 0.05;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments.as_slice() {
        ["--work", checks, port] => work(checks, port),
        ["--update"] => measure().and_then(|measured| update(&measured)),
        // What `cargo bench` passes to every benchmark.
        [] | ["--bench"] => measure().and_then(|measured| compare(&measured)),
        _ => Err("usage: instructions [--update]".to_owned()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn work(checks: &str, port: &str) -> Result<(), String> {
    let checks = checks.parse().map_err(|error| format!("{checks}: {error}"))?;
    let port = port.parse().map_err(|error| format!("{port}: {error}"))?;
    work::run(checks, port)
}

fn measure() -> Result<baseline::Counts, String> {
    let port = target::start().map_err(|error| format!("the canned server does not start: {error}"))?;
    let short = callgrind::count(CHECKS, port)?;
    let long = callgrind::count(2 * CHECKS, port)?;
    Ok(baseline::Counts::of(&short, &long, CHECKS))
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/baseline.txt")
}

fn update(measured: &baseline::Counts) -> Result<(), String> {
    println!("{measured}");
    std::fs::write(path(), measured.to_string()).map_err(|error| format!("{}: {error}", path().display()))
}

fn compare(measured: &baseline::Counts) -> Result<(), String> {
    let text = lamplighter::settings::limited::read(&path(), 1 << 16)
        .map_err(|error| format!("{}: {error}; make it with benches/check-instructions --update", path().display()))?;
    let before = baseline::Counts::read(&text).map_err(|error| format!("{}: {error}", path().display()))?;
    println!("{}", measured.beside(&before));
    let change = measured.total() as f64 / before.total() as f64 - 1.0;
    if change.abs() <= TOLERANCE {
        return Ok(());
    }
    let (much, what) = (change.abs() * 100.0, if change > 0.0 { "more" } else { "fewer" });
    Err(format!(
        "A check takes {much:.1} % {what} instructions than benches/instructions/baseline.txt says ({} and {}); {} % \
         are tolerated.\nIf that is as wanted, or the compiler is another (the baseline was made with {}),\n\
         run `benches/check-instructions --update` and commit the file with the reason.",
        measured.total(),
        before.total(),
        TOLERANCE * 100.0,
        before.compiler(),
    ))
}
