//! What a monitor's owner expects of its observations (`[monitor.expect]`).

use crate::settings::reader::TableReader;

/// Which expectations a kind can meet; `latency_below` and `latency_down_above` every kind can.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepts {
    /// `status`.
    pub status: bool,
    /// `body_contains` and its siblings.
    pub body: bool,
    /// `headers`.
    pub headers: bool,
    /// `json`.
    pub json: bool,
    /// `certificate_days_left`.
    pub certificate: bool,
}

/// Compiled expectations.
#[derive(Debug, Default)]
pub struct Expectations {}

impl Expectations {
    /// Reads the `expect` sub-table of a monitor; an expectation that the kind cannot meet is an error.
    pub fn read(monitor: &mut TableReader<'_>, accepts: Accepts) -> Self {
        let _ = (monitor, accepts);
        Self {}
    }

    /// Whether the whole body is needed.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        false
    }
}
