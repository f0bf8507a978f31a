//! `postgres://user@host[:5432][/database]`: connect, TLS by `SSLRequest` when there is a `tls` table, log in, and run
//! `query` (or `SELECT 1`). Protocol 3.0, simple queries: what poolers speak as well.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use self::message::{Error, Message, first_field, password_message, query, sasl_initial, startup};
use crate::model::{Answer, Failure, Fault, Observation};
use crate::probe::authority::Shape;
use crate::probe::form::Form;
use crate::probe::login::{Login, Secure, read_path, said};
use crate::probe::net::Stream;
use crate::probe::scram::{Salted, Scram};
use crate::probe::talk::{self, End, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

mod message;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "postgres",
    schemes: &["postgres", "postgresql"],
    form: Form::Authority,
    example_url: EXAMPLE,
    keys: &["ip_version", "auth", "tls", "query", "expect"],
    prepare,
    example: include_str!("postgres/example.toml"),
};

const EXAMPLE: &str = "postgres://monitor@db.example:5432/orders";
/// All that a server sends in one check, bytes.
const MAX_RECEIVED_BYTES: usize = 512 * 1024;
/// What is run without a `query`: it takes a backend, a snapshot and the executor.
const PING: &str = "SELECT 1";

struct PostgresProbe {
    login: Login,
    user: String,
    database: String,
    query: Option<Box<str>>,
    salted: Salted,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let shape = Shape { path: true, ..Shape::bare(Some(5432), EXAMPLE) };
    let login = Login::read(url, reader, shape, Secure::Table);
    let database = read_path(url, reader, "database");
    let query = super::read_query(reader);
    let accepts = Accepts {
        certificate: login.as_ref().is_some_and(|login| login.tls.is_some()),
        value: query.is_some(),
        ..Accepts::default()
    };
    let expect = Expectations::read(reader, accepts);
    let login = login?;
    if login.username.is_none() {
        reader.error("url", "no user to log in as", format!("such as {EXAMPLE}"));
    }
    if reader.findings().count() > before {
        return None;
    }
    let user = login.username.clone()?;
    let database = database.filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
    let probe = PostgresProbe { login, user, database, query, salted: Salted::default() };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

impl Probe for PostgresProbe {
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

/// A row's first field, if there was a row.
type First = Option<Option<Vec<u8>>>;

impl PostgresProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let stream = self.connect(context, seen).await?;
        let mut version = None;
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
        let result = self.converse(&mut talk, &mut version).await;
        if let Some(version) = version {
            seen.note("server_version", version);
        }
        let first = result?;
        if self.query.is_some() {
            seen.value = Some(match first {
                None => Answer::Nothing,
                Some(None) => Answer::Null,
                Some(Some(value)) => Answer::Value(String::from_utf8_lossy(&value).into()),
            });
        }
        Ok(())
    }

