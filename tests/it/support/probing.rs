//! Makes one check of a monitor given as JSON, with a network layer of its own.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Utc;
use lamplighter::model::{Observation, Phase};
use lamplighter::probe::kinds;
use lamplighter::probe::net::{EgressOptions, Net, NetOptions};
use lamplighter::probe::{Prepared, ProbeContext};
use lamplighter::settings::diagnostic::{Findings, render};
use lamplighter::settings::proxy::Proxy;
use lamplighter::settings::reader::{Origin, TableReader};
use lamplighter::settings::tree::Table;
use serde_json::Value;
use tokio::time::Instant;

/// Cap on bodies in these tests.
pub const MAX_BODY: usize = 64 * 1024;

pub fn net() -> Net {
    net_with("127.0.0.1:9".parse().unwrap(), Vec::new())
}

/// A network layer that asks this name server, and trusts these roots besides the system's.
pub fn net_with(resolver: SocketAddr, ca_files: Vec<PathBuf>) -> Net {
    net_of(resolver, ca_files, EgressOptions::default())
}

/// The same with rules of egress.
pub fn net_of(resolver: SocketAddr, ca_files: Vec<PathBuf>, egress: EgressOptions) -> Net {
    Net::new(NetOptions {
        resolvers: vec![resolver],
        ca_files,
        egress,
        user_agent: "lamplighter-test/1".to_owned(),
        max_body: MAX_BODY,
    })
    .unwrap()
}

/// Prepares a monitor of the file.
pub fn prepare(monitor: &Value) -> Prepared {
    prepare_as(true, monitor)
}

/// Prepares a monitor of the file, or of a row, which is not trusted.
pub fn prepare_as(trusted: bool, monitor: &Value) -> Prepared {
    let own = Table::from_json(monitor.as_object().unwrap());
    let origin = Origin { trusted, env: &|_| None, base: Path::new("/"), credentials: None };
    let (findings, secrets) = (Findings::default(), RefCell::new(Vec::new()));
    let mut reader = TableReader::new(&own, None, "", &origin, &findings, &secrets);
    let text = reader.string("url").unwrap();
    let kind = kinds::by_scheme(text.split_once(':').unwrap().0).unwrap();
    let url = kind.form.parse(&text).unwrap();
    let prepared = (kind.prepare)(&url, &mut reader);
    reader.finish(&|_| None);
    let found: Vec<String> = findings.into_sorted().0.iter().map(|finding| render(finding, &[])).collect();
    assert!(found.is_empty(), "{monitor}: {found:?}");
    prepared.unwrap()
}

/// One attempt. What must hold of every observation is looked at here.
pub async fn check(monitor: &Value, timeout: Duration) -> Observation {
    check_by(&net(), monitor, timeout).await
}

/// The same through a given network layer.
pub async fn check_by(net: &Net, monitor: &Value, timeout: Duration) -> Observation {
    attempt(net, &prepare(monitor), monitor, timeout).await
}

/// The same with `probe.proxy`.
pub async fn check_with(monitor: &Value, proxy: Option<&str>, timeout: Duration) -> Observation {
    attempt(&net().with_proxy(proxy.map(read_proxy)), &prepare(monitor), monitor, timeout).await
}

/// The same for a monitor of the database, which may be bound to global addresses.
pub async fn check_row(monitor: &Value, proxy: Option<&str>, public_only: bool, timeout: Duration) -> Observation {
    let egress = EgressOptions { rows_public_only: public_only, ..EgressOptions::default() };
    let net = net_of("127.0.0.1:9".parse().unwrap(), Vec::new(), egress).with_proxy(proxy.map(read_proxy));
    attempt(&net, &prepare_as(false, monitor), monitor, timeout).await
}

fn read_proxy(text: &str) -> Proxy {
    let object = serde_json::json!({ "proxy": text });
    let own = Table::from_json(object.as_object().unwrap());
    let origin = Origin { trusted: true, env: &|_| None, base: Path::new("/"), credentials: None };
    let (findings, secrets) = (Findings::default(), RefCell::new(Vec::new()));
    Proxy::read(&mut TableReader::new(&own, None, "", &origin, &findings, &secrets)).unwrap()
}

/// The same of a prepared monitor; `monitor` is for messages.
pub async fn attempt(net: &Net, prepared: &Prepared, monitor: &Value, timeout: Duration) -> Observation {
    let begin = Instant::now();
    let context = ProbeContext { net, deadline: begin + timeout, started_at: Utc::now() };
    let seen = prepared.probe.probe(&context).await;
    let took = begin.elapsed();
    assert!(took < timeout + Duration::from_secs(1), "{monitor}: took {took:?}");
    assert!(seen.timings.total <= took, "{monitor}: {:?}", seen.timings);
    let reached: Vec<Duration> = Phase::ALL.iter().filter_map(|phase| seen.timings.get(*phase)).collect();
    if !reached.is_empty() {
        let apart = seen.timings.total.abs_diff(reached.iter().sum());
        assert!(apart < Duration::from_millis(1), "{monitor}: {:?}", seen.timings);
    }
    seen
}

/// The phases that were reached, by name.
pub fn phases(seen: &Observation) -> Vec<&'static str> {
    Phase::ALL.iter().filter(|phase| seen.timings.get(**phase).is_some()).map(|phase| phase.name()).collect()
}
