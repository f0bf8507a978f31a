//! What stays of a monitor's records when there are too many: every transition, the latest state, one gap a reason.

use std::collections::VecDeque;

use crate::model::{Gap, MonitorId, MonitorState, Record};

/// The remains of one monitor; or of all (gaps without a monitor). Checks become gaps before they come here.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Oldest first.
    transitions: VecDeque<Record>,
    gaps: Vec<Gap>,
    state: Option<(MonitorId, Box<MonitorState>)>,
}

impl Kept {
    /// Takes in a later record; returns the estimated bytes of what it made superfluous.
    pub(super) fn merge(&mut self, record: Record) -> usize {
        match record {
            Record::Gap(gap) => {
                let Some(known) = self.gaps.iter_mut().find(|known| known.reason == gap.reason) else {
                    self.gaps.push(gap);
                    return 0;
                };
                // Nothing between the two is recorded: its checks became gaps as well.
                known.from_at = known.from_at.min(gap.from_at);
                known.to_at = known.to_at.max(gap.to_at);
                Record::Gap(gap).cost()
            }
            Record::State(monitor, state) => {
                self.state.replace((monitor, state)).map_or(0, |(monitor, old)| Record::State(monitor, old).cost())
            }
            transition => {
                self.transitions.push_back(transition);
                0
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.transitions.len() + self.gaps.len() + usize::from(self.state.is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most `room` records, in order. The gaps and the state come together, after the last transition; they are no
    /// more than the reasons are, and one.
    pub(super) fn take(&mut self, room: usize) -> Vec<Record> {
        let most = self.transitions.len().min(room);
        let mut records: Vec<Record> = self.transitions.drain(..most).collect();
        if self.transitions.is_empty() && most + self.len() <= room {
            records.extend(self.gaps.drain(..).map(Record::Gap));
            records.extend(self.state.take().map(|(monitor, state)| Record::State(monitor, state)));
        }
        records
    }
}
