//! The socket that the service manager opened in our place (sd_listen_fds(3)).

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

/// What was passed. Cheap to clone; the descriptor is open until the process ends, as it is at the manager's.
#[derive(Clone, Default)]
pub(crate) enum Passed {
    /// Nothing, or something that is meant for another process.
    #[default]
    Nothing,
    /// A listening TCP socket.
    Tcp(Arc<TcpListener>),
    /// A listening unix socket, whose file is the manager's.
    Unix(Arc<UnixListener>),
    /// Something that is not one listening socket: why, and the way out.
    Refused(String),
}

impl Passed {
    /// Takes it, as `LISTEN_PID` and `LISTEN_FDS` say; both are gone from the process's environment then, and the socket
    /// from what children inherit. To be called before anything opens a descriptor or starts a thread.
    pub(super) fn take(variables: &HashMap<String, String>) -> Self {
        let own = std::process::id().to_string();
        if variables.get("LISTEN_PID") != Some(&own) {
            return Self::Nothing;
        }
        let Some(count) = variables.get("LISTEN_FDS").filter(|count| *count != "0") else { return Self::Nothing };
        if count != "1" {
            let text = "sockets were passed, and one is what is used: leave one ListenStream= in lamplighter.socket";
            return Self::Refused(format!("{count} {text}"));
        }
        let mut manager = ListenFd::from_env();
        if let Ok(Some(tcp)) = manager.take_tcp_listener(0) {
            return listening(tcp.into(), |fd| Self::Tcp(Arc::new(fd.into())));
        }
        if let Ok(Some(unix)) = manager.take_unix_listener(0) {
            return listening(unix.into(), |fd| Self::Unix(Arc::new(fd.into())));
        }
        let text = "what was passed is not a stream socket: lamplighter.socket needs a ListenStream= of TCP or a path";
        Self::Refused(text.to_owned())
    }
}

/// A connection of a client is a stream socket as well.
fn listening(socket: OwnedFd, found: impl FnOnce(OwnedFd) -> Passed) -> Passed {
    match socket_acceptconn(socket.as_fd()) {
        Ok(true) => found(socket),
        _ => {
            Passed::Refused("the socket that was passed does not listen: lamplighter.socket needs Accept=no".to_owned())
        }
    }
}
