//! Phases beside those of curl on the same target.

use std::process::Command;
use std::time::Duration;

use lamplighter::model::{Observation, Phase};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::LONG;
use crate::support::probing::check;
use crate::support::servers::http::{Act, Server, answer, text};
use crate::support::servers::tls::RawServer;

const DELAY: Duration = Duration::from_millis(600);
/// Far less than the delay, far more than a busy machine adds.
const APART: Duration = Duration::from_millis(250);

/// connect, tls, send and wait, receive: what both can tell.
type Phases = [Duration; 4];

async fn curl(url: &str) -> Phases {
    const FORMAT: &str = "%{time_namelookup} %{time_connect} %{time_appconnect} %{time_starttransfer} %{time_total}";
    let mut command = Command::new("curl");
    command.args(["-sk", "--noproxy", "*", "-o", "/dev/null", "-w", FORMAT, url]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let times: Vec<Duration> = text.split(' ').map(|time| Duration::from_secs_f64(time.parse().unwrap())).collect();
    let [name, connect, tls, first, total] = times[..] else { panic!("{text}") };
    // Without TLS curl says 0.
    let ready = connect.max(tls);
    [connect.saturating_sub(name), ready - connect, first.saturating_sub(ready), total.saturating_sub(first)]
}

fn ours(seen: &Observation) -> Phases {
    assert_eq!(seen.fault, None);
    let time = |phase| seen.timings.get(phase).unwrap_or_default();
    [time(Phase::Connect), time(Phase::Tls), time(Phase::Send) + time(Phase::Wait), time(Phase::Receive)]
}

/// Waits, then connects through to the real one.
async fn late(to: std::net::SocketAddr) -> RawServer {
    RawServer::start(move |mut near| async move {
        tokio::time::sleep(DELAY).await;
        if let Ok(mut far) = TcpStream::connect(to).await {
            let _ = copy_bidirectional(&mut near, &mut far).await;
        }
    })
    .await
}

#[tokio::test]
async fn phases_are_those_of_curl() {
    let turn = crate::support::alone().await;
    let first_byte = || [vec![Act::Pause(DELAY)], answer("200 OK", "", b"x")].concat();
    let body = || vec![text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx"), Act::Pause(DELAY), text("y")];
    let plain = Server::start(|_| answer("200 OK", "", b"x")).await;
    let slow_first = Server::start(move |_| first_byte()).await;
    let slow_body = Server::start(move |_| body()).await;
    let tls = Server::start_tls(|_| answer("200 OK", "", b"x")).await;
    let tls_slow_first = Server::start_tls(move |_| first_byte()).await;
    let tls_slow_body = Server::start_tls(move |_| body()).await;
    let slow_handshake = late(tls.address).await;
    // The phase that is slow, by its place in `Phases`.
    for (url, slow) in [
        (plain.url("/"), None),
        (slow_first.url("/"), Some(2)),
        (slow_body.url("/"), Some(3)),
        (format!("https://{}/", tls.address), None),
        (format!("https://{}/", slow_handshake.address), Some(1)),
        (format!("https://{}/", tls_slow_first.address), Some(2)),
        (format!("https://{}/", tls_slow_body.address), Some(3)),
    ] {
        let seen = check(&json!({ "url": url, "tls": { "verify": false } }), LONG).await;
        let (ours, theirs) = (ours(&seen), curl(&url).await);
        for (index, (our, their)) in ours.iter().zip(theirs).enumerate() {
            assert!(our.abs_diff(their) < APART, "{url}, phase {index}: {ours:?}, curl {theirs:?}");
            assert_eq!(*our > DELAY - APART, slow == Some(index), "{url}, phase {index}: {ours:?}");
        }
    }
    drop(turn);
}
