//! Where the admin server listens.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::cli::{Exit, Stop};
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

/// Binds `server.listen`.
pub(super) async fn bind(listen: &Listen) -> Result<Bound, Stop> {
    let taken = |error: std::io::Error| {
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
