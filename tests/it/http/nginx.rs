//! A real server.

use lamplighter::model::Failure::*;
use lamplighter::model::Observation;
use serde_json::{Value, json};

use super::{LONG, SHORT, monitor, reading};
use crate::support::nginx::Nginx;
use crate::support::probing::check;

#[tokio::test]
async fn a_real_server() {
    let nginx = Nginx::start().await;
    let gzip = json!({ "headers": { "Accept-Encoding": "gzip" }, "expect": { "body_contains": "x" } });
    let keep = json!({ "headers": { "Connection": "keep-alive" } });
    for (path, keys, status, redirects, fault) in [
        ("/page", json!({}), Some(200), 0, None),
        ("/page", gzip, Some(200), 0, None),
        ("/page", keep, Some(200), 0, None),
        ("/page", json!({ "method": "HEAD" }), Some(200), 0, None),
        ("/missing", json!({}), Some(404), 0, None),
        ("/folder", json!({}), Some(403), 1, None),
        ("/large", json!({}), Some(200), 0, None),
        ("/large", reading(), Some(200), 0, Some(BodyTooLarge)),
        ("/silent", json!({}), None, 0, Some(ConnectionClosed)),
        ("/turn", json!({}), Some(301), 1, Some(RedirectLoop)),
        ("/page", json!({ "method": "POST", "body": "a=b" }), Some(405), 0, None),
    ] {
        let seen = check(&monitor(&nginx.url(path), &keys), LONG).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{path} {keys}: {:?}", seen.fault);
        assert_eq!(seen.http.as_ref().map(|http| http.status), status, "{path} {keys}");
        assert_eq!(seen.http.as_ref().map_or(0, |http| http.redirects), redirects, "{path} {keys}");
        if keys["headers"]["Accept-Encoding"] == "gzip" {
            let http = seen.http.unwrap();
            assert_eq!(&http.body[..], "x".repeat(20_000).as_bytes());
            assert!(http.body_bytes < 1000, "it was compressed");
        }
    }
    let seen = check(&json!({ "url": nginx.url("/slow") }), SHORT).await;
    assert_eq!(seen.fault.unwrap().failure, BodyTimeout);
}

#[tokio::test]
async fn a_real_server_and_the_keys_about_trust() {
    let nginx = Nginx::start().await;
    let path = |name: &str| nginx.folder.path().join(name);
    let client = json!({ "verify": false, "client_certificate": path("client.pem"), "client_key": path("client.key") });
    let ask = async |address: std::net::SocketAddr, keys: Value| {
        check(&monitor(&format!("https://{address}/"), &keys), LONG).await
    };
    let body = |seen: &Observation| String::from_utf8(seen.http.as_ref().unwrap().body.to_vec()).unwrap();

    let seen = ask(nginx.members, json!({ "tls": client, "auth": { "bearer": "tok" } })).await;
    assert_eq!((seen.fault.clone(), body(&seen).as_str()), (None, "CN=lamp Bearer tok"));
    let seen = ask(nginx.members, json!({ "tls": { "verify": false } })).await;
    // nginx completes the handshake, and then refuses the request.
    assert_eq!(seen.http.map(|http| http.status), Some(400));

    for (minimum, wanted) in [("1.2", None), ("1.3", Some(TlsVersion))] {
        let seen = ask(nginx.old, json!({ "tls": { "verify": false, "min_version": minimum } })).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), wanted, "{minimum}");
        assert!(wanted.is_some() || body(&seen) == "TLSv1.2");
    }
    let seen = ask(nginx.old, json!({ "ip_version": 6 })).await;
    assert_eq!(seen.fault.unwrap().failure, DnsNoRecords);
}
