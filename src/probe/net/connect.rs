//! One TCP connection attempt, and what its error says about whom.
//!
//! The kernel (Linux 6, tried in network namespaces) answers `connect` at once when the obstacle is this host's, and
//! later when it is the network's or the target's, so the same errno means two things:
//!
//! | errno | at once | later |
//! |---|---|---|
//! | ENETUNREACH | no route, or the link is down: ours | ICMP from a router |
//! | EHOSTUNREACH | an `unreachable` route: ours | ICMP from a router; nobody answers ARP or ND (3 s) |
//! | EACCES | a `prohibit` route, a security module: ours | ICMPv6 "prohibited" from a router |
//! | EINVAL | a `blackhole` route: ours | |
//! | EADDRNOTAVAIL | no free port, or IPv6 is switched off: ours | |

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::descriptors::keep;
use crate::model::{Failure, Fault};

/// When an error was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// By `socket` or `connect` themselves.
    AtOnce,
    /// After the first packet left.
    Later,
}

/// Connects without a deadline of its own: the caller has one.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = open(address).map_err(|error| fault(address, Stage::AtOnce, &error))?;
    established(&stream).await.map_err(|error| fault(address, Stage::Later, &error))?;
    // A check sends small pieces and waits for answers; without it Nagle's delay would be measured.
    if let Err(error) = stream.set_nodelay(true) {
        return Err(fault(address, Stage::Later, &error));
    }
    Ok(stream)
}

fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = keep(Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    TcpStream::from_std(socket.into())
}

async fn established(stream: &TcpStream) -> io::Result<()> {
    loop {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                // Woken too early: forget the readiness and wait for the next.
                let _ = stream.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The failure of a connection that did not come about by the deadline.
pub(super) fn timed_out(address: SocketAddr, waited: Duration) -> Fault {
    let message = format!("{address} did not answer within {} ms", waited.as_millis());
    Fault::new(Failure::ConnectTimeout, message)
}

/// The failure that an error of a socket to `address` stands for.
pub(super) fn fault(address: SocketAddr, stage: Stage, error: &io::Error) -> Fault {
    let no_source = || address.is_ipv6() && lacks_source(address);
    let (failure, what) = judge(error, stage, no_source);
    let message = match what {
        Some(what) => format!("{address}: {what}"),
        None => format!("{address}: {error}"),
    };
    Fault::new(failure, message)
}

fn judge(error: &io::Error, stage: Stage, no_source: impl Fn() -> bool) -> (Failure, Option<&'static str>) {
    let Some(errno) = Errno::from_io_error(error) else { return (Failure::Internal, None) };
    match (errno, stage) {
        (Errno::CONNREFUSED, _) => (Failure::ConnectRefused, Some("connection refused: no program listens there")),
        (Errno::TIMEDOUT, _) => (Failure::ConnectTimeout, Some("did not answer: the kernel gave up")),
        (Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE, _) => {
            (Failure::ConnectionReset, Some("the connection was reset while it was made"))
        }
        (Errno::NETUNREACH, Stage::AtOnce) => {
            (Failure::ObserverOffline, Some("this host has no route there: check its network"))
        }
        (Errno::HOSTUNREACH | Errno::INVAL, Stage::AtOnce) => {
            (Failure::ObserverOffline, Some("a route of this host refuses to go there: check its routing table"))
        }
        (Errno::AFNOSUPPORT, Stage::AtOnce) => {
            (Failure::ObserverOffline, Some("this host does not speak this version of IP"))
        }
        (Errno::ADDRNOTAVAIL, _) if no_source() => {
            (Failure::ObserverOffline, Some("this host has no IPv6 address to connect from"))
        }
        (Errno::NETUNREACH | Errno::NONET, Stage::Later) => {
            (Failure::NetworkUnreachable, Some("a router says that its network is unreachable"))
        }
        (Errno::HOSTUNREACH | Errno::HOSTDOWN, _) => (
            Failure::HostUnreachable,
            Some("host unreachable: a router says so, or nobody on the link has the address"),
        ),
        // Protocol unreachable, or administratively prohibited (ICMPv6 type 1, code 1).
        (Errno::NOPROTOOPT | Errno::ACCESS, Stage::Later) => {
            (Failure::HostUnreachable, Some("host unreachable: a router or firewall on the way prohibits it"))
        }
        (Errno::ACCESS | Errno::PERM, _) => {
            (Failure::PermissionDenied, Some("this host does not let us connect there: check its firewall and routes"))
        }
        (Errno::MFILE | Errno::NFILE, _) => (
            Failure::ResourceExhausted,
            Some("no file descriptor is left: raise LimitNOFILE= or lower probe.max_in_flight"),
        ),
        (Errno::ADDRNOTAVAIL | Errno::ADDRINUSE | Errno::AGAIN, _) => {
            (Failure::ResourceExhausted, Some("no local port is left: widen net.ipv4.ip_local_port_range"))
        }
        (Errno::NOBUFS | Errno::NOMEM, _) => {
            (Failure::ResourceExhausted, Some("the kernel has no memory left for a socket"))
        }
        _ => (Failure::Internal, None),
    }
}

/// EADDRNOTAVAIL also stands for exhausted ports. A datagram socket needs a source address just as well, but has ports
/// of its own, so it fails only in the case that is about addresses. One that gets no port either, or no descriptor, tells
/// nothing about addresses. Sends nothing.
fn lacks_source(address: SocketAddr) -> bool {
    let IpAddr::V6(_) = address.ip() else { return false };
    UdpSocket::bind("[::]:0").is_ok_and(|socket| socket.connect(address).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_has_an_owner() {
        use Failure::*;
        let table = [
            (Errno::CONNREFUSED, Stage::Later, ConnectRefused),
            (Errno::TIMEDOUT, Stage::Later, ConnectTimeout),
            (Errno::CONNRESET, Stage::Later, ConnectionReset),
            (Errno::NETUNREACH, Stage::AtOnce, ObserverOffline),
            (Errno::NETUNREACH, Stage::Later, NetworkUnreachable),
            (Errno::HOSTUNREACH, Stage::AtOnce, ObserverOffline),
            (Errno::HOSTUNREACH, Stage::Later, HostUnreachable),
            (Errno::ACCESS, Stage::AtOnce, PermissionDenied),
            (Errno::ACCESS, Stage::Later, HostUnreachable),
            (Errno::PERM, Stage::AtOnce, PermissionDenied),
            (Errno::INVAL, Stage::AtOnce, ObserverOffline),
            (Errno::AFNOSUPPORT, Stage::AtOnce, ObserverOffline),
            (Errno::MFILE, Stage::AtOnce, ResourceExhausted),
            (Errno::NFILE, Stage::AtOnce, ResourceExhausted),
            (Errno::NOBUFS, Stage::AtOnce, ResourceExhausted),
            (Errno::NOMEM, Stage::AtOnce, ResourceExhausted),
            (Errno::ADDRNOTAVAIL, Stage::AtOnce, ResourceExhausted),
            (Errno::ADDRINUSE, Stage::AtOnce, ResourceExhausted),
            (Errno::IO, Stage::Later, Internal),
        ];
        for (errno, stage, wanted) in table {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(judge(&error, stage, || false).0, wanted, "{errno:?} {stage:?}");
        }
        let error = io::Error::from_raw_os_error(Errno::ADDRNOTAVAIL.raw_os_error());
        assert_eq!(judge(&error, Stage::AtOnce, || true).0, ObserverOffline);
    }
}
