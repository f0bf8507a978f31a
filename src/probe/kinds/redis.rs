//! `redis://host[:6379][/database]` and `rediss://`: connect, log in, `PING`, and if wanted one command with an expected
//! reply. RESP2, which every Redis, Valkey, KeyDB and Dragonfly speaks to who does not ask for more.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use self::reply::Reply;
use crate::model::{Answer, Fault, Observation};
use crate::probe::authority::Shape;
use crate::probe::form::Form;
use crate::probe::login::{Login, Secure, read_path};
use crate::probe::talk::Talk;
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

pub(crate) mod reply;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "redis",
    schemes: &["redis", "rediss"],
    form: Form::Authority,
    example_url: EXAMPLE,
    keys: &["ip_version", "auth", "tls", "query", "expect"],
    prepare,
    example: include_str!("redis/example.toml"),
};

const EXAMPLE: &str = "redis://cache.example:6379";
/// All replies of one check, bytes.
const MAX_RECEIVED_BYTES: usize = 256 * 1024;
const LOGIN: &str = "the login";
const QUERY: &str = "the query";
/// Behind it Redis quotes what it was sent.
const ARGUMENTS: &[u8] = b", with args";
/// A command as written, bytes.
const MAX_QUERY_BYTES: usize = 4 * 1024;

struct RedisProbe {
    login: Login,
    /// 0 is what a connection begins with.
    database: u32,
    /// Words of the command; empty: none.
    query: Box<[Box<[u8]>]>,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let shape = Shape { path: true, ..Shape::bare(Some(6379), EXAMPLE) };
    let login = Login::read(url, reader, shape, Secure::Scheme("rediss"));
    let database = match read_path(url, reader, "database").as_deref() {
        Some("") | None => 0,
        Some(text) => text.parse().unwrap_or_else(|_| {
            reader.error("url", "its database is not a number", format!("such as {EXAMPLE}/0"));
            0
        }),
    };
    let query = read_query(reader);
    let expect = Expectations::read(
        reader,
        Accepts { certificate: url.scheme() == "rediss", value: !query.is_empty(), ..Accepts::default() },
    );
    let login = login?;
    if login.username.is_some() && login.password.is_none() {
        reader.error("auth", "a user without a password", "set auth.basic.password".to_owned());
    }
    if reader.findings().count() > before {
        return None;
    }
    Some(Prepared { probe: Arc::new(RedisProbe { login, database, query }), expect: Arc::new(expect) })
}

fn read_query(reader: &mut TableReader<'_>) -> Box<[Box<[u8]>]> {
    let Some(text) = reader.string("query") else { return Box::default() };
    let words = shlex::split(&text).filter(|words| !words.is_empty() && text.len() <= MAX_QUERY_BYTES);
    match words {
        Some(words) => words.into_iter().map(|word| word.into_bytes().into()).collect(),
        None => {
            let allowed =
                format!("a command of at most {MAX_QUERY_BYTES} bytes, quoted as in a shell: \"GET 'a key'\"");
            reader.error("query", "not a command", allowed);
            Box::default()
        }
    }
}

impl Probe for RedisProbe {
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

impl RedisProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let stream = self.login.connect(context, seen).await?;
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
        if let Some(password) = &self.login.password {
            let mut auth: Vec<&[u8]> = vec![b"AUTH"];
            auth.extend(self.login.username.as_deref().map(str::as_bytes));
            auth.push(password.expose().as_bytes());
            self.ask(&mut talk, &auth, LOGIN).await?;
        }
        match self.ask(&mut talk, &[b"PING"], "PING").await? {
            Reply::Simple(text) if text == b"PONG" => {}
            other => return Err(self.login.foreign(&format!("answered PING with {}", self.login.said(&other.text())))),
        }
        if self.database != 0 {
            self.ask(&mut talk, &[b"SELECT", self.database.to_string().as_bytes()], "SELECT").await?;
        }
        if self.query.is_empty() {
            return Ok(());
        }
        let words: Vec<&[u8]> = self.query.iter().map(AsRef::as_ref).collect();
        let reply = self.ask(&mut talk, &words, QUERY).await?;
        seen.value = Some(answer(&reply));
        Ok(())
    }

    /// One command and its reply; an error reply is a fault.
    async fn ask(&self, talk: &mut Talk<'_>, words: &[&[u8]], what: &str) -> Result<Reply, Fault> {
        let place = &self.login.authority;
        let awaited = format!("its reply to {what}");
        talk.send(&reply::command(words)).await.map_err(|end| end.fault(place, &awaited))?;
        match reply::read(talk).await {
            Ok(Reply::Error(text)) => Err(self.refused(&text, what)),
            Ok(reply) => Ok(reply),
            Err(reply::Bad::End(end)) => Err(end.fault(place, &awaited)),
            Err(reply::Bad::Large) if what == QUERY => Err(self
                .login
                .refused("sent a longer reply than is read here (128 KiB, 1024 items): let the query ask for less")),
            Err(_) => Err(self.login.foreign("does not speak the protocol of Redis")),
        }
    }

    /// The first word of an error is its code.
    fn refused(&self, text: &[u8], what: &str) -> Fault {
        let advice = match text.split(|byte| *byte == b' ').next() {
            Some(b"NOAUTH") => ": set auth.basic.password",
            Some(b"WRONGPASS") => ": check auth.basic",
            Some(b"DENIED") => ": it is in protected mode",
            Some(b"NOPERM") => ": give its user the permission",
            _ if text.starts_with(b"ERR max number of clients") => {
                ": raise maxclients there, or find who takes them all"
            }
            _ => "",
        };
        // Of a command that it does not know, a server quotes the arguments: of AUTH, the password, maybe a part of it.
        let quoted = text.windows(ARGUMENTS.len()).position(|window| window == ARGUMENTS);
        let text = quoted.filter(|_| what == LOGIN).and_then(|at| text.get(..at)).unwrap_or(text);
        self.login.refused(&format!("refused {what} with {}{advice}", self.login.said(text)))
    }
}

fn answer(reply: &Reply) -> Answer {
    match reply {
        Reply::Null => Answer::Null,
        Reply::Array(items) => items.first().map_or(Answer::Nothing, answer),
        other => super::answer(&other.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (toml, what) in [
            ("url = \"redis://h/x\"", "its database is not a number"),
            ("url = \"redis://u@h\"", "a user without a password"),
            ("url = \"redis://h\"\nquery = \"GET 'a\"", "not a command"),
            ("url = \"redis://h\"\nquery = \"\"", "not a command"),
            ("url = \"redis://h\"\nexpect = { value = 1 }", "cannot meet this expectation"),
            ("url = \"redis://h\"\nexpect = { certificate_days_left = 3 }", "cannot meet this expectation"),
            ("url = \"redis://h\"\nquery = \"GET a\"\nexpect = { value = { above = 1, below = 2 } }", "at once"),
        ] {
            let found = testing::prepare(&KIND, toml).findings.join("\n");
            assert!(found.contains(what), "{toml}: {found}");
        }
    }

    #[test]
    fn the_first_item_of_a_list_is_the_answer() {
        let bulk = |text: &str| Reply::Bulk(text.as_bytes().into());
        assert_eq!(answer(&Reply::Array(vec![bulk("a"), bulk("b")])), Answer::Value("a".into()));
        assert_eq!(answer(&Reply::Array(Vec::new())), Answer::Nothing);
        assert_eq!(answer(&Reply::Null), Answer::Null);
        assert_eq!(answer(&Reply::Integer(7)), Answer::Value("7".into()));
    }
}
