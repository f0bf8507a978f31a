//! Whole probes against a server of this process: where they connect to, and what they make of what it says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::sync::OnceLock;
use std::time::Duration;

use chrono::DateTime;
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::wire::{deadline, on_runtime};
use super::{monitor, parts, toml};
use crate::model::{Failure, Observation};
use crate::probe::kinds::{KINDS, by_scheme};
use crate::probe::net::{EgressOptions, Net, NetOptions, Profile};
use crate::probe::{Prepared, ProbeContext};
use crate::settings::target;
use crate::settings::tree::Table;

/// Kinds that connect to the host and port of their URL, and to nothing else.
const DIALLING: [&str; 13] =
    ["amqp", "grpc", "http", "mongodb", "mqtt", "mysql", "postgres", "redis", "ssh", "starttls", "tcp", "tls", "ws"];

/// Sockets of this process, and a network layer whose name server is one of them.
struct Here {
    listener: StdListener,
    names: StdUdp,
    port: u16,
    net: Net,
}

fn here() -> &'static Here {
    static HERE: OnceLock<Here> = OnceLock::new();
    HERE.get_or_init(|| {
        // Both versions of IP, and every address of loopback.
        let listener = StdListener::bind("[::]:0").unwrap();
        let names = StdUdp::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        names.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        let egress = EgressOptions {
            allow: nets(&["127.0.0.0/8", "::1/128"]),
            deny: nets(&["0.0.0.0/0", "::/0", "127.64.0.0/10"]),
            rows_public_only: false,
            own: vec![SocketAddr::from((OWN, port))],
        };
        let options = NetOptions {
            resolvers: vec![names.local_addr().unwrap()],
            ca_files: Vec::new(),
            egress,
            user_agent: "fuzz".to_owned(),
            max_body: 16 * 1024,
        };
        Here { listener, names, port, net: Net::new(options).unwrap() }
    })
}

/// A listener that monitors of rows never reach.
const OWN: Ipv4Addr = Ipv4Addr::new(127, 1, 1, 1);

/// What the configuration above means, said in another way.
fn allowed(ip: IpAddr, profile: Profile) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip == OWN && profile == Profile::Rows => false,
        IpAddr::V4(ip) => matches!(ip.octets(), [127, 0..64 | 128.., _, _]),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}

/// `URL LF how LF addresses`: what was dialled is what the guard allows, and what the guard allows is dialled.
///
/// `how` has a bit for a monitor of a row. `addresses` are what the name server answers: a byte, of which the lowest bit
/// says the version, and the address.
pub fn dial(bytes: &[u8]) {
    let (url, rest) = parts(bytes, b'\n');
    let Ok(text) = std::str::from_utf8(url) else { return };
    let (how, addresses) = rest.split_first().map_or((0, rest), |(how, addresses)| (*how, addresses));
    let profile = if how & 1 == 0 { Profile::File } else { Profile::Rows };
    let Ok((mut url, kind)) = target::parse(text, text, KINDS, &[]) else { return };
    if !DIALLING.contains(&kind.name) {
        return;
    }
    let here = here();
    if url.set_port(Some(here.port)).is_err() {
        return;
    }
    let Some(table) = toml(r#"url = "x""#) else { return };
    let (prepared, complaints) = monitor(&table, profile == Profile::File, |reader| (kind.prepare)(&url, reader));
    let Some(prepared) = prepared else {
        return assert!(!complaints.is_empty(), "refused without a word");
    };
    let answers = read_addresses(addresses);
    let (seen, reached) = on_runtime(async {
        let listener = TcpListener::from_std(here.listener.try_clone().unwrap()).unwrap();
        let names = UdpSocket::from_std(here.names.try_clone().unwrap()).unwrap();
        let mut reached = Vec::new();
        let accept = async {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                reached.push(stream.local_addr().unwrap().ip().to_canonical());
                abort(stream);
            }
        };
        let seen = tokio::select! {
            biased;
            seen = run(&prepared) => seen,
            () = accept => unreachable!("it never ends"),
            () = name_server(&names, &answers) => unreachable!("it never ends"),
        };
        while let Ok((stream, _)) = here.listener.accept() {
            reached.push(stream.local_addr().unwrap().ip().to_canonical());
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        (seen, reached)
    });
    for ip in &reached {
        assert!(allowed(*ip, profile), "{url} reached {ip}, which is forbidden");
    }
    let failure = seen.fault.as_ref().map(|fault| fault.failure);
    let said = seen.address.map(|address| (address.ip().to_canonical(), address.port()));
    let unasked = [Some(Failure::DnsNoRecords), Some(Failure::ObserverOffline)].contains(&failure);
    match said.filter(|_| !unasked) {
        Some((ip, port)) => {
            assert_eq!(port, here.port);
            assert_eq!(failure == Some(Failure::EgressBlocked), !allowed(ip, profile), "{url}: {ip}: {failure:?}");
            assert_eq!(reached.contains(&ip), allowed(ip, profile), "{url}: {ip} of {reached:?}: {failure:?}");
        }
        None => assert!(reached.is_empty() || unasked, "{url} reached {reached:?} and does not say so: {failure:?}"),
    }
}

async fn run(prepared: &Prepared) -> Observation {
    let context = ProbeContext { net: &here().net, deadline: deadline(), started_at: DateTime::UNIX_EPOCH };
    prepared.probe.probe(&context).await
}

/// Leaves no TIME_WAIT behind, which would use up the ports within seconds.
fn abort(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

fn read_addresses(mut bytes: &[u8]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    while let Some((version, rest)) = bytes.split_first()
        && found.len() < 8
    {
        let (ip, rest) = match (version & 1, rest.split_first_chunk::<4>(), rest.split_first_chunk::<16>()) {
            (0, Some((v4, rest)), _) => (IpAddr::from(*v4), rest),
            (1, _, Some((v6, rest))) => (IpAddr::from(*v6), rest),
            _ => break,
        };
        found.push(ip);
        bytes = rest;
    }
    found
}

/// Answers every question with these addresses, which nobody may keep.
async fn name_server(socket: &UdpSocket, addresses: &[IpAddr]) {
    let mut space = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut space).await else { continue };
        let Ok(query) = Message::from_vec(space.get(..length).unwrap_or_default()) else { continue };
        let Some(question) = query.queries.first() else { continue };
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.add_query(question.clone());
        let fits = |data: RData| (data.record_type() == question.query_type()).then_some(data);
        for ip in addresses {
            let data = match ip {
                IpAddr::V4(ip) => fits(RData::A((*ip).into())),
                IpAddr::V6(ip) => fits(RData::AAAA((*ip).into())),
            };
            answer.add_answers(data.map(|data| Record::from_rdata(question.name().clone(), 0, data)));
        }
        if let Ok(bytes) = answer.to_vec() {
            let _ = socket.send_to(&bytes, from).await;
        }
    }
}

