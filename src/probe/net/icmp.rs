//! Echo requests (RFC 792, RFC 4443). Unprivileged datagram sockets first, which the kernel gives to the groups of the
//! sysctl `net.ipv4.ping_group_range` (for IPv6 as well); raw ones where that is closed and CAP_NET_RAW is there.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use super::connect::{self, Stage};
use super::descriptors::keep;
use super::{Destination, Net, NotDialled, dial};
use crate::model::{Failure, Fault, Timings};

/// Octets behind the header: what `ping` sends as well.
const PAYLOAD_BYTES: usize = 56;
const HEADER_BYTES: usize = 8;
/// A reply with an IPv4 header of up to 60 octets before it, which raw sockets keep.
const BUFFER_BYTES: usize = 60 + HEADER_BYTES + PAYLOAD_BYTES;
/// A raw socket hears all that its other end sends by ICMP: enough for the replies of one check, and no more.
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;
/// Packets read at one wake-up, so that a flood does not keep a worker.
const MOST_AT_ONCE: usize = 64;

/// What there is to wake up for: replies, and what routers say.
const HEARD: Interest = Interest::READABLE.add(Interest::ERROR);

const NO_PERMISSION: &str = "this host does not let us send ICMP: set the sysctl net.ipv4.ping_group_range = 0 2147483647 \
                             (it counts for IPv6 too), or give the service AmbientCapabilities=CAP_NET_RAW; \
                             docs/install.md has both files";

/// A socket that pings one address.
pub struct Pinger {
    /// Of ICMP, not UDP: a datagram socket that sends and receives is the same thing to the runtime.
    socket: UdpSocket,
    address: SocketAddr,
    is_raw: bool,
    /// Raw sockets hear the replies to all processes; for the others the kernel chooses it, and sorts by it.
    ident: u16,
    /// Unpredictable: no other process and no stranger can answer for us.
    payload: [u8; PAYLOAD_BYTES],
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Echo {
    sent: Instant,
    took: Option<Duration>,
    is_refused: bool,
}

/// What came back.
#[derive(Debug, Default)]
pub struct Pinged {
    /// Requests that left.
    pub sent: usize,
    /// Round trips, in the order of the requests.
    pub round_trips: Vec<Duration>,
    /// Replies to requests that were answered before.
    pub duplicates: usize,
    /// What a router, or this host for it, said last.
    pub refusal: Option<Fault>,
}

impl Net {
    /// A socket to ping the first address that this host has a route to. Nothing is sent yet. Adds to
    /// [`crate::model::Phase::Dns`] (names only).
    pub async fn dial_icmp(
        &self,
        destination: &Destination<'_>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<Pinger, NotDialled> {
        let addresses = self.addresses(destination, deadline, timings).await?;
        let mut failed: Option<NotDialled> = None;
        for address in addresses {
            match Pinger::open(address) {
                Ok(pinger) => return Ok(pinger),
                Err(fault) => {
                    let not = NotDialled { fault, address: Some(address) };
                    failed = Some(match failed {
                        Some(first) => dial::more_telling(first, not),
                        None => not,
                    });
                }
            }
        }
        let none = || Fault::new(Failure::DnsNoRecords, "there is no address to ping");
        Err(failed.unwrap_or_else(|| NotDialled { fault: none(), address: None }))
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ACCESS | Errno::PERM))
}

