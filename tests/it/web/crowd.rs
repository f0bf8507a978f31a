//! A crowd that attacks the admin server costs no check its time, and keeps no health check out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{admin_token, daemon, get};
use crate::daemon::{monitor, on};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

const MONITORS: usize = 20;
/// Under attack.
const SECONDS: usize = 12;
const IDLERS: usize = 5_000;

/// Descriptors for the crowd, as far as the system lets us; how many of them are idlers.
fn idlers() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let most = limit.current.map_or(IDLERS, |most| usize::try_from(most).unwrap_or(IDLERS).saturating_sub(1_000));
    most.min(IDLERS)
}

struct Crowd {
    address: String,
    on: AtomicBool,
    opened: AtomicUsize,
    refused: AtomicUsize,
}

impl Crowd {
    fn goes_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    async fn open(&self) -> Option<TcpStream> {
        let stream = timeout(Duration::from_secs(5), TcpStream::connect(&self.address)).await.ok()?.ok();
        self.opened.fetch_add(usize::from(stream.is_some()), Ordering::Relaxed);
        stream
    }

    /// Connects, says nothing, and comes back when it was sent away.
    async fn idle(&self) {
        while self.goes_on() {
            match self.open().await {
                Some(mut stream) => drop(timeout(Duration::from_secs(20), stream.read(&mut [0; 64])).await),
                None => sleep(Duration::from_millis(100)).await,
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// A request, byte by byte.
    async fn drip(&self) {
        while self.goes_on() {
            let Some(mut stream) = self.open().await else { continue };
            for byte in b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyy".iter().cycle() {
                if !self.goes_on() || stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(250)).await;
            }
        }
    }

    /// 100 MB, with and without saying so.
    async fn pour(&self, head: &str) {
        let megabyte = vec![b'x'; 1 << 20];
        while self.goes_on() {
            let Some(mut stream) = self.open().await else { continue };
            let pour = async {
                stream
                    .write_all(format!("POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\n{head}\r\n").as_bytes())
                    .await?;
                for _ in 0..100 {
                    stream.write_all(b"100000\r\n").await?;
                    stream.write_all(&megabyte).await?;
                    stream.write_all(b"\r\n").await?;
                }
                std::io::Result::Ok(())
            };
            let poured = timeout(Duration::from_secs(20), pour).await;
            self.refused.fetch_add(usize::from(matches!(poured, Ok(Err(_)))), Ordering::Relaxed);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_beat_is_missed_under_attack() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let monitors: String = (0..MONITORS).map(|n| monitor(&format!("m{n}"), &target.url(&format!("/{n}")))).collect();
    let home = Home::new(&on(&db.url, &monitors));
    let (mut daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    let crowd = Arc::new(Crowd {
        address: address.strip_prefix("http://").unwrap().to_owned(),
        on: AtomicBool::new(true),
        opened: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let mut clients = JoinSet::new();
    let number = idlers();
    for n in 0..number {
        let crowd = Arc::clone(&crowd);
        // All within two seconds.
        clients.spawn(async move {
            sleep(Duration::from_micros(n as u64 * 400)).await;
            crowd.idle().await;
        });
    }
    for _ in 0..100 {
        let crowd = Arc::clone(&crowd);
        clients.spawn(async move { crowd.drip().await });
    }
    let authorized = format!("authorization: Bearer {token}\r\n");
    for head in ["content-length: 104857600\r\n".to_owned(), "transfer-encoding: chunked\r\n".to_owned()] {
        for head in [head.clone(), format!("{authorized}{head}")] {
            let crowd = Arc::clone(&crowd);
            clients.spawn(async move { crowd.pour(&head).await });
        }
    }
    until("the crowd is there", Duration::from_secs(30), async || {
        (crowd.opened.load(Ordering::Relaxed) > number).then_some(())
    })
    .await;
    let began = chrono::Utc::now();
    let mut slowest = Duration::ZERO;
    let mut asked = 0;
    while (chrono::Utc::now() - began).num_seconds() < i64::try_from(SECONDS).unwrap() {
        let at = Instant::now();
        let answer = timeout(Duration::from_secs(5), get(&address, "", "/healthz")).await.expect("health gets in");
        assert_eq!(answer.status, 200);
        assert_eq!(
            timeout(Duration::from_secs(5), get(&address, &token, "/api/v1/monitors")).await.unwrap().status,
            200
        );
        slowest = slowest.max(at.elapsed());
        assert!(daemon.try_overview().is_some(), "the own socket answers");
        asked += 1;
        sleep(Duration::from_millis(100)).await;
    }
    let ended = chrono::Utc::now();
    crowd.on.store(false, Ordering::Relaxed);
    let (opened, refused) = (crowd.opened.load(Ordering::Relaxed), crowd.refused.load(Ordering::Relaxed));
    clients.shutdown().await;
    let mut worst = 0;
    for (path, times) in target.times() {
        let beats: Vec<_> = times.into_iter().filter(|at| *at >= began && *at <= ended).collect();
        assert!((SECONDS - 1..=SECONDS + 3).contains(&beats.len()), "{path} had {} beats in {SECONDS} s", beats.len());
        for pair in beats.windows(2) {
            let off = ((pair[1] - pair[0]).num_milliseconds() - 1000).abs();
            assert!(off < 900, "{path}: two beats are {} apart", pair[1] - pair[0]);
            worst = worst.max(off);
        }
    }
    println!(
        "{number} idlers, {opened} connections, {refused} pours cut off; {asked} rounds of health and API, slowest {slowest:?}; \
         worst interval off by {worst} ms"
    );
    assert!(refused > 4 && asked > 5);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_gaps").await, 0);
    assert!(daemon.stop().await.success());
}
