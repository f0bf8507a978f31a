//! Secrets that stand in rows, replaced by references to environment variables.
//!
//! By place, not by look: passwords and tokens of `auth`, a heartbeat's `token`, a `proxy`, variables of `exec:`, headers that
//! carry credentials, the password of a url, and parameters of its query that are called like one. What is a reference already stays.

use serde_json::{Map, Value};

/// A reference that took the place of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    /// The environment variable.
    pub(super) variable: String,
    /// Where the secret stands, such as `auth.bearer`.
    pub(super) place: String,
    /// What it is. Never printed: for reading our own output back.
    pub(super) value: String,
}

/// Headers that carry credentials.
const HEADERS: &[&str] = &["authorization", "proxy-authorization", "cookie"];
/// Words in the names of headers and parameters whose values are credentials.
const WORDS: &[&str] =
    &["password", "passwd", "secret", "token", "apikey", "api-key", "api_key", "access_key", "signature", "auth"];

/// The secrets of one monitor.
pub(super) struct Secrets {
    /// What variables of this monitor begin with.
    prefix: String,
    pub(super) replaced: Vec<Replaced>,
}

impl Secrets {
    pub(super) fn of(id: &str) -> Self {
        let upper = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_uppercase() } else { '_' };
        Self { prefix: format!("LAMPLIGHTER_{}", id.chars().map(upper).collect::<String>()), replaced: Vec::new() }
    }

    fn reference(&mut self, place: &str, value: &str) -> String {
        let upper = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_uppercase() } else { '_' };
        let name = format!("{}__{}", self.prefix, place.chars().map(upper).collect::<String>());
        let (mut variable, mut number) = (name.clone(), 1);
        while self.replaced.iter().any(|other| other.variable == variable) {
            number += 1;
            variable = format!("{name}_{number}");
        }
        self.replaced.push(Replaced { variable: variable.clone(), place: place.to_owned(), value: value.to_owned() });
        format!("${{{variable}}}")
    }

    /// Takes the secrets out of a spec.
    pub(super) fn take_from_spec(&mut self, spec: &mut Map<String, Value>) {
        for name in ["token", "proxy"] {
            if let Some(value) = spec.get_mut(name) {
                self.take(name, value);
            }
        }
        if let Some(Value::Object(auth)) = spec.get_mut("auth") {
            if let Some(value) = auth.get_mut("bearer") {
                self.take("auth.bearer", value);
            }
            if let Some(value) = auth.get_mut("basic").and_then(|basic| basic.get_mut("password")) {
                self.take("auth.basic.password", value);
            }
        }
        if let Some(Value::Object(env)) = spec.get_mut("env") {
            for (name, value) in env {
                self.take(&format!("env.{name}"), value);
            }
        }
        if let Some(Value::Object(headers)) = spec.get_mut("headers") {
            for (name, value) in headers {
                if HEADERS.contains(&&*name.to_ascii_lowercase()) || is_secret_name(name) {
                    self.take(&format!("headers.{name}"), value);
                }
            }
        }
    }

    /// `none` of `proxy` is a word of ours; a proxy without user has no secret.
    fn take(&mut self, place: &str, value: &mut Value) {
        let Value::String(text) = value else { return };
        let harmless = place == "proxy" && !text.contains('@');
        if !harmless && !is_reference(text) {
            // The variable stands for what the text means, and `$${` means `${`.
            *value = self.reference(place, &text.replace("$${", "${")).into();
        }
    }

    /// Takes the secrets out of a url. As it is written: it may be of a form that no parser knows.
    pub(super) fn take_from_url(&mut self, url: &str) -> String {
        // A command line has neither user nor query.
        let Some((scheme, rest)) = url.split_once("://").filter(|_| !url.starts_with("exec:")) else {
            return url.to_owned();
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // With a reference in it a slash may be part of a name: nothing is guessed there.
        let (authority, path) = rest.split_at(end);
        let mut written = format!("{scheme}://");
        match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?, host))) {
            Some(((user, password), host)) if !password.is_empty() && !is_reference(password) => {
                let reference = self.reference("url.password", &password.replace("$${", "${"));
                written.push_str(&format!("{user}:{reference}@{host}"));
            }
            _ => written.push_str(authority),
        }
        let Some((before, query)) = path.split_once('?') else { return written + path };
        let (query, fragment) = query.split_once('#').map_or((query, None), |(query, part)| (query, Some(part)));
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, value)) if is_secret_name(name) && !value.is_empty() && !is_reference(value) => {
                format!("{name}={}", self.reference(&format!("url.{name}"), &value.replace("$${", "${")))
            }
            _ => pair.to_owned(),
        });
        let pairs: Vec<String> = pairs.collect();
        written.push_str(&format!("{before}?{}", pairs.join("&")));
        if let Some(fragment) = fragment {
            written.push_str(&format!("#{fragment}"));
        }
        written
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "key" || name == "sig" || WORDS.iter().any(|word| name.contains(word))
}

