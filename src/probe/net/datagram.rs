//! Datagram sockets, and addresses for kinds that dial in their own way: resolved, of the wanted version, and past the
//! guard, as a connection is.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::connect::{self, Stage};
use super::descriptors::keep;
use super::{Destination, IpVersion, Net, NotDialled, dial, wrong_version};
use crate::model::{Failure, Fault, Timings};

/// A datagram socket that speaks with one address only.
#[derive(Debug)]
pub struct DialledUdp {
    /// Connected: the kernel drops what others send, and reports what ICMP says about this address.
    pub socket: UdpSocket,
    /// Its other end.
    pub address: SocketAddr,
}

/// No datagram is larger, bytes.
const DATAGRAM_BYTES: usize = 65_535;

impl DialledUdp {
    /// The next datagram, whole. Errors are those of [`datagram_fault`].
    ///
    /// Not `UdpSocket::recv`: that waits for data only, and would sleep through what ICMP says. The room for the largest
    /// datagram is only made when there is one: thousands of checks may wait at once.
    pub async fn receive(&self) -> io::Result<Vec<u8>> {
        let take = || {
            let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
            let spare = rustix::buffer::spare_capacity(&mut datagram);
            rustix::net::recv(&self.socket, spare, rustix::net::RecvFlags::empty())?;
            datagram.shrink_to_fit();
            Ok(datagram)
        };
        self.socket.async_io(Interest::READABLE | Interest::ERROR, take).await
    }
}

impl Net {
    /// Addresses of a destination in the order to try them, at least one, at most 16, each one past the guard. Adds to
    /// [`crate::model::Phase::Dns`] (names only). Send to these very addresses: a name asked again may have moved.
    pub async fn addresses(
        &self,
        destination: &Destination<'_>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Vec<SocketAddr>, NotDialled> {
        let name = match &destination.host {
            url::Host::Ipv4(ip) => return self.literal(IpAddr::V4(*ip), destination),
            url::Host::Ipv6(ip) => return self.literal(IpAddr::V6(*ip), destination),
            url::Host::Domain(name) => match name.parse() {
                Ok(ip) => return self.literal(ip, destination),
                Err(_) => *name,
            },
        };
        let found = self.lookup(name, destination.ip_version, deadline, timings).await?;
        let first = match self.permitted(&dial::interleave(&found.v6, &found.v4), destination) {
            Err(first) if found.v6_is_late => first,
            result => return result,
        };
        let Ok(late) = self.lookup(name, IpVersion::V6, deadline, timings).await else { return Err(first) };
        let second = self.permitted(&dial::interleave(&late.v6, &[]), destination);
        second.map_err(|second| dial::more_telling(first, second))
    }

    /// A socket for datagrams to the first address that this host has a route to. Nothing is sent, so there is no
    /// [`crate::model::Phase::Connect`]; whether anybody is there only an answer tells.
    pub async fn dial_udp(
        &self,
        destination: &Destination<'_>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<DialledUdp, NotDialled> {
        let addresses = self.addresses(destination, deadline, timings).await?;
        let mut failed: Option<NotDialled> = None;
        for address in addresses {
            match open(address) {
                Ok(socket) => return Ok(DialledUdp { socket, address }),
                Err(error) => {
                    let fault = connect::fault(address, Stage::AtOnce, &error);
                    let not = NotDialled { fault, address: Some(address) };
                    failed = Some(match failed {
                        Some(first) => dial::more_telling(first, not),
                        None => not,
                    });
                }
            }
        }
        Err(failed.unwrap_or_else(nowhere))
    }

    fn literal(&self, ip: IpAddr, destination: &Destination<'_>) -> Result<Vec<SocketAddr>, NotDialled> {
        match wrong_version(ip, destination.ip_version) {
            Some(fault) => Err(NotDialled { fault, address: Some(SocketAddr::new(ip, destination.port)) }),
            None => self.permitted(&[ip], destination),
        }
    }

