//! Where to connect and as whom, for kinds that log in: databases and message brokers.
//!
//! The user stands in the URL or in `auth.basic`, the password only in `auth.basic`: URLs are shown and stored. TLS is
//! asked for by the scheme (`rediss`, `amqps`) or, where a protocol has no scheme of its own for it, by a `tls` table.

use percent_encoding::percent_decode_str;
use url::Url;

use super::ProbeContext;
use super::authority::{self, Authority, Shape};
use super::net::{IpVersion, Profile, Stream, TlsOptions};
use super::talk;
use crate::model::{Failure, Fault, Observation, Secret};
use crate::settings::reader::TableReader;
use crate::verdict::text;

/// A user name; servers of these kinds take less.
const MAX_USER_BYTES: usize = 255;
/// A password; the longest are signed tokens of a few KiB.
const MAX_PASSWORD_BYTES: usize = 16 * 1024;
/// What a server says of its refusal, as far as it is quoted, characters.
const MAX_SAID: usize = 160;

/// How a kind's URLs ask for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// By this scheme, in which TLS comes before the first byte.
    Scheme(&'static str),
    /// By a `tls` table of the monitor's own, whatever way the protocol has of beginning TLS.
    Table,
}

/// A server and an account. `Debug` is missing, since a password is in it.
pub struct Login {
    /// Where.
    pub authority: Authority,
    /// Which addresses.
    pub ip_version: IpVersion,
    /// Who asks.
    pub profile: Profile,
    /// None: in plain.
    pub tls: Option<TlsOptions>,
    /// Not empty, and without control characters.
    pub username: Option<String>,
    /// May be empty.
    pub password: Option<Secret>,
}

impl Login {
    /// Reads `url` (which has a user by this, whatever its shape says), `auth`, `tls` and `ip_version`. What is wrong
    /// goes to the reader, and then there is none. Whether an account is needed the kind says.
    pub fn read(url: &Url, reader: &mut TableReader<'_>, shape: Shape, secure: Secure) -> Option<Self> {
        let before = reader.findings().count();
        let place = Authority::read(url, reader, Shape { user: true, ..shape });
        let of_url = read_url_user(url, reader);
        let (of_auth, password) = read_auth(reader, of_url.as_deref());
        if let (Some(of_url), Some(of_auth)) = (&of_url, &of_auth)
            && of_url != of_auth
        {
            reader.error("auth", "its user is not that of the url", "name the user in one place".to_owned());
        }
        let tls = read_tls(url, reader, secure);
        let ip_version = authority::read_ip_version(reader);
        let profile = authority::profile_of(reader);
        let (authority, tls) = place.zip(tls).filter(|_| reader.findings().count() == before)?;
        Some(Self { authority, ip_version, profile, tls, username: of_url.or(of_auth), password })
    }

