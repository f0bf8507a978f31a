//! What requests over HTTP say of their sender: headers, credentials, host. Shared by every kind that sends one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::http::Uri;
use hyper::http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use url::Url;

use crate::model::Secret;
use crate::settings::reader::TableReader;
use crate::settings::tree::Value;

/// Servers take 8 to 16 KiB of head; so many headers fill it.
const MAX_REQUEST_HEADERS: usize = 64;

/// The `Host` of a URL: the port only when it is not the scheme's own.
#[must_use]
pub fn host_header(url: &Url) -> Option<HeaderValue> {
    let host = url.host_str()?;
    match url.port() {
        Some(port) => HeaderValue::from_str(&format!("{host}:{port}")).ok(),
        None => HeaderValue::from_str(host).ok(),
    }
}

/// The request target of a URL, in origin form.
#[must_use]
pub fn request_uri(url: &Url) -> Option<Uri> {
    url[url::Position::BeforePath..url::Position::AfterQuery].parse().ok()
}

/// `headers = { Name = "value" }`; a value may also be a reference to a secret. The probe itself sets those of `ours`.
pub fn read_headers(reader: &mut TableReader<'_>, ours: &[HeaderName]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(node) = reader.node("headers") else { return headers };
    let Value::Table(table) = &node.value else {
        let allowed = "must be a table, such as { Accept = \"text/html\" }";
        reader.error("headers", format!("found {}", node.value.type_name()), allowed.to_owned());
        return headers;
    };
    if table.entries.len() > MAX_REQUEST_HEADERS {
        let found = format!("{} headers", table.entries.len());
        reader.error("headers", found, format!("at most {MAX_REQUEST_HEADERS}"));
    }
    for entry in &table.entries {
        let key = format!("headers.{}", entry.key);
        let complain = |what: &str, allowed: &str| {
            reader.error_at(entry.key_span.or(entry.node.span), &key, what, allowed.to_owned());
        };
        let Ok(name) = HeaderName::from_bytes(entry.key.as_bytes()) else {
            complain("not a header name", "letters, digits and any of !#$%&'*+-.^_`|~");
            continue;
        };
        if ours.contains(&name) {
            complain("the check itself sets this header", "remove it");
            continue;
        }
        if headers.contains_key(&name) {
            complain("the header is there twice (case does not matter)", "remove one");
            continue;
        }
        let text = match &entry.node.value {
            Value::Table(_) => reader.secret_of(&key, &entry.node),
            _ => reader.string_of(&key, &entry.node).map(Secret::new),
        };
        let Some(text) = text else { continue };
        let Ok(mut value) = HeaderValue::from_bytes(text.expose().as_bytes()) else {
            complain("control characters, such as line ends, are not allowed in a header", "remove them");
            continue;
        };
        if name == HOST && text.expose().parse::<hyper::http::uri::Authority>().is_err() {
            complain("not a host", "a name or an address, with or without a port");
            continue;
        }
        if [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(&name) {
            reader.remember(text.expose());
            value.set_sensitive(true);
        }
        headers.insert(name, value);
    }
    headers
}

/// `auth = { basic = { username, password } }` or `{ bearer = … }`, as an `Authorization` header.
pub fn read_auth(reader: &mut TableReader<'_>, headers: &mut HeaderMap) {
    let Some(mut auth) = reader.table("auth") else { return };
    let bearer = auth.secret("bearer").map(|token| format!("Bearer {}", token.expose()));
    let has_bearer = auth.node("bearer").is_some();
    let basic = auth.table("basic").map(read_basic);
    if has_bearer == auth.node("basic").is_some() {
        let what = if has_bearer { "basic and bearer at once" } else { "no method of authentication" };
        reader.error("auth", what, "either basic = { username, password } or bearer".to_owned());
    }
    auth.finish(&|_| None);
    if headers.contains_key(AUTHORIZATION) {
        reader.error("auth", "there is an Authorization header as well", "remove one of them".to_owned());
    }
    let Some(text) = bearer.or(basic.flatten()) else { return };
    // Echo services show it in this form; evidence must not.
    reader.remember(&text);
    if let Some((_, credential)) = text.split_once(' ') {
        reader.remember(credential);
    }
    match HeaderValue::from_str(&text) {
        Ok(mut value) => {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Err(_) => {
            reader.error("auth", "the token has characters that no header can carry", "printable ASCII".to_owned())
        }
    }
}

fn read_basic(mut basic: TableReader<'_>) -> Option<String> {
    let username = basic.string("username");
    let password = basic.secret("password");
    for (key, there) in [("username", basic.node("username").is_some()), ("password", basic.node("password").is_some())]
    {
        if !there {
            basic.error(key, "missing", "basic = { username = \"…\", password = { file = \"…\" } }".to_owned());
        }
    }
    if username.as_ref().is_some_and(|name| name.contains(':') || name.chars().any(char::is_control)) {
        // RFC 7617, 2: the first colon ends it.
        basic.error("username", "a user name has no \":\" and no control characters", None);
    }
    basic.finish(&|_| None);
    let credential = format!("{}:{}", username?, password?.expose());
    Some(format!("Basic {}", BASE64.encode(credential)))
}
