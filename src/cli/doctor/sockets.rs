//! Whether the daemon could listen, and who is in the way.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::settings::limited;
use crate::settings::sections::Listen;

/// A list of sockets of a machine with ten thousand connections is 1.5 MB.
const TABLE_MOST: u64 = 64 << 20;
/// Descriptors looked at for the one that holds a port.
const DESCRIPTORS_MOST: usize = 500_000;
/// `TCP_LISTEN` of the kernel.
const LISTENING: &str = "0A";
const CONNECT: Duration = Duration::from_secs(2);

/// What became of trying to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// It is free.
    Free,
    /// The daemon itself listens.
    Ours,
    /// Somebody else does: process and name, where they can be told.
    Taken(Option<(u32, String)>),
    /// It would fail otherwise.
    Refused(String),
}

/// Tries, and lets go at once.
pub(super) async fn look(listen: &Listen, daemon: Option<u32>) -> Port {
    match listen {
        Listen::Tcp(address) => {
            let address = *address;
            let tried = tokio::task::spawn_blocking(move || try_tcp(address, daemon)).await;
            tried.unwrap_or_else(|error| Port::Refused(error.to_string()))
        }
        Listen::Unix(path) => try_unix(path, daemon).await,
    }
}

fn try_tcp(address: SocketAddr, daemon: Option<u32>) -> Port {
    match bound(address) {
        Ok(()) => Port::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match holder(address.port(), daemon) {
            Some((pid, _)) if Some(pid) == daemon => Port::Ours,
            other => Port::Taken(other),
        },
        Err(error) => Port::Refused(error.to_string()),
    }
}

/// Without listening: a daemon that starts at this moment is not held up, and nobody's connection is taken.
fn bound(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

async fn try_unix(path: &Path, daemon: Option<u32>) -> Port {
    match timeout(CONNECT, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => match stream.peer_cred().ok().and_then(|peer| peer.pid()?.try_into().ok()) {
            Some(pid) if Some(pid) == daemon => Port::Ours,
            other => Port::Taken(other.map(|pid| (pid, name_of(pid)))),
        },
        Err(_) => Port::Taken(None),
        // Left behind, or not there: the daemon makes it anew where it may write.
        Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            match path.parent() {
                Some(folder) if !folder.is_dir() => Port::Refused(format!("{}: no such folder", folder.display())),
                Some(folder) if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err() => {
                    Port::Refused(format!("{}: not writable", folder.display()))
                }
                _ => Port::Free,
            }
        }
        Ok(Err(error)) => Port::Refused(error.to_string()),
    }
}

/// The process that listens on a port: the daemon first, then any that we may look into.
fn holder(port: u16, daemon: Option<u32>) -> Option<(u32, String)> {
    let tables = ["tcp", "tcp6"].map(|name| limited::read(&Path::new("/proc/net").join(name), TABLE_MOST));
    let inodes: Vec<String> = tables.iter().flatten().flat_map(|table| listeners(table, port)).collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut left = DESCRIPTORS_MOST;
    let others = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = others.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    daemon.into_iter().chain(others).find(|pid| holds(*pid, &links, &mut left)).map(|pid| (pid, name_of(pid)))
}

/// Inodes of the sockets that listen on this port, of `/proc/net/tcp` or `tcp6` (proc(5)).
fn listeners(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let lines = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTENING;
        fields.get(9).filter(|_| listens).map(|inode| (*inode).to_owned())
    });
    lines.collect()
}

fn holds(pid: u32, links: &[String], left: &mut usize) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        *left = left.saturating_sub(1);
        *left > 0
            && fs::read_link(entry.path()).is_ok_and(|to| links.iter().any(|link| to.as_os_str() == link.as_str()))
    })
}

fn name_of(pid: u32) -> String {
    let name = limited::read(Path::new(&format!("/proc/{pid}/comm")), 256).unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_is_free_taken_or_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = Listen::Tcp(listener.local_addr().unwrap());
        let me = std::process::id();
        let Port::Taken(Some((pid, name))) = look(&listen, None).await else { panic!("it is taken") };
        assert!(pid == me && !name.is_empty());
        assert_eq!(look(&listen, Some(me)).await, Port::Ours);
        drop(listener);
        assert_eq!(look(&listen, None).await, Port::Free);
        // TEST-NET-1 is no address of this machine.
        assert!(matches!(look(&Listen::Tcp("192.0.2.1:1".parse().unwrap()), None).await, Port::Refused(_)));
    }

    #[tokio::test]
    async fn a_socket_in_the_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(look(&Listen::Unix(path.clone()), None).await, Port::Free);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        assert_eq!(look(&Listen::Unix(path.clone()), Some(std::process::id())).await, Port::Ours);
        assert!(matches!(look(&Listen::Unix(path.clone()), None).await, Port::Taken(Some(_))));
        drop(listener);
        assert_eq!(look(&Listen::Unix(path), None).await, Port::Free);
        assert!(matches!(look(&Listen::Unix(folder.path().join("none/s")), None).await, Port::Refused(_)));
    }

    #[test]
    fn only_listeners_of_the_port() {
        let table = "  sl  local_address rem_address   st tx rx tr tm retrnsmt   uid  timeout inode\n   \
            0: 0100007F:224C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n   \
            1: 0100007F:224C 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n   \
            2: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0\n";
        assert_eq!(listeners(table, 8780), ["4711"]);
        assert_eq!(listeners("", 8780), [] as [&str; 0]);
    }
}