    fn permitted(&self, ips: &[IpAddr], destination: &Destination<'_>) -> Result<Vec<SocketAddr>, NotDialled> {
        let mut refused = None;
        let mut permitted = Vec::with_capacity(ips.len());
        for ip in ips {
            let address = SocketAddr::new(*ip, destination.port);
            match self.guard.check(address, destination.profile) {
                Ok(()) => permitted.push(address),
                Err(fault) => refused = Some(NotDialled { fault, address: Some(address) }),
            }
        }
        if permitted.is_empty() { Err(refused.unwrap_or_else(nowhere)) } else { Ok(permitted) }
    }
}

fn nowhere() -> NotDialled {
    NotDialled { fault: Fault::new(Failure::DnsNoRecords, "there is no address to send to"), address: None }
}

/// Connected, from a port that the kernel picks at random.
pub(super) fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = keep(Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?)?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// The fault of an error that a connected datagram socket reports when it sends or receives: what ICMP said about the
/// address, or what this host lacks.
#[must_use]
pub fn datagram_fault(address: SocketAddr, error: &io::Error) -> Fault {
    connect::fault(address, Stage::Later, error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use url::Host;

    use super::super::{EgressOptions, NetOptions, Profile};
    use super::*;
    use crate::model::Phase;

    fn net(deny: &[&str]) -> Net {
        let deny = deny.iter().map(|net| net.parse().unwrap()).collect();
        Net::new(NetOptions {
            resolvers: vec!["127.0.0.1:9".parse().unwrap()],
            ca_files: Vec::new(),
            egress: EgressOptions { deny, ..EgressOptions::default() },
            user_agent: String::new(),
            max_body: 0,
        })
        .unwrap()
    }

    fn to(host: Host<&'static str>, port: u16, ip_version: IpVersion) -> Destination<'static> {
        Destination { host, port, ip_version, profile: Profile::File }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn addresses_are_of_the_wanted_version_and_past_the_guard() {
        let mut timings = Timings::default();
        let local = |version| to(Host::Domain("localhost"), 7, version);
        for (deny, version, wanted) in [
            (&[][..], IpVersion::Any, &["[::1]:7", "127.0.0.1:7"][..]),
            (&[], IpVersion::V4, &["127.0.0.1:7"]),
            (&["::1/128"], IpVersion::Any, &["127.0.0.1:7"]),
        ] {
            let got = net(deny).addresses(&local(version), soon(), &mut timings).await.unwrap();
            let got: Vec<String> = got.iter().map(ToString::to_string).collect();
            assert_eq!(got, wanted, "{deny:?}");
        }
        assert!(timings.get(Phase::Dns).is_some() && timings.get(Phase::Connect).is_none());
        let blocked = net(&["127.0.0.0/8", "::1/128"]);
        let not = blocked.addresses(&local(IpVersion::Any), soon(), &mut timings).await.unwrap_err();
        assert_eq!(not.fault.failure, Failure::EgressBlocked);
        // An address in a scheme that `url` does not know stays a name to it.
        let mut timings = Timings::default();
        let not = blocked.dial_udp(&to(Host::Domain("127.0.0.1"), 7, IpVersion::Any), soon(), &mut timings).await;
        assert_eq!(not.unwrap_err().fault.failure, Failure::EgressBlocked);
        let v4 = to(Host::Ipv4([127, 0, 0, 1].into()), 7, IpVersion::V6);
        let not = net(&[]).dial_udp(&v4, soon(), &mut timings).await.unwrap_err();
        assert_eq!((not.fault.failure, timings), (Failure::DnsNoRecords, Timings::default()));
    }

    #[tokio::test]
    async fn a_closed_port_answers_with_icmp() {
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let destination = to(Host::Ipv4([127, 0, 0, 1].into()), closed.port(), IpVersion::Any);
        let dialled = net(&[]).dial_udp(&destination, soon(), &mut Timings::default()).await.unwrap();
        dialled.socket.send(b"?").await.unwrap();
        let error = dialled.receive().await.unwrap_err();
        assert_eq!(datagram_fault(closed, &error).failure, Failure::ConnectRefused);
    }
}
