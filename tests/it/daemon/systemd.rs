//! What the service manager hears, on the socket that it would listen to.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixDatagram;

use super::{MOST, monitor, on};
use crate::support::daemon::{Daemon, Home};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// systemd's end.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(home: &Home) -> (Self, Command) {
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = home.command(&["run"]);
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
        (Self { socket, heard: Vec::new() }, command)
    }

    /// Waits for a message with this in it, from now on.
    async fn hears(&mut self, part: &str) -> String {
        let hear = async {
            let mut buffer = [0; 4096];
            loop {
                let length = self.socket.recv(&mut buffer).await.unwrap();
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                self.heard.push(text.clone());
                if text.contains(part) {
                    return text;
                }
            }
        };
        match tokio::time::timeout(MOST, hear).await {
            Ok(text) => text,
            Err(_) => panic!("{part:?} was not said: {:?}", self.heard),
        }
    }
}

fn environment_of(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap()).replace('\0', "\n")
}

#[tokio::test]
async fn the_whole_life_is_told() {
    let target = Target::start().await;
    let home = Home::new(&monitor("a", &target.url("/a")));
    let (mut manager, command) = Manager::new(&home);
    let mut daemon = home.start_as(command);
    manager.hears("READY=1").await;
    manager.hears("WATCHDOG=1").await;
    manager.hears("STATUS=active; 1 monitor, 0 down").await;
    // The embedded database would report itself as us.
    let pid_file = std::fs::read_to_string(home.state().join("postgres/data/postmaster.pid")).unwrap();
    let postgres = environment_of(pid_file.lines().next().unwrap().parse().unwrap());
    assert!(postgres.contains("PATH=") && !postgres.contains("NOTIFY_SOCKET") && !postgres.contains("WATCHDOG"));

    // SIGHUP, a file that is changed, a bad one: each has its beginning and its end.
    let reloads: [&dyn Fn(); 3] = [
        &|| daemon.signal(Signal::HUP),
        &|| home.write(&(monitor("a", &target.url("/a")) + &monitor("b", &target.url("/b")))),
        &|| home.write("nonsense"),
    ];
    for reload in reloads {
        reload();
        let told = manager.hears("RELOADING=1").await;
        let usec = told.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);
        manager.hears("READY=1").await;
    }
    manager.hears("STATUS=active; 2 monitors").await;
    target.answer(500);
    manager.hears("STATUS=active; 2 monitors, 2 down").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    manager.hears("STOPPING=1").await;
}

#[tokio::test]
async fn a_degraded_start_and_a_standby_are_ready_too() {
    let home = Home::new("database.url = \"postgres://localhost:1/nothing\"\n");
    let (mut manager, command) = Manager::new(&home);
    let mut daemon = home.start_as(command);
    manager.hears("READY=1").await;
    assert!(manager.heard.iter().any(|text| text.contains("STATUS=starting; 0 monitors")), "{:?}", manager.heard);
    manager.hears("WATCHDOG=1").await;
    assert_eq!(daemon.stop().await.code(), Some(0));

    let db = TestDb::new().await;
    let first = Home::new(&on(&db.url, ""));
    let active = first.start();
    active.wait_ready("one is active", |status, _| status == 200).await;
    let second = Home::new(&on(&db.url, ""));
    let (mut manager, command) = Manager::new(&second);
    let mut daemon = second.start_as(command);
    manager.hears("READY=1").await;
    assert!(manager.heard.iter().any(|text| text.contains("STATUS=standby; daemon ")), "{:?}", manager.heard);
    for _ in 0..5 {
        manager.hears("WATCHDOG=1").await;
    }
    // A service manager that asks for a reload waits for its end.
    daemon.signal(Signal::HUP);
    manager.hears("RELOADING=1").await;
    manager.hears("READY=1").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}

/// Signals during the start: a SIGHUP ends nothing, a SIGTERM ends it cleanly.
#[tokio::test]
async fn signals_during_the_start_are_heard() {
    let target = Target::start().await;
    let home = Home::new(&monitor("a", &target.url("/a")));
    // While initdb runs, and later at other points of the start.
    for delay_ms in [100, 400, 800] {
        let mut daemon: Daemon = home.start();
        until("its signals are handled", MOST, async || handles_hangup(daemon.pid()).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        daemon.signal(Signal::HUP);
        daemon.signal(Signal::TERM);
        let began = std::time::Instant::now();
        assert_eq!(daemon.ended().await.code(), Some(0), "after {delay_ms} ms");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?} after {delay_ms} ms", began.elapsed());
    }
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}

/// Whether SIGHUP (1) and SIGTERM (15) are caught (proc(5), `SigCgt`).
fn handles_hangup(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap_or(0);
    caught & 1 != 0 && caught & (1 << 14) != 0
}
