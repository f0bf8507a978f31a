//! HTTPS, and what becomes of it when a certificate or a connection is not as it should be.

use lamplighter::model::Failure::*;
use serde_json::json;

use super::redirects::redirect;
use super::{LONG, monitor};
use crate::support::probing::{check, phases};
use crate::support::servers::http::{Act, Server, answer, text};

#[tokio::test]
async fn https_and_the_way_down() {
    let plain = Server::start(|_| answer("200 OK", "", b"plain")).await;
    let target = plain.url("/");
    let secure = Server::start_tls(move |request| match request.path() {
        "/down" => redirect("302 Found", &target),
        _ => answer("200 OK", "", b"secure"),
    })
    .await;
    let url = |path: &str| format!("https://{}{path}", secure.address);
    let keys = json!({ "tls": { "verify": false } });
    let seen = check(&monitor(&url("/"), &keys), LONG).await;
    assert_eq!(seen.fault, None);
    assert_eq!(phases(&seen), ["connect", "tls", "send", "wait", "receive"]);
    assert_eq!(&seen.http.unwrap().body[..], b"secure");
    assert_eq!(seen.certificate.unwrap().chain_length, 1);

    let seen = check(&monitor(&url("/down"), &keys), LONG).await;
    assert_eq!(seen.fault.unwrap().failure, RedirectBlocked);
    let keys = json!({ "tls": { "verify": false }, "redirect_downgrade": true });
    let seen = check(&monitor(&url("/down"), &keys), LONG).await;
    assert_eq!((seen.fault, seen.certificate), (None, None));
    assert_eq!(&seen.http.unwrap().body[..], b"plain");

    let seen = check(&monitor(&url("/"), &json!({})), LONG).await;
    assert_eq!(seen.fault.clone().unwrap().failure, CertUntrusted);
    assert!(seen.certificate.is_some());
    assert_eq!(phases(&seen), ["connect", "tls"]);
    let seen = check(&json!({ "url": format!("http://{}/", secure.address) }), LONG).await;
    let fault = seen.fault.unwrap();
    assert_eq!(fault.failure, HttpProtocol);
    assert!(fault.message.contains("speaks TLS"), "{}", fault.message);
    let plain = Server::at_accept(answer("400 Bad Request", "", b"")).await;
    let seen = check(&json!({ "url": format!("https://{}/", plain.address) }), LONG).await;
    assert_eq!(seen.fault.unwrap().failure, TlsHandshake);
}

#[tokio::test]
async fn tls_that_ends_badly() {
    let keys = json!({ "tls": { "verify": false } });
    let ask = async |server: &Server| check(&monitor(&format!("https://{}/", server.address), &keys), LONG).await;
    // TLS 1.3 lets a client send before the server has looked for its certificate.
    let seen = ask(&Server::start_tls_for_members(|_| answer("200 OK", "", b"")).await).await;
    assert_eq!(seen.fault.clone().unwrap().failure, TlsHandshake, "{:?}", seen.fault);
    // RFC 9112, 9.8: without a length, only close_notify says that a body is whole.
    let seen = ask(&Server::start_tls(|_| vec![text("HTTP/1.1 200 OK\r\n\r\nabc"), Act::Reset]).await).await;
    assert_eq!(seen.fault.unwrap().failure, BodyTruncated);
    let seen = ask(&Server::start_tls(|_| vec![text("HTTP/1.1 200 OK\r\n\r\nabc")]).await).await;
    assert_eq!((seen.fault, &seen.http.unwrap().body[..]), (None, &b"abc"[..]));
}