    async fn connect(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<Stream, Fault> {
        let login = &self.login;
        let stream = talk::connect(&login.authority, login.ip_version, login.profile, context, seen).await?;
        let Some(tls) = &login.tls else { return Ok(Stream::Plain(stream)) };
        let mut talk = Talk::new(Stream::Plain(stream), context.deadline, &mut seen.timings, 1024);
        let answered = async {
            talk.send(&message::SSL_REQUEST).await?;
            talk.exact(1).await
        };
        let answer = answered.await.map_err(|end| self.end(end, "its answer to a request for TLS"))?;
        // What lies behind the one byte somebody on the way put there (CVE-2021-23222).
        let pure = talk.unread().is_empty();
        match (answer.as_slice(), talk.into_stream()) {
            (b"S", Stream::Plain(stream)) if pure => talk::secure(stream, &login.authority, tls, context, seen).await,
            (b"N", ..) => {
                let text = format!("{} does not offer TLS: switch ssl on there, or remove tls", login.authority);
                Err(Fault::new(Failure::TlsHandshake, text))
            }
            _ => Err(login.foreign("did not answer a request for TLS as PostgreSQL does")),
        }
    }

    async fn converse(&self, talk: &mut Talk<'_>, version: &mut Option<String>) -> Result<First, Fault> {
        self.send(talk, &startup(&self.user, &self.database)).await?;
        let mut scram = None;
        loop {
            match self.next(talk).await? {
                Message::Ready => break,
                Message::Authentication(kind, body) => {
                    if let Some(answer) = self.authenticate(kind, &body, &mut scram).await? {
                        self.send(talk, &answer).await?;
                    }
                }
                Message::Parameter(name, value) if name == b"server_version" => {
                    *version = Some(String::from_utf8_lossy(&value).into_owned());
                }
                Message::Error(error) => return Err(self.refused("the login", &error)),
                Message::Parameter(..) | Message::Other => {}
                Message::Row(_) => return Err(self.login.foreign("sent rows before it was asked")),
            }
        }
        self.send(talk, &query(self.query.as_deref().unwrap_or(PING))).await?;
        let mut first = None;
        loop {
            match self.next(talk).await? {
                Message::Ready => break,
                Message::Row(body) if first.is_none() => first = Some(first_field(&body)),
                // The server goes on until it is ready; what it says after is not worth waiting for.
                Message::Error(error) => return Err(self.refused("the query", &error)),
                _ => {}
            }
        }
        // Politeness: without it the server logs a lost connection. Whether it arrives changes nothing.
        let _ = talk.send(&message::TERMINATE).await;
        Ok(first)
    }

    /// The answer to a request for authentication, if it wants one.
    async fn authenticate(&self, kind: u32, body: &[u8], scram: &mut Option<Scram>) -> Result<Option<Vec<u8>>, Fault> {
        if kind == 0 {
            return Ok(None);
        }
        let login = &self.login;
        let Some(password) = &login.password else {
            return Err(login.refused(&format!("wants a password of user {:?}: set auth.basic.password", self.user)));
        };
        let scram_fault = |wrong| login.refused(&format!("{wrong}"));
        match (kind, scram.as_mut()) {
            (3, _) => Ok(Some(password_message(password.expose().as_bytes()))),
            (5, _) => {
                let salt = body.get(..4).ok_or_else(|| self.garbled())?;
                Ok(Some(password_message(message::md5(password, &self.user, salt).as_bytes())))
            }
            (10, _) if body.split(|byte| *byte == 0).any(|name| name == b"SCRAM-SHA-256") => {
                let random = |_| Fault::new(Failure::ResourceExhausted, "the system gave no random bytes");
                // The name is that of the startup message (PostgreSQL's protocol, 55.3).
                let fresh = Scram::new("").map_err(random)?;
                let answer = sasl_initial("SCRAM-SHA-256", &fresh.first());
                *scram = Some(fresh);
                Ok(Some(answer))
            }
            (11, Some(scram)) => {
                let answer = scram.answer(body, password, &self.salted).await.map_err(scram_fault)?;
                Ok(Some(password_message_raw(&answer)))
            }
            (12, Some(scram)) => scram.check(body).map(|()| None).map_err(scram_fault),
            (7..=10, _) => Err(login.refused("wants a way of logging in that is not spoken here (GSSAPI, SSPI)")),
            _ => Err(self.garbled()),
        }
    }

    async fn send(&self, talk: &mut Talk<'_>, bytes: &[u8]) -> Result<(), Fault> {
        talk.send(bytes).await.map_err(|end| self.end(end, "its next message"))
    }

    async fn next(&self, talk: &mut Talk<'_>) -> Result<Message, Fault> {
        match message::read(talk).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.garbled()),
            Err(End::TooMuch) => Err(self.login.refused("sent more than 512 KiB: let the query select less")),
            Err(end) => Err(self.end(end, "its next message")),
        }
    }

    fn end(&self, end: End, awaited: &str) -> Fault {
        end.fault(&self.login.authority, awaited)
    }

    fn garbled(&self) -> Fault {
        self.login.foreign("does not speak the protocol of PostgreSQL")
    }

    /// Codes are those of PostgreSQL's appendix A.
    fn refused(&self, what: &str, error: &Error) -> Fault {
        let advice = match &*error.code {
            b"28P01" => ": check auth.basic and the user of the url",
            b"28000" => ": look at pg_hba.conf there",
            b"3D000" => ": name an existing database in the url",
            b"42501" => ": grant its user the right",
            b"53300" => ": raise max_connections there, or find who takes them all",
            _ => "",
        };
        let code = String::from_utf8_lossy(&error.code);
        self.login.refused(&format!("refused {what} with {} ({code}){advice}", said(&error.message)))
    }
}

/// A continuation of SASL travels in a password message without the final NUL.
fn password_message_raw(text: &str) -> Vec<u8> {
    message::tagged(b'p', text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (toml, what) in [
            ("url = \"postgres://h/db\"", "no user to log in as"),
            ("url = \"postgres://u:hunter2@h/db\"", "write the password as auth"),
            ("url = \"postgres://u@h/a/b\"", "a slash in it"),
            ("url = \"postgres://u@h/db\"\nquery = \"\"", "empty"),
            ("url = \"postgres://u@h/db\"\nexpect = { value = 1 }", "cannot meet this expectation"),
            ("url = \"postgres://u@h/db\"\nexpect = { certificate_days_left = 3 }", "cannot meet this expectation"),
        ] {
            let found = testing::prepare(&KIND, toml).findings.join("\n");
            assert!(found.contains(what) && !found.contains("hunter2"), "{toml}: {found}");
        }
        assert_eq!(testing::prepare(&KIND, "url = \"postgresql://u@h\"").findings, [""; 0]);
    }
}
