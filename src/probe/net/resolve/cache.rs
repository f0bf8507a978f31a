//! Answers by name and type, and the questions under way: each is asked once, however many wait for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::Outcome;

/// Names kept, some 200 bytes each. More live names than this make room for each other, which costs queries only.
const MOST_NAMES: usize = 131_072;

/// What is known of one name and type.
enum Slot {
    Known { outcome: Arc<Outcome>, until: Instant },
    UnderWay(watch::Receiver<Option<Arc<Outcome>>>),
}

#[derive(Default)]
struct Slots {
    v4: Option<Slot>,
    v6: Option<Slot>,
}

impl Slots {
    fn of(&mut self, record: RecordType) -> &mut Option<Slot> {
        if record == RecordType::AAAA { &mut self.v6 } else { &mut self.v4 }
    }

    fn is_live(&self, now: Instant) -> bool {
        [&self.v4, &self.v6].into_iter().flatten().any(|slot| match slot {
            Slot::Known { until, .. } => *until > now,
            Slot::UnderWay(receiver) => is_under_way(receiver),
        })
    }
}

/// A question whose task ended without an answer (it was aborted) leaves a closed channel.
fn is_under_way(receiver: &watch::Receiver<Option<Arc<Outcome>>>) -> bool {
    receiver.has_changed().is_ok()
}

/// What [`Cache::get`] found.
pub(super) enum Found {
    /// The answer.
    Known(Arc<Outcome>),
    /// It will come here.
    UnderWay(watch::Receiver<Option<Arc<Outcome>>>),
}

/// The cache. Dropping it aborts the questions under way.
#[derive(Default)]
pub(super) struct Cache {
    names: Arc<Mutex<HashMap<Box<str>, Slots>>>,
    /// A question is a task of its own, so that it survives the asker who came first. It ends by its own time limit.
    questions: Mutex<JoinSet<()>>,
}

impl Cache {
    /// The answer, or where it will come; `ask` is run only when nobody asks yet. It returns the answer and for how long
    /// it may be kept.
    pub(super) fn get<F>(&self, name: &str, record: RecordType, ask: impl FnOnce() -> F) -> Found
    where
        F: Future<Output = (Outcome, Duration)> + Send + 'static,
    {
        let now = Instant::now();
        let mut names = lock(&self.names);
        if let Some(slots) = names.get_mut(name) {
            match slots.of(record) {
                Some(Slot::Known { outcome, until }) if *until > now => return Found::Known(Arc::clone(outcome)),
                Some(Slot::UnderWay(receiver)) if is_under_way(receiver) => return Found::UnderWay(receiver.clone()),
                _ => {}
            }
        } else if names.len() >= MOST_NAMES {
            make_room(&mut names, now);
        }
        let (sender, receiver) = watch::channel(None);
        *names.entry(name.into()).or_default().of(record) = Some(Slot::UnderWay(receiver.clone()));
        drop(names);
        let (asked, name, names) = (ask(), Box::<str>::from(name), Arc::clone(&self.names));
        let mut questions = lock(&self.questions);
        while questions.try_join_next().is_some() {}
        questions.spawn(async move {
            let (outcome, keep) = asked.await;
            let outcome = Arc::new(outcome);
            let until = Instant::now() + keep;
            if let Some(slots) = lock(&names).get_mut(&name) {
                *slots.of(record) = Some(Slot::Known { outcome: Arc::clone(&outcome), until });
            }
            sender.send_replace(Some(outcome));
        });
        Found::UnderWay(receiver)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops what has expired, and when all is fresh an eighth of it, whichever: the order of a hash map is arbitrary.
fn make_room(names: &mut HashMap<Box<str>, Slots>, now: Instant) {
    names.retain(|_, slots| slots.is_live(now));
    let mut surplus = names.len().saturating_sub(MOST_NAMES - MOST_NAMES / 8);
    names.retain(|_, slots| {
        let is_question = [&slots.v4, &slots.v6].into_iter().flatten().any(|slot| matches!(slot, Slot::UnderWay(_)));
        let goes = surplus > 0 && !is_question;
        surplus -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn take(found: Found) -> Arc<Outcome> {
        match found {
            Found::Known(outcome) => outcome,
            Found::UnderWay(mut receiver) => receiver.wait_for(Option::is_some).await.unwrap().clone().unwrap(),
        }
    }

    fn answer(
        keep: u64,
        asked: &Arc<AtomicUsize>,
    ) -> impl FnOnce() -> std::pin::Pin<Box<dyn Future<Output = (Outcome, Duration)> + Send>> {
        let asked = Arc::clone(asked);
        move || {
            Box::pin(async move {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
                (Ok(vec![IpAddr::from([10, 0, 0, 1])]), Duration::from_secs(keep))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_for_all_who_wait_and_it_survives_the_first() {
        let (cache, asked) = (Cache::default(), Arc::new(AtomicUsize::new(0)));
        let first = cache.get("a", RecordType::A, answer(10, &asked));
        assert!(tokio::time::timeout(Duration::from_millis(10), take(first)).await.is_err());
        let waiting: Vec<_> = (0..100).map(|_| take(cache.get("a", RecordType::A, answer(10, &asked)))).collect();
        for outcome in futures_util::future::join_all(waiting).await {
            assert!(outcome.is_ok());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(matches!(cache.get("a", RecordType::A, answer(10, &asked)), Found::Known(_)));
        assert!(matches!(cache.get("a", RecordType::AAAA, answer(10, &asked)), Found::UnderWay(_)));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(matches!(cache.get("a", RecordType::A, answer(10, &asked)), Found::UnderWay(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ttl_of_nothing_is_not_kept() {
        let (cache, asked) = (Cache::default(), Arc::new(AtomicUsize::new(0)));
        for round in 1..=3 {
            take(cache.get("a", RecordType::A, answer(0, &asked))).await.as_ref().clone().unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), round);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_made_without_losing_questions() {
        let cache = Cache::default();
        let mut receivers = Vec::new();
        for n in 0..MOST_NAMES {
            let slot = if n % 1000 == 0 {
                let (sender, receiver) = watch::channel(None);
                receivers.push(sender);
                Slot::UnderWay(receiver)
            } else {
                Slot::Known { outcome: Arc::new(Ok(vec![])), until: Instant::now() + Duration::from_secs(60) }
            };
            lock(&cache.names).insert(n.to_string().into(), Slots { v4: Some(slot), v6: None });
        }
        let asked = Arc::new(AtomicUsize::new(0));
        take(cache.get("new", RecordType::A, answer(60, &asked))).await.as_ref().clone().unwrap();
        let names = lock(&cache.names);
        assert_eq!(names.len(), MOST_NAMES - MOST_NAMES / 8 + 1);
        assert!((0..MOST_NAMES).step_by(1000).all(|n| names.contains_key(n.to_string().as_str())));
    }
}
