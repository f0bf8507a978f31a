//! Turns an observation and expectations into a verdict, and steps the monitor's state machine.

use std::sync::Arc;

use crate::catalog::Entry;
use crate::model::{Check, Evidence};

pub mod expectation;
pub mod judge;
pub mod machine;
pub mod stage;

/// A judged check with its evidence: pool to stage.
pub struct Finished {
    /// The monitor as it was when the check began.
    pub entry: Arc<Entry>,
    /// The judgement.
    pub check: Check,
    /// What was seen, secrets removed.
    pub evidence: Box<Evidence>,
}
