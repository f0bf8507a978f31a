//! `exec:/path arguments`: a program of the operator's that speaks the Nagios plugin protocol, started without a shell.
//!
//! Only monitors of the configuration file may have one: it runs as the daemon's user.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rustix::io::Errno;
use serde_json::Value as Json;
use tokio::process::Command;
use tokio::time::Instant;
use url::Url;

use self::child::{Ending, Ran};
use self::output::Output;
use crate::model::{Failure, Fault, Observation, Phase, Secret, Verdict};
use crate::probe::form::{self, Form};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::settings::tree::Value;
use crate::verdict::expectation::{Accepts, Expectations};

mod arguments;
mod child;
pub(crate) mod output;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "exec",
    schemes: &["exec"],
    form: Form::Command,
    example_url: "exec:/usr/lib/nagios/plugins/check_disk -w 10% -c 5%",
    keys: &["env", "expect"],
    prepare,
    example: include_str!("exec/example.toml"),
};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables of one monitor.
const MAX_VARIABLES: usize = 64;

struct ExecProbe {
    program: Box<str>,
    arguments: Box<[String]>,
    environment: Box<[(Box<str>, Secret)]>,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    if !reader.origin().trusted {
        let way_out = "define the monitor in the configuration file".to_owned();
        reader.error("url", "a command is not allowed in the database or over the API", way_out);
    }
    // An argument can be read by every user of the machine.
    if reader.string_raw("url").is_some_and(|raw| raw.replace("$${", "").contains("${")) {
        let way_out = "hand secrets over in env = { NAME = { file = \"path\" } }".to_owned();
        reader.error("url", "a command line takes no references", way_out);
    }
    let arguments = form::command(url).and_then(|line| match arguments::split(&line) {
        Ok(arguments) => Some(arguments),
        Err(arguments::Unfinished(what)) => {
            let way_out = "quote with '…' or \"…\"; a backslash keeps the next character".to_owned();
            reader.error("url", what, way_out);
            None
        }
    });
    let environment = read_environment(reader);
    let expect = Expectations::read(reader, Accepts::default());
    if reader.findings().count() > before {
        return None;
    }
    let mut arguments = arguments?.into_iter();
    let program = arguments.next()?.into();
    let probe = ExecProbe { program, arguments: arguments.collect(), environment: environment.into() };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

/// `env = { NAME = "value" }`; a value may also be a reference to a secret.
fn read_environment(reader: &mut TableReader<'_>) -> Vec<(Box<str>, Secret)> {
    let Some(node) = reader.node("env") else { return Vec::new() };
    let Value::Table(table) = &node.value else {
        let allowed = "must be a table, such as { PASSWORD = { file = \"path\" } }";
        reader.error("env", format!("found {}", node.value.type_name()), allowed.to_owned());
        return Vec::new();
    };
    if table.entries.len() > MAX_VARIABLES {
        reader.error("env", format!("{} variables", table.entries.len()), format!("at most {MAX_VARIABLES}"));
    }
    let mut environment = Vec::with_capacity(table.entries.len());
    for entry in &table.entries {
        let key = format!("env.{}", entry.key);
        let complain = |what: &str, allowed: &str| {
            reader.error_at(entry.key_span.or(entry.node.span), &key, what, allowed.to_owned());
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !entry.key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !entry.key.chars().all(is_name) {
            complain("not the name of a variable", "letters, digits and _, no digit first");
            continue;
        }
        let value = match &entry.node.value {
            Value::Table(_) => reader.secret_of(&key, &entry.node),
            _ => reader.string_of(&key, &entry.node).map(Secret::new),
        };
        match value {
            Some(value) if value.expose().contains('\0') => complain("has a NUL in it", "remove it"),
            Some(value) => environment.push((entry.key.clone(), value)),
            None => {}
        }
    }
    environment
}

impl Probe for ExecProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            let ran = child::run(self.command(), context.deadline).await;
            // Starting it is the beginning of the wait, and the end of it when it cannot be started.
            seen.timings.add(Phase::Wait, start.elapsed());
            match ran {
                Ok(ran) => self.tell(&ran, &mut seen),
                Err(error) => seen.fault = Some(self.not_started(&error)),
            }
            super::close_timings(&mut seen, start);
            seen
        })
    }
}

impl ExecProbe {
    fn command(&self) -> Command {
        let mut command = Command::new(&*self.program);
        command.args(&*self.arguments).current_dir("/");
        // Whatever started the daemon: a plugin sees the same. Numbers and messages are English.
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8");
        command.envs(self.environment.iter().map(|(name, value)| (&**name, value.expose())));
        command
    }

    /// The program's name without its folder, for messages.
    fn name(&self) -> &str {
        Path::new(&*self.program).file_name().and_then(|name| name.to_str()).unwrap_or(&self.program)
    }

