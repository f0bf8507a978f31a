//! What fuzzing holds the program to: a function for each target of `tests/fuzz`, which takes any bytes and panics where
//! a property does not hold. Only built for fuzzing, and for the test that replays the corpus.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a broken property ends the run")]

use std::cell::RefCell;
use std::path::Path;

use crate::settings::diagnostic::Findings;
use crate::settings::document;
use crate::settings::reader::{Origin, TableReader};
use crate::settings::tree::Table;

mod http;
mod names;
mod peers;
mod talks;
mod text;
mod wire;

#[cfg(test)]
mod tests;

pub use http::{chunked, coding, head};
pub use names::dns;
pub use peers::{dial, dialogue};
pub use talks::{bson, mysql, postgres, redis, script, ssh, websocket};
pub use text::{config, cron, json_path, plugin, xml};

/// What stands before the first such byte, and behind it.
fn parts(bytes: &[u8], at: u8) -> (&[u8], &[u8]) {
    let found = bytes.iter().position(|byte| *byte == at);
    found.and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?))).unwrap_or((bytes, &[]))
}

/// A table of TOML, if it is one.
fn toml(text: &str) -> Option<Table> {
    let findings = Findings::default();
    let (table, broken) = document::parse(0, text, &findings);
    (!broken && findings.count() == 0).then_some(table)
}

/// Reads something of a monitor's table, with what the reader had to say about it.
fn monitor<T>(own: &Table, trusted: bool, read: impl FnOnce(&mut TableReader<'_>) -> T) -> (T, Vec<String>) {
    let origin = Origin { trusted, env: &|_| None, base: Path::new("/nowhere"), credentials: None };
    let (findings, secrets) = (Findings::default(), RefCell::default());
    let value = read(&mut TableReader::new(own, None, "", &origin, &findings, &secrets));
    let complaints = findings.into_sorted().0.iter().map(ToString::to_string).collect();
    (value, complaints)
}
