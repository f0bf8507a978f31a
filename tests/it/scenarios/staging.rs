//! One row of the table: how its far side is put up, and what must come of the check.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::Message;
use lamplighter::model::{Failure, Observation, Phase};
use lamplighter::probe::net::Net;
use lamplighter::verdict::judge::judge;
use lamplighter::verdict::redact::Redactor;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::probing::{attempt, net, net_with, phases, prepare};
use crate::support::servers::dialogue::{Datagrams, Dialogue, Turn};
use crate::support::servers::dns::{Ask, DnsServer};
use crate::support::servers::http::{Act, Request, Server, closed_port};
use crate::support::servers::http2::Http2Server;
use crate::support::servers::openssl::Files;
use crate::support::servers::tls::{Authority, Identity, TlsServer, config, leaf_params};

/// What the rows share: an authority that is trusted, and a network where every name is this host.
pub(super) struct Room {
    pub(super) root: Authority,
    folder: tempfile::TempDir,
    plain: Arc<Net>,
    names: OnceCell<(DnsServer, Arc<Net>)>,
    old: OnceCell<(Files, Arc<Net>)>,
}

impl Room {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            root: Authority::root("Test Root"),
            folder: tempfile::tempdir().unwrap(),
            plain: Arc::new(net()),
            names: OnceCell::new(),
            old: OnceCell::new(),
        })
    }

    async fn names(&self) -> &(DnsServer, Arc<Net>) {
        let make = || async {
            let server = DnsServer::start(|ask| vec![ask.answer(60, &["127.0.0.1"])]).await;
            let net = net_with(server.address, vec![self.root.write(&self.folder)]);
            (server, Arc::new(net))
        };
        self.names.get_or_init(make).await
    }

    /// Trusts the authority; every name is 127.0.0.1.
    pub(super) async fn trusting(&self) -> Arc<Net> {
        Arc::clone(&self.names().await.1)
    }

    /// Keys and certificates of `openssl`, and a network that trusts their root.
    pub(super) async fn old(&self) -> &(Files, Arc<Net>) {
        let make = || async {
            let files = Files::make(&self.folder).await;
            let net = net_with(self.names().await.0.address, vec![files.root.clone()]);
            (files, Arc::new(net))
        };
        self.old.get_or_init(make).await
    }

    /// A certificate for this host's address.
    pub(super) fn own(&self) -> Identity {
        self.root.issue(&leaf_params(&["127.0.0.1"]))
    }
}

/// What must hold of the far side after the check; none: nothing.
type Afterwards = Box<dyn FnOnce(&Observation) -> Option<String> + Send>;

/// A far side that is up.
pub(super) struct Made {
    /// Keys of the monitor, its URL among them.
    keys: Value,
    net: Option<Arc<Net>>,
    keep: Box<dyn Any + Send>,
    afterwards: Option<Afterwards>,
}

impl Made {
    pub(super) fn at(url: impl Into<String>, keep: impl Any + Send) -> Self {
        let url: String = url.into();
        Self { keys: json!({ "url": url }), net: None, keep: Box::new(keep), afterwards: None }
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys[key] = value.into();
        self
    }

    pub(super) fn through(mut self, net: Arc<Net>) -> Self {
        self.net = Some(net);
        self
    }

    pub(super) fn afterwards(mut self, holds: impl FnOnce(&Observation) -> Option<String> + Send + 'static) -> Self {
        self.afterwards = Some(Box::new(holds));
        self
    }
}

type Making = Box<dyn FnOnce(Arc<Room>) -> BoxFuture<'static, Made> + Send>;

