//! Time-weighted uptime: which part of a window a monitor was up, down, under maintenance or not observed. Pure rules;
//! docs/uptime.md is their definition.

mod figures;
mod timeline;
mod window;

pub use figures::{Figures, percent_text};
pub use timeline::{Blind, History, Maintenance, Outage, Span, Timeline, Unseen, Watch, What};
pub use window::{Month, Window};

#[cfg(test)]
mod tests;
