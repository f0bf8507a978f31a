//! gRPC health checks: a real server, and servers of HTTP/2 that answer in every other way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use hyper::http::{HeaderMap, Request, Response};
use lamplighter::model::Failure::{self, *};
use lamplighter::model::Observation;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic_health::ServingStatus;

use crate::support::probing::{check, phases};
use crate::support::servers::http::{Act, Server, closed_port, text};
use crate::support::servers::tls::{config, leaf_params, self_signed};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);
const ALL: &[&str] = &["connect", "send", "wait", "receive"];
const TO_WAIT: &[&str] = &["connect", "send", "wait"];
/// A message that says SERVING.
const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";

fn monitor(address: SocketAddr, keys: &Value) -> Value {
    let mut monitor = keys.clone();
    monitor["url"] = json!(format!("grpc://{address}"));
    monitor
}

fn details(seen: &Observation) -> Value {
    serde_json::to_value(seen.details.as_ref().unwrap()).unwrap()
}

#[tokio::test]
async fn a_real_health_server() {
    let (reporter, service) = tonic_health::server::health_reporter();
    for (name, status) in [
        ("shop.Orders", ServingStatus::Serving),
        ("shop.Stock", ServingStatus::NotServing),
        ("shop.Later", ServingStatus::Unknown),
    ] {
        reporter.set_service_status(name, status).await;
    }
    let address = closed_port().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(tonic::transport::Server::builder().add_service(service).serve(address));
    crate::support::target::until("the server listens", LONG, async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
    for (keys, fault, details_wanted) in [
        (json!({}), None, json!({ "grpc_status": "OK", "serving_status": "SERVING" })),
        (json!({ "service": "shop.Orders" }), None, json!({ "grpc_status": "OK", "serving_status": "SERVING" })),
        (
            json!({ "service": "shop.Stock" }),
            Some(GrpcNotServing),
            json!({ "grpc_status": "OK", "serving_status": "NOT_SERVING" }),
        ),
        (
            json!({ "service": "shop.Later" }),
            Some(GrpcNotServing),
            json!({ "grpc_status": "OK", "serving_status": "UNKNOWN" }),
        ),
        (json!({ "service": "shop.Nothing" }), Some(GrpcNotServing), json!({ "grpc_status": "NOT_FOUND" })),
    ] {
        let seen = check(&monitor(address, &keys), LONG).await;
        let failure = seen.fault.as_ref().map(|fault| fault.failure);
        assert_eq!((failure, details(&seen)), (fault, details_wanted), "{keys}: {:?}", seen.fault);
        assert_eq!(phases(&seen), ALL);
        let http = seen.http.unwrap();
        assert_eq!((http.status, http.version), (200, "HTTP/2"));
    }
}

/// What a server of ours does with a call.
#[derive(Clone)]
enum Reply {
    /// A head of these headers, then the data, then trailers.
    Full(u16, &'static str, Vec<u8>, Vec<(&'static str, &'static str)>),
    /// A head only.
    Head(u16, Vec<(&'static str, &'static str)>),
    /// A head and endless data.
    Endless,
    /// A head and some data, and then nothing more.
    Stall,
    /// A head, some data, and a reset.
    Half(Reason),
    /// No head.
    Silence,
    Reset(Reason),
    GoAway(Reason),
    /// The connection is dropped.
    Cut,
}

#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(HeaderMap, String)>>>);

struct H2Server {
    address: SocketAddr,
    asked: Asked,
    _tasks: JoinSet<()>,
}

async fn server(reply: Reply, tls: Option<TlsAcceptor>) -> H2Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, mut tasks) = (Asked::default(), JoinSet::new());
    let log = asked.clone();
    tasks.spawn(async move {
        let mut sessions = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (reply, log, tls) = (reply.clone(), log.clone(), tls.clone());
            sessions.spawn(async move {
                match tls {
                    None => serve(stream, reply, log).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, reply, log).await;
                        }
                    }
                }
            });
        }
    });
    H2Server { address, asked, _tasks: tasks }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, reply: Reply, log: Asked) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut tasks = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        log.0.lock().unwrap().push((request.headers().clone(), request.uri().to_string()));
        match &reply {
            Reply::Cut => return,
            Reply::GoAway(reason) => connection.abrupt_shutdown(*reason),
            _ => {
                tasks.spawn(answer(request, respond, reply.clone()));
            }
        }
    }
}

