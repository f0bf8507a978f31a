//! Which name servers work: whom to ask first, and whether silence is about a name or about our resolver.
//!
//! The rule. When no server answered a question:
//!
//! 1. All of them refused the connection or cannot be reached: `resolver_unavailable`. That is never about the name.
//! 2. At least one was silent, but some server answered something since the question was asked, or within the
//!    [`RECENTLY`] before we gave up: `dns_timeout`. The resolver works; it cannot find out about this name.
//! 3. At least one was silent and nobody answered anything: `resolver_unavailable`.
//!
//! So that a lonely monitor can tell as well, a server that has been silent for half a second is asked for the root's
//! name servers beside the question; any answer to that, also a refusal, is an answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Failure, Fault};

/// Bridges the time until the control query can have been answered, for checks that time out before.
const RECENTLY: Duration = Duration::from_secs(2);

/// A server that did not answer is asked last for so long: otherwise a dead first entry of resolv.conf costs every
/// lookup its time-out.
const DEMOTED: Duration = Duration::from_secs(300);

/// Demoted servers that are remembered; there are three, usually.
const MOST_DEMOTED: usize = 64;

/// What is known of the servers.
#[derive(Default)]
pub(in crate::probe::net) struct Health {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    last_answer: Option<Instant>,
    demoted: HashMap<SocketAddr, Instant>,
    turn: usize,
}

impl Health {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some server answered something.
    pub(super) fn answered(&self) {
        self.known().last_answer = Some(Instant::now());
    }

    /// This server did not answer.
    pub(super) fn demote(&self, server: SocketAddr) {
        let mut known = self.known();
        if known.demoted.len() >= MOST_DEMOTED {
            known.demoted.clear();
        }
        known.demoted.insert(server, Instant::now());
    }

    /// This server answered: it gets its place back.
    pub(super) fn promote(&self, server: SocketAddr) {
        self.known().demoted.remove(&server);
    }

    /// The servers in the order to ask: as configured (or by turns), those that failed lately last.
    pub(super) fn order(&self, servers: &[SocketAddr], rotate: bool) -> Vec<SocketAddr> {
        let mut known = self.known();
        let mut order = servers.to_vec();
        if rotate && !order.is_empty() {
            let turn = known.turn % order.len();
            known.turn = turn + 1;
            order.rotate_left(turn);
        }
        let now = Instant::now();
        order.sort_by_key(|server| known.demoted.get(server).is_some_and(|since| now - *since < DEMOTED));
        order
    }

    /// The fault of a question that was asked at `asked` and not answered by anybody until now: rules 2 and 3.
    pub(super) fn silence(&self, name: &str, asked: Instant) -> Fault {
        let now = Instant::now();
        let since = asked.min(now.checked_sub(RECENTLY).unwrap_or(asked));
        let waited = (now - asked).as_millis();
        if self.known().last_answer.is_some_and(|answer| answer >= since) {
            let what = format!("no name server answered for {name} within {waited} ms, though they answer for others");
            return Fault::new(Failure::DnsTimeout, what);
        }
        let what =
            format!("no name server answered anything within {waited} ms: check probe.resolvers or /etc/resolv.conf");
        Fault::new(Failure::ResolverUnavailable, what)
    }

    /// The fault when nobody is there to be asked: rule 1.
    pub(super) fn nobody(reasons: &[String]) -> Fault {
        let what = format!(
            "no name server can be reached ({}): check probe.resolvers or /etc/resolv.conf",
            reasons.join("; ")
        );
        Fault::new(Failure::ResolverUnavailable, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Vec<SocketAddr> {
        ["10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"].map(|server| server.parse().unwrap()).to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_about_the_name_only_when_somebody_answers() {
        let health = Health::default();
        let asked = Instant::now();
        assert_eq!(health.silence("a", asked).failure, Failure::ResolverUnavailable);
        health.answered();
        tokio::time::advance(Duration::from_secs(5)).await;
        // Since it was asked, however long ago.
        assert_eq!(health.silence("a", asked).failure, Failure::DnsTimeout);
        // Asked just now, and the last answer is old.
        assert_eq!(health.silence("a", Instant::now()).failure, Failure::ResolverUnavailable);
        health.answered();
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(health.silence("a", Instant::now()).failure, Failure::DnsTimeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_failed_is_asked_last_for_a_while() {
        let (health, servers) = (Health::default(), servers());
        health.demote(servers[0]);
        assert_eq!(health.order(&servers, false), [servers[1], servers[2], servers[0]]);
        health.promote(servers[0]);
        assert_eq!(health.order(&servers, false), servers);
        health.demote(servers[0]);
        tokio::time::advance(DEMOTED).await;
        assert_eq!(health.order(&servers, false), servers);
        assert_eq!(health.order(&[], true), []);
    }

    #[tokio::test(start_paused = true)]
    async fn rotation_takes_turns() {
        let (health, servers) = (Health::default(), servers());
        let firsts: Vec<_> = (0..4).map(|_| health.order(&servers, true)[0]).collect();
        assert_eq!(firsts, [servers[0], servers[1], servers[2], servers[0]]);
    }
}
