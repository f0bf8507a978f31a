//! Random appends, locks, refusals and kills against a model store: everything exactly once, in order.

use std::sync::atomic::AtomicI64;

use futures_util::future::BoxFuture;
use proptest::prelude::*;

use super::*;
use crate::journal::recorder::Recorder;
use crate::journal::{RecordStore, Recorded, StatusRow};
use crate::model::{Batch, BatchId, GapReason, StoreFault};

/// A store that remembers batches, and loses its answer or the process when told.
#[derive(Default)]
struct Model {
    batches: Mutex<std::collections::HashMap<BatchId, std::collections::HashSet<MonitorId>>>,
    records: Mutex<Vec<Record>>,
    locked: Mutex<std::collections::HashSet<MonitorId>>,
    poison: Mutex<Option<i64>>,
    /// Before each call: whether the call works, or is the last one and does what it does without an answer.
    calls_left: AtomicI64,
}

impl RecordStore for Model {
    fn record<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Recorded, StoreFault>> {
        Box::pin(async move {
            let left = self.calls_left.fetch_sub(1, Ordering::SeqCst);
            if left < 0 {
                return Err(StoreFault::Away("killed".into()));
            }
            let delayed = self.commit(batch)?;
            // The answer of the last one is lost with the process.
            if left == 0 {
                Err(StoreFault::Away("killed".into()))
            } else {
                Ok(Recorded { checks: 0, dropped: 0, delayed })
            }
        })
    }

    fn write_status<'a>(&'a self, _: &'a [StatusRow]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

impl Model {
    fn commit(&self, batch: &Batch) -> Result<std::collections::HashSet<MonitorId>, StoreFault> {
        if let Some(delayed) = self.batches.lock().unwrap().get(&batch.id) {
            return Ok(delayed.clone());
        }
        let poison = *self.poison.lock().unwrap();
        let is_bad =
            |record: &Record| matches!(record, Record::Check(check) if Some(check.checked_at) == poison.map(at));
        if batch.records.iter().any(is_bad) {
            return Err(StoreFault::Refused("a bad value".into()));
        }
        let locked = self.locked.lock().unwrap().clone();
        let delayed: std::collections::HashSet<_> =
            batch.records.iter().filter_map(Record::monitor).filter(|id| locked.contains(id)).collect();
        let free = batch.records.iter().filter(|record| record.monitor().is_none_or(|id| !delayed.contains(&id)));
        self.records.lock().unwrap().extend(free.cloned());
        self.batches.lock().unwrap().insert(batch.id, delayed.clone());
        Ok(delayed)
    }
}

#[derive(Clone, Debug)]
enum Act {
    /// A check of this monitor.
    Check(u128),
    /// The recorder runs until the store was called so often, then the process is killed.
    Bring(i64),
    /// Rows of these monitors (bits) are locked.
    Lock(u8),
    /// The next check of this second is refused.
    Poison(i64),
    /// Killed while nothing is brought.
    Kill,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (1u128..5).prop_map(Act::Check),
        3 => (0i64..6).prop_map(Act::Bring),
        1 => (0u8..16).prop_map(Act::Lock),
        1 => (0i64..60).prop_map(Act::Poison),
        1 => Just(Act::Kill),
    ]
}

/// Runs a recorder on a copy of the folder, so that nothing that the one before still does is seen: a kill.
async fn bring(journal: DiskJournal, model: &Arc<Model>, calls: i64, close: bool) {
    model.calls_left.store(calls, Ordering::SeqCst);
    let journal = Arc::new(journal);
    if close {
        journal.close();
    }
    let recorder = Recorder::new(Arc::clone(&journal), Arc::clone(model), Arc::default());
    let running = tokio::spawn(recorder.run());
    for _ in 0..2000 {
        if model.calls_left.load(Ordering::SeqCst) < 0 || running.is_finished() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    running.abort();
    let _ = running.await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_everything_is_recorded_once_and_in_order(acts in prop::collection::vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut folder = tempfile::tempdir().unwrap();
            let model = Arc::new(Model::default());
            let mut journal = open(&folder);
            let mut checks: Vec<Record> = Vec::new();
            for (second, act) in acts.iter().enumerate() {
                let second = second as i64;
                match act {
                    Act::Check(monitor) => {
                        checks.push(check(*monitor, second));
                        journal.write(vec![vec![check(*monitor, second)]]);
                        continue;
                    }
                    Act::Lock(bits) => {
                        *model.locked.lock().unwrap() = (0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| id(bit + 1)).collect();
                        continue;
                    }
                    Act::Poison(bad) => {
                        model.poison.lock().unwrap().get_or_insert(*bad);
                        continue;
                    }
                    Act::Bring(calls) => bring(journal, &model, *calls, false).await,
                    Act::Kill => {}
                }
                let copy = copy_of(folder.path());
                folder = copy;
                journal = open(&folder);
            }
            model.locked.lock().unwrap().clear();
            bring(journal, &model, i64::MAX, true).await;
            let recorded = model.records.lock().unwrap().clone();
            let poison = *model.poison.lock().unwrap();
            for monitor in 1..5 {
                let of_one = |records: &[Record]| -> Vec<i64> {
                    records.iter().filter(|record| record.monitor() == Some(id(monitor))).filter_map(|record| match record {
                        Record::Check(check) => Some(check.checked_at.timestamp() - at(0).timestamp()),
                        // Stands for the refused check.
                        Record::Gap(gap) if gap.reason == GapReason::RecordingLost => Some(gap.from_at.timestamp() - at(0).timestamp()),
                        _ => None,
                    }).collect()
                };
                assert_eq!(of_one(&recorded), of_one(&checks), "monitor {monitor}, poison {poison:?}");
            }
        });
    }
}
