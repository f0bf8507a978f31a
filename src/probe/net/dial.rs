//! Several addresses of one target, raced (RFC 8305, "happy eyeballs").

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::guard::Guard;
use super::{Dialled, NotDialled, Profile, connect};
use crate::model::{Failure, Fault};

/// Head start of an address before the next is tried beside it (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// More addresses than this are not tried: at the stagger they would not fit into a timeout anyway.
const MOST_ADDRESSES: usize = 16;

/// IPv6 first, then by turns, in the order of the answer (RFC 8305, section 4). At most [`MOST_ADDRESSES`].
pub(super) fn interleave(v6: &[IpAddr], v4: &[IpAddr]) -> Vec<IpAddr> {
    let mut out = Vec::with_capacity((v6.len() + v4.len()).min(MOST_ADDRESSES));
    for index in 0..v6.len().max(v4.len()) {
        out.extend(v6.get(index).into_iter().chain(v4.get(index)).copied());
    }
    out.truncate(MOST_ADDRESSES);
    out
}

/// Dials until one connection stands. The guard sees each address right before it is dialled.
///
/// When all fail, one failure is reported, the first of this order: what says that WE could not try an address
/// (`resource_exhausted`, `permission_denied`, `internal`), since the target may be well; then what the target or its
/// network said, the nearest to the target first (`connect_refused`, `connection_reset`, `connect_timeout`,
/// `host_unreachable`, `network_unreachable`); `egress_blocked`; and last `observer_offline`, because a host without
/// IPv6 says that of every IPv6 address.
pub(super) async fn race(
    addresses: &[SocketAddr],
    guard: &Guard,
    profile: Profile,
    deadline: Instant,
) -> Result<Dialled, NotDialled> {
    let mut failed: Option<NotDialled> = None;
    let mut queue: VecDeque<SocketAddr> = VecDeque::with_capacity(addresses.len());
    for address in addresses {
        match guard.check(*address, profile) {
            Ok(()) => queue.push_back(*address),
            Err(fault) => keep(&mut failed, fault, *address),
        }
    }
    // Almost always there is one address: it needs no race.
    let raced = match queue.pop_front() {
        None => None,
        Some(only) if queue.is_empty() => Some(alone(only, deadline, &mut failed).await),
        Some(first) => Some(staggered(first, queue, deadline, &mut failed).await),
    };
    match (raced.flatten(), failed) {
        (Some(dialled), _) => Ok(dialled),
        (None, Some(failed)) => Err(failed),
        (None, None) => {
            let fault = Fault::new(Failure::DnsNoRecords, "there is no address to connect to");
            Err(NotDialled { fault, address: None })
        }
    }
}

async fn alone(address: SocketAddr, deadline: Instant, failed: &mut Option<NotDialled>) -> Option<Dialled> {
    let start = Instant::now();
    let result = timeout_at(deadline, connect::connect(address)).await;
    match result.unwrap_or_else(|_| Err(connect::timed_out(address, start.elapsed()))) {
        Ok(stream) => Some(Dialled { stream, address }),
        Err(fault) => {
            keep(failed, fault, address);
            None
        }
    }
}

async fn staggered(
    first: SocketAddr,
    mut queue: VecDeque<SocketAddr>,
    deadline: Instant,
    failed: &mut Option<NotDialled>,
) -> Option<Dialled> {
    type Attempt = (SocketAddr, Result<TcpStream, Fault>);
    let attempt = |address| async move { (address, connect::connect(address).await) as Attempt };
    let start = Instant::now();
    let mut running = FuturesUnordered::new();
    let mut dialling = vec![first];
    running.push(attempt(first));
    let mut next_at = start + STAGGER;
    loop {
        tokio::select! {
            biased;
            ended = running.next() => match ended {
                Some((address, Ok(stream))) => return Some(Dialled { stream, address }),
                Some((address, Err(fault))) => {
                    dialling.retain(|running| *running != address);
                    keep(failed, fault, address);
                    // A failure does not let the others wait.
                    next_at = Instant::now();
                }
                None if queue.is_empty() => return None,
                None => next_at = Instant::now(),
            },
            () = sleep_until(deadline) => break,
            () = sleep_until(next_at), if !queue.is_empty() => {}
        }
        if Instant::now() >= next_at
            && let Some(address) = queue.pop_front()
        {
            dialling.push(address);
            running.push(attempt(address));
            next_at = Instant::now() + STAGGER;
        }
    }
    for address in dialling {
        keep(failed, connect::timed_out(address, start.elapsed()), address);
    }
    None
}