    /// Dials, and begins TLS when the first byte is to be TLS already. A protocol that begins TLS by itself dials by
    /// [`talk::connect`].
    pub async fn connect(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<Stream, Fault> {
        let stream = talk::connect(&self.authority, self.ip_version, self.profile, context, seen).await?;
        match &self.tls {
            Some(tls) => talk::secure(stream, &self.authority, tls, context, seen).await,
            None => Ok(Stream::Plain(stream)),
        }
    }

    /// The fault of a server that was reached, speaks the protocol, and does not let us do what was asked. `what` is
    /// the sentence's end, such as "refused user \"u\"".
    #[must_use]
    pub fn refused(&self, what: &str) -> Fault {
        Fault::new(Failure::QueryFailed, format!("{} {what}", self.authority))
    }

    /// The fault of a server that speaks something else. `what` is the sentence's end, such as "did not greet as a
    /// Redis server".
    #[must_use]
    pub fn foreign(&self, what: &str) -> Fault {
        Fault::new(Failure::ExchangeMismatch, format!("{} {what}", self.authority))
    }
}

/// What a server said, quoted for a sentence: whatever its encoding, it is text without control characters.
#[must_use]
pub fn said(bytes: &[u8]) -> String {
    text::quote(&String::from_utf8_lossy(bytes), MAX_SAID)
}

fn read_url_user(url: &Url, reader: &TableReader<'_>) -> Option<String> {
    if url.username().is_empty() {
        return None;
    }
    match percent_decode_str(url.username()).decode_utf8() {
        Ok(name) => checked_user(name.into_owned(), "url", reader),
        Err(_) => {
            reader.error_hidden("url", "its user is not UTF-8 text", "percent-encoded UTF-8".to_owned());
            None
        }
    }
}

fn checked_user(name: String, key: &str, reader: &TableReader<'_>) -> Option<String> {
    if name.is_empty() || name.len() > MAX_USER_BYTES || name.chars().any(char::is_control) {
        let allowed = format!("must be 1 to {MAX_USER_BYTES} bytes, none of them a control character");
        reader.error_hidden(key, "is not a user name", allowed);
        return None;
    }
    Some(name)
}

/// An account of the defaults is for those that name no other user: its password is nobody else's.
fn read_auth(reader: &mut TableReader<'_>, of_url: Option<&str>) -> (Option<String>, Option<Secret>) {
    let form = "basic = { username = \"…\", password = { file = \"…\" } }";
    let inherited = reader.is_default("auth");
    let Some(mut auth) = reader.table("auth") else { return (None, None) };
    let inherited = inherited || auth.is_default("basic");
    let mut found = (None, None);
    match auth.table("basic") {
        Some(mut basic) => {
            let name = basic.string("username").and_then(|name| checked_user(name, "username", &basic));
            let password = basic.secret("password").filter(|password| {
                let fits = password.expose().len() <= MAX_PASSWORD_BYTES && !password.expose().contains('\0');
                if !fits {
                    let allowed = format!("at most {MAX_PASSWORD_BYTES} bytes, none of them NUL");
                    basic.error("password", "cannot be sent", allowed);
                }
                fits
            });
            if basic.node("username").is_none() && basic.node("password").is_none() {
                basic.error("", "neither a user nor a password", form.to_owned());
            }
            let other = of_url.is_some_and(|user| name.as_deref().is_some_and(|name| name != user));
            let of_defaults = |key| inherited || basic.is_default(key);
            let drops_name = other && of_defaults("username");
            let drops_password = drops_name && of_defaults("password");
            basic.finish(&|_| None);
            found = (name.filter(|_| !drops_name), password.filter(|_| !drops_password));
        }
        None if auth.node("basic").is_none() => {
            let what =
                if auth.has_own("bearer") { "a bearer token logs in nowhere here" } else { "nobody to log in as" };
            auth.error("", what, form.to_owned());
        }
        None => {}
    }
    auth.finish(&|_| None);
    found
}

/// The outer option is none when something is wrong.
fn read_tls(url: &Url, reader: &mut TableReader<'_>, secure: Secure) -> Option<Option<TlsOptions>> {
    let own = reader.has_own("tls");
    let options = TlsOptions::read(reader)?;
    match secure {
        Secure::Scheme(scheme) if url.scheme() == scheme => Some(Some(options)),
        // A default is for those that have TLS.
        Secure::Scheme(_) if !own => Some(None),
        Secure::Scheme(scheme) => {
            let what = format!("means nothing to a {}:// URL", url.scheme());
            reader.error("tls", what, format!("write {scheme}:// in the url, or remove it"));
            None
        }
        Secure::Table => Some(own.then_some(options)),
    }
}

/// The path of a URL behind its first slash, percent-decoded; empty when there is none. `what` names it in messages,
/// such as "virtual host".
pub fn read_path(url: &Url, reader: &TableReader<'_>, what: &str) -> Option<String> {
    let path = url.path().strip_prefix('/').unwrap_or(url.path());
    let complain = |why: &str, allowed: &str| {
        reader.error_hidden("url", format!("its {what} {why}"), allowed.to_owned());
        None
    };
    if path.contains('/') {
        return complain("has a slash in it", "write %2F for a slash that belongs to it");
    }
    match percent_decode_str(path).decode_utf8() {
        Ok(name) if name.len() > MAX_USER_BYTES || name.chars().any(char::is_control) => {
            complain("is too long or has control characters", "at most 255 bytes")
        }
        Ok(name) => Some(name.into_owned()),
        Err(_) => complain("is not UTF-8 text", "percent-encoded UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::testing::{self, Read};
    use super::*;

    const SHAPE: Shape = Shape { path: true, ..Shape::bare(Some(1), "x://u@h/db") };

    fn read(toml: &str, secure: Secure) -> Read<Login> {
        testing::read(toml, |url, reader| Login::read(url, reader, SHAPE, secure))
    }

    fn account(toml: &str) -> (Option<String>, Option<String>) {
        let read = read(toml, Secure::Scheme("xs"));
        assert_eq!(read.findings, [""; 0], "{toml}");
        let login = read.value.unwrap();
        (login.username, login.password.map(|password| password.expose().to_owned()))
    }

    #[test]
    fn an_account_stands_in_the_url_and_in_auth() {
        let (u, p) = (|| Some("u".to_owned()), || Some("s3cr3t!".to_owned()));
        for (toml, wanted) in [
            ("url = \"x://h\"", (None, None)),
            ("url = \"x://u@h\"", (u(), None)),
            ("url = \"x://u%40corp@h\"", (Some("u@corp".to_owned()), None)),
            ("url = \"x://u@h\"\nauth = { basic = { password = \"${SECRET}\" } }", (u(), p())),
            ("url = \"x://h\"\nauth = { basic = { password = \"${SECRET}\" } }", (None, p())),
            ("url = \"x://u@h\"\nauth = { basic = { username = \"u\", password = \"${SECRET}\" } }", (u(), p())),
            ("url = \"x://h\"\nauth = { basic = { username = \"u\", password = \"\" } }", (u(), Some(String::new()))),
        ] {
            assert_eq!(account(toml), wanted, "{toml}");
        }
    }

    #[test]
    fn what_cannot_log_in_is_named_and_shows_no_password() {
        for (toml, what) in [
            ("url = \"x://u:hunter2@h\"", "write the password as auth"),
            ("url = \"x://u@h\"\nauth = { basic = { username = \"v\" } }", "not that of the url"),
            ("url = \"x://h\"\nauth = { bearer = \"hunter2\" }", "bearer"),
            ("url = \"x://h\"\nauth = {}", "nobody to log in as"),
            ("url = \"x://h\"\nauth = { basic = {} }", "neither a user nor a password"),
            ("url = \"x://h\"\nauth = { basic = { username = \"\" } }", "not a user name"),
            ("url = \"x://u%00@h\"", "not a user name"),
            ("url = \"x://u%ff@h\"", "not UTF-8"),
            ("url = \"x://h\"\nauth = { basic = { password = \"hunter2\\u0000\" } }", "cannot be sent"),
            ("url = \"x://h\"\nauth = { basic = { user = \"u\", password = \"hunter2\" } }", "unknown key"),
            ("url = \"x://h\"\ntls = { verify = false }", "write xs://"),
            ("url = \"xs://h\"\ntls = { verfy = false }", "did you mean \"verify\"?"),
        ] {
            let read = read(toml, Secure::Scheme("xs"));
            let found = read.findings.join("\n");
            assert!(read.value.is_none() && found.contains(what), "{toml}: {found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
    }

    #[test]
    fn tls_is_asked_for_by_scheme_or_table() {
        for (toml, secure, wanted) in [
            ("url = \"x://h\"", Secure::Scheme("xs"), false),
            ("url = \"xs://h\"", Secure::Scheme("xs"), true),
            ("url = \"xs://h\"\ntls = { verify = false }", Secure::Scheme("xs"), true),
            ("url = \"x://h\"", Secure::Table, false),
            ("url = \"x://h\"\ntls = { verify = false }", Secure::Table, true),
        ] {
            let login = read(toml, secure).value.unwrap();
            assert_eq!(login.tls.is_some(), wanted, "{toml}");
        }
    }

    #[test]
    fn a_path_is_one_decoded_name() {
        let path = |url: &str| {
            let toml = format!("url = {url:?}");
            testing::read(&toml, |url, reader| read_path(url, reader, "database")).value
        };
        for (url, name) in
            [("x://h", ""), ("x://h/", ""), ("x://h/db", "db"), ("x://h/%2f", "/"), ("x://h/a%20b", "a b")]
        {
            assert_eq!(path(url).as_deref(), Some(name), "{url}");
        }
        for bad in ["x://h/a/b", "x://h/%00", "x://h/%ff"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
