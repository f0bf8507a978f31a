//! `exchange = [{ expect = "^220" }, { send = "QUIT\r\n" }]`: what is said to a target, and awaited.

use std::io;

use regex::bytes::{Regex, RegexBuilder};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::ProbeContext;
use super::authority::Authority;
use super::net::{Stream, TlsOptions};
use super::talk::{self, End, Talk};
use crate::model::{Failure, Fault, Observation};
use crate::settings::reader::TableReader;

/// All that is received in one exchange, bytes; protocols greet with less.
pub const MAX_RECEIVED_BYTES: usize = 64 * 1024;
/// One send over a stream, bytes.
pub const MAX_SENT_BYTES: usize = 64 * 1024;
const MAX_STEPS: usize = 32;
/// Bound on a compiled expression, and on its lazy automaton, bytes.
const REGEX_BYTES: usize = 1 << 20;

/// One step.
enum Step {
    /// Waits until all that was received, from the last match on, matches somewhere. `^` and `$` are those of lines.
    Expect(Regex),
    Send(Box<[u8]>),
}

/// What to say and to await, ready to run any number of times.
#[derive(Default)]
pub struct Script(Box<[Step]>);

/// What a script runs over.
pub trait Line: Send {
    /// Sends all of it, as one piece where pieces count.
    fn say(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), End>> + Send;

    /// Waits for more.
    fn hear(&mut self) -> impl Future<Output = Result<Heard, End>> + Send;

    /// What was heard and may still be matched.
    fn heard(&self) -> &[u8];

    /// The fault of a line that broke.
    fn broken(&self, error: &io::Error, place: &Authority) -> Fault;
}

/// What came of [`Line::hear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// There is more at the end of what was heard before.
    More,
    /// What was heard before is gone: a datagram stands by itself.
    Anew,
}

impl Line for Talk<'_> {
    async fn say(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.send(bytes).await
    }

    async fn hear(&mut self) -> Result<Heard, End> {
        self.more().await.map(|()| Heard::More)
    }

    fn heard(&self) -> &[u8] {
        self.unread()
    }

    fn broken(&self, error: &io::Error, place: &Authority) -> Fault {
        talk::broken(error, place)
    }
}

/// Reads `exchange`; none is an exchange of no steps. `most_sent` bounds one send, bytes.
pub fn read(reader: &mut TableReader<'_>, most_sent: usize) -> Script {
    let Some(tables) = reader.tables("exchange") else { return Script::default() };
    if tables.is_empty() && reader.list("exchange").is_some_and(<[_]>::is_empty) {
        reader.error("exchange", "empty", "leave it out, or give steps such as { expect = \"^220\" }".to_owned());
    }
    if tables.len() > MAX_STEPS {
        reader.error("exchange", format!("{} steps", tables.len()), format!("at most {MAX_STEPS}"));
    }
    Script(tables.into_iter().filter_map(|table| read_step(table, most_sent)).collect())
}

fn read_step(mut table: TableReader<'_>, most_sent: usize) -> Option<Step> {
    let both_or_none = table.node("expect").is_some() == table.node("send").is_some();
    let (expect, send) = (table.string("expect"), table.string("send"));
    let step = match (expect, send) {
        _ if both_or_none => {
            let allowed = "either { expect = \"^220\" } or { send = \"QUIT\\r\\n\" }".to_owned();
            table.error("", "a step is either expect or send", allowed);
            None
        }
        (Some(pattern), _) => read_pattern(&table, &pattern).map(Step::Expect),
        (_, Some(text)) if text.is_empty() || text.len() > most_sent => {
            let allowed = format!("must be 1 to {most_sent} bytes");
            table.error("send", format!("{} bytes to send", text.len()), allowed);
            None
        }
        (_, text) => text.map(|text| Step::Send(text.into_bytes().into())),
    };
    table.finish(&|_| None);
    step
}

fn read_pattern(table: &TableReader<'_>, pattern: &str) -> Option<Regex> {
    if pattern.is_empty() {
        table.error("expect", "empty, which matches anything", "such as \"^220\"".to_owned());
        return None;
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.multi_line(true).crlf(true).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES);
    match builder.build() {
        Ok(regex) => Some(regex),
        Err(regex::Error::CompiledTooBig(_)) => {
            table.error("expect", "the expression is too large", "fewer or smaller repetitions".to_owned());
            None
        }
        Err(why) => {
            // The last line says what is wrong; those before it quote the pattern.
            let why = why.to_string();
            let last = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            table.error("expect", format!("not a regular expression: {last}"), "syntax of the regex crate".to_owned());
            None
        }
    }
}

