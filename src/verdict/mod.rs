//! Turns an observation and expectations into a verdict, and steps the monitor's state machine.

use std::sync::Arc;

use crate::catalog::Entry;
use crate::model::{Check, Evidence, Observation};

pub mod board;
pub mod evidence;
pub mod expectation;
pub mod gathering;
pub mod judge;
pub mod machine;
pub mod pings;
pub mod pulse;
pub mod redact;
pub mod stage;
pub mod text;

/// A judged check with its evidence: pool to stage.
pub struct Finished {
    /// The monitor as it was when the check began.
    pub entry: Arc<Entry>,
    /// The judgement.
    pub check: Check,
    /// What was seen, secrets removed.
    pub evidence: Box<Evidence>,
}

impl Finished {
    /// Judges what an attempt saw, and keeps the evidence: some microseconds, but up to seconds when expectations read
    /// a large hostile body, so that such a judgement (`expect.reads_body()`) is better made off the async workers.
    #[must_use]
    pub fn of(entry: Arc<Entry>, attempt: u16, observation: &Observation) -> Self {
        let redactor = redact::Redactor::new(&entry.secrets);
        Self::by(entry, attempt, observation, &redactor)
    }

    /// What `observation`, a fault in our own words, makes: nothing is held against expectations or searched for
    /// secrets. For when [`Self::of`] has panicked.
    #[must_use]
    pub fn of_fault(entry: Arc<Entry>, attempt: u16, observation: &Observation) -> Self {
        Self::by(entry, attempt, observation, &redact::Redactor::new(&[]))
    }

    fn by(entry: Arc<Entry>, attempt: u16, observation: &Observation, redactor: &redact::Redactor) -> Self {
        let judgement = judge::judge(observation, &entry.prepared.expect, redactor);
        let evidence = Box::new(evidence::evidence(observation, &judgement, redactor));
        let check = Check {
            details: evidence.details.clone(),
            ..judge::check(entry.monitor.id, attempt, observation, judgement)
        };
        Self { entry, check, evidence }
    }
}
