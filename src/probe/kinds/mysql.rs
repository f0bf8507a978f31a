//! `mysql://user@host[:3306][/database]`: connect, TLS when there is a `tls` table, log in, ping, and if wanted run
//! `query`. The client/server protocol of MySQL and MariaDB.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use self::packet::{Greeting, Packet, Wire, scramble};
use crate::model::{Answer, Failure, Fault, Observation};
use crate::probe::authority::Shape;
use crate::probe::form::Form;
use crate::probe::login::{Login, Secure, read_path};
use crate::probe::net::Stream;
use crate::probe::talk::{self, End, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

pub(crate) mod packet;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "mysql",
    schemes: &["mysql"],
    form: Form::Authority,
    example_url: EXAMPLE,
    keys: &["ip_version", "auth", "tls", "query", "expect"],
    prepare,
    example: include_str!("mysql/example.toml"),
};

const EXAMPLE: &str = "mysql://monitor@db.example:3306/shop";
/// All that a server sends in one check, bytes.
const MAX_RECEIVED_BYTES: usize = 256 * 1024;
const RESULT: &str = "the result";

struct MysqlProbe {
    login: Login,
    user: String,
    /// Empty: none.
    database: String,
    query: Option<Box<str>>,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let shape = Shape { path: true, ..Shape::bare(Some(3306), EXAMPLE) };
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
    let (user, database) = (login.username.clone()?, database.unwrap_or_default());
    Some(Prepared { probe: Arc::new(MysqlProbe { login, user, database, query }), expect: Arc::new(expect) })
}

impl Probe for MysqlProbe {
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

impl MysqlProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let login = &self.login;
        let stream = talk::connect(&login.authority, login.ip_version, login.profile, context, seen).await?;
        let talk = Talk::new(Stream::Plain(stream), context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
        let mut wire = Wire::new(talk);
        let greeting = self.greeting(&mut wire).await?;
        let version = String::from_utf8_lossy(&greeting.version).into_owned();
        let mut wire = match &login.tls {
            None => wire,
            Some(_) if !greeting.offers_tls() => {
                let text = format!("{} does not offer TLS: give it a certificate, or remove tls", login.authority);
                seen.note("server_version", version);
                return Err(Fault::new(Failure::TlsHandshake, text));
            }
            Some(tls) => {
                self.send(&mut wire, &greeting.ssl_request()).await?;
                let (talk, sequence) = wire.into_parts();
                // Behind the greeting a server waits for us: what is there already, somebody else put there.
                let pure = talk.unread().is_empty();
                let Stream::Plain(stream) = talk.into_stream() else { return Err(self.garbled()) };
                if !pure {
                    return Err(login.foreign("spoke before TLS could begin"));
                }
                let stream = talk::secure(stream, &login.authority, tls, context, seen).await?;
                let talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
                Wire::resumed(talk, sequence)
            }
        };
        let result = self.converse(&mut wire, &greeting).await;
        drop(wire);
        seen.note("server_version", version);
        if let Some(answer) = result? {
            seen.value = Some(answer);
        }
        Ok(())
    }

    async fn greeting(&self, wire: &mut Wire<'_>) -> Result<Greeting, Fault> {
        let packet = self.next(wire, "its greeting").await?;
        if let Some(error) = packet.error() {
            return Err(self.refused("the connection", &error));
        }
        packet.greeting().ok_or_else(|| self.garbled())
    }

    async fn converse(&self, wire: &mut Wire<'_>, greeting: &Greeting) -> Result<Option<Answer>, Fault> {
        let secret = self.login.password.as_ref().map_or("", |password| password.expose());
        let response = greeting.response(&self.user, &self.database, secret, self.login.tls.is_some());
        self.send(wire, &response).await?;
        self.authenticate(wire, secret).await?;
        self.command(wire, packet::COM_PING, &[]).await?;
        self.done(wire, "the ping").await?;
        let mut answer = None;
        if let Some(query) = &self.query {
            self.command(wire, packet::COM_QUERY, query.as_bytes()).await?;
            answer = Some(self.first_value(wire).await?);
        }
        // Politeness: without it the server counts an aborted client. Whether it arrives changes nothing.
        let _ = self.command(wire, packet::COM_QUIT, &[]).await;
        Ok(answer)
    }

    async fn authenticate(&self, wire: &mut Wire<'_>, secret: &str) -> Result<(), Fault> {
        // A switch, a request for the password and the result: more turns than these are a loop.
        for _ in 0..4 {
            let packet = self.next(wire, "its answer to the login").await?;
            if let Some(error) = packet.error() {
                return Err(self.refused("the login", &error));
            }
            match packet.tag() {
                Some(packet::OK) => return Ok(()),
                Some(packet::SWITCH) => {
                    let (plugin, nonce) = packet.switch().ok_or_else(|| self.garbled())?;
                    let answer = match &*plugin {
                        // The latter takes the password itself once there is TLS.
                        b"mysql_clear_password" | b"sha256_password" => self.clear(secret)?,
                        _ => scramble(&plugin, secret, &nonce).ok_or_else(|| {
                            let way = self.login.said(&plugin);
                            self.login
                                .refused(&format!("wants user {:?} to log in by {way}, not spoken here", self.user))
                        })?,
                    };
                    self.send(wire, &answer).await?;
                }
                // caching_sha2_password: 3 is "known, wait for the result", 4 is "the password itself".
                Some(packet::MORE) if packet.body() == [3] => {}
                Some(packet::MORE) if packet.body() == [4] => {
                    let clear = self.clear(secret)?;
                    self.send(wire, &clear).await?;
                }
                _ => return Err(self.garbled()),
            }
        }
        Err(self.garbled())
    }

