//! What the keys of an HTTP monitor accept, refuse, and hide.

use super::super::KIND;
use hyper::http::header::AUTHORIZATION;

use super::*;
use crate::probe::kinds::testing;

const URL: &str = "url = \"https://shop.example:8443/health?q=1#top\"\n";

fn spec(rest: &str) -> Spec {
    let read = testing::read(&format!("{URL}{rest}"), read);
    assert_eq!(read.findings, [""; 0], "{rest}");
    read.value.unwrap().0
}

fn refused(toml: &str) -> String {
    let read = testing::prepare(&KIND, toml);
    assert!(!read.findings.is_empty(), "accepted: {toml}");
    let text = read.findings.join("\n");
    assert!(!text.contains("hunter2") && !text.contains("s3cr3t!"), "{text}");
    text
}

#[test]
fn a_request_says_what_is_usual() {
    let plain = spec("");
    assert_eq!(plain.uri, "/health?q=1");
    let shown: Vec<String> =
        plain.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    assert_eq!(shown, ["host: shop.example:8443", "accept: */*", "accept-encoding: identity", "connection: close"]);
    assert!(!plain.names_agent && plain.follow && !plain.redirects.downgrade);
    assert_eq!((plain.redirects.most, plain.method, plain.profile), (10, Method::GET, Profile::File));
    assert_eq!(spec("method = \"POST\"").headers[CONTENT_LENGTH], "0");
    let owner = spec("headers = { host = \"other\", Accept-Encoding = \"br\", user-agent = \"x\" }");
    assert_eq!(
        (&owner.headers[HOST], &owner.headers[ACCEPT_ENCODING]),
        (&"other".parse().unwrap(), &"br".parse().unwrap())
    );
    assert!(owner.names_agent);
}

#[test]
fn credentials_become_a_header_and_stay_hidden() {
    let toml = format!("{URL}auth = {{ basic = {{ username = \"u\", password = \"${{SECRET}}\" }} }}");
    let read = testing::read(&toml, read);
    let header = read.value.unwrap().0.headers[AUTHORIZATION].clone();
    assert_eq!(header, "Basic dTpzM2NyM3Qh");
    assert!(header.is_sensitive());
    let remembered = |text: &str| read.secrets.iter().any(|secret| secret.expose() == text);
    assert!(remembered("s3cr3t!") && remembered("dTpzM2NyM3Qh"));
    assert_eq!(spec("auth = { bearer = \"${SECRET}\" }").headers[AUTHORIZATION], "Bearer s3cr3t!");
    let cookie = testing::read(&format!("{URL}headers = {{ Cookie = \"sid=hunter2\" }}"), super::read);
    assert!(cookie.secrets.iter().any(|secret| secret.expose() == "sid=hunter2"));
}

#[test]
fn urls_that_cannot_be_asked() {
    for (url, what) in [("http://u:hunter2@h/", "auth ="), ("http://u@h/", "auth ="), ("http://h:0/", "port 0")] {
        assert!(refused(&format!("url = {url:?}")).contains(what), "{url}");
    }
    let long = format!("url = \"http://h/{}\"", "x".repeat(70_000));
    assert!(refused(&long).contains("not valid in a request"));
}

#[test]
fn wrong_values_are_named() {
    for (rest, what) in [
        ("method = \"get\"", "did you mean \"GET\"?"),
        ("method = \"GE T\"", "is not a method"),
        ("method = \"\"", "is not a method"),
        ("method = \"CONNECT\"", "proxy"),
        ("method = \"TRACE\"\nbody = \"x\"", "no body"),
        ("headers = { \"a b\" = \"c\" }", "not a header name"),
        ("headers = { a = \"b\\r\\nc: d\" }", "control characters"),
        ("headers = { Accept = \"a\", accept = \"b\" }", "twice"),
        ("headers = { Content-Length = \"5\" }", "itself sets"),
        ("headers = { Host = \"a b\" }", "not a host"),
        ("headers = [\"a\"]", "must be a table"),
        ("headers = { a = 5 }", "must be a string"),
        ("max_redirects = 51", "must be 0 to 50"),
        ("auth = {}", "either basic"),
        ("auth = { bearer = \"hunter2\", basic = { username = \"u\", password = \"hunter2\" } }", "at once"),
        ("auth = { basic = { username = \"u\" } }", "auth.basic.password: missing"),
        ("auth = { basic = { username = \"a:b\", password = \"hunter2\" } }", "no \":\""),
        ("auth = { basic = { user = \"u\", password = \"hunter2\" } }", "unknown key"),
        ("auth = { bearer = \"hunter2\\n\" }", "no header can carry"),
        ("auth = { bearer = \"hunter2\" }\nheaders = { authorization = \"hunter2\" }", "remove one of them"),
        ("auth = { bearer = { file = \"missing\" } }", "cannot read"),
        ("ip_version = \"six\"", "must be \"any\", 4 or 6"),
        ("follow = true", "unknown key"),
    ] {
        assert!(refused(&format!("{URL}{rest}")).contains(what), "{rest}: {}", refused(&format!("{URL}{rest}")));
    }
}

#[test]
fn any_method_and_body_bound() {
    assert_eq!(spec("method = \"PURGE\"").method.as_str(), "PURGE");
    let body = "x".repeat(MAX_REQUEST_BODY_BYTES + 1);
    assert!(refused(&format!("{URL}method = \"POST\"\nbody = \"{body}\"")).contains("at most 1048576"));
}

#[test]
fn only_harmless_headers_cross_an_origin() {
    let mut headers =
        spec("headers = { Accept = \"a\", Cookie = \"c=1\", X-Api-Key = \"k\" }\nauth = { bearer = \"tok\" }").headers;
    keep_harmless(&mut headers);
    let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["accept", "accept-encoding", "connection"]);
}

#[test]
fn rows_are_other_peoples() {
    let row = testing::read_as(false, URL, read);
    assert_eq!(row.value.unwrap().0.profile, Profile::Rows);
    let reference = testing::read_as(false, &format!("{URL}headers = {{ a = \"${{SECRET}}\" }}"), read);
    assert!(reference.value.is_none() && reference.findings[0].contains("not allowed in the database"));
}

#[test]
fn hosts_as_headers() {
    for (url, host) in [
        ("https://h/", "h"),
        ("https://h:443/", "h"),
        ("http://h:443/", "h:443"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
    ] {
        assert_eq!(host_header(&Url::parse(url).unwrap()).unwrap(), host, "{url}");
    }
}
