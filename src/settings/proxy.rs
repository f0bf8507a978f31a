//! `probe.proxy` and a monitor's `proxy`: where requests go instead of to their target.

use url::{Host, Url};

use super::reader::TableReader;
use crate::model::Secret;

/// What is accepted, for messages.
const FORMS: &str = "http://, socks5:// or socks5h://, then [user:password@]host:port";

/// RFC 1929, 2: a user name or password of SOCKS has one byte for its length.
const MAX_CREDENTIAL_BYTES: usize = 255;

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP: `CONNECT` for a tunnel, or a forwarded request (RFC 9110, 9.3.6; RFC 9112, 3.2.2).
    Http,
    /// SOCKS 5 with names resolved here (RFC 1928).
    Socks5,
    /// SOCKS 5 with names resolved by the proxy.
    Socks5h,
}

/// A proxy. `Debug` hides the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its name or address.
    pub host: Host<String>,
    /// Not 0.
    pub port: u16,
    /// User and password, at most 255 bytes each.
    pub credentials: Option<(Secret, Secret)>,
}

impl std::fmt::Display for Proxy {
    /// Host and port: what messages may show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A monitor's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// `probe.proxy`, if there is one.
    #[default]
    Probe,
    /// `"none"`: straight to the target.
    Direct,
    /// Its own.
    Own(Box<Proxy>),
}

impl Proxy {
    /// Reads the key `proxy`, a secret since it may hold a password; none when it is absent or wrong, which is reported.
    pub fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let text = table.secret("proxy")?;
        Self::take(table, text.expose())
    }

    fn take(table: &TableReader<'_>, text: &str) -> Option<Self> {
        match Self::parse(text) {
            Ok(proxy) => {
                if let Some((_, password)) = &proxy.credentials {
                    table.remember(password.expose());
                }
                Some(proxy)
            }
            Err(why) => {
                table.error_hidden("proxy", why, FORMS.to_owned());
                None
            }
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "not an address of a proxy")?;
        let (scheme, default_port) = match url.scheme() {
            "http" => (Scheme::Http, 80),
            "socks5" => (Scheme::Socks5, 1080),
            "socks5h" => (Scheme::Socks5h, 1080),
            "https" => return Err("a proxy that is itself reached over TLS is not supported"),
            _ => return Err("not a scheme of a proxy"),
        };
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !bare {
            return Err("a proxy has no path");
        }
        // The schemes of SOCKS are unknown to `url`, which then takes an address for a name.
        let host = url.host_str().and_then(|host| Host::parse(host).ok()).ok_or("no host of a proxy")?;
        let port = url.port().unwrap_or(default_port);
        if port == 0 {
            return Err("port 0 cannot be connected to");
        }
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            ("", Some(_)) => return Err("a password without a user"),
            (user, password) => {
                let (user, password) = (decoded(user)?, decoded(password.unwrap_or_default())?);
                // RFC 7617, 2: the first colon ends the user.
                if user.contains(':') && scheme == Scheme::Http {
                    return Err("a user name has no \":\"");
                }
                Some((Secret::new(user), Secret::new(password)))
            }
        };
        Ok(Self { scheme, host, port, credentials })
    }
}

impl Choice {
    /// Reads the key `proxy` of a monitor. Rows may not choose: with it a stranger could avoid the operator's proxy, or
    /// use the daemon to reach another.
    pub fn read(table: &mut TableReader<'_>) -> Self {
        let is_trusted = table.origin().trusted;
        let Some(text) = table.secret("proxy") else { return Self::Probe };
        if !is_trusted {
            table.error_hidden("proxy", "only monitors of the file choose a proxy", "remove it".to_owned());
            return Self::Probe;
        }
        match text.expose() {
            "none" => Self::Direct,
            text => Proxy::take(table, text).map_or(Self::Probe, |proxy| Self::Own(Box::new(proxy))),
        }
    }
}

/// Undoes percent-encoding (RFC 3986, 2.1).
fn decoded(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "its user or password is not right";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        let value = match byte {
            b'%' => {
                let (high, low) = (hex(rest.next()).ok_or(WRONG)?, hex(rest.next()).ok_or(WRONG)?);
                u8::try_from(high * 16 + low).map_err(|_| WRONG)?
            }
            other => other,
        };
        bytes.push(value);
    }
    let text = String::from_utf8(bytes).map_err(|_| WRONG)?;
    let good = text.len() <= MAX_CREDENTIAL_BYTES && !text.chars().any(char::is_control);
    if good { Ok(text) } else { Err(WRONG) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_proxy() {
        for (text, scheme, place) in [
            ("http://proxy.example:3128", Scheme::Http, "proxy.example:3128"),
            ("http://10.0.0.1", Scheme::Http, "10.0.0.1:80"),
            ("socks5://127.0.0.1", Scheme::Socks5, "127.0.0.1:1080"),
            ("socks5h://[::1]:9050/", Scheme::Socks5h, "[::1]:9050"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!((proxy.scheme, proxy.to_string().as_str()), (scheme, place));
            assert_eq!(proxy.credentials, None);
        }
        let socks = Proxy::parse("socks5://127.0.0.1:1").unwrap();
        assert_eq!(socks.host, Host::<String>::Ipv4([127, 0, 0, 1].into()));
    }

    #[test]
    fn credentials_are_decoded_and_hidden() {
        let proxy = Proxy::parse("http://us%40er:hunter2%3a%2F+@h:1").unwrap();
        let (user, password) = proxy.credentials.clone().unwrap();
        assert_eq!((user.expose(), password.expose()), ("us@er", "hunter2:/+"));
        assert!(!format!("{proxy:?} {proxy}").contains("hunter2"));
        assert_eq!(Proxy::parse("socks5://u@h:1").unwrap().credentials.unwrap().1.expose(), "");
    }

    #[test]
    fn what_is_no_proxy() {
        let long = format!("socks5://u:{}@h:1", "x".repeat(256));
        for text in [
            "",
            "proxy:3128",
            "https://h:1",
            "ftp://h",
            "http://h:1/path",
            "http://h:1?q",
            "http://h:0",
            "socks5://",
            "http://:p@h",
            "http://u%3a:p@h",
            "http://u%zz:p@h",
            "http://u:%0a@h",
            "http://u:%ff@h",
            &long,
        ] {
            assert!(Proxy::parse(text).is_err(), "{text}");
        }
    }
}
