//! Failed log-ins by address: guessing a token is hopeless, but must not keep the store or the log busy either.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures at once.
const BURST: u32 = 10;
/// One more is forgiven after so long.
const REFILL: Duration = Duration::from_secs(2);
/// Addresses that are remembered; when it is full those that are forgiven are dropped, else all.
const MOST: usize = 4096;

/// A client: an IPv4 address, the /64 of an IPv6 address, or (on a unix socket) nobody in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    V4([u8; 4]),
    V6([u8; 8]),
    Local,
}

impl Display for Client {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(octets) => Ipv4Addr::from(*octets).fmt(f),
            Self::V6(network) => {
                let address = u128::from(u64::from_be_bytes(*network)) << 64;
                write!(f, "{}/64", Ipv6Addr::from(address))
            }
            Self::Local => f.write_str("a unix socket"),
        }
    }
}

impl Client {
    pub(super) fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// The failures of each client, as a bucket that leaks.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<HashMap<Client, (u32, Instant)>>);

fn level((failures, since): (u32, Instant), now: Instant) -> u32 {
    let forgiven = now.saturating_duration_since(since).as_secs() / REFILL.as_secs();
    failures.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
}

impl Limiter {
    /// How long this client has to wait before it may try again; none: it may.
    pub(super) fn wait(&self, client: Client) -> Option<Duration> {
        let clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let level = clients.get(&client).map_or(0, |bucket| level(*bucket, Instant::now()));
        (level >= BURST).then_some(REFILL)
    }

    /// Counts a failure; says whether it is the first for a while, which is worth a line in the log.
    pub(super) fn failed(&self, client: Client) -> bool {
        let now = Instant::now();
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MOST && !clients.contains_key(&client) {
            clients.retain(|_, bucket| level(*bucket, now) > 0);
            if clients.len() >= MOST {
                clients.clear();
            }
        }
        let bucket = clients.entry(client).or_insert((0, now));
        let before = level(*bucket, now);
        *bucket = (before + 1, now);
        before == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_fails_waits_and_others_do_not() {
        let limiter = Limiter::default();
        let (one, other) = (Client::of("10.0.0.1".parse().ok()), Client::of("10.0.0.2".parse().ok()));
        assert!(limiter.failed(one));
        for _ in 1..BURST {
            assert_eq!(limiter.wait(one), None);
            assert!(!limiter.failed(one));
        }
        assert!(limiter.wait(one).is_some());
        assert_eq!(limiter.wait(other), None);
        tokio::time::advance(REFILL).await;
        assert_eq!(limiter.wait(one), None);
        limiter.failed(one);
        assert!(limiter.wait(one).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let limiter = Limiter::default();
        for n in 0..u32::try_from(MOST).unwrap() + 100 {
            limiter.failed(Client::V4(n.to_be_bytes()));
        }
        assert!(limiter.0.lock().unwrap().len() <= MOST);
    }

    #[test]
    fn a_network_is_one_client() {
        let client = |text: &str| Client::of(text.parse().ok());
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        let shown = ["::ffff:10.0.0.1", "2001:db8::1"].map(|text| client(text).to_string());
        assert_eq!(shown, ["10.0.0.1", "2001:db8::/64"]);
        assert_eq!(Client::Local.to_string(), "a unix socket");
    }
}