    fn not_started(&self, error: &io::Error) -> Fault {
        let program = &self.program;
        let (failure, why) = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ACCESS | Errno::PERM) => {
                (Failure::PermissionDenied, "the daemon's user may not execute it; see its mode and its folders'")
            }
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
                (Failure::ResourceExhausted, "no processes, memory or descriptors are left on this host")
            }
            Some(Errno::NOENT) => (Failure::Internal, "there is no such file (or no interpreter of its first line)"),
            Some(Errno::NOEXEC) => (Failure::Internal, "it is no program; a script's first line is \"#!\" and a path"),
            Some(Errno::TXTBSY) => (Failure::Internal, "the file is being written"),
            _ if error.kind() == io::ErrorKind::TimedOut => {
                (Failure::ResourceExhausted, "starting it took longer than the timeout")
            }
            _ => return Fault::new(Failure::Internal, format!("{program} could not be started: {error}")),
        };
        Fault::new(failure, format!("{program} could not be started: {why}"))
    }

    fn tell(&self, ran: &Ran, seen: &mut Observation) {
        let output = Output::read(&ran.stdout);
        // Many plugins explain on standard error why they have nothing to say.
        let said = if output.text.is_empty() { Output::read(&ran.stderr).text } else { output.text };
        if let Ending::Exited(status) = &ran.ending {
            seen.note(if status.code().is_some() { "exit_code" } else { "signal" }, status.code().or(status.signal()));
        }
        if !said.is_empty() {
            seen.note("output", said.as_str());
        }
        if !output.more.is_empty() {
            seen.note("long_output", output.more);
        }
        if !output.values.is_empty() {
            seen.note("perfdata", Json::Object(output.values));
        }
        let Some((verdict, what)) = graded(&ran.ending) else { return };
        let separator = if said.is_empty() { "" } else { ": " };
        let text = format!("{} {what}{separator}{said}", self.name());
        (seen.graded, seen.fault) = (Some(verdict), Some(Fault::new(Failure::CommandFailed, text)));
    }
}

/// What an end means; none: all is well. 1, 2 and 3 are the Monitoring Plugins Development Guidelines'. Any other end is
/// a plugin that broke, which says nothing about what it looks at.
fn graded(ending: &Ending) -> Option<(Verdict, String)> {
    let broke = |status: &ExitStatus| match (status.code(), status.signal()) {
        (Some(126 | 127), _) => "could not run what it calls (exit code 126 or 127 of a shell)".to_owned(),
        (Some(code), _) => format!("ended with {code}, which the plugin protocol does not know"),
        (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
    };
    Some(match ending {
        Ending::Exited(status) => match status.code() {
            Some(0) => return None,
            Some(1) => (Verdict::Degraded, "says WARNING".to_owned()),
            Some(2) => (Verdict::Down, "says CRITICAL".to_owned()),
            Some(3) => (Verdict::Unknown, "says UNKNOWN".to_owned()),
            _ => (Verdict::Unknown, broke(status)),
        },
        Ending::TimedOut => (Verdict::Down, "did not end within the timeout and was killed".to_owned()),
        Ending::Flooded => {
            let most = child::MOST_BYTES >> 20;
            (Verdict::Unknown, format!("wrote more than {most} MiB and was killed"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn findings(toml: &str) -> String {
        let read = testing::prepare(&KIND, toml);
        assert!(read.value.is_some() || !read.findings.is_empty(), "nothing, and no reason: {toml}");
        read.findings.join("\n")
    }

    #[test]
    fn what_is_wrong_is_said() {
        for good in
            ["url = 'exec:/bin/true'", "url = 'exec:/bin/a $HOME $${x} # ?'", "url = 'exec:/a'\nenv = { A_1 = '' }"]
        {
            assert_eq!(findings(good), "", "{good}");
        }
        for (bad, what) in [
            ("url = 'exec:/bin/a ${SECRET}'", "env = { NAME = { file"),
            ("url = 'exec:/bin/a \"b'", "has a \" without its end"),
            ("url = 'exec:/a'\nenv = { 1A = 'x' }", "not the name of a variable"),
            ("url = 'exec:/a'\nenv = { A = 1 }", "must be a string"),
            ("url = 'exec:/a'\nenv = 'A=1'", "must be a table"),
            ("url = 'exec:/a'\n[expect]\nstatus = [200]", "cannot meet"),
        ] {
            let found = findings(bad);
            assert!(found.contains(what), "{bad}: {found}");
        }
    }

    #[test]
    fn rows_have_no_commands() {
        let read = testing::read_as(false, "url = 'exec:/bin/true'", KIND.prepare);
        assert!(read.value.is_none());
        assert!(read.findings.join("").contains("is not allowed in the database"), "{:?}", read.findings);
    }

    #[test]
    fn references_in_the_environment_are_secrets() {
        let read = testing::prepare(&KIND, "url = 'exec:/a'\nenv = { A = '${SECRET}', B = 'plain' }");
        assert_eq!(read.secrets.iter().map(Secret::expose).collect::<Vec<_>>(), ["s3cr3t!"]);
    }

    #[test]
    fn exit_codes_have_their_verdicts() {
        let of = |raw: i32| graded(&Ending::Exited(ExitStatus::from_raw(raw))).map(|(verdict, _)| verdict);
        let code = |code: i32| of(code << 8);
        assert_eq!(code(0), None);
        assert_eq!([1, 2, 3].map(code), [Verdict::Degraded, Verdict::Down, Verdict::Unknown].map(Some));
        assert_eq!([4, 126, 127, 255].map(code), [Some(Verdict::Unknown); 4]);
        assert_eq!([of(9), of(11 | 0x80)], [Some(Verdict::Unknown); 2]);
    }
}