/// Keeps the more telling of two failures; of equals the later one.
fn keep(kept: &mut Option<NotDialled>, fault: Fault, address: SocketAddr) {
    if kept.as_ref().is_none_or(|kept| rank(fault.failure) <= rank(kept.fault.failure)) {
        *kept = Some(NotDialled { fault, address: Some(address) });
    }
}

/// Of two failed sets of addresses the one with the more telling failure.
pub(super) fn more_telling(first: NotDialled, second: NotDialled) -> NotDialled {
    if rank(second.fault.failure) <= rank(first.fault.failure) { second } else { first }
}

const fn rank(failure: Failure) -> u8 {
    match failure {
        Failure::ResourceExhausted => 0,
        Failure::PermissionDenied => 1,
        Failure::Internal => 2,
        Failure::ConnectRefused => 3,
        Failure::ConnectionReset => 4,
        Failure::ConnectTimeout => 5,
        Failure::HostUnreachable => 6,
        Failure::NetworkUnreachable => 7,
        Failure::EgressBlocked => 8,
        Failure::ObserverOffline => 9,
        _ => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::net::EgressOptions;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_ipv6_begins() {
        let out = interleave(&ips(&["::1", "::2", "::3"]), &ips(&["10.0.0.1"]));
        assert_eq!(out, ips(&["::1", "10.0.0.1", "::2", "::3"]));
        let many: Vec<IpAddr> = (0..200).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert_eq!(interleave(&many, &many).len(), MOST_ADDRESSES);
        assert!(interleave(&[], &[]).is_empty());
    }

    #[test]
    fn the_most_telling_failure_is_kept_in_any_order() {
        let fold = |order: &[Failure]| {
            let mut kept = None;
            for failure in order {
                keep(&mut kept, Fault::new(*failure, ""), "127.0.0.1:1".parse().unwrap());
            }
            kept.unwrap().fault.failure
        };
        use Failure::*;
        assert_eq!(fold(&[ObserverOffline, ConnectRefused]), ConnectRefused);
        assert_eq!(fold(&[ConnectRefused, ObserverOffline]), ConnectRefused);
        assert_eq!(fold(&[ConnectTimeout, ConnectRefused, HostUnreachable]), ConnectRefused);
        assert_eq!(fold(&[EgressBlocked, ObserverOffline]), EgressBlocked);
        assert_eq!(fold(&[EgressBlocked, ConnectTimeout]), ConnectTimeout);
        assert_eq!(fold(&[ConnectRefused, ResourceExhausted]), ResourceExhausted);
    }

    #[tokio::test]
    async fn a_refused_address_is_never_dialled_and_its_neighbour_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let guard =
            Guard::new(EgressOptions { deny: vec!["127.0.0.2/32".parse().unwrap()], ..EgressOptions::default() });
        let canary = tokio::net::TcpListener::bind(("127.0.0.2", good.port())).await.unwrap();
        let bad = canary.local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let dialled = race(&[bad, good], &guard, Profile::Rows, deadline).await;
        assert_eq!(dialled.map(|dialled| dialled.address).map_err(|not| not.fault), Ok(good));
        let blocked = race(&[bad], &guard, Profile::Rows, deadline).await.err().unwrap();
        assert_eq!((blocked.fault.failure, blocked.address), (Failure::EgressBlocked, Some(bad)));
        let seen = tokio::time::timeout(Duration::from_millis(50), canary.accept()).await;
        assert!(seen.is_err(), "the canary was dialled");
    }
}
