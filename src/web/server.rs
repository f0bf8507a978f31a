//! The listeners: places for connections, accepting, a graceful end.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Site;
use super::connection::drive;
use super::limiter::Client;
use super::places::Places;
use super::routes::Peer;
pub use super::routes::Trust;
use crate::shutdown::Shutdown;

/// Open connections of `server.listen`: a part of the descriptors that we may have, because checks need the others.
const SHARE_OF_DESCRIPTORS: u64 = 8;
const MOST: usize = 512;
const LEAST: usize = 16;
/// Open connections of `admin.sock`, which has places of its own.
const LOCAL: usize = 64;
/// How long open requests may go on at the end.
const DRAIN: Duration = Duration::from_secs(3);
/// After a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Failed accepts are told this often.
const TELL: Duration = Duration::from_secs(60);

/// A bound listener.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket. With `check_peer` only our own user and root may talk.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// Its file, which is removed at the end, unless it is somebody else's.
        path: Option<PathBuf>,
        /// Whether peers are checked by their credentials.
        check_peer: bool,
    },
}

impl Listener {
    /// Binds a unix socket with this mode; a stale file of a dead daemon is replaced, a live one is an error.
    pub async fn unix(path: &Path, mode: u32, check_peer: bool) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
            if UnixStream::connect(path).await.is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another program is listening there"));
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self::Unix { listener, path: Some(path.to_owned()), check_peer })
    }
}

fn places(trust: Trust) -> usize {
    if trust == Trust::Local {
        return LOCAL;
    }
    // Read, never raised: whoever set it had a reason. None is no limit.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.map_or(u64::MAX, |limit| limit / SHARE_OF_DESCRIPTORS);
    usize::try_from(share).unwrap_or(MOST).clamp(LEAST, MOST)
}

/// Serves a listener until shutdown. It is shared, so that whoever runs this may run it again.
pub async fn serve(listener: Arc<Listener>, site: Arc<Site>, trust: Trust, mut shutdown: Shutdown) {
    let places = Places::new(places(trust));
    let mut connections = JoinSet::new();
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            () = places.ready() => {}
        }
        let accepted = tokio::select! {
            () = shutdown.wait() => break,
            // One that panicked has been told by the panic hook, and took nobody with it.
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok(Some(Accepted::Tcp(stream, address))) => {
                let address = Some(address.ip());
                let place = places.take(Client::of(address));
                let peer = Peer { trust, address };
                connections.spawn(drive(stream, Arc::clone(&site), peer, place, shutdown.clone()));
            }
            Ok(Some(Accepted::Unix(stream))) => {
                let place = places.take(Client::of(None));
                let peer = Peer { trust, address: None };
                connections.spawn(drive(stream, Arc::clone(&site), peer, place, shutdown.clone()));
            }
            Ok(None) => {}
            // One client that went away while it waited.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= TELL) {
                    told = Some(Instant::now());
                    log::warn!("a connection to the admin server could not be accepted: {error}");
                }
                places.evict();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let drained = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        log::debug!(connections = connections.len(); "open requests were cut off by the shutdown");
        connections.shutdown().await;
    }
    if let Listener::Unix { path: Some(path), .. } = &*listener {
        let _ = std::fs::remove_file(path);
    }
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Option<Accepted>> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // Answers go out whole; waiting for more of them helps nobody.
            let _ = stream.set_nodelay(true);
            Ok(Some(Accepted::Tcp(stream, address)))
        }
        Listener::Unix { listener, check_peer, .. } => {
            let (stream, _) = listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            if *check_peer && uid != 0 && uid != rustix::process::geteuid().as_raw() {
                log::warn!(uid = uid; "a connection to admin.sock from another user was refused");
                return Ok(None);
            }
            Ok(Some(Accepted::Unix(stream)))
        }
    }
}
