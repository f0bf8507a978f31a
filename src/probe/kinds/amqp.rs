//! `amqp` and `amqps`: AMQP 0-9-1, which RabbitMQ and LavinMQ speak: greet, log in (PLAIN), open the virtual host of the
//! path, close in good order.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use self::frames::{Frame, Method, Start};
use crate::model::{Fault, Observation, Secret};
use crate::probe::authority::Shape;
use crate::probe::form::Form;
use crate::probe::login::{self, Login, Secure};
use crate::probe::net::Stream;
use crate::probe::talk::{End, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};
use crate::verdict::text;

mod frames;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "amqp",
    schemes: &["amqp", "amqps"],
    form: Form::Authority,
    example_url: "amqp://user@example.com/vhost",
    keys: &["ip_version", "auth", "tls", "expect"],
    prepare,
    example: include_str!("amqp/example.toml"),
};

/// All that is received; RabbitMQ's greeting has half a KiB.
const MAX_RECEIVED_BYTES: usize = 64 * 1024;
/// A frame before any other size is agreed on has at most 4096 bytes (4.2.3): what is left beside the other fields.
const MAX_PASSWORD_BYTES: usize = 3072;
/// What every server of this protocol knows, unless its operator has removed it; RabbitMQ takes it from loopback only.
const DEFAULT_ACCOUNT: &str = "guest";
const DEFAULT_VHOST: &str = "/";
const MAX_FACT: usize = 80;

struct AmqpProbe {
    login: Login,
    username: String,
    password: Secret,
    vhost: String,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let secure = url.scheme() == "amqps";
    let port = if secure { 5671 } else { 5672 };
    let shape = Shape { path: true, ..Shape::bare(Some(port), "amqp://user@rabbit.example/vhost") };
    let login = Login::read(url, reader, shape, Secure::Scheme("amqps"));
    let vhost = login::read_path(url, reader, "virtual host");
    let expect = Expectations::read(reader, Accepts { certificate: secure, ..Accepts::default() });
    let mut login = login?;
    let (username, password) = match (login.username.take(), login.password.take()) {
        (Some(username), Some(password)) => (username, password),
        (None, None) => (DEFAULT_ACCOUNT.to_owned(), Secret::new(DEFAULT_ACCOUNT)),
        (Some(username), None) if username == DEFAULT_ACCOUNT => (username, Secret::new(DEFAULT_ACCOUNT)),
        _ => {
            let way_out = "auth = { basic = { username = \"…\", password = { file = \"…\" } } }";
            reader.error("auth", "a login needs a user and a password", way_out.to_owned());
            return None;
        }
    };
    if password.expose().len() > MAX_PASSWORD_BYTES {
        reader.error(
            "auth",
            "the password is longer than a login may be",
            format!("at most {MAX_PASSWORD_BYTES} bytes"),
        );
    }
    if reader.findings().count() > before {
        return None;
    }
    let vhost = vhost.map(|vhost| if vhost.is_empty() { DEFAULT_VHOST.to_owned() } else { vhost })?;
    Some(Prepared { probe: Arc::new(AmqpProbe { login, username, password, vhost }), expect: Arc::new(expect) })
}

impl Probe for AmqpProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            seen.fault = self.run(context, &mut seen).await.err();
            super::close_timings(&mut seen, start);
            seen
        })
    }
}

