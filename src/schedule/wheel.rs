//! A hashed timing wheel: which monitor is due in which slot of a fixed grid.
//!
//! Bucket `slot % BUCKETS` holds the entries of that slot and of every later turn. A monitor has one live entry at
//! most, told by its generation: edit and delete only count that up, and the dead entry goes when its bucket is
//! visited, at the latest one turn later. An entry more than a turn ahead costs one look a turn.

/// Slots of one turn. At 50 ms a turn takes 204.8 s: a one-minute monitor is looked at once, a daily one 422 times.
const BUCKETS: usize = 4096;

/// 16 bytes, so that a million monitors stay below 32 MiB.
#[derive(Clone, Copy)]
struct Entry {
    slot: u64,
    key: u32,
    generation: u32,
}

/// An entry that fell due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The slot it was scheduled for.
    pub slot: u64,
    /// Whose it is.
    pub key: u32,
}

/// The wheel. Keys are small dense numbers that the caller gives out (it keeps 4 bytes for each up to the largest).
pub struct Wheel {
    buckets: Vec<Vec<Entry>>,
    /// By key: odd while an entry is live, even while none is.
    generations: Vec<u32>,
    /// Everything up to and including this slot has been released.
    cursor: u64,
    live: usize,
}

impl Wheel {
    /// An empty wheel; `cursor` counts as released.
    #[must_use]
    pub fn new(cursor: u64) -> Self {
        Self { buckets: vec![Vec::new(); BUCKETS], generations: Vec::new(), cursor, live: 0 }
    }

    /// How many keys are scheduled.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.live
    }

    /// Whether no key is scheduled.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Schedules `key`, in place of what it had before. A slot already released becomes the next one. Returns the slot
    /// it got.
    pub fn schedule(&mut self, key: u32, slot: u64) -> u64 {
        self.cancel(key);
        let slot = slot.max(self.cursor.saturating_add(1));
        let place = key as usize;
        if place >= self.generations.len() {
            self.generations.resize(place + 1, 0);
        }
        if let (Some(generation), Some(bucket)) = (self.generations.get_mut(place), self.buckets.get_mut(bucket(slot)))
        {
            *generation = generation.wrapping_add(1);
            bucket.push(Entry { slot, key, generation: *generation });
            self.live += 1;
        }
        slot
    }

    /// Forgets what `key` had, if anything.
    pub fn cancel(&mut self, key: u32) {
        if let Some(generation) = self.generations.get_mut(key as usize)
            && *generation % 2 == 1
        {
            *generation = generation.wrapping_add(1);
            self.live -= 1;
        }
    }

    /// Moves the cursor to `until` and appends all that is due by then to `out`, earliest slot first. Does nothing when
    /// `until` is behind the cursor.
    pub fn release(&mut self, until: u64, out: &mut Vec<Released>) {
        let from = out.len();
        let ahead = until.saturating_sub(self.cursor);
        // After a long stall one turn visits every bucket; more turns would find nothing.
        for step in 1..=ahead.min(BUCKETS as u64) {
            let Some(bucket) = self.buckets.get_mut(bucket(self.cursor + step)) else { continue };
            if bucket.is_empty() {
                continue;
            }
            let (generations, live) = (&mut self.generations, &mut self.live);
            bucket.retain(|entry| {
                let Some(generation) = generations.get_mut(entry.key as usize) else { return false };
                if *generation != entry.generation {
                    return false;
                }
                let due = entry.slot <= until;
                if due {
                    *generation = generation.wrapping_add(1);
                    *live -= 1;
                    out.push(Released { slot: entry.slot, key: entry.key });
                }
                !due
            });
            // A minute's monitors fill only a third of a turn: what a bucket no longer needs goes to the others.
            if bucket.capacity() > 4 * bucket.len() + 4 {
                bucket.shrink_to(2 * bucket.len());
            }
        }
        self.cursor = self.cursor.max(until);
        if ahead >= BUCKETS as u64
            && let Some(new) = out.get_mut(from..)
        {
            new.sort_unstable_by_key(|released| released.slot);
        }
    }

    /// The first slot up to and including `limit` in which something is due. Looks at no more than one turn.
    #[must_use]
    pub fn next_due(&self, limit: u64) -> Option<u64> {
        let ahead = limit.saturating_sub(self.cursor).min(BUCKETS as u64);
        (1..=ahead).map(|step| self.cursor + step).find(|&slot| {
            self.buckets.get(bucket(slot)).is_some_and(|entries| {
                entries.iter().any(|e| e.slot == slot && self.generations.get(e.key as usize) == Some(&e.generation))
            })
        })
    }
}

