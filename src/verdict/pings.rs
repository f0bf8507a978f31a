//! The way of a ping from whoever hears it to the verdict stage: which monitor it is for, whether it comes too often, and
//! the answer, which is given when the ping is in the journal. Bounded: pings that find the queue full are told to come
//! again. Written by the verdict stage only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::pulse::Ping;
use crate::model::MonitorId;
use crate::probe::driven::PingToken;

/// Pings on their way to the stage.
pub const WAITING: usize = 1024;
/// A heartbeat takes so many pings at once, and so many a second in the long run: each is a row of the journal.
const BURST: f64 = 60.0;
const PER_SECOND: f64 = 2.0;

/// What became of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinged {
    /// It counts, and survives a killed process.
    Recorded,
    /// The monitor is paused: it was not recorded.
    Paused,
    /// No heartbeat has this address.
    Unknown,
    /// Several heartbeats have this token.
    Ambiguous,
    /// Too many of this heartbeat; so long until the next one is taken.
    TooMany(Duration),
    /// It cannot be recorded now, or it is not known yet which monitors there are: the sender should try again.
    Away,
}

/// A ping for a monitor: to the stage.
pub struct Delivery {
    /// Whose.
    pub monitor: MonitorId,
    /// The ping.
    pub ping: Ping,
    /// Told when it is in the journal; dropped when that is not to be.
    pub answer: oneshot::Sender<Pinged>,
}

struct Door {
    active: bool,
    token: Option<PingToken>,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        (self.left, self.at) = ((self.left + gained).min(BURST), now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / PER_SECOND));
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[derive(Default)]
struct Doors {
    by_id: HashMap<MonitorId, Door>,
    by_token: HashMap<PingToken, Vec<MonitorId>>,
    /// Whether the stage knows its monitors.
    filled: bool,
}

impl Doors {
    fn find(&self, address: &str) -> Result<(MonitorId, &Door), Pinged> {
        let unknown = if self.filled { Pinged::Unknown } else { Pinged::Away };
        let id = match self.by_token.get(&PingToken::of(address)).map(Vec::as_slice) {
            Some([id]) => *id,
            Some([_, _, ..]) => return Err(Pinged::Ambiguous),
            // One that has a token is not let in by its id.
            Some([]) | None => {
                let id = address.parse::<Uuid>().map(MonitorId).map_err(|_| unknown)?;
                match self.by_id.get(&id) {
                    Some(Door { token: None, .. }) => id,
                    _ => return Err(unknown),
                }
            }
        };
        self.by_id.get(&id).map(|door| (id, door)).ok_or(unknown)
    }

    fn close(&mut self, id: MonitorId) -> Option<Door> {
        let door = self.by_id.remove(&id)?;
        if let Some(token) = door.token
            && let Some(ids) = self.by_token.get_mut(&token)
        {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_token.remove(&token);
            }
        }
        Some(door)
    }
}

/// See the module.
pub struct Pings {
    doors: RwLock<Doors>,
    to_stage: mpsc::Sender<Delivery>,
}

impl Pings {
    /// With the way to the stage, which is to have room for [`WAITING`].
    #[must_use]
    pub fn new(to_stage: mpsc::Sender<Delivery>) -> Self {
        Self { doors: RwLock::default(), to_stage }
    }

    /// Brings a ping for the heartbeat of this address, a token or an id, and waits until it is in the journal.
    pub async fn deliver(&self, address: &str, ping: Ping) -> Pinged {
        let monitor = match self.admit(address) {
            Ok(monitor) => monitor,
            Err(answer) => return answer,
        };
        let (answer, told) = oneshot::channel();
        match self.to_stage.try_send(Delivery { monitor, ping, answer }) {
            Ok(()) => told.await.unwrap_or(Pinged::Away),
            Err(_) => Pinged::Away,
        }
    }

    fn admit(&self, address: &str) -> Result<MonitorId, Pinged> {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        let (id, door) = doors.find(address)?;
        if !door.active {
            return Err(Pinged::Paused);
        }
        let mut bucket = door.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(Instant::now()).map(|()| id).map_err(Pinged::TooMany)
    }