impl AmqpProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let stream = self.login.connect(context, seen).await?;
        let mut product = None;
        let result = self.converse(stream, context, seen, &mut product).await;
        for (name, value) in product.into_iter().flatten() {
            seen.note(name, value);
        }
        result
    }

    async fn converse(
        &self,
        stream: Stream,
        context: &ProbeContext<'_>,
        seen: &mut Observation,
        product: &mut Option<Vec<(&'static str, String)>>,
    ) -> Result<(), Fault> {
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
        self.send(&mut talk, frames::HEADER).await?;
        let start = self.greeting(&mut talk).await?;
        *product = Some(start.facts(MAX_FACT));
        if !start.offers("PLAIN") {
            let offered = text::quote(&start.mechanisms, MAX_FACT);
            return Err(self.login.refused(&format!("takes no user and password (PLAIN), only {offered}")));
        }
        self.send(&mut talk, &frames::start_ok(&self.username, self.password.expose())).await?;
        let tune = self.expect(&mut talk, Method::TUNE, "its answer to the login").await?;
        let mut reply = frames::tune_ok(&tune);
        reply.extend(frames::open(&self.vhost));
        self.send(&mut talk, &reply).await?;
        self.expect(&mut talk, Method::OPEN_OK, "its answer for the virtual host").await?;
        self.send(&mut talk, &frames::close()).await?;
        self.expect(&mut talk, Method::CLOSE_OK, "its goodbye").await.map(|_| ())
    }

    async fn send(&self, talk: &mut Talk<'_>, bytes: &[u8]) -> Result<(), Fault> {
        talk.send(bytes).await.map_err(|end| self.end(end, "all of the login was sent"))
    }

    fn end(&self, end: End, awaited: &str) -> Fault {
        end.fault(&self.login.authority, awaited)
    }

    /// `Connection.Start`, or the header of another version (4.2.2).
    async fn greeting(&self, talk: &mut Talk<'_>) -> Result<Start, Fault> {
        let awaited = "a greeting of AMQP 0-9-1";
        let begin = talk.exact(frames::HEAD_BYTES).await.map_err(|end| {
            let foreign = !talk.unread().is_empty() && matches!(end, End::Closed | End::Deadline);
            if foreign {
                self.login.foreign("sent something else than a greeting of AMQP")
            } else {
                self.end(end, awaited)
            }
        })?;
        if let Some(version) = begin.strip_prefix(b"AMQP") {
            // The eighth byte says nothing more than the three before it.
            let shown = version.iter().map(u8::to_string).collect::<Vec<_>>().join("-");
            let what = format!("speaks another version of AMQP (protocol header {shown}), not 0-9-1");
            return Err(self.login.foreign(&what));
        }
        let frame = self.rest(talk, &begin, awaited).await?;
        match frame.method() {
            Some((Method::START, arguments)) => {
                Start::read(arguments).ok_or_else(|| self.login.foreign("sent a greeting that is not of AMQP 0-9-1"))
            }
            _ => Err(self.refusal_or(&frame, "sent something else than a greeting of AMQP")),
        }
    }

    /// The frame that begins with this head.
    async fn rest(&self, talk: &mut Talk<'_>, head: &[u8], awaited: &str) -> Result<Frame, Fault> {
        let Some((kind, length)) = frames::head(head).filter(|(_, length)| *length < MAX_RECEIVED_BYTES) else {
            return Err(self.login.foreign("sent something else than a frame of AMQP 0-9-1"));
        };
        let mut payload = talk.exact(length + 1).await.map_err(|end| self.end(end, awaited))?;
        if payload.pop() != Some(frames::END) {
            return Err(self.login.foreign("sent a frame without its end mark"));
        }
        Ok(Frame { kind, payload })
    }

    /// The arguments of the method that must be next; heartbeats are passed over.
    async fn expect(&self, talk: &mut Talk<'_>, wanted: Method, awaited: &str) -> Result<Vec<u8>, Fault> {
        loop {
            let head = talk.exact(frames::HEAD_BYTES).await.map_err(|end| self.end(end, awaited))?;
            let frame = self.rest(talk, &head, awaited).await?;
            match frame.method() {
                Some((method, arguments)) if method == wanted => return Ok(arguments.to_vec()),
                None if frame.is_heartbeat() => {}
                _ => return Err(self.refusal_or(&frame, "sent a method that has no place here")),
            }
        }
    }

    /// `Connection.Close` says why; anything else is not the protocol.
    fn refusal_or(&self, frame: &Frame, what: &str) -> Fault {
        let Some((code, said)) = frame.closing() else { return self.login.foreign(what) };
        let said = self.login.said(said);
        let what = match code {
            403 => format!("refused user {:?} or the password ({code}, {said}): see auth", self.username),
            530 => {
                format!("does not let user {:?} open the virtual host {:?} ({code}, {said})", self.username, self.vhost)
            }
            _ => format!("closed the connection ({code}, {said})"),
        };
        self.login.refused(&what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn wrong_keys_are_named() {
        for (toml, what) in [
            ("url = \"amqp://h/a/b\"", "write %2F"),
            ("url = \"amqp://h?heartbeat=5\"", "ends after the port"),
            ("url = \"amqp://u@h\"", "needs a user and a password"),
            ("url = \"amqp://u:hunter2@h\"", "has no password"),
            ("url = \"amqp://h\"\nauth = { basic = { password = \"hunter2\" } }", "needs a user and a password"),
        ] {
            let found = testing::prepare(&KIND, toml).findings.join("\n");
            assert!(found.contains(what) && !found.contains("hunter2"), "{toml}: {found}");
        }
        for good in ["url = \"amqp://h\"", "url = \"amqp://guest@h/%2f\"", "url = \"amqps://h/\""] {
            assert_eq!(testing::prepare(&KIND, good).findings, [""; 0], "{good}");
        }
    }
}
