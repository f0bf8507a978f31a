//! Connections without a network: a pair of sockets of this process, of which one end is handed to the program's code.

use std::cell::RefCell;
use std::net::TcpStream as StdStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::model::Timings;
use crate::probe::authority::Authority;
use crate::probe::net::Stream;
use crate::probe::talk::Talk;

/// Nothing here waits for anybody: what takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// How what is sent arrives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pieces {
    Whole,
    /// One at a time: a read never gets more than one byte.
    Bytes,
}

/// Both ways, for what must not depend on it.
pub(super) const BOTH: [Pieces; 2] = [Pieces::Whole, Pieces::Bytes];

pub(super) fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
    }
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| Builder::new_current_thread().enable_all().build().unwrap());
        runtime.block_on(work)
    })
}

pub(super) fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

/// Where the other end is said to be.
pub(super) fn place() -> Authority {
    Authority { host: url::Host::Domain("peer".to_owned()), port: 1 }
}

/// A pair of connected sockets; of bytes one at a time each is a packet, and a read takes one packet.
fn pair(pieces: Pieces) -> (TcpStream, TcpStream) {
    let kind = match pieces {
        Pieces::Whole => SocketType::STREAM,
        Pieces::Bytes => SocketType::SEQPACKET,
    };
    let (near, far) =
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None).unwrap();
    // The program only reads, writes and closes them, which needs no address.
    let stream = |end: OwnedFd| TcpStream::from_std(StdStream::from(end)).unwrap();
    (stream(near), stream(far))
}

/// Gives `work` a connection whose other end sends these bytes and then ends. Also returns what that end was sent.
pub(super) fn converse<T>(bytes: &[u8], pieces: Pieces, work: impl AsyncFnOnce(Stream) -> T) -> (T, Vec<u8>) {
    on_runtime(async {
        let (near, far) = pair(pieces);
        let (mut incoming, mut outgoing) = far.into_split();
        let speak = async {
            let step = match pieces {
                Pieces::Whole => bytes.len().max(1),
                Pieces::Bytes => 1,
            };
            for piece in bytes.chunks(step) {
                // Who listens may have heard enough.
                if outgoing.write_all(piece).await.is_err() {
                    break;
                }
            }
            let _ = outgoing.shutdown().await;
        };
        let hear = async {
            let (mut said, mut space, mut errors) = (Vec::new(), vec![0; 64 * 1024], 0);
            // An end that closes with bytes unread is reported once, before what it had said.
            while errors < 2 {
                match incoming.read(&mut space).await {
                    Ok(0) => break,
                    Ok(length) => said.extend_from_slice(space.get(..length).unwrap_or_default()),
                    Err(_) => errors += 1,
                }
            }
            said
        };
        let (result, (), said) = tokio::join!(work(Stream::Plain(near)), speak, hear);
        (result, said)
    })
}

/// The same for what reads from a conversation, which may hear 64 KiB.
pub(super) fn heard<T>(bytes: &[u8], pieces: Pieces, read: impl AsyncFnOnce(Talk<'_>) -> T) -> T {
    let read = async |stream| read(Talk::new(stream, deadline(), &mut Timings::default(), 64 * 1024)).await;
    converse(bytes, pieces, read).0
}