/// How far what was heard is accounted for.
#[derive(Default)]
struct Account {
    /// End of the last match: the next one begins there or later.
    matched: usize,
    /// What came before this was said before our last word, so it cannot be a wrong answer to it.
    answered: usize,
    /// Something came that matched nothing, however long it is.
    mismatched: bool,
}

impl Account {
    fn has_unmatched(&self, heard: &[u8]) -> bool {
        self.mismatched || heard.len() > self.matched.max(self.answered)
    }

    async fn expect(&mut self, pattern: &Regex, line: &mut impl Line) -> Result<(), End> {
        loop {
            if let Some(found) = pattern.find_at(line.heard(), self.matched) {
                self.matched = found.end();
                self.mismatched = false;
                return Ok(());
            }
            if line.hear().await? == Heard::Anew {
                // Until it matches; also when it is empty.
                *self = Self { mismatched: true, ..Self::default() };
            }
        }
    }

    fn fault(&self, end: End, step: usize, line: &impl Line, place: &Authority) -> Fault {
        let unmatched = self.has_unmatched(line.heard());
        let mismatch = |why: &str| {
            let text = format!("exchange step {step}: what {place} said does not match, {why}");
            Fault::new(Failure::ExchangeMismatch, text)
        };
        match end {
            End::TooMuch => mismatch("and it says more than an exchange may have"),
            End::Closed if unmatched => mismatch("and it closed the connection"),
            End::Deadline if unmatched => mismatch("up to the timeout"),
            End::Closed => {
                let text = format!("exchange step {step}: {place} closed the connection without an answer");
                Fault::new(Failure::ConnectionClosed, text)
            }
            End::Deadline => {
                let text = format!("exchange step {step}: {place} said nothing within the timeout");
                Fault::new(Failure::ResponseTimeout, text)
            }
            End::Broken(error) => line.broken(&error, place),
        }
    }
}

impl Script {
    /// Nothing to say, nothing to await.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the first step sends, and a later one awaits an answer.
    #[must_use]
    pub fn asks(&self) -> bool {
        matches!(self.0.first(), Some(Step::Send(_))) && self.0.iter().any(|step| matches!(step, Step::Expect(_)))
    }

    /// Runs the steps in order. `place` is for messages.
    pub async fn run(&self, line: &mut impl Line, place: &Authority) -> Result<(), Fault> {
        let mut account = Account::default();
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Send(bytes) => {
                    line.say(bytes).await.map_err(|end| unsent(end, line, place))?;
                    account.answered = line.heard().len();
                    account.mismatched = false;
                }
                Step::Expect(pattern) => {
                    let ended = account.expect(pattern, line).await;
                    ended.map_err(|end| account.fault(end, index + 1, line, place))?;
                }
            }
        }
        Ok(())
    }
}

fn unsent(end: End, line: &impl Line, place: &Authority) -> Fault {
    match end {
        End::Broken(error) => line.broken(&error, place),
        _ => {
            let text = format!("{place} did not take what was sent within the timeout");
            Fault::new(Failure::ResponseTimeout, text)
        }
    }
}

/// A whole check under TLS: the handshake, then the script; without one what the server thinks of our certificate. Says
/// goodbye, since servers log a connection that is cut off as an attack.
pub async fn under_tls(
    stream: TcpStream,
    authority: &Authority,
    options: &TlsOptions,
    script: &Script,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<(), Fault> {
    let shaken = talk::shake(stream, authority, options, context, seen).await;
    let mut stream = shaken.result?;
    if script.is_empty() {
        if shaken.wants_client {
            context.net.refusal(&mut stream, context.deadline, &mut seen.timings).await?;
        }
        let _ = timeout_at(context.deadline, stream.shutdown()).await;
        return Ok(());
    }
    let stream = Stream::Tls(Box::new(stream));
    let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
    script.run(&mut talk, authority).await?;
    let _ = timeout_at(context.deadline, talk.into_stream().shutdown()).await;
    Ok(())
}
