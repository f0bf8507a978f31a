//! Exit codes, as sysexits.h names them, and the one line that goes with each.

use std::io::Write as _;
use std::process::ExitCode;

use crate::verdict::text;

/// How a command ends (contract, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; up; valid.
    Ok,
    /// It failed: down, refused, an internal error.
    Failure,
    /// `probe`: nothing is known.
    Unknown,
    /// `status`, `reload`: no daemon is running.
    NotRunning,
    /// EX_USAGE.
    Usage,
    /// EX_UNAVAILABLE: something that is needed is not there.
    Unavailable,
    /// EX_CANTCREAT: the state directory.
    StateDirectory,
    /// EX_CONFIG.
    Config,
    /// `probe`: ended by this signal, whose number is told as shells tell it, above 128.
    Interrupted(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Unknown => 2,
            Self::NotRunning => 3,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::StateDirectory => 73,
            Self::Config => 78,
            Self::Interrupted(signal) => 128_u8.saturating_add(signal),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command ended early: a code and what to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The code.
    pub exit: Exit,
    /// One line, or findings a line each. Names the place and the way out; no secrets.
    pub message: String,
}

impl Stop {
    /// A stop with its message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// Tells the reason on standard error.
pub(super) fn complain(stop: &Stop) {
    if !stop.message.is_empty() {
        // There is nobody left to tell that standard error is gone.
        // It may quote what a database server or a file says.
        let _ = writeln!(std::io::stderr(), "lamplighter: {}", text::clean(&stop.message, usize::MAX, true));
    }
}

/// Prints findings on standard error as they are, so that editors find `file:line:column` at the beginning of a line.
pub(super) fn complain_plainly(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints to standard output. False when nobody reads it any more.
pub(crate) fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}
