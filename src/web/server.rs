//! The hyper server: a cap on connections, limits on heads, deadlines, a graceful end.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use super::routes::Trust;
use super::{Admin, routes};
use crate::shutdown::Shutdown;

/// Open connections a listener; more wait in the kernel's backlog.
const CONNECTIONS: usize = 256;
/// A request head must be here by then; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Buffer of a connection, which also bounds a request head.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// How long open requests may go on at the end.
const DRAIN: Duration = Duration::from_secs(3);
/// A connection ends after so long; a reload takes a minute at the most.
const LIFE: Duration = Duration::from_secs(120);
/// After a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A bound listener.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, whose file is removed at the end. With `check_peer` only our own user and root may talk.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// Its file.
        path: PathBuf,
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
        Ok(Self::Unix { listener, path: path.to_owned(), check_peer })
    }
}

/// Serves a listener until shutdown. It is shared, so that whoever runs this may run it again.
pub async fn serve(listener: Arc<Listener>, admin: Arc<dyn Admin>, trust: Trust, mut shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let place = tokio::select! {
            () = shutdown.wait() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = shutdown.wait() => break,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok(Some(Peer::Tcp(stream))) => connection(stream, &admin, trust, &graceful, place),
            Ok(Some(Peer::Unix(stream))) => connection(stream, &admin, trust, &graceful, place),
            Ok(None) => {}
            Err(error) => {
                log::warn!("a connection to the admin server could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        log::debug!("open requests were cut off by the shutdown");
    }
    if let Listener::Unix { path, .. } = &*listener {
        let _ = std::fs::remove_file(path);
    }
}

enum Peer {
    Tcp(tokio::net::TcpStream),
    Unix(UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Option<Peer>> {
    match listener {
        Listener::Tcp(listener) => Ok(Some(Peer::Tcp(listener.accept().await?.0))),
        Listener::Unix { listener, check_peer, .. } => {
            let (stream, _) = listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            if *check_peer && uid != 0 && uid != rustix::process::geteuid().as_raw() {
                log::warn!(uid = uid; "a connection to admin.sock from another user was refused");
                return Ok(None);
            }
            Ok(Some(Peer::Unix(stream)))
        }
    }
}

fn connection<S>(
    stream: S,
    admin: &Arc<dyn Admin>,
    trust: Trust,
    graceful: &GracefulShutdown,
    place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let admin = Arc::clone(admin);
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(routes::route(request, admin, trust).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        // A broken connection concerns its client only, and one that reads no answers does not keep its place.
        let _ = tokio::time::timeout(LIFE, connection).await;
        drop(place);
    });
}