    /// The password itself goes only through TLS.
    fn clear(&self, secret: &str) -> Result<Vec<u8>, Fault> {
        if self.login.tls.is_none() {
            let text =
                "wants the password itself, which is only sent through TLS: set tls = {}, or log in once by hand";
            return Err(self.login.refused(text));
        }
        Ok([secret.as_bytes(), &[0]].concat())
    }

    async fn first_value(&self, wire: &mut Wire<'_>) -> Result<Answer, Fault> {
        let head = self.next(wire, RESULT).await?;
        if let Some(error) = head.error() {
            return Err(self.refused("the query", &error));
        }
        match head.tag() {
            Some(packet::OK) => return Ok(Answer::Nothing),
            // It asks for a file of ours: a statement of the owner's would not, so the server lies.
            Some(packet::NULL) => return Err(self.login.foreign("asks for a file of this host instead of answering")),
            _ => {}
        }
        // Definitions of the columns, then an end, then rows, then an end.
        let mut in_rows = false;
        let mut first = None;
        loop {
            let packet = self.next(wire, RESULT).await?;
            if let Some(error) = packet.error() {
                return Err(self.refused("the query", &error));
            }
            match (packet.is_end(), in_rows) {
                (true, true) => return Ok(first.unwrap_or(Answer::Nothing)),
                (true, false) => in_rows = true,
                (false, true) if first.is_none() => {
                    let field = packet.first_field().ok_or_else(|| self.garbled())?;
                    first = Some(match field {
                        Some(value) => super::answer(value),
                        None => Answer::Null,
                    });
                }
                _ => {}
            }
        }
    }

    async fn command(&self, wire: &mut Wire<'_>, command: u8, body: &[u8]) -> Result<(), Fault> {
        wire.begin();
        self.send(wire, &[&[command], body].concat()).await
    }

    async fn done(&self, wire: &mut Wire<'_>, what: &str) -> Result<(), Fault> {
        let packet = self.next(wire, what).await?;
        match packet.error() {
            Some(error) => Err(self.refused(what, &error)),
            None if packet.tag() == Some(packet::OK) => Ok(()),
            None => Err(self.garbled()),
        }
    }

    async fn send(&self, wire: &mut Wire<'_>, body: &[u8]) -> Result<(), Fault> {
        wire.send(body).await.map_err(|end| end.fault(&self.login.authority, "its next packet"))
    }

    async fn next(&self, wire: &mut Wire<'_>, awaited: &str) -> Result<Packet, Fault> {
        let most = if awaited == RESULT { packet::MAX_RESULT_BYTES } else { packet::MAX_LOGIN_BYTES };
        match wire.next(most).await {
            Ok(Some(packet)) => Ok(packet),
            Ok(None) => Err(self.garbled()),
            Err(End::TooMuch) if awaited == RESULT => {
                Err(self.login.refused("sent more than 256 KiB, or in too many pieces: let the query select less"))
            }
            Err(End::TooMuch) => Err(self.garbled()),
            Err(end) => Err(end.fault(&self.login.authority, awaited)),
        }
    }

    fn garbled(&self) -> Fault {
        self.login.foreign("does not speak the protocol of MySQL")
    }

    /// Codes are those of MySQL's server error reference.
    fn refused(&self, what: &str, error: &packet::Error) -> Fault {
        let advice = match error.code {
            1045 | 1698 => ": check auth.basic and the user of the url",
            1044 | 1142 => ": grant its user the right",
            1049 => ": name an existing database in the url",
            1130 => ": allow this host for the user there",
            1129 => ": run FLUSH HOSTS there",
            1040 | 1203 => ": raise max_connections there, or find who takes them all",
            _ => "",
        };
        self.login.refused(&format!("refused {what} with {} ({}){advice}", self.login.said(&error.message), error.code))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (toml, what) in [
            ("url = \"mysql://h/db\"", "no user to log in as"),
            ("url = \"mysql://u:hunter2@h/db\"", "write the password as auth"),
            ("url = \"mysql://u@h/db\"\nquery = 1", "must be a string"),
            ("url = \"mysql://u@h/db\"\nexpect = { value = 1 }", "cannot meet this expectation"),
        ] {
            let found = testing::prepare(&KIND, toml).findings.join("\n");
            assert!(found.contains(what) && !found.contains("hunter2"), "{toml}: {found}");
        }
    }
}