impl Pinger {
    fn open(address: SocketAddr) -> Result<Self, Fault> {
        let at_once = |error: io::Error| connect::fault(address, Stage::AtOnce, &error);
        let protocol = if address.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
        let domain = Domain::for_address(address);
        let new = |kind: Type| Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol)).and_then(keep);
        let (socket, is_raw) = match new(Type::DGRAM) {
            Ok(socket) => (socket, false),
            Err(error) if is_denied(&error) || error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => {
                match new(Type::RAW) {
                    Ok(socket) => (socket, true),
                    Err(error) if is_denied(&error) => {
                        return Err(Fault::new(Failure::PermissionDenied, NO_PERMISSION));
                    }
                    Err(error) => return Err(at_once(error)),
                }
            }
            Err(error) => return Err(at_once(error)),
        };
        // What routers say about "soft" errors, host and network unreachable, is told only to who asks for it.
        let asked = match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
        };
        asked.map_err(|errno| at_once(io::Error::from(errno)))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).map_err(at_once)?;
        // A raw socket then hears this address only; and a missing route shows before anything is sent.
        socket.connect(&address.into()).map_err(at_once)?;
        let socket = UdpSocket::from_std(socket.into()).map_err(at_once)?;
        let (mut payload, mut ident) = ([0; PAYLOAD_BYTES], [0; 2]);
        let random = getrandom::fill(&mut payload).and_then(|()| getrandom::fill(&mut ident));
        random.map_err(|error| Fault::new(Failure::Internal, format!("no random numbers: {error}")))?;
        Ok(Self { socket, address, is_raw, ident: u16::from_be_bytes(ident), payload })
    }

    /// The other end, with port 0.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends `count` requests, `gap` apart, and waits for what they cause until the deadline, or until each has been
    /// answered or refused. An error means that nothing could be sent.
    pub async fn ping(&self, count: u16, gap: Duration, deadline: Instant) -> Result<Pinged, Fault> {
        let mut echoes: Vec<Echo> = Vec::with_capacity(usize::from(count));
        let mut pinged = Pinged::default();
        let mut next_at = Instant::now();
        loop {
            let open = echoes.iter().filter(|echo| echo.took.is_none() && !echo.is_refused).count();
            let is_all_sent = echoes.len() == usize::from(count);
            if is_all_sent && open == 0 {
                break;
            }
            tokio::select! {
                biased;
                ready = self.socket.ready(HEARD) => {
                    ready.map_err(|error| connect::fault(self.address, Stage::AtOnce, &error))?;
                    for interest in [Interest::READABLE, Interest::ERROR] {
                        // An error means that all is read: then the next wake-up is waited for.
                        let _ = self.socket.try_io(interest, || self.take_in(&mut echoes, &mut pinged));
                    }
                    tokio::task::yield_now().await;
                }
                () = sleep_until(deadline) => break,
                () = sleep_until(next_at), if !is_all_sent => {
                    let sent = Instant::now();
                    let sequence = u16::try_from(echoes.len()).unwrap_or(u16::MAX);
                    self.send(sequence, echoes.is_empty())?;
                    echoes.push(Echo { sent, took: None, is_refused: false });
                    next_at = sent + gap;
                }
            }
        }
        pinged.sent = echoes.len();
        pinged.round_trips = echoes.iter().filter_map(|echo| echo.took).collect();
        Ok(pinged)
    }

    /// The first error is about the way there. Later an error of an earlier packet may come in its place: then the
    /// packet is sent once more, and what still fails counts as lost.
    fn send(&self, sequence: u16, is_first: bool) -> Result<(), Fault> {
        let packet = request(self.address.is_ipv6(), self.ident, sequence, &self.payload);
        let mut sent = SockRef::from(&self.socket).send(&packet);
        if !is_first && sent.is_err() {
            sent = SockRef::from(&self.socket).send(&packet);
        }
        match sent {
            Err(error) if is_first => Err(connect::fault(self.address, Stage::AtOnce, &error)),
            _ => Ok(()),
        }
    }

    /// Reads what is there; [`io::ErrorKind::WouldBlock`] when there is no more.
    fn take_in(&self, echoes: &mut [Echo], pinged: &mut Pinged) -> io::Result<()> {
        for _ in 0..MOST_AT_ONCE {
            let mut buffer = [0; BUFFER_BYTES];
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    let now = Instant::now();
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let echo = self.sequence_of(bytes).and_then(|sequence| echoes.get_mut(usize::from(sequence)));
                    match echo {
                        Some(echo) if echo.took.is_none() => echo.took = Some(now - echo.sent),
                        Some(_) => pinged.duplicates += 1,
                        None => {}
                    }
                }
                Err(Errno::AGAIN) if self.take_in_error(echoes, pinged) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::WouldBlock.into()),
                // The same is in the queue of errors, with more to it.
                Err(_) => {
                    self.take_in_error(echoes, pinged);
                }
            }
        }
        Ok(())
    }

    /// The request that a packet replies to; none when it is none of our replies.
    fn sequence_of(&self, packet: &[u8]) -> Option<u16> {
        let is_v6 = self.address.is_ipv6();
        let bytes = match packet.first() {
            Some(first) if self.is_raw && !is_v6 => packet.get(usize::from(first & 0x0f) * 4..)?,
            _ => packet,
        };
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let reply = if is_v6 { 129 } else { 0 };
        let [kind, 0, _, _, ident @ .., high, low] = *header else { return None };
        let is_ours =
            kind == reply && payload == self.payload && (!self.is_raw || u16::from_be_bytes(ident) == self.ident);
        is_ours.then(|| u16::from_be_bytes([high, low]))
    }

    /// One entry of the queue of errors; false when there is none.
    fn take_in_error(&self, echoes: &mut [Echo], pinged: &mut Pinged) -> bool {
        let mut packet = [0; BUFFER_BYTES];
        let mut parts = [IoSliceMut::new(&mut packet)];
        let mut control = nix::cmsg_space!([u8; 128]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let Ok(message) = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags) else { return false };
        let length = message.bytes;
        let errno = message.cmsgs().ok().and_then(|mut controls| {
            controls.find_map(|control| match control {
                ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                    i32::try_from(error.ee_errno).ok()
                }
                _ => None,
            })
        });
        // What is quoted begins with our request's header, and may end with it.
        let quoted = packet.get(..length.min(BUFFER_BYTES)).and_then(|bytes| bytes.first_chunk::<HEADER_BYTES>());
        let (Some(errno), Some([_, _, _, _, ident @ .., high, low])) = (errno, quoted) else { return true };
        let is_ours = !self.is_raw || u16::from_be_bytes(*ident) == self.ident;
        let echo = echoes.get_mut(usize::from(u16::from_be_bytes([*high, *low])));
        if let Some(echo) = echo.filter(|echo| is_ours && echo.took.is_none()) {
            echo.is_refused = true;
            let error = io::Error::from_raw_os_error(errno);
            pinged.refusal = Some(connect::fault(self.address, Stage::Later, &error));
        }
        true
    }
}