fn head(status: u16, content_type: &str) -> Response<()> {
    let mut response = Response::builder().status(status);
    if !content_type.is_empty() {
        response = response.header("content-type", content_type);
    }
    response.body(()).unwrap()
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>, reply: Reply) {
    let grpc = || head(200, "application/grpc");
    match reply {
        Reply::Full(status, content_type, data, trailers) => {
            let mut stream = respond.send_response(head(status, content_type), false).unwrap();
            stream.send_data(data.into(), trailers.is_empty()).unwrap();
            if !trailers.is_empty() {
                stream.send_trailers(fields(&trailers)).unwrap();
            }
        }
        Reply::Head(status, headers) => {
            let mut response = head(status, "application/grpc");
            response.headers_mut().extend(fields(&headers));
            respond.send_response(response, true).unwrap();
        }
        Reply::Endless => {
            let mut stream = respond.send_response(grpc(), false).unwrap();
            loop {
                stream.reserve_capacity(4096);
                match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                    Some(Ok(room)) => stream.send_data(vec![0; room].into(), false).unwrap(),
                    _ => return,
                }
            }
        }
        Reply::Stall | Reply::Half(_) => {
            let mut stream = respond.send_response(grpc(), false).unwrap();
            stream.send_data(SERVING[..3].to_vec().into(), false).unwrap();
            match reply {
                Reply::Half(reason) => {
                    // A reset overtakes what is queued: the head must be out first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    stream.send_reset(reason);
                }
                _ => std::future::pending().await,
            }
        }
        Reply::Silence => std::future::pending().await,
        Reply::Reset(reason) => respond.send_reset(reason),
        Reply::GoAway(_) | Reply::Cut => {}
    }
    drop(request);
}

#[tokio::test]
async fn answers_of_every_sort() {
    let ok = || vec![("grpc-status", "0")];
    let serving = || SERVING.to_vec();
    let grpc = "application/grpc";
    let status = |code: &'static str| Reply::Head(200, vec![("grpc-status", code), ("grpc-message", "not%20now")]);
    let rows: Vec<(&str, Reply, Option<Failure>, &[&str])> = vec![
        ("serving", Reply::Full(200, grpc, serving(), ok()), None, ALL),
        ("serving, by name of its encoding", Reply::Full(200, "application/grpc+proto", serving(), ok()), None, ALL),
        ("unknown", Reply::Full(200, grpc, b"\0\0\0\0\0".to_vec(), ok()), Some(GrpcNotServing), ALL),
        ("not serving", Reply::Full(200, grpc, b"\0\0\0\0\x02\x08\x02".to_vec(), ok()), Some(GrpcNotServing), ALL),
        ("service unknown", Reply::Full(200, grpc, b"\0\0\0\0\x02\x08\x03".to_vec(), ok()), Some(GrpcNotServing), ALL),
        ("deadline exceeded", status("4"), Some(GrpcNotServing), ALL),
        ("not found", status("5"), Some(GrpcNotServing), ALL),
        ("permission denied", status("7"), Some(QueryFailed), ALL),
        ("unimplemented", status("12"), Some(GrpcNotServing), ALL),
        ("unavailable", status("14"), Some(GrpcNotServing), ALL),
        ("unauthenticated", status("16"), Some(QueryFailed), ALL),
        ("unheard status", status("99"), Some(GrpcNotServing), ALL),
        ("a status that is no number", status("fine"), Some(GrpcNotServing), ALL),
        (
            "status after a message",
            Reply::Full(200, grpc, serving(), vec![("grpc-status", "13")]),
            Some(GrpcNotServing),
            ALL,
        ),
        ("ok without a message", status("0"), Some(ExchangeMismatch), ALL),
        ("half a message", Reply::Full(200, grpc, SERVING[..6].to_vec(), ok()), Some(ExchangeMismatch), ALL),
        ("two messages", Reply::Full(200, grpc, SERVING.repeat(2), ok()), Some(ExchangeMismatch), ALL),
        ("compressed", Reply::Full(200, grpc, b"\x01\0\0\0\x02\x08\x01".to_vec(), ok()), Some(ExchangeMismatch), ALL),
        ("no protobuf", Reply::Full(200, grpc, b"\0\0\0\0\x01\xff".to_vec(), ok()), Some(ExchangeMismatch), ALL),
        ("no trailers", Reply::Full(200, grpc, serving(), vec![]), Some(HttpProtocol), ALL),
        ("trailers without status", Reply::Full(200, grpc, serving(), vec![("x", "y")]), Some(HttpProtocol), ALL),
        ("a web page", Reply::Full(200, "text/html", b"<p>".to_vec(), vec![]), Some(HttpProtocol), ALL),
        ("no content type", Reply::Full(200, "", serving(), ok()), Some(HttpProtocol), ALL),
        ("a gateway's error", Reply::Full(502, "text/html", b"<p>".to_vec(), vec![]), Some(StatusUnexpected), ALL),
        ("endless data", Reply::Endless, Some(BodyTooLarge), ALL),
        ("a stalled body", Reply::Stall, Some(BodyTimeout), ALL),
        ("given up in the body", Reply::Half(Reason::INTERNAL_ERROR), Some(BodyTruncated), ALL),
        ("silence", Reply::Silence, Some(ResponseTimeout), TO_WAIT),
        ("refused stream", Reply::Reset(Reason::REFUSED_STREAM), Some(ConnectionClosed), TO_WAIT),
        ("complaint", Reply::Reset(Reason::PROTOCOL_ERROR), Some(HttpProtocol), TO_WAIT),
        ("goaway", Reply::GoAway(Reason::NO_ERROR), Some(ConnectionClosed), TO_WAIT),
        ("goaway, complaining", Reply::GoAway(Reason::INADEQUATE_SECURITY), Some(HttpProtocol), TO_WAIT),
        ("cut", Reply::Cut, Some(ConnectionClosed), TO_WAIT),
    ];
    let runs = rows.into_iter().map(|(name, reply, wanted, reached)| async move {
        let timeout = if matches!(wanted, Some(ResponseTimeout | BodyTimeout)) { SHORT } else { LONG };
        let server = server(reply, None).await;
        let seen = check(&monitor(server.address, &json!({})), timeout).await;
        let failure = seen.fault.as_ref().map(|fault| fault.failure);
        assert_eq!((failure, &*phases(&seen)), (wanted, reached), "{name}: {:?}", seen.fault);
    });
    futures_util::future::join_all(runs).await;
    let server = server(status("5"), None).await;
    let seen = check(&monitor(server.address, &json!({ "service": "a.B" })), LONG).await;
    let message = seen.fault.unwrap().message;
    assert!(message.ends_with("NOT_FOUND, \"not now\": it does not know the service \"a.B\""), "{message}");
}