    /// A heartbeat is there, under this token if it has one.
    pub(super) fn open(&self, id: MonitorId, token: Option<PingToken>, active: bool) {
        let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        let before = doors.close(id);
        let bucket = before.map_or_else(|| Mutex::new(Bucket { left: BURST, at: Instant::now() }), |door| door.bucket);
        if let Some(token) = token {
            doors.by_token.entry(token).or_default().push(id);
        }
        doors.by_id.insert(id, Door { active, token, bucket });
    }

    /// A heartbeat is gone.
    pub(super) fn close(&self, id: MonitorId) {
        self.doors.write().unwrap_or_else(PoisonError::into_inner).close(id);
    }

    /// The stage has heard of its monitors: what is not among them is not there.
    pub(super) fn filled(&self) {
        self.doors.write().unwrap_or_else(PoisonError::into_inner).filled = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::pulse::Signal;

    fn ping() -> Ping {
        Ping { signal: Signal::Success, rid: None, took: None, text: "".into() }
    }

    fn id(number: u128) -> MonitorId {
        MonitorId(Uuid::from_u128(number))
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_meant_and_how_often() {
        let (to_stage, mut stage) = mpsc::channel(WAITING);
        let pings = Pings::new(to_stage);
        let answer = async |address: &str| pings.deliver(address, ping()).await;
        assert_eq!(answer(&id(1).to_string()).await, Pinged::Away, "nothing is known yet");
        pings.filled();
        assert_eq!(answer(&id(1).to_string()).await, Pinged::Unknown);
        pings.open(id(1), None, true);
        pings.open(id(2), Some(PingToken::of("secret")), true);
        pings.open(id(3), None, false);
        assert_eq!(answer(&id(2).to_string()).await, Pinged::Unknown, "its token counts, and not its id");
        assert_eq!(answer(&id(3).to_string()).await, Pinged::Paused);
        let echo = tokio::spawn(async move {
            let mut met = Vec::new();
            while let Some(delivery) = stage.recv().await {
                met.push(delivery.monitor);
                let _ = delivery.answer.send(Pinged::Recorded);
            }
            met
        });
        assert_eq!(answer("secret").await, Pinged::Recorded);
        for _ in 0..60 {
            assert_eq!(answer(&id(1).to_string()).await, Pinged::Recorded);
        }
        assert_eq!(answer(&id(1).to_string()).await, Pinged::TooMany(Duration::from_millis(500)));
        // A new definition does not fill the bucket.
        pings.open(id(1), None, true);
        assert!(matches!(answer(&id(1).to_string()).await, Pinged::TooMany(_)));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(answer(&id(1).to_string()).await, Pinged::Recorded);
        pings.open(id(4), Some(PingToken::of("secret")), true);
        assert_eq!(answer("secret").await, Pinged::Ambiguous);
        pings.close(id(2));
        assert_eq!(answer("secret").await, Pinged::Recorded);
        pings.open(id(4), Some(PingToken::of("other")), true);
        assert_eq!(answer("secret").await, Pinged::Unknown);
        drop(pings);
        let met = echo.await.unwrap();
        assert_eq!((met.first(), met.last(), met.len()), (Some(&id(2)), Some(&id(4)), 63));
    }

    #[tokio::test]
    async fn a_stage_that_has_ended_or_is_far_behind_is_away() {
        let (to_stage, stage) = mpsc::channel(1);
        let pings = Pings::new(to_stage);
        pings.open(id(1), None, true);
        let address = id(1).to_string();
        let waits = tokio::time::timeout(Duration::from_millis(10), pings.deliver(&address, ping())).await;
        assert!(waits.is_err(), "no answer before it is in the journal");
        assert_eq!(pings.deliver(&address, ping()).await, Pinged::Away, "the queue is full");
        drop(stage);
        assert_eq!(pings.deliver(&address, ping()).await, Pinged::Away);
    }
}
