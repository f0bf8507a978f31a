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
use crate::probe::login::{Login, Secure, read_path};
use crate::probe::net::Stream;
use crate::probe::scram::{Salted, Scram, Wrong};
use crate::probe::talk::{self, End, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

pub(crate) mod message;

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
const MAX_RECEIVED_BYTES: usize = 256 * 1024;
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

impl PostgresProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let stream = self.connect(context, seen).await?;
        let mut version = None;
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
        let result = self.converse(&mut talk, &mut version).await;
        if let Some(version) = version {
            seen.note("server_version", version);
        }
        let answer = result?;
        seen.value = self.query.is_some().then_some(answer);
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
            // Its text came before TLS, from anybody (CVE-2024-10977): it is not read.
            (b"E", ..) => Err(login.refused("answered a request for TLS with an error")),
            _ => Err(login.foreign("did not answer a request for TLS as PostgreSQL does")),
        }
    }

    async fn converse(&self, talk: &mut Talk<'_>, version: &mut Option<String>) -> Result<Answer, Fault> {
        self.log_in(talk, version).await?;
        let answer = self.ask(talk).await?;
        // Politeness: without it the server logs a lost connection. Whether it arrives changes nothing.
        let _ = talk.send(&message::TERMINATE).await;
        Ok(answer)
    }

    async fn log_in(&self, talk: &mut Talk<'_>, version: &mut Option<String>) -> Result<(), Fault> {
        self.send(talk, &startup(&self.user, &self.database)).await?;
        let mut scram = None;
        loop {
            match self.next(talk, || self.garbled()).await? {
                Message::Ready => return Ok(()),
                Message::Authentication(kind, body) => {
                    if let Some(answer) = self.authenticate(talk, kind, &body, &mut scram).await? {
                        self.send(talk, &answer).await?;
                    }
                }
                Message::Parameter(name, value) if name == b"server_version" => {
                    *version = Some(String::from_utf8_lossy(&value).into_owned());
                }
                Message::Error(error) => return Err(self.refused("the login", &error)),
                Message::Parameter(..) | Message::Other => {}
                Message::Row(_) | Message::CopyIn => return Err(self.login.foreign("sent rows before it was asked")),
            }
        }
    }

    async fn ask(&self, talk: &mut Talk<'_>) -> Result<Answer, Fault> {
        self.send(talk, &query(self.query.as_deref().unwrap_or(PING))).await?;
        let large = || self.login.refused("sent more than 256 KiB, or in too many pieces: let the query select less");
        let mut first = None;
        loop {
            match self.next(talk, large).await? {
                Message::Ready => return Ok(first.unwrap_or(Answer::Nothing)),
                Message::Row(row) if first.is_none() => {
                    let field = first_field(&row).ok_or_else(|| self.garbled())?;
                    first = Some(field.map_or(Answer::Null, super::answer));
                }
                // The server goes on until it is ready; what it says after is not worth waiting for.
                Message::Error(error) => return Err(self.refused("the query", &error)),
                Message::CopyIn => return Err(self.login.refused("waits for data of the query: a check has none")),
                _ => {}
            }
        }
    }

    /// The answer to a request for authentication, if it wants one.
    async fn authenticate(
        &self,
        talk: &Talk<'_>,
        kind: u32,
        body: &[u8],
        scram: &mut Option<Scram>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let login = &self.login;
        match (kind, &scram) {
            (0, None) => return Ok(None),
            // It has begun to prove itself, and would rather not.
            (0, Some(_)) => return Err(login.refused(&Wrong::Impostor.to_string())),
            _ => {}
        }
        let Some(password) = &login.password else {
            return Err(login.refused(&format!("wants a password of user {:?}: set auth.basic.password", self.user)));
        };
        let scram_fault = |wrong: Wrong| login.refused(&wrong.to_string());
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
                let answer = talk.within(scram.answer(body, password, &self.salted)).await;
                let answer = answer.map_err(|end| self.end(end, "the end of the login"))?.map_err(scram_fault)?;
                Ok(Some(password_message_raw(&answer)))
            }
            (12, Some(begun)) => {
                begun.check(body).map_err(scram_fault)?;
                *scram = None;
                Ok(None)
            }
            (7..=10, _) => Err(login.refused("wants a way of logging in that is not spoken here (GSSAPI, SSPI)")),
            _ => Err(self.garbled()),
        }
    }

    async fn send(&self, talk: &mut Talk<'_>, bytes: &[u8]) -> Result<(), Fault> {
        talk.send(bytes).await.map_err(|end| self.end(end, "its next message"))
    }

    /// `large` is what a message beyond the bounds means.
    async fn next(&self, talk: &mut Talk<'_>, large: impl FnOnce() -> Fault) -> Result<Message, Fault> {
        match message::read(talk).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.garbled()),
            Err(End::TooMuch) => Err(large()),
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
            b"57P03" => ": it starts, stops or recovers",
            _ => "",
        };
        let code = match &*error.code {
            [] => String::new(),
            code => format!(" ({})", code.escape_ascii()),
        };
        self.login.refused(&format!("refused {what} with {}{code}{advice}", self.login.said(&error.message)))
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