#[tokio::test]
async fn the_request_is_a_calls() {
    let server = server(Reply::Full(200, "application/grpc", SERVING.to_vec(), vec![("grpc-status", "0")]), None).await;
    let keys = json!({ "auth": { "bearer": "token" }, "headers": { "X-Tenant": "a" } });
    assert_eq!(check(&monitor(server.address, &keys), LONG).await.fault, None);
    let (headers, uri) = server.asked.0.lock().unwrap().remove(0);
    assert_eq!(uri, format!("http://{}/grpc.health.v1.Health/Check", server.address));
    let timeout = headers["grpc-timeout"].to_str().unwrap().strip_suffix('m').unwrap().parse::<u64>().unwrap();
    assert!((15_000..=20_000).contains(&timeout), "{timeout}");
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", "Bearer token"),
        ("x-tenant", "a"),
        ("user-agent", "lamplighter-test/1"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_http2() {
    // SETTINGS, then a flood of PINGs, or of SETTINGS.
    let settings = b"\0\0\0\x04\0\0\0\0\0".to_vec();
    let ping = [&b"\0\0\x08\x06\0\0\0\0\0"[..], &[7; 8]].concat();
    let rows: Vec<(&str, Duration, Vec<Act>, Failure)> = vec![
        ("a web server", LONG, vec![text("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")], HttpProtocol),
        ("a web server that waits", SHORT, vec![text("HTTP/1.1 "), Act::Hang], HttpProtocol),
        ("a TLS port", LONG, vec![Act::Send(vec![0x15, 3, 3, 0, 2, 2, 70])], HttpProtocol),
        ("a greeting", LONG, vec![text("220 mail.example ESMTP ready\r\n"), Act::Hang], HttpProtocol),
        ("endless pings", LONG, vec![Act::Send(settings.clone()), Act::Endless(ping.repeat(200))], HttpProtocol),
        ("endless settings", LONG, vec![Act::Endless(settings.repeat(200))], HttpProtocol),
        ("silence", SHORT, vec![Act::Hang], ResponseTimeout),
        ("settings and silence", SHORT, vec![Act::Send(settings), Act::Hang], ResponseTimeout),
        ("closed", LONG, vec![], ConnectionClosed),
    ];
    let runs = rows.into_iter().map(|(name, timeout, acts, wanted)| async move {
        let server = Server::at_accept(acts).await;
        let seen = check(&monitor(server.address, &json!({})), timeout).await;
        let fault = seen.fault.unwrap_or_else(|| panic!("{name}: up"));
        assert_eq!(fault.failure, wanted, "{name}: {fault:?}");
    });
    futures_util::future::join_all(runs).await;
    let refused = check(&monitor(closed_port().await, &json!({})), LONG).await;
    assert_eq!(refused.fault.unwrap().failure, ConnectRefused);
    let blocked = check(&json!({ "url": "grpc://169.254.169.254:1" }), LONG).await;
    assert_eq!(blocked.fault.unwrap().failure, EgressBlocked);
}

#[tokio::test]
async fn grpcs_needs_h2_by_alpn() {
    let reply = Reply::Full(200, "application/grpc", SERVING.to_vec(), vec![("grpc-status", "0")]);
    for (protocols, fault) in
        [(&["h2", "http/1.1"][..], None), (&[], Some(TlsHandshake)), (&["http/1.1"], Some(TlsHandshake))]
    {
        let identity = self_signed(&leaf_params(&["127.0.0.1"]));
        let mut config = config(&identity, rustls::ALL_VERSIONS, None);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let server = server(reply.clone(), Some(TlsAcceptor::from(Arc::new(config)))).await;
        let url = format!("grpcs://{}", server.address);
        let seen = check(&json!({ "url": url, "tls": { "verify": false } }), LONG).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{protocols:?}: {:?}", seen.fault);
        assert_eq!(phases(&seen)[..2], ["connect", "tls"]);
        let strict = check(&json!({ "url": url }), LONG).await.fault.unwrap().failure;
        // A server that finds no common protocol says so before it shows its certificate.
        assert_eq!(strict, if protocols == ["http/1.1"] { TlsHandshake } else { CertUntrusted });
    }
}