/// What the far side does.
pub(super) enum Serves {
    /// Nobody listens; a URL scheme.
    Nobody(&'static str),
    /// Nothing of ours: the whole URL.
    At(&'static str),
    /// HTTP: follows the acts after a request.
    Http(Vec<Act>),
    /// HTTP, or what begins like it, by the request; the scheme, and the path that is checked.
    Asked(&'static str, &'static str, fn(&Request) -> Vec<Act>),
    /// The same as `Http` over TLS, with a certificate that signs itself; a URL scheme.
    Https(&'static str, Vec<Act>),
    /// HTTP/2 frames after a request; a URL scheme.
    Http2(&'static str, Vec<Act>),
    /// Speaks at once; a URL scheme.
    AtAccept(&'static str, Vec<Act>),
    /// A conversation that may go over to TLS with a certificate that is trusted; a URL scheme.
    Talks(&'static str, Vec<Turn>),
    /// This chain, to who comes for `shop.test`.
    Presents(Box<Identity>),
    /// Answers questions for `shop.test`.
    Dns(fn(&Ask) -> Vec<Message>),
    /// Answers datagrams.
    Udp(fn(&[u8]) -> Vec<Vec<u8>>),
    /// Anything else.
    Made(Making),
}

pub(super) fn made<F>(make: impl FnOnce(Arc<Room>) -> F + Send + 'static) -> Serves
where
    F: Future<Output = Made> + Send + 'static,
{
    Serves::Made(Box::new(move |room| Box::pin(make(room))))
}

impl Serves {
    async fn make(self, room: &Arc<Room>) -> Made {
        match self {
            Self::Nobody(scheme) => Made::at(format!("{scheme}://{}", closed_port().await), ()),
            Self::At(url) => Made::at(url, ()),
            Self::Http(acts) => {
                let server = Server::start(move |_| acts.clone()).await;
                Made::at(server.url("/"), server)
            }
            Self::Asked(scheme, path, script) => {
                let server = Server::start(script).await;
                Made::at(format!("{scheme}://{}{path}", server.address), server)
            }
            Self::Https(scheme, acts) => {
                let server = Server::start_tls(move |_| acts.clone()).await;
                Made::at(format!("{scheme}://{}", server.address), server)
            }
            Self::Http2(scheme, acts) => {
                let server = Http2Server::start(move |_| acts.clone()).await;
                let url = format!("{scheme}://{}", server.address);
                Made::at(url, server).with("tls", json!({ "verify": false }))
            }
            Self::AtAccept(scheme, acts) => {
                let server = Server::at_accept(acts).await;
                Made::at(format!("{scheme}://{}", server.address), server)
            }
            Self::Talks(scheme, turns) => {
                let server = Dialogue::start(turns, config(&room.own(), rustls::ALL_VERSIONS, None)).await;
                Made::at(format!("{scheme}://{}", server.address), server).through(room.trusting().await)
            }
            Self::Presents(identity) => {
                let server = TlsServer::start(config(&identity, rustls::ALL_VERSIONS, None)).await;
                let url = format!("tls://shop.test:{}", server.address.port());
                Made::at(url, server).with("ip_version", 4).through(room.trusting().await)
            }
            Self::Dns(script) => {
                let server = DnsServer::start(script).await;
                let resolver = server.address.to_string();
                Made::at("dns:shop.test", server).with("resolver", resolver)
            }
            Self::Udp(script) => {
                let server = Datagrams::start("127.0.0.1:0", script).await;
                Made::at(format!("udp://{}", server.address), server)
            }
            Self::Made(make) => make(Arc::clone(room)).await,
        }
    }
}

pub(super) struct Row {
    pub(super) name: String,
    serves: Serves,
    /// Keys of the monitor besides its URL.
    keys: Value,
    /// `up`, `degraded`, `down` or `unknown`, and the failure.
    verdict: &'static str,
    pub(super) failure: Option<&'static str>,
    /// Reached, in order, joined by blanks.
    phases: &'static str,
    timeout: Duration,
}

/// For what can only end by the deadline.
const SHORT: Duration = Duration::from_secs(1);
/// The phases of a check add up to its total within this time.
const APART: Duration = Duration::from_millis(1);
/// A check that reached no phase was decided without waiting for anybody; the processor may have been busy.
const AT_ONCE: Duration = Duration::from_millis(100);

pub(super) fn row(name: impl Into<String>, serves: Serves, wanted: &'static str, phases: &'static str) -> Row {
    let (verdict, failure) = wanted.split_once(' ').map_or((wanted, None), |(verdict, name)| (verdict, Some(name)));
    let slow = failure.is_some_and(|name| name.ends_with("_timeout"));
    let timeout = if slow { SHORT } else { Duration::from_secs(15) };
    Row { name: name.into(), serves, keys: json!({}), verdict, failure, phases, timeout }
}

impl Row {
    pub(super) fn keys(mut self, keys: Value) -> Self {
        self.keys = keys;
        self
    }

    pub(super) const fn slow(mut self) -> Self {
        self.timeout = SHORT;
        self
    }

    /// How it differs from what was wanted.
    pub(super) async fn difference(self, room: Arc<Room>) -> Option<String> {
        let Made { mut keys, net, keep, afterwards } = self.serves.make(&room).await;
        for (key, value) in self.keys.as_object().unwrap() {
            keys[key] = value.clone();
        }
        let prepared = prepare(&keys);
        let seen = attempt(net.as_ref().unwrap_or(&room.plain), &prepared, &keys, self.timeout).await;
        let judged = judge(&seen, &prepared.expect, &Redactor::default());
        let found = (judged.verdict.name(), judged.failure.map(Failure::name), phases(&seen).join(" "));
        let wanted = (self.verdict, self.failure, self.phases.to_owned());
        let sum: Duration = Phase::ALL.iter().filter_map(|phase| seen.timings.get(*phase)).sum();
        let difference = if found != wanted {
            Some(format!("{found:?}, wanted {wanted:?}: {:?}", judged.message))
        } else if judged.failure.is_some() && judged.message.is_none_or(|message| message.is_empty()) {
            Some("no sentence".to_owned())
        } else if seen.timings.total.abs_diff(sum) >= if self.phases.is_empty() { AT_ONCE } else { APART } {
            Some(format!("the phases do not add up: {:?}", seen.timings))
        } else {
            afterwards.and_then(|holds| holds(&seen))
        };
        drop(keep);
        difference
    }
}
