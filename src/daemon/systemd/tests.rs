//! With a real socket, as systemd has one.

use std::sync::Condvar;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::catalog::sync::ReloadCount;
use crate::clock::{SystemWall, Wall};
use crate::journal::Journal;
use crate::model::Record;
use crate::schedule::dispatch::{Dispatcher, Inputs};
use crate::shutdown;

/// For tests that fail.
const MOST: Duration = Duration::from_secs(20);

struct Manager {
    socket: tokio::net::UnixDatagram,
    _folder: Option<tempfile::TempDir>,
}

impl Manager {
    fn at_path() -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        (Self { socket, _folder: Some(folder) }, path.display().to_string())
    }

    async fn hears(&self) -> String {
        let mut buffer = [0; 4096];
        let length = timeout(MOST, self.socket.recv(&mut buffer)).await.expect("something is said").unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Whether something is said within this time.
    async fn hears_within(&self, time: Duration) -> bool {
        let mut buffer = [0; 4096];
        timeout(time, self.socket.recv(&mut buffer)).await.is_ok()
    }
}

fn systemd(variables: &[(&str, &str)]) -> Systemd {
    Systemd::new(&Environment::of(variables))
}

#[tokio::test]
async fn abstract_sockets_are_reached_and_bad_addresses_harm_nobody() {
    let name = format!("lamplighter-test-{}", uuid::Uuid::new_v4());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let manager = Manager { socket: tokio::net::UnixDatagram::from_std(socket).unwrap(), _folder: None };
    let systemd_there = systemd(&[("NOTIFY_SOCKET", &format!("@{name}"))]);
    systemd_there.ready();
    systemd_there.ready();
    systemd_there.status("two\nlines\u{1b}[31m");
    systemd_there.status("two\nlines\u{1b}[31m");
    systemd_there.stopping();
    assert_eq!(manager.hears().await, "READY=1");
    assert_eq!(manager.hears().await, "STATUS=two lines [31m");
    assert!(manager.hears().await.starts_with("STOPPING=1"));
    for nowhere in ["/nonexistent/notify", "", &"x".repeat(200)] {
        let nobody = systemd(&[("NOTIFY_SOCKET", nowhere)]);
        assert!(!nobody.listens());
        nobody.ready();
    }
}

#[tokio::test]
async fn a_long_status_is_cut_between_characters() {
    let (manager, path) = Manager::at_path();
    systemd(&[("NOTIFY_SOCKET", &path)]).status(&"ü".repeat(300));
    assert_eq!(manager.hears().await, format!("STATUS={}", "ü".repeat(STATUS_MOST / 2)));
}

#[tokio::test]
async fn every_reload_is_told_from_its_beginning_to_its_end() {
    let (manager, path) = Manager::at_path();
    let (trigger, stop) = shutdown::channel();
    let reloads = ReloadCount::default();
    let told = systemd(&[("NOTIFY_SOCKET", &path)]);
    let following = tokio::spawn(told.clone().follow_reloads(reloads.follow(), stop));
    told.ready();
    assert_eq!(manager.hears().await, "READY=1");
    let mut last = 0;
    for slow in [true, false, true] {
        reloads.begin();
        if !slow {
            reloads.end();
        }
        let told = manager.hears().await;
        let usec: i128 = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&told).parse().unwrap();
        assert!(usec > last && usec <= now_usec());
        last = usec;
        if slow {
            assert!(!manager.hears_within(Duration::from_millis(50)).await, "not before its end");
            reloads.end();
        }
        assert_eq!(manager.hears().await, "READY=1");
    }
    trigger.fire();
    timeout(MOST, following).await.unwrap().unwrap();
}

/// A wall clock whose reading can be made to hang.
#[derive(Default)]
struct Hanging(Mutex<bool>, Condvar);

impl Hanging {
    fn hang(&self, hangs: bool) {
        *self.0.lock().unwrap() = hangs;
        self.1.notify_all();
    }
}

impl Wall for Hanging {
    fn now(&self) -> DateTime<Utc> {
        drop(self.1.wait_while(self.0.lock().unwrap(), |hangs| *hangs).unwrap());
        SystemWall.now()
    }
}

/// A test that fails must not wait for a thread that hangs.
struct LetGo(Arc<Hanging>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.hang(false);
    }
}

struct NoJournal;

impl Journal for NoJournal {
    fn append(&self, _: Vec<Record>) {}
}

#[tokio::test]
async fn a_dispatcher_that_stands_still_feeds_no_watchdog() {
    let (manager, path) = Manager::at_path();
    let pid = std::process::id().to_string();
    let told = systemd(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", &pid)]);
    let (wall, (trigger, stop)) = (Arc::new(Hanging::default()), shutdown::channel());
    let (due, _due_end) = mpsc::channel(1);
    let (_updates, updates) = mpsc::channel(1);
    let (_done, done) = mpsc::channel(1);
    let (_tick, tick) = mpsc::channel(1);
    let (_limit, max_in_flight) = watch::channel(1);
    let inputs = Inputs { updates, done, tick, max_in_flight };
    let dispatcher = Dispatcher::new(Arc::clone(&wall) as Arc<dyn Wall>, Arc::new(NoJournal), due, inputs);
    let stats = dispatcher.stats();
    // On a runtime of its own: a thread that hangs may be the one that looks after the timers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let its_stop = stop.clone();
    let running = tokio::task::spawn_blocking(move || runtime.block_on(dispatcher.run(its_stop)));
    let feeding = tokio::spawn(told.clone().keep_watchdog(move || stats.last_progress(), stop));

    assert!(!manager.hears_within(Duration::from_millis(300)).await, "not before READY");
    told.ready();
    assert_eq!(manager.hears().await, "READY=1");
    for _ in 0..20 {
        assert_eq!(manager.hears().await, "WATCHDOG=1");
    }
    let _let_go = LetGo(Arc::clone(&wall));
    wall.hang(true);
    let hung_at = Instant::now();
    while manager.hears_within(Duration::from_secs(1)).await {
        assert!(hung_at.elapsed() < MOST, "it is still fed");
    }
    wall.hang(false);
    assert_eq!(manager.hears().await, "WATCHDOG=1", "it moves again");
    trigger.fire();
    timeout(MOST, running).await.unwrap().unwrap();
    timeout(MOST, feeding).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watchdog_of_another_process_is_not_fed() {
    let (manager, path) = Manager::at_path();
    let told = systemd(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", "1")]);
    let (_trigger, stop) = shutdown::channel();
    told.ready();
    let _feeding = tokio::spawn(told.clone().keep_watchdog(Instant::now, stop));
    assert_eq!(manager.hears().await, "READY=1");
    assert!(!manager.hears_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn an_end_that_takes_long_feeds_the_watchdog() {
    let (manager, address) = Manager::at_path();
    let systemd_there = systemd(&[("NOTIFY_SOCKET", &address), ("WATCHDOG_USEC", "100000")]);
    let (done, ended) = tokio::sync::oneshot::channel();
    let hear = async {
        for _ in 0..3 {
            assert_eq!(manager.hears().await, "WATCHDOG=1");
        }
        done.send(7).unwrap();
    };
    let (heard, ()) = tokio::join!(systemd_there.while_ending(ended), hear);
    assert_eq!(heard, Ok(7));
    // Without a watchdog it only waits.
    assert_eq!(systemd(&[]).while_ending(async { 8 }).await, 8);
}
