//! What the daemon counts for `/metrics`, and how it is written: text formats, tasks, store calls, jobs, the process.
//!
//! A pull model: loops keep atomics, and a scrape reads them. `prometheus-client` was left aside because it writes
//! neither the text format 0.0.4 nor escaped label values (its issue 151), and label values here are other people's text.

pub mod process;
pub mod task;
pub mod text;
pub mod work;
