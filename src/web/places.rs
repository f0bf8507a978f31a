//! Places for connections. When all are taken, the connection that has been idle longest gives way, so that a crowd of
//! idlers or of clients that send their request byte by byte keeps no health check out. Only a request that is being
//! worked on keeps its place, and whoever has no token is never worked on for long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::limiter::Client;

/// A request is being worked on.
const BUSY: u64 = u64::MAX;
/// Connections that have given way and are still open, at most, before no more are accepted.
const LEAVING: usize = 32;
/// A line in the log about it at most so often.
const TELL: Duration = Duration::from_secs(60);

/// The places of one listener.
pub(super) struct Places {
    most: usize,
    start: Instant,
    taken: Mutex<Taken>,
    /// A place became free, or its connection idle.
    changed: Notify,
}

#[derive(Default)]
struct Taken {
    next: u64,
    seats: HashMap<u64, Arc<Seat>>,
    clients: HashMap<Client, usize>,
    /// Open connections, those that were told to leave as well.
    open: usize,
    told: Option<Instant>,
}

impl Taken {
    fn remove(&mut self, id: u64) {
        let Some(seat) = self.seats.remove(&id) else { return };
        if let Some(count) = self.clients.get_mut(&seat.client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&seat.client);
            }
        }
    }

    /// Whom to send away: the longest idle of the client with most connections, else the longest idle of all.
    fn longest_idle(&self) -> Option<u64> {
        let heaviest = self.clients.iter().max_by_key(|(_, count)| **count).map(|(client, _)| *client);
        let idle = |client: Option<Client>| {
            let seats = self.seats.values().filter(move |seat| client.is_none_or(|client| seat.client == client));
            let waiting = seats.map(|seat| (seat.idle_since.load(Ordering::Relaxed), seat.id));
            waiting.filter(|(since, _)| *since != BUSY).min().map(|(_, id)| id)
        };
        idle(heaviest).or_else(|| idle(None))
    }
}

struct Seat {
    id: u64,
    client: Client,
    /// Milliseconds after the start of the listener, or [`BUSY`].
    idle_since: AtomicU64,
    leave: Notify,
}

/// A place that is taken; free again when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    seat: Arc<Seat>,
}

/// A request that is being worked on; idle again when dropped.
pub(super) struct Busy(Arc<Place>);

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, start: Instant::now(), taken: Mutex::default(), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(BUSY - 1)
    }

    /// Waits until a connection may be accepted: there is a place, or somebody idle to send away.
    pub(super) async fn ready(&self) {
        loop {
            // Before looking, or a change in between would be missed.
            let changed = self.changed.notified();
            {
                let taken = self.lock();
                let room = taken.seats.len() < self.most || taken.longest_idle().is_some();
                if room && taken.open < self.most + LEAVING {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Takes a place, and sends somebody away for it if none is free.
    pub(super) fn take(self: &Arc<Self>, client: Client) -> Arc<Place> {
        let mut taken = self.lock();
        if taken.seats.len() >= self.most {
            self.make_room(&mut taken);
        }
        let id = taken.next;
        taken.next += 1;
        taken.open += 1;
        *taken.clients.entry(client).or_default() += 1;
        let seat = Arc::new(Seat { id, client, idle_since: AtomicU64::new(self.millis()), leave: Notify::new() });
        taken.seats.insert(id, Arc::clone(&seat));
        drop(taken);
        Arc::new(Place { places: Arc::clone(self), seat })
    }

    /// Sends away who has been idle longest; for a lack of descriptors as well.
    pub(super) fn evict(&self) {
        self.make_room(&mut self.lock());
    }

    fn make_room(&self, taken: &mut Taken) {
        let Some(id) = taken.longest_idle() else { return };
        if let Some(seat) = taken.seats.get(&id) {
            seat.leave.notify_one();
        }
        taken.remove(id);
        if taken.told.is_none_or(|told| told.elapsed() >= TELL) {
            taken.told = Some(Instant::now());
            log::warn!(connections = taken.open; "the admin server has no place left: idle connections are closed, oldest first");
        }
    }
}

impl Place {
    /// A request begins.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.seat.idle_since.store(BUSY, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Waits until another connection needs this place.
    pub(super) async fn told_to_leave(&self) {
        self.seat.leave.notified().await;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let places = &self.0.places;
        self.0.seat.idle_since.store(places.millis(), Ordering::Relaxed);
        places.changed.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.remove(self.seat.id);
        taken.open -= 1;
        drop(taken);
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn client(n: u8) -> Client {
        Client::V4([10, 0, 0, n])
    }

    fn told(place: &Place) -> bool {
        place.told_to_leave().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_gives_way() {
        let places = Places::new(2);
        let step = || tokio::time::advance(Duration::from_millis(10));
        let first = places.take(client(1));
        step().await;
        let second = places.take(client(1));
        step().await;
        let third = places.take(client(1));
        assert!(told(&first) && !told(&second) && !told(&third));
        drop(first);
        // One that works is not sent away, and idles from when it has ended.
        let busy = second.busy();
        step().await;
        let fourth = places.take(client(1));
        assert!(!told(&second) && told(&third));
        step().await;
        drop((third, busy));
        let fifth = places.take(client(1));
        assert!(told(&fourth) && !told(&second));
        drop((fourth, fifth, second));
        let taken = places.lock();
        assert!(taken.seats.is_empty() && taken.clients.is_empty() && taken.open == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_gives_way_before_a_single_client_does() {
        let places = Places::new(3);
        let old = places.take(client(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        let crowd = [places.take(client(2)), places.take(client(2))];
        let newcomer = places.take(client(3));
        assert!(told(&crowd[0]) && !told(&crowd[1]) && !told(&old) && !told(&newcomer));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_work_newcomers_wait() {
        let places = Places::new(2);
        let held = [places.take(client(1)), places.take(client(2))];
        assert!(places.ready().now_or_never().is_some());
        let mut busy: Vec<Busy> = held.iter().map(Place::busy).collect();
        assert!(places.ready().now_or_never().is_none());
        busy.pop();
        assert!(places.ready().now_or_never().is_some());
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_leave_count_until_they_are_gone() {
        let places = Places::new(1);
        let held: Vec<_> = (0..=LEAVING).map(|_| places.take(client(1))).collect();
        assert!(places.ready().now_or_never().is_none());
        drop(held);
        assert!(places.ready().now_or_never().is_some());
    }
}
