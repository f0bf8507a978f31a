//! Configuration: the TOML model over a list of sources, secrets, and diagnostics that report every error at once.

pub mod diagnostic;
pub mod duration;
pub mod limited;
pub mod reader;
pub mod tree;
