//! Plugins: those of the system, and some that do everything wrong.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lamplighter::model::Failure::{self, *};
use lamplighter::model::{Observation, Verdict};
use serde_json::{Value, json};

use crate::support::daemon::Home;
use crate::support::probing::{check, phases};
use crate::support::target::until;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);
const PLUGINS: &str = "/usr/lib/nagios/plugins";

async fn plugin(line: &str, timeout: Duration) -> Observation {
    check(&json!({ "url": format!("exec:{line}") }), timeout).await
}

/// A script that is given to a shell: a file that was just written may still be open in a fork of another test.
struct Script {
    folder: tempfile::TempDir,
}

impl Script {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plugin"), text.replace("@", folder.path().to_str().unwrap())).unwrap();
        Self { folder }
    }

    fn line(&self) -> String {
        format!("/bin/sh {}", self.path("plugin").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn check(&self, timeout: Duration) -> Observation {
        plugin(&self.line(), timeout).await
    }

    /// Whether the process whose id a script wrote into this file is gone, waited for.
    async fn gone(&self, name: &str) {
        let id: i32 = std::fs::read_to_string(self.path(name)).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(id).unwrap();
        let by = Instant::now() + Duration::from_secs(5);
        while rustix::process::test_kill_process(pid).is_ok() && !is_zombie(id) {
            assert!(Instant::now() < by, "process {id} of {name} lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Killed, and not yet reaped by who adopted it.
fn is_zombie(id: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn told(seen: &Observation) -> (Option<Verdict>, Option<Failure>) {
    (seen.graded, seen.fault.as_ref().map(|fault| fault.failure))
}

fn detail(seen: &Observation, name: &str) -> Value {
    let details = serde_json::to_value(seen.details.as_deref()).unwrap();
    details[name].clone()
}

#[tokio::test]
async fn real_plugins() {
    for (line, graded, text) in [
        ("check_dummy 0 'all is well'", None, "OK: all is well"),
        ("check_dummy 1", Some(Verdict::Degraded), "WARNING"),
        ("check_dummy 2 \"it's gone\"", Some(Verdict::Down), "CRITICAL: it's gone"),
        ("check_dummy 3 who\\ knows", Some(Verdict::Unknown), "UNKNOWN: who knows"),
    ] {
        let seen = plugin(&format!("{PLUGINS}/{line}"), LONG).await;
        assert_eq!(told(&seen), (graded, graded.map(|_| CommandFailed)), "{line}");
        assert_eq!((detail(&seen, "output"), phases(&seen)), (json!(text), vec!["wait"]), "{line}");
        if let Some(fault) = seen.fault {
            assert!(
                fault.message.starts_with("check_dummy says ") && fault.message.ends_with(text),
                "{}",
                fault.message
            );
        }
    }
    let seen = plugin(&format!("{PLUGINS}/check_disk -w 0% -c 0% -p /"), LONG).await;
    assert_eq!(told(&seen), (None, None), "{:?}", seen.fault);
    let root = detail(&seen, "perfdata")["/"].clone();
    assert!(root["value"].as_f64().unwrap() > 0.0 && root["unit"].is_string() && root["max"].is_number(), "{root}");
    let seen = plugin(&format!("{PLUGINS}/check_procs -w 1:100000"), LONG).await;
    assert_eq!(told(&seen), (None, None), "{:?}", seen.fault);
    assert!(detail(&seen, "perfdata")["procs"]["value"].as_i64().unwrap() > 0);
}

#[tokio::test]
async fn what_cannot_be_started_is_ours() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plain");
    std::fs::write(&file, "no program").unwrap();
    for (line, failure) in [
        ("/no/such/plugin".to_owned(), Internal),
        ("/etc/passwd/plugin".to_owned(), Internal),
        ("/".to_owned(), PermissionDenied),
        (file.to_str().unwrap().to_owned(), PermissionDenied),
    ] {
        let seen = plugin(&line, LONG).await;
        assert_eq!((told(&seen), phases(&seen)), ((None, Some(failure)), vec!["wait"]), "{line}");
        assert!(seen.fault.unwrap().message.starts_with(&format!("{line} could not be started: ")));
    }
}

#[tokio::test]
async fn the_environment_is_the_monitors_own() {
    let monitor = json!({ "url": "exec:/usr/bin/env", "env": { "TOKEN": "t0ken", "EMPTY": "" } });
    let seen = check(&monitor, LONG).await;
    let mut lines: Vec<Value> = detail(&seen, "long_output").as_array().unwrap().clone();
    lines.push(detail(&seen, "output"));
    lines.sort_by_key(Value::to_string);
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["EMPTY=", "LC_ALL=C.UTF-8", path, "TOKEN=t0ken"]);
    let seen = Script::new("pwd; cat; readlink /proc/$$/fd/0").check(LONG).await;
    assert_eq!((detail(&seen, "output"), detail(&seen, "long_output")), (json!("/"), json!(["/dev/null"])));
}

#[tokio::test]
async fn plugins_that_do_not_end() {
    let polite =
        Script::new("trap 'echo terminated; exit 2' TERM; echo started; echo $$ >@/a; while :; do sleep 0.05; done");
    let deaf =
        Script::new("trap '' TERM; echo $$ >@/a; sh -c 'echo $$ >@/b; exec sleep 100' & while :; do sleep 0.05; done");
    let stopped = Script::new("echo $$ >@/a; kill -STOP $$");
    for (name, script, children) in
        [("polite", polite, &["a"][..]), ("deaf", deaf, &["a", "b"]), ("stopped", stopped, &["a"])]
    {
        let seen = script.check(SHORT).await;
        assert_eq!(told(&seen), (Some(Verdict::Down), Some(CommandFailed)), "{name}");
        assert!(seen.timings.total >= SHORT, "{name}");
        let message = seen.fault.unwrap().message;
        assert!(message.contains("did not end within the timeout and was killed"), "{name}: {message}");
        assert_eq!(message.contains("started"), name == "polite", "{message}");
        for child in children {
            script.gone(child).await;
        }
    }
}

#[tokio::test]
async fn children_left_behind_hold_nothing_up() {
    let brood = "for n in 1 2 3; do sh -c 'echo $$ >@/'$n'; exec sleep 100' & done\n\
                 while ! [ -s @/1 ] || ! [ -s @/2 ] || ! [ -s @/3 ]; do sleep 0.01; done; echo OK";
    let script = Script::new(brood);
    let seen = script.check(LONG).await;
    assert_eq!((told(&seen), detail(&seen, "output")), ((None, None), json!("OK")));
    assert!(seen.timings.total < LONG / 2, "{:?}", seen.timings);
    for child in ["1", "2", "3"] {
        script.gone(child).await;
    }
    // One that leaves the group lives on, but holds nothing up.
    let script =
        Script::new("setsid sh -c 'echo $$ >@/a; exec sleep 30' & while ! [ -s @/a ]; do sleep 0.01; done; echo OK");
    let seen = script.check(LONG).await;
    assert_eq!((told(&seen), detail(&seen, "output")), ((None, None), json!("OK")));
    assert!(seen.timings.total < LONG / 2, "{:?}", seen.timings);
    let id: i32 = std::fs::read_to_string(script.path("a")).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn output_of_every_kind() {
    for (name, text, graded, output) in [
        ("nothing", "", None, Value::Null),
        ("no line end", "printf 'DISK OK'", None, json!("DISK OK")),
        ("garbage", "printf '\\377\\376\\000|=;\\000\\n'", None, json!("\u{fffd}\u{fffd}\0")),
        ("only on standard error", "echo 'no such host' >&2; exit 3", Some(Verdict::Unknown), json!("no such host")),
        ("a code of nobody's", "exit 42", Some(Verdict::Unknown), Value::Null),
        ("a crash", "kill -SEGV $$", Some(Verdict::Unknown), Value::Null),
        ("nothing to run", "/no/such/thing", Some(Verdict::Unknown), json!("@/plugin: 1: /no/such/thing: not found")),
        ("much", "echo first; head -c 10000000 /dev/zero; exit 1", Some(Verdict::Degraded), json!("first")),
        ("a long line", "head -c 100000 /dev/zero | tr '\\0' x", None, json!("x".repeat(64 * 1024))),
        ("both closed early", "exec >&- 2>&-; sleep 0.2; exit 2", Some(Verdict::Down), Value::Null),
    ] {
        let script = Script::new(text);
        let seen = script.check(LONG).await;
        assert_eq!(told(&seen), (graded, graded.map(|_| CommandFailed)), "{name}: {:?}", seen.fault);
        let output = output.as_str().map(|text| text.replace('@', script.folder.path().to_str().unwrap()));
        assert_eq!(detail(&seen, "output").as_str().map(str::to_owned), output, "{name}");
    }
}

#[tokio::test]
async fn a_flood_is_stopped() {
    for text in ["cat /dev/zero", "trap '' TERM; cat /dev/zero >&2", "head -c 100000000 /dev/zero"] {
        let seen = Script::new(text).check(LONG).await;
        assert_eq!(told(&seen), (Some(Verdict::Unknown), Some(CommandFailed)), "{text}");
        assert!(seen.fault.unwrap().message.contains("wrote more than 16 MiB"), "{text}");
    }
}

#[tokio::test]
async fn a_check_that_is_cut_off_takes_its_plugin_along() {
    let script = Script::new("sh -c 'echo $$ >@/b; exec sleep 100' & echo $$ >@/a; wait");
    let line = script.line();
    let checking = tokio::spawn(async move { plugin(&line, LONG).await });
    while !["a", "b"].iter().all(|name| std::fs::read_to_string(script.path(name)).is_ok_and(|id| id.ends_with('\n'))) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    checking.abort();
    assert!(checking.await.unwrap_err().is_cancelled());
    script.gone("a").await;
    script.gone("b").await;
}

#[tokio::test]
async fn a_command_that_is_interrupted_takes_its_plugin_along() {
    use rustix::process::Signal;
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(143)), (Signal::HUP, Some(129))] {
        let script = Script::new("sh -c 'echo $$ >@/b; exec sleep 100' & echo $$ >@/a; wait");
        let home = Home::new("");
        // Whatever the shell that runs the tests ignores would be ignored here as well: env sets it back.
        let own = home.command(&["probe", &format!("exec:{}", script.line()), "--timeout", "60s"]);
        let mut command = std::process::Command::new("env");
        command.arg("--default-signal=INT,TERM,HUP").arg(own.get_program()).args(own.get_args());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let written = |name: &str| std::fs::read_to_string(script.path(name)).is_ok_and(|id| id.ends_with('\n'));
        until("the plugin runs", LONG, async || ["a", "b"].into_iter().all(written).then_some(())).await;
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let ended = until("the command ends", LONG, async || child.try_wait().unwrap()).await;
        assert_eq!(ended.code(), code, "{signal:?}");
        script.gone("a").await;
        script.gone("b").await;
    }
}