fn request(is_v6: bool, ident: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER_BYTES + payload.len());
    packet.extend_from_slice(&[if is_v6 { 128 } else { 8 }, 0, 0, 0]);
    packet.extend_from_slice(&ident.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(payload);
    // The kernel counts IPv6's, which is over addresses as well.
    if !is_v6 {
        let sum = checksum(&packet).to_be_bytes();
        for (slot, byte) in packet.iter_mut().skip(2).zip(sum) {
            *slot = byte;
        }
    }
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let high = pair.first().copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([high, pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // At most 0xffff by now.
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        let packet = request(false, 0xbeef, 7, &[1, 2, 3]);
        assert_eq!(checksum(&packet), 0, "summed with its checksum nothing is left");
        assert_eq!(&packet[4..8], &[0xbe, 0xef, 0, 7]);
        assert_eq!(&request(true, 0, 0, &[])[..4], &[128, 0, 0, 0]);
    }

    /// What others send, or what was never asked for, is no reply.
    #[tokio::test]
    async fn replies_of_others_do_not_count() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut pinger = Pinger {
            socket,
            address: "127.0.0.1:0".parse().unwrap(),
            is_raw: true,
            ident: 7,
            payload: [9; PAYLOAD_BYTES],
        };
        let reply = |kind: u8, code: u8, ident: u16, payload: u8| {
            let mut packet = vec![0x45; 20];
            packet.extend_from_slice(&[kind, code, 0, 0]);
            packet.extend_from_slice(&ident.to_be_bytes());
            packet.extend_from_slice(&[0, 3]);
            packet.extend_from_slice(&[payload; PAYLOAD_BYTES]);
            packet
        };
        assert_eq!(pinger.sequence_of(&reply(0, 0, 7, 9)), Some(3));
        for other in [reply(8, 0, 7, 9), reply(0, 1, 7, 9), reply(0, 0, 8, 9), reply(0, 0, 7, 8), vec![], vec![0x4f; 9]]
        {
            assert_eq!(pinger.sequence_of(&other), None, "{other:?}");
        }
        assert_eq!(pinger.sequence_of(&reply(0, 0, 7, 9)[..60]), None, "cut short");
        pinger.is_raw = false;
        assert_eq!(pinger.sequence_of(&reply(0, 0, 8, 9)[20..]), Some(3), "the kernel chose another id");
    }
}