#[allow(clippy::cast_possible_truncation, reason = "below BUCKETS")]
const fn bucket(slot: u64) -> usize {
    (slot % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn due(wheel: &mut Wheel, until: u64) -> Vec<(u64, u32)> {
        let mut out = Vec::new();
        wheel.release(until, &mut out);
        out.iter().map(|r| (r.slot, r.key)).collect()
    }

    #[test]
    fn each_key_falls_due_once_in_its_slot() {
        let day = 20 * 86_400;
        let century = day * 36_525;
        let mut wheel = Wheel::new(1_000);
        for (key, slot) in [(0, 1_001), (1, 1_020), (2, 1_000 + day), (3, century), (4, 1_000 + BUCKETS as u64)] {
            assert_eq!(wheel.schedule(key, slot), slot);
        }
        assert_eq!(wheel.next_due(1_100), Some(1_001));
        assert_eq!(due(&mut wheel, 1_001), [(1_001, 0)]);
        assert_eq!(wheel.next_due(1_019), None);
        assert_eq!(wheel.next_due(1_020), Some(1_020));
        assert_eq!(due(&mut wheel, 1_019), []);
        assert_eq!(due(&mut wheel, 1_020), [(1_020, 1)]);
        assert_eq!(due(&mut wheel, 1_000 + day), [(5_096, 4), (1_000 + day, 2)]);
        assert_eq!(wheel.len(), 1);
        assert_eq!(due(&mut wheel, century), [(century, 3)]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn the_past_is_the_next_slot() {
        let mut wheel = Wheel::new(50);
        assert_eq!(wheel.schedule(7, 3), 51);
        assert_eq!(due(&mut wheel, 40), []);
        assert_eq!(due(&mut wheel, 51), [(51, 7)]);
    }

    #[test]
    fn edit_and_delete_leave_nothing_behind() {
        let mut wheel = Wheel::new(0);
        for slot in 1..=100 {
            wheel.schedule(1, slot);
        }
        wheel.schedule(2, 60);
        wheel.cancel(2);
        wheel.cancel(99);
        assert_eq!(wheel.len(), 1);
        assert_eq!(due(&mut wheel, 200), [(100, 1)]);
        assert!(wheel.buckets.iter().take(201).all(Vec::is_empty));
    }

    /// A million are too slow for a debug build; the cost of one does not depend on how many there are.
    #[test]
    fn a_monitor_costs_about_thirty_bytes() {
        let count: u32 = 200_000;
        let mut wheel = Wheel::new(0);
        let mut out = Vec::new();
        for key in 0..count {
            wheel.schedule(key, 1 + u64::from(key) % 1_200);
        }
        for slot in 1..=3 * 1_200 {
            wheel.release(slot, &mut out);
            for released in out.drain(..) {
                wheel.schedule(released.key, released.slot + 1_200);
            }
        }
        let bytes = wheel.buckets.iter().map(|b| b.capacity() * size_of::<Entry>()).sum::<usize>()
            + wheel.buckets.capacity() * size_of::<Vec<Entry>>()
            + wheel.generations.capacity() * size_of::<u32>();
        assert_eq!(wheel.len(), count as usize);
        assert!(bytes / count as usize <= 36, "{} bytes a monitor", bytes / count as usize);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let ahead = prop_oneof![0u64..50, 0u64..10_000, 0u64..4_000_000];
        let step = prop_oneof![
            4 => (0u32..20, ahead.clone()).prop_map(|(key, ahead)| Step::Schedule(key, ahead)),
            1 => (0u32..20).prop_map(Step::Cancel),
            3 => prop_oneof![4 => 0u64..100, 1 => ahead].prop_map(Step::Advance),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_sorted_map(start in 0u64..1_000_000, steps in steps()) {
            let mut wheel = Wheel::new(start);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut cursor = start;
            for step in steps {
                match step {
                    Step::Schedule(key, ahead) => {
                        let slot = (cursor + ahead).max(cursor + 1);
                        prop_assert_eq!(wheel.schedule(key, cursor + ahead), slot);
                        model.insert(key, slot);
                    }
                    Step::Cancel(key) => {
                        wheel.cancel(key);
                        model.remove(&key);
                    }
                    Step::Advance(by) => {
                        let next = model.values().min().copied().filter(|slot| *slot <= cursor + by.min(4096));
                        prop_assert_eq!(wheel.next_due(cursor + by.min(4096)), next);
                        cursor += by;
                        let mut expected: Vec<_> =
                            model.iter().filter(|(_, slot)| **slot <= cursor).map(|(k, s)| (*s, *k)).collect();
                        model.retain(|_, slot| *slot > cursor);
                        let mut found = due(&mut wheel, cursor);
                        prop_assert!(found.is_sorted_by_key(|(slot, _)| *slot));
                        expected.sort_unstable();
                        found.sort_unstable();
                        prop_assert_eq!(found, expected);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
