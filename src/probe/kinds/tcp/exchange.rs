//! `exchange = [{ expect = "^220" }, { send = "QUIT\r\n" }]`: what is said on a TCP connection, and awaited.

use std::io;

use regex::bytes::{Regex, RegexBuilder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::model::{Failure, Fault, Phase, Timings};
use crate::settings::reader::TableReader;

/// All that is received in one exchange; protocols greet with less.
const MAX_RECEIVED_BYTES: usize = 64 * 1024;
const MAX_SENT_BYTES: usize = 64 * 1024;
const MAX_STEPS: usize = 32;
/// Bound on a compiled expression, and on its lazy automaton, bytes.
const REGEX_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 4 * 1024;
/// Each read is searched from the last match on: this many bound the work that a byte-wise sender can cause.
const MAX_READS: u32 = 4096;

/// One step.
pub(super) enum Step {
    /// Waits until all that was received, from the last match on, matches somewhere. `^` and `$` are those of lines.
    Expect(Regex),
    Send(Box<[u8]>),
}

/// Reads `exchange`; none is an exchange of no steps.
pub(super) fn read(reader: &mut TableReader<'_>) -> Box<[Step]> {
    let Some(tables) = reader.tables("exchange") else { return Box::default() };
    if tables.is_empty() && reader.list("exchange").is_some_and(<[_]>::is_empty) {
        reader.error("exchange", "empty", "leave it out, or give steps such as { expect = \"^220\" }".to_owned());
    }
    if tables.len() > MAX_STEPS {
        reader.error("exchange", format!("{} steps", tables.len()), format!("at most {MAX_STEPS}"));
    }
    tables.into_iter().filter_map(read_step).collect()
}

fn read_step(mut table: TableReader<'_>) -> Option<Step> {
    let both_or_none = table.node("expect").is_some() == table.node("send").is_some();
    let (expect, send) = (table.string("expect"), table.string("send"));
    let step = match (expect, send) {
        _ if both_or_none => {
            let allowed = "either { expect = \"^220\" } or { send = \"QUIT\\r\\n\" }".to_owned();
            table.error("", "a step is either expect or send", allowed);
            None
        }
        (Some(pattern), _) => read_pattern(&table, &pattern).map(Step::Expect),
        (_, Some(text)) if text.is_empty() || text.len() > MAX_SENT_BYTES => {
            let allowed = format!("must be 1 to {MAX_SENT_BYTES} bytes");
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

/// What was received, and how far it is accounted for.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// End of the last match: the next one begins there or later.
    matched: usize,
    reads: u32,
    /// What came before this was said before our last word, so it cannot be a wrong answer to it.
    heard: usize,
}

impl Received {
    fn has_unmatched(&self) -> bool {
        self.bytes.len() > self.matched.max(self.heard)
    }
}

/// Runs the steps; adds the phases, also of the step that fails. `place` is for messages.
pub(super) async fn run(
    steps: &[Step],
    stream: &mut TcpStream,
    place: &str,
    deadline: Instant,
    timings: &mut Timings,
) -> Result<(), Fault> {
    let mut received = Received::default();
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Send(text) => {
                let begin = Instant::now();
                let sent = timeout_at(deadline, stream.write_all(text)).await;
                timings.add(Phase::Send, begin.elapsed());
                match sent {
                    Ok(Ok(())) => received.heard = received.bytes.len(),
                    Ok(Err(error)) => return Err(broken(&error, place)),
                    Err(_) => {
                        let text = format!("{place} did not take what was sent within the timeout");
                        return Err(Fault::new(Failure::ResponseTimeout, text));
                    }
                }
            }
            Step::Expect(pattern) => {
                expect(pattern, stream, &mut received, deadline, timings)
                    .await
                    .map_err(|end| end.fault(&received, index + 1, place))?;
            }
        }
    }
    Ok(())
}

/// Why no more bytes will come.
enum End {
    Closed,
    Deadline,
    TooMuch,
    Broken(io::Error),
}

impl End {
    fn fault(self, received: &Received, step: usize, place: &str) -> Fault {
        let mismatch = |why: &str| {
            let text = format!("exchange step {step}: what {place} said does not match, {why}");
            Fault::new(Failure::ExchangeMismatch, text)
        };
        match self {
            Self::TooMuch => mismatch(&format!("not in {} bytes", received.bytes.len())),
            Self::Closed if received.has_unmatched() => mismatch("and it closed the connection"),
            Self::Deadline if received.has_unmatched() => mismatch("up to the timeout"),
            Self::Closed => {
                let text = format!("exchange step {step}: {place} closed the connection without an answer");
                Fault::new(Failure::ConnectionClosed, text)
            }
            Self::Deadline => {
                let text = format!("exchange step {step}: {place} said nothing within the timeout");
                Fault::new(Failure::ResponseTimeout, text)
            }
            Self::Broken(error) => broken(&error, place),
        }
    }
}

/// Waits for a match. The wait phase lasts until bytes come, the receive phase from there to the match.
async fn expect(
    pattern: &Regex,
    stream: &mut TcpStream,
    received: &mut Received,
    deadline: Instant,
    timings: &mut Timings,
) -> Result<(), End> {
    let mut phase = Phase::Wait;
    loop {
        if let Some(found) = pattern.find_at(&received.bytes, received.matched) {
            received.matched = found.end();
            return Ok(());
        }
        let room = MAX_RECEIVED_BYTES.saturating_sub(received.bytes.len());
        if room == 0 || received.reads == MAX_READS {
            return Err(End::TooMuch);
        }
        received.reads += 1;
        let begin = Instant::now();
        let mut piece = [0; READ_BYTES];
        let piece = piece.get_mut(..READ_BYTES.min(room)).unwrap_or_default();
        let read = timeout_at(deadline, stream.read(piece)).await;
        timings.add(phase, begin.elapsed());
        match read {
            Ok(Ok(0)) => return Err(End::Closed),
            Ok(Ok(length)) => received.bytes.extend_from_slice(piece.get(..length).unwrap_or_default()),
            Ok(Err(error)) => return Err(End::Broken(error)),
            Err(_) => return Err(End::Deadline),
        }
        phase = Phase::Receive;
    }
}

fn broken(error: &io::Error, place: &str) -> Fault {
    use io::ErrorKind as Kind;
    let failure = match error.kind() {
        Kind::TimedOut => Failure::ResponseTimeout,
        Kind::HostUnreachable => Failure::HostUnreachable,
        Kind::NetworkUnreachable => Failure::NetworkUnreachable,
        Kind::OutOfMemory => Failure::ResourceExhausted,
        _ => Failure::ConnectionReset,
    };
    Fault::new(failure, format!("the connection to {place} broke: {}", error.kind()))
}
