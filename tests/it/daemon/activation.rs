//! Socket activation: the parent listens, and passes its socket as systemd does.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use tokio::net::{TcpStream, UnixStream};

use super::{MOST, monitor};
use crate::support::daemon::{Daemon, Home, PROGRAM, ask};
use crate::support::target::{Target, until};

/// Starts the daemon with a socket as descriptor 3, meant for it or for another process.
fn start(home: &Home, socket: impl Into<OwnedFd>, count: &str, pid: &str) -> Daemon {
    let script =
        format!("exec 3<&0 0</dev/null; export LISTEN_PID={pid} LISTEN_FDS={count} LISTEN_FDNAMES=x; exec \"$@\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg("sh").arg(PROGRAM).arg("--config").arg(home.config()).arg("run");
    command.env_remove("LAMPLIGHTER_CONFIG").env_remove("STATE_DIRECTORY").stdin(Stdio::from(socket.into()));
    home.start_fed(command)
}

fn copy(socket: &TcpListener) -> TcpListener {
    socket.try_clone().unwrap()
}

#[tokio::test]
async fn a_passed_socket_outlives_a_restart() {
    let target = Target::start().await;
    let home = Home::new(&monitor("a", &target.url("/a")));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut daemon = start(&home, copy(&socket), "1", "$$");
    assert_eq!(daemon.address().await, format!("http://{address}"));
    daemon.wait_status("a", "up").await;
    let answer = ask(TcpStream::connect(address).await.unwrap(), "GET", "/healthz").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));

    // The embedded database has neither the variables nor the socket.
    let pid_file = std::fs::read_to_string(home.state().join("postgres/data/postmaster.pid")).unwrap();
    let postgres = pid_file.lines().next().unwrap();
    let environment = std::fs::read(format!("/proc/{postgres}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("LISTEN_"));
    let inode = |pid: &str, fd: &str| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    let ours = inode(&daemon.pid().to_string(), "3").unwrap();
    assert!(ours.to_string_lossy().starts_with("socket:"), "{ours:?}");
    for entry in std::fs::read_dir(format!("/proc/{postgres}/fd")).unwrap() {
        let fd = entry.unwrap().file_name().into_string().unwrap();
        assert_ne!(inode(postgres, &fd).as_ref(), Some(&ours), "descriptor {fd}");
    }
    assert_eq!(daemon.stop().await.code(), Some(0));

    // Nobody is refused meanwhile: it waits for the next daemon.
    let early = TcpStream::connect(address).await.unwrap();
    let mut daemon = start(&home, copy(&socket), "1", "$$");
    assert_eq!(ask(early, "GET", "/healthz").await.status, 200);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_passed_unix_socket_keeps_its_file() {
    let home = Home::new("database.url = \"postgres://localhost:1/nothing\"\n");
    let path = home.path().join("http.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let mut daemon = start(&home, socket.try_clone().unwrap(), "1", "$$");
    let answer = ask(UnixStream::connect(&path).await.unwrap(), "GET", "/healthz").await;
    assert_eq!(answer.status, 200);
    let shown = format!("unix:{}", path.display());
    until("the path is told", MOST, async || daemon.log().contains(&shown).then_some(())).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(path.exists());
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_and_what_is_anothers_left_alone() {
    let home = Home::new("database.url = \"postgres://localhost:1/nothing\"\n");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let cases: [(OwnedFd, &str, &str); 4] = [
        (copy(&listener).into(), "2", "2 sockets were passed"),
        (copy(&listener).into(), "99999999999999999999", "99999999999999999999 sockets were passed"),
        (datagrams.into(), "1", "not a stream socket"),
        (client.into(), "1", "does not listen"),
    ];
    for (socket, count, why) in cases {
        let mut daemon = start(&home, socket, count, "$$");
        assert_eq!(daemon.ended().await.code(), Some(78), "{why}");
        until(why, MOST, async || daemon.log().contains(why).then_some(())).await;
    }
    let mut daemon = start(&home, copy(&listener), "1", "1");
    assert_ne!(daemon.address().await, format!("http://{}", listener.local_addr().unwrap()));
    assert_eq!(daemon.stop().await.code(), Some(0));
}
