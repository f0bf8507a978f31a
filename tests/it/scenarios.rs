//! What servers do, and what a check says of it: verdict, failure, phases. One row, one scenario.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use lamplighter::model::Failure;
use lamplighter::verdict::judge::judge;
use lamplighter::verdict::redact::Redactor;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::probing::{attempt, net, phases, prepare};
use crate::support::servers::dialogue::Datagrams;
use crate::support::servers::dns::{Ask, DnsServer};
use crate::support::servers::http::{Act, Request, Server, closed_port};
use crate::support::servers::http2::Http2Server;

mod dns;
mod http;
mod tcp;

/// What the far side does.
enum Serves {
    /// Nobody listens; a URL scheme.
    Nobody(&'static str),
    /// Nothing of ours: the whole URL.
    At(&'static str),
    /// HTTP: follows the acts after a request.
    Http(Vec<Act>),
    /// HTTP, by the path; and the path that is checked.
    Paths(&'static str, fn(&Request) -> Vec<Act>),
    /// The same as `Http` over TLS, with a certificate that signs itself.
    Https(Vec<Act>),
    /// HTTP/2 frames after a request.
    Http2(Vec<Act>),
    /// Speaks at once; a URL scheme.
    AtAccept(&'static str, Vec<Act>),
    /// Answers questions for `shop.test`.
    Dns(fn(&Ask) -> Vec<Message>),
    /// Answers datagrams.
    Udp(fn(&[u8]) -> Vec<Vec<u8>>),
}

struct Row {
    name: &'static str,
    serves: Serves,
    /// Keys of the monitor besides its URL.
    keys: Value,
    /// `up`, `degraded`, `down` or `unknown`, and the failure.
    verdict: &'static str,
    failure: Option<&'static str>,
    /// Reached, in order, joined by blanks.
    phases: &'static str,
    timeout: Duration,
}

fn row(name: &'static str, serves: Serves, wanted: &'static str, phases: &'static str) -> Row {
    let (verdict, failure) = wanted.split_once(' ').map_or((wanted, None), |(verdict, name)| (verdict, Some(name)));
    // What can only end by the deadline.
    let slow = failure.is_some_and(|name| name.ends_with("_timeout"));
    let timeout = Duration::from_secs(if slow { 1 } else { 15 });
    Row { name, serves, keys: json!({}), verdict, failure, phases, timeout }
}

impl Row {
    fn keys(mut self, keys: Value) -> Self {
        self.keys = keys;
        self
    }

    const fn slow(mut self) -> Self {
        self.timeout = Duration::from_secs(1);
        self
    }

    /// How it differs from what was wanted.
    async fn difference(self) -> Option<String> {
        let mut keys = self.keys.clone();
        let (url, _keep): (String, Box<dyn std::any::Any + Send>) = match self.serves {
            Serves::Nobody(scheme) => (format!("{scheme}://{}", closed_port().await), Box::new(())),
            Serves::At(url) => (url.to_owned(), Box::new(())),
            Serves::Http(acts) => {
                let server = Server::start(move |_| acts.clone()).await;
                (server.url("/"), Box::new(server))
            }
            Serves::Paths(path, script) => {
                let server = Server::start(script).await;
                (server.url(path), Box::new(server))
            }
            Serves::Https(acts) => {
                let server = Server::start_tls(move |_| acts.clone()).await;
                (format!("https://{}/", server.address), Box::new(server))
            }
            Serves::Http2(acts) => {
                keys["tls"] = json!({ "verify": false });
                let server = Http2Server::start(move |_| acts.clone()).await;
                (server.url(), Box::new(server))
            }
            Serves::AtAccept(scheme, acts) => {
                let server = Server::at_accept(acts).await;
                (format!("{scheme}://{}", server.address), Box::new(server))
            }
            Serves::Dns(script) => {
                let server = DnsServer::start(script).await;
                keys["resolver"] = json!(server.address.to_string());
                ("dns:shop.test".to_owned(), Box::new(server))
            }
            Serves::Udp(script) => {
                let server = Datagrams::start("127.0.0.1:0", script).await;
                (format!("udp://{}", server.address), Box::new(server))
            }
        };
        keys["url"] = json!(url);
        let prepared = prepare(&keys);
        let seen = attempt(&net(), &prepared, &keys, self.timeout).await;
        let judged = judge(&seen, &prepared.expect, &Redactor::default());
        let found = (judged.verdict.name(), judged.failure.map(Failure::name), phases(&seen).join(" "));
        let wanted = (self.verdict, self.failure, self.phases.to_owned());
        (found != wanted).then(|| format!("{found:?}, wanted {wanted:?}: {:?}", judged.message))
    }
}

fn table() -> Vec<Row> {
    [
        dns::rows(),
        tcp::rows(),
        http::rows(),
        http::broken_bodies(),
        http::redirects(),
        http::expectations(),
        http::http2(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[tokio::test]
async fn scenarios() {
    let (turns, mut running) = (Arc::new(Semaphore::new(16)), JoinSet::new());
    for row in table() {
        let turns = Arc::clone(&turns);
        running.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            let name = row.name;
            // A task of its own, so that a panic is a difference as well.
            let found = tokio::spawn(row.difference()).await.unwrap_or_else(|error| Some(error.to_string()));
            found.map(|difference| format!("{name}: {difference}"))
        });
    }
    let differing: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(differing.is_empty(), "{} scenarios differ:\n{}", differing.len(), differing.join("\n"));
}

#[test]
fn scenario_names_are_unique_and_failures_exist() {
    let rows = table();
    let names: HashSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len());
    assert!(rows.len() >= MIN_ROWS, "{} rows", rows.len());
    for row in &rows {
        assert!(row.failure.is_none_or(|name| Failure::from_name(name).is_some()), "{}", row.name);
    }
}

const MIN_ROWS: usize = 100;
