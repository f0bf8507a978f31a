//! `mongodb://[user@]host[:27017][/authentication database]`: connect, TLS when there is a `tls` table, `isMaster`, log in
//! by SCRAM-SHA-256 when there is a user, and `ping`. Wire protocol since MongoDB 3.6 (`OP_MSG`).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use self::bson::{Document, Fields};
use crate::model::{Failure, Fault, Observation, Secret};
use crate::probe::authority::Shape;
use crate::probe::form::Form;
use crate::probe::login::{Login, Secure, read_path};
use crate::probe::scram::{Salted, Scram, Wrong};
use crate::probe::talk::Talk;
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

pub(crate) mod bson;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "mongodb",
    schemes: &["mongodb"],
    form: Form::Authority,
    example_url: EXAMPLE,
    keys: &["ip_version", "auth", "tls", "expect"],
    prepare,
    example: include_str!("mongodb/example.toml"),
};

const EXAMPLE: &str = "mongodb://monitor@db.example:27017/admin";
/// All that a server sends in one check, bytes: its largest answer, to `isMaster` in a wide replica set, has some KiB.
const MAX_RECEIVED_BYTES: usize = 128 * 1024;
const LOGIN: &str = "the login";
/// Turns of a login: SCRAM has two, and an empty one with old servers.
const MAX_TURNS: usize = 4;

struct MongodbProbe {
    login: Login,
    /// Where the user is defined.
    database: String,
    salted: Salted,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let shape = Shape { path: true, ..Shape::bare(Some(27017), EXAMPLE) };
    let login = Login::read(url, reader, shape, Secure::Table);
    let database = read_path(url, reader, "database");
    let tls = login.as_ref().is_some_and(|login| login.tls.is_some());
    let expect = Expectations::read(reader, Accepts { certificate: tls, ..Accepts::default() });
    let login = login?;
    if login.username.is_some() != login.password.is_some() {
        reader.error("auth", "a user and a password go together", format!("such as {EXAMPLE} and auth.basic.password"));
    }
    if reader.findings().count() > before {
        return None;
    }
    let database = database.filter(|name| !name.is_empty()).unwrap_or_else(|| "admin".to_owned());
    let probe = MongodbProbe { login, database, salted: Salted::default() };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

impl Probe for MongodbProbe {
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

impl MongodbProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let stream = self.login.connect(context, seen).await?;
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
        let result = self.converse(&mut talk).await;
        drop(talk);
        let hello = result?;
        if let Some(role) = role(&hello) {
            seen.note("role", role);
        }
        if let Some(set) = hello.text(b"setName") {
            seen.note("replica_set", String::from_utf8_lossy(&set).into_owned());
        }
        Ok(())
    }

    async fn converse(&self, talk: &mut Talk<'_>) -> Result<Fields, Fault> {
        // Answered before a login by every server since 3.6; the newer `hello` is not.
        let hello = self.ask(talk, Document::new().int("isMaster", 1).text("$db", "admin"), "isMaster").await?;
        if let (Some(user), Some(password)) = (&self.login.username, &self.login.password) {
            self.log_in(talk, user, password).await?;
        }
        self.ask(talk, Document::new().int("ping", 1).text("$db", &self.database), "ping").await?;
        Ok(hello)
    }

    async fn log_in(&self, talk: &mut Talk<'_>, user: &str, password: &Secret) -> Result<(), Fault> {
        let random = |_| Fault::new(Failure::ResourceExhausted, "the system gave no random bytes");
        let wrong = |wrong: Wrong| self.login.refused(&wrong.to_string());
        let mut scram = Scram::new(user).map_err(random)?;
        let begin = Document::new()
            .int("saslStart", 1)
            .text("mechanism", "SCRAM-SHA-256")
            .binary("payload", scram.first().as_bytes())
            .text("$db", &self.database);
        let mut reply = self.ask(talk, begin, LOGIN).await?;
        let first = self.payload(&reply)?;
        let answer = talk.within(scram.answer(&first, password, &self.salted)).await;
        let answer = answer.map_err(|end| end.fault(&self.login.authority, "the end of the login"))?.map_err(wrong)?;
        // The proofs first; then servers before 4.4 want an empty turn more.
        let mut next = Some(answer);
        for _ in 0..MAX_TURNS {
            // A number that the server made up, given back.
            let id = reply.number(b"conversationId").unwrap_or(1.0) as i32;
            let turn = Document::new()
                .int("saslContinue", 1)
                .int("conversationId", id)
                .binary("payload", next.as_deref().unwrap_or_default().as_bytes())
                .text("$db", &self.database);
            reply = self.ask(talk, turn, LOGIN).await?;
            if next.take().is_some() {
                scram.check(&self.payload(&reply)?).map_err(wrong)?;
            }
            if reply.is_true(b"done") {
                return Ok(());
            }
        }
        Err(self.garbled())
    }

    fn payload(&self, reply: &Fields) -> Result<Vec<u8>, Fault> {
        reply.binary(b"payload").ok_or_else(|| self.garbled())
    }

    /// One command and its reply; one that is not ok is a fault.
    async fn ask(&self, talk: &mut Talk<'_>, command: Document, what: &str) -> Result<Fields, Fault> {
        let place = &self.login.authority;
        let exchanged = async {
            talk.send(&bson::message(command)).await?;
            bson::read(talk).await
        };
        let reply = exchanged.await.map_err(|end| end.fault(place, &format!("its reply to {what}")))?;
        let reply = reply.ok_or_else(|| self.garbled())?;
        if reply.number(b"ok") == Some(1.0) {
            return Ok(reply);
        }
        let code = reply.number(b"code").unwrap_or_default();
        let text = reply.text(b"errmsg").unwrap_or_default();
        // Codes are those of MongoDB's error_codes.yml.
        let advice = match code as i32 {
            18 => ": check auth.basic and the database of the url, where the user is defined",
            334 => ": create its user with SCRAM-SHA-256",
            13 => ": give auth.basic a user, or grant it the right",
            _ => "",
        };
        Err(self.login.refused(&format!("refused {what} with {} ({code}){advice}", self.login.said(&text))))
    }

    fn garbled(&self) -> Fault {
        self.login.foreign("does not speak the protocol of MongoDB")
    }
}

fn role(hello: &Fields) -> Option<&'static str> {
    if hello.is_true(b"ismaster") || hello.is_true(b"isWritablePrimary") {
        Some(if hello.text(b"msg").as_deref() == Some(b"isdbgrid") { "mongos" } else { "primary" })
    } else if hello.is_true(b"secondary") {
        Some("secondary")
    } else if hello.is_true(b"arbiterOnly") {
        Some("arbiter")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (toml, what) in [
            ("url = \"mongodb://u@h\"", "go together"),
            ("url = \"mongodb://u:hunter2@h\"", "write the password as auth"),
            ("url = \"mongodb://h\"\nquery = \"{}\"", "unknown key"),
        ] {
            let found = testing::prepare(&KIND, toml).findings.join("\n");
            assert!(found.contains(what) && !found.contains("hunter2"), "{toml}: {found}");
        }
        assert_eq!(testing::prepare(&KIND, "url = \"mongodb://h\"").findings, [""; 0]);
    }
}
