//! The network layer against lying name servers, dead ports and odd certificates, on loopback only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lamplighter::model::{Failure, Phase, Timings};
use lamplighter::probe::net::{Destination, Dialled, EgressOptions, IpVersion, Net, NetOptions, NotDialled, Profile};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

mod dial;
mod dns;
mod tls;

/// A network layer with these name servers and roots.
fn net(resolvers: &[SocketAddr], ca_files: &[PathBuf], egress: EgressOptions) -> Net {
    Net::new(NetOptions {
        resolvers: resolvers.to_vec(),
        ca_files: ca_files.to_vec(),
        egress,
        user_agent: "test".to_owned(),
        max_body: 1 << 20,
    })
    .unwrap()
}

fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

async fn dial(
    net: &Net,
    host: url::Host<&str>,
    port: u16,
    ip_version: IpVersion,
    profile: Profile,
    timeout_ms: u64,
) -> (Result<Dialled, NotDialled>, Timings) {
    let mut timings = Timings::default();
    let destination = Destination { host, port, ip_version, profile };
    let result = net.dial(&destination, in_ms(timeout_ms), &mut timings).await;
    (result, timings)
}

/// Which phases have a time: `dns`, `connect`, `tls`.
fn phases(timings: &Timings) -> (bool, bool, bool) {
    let has = |phase| timings.get(phase).is_some();
    (has(Phase::Dns), has(Phase::Connect), has(Phase::Tls))
}

fn failure<T>(result: &Result<T, NotDialled>) -> Option<Failure> {
    result.as_ref().err().map(|not| not.fault.failure)
}

/// A port of `ip` where nobody listens. Bound and given back: the kernel does not hand it out again soon.
async fn closed_port(ip: &str) -> SocketAddr {
    TcpListener::bind((ip, 0)).await.unwrap().local_addr().unwrap()
}

/// A port that drops every SYN: its queue of one is full, and nobody accepts.
pub(crate) struct Blackhole {
    pub(crate) address: SocketAddr,
    _listener: std::net::TcpListener,
    _clients: Vec<TcpStream>,
}

impl Blackhole {
    pub(crate) async fn at(address: SocketAddr) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(0).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        while let Ok(Ok(client)) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            clients.push(client);
            assert!(clients.len() < 10, "the queue never fills");
        }
        Self { address, _listener: listener, _clients: clients }
    }
}