/// Monitors of [`dialogue`], all of hosts that the listener is.
const MONITORS: [&str; 14] = [
    "url = 'redis://127.0.0.1'\nauth = { basic = { password = 's3cr3t!' } }",
    "url = 'postgres://u@127.0.0.1/d'",
    "url = 'mysql://u@127.0.0.1/d'",
    "url = 'mongodb://127.0.0.1'",
    "url = 'mqtt://127.0.0.1'",
    "url = 'amqp://127.0.0.1'",
    "url = 'ssh://127.0.0.1'",
    "url = 'starttls+smtp://127.0.0.1'",
    "url = 'starttls+imap://127.0.0.1'",
    "url = 'starttls+pop3://127.0.0.1'",
    "url = 'starttls+ftp://127.0.0.1'",
    "url = 'starttls+xmpp://127.0.0.1'",
    "url = 'ws://127.0.0.1'",
    "url = 'grpc://127.0.0.1'",
];

/// The first byte names a protocol, and the rest is what its server says: the verdict is the far side's, has a sentence,
/// and does not depend on the pieces in which the words come.
pub fn dialogue(bytes: &[u8]) {
    let Some((which, words)) = bytes.split_first() else { return };
    let words = words.get(..512).unwrap_or(words);
    let Some(table) = toml(MONITORS[usize::from(*which) % MONITORS.len()]) else { return };
    let [whole, single] = [words.len().max(1), 1].map(|step| answered(&table, words, step));
    assert_eq!(whole, single, "in one piece, and byte by byte");
}

fn answered(table: &Table, words: &[u8], step: usize) -> Option<Failure> {
    let here = here();
    let own = table.to_json(&[]);
    let text = own.get("url").and_then(serde_json::Value::as_str).unwrap_or_default();
    let kind = by_scheme(text.split(':').next().unwrap_or_default()).unwrap();
    let mut url = kind.form.parse(text).map_err(|_| "no URL").unwrap();
    url.set_port(Some(here.port)).unwrap();
    let (prepared, complaints) = monitor(table, true, |reader| (kind.prepare)(&url, reader));
    let Some(prepared) = prepared else { unreachable!("{text}: {complaints:?}") };
    let seen = on_runtime(async {
        let listener = TcpListener::from_std(here.listener.try_clone().unwrap()).unwrap();
        let serve = async {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                for piece in words.chunks(step) {
                    let _ = stream.write_all(piece).await;
                }
                let _ = stream.shutdown().await;
                // Until the other side has gone, so that nothing that it has not read is lost.
                let mut space = vec![0; 4096];
                while matches!(stream.read(&mut space).await, Ok(1..)) {}
                abort(stream);
            }
        };
        tokio::select! {
            biased;
            seen = run(&prepared) => seen,
            () = serve => unreachable!("it never ends"),
        }
    });
    let fault = seen.fault.as_ref();
    assert!(fault.is_none_or(|fault| fault.failure != Failure::Internal && !fault.message.is_empty()), "{fault:?}");
    assert!(fault.is_none_or(|fault| fault.message.len() < 4096), "{fault:?}");
    let sum: Duration = crate::model::Phase::ALL.iter().filter_map(|phase| seen.timings.get(*phase)).sum();
    assert!(sum <= seen.timings.total + Duration::from_millis(1), "{:?}", seen.timings);
    fault.map(|fault| fault.failure)
}