/// Whether a text is nothing but one reference, perhaps behind the name of a scheme.
fn is_reference(text: &str) -> bool {
    let text = ["Bearer ", "Basic ", "Token "].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_of_a_spec_become_references() {
        let mut spec = json!({
            "auth": { "basic": { "username": "u", "password": "hunter2" }, "bearer": "hunter3" },
            "headers": { "Accept": "text/html", "Authorization": "Bearer hunter4", "X-Api-Key": "hunter5", "Cookie": { "file": "c" } },
            "token": "${TOKEN}", "proxy": "none", "env": { "PASS": "hunter6" }, "body": "as it is",
        });
        let mut secrets = Secrets::of("web.shop");
        secrets.take_from_spec(spec.as_object_mut().unwrap());
        assert!(!spec.to_string().contains("hunter"), "{spec}");
        assert_eq!(spec["auth"]["bearer"], "${LAMPLIGHTER_WEB_SHOP__AUTH_BEARER}");
        assert_eq!(
            (&spec["token"], &spec["proxy"], &spec["headers"]["Accept"]),
            (&"${TOKEN}".into(), &"none".into(), &"text/html".into())
        );
        assert_eq!(spec["headers"]["Cookie"], json!({ "file": "c" }));
        let values: Vec<&str> = secrets.replaced.iter().map(|one| one.value.as_str()).collect();
        assert_eq!(values, ["hunter3", "hunter2", "hunter6", "Bearer hunter4", "hunter5"]);
    }

    #[test]
    fn secrets_of_a_url_become_references() {
        for (url, written, values) in [
            ("https://h/p?x=1", "https://h/p?x=1", &[] as &[&str]),
            ("postgres://u@h/d", "postgres://u@h/d", &[]),
            ("postgres://u:p%40w@h/d", "postgres://u:${LAMPLIGHTER_A__URL_PASSWORD}@h/d", &["p%40w"]),
            ("postgres://u:${P}@h/d", "postgres://u:${P}@h/d", &[]),
            ("redis://:pw@h", "redis://:${LAMPLIGHTER_A__URL_PASSWORD}@h", &["pw"]),
            (
                "https://h/?a=1&token=t&key=k#f",
                "https://h/?a=1&token=${LAMPLIGHTER_A__URL_TOKEN}&key=${LAMPLIGHTER_A__URL_KEY}#f",
                &["t", "k"],
            ),
            ("exec:/bin/x ://u:p@h", "exec:/bin/x ://u:p@h", &[]),
            ("heartbeat:", "heartbeat:", &[]),
        ] {
            let mut secrets = Secrets::of("a");
            assert_eq!(secrets.take_from_url(url), written);
            assert_eq!(secrets.replaced.iter().map(|one| one.value.as_str()).collect::<Vec<_>>(), values, "{url}");
        }
    }

    #[test]
    fn no_two_secrets_share_a_variable() {
        let mut secrets = Secrets::of("a");
        secrets.take_from_url("https://h/?token=1&token=2");
        assert_ne!(secrets.replaced[0].variable, secrets.replaced[1].variable);
    }
}
