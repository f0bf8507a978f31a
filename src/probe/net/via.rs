//! A connection to a target through a proxy: who resolves the name, and what the guard sees of it.

use std::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use super::proxy::{self, Place};
use super::{Destination, Dialled, IpVersion, Net, NotDialled, Profile, dial, wrong_version};
use crate::model::{Failure, Owner, Phase, Timings};
use crate::settings::proxy::{Proxy, Scheme};

/// Addresses of one target that a proxy is asked for, one after another.
const MOST_ADDRESSES: usize = 4;

/// A connection through a proxy.
pub struct Via {
    /// To the proxy; with a tunnel to the target on it unless `forwards`.
    pub dialled: Dialled,
    /// The proxy takes requests in absolute form and forwards them (RFC 9112, 3.2.2).
    pub forwards: bool,
}

impl Net {
    /// As [`Net::dial`], through a proxy; the address of what is dialled is the proxy's. `plain` are requests of HTTP
    /// without TLS, which a proxy of HTTP forwards.
    ///
    /// The guard decides about the target, not about the proxy, which the operator named. A name is resolved here,
    /// and the proxy asked for an address that passed, with `socks5`, for a certain version of IP, and always for rows:
    /// a name that the proxy resolved could lead anywhere. Else the proxy gets the name, and only addresses that are
    /// written as such are looked at.
    ///
    /// Adds to [`Phase::Dns`] and [`Phase::Connect`], to which everything up to the tunnel belongs.
    pub async fn dial_via(
        &self,
        proxy: &Proxy,
        destination: &Destination<'_>,
        plain: bool,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Via, NotDialled> {
        let places = self.places(proxy, destination, deadline, timings).await?;
        let named = matches!(places.as_slice(), [Place::Name(..)]);
        let is_literal = literal(destination).is_some();
        if plain && proxy.scheme == Scheme::Http && (named || is_literal) && destination.profile == Profile::File {
            let dialled = self.dial_proxy(proxy, deadline, timings).await?;
            return Ok(Via { dialled, forwards: true });
        }
        let mut kept: Option<NotDialled> = None;
        for (index, place) in places.iter().enumerate() {
            // The last one has all the time that is left; those before it their share.
            let now = Instant::now();
            let shares = u32::try_from(places.len() - index).unwrap_or(1);
            let by = now + deadline.saturating_duration_since(now) / shares;
            let failed = match self.tunnel(proxy, place, by, timings).await {
                Ok(dialled) => return Ok(Via { dialled, forwards: false }),
                Err(failed) => failed,
            };
            if failed.fault.failure.owner() == Owner::Observer {
                return Err(failed);
            }
            kept = Some(match kept {
                Some(earlier) => dial::more_telling(earlier, failed),
                None => failed,
            });
        }
        Err(kept.unwrap_or_else(|| NotDialled {
            fault: crate::model::Fault::new(Failure::DnsNoRecords, "there is no address to connect to"),
            address: None,
        }))
    }

    async fn tunnel(
        &self,
        proxy: &Proxy,
        place: &Place,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Dialled, NotDialled> {
        let mut dialled = self.dial_proxy(proxy, deadline, timings).await?;
        let start = Instant::now();
        let opened = proxy::tunnel(&mut dialled.stream, proxy, place, &self.user_agent, deadline).await;
        timings.add(Phase::Connect, start.elapsed());
        match opened {
            Ok(()) => Ok(dialled),
            Err(fault) => Err(NotDialled { fault, address: Some(dialled.address) }),
        }
    }

    async fn dial_proxy(&self, proxy: &Proxy, deadline: Instant, timings: &mut Timings) -> Result<Dialled, NotDialled> {
        let host = match &proxy.host {
            url::Host::Domain(name) => url::Host::Domain(name.as_str()),
            url::Host::Ipv4(ip) => url::Host::Ipv4(*ip),
            url::Host::Ipv6(ip) => url::Host::Ipv6(*ip),
        };
        let there = Destination { host, port: proxy.port, ip_version: IpVersion::Any, profile: Profile::File };
        let dialled = self.dial(&there, deadline, timings).await;
        dialled.map_err(|not| NotDialled { fault: proxy::unreachable(proxy, not.fault), address: not.address })
    }

    /// What the proxy is asked for.
    async fn places(
        &self,
        proxy: &Proxy,
        destination: &Destination<'_>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Vec<Place>, NotDialled> {
        let port = destination.port;
        let ips = match (literal(destination), &destination.host) {
            (Some(ip), _) => match wrong_version(ip, destination.ip_version) {
                Some(fault) => return Err(NotDialled { fault, address: Some(SocketAddr::new(ip, port)) }),
                None => vec![ip],
            },
            (None, url::Host::Domain(name)) => {
                let is_ours = proxy.scheme == Scheme::Socks5
                    || destination.profile == Profile::Rows
                    || destination.ip_version != IpVersion::Any;
                if !is_ours {
                    return Ok(vec![Place::Name((*name).to_owned(), port)]);
                }
                let found = self.lookup(name, destination.ip_version, deadline, timings).await?;
                dial::interleave(&found.v6, &found.v4)
            }
            (None, _) => Vec::new(),
        };
        let mut blocked = None;
        let mut places = Vec::with_capacity(ips.len());
        for address in ips.into_iter().map(|ip| SocketAddr::new(ip, port)) {
            match self.guard.check(address, destination.profile) {
                Ok(()) => places.push(Place::Address(address)),
                Err(fault) => blocked = Some(NotDialled { fault, address: Some(address) }),
            }
        }
        places.truncate(MOST_ADDRESSES);
        match blocked {
            Some(blocked) if places.is_empty() => Err(blocked),
            _ => Ok(places),
        }
    }
}

/// A host that is written as an address; schemes that `url` does not know keep one as a name.
fn literal(destination: &Destination<'_>) -> Option<IpAddr> {
    match &destination.host {
        url::Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
        url::Host::Ipv6(ip) => Some(IpAddr::V6(*ip)),
        url::Host::Domain(name) => name.parse().ok(),
    }
}
