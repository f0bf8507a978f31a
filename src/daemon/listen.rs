//! Where the admin server listens.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;

use crate::cli::{Exit, Passed, Stop};
use crate::settings::sections::Listen;
use crate::web::server::Listener;

/// A host name in `database.url` is looked up so long, for the guard.
const LOOKUP: Duration = Duration::from_secs(2);

/// The public listener.
pub(super) struct Bound {
    pub(super) listener: Listener,
    /// Of TCP.
    pub(super) address: Option<SocketAddr>,
    pub(super) shown: String,
}

/// Binds `server.listen`, or takes the socket that the service manager passed in its place.
pub(super) async fn bind(listen: &Listen, passed: &Passed) -> Result<Bound, Stop> {
    let unusable =
        |error| Stop::new(Exit::Unavailable, format!("the socket that systemd passed cannot be used: {error}"));
    match passed {
        Passed::Nothing => bind_own(listen).await,
        Passed::Refused(why) => Err(Stop::new(Exit::Config, why.clone())),
        Passed::Tcp(socket) => taken_tcp(socket).map_err(unusable),
        Passed::Unix(socket) => taken_unix(socket).map_err(unusable),
    }
}

fn taken_tcp(socket: &std::net::TcpListener) -> io::Result<Bound> {
    let socket = socket.try_clone()?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let listener = Listener::Tcp(TcpListener::from_std(socket)?);
    Ok(Bound { listener, address: Some(address), shown: format!("http://{address} (a socket of systemd)") })
}

fn taken_unix(socket: &std::os::unix::net::UnixListener) -> io::Result<Bound> {
    let socket = socket.try_clone()?;
    socket.set_nonblocking(true)?;
    let path = socket.local_addr()?.as_pathname().map_or_else(String::new, |path| path.display().to_string());
    let listener = Listener::Unix { listener: UnixListener::from_std(socket)?, path: None, check_peer: false };
    Ok(Bound { listener, address: None, shown: format!("unix:{path} (a socket of systemd)") })
}

async fn bind_own(listen: &Listen) -> Result<Bound, Stop> {
    let taken = |error: io::Error| {
        let text = format!("cannot listen on {listen}: {error}; choose another with server.listen");
        Stop::new(Exit::Unavailable, text)
    };
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(taken)?;
            let address = listener.local_addr().map_err(taken)?;
            Ok(Bound { listener: Listener::Tcp(listener), address: Some(address), shown: format!("http://{address}") })
        }
        Listen::Unix(path) => {
            let listener = Listener::unix(path, 0o660, false).await.map_err(taken)?;
            Ok(Bound { listener, address: None, shown: format!("unix:{}", path.display()) })
        }
    }
}

/// Binds the socket that commands use.
pub(super) async fn bind_socket(socket: &Path) -> Result<Listener, Stop> {
    let failed = |error| Stop::new(Exit::StateDirectory, format!("{}: {error}", socket.display()));
    Listener::unix(socket, 0o600, true).await.map_err(failed)
}

/// The addresses of the store's host, if it is reached over TCP: rows must not probe it.
pub(super) async fn addresses(store: Option<(String, u16)>) -> Vec<SocketAddr> {
    let Some(host_and_port) = store else { return Vec::new() };
    match timeout(LOOKUP, tokio::net::lookup_host(host_and_port)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        _ => {
            log::warn!("the host of database.url has no address now, so monitors of the database are not kept from it");
            Vec::new()
        }
    }
}
