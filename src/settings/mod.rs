//! Configuration: the TOML model over a list of sources, secrets, and diagnostics that report every error at once.
//!
//! Rules (pure, but for files that references name): `tree`, `document`, `pieces`, `reader`, `diagnostic`, `duration`, `size`, `proxy`, `history`.
//! Above the registration table of probe kinds: `defaults`, `monitor`, `model`, `again`, `slo`, `maintenance`. Reading from disk: `file`.

pub mod again;
pub(crate) mod common;
pub mod defaults;
pub mod definition;
pub mod diagnostic;
pub mod document;
pub mod duration;
pub mod example;
pub mod file;
mod graph;
mod history;
pub mod limited;
mod maintenance;
pub mod model;
pub mod monitor;
mod pieces;
pub mod proxy;
pub mod reader;
pub mod sections;
pub mod size;
mod slo;
pub(crate) mod target;
pub mod tree;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
