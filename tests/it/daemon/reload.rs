//! Every way in which a configuration changes, several at once, and what nobody changed meanwhile.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{MOST, monitor, on};
use crate::support::daemon::{Daemon, Home, ask, has_code};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// A way of saving a text, with its name.
type Saving<'a> = (&'a str, &'a dyn Fn(&str));
/// A way of spoiling the file: its name, what the refusal says, and how.
type Spoiling<'a> = (&'a str, &'a str, Box<dyn Fn() + 'a>);

/// A daemon whose configuration is a Kubernetes mount and has a `config.d`, on a folder that is itself replaced.
struct World {
    db: TestDb,
    target: Target,
    home: Home,
    daemon: Daemon,
    version: usize,
    /// Applied when the last good configuration was made: what is asked before its application has ended says nothing.
    applied_before: usize,
}

impl World {
    async fn start() -> Self {
        let (db, target) = (TestDb::new().await, Target::start().await);
        let home = Home::new(&on(&db.url, &monitor("steady", &target.url("/steady"))));
        let daemon = home.start();
        daemon.wait_status("steady", "up").await;
        Self { db, target, home, daemon, version: 0, applied_before: 0 }
    }

    fn config(&self) -> PathBuf {
        self.home.config()
    }

    /// A good configuration that no other is like: its second monitor asks a path of its own.
    fn good(&mut self) -> (String, String) {
        self.version += 1;
        self.applied_before = self.applied();
        let path = format!("/v{}", self.version);
        let monitors = monitor("steady", &self.target.url("/steady")) + &monitor("second", &self.target.url(&path));
        let state = self.home.state().display().to_string();
        let head = format!("daemon.state_directory = {state:?}\nserver.listen = \"127.0.0.1:0\"\n");
        (head + &on(&self.db.url, &monitors), path)
    }

    async fn asks(&self, what: &str, path: &str) {
        until(&format!("{what}: {path} is asked"), MOST, async || (self.target.hits(path) > 0).then_some(())).await;
        // The monitors are told before the reload has ended and is logged.
        let logged = async || (self.applied() > self.applied_before).then_some(());
        until(&format!("{what}: its application is logged"), MOST, logged).await;
        self.daemon
            .wait_ready(&format!("{what}: nothing is refused"), |status, body| {
                status == 200 && !has_code(body, "config_refused") && !has_code(body, "archive_held")
            })
            .await;
    }

    async fn refused(&self, what: &str, why: &str) {
        self.daemon
            .wait_ready(&format!("{what}: refused, saying {why:?}"), |status, body| {
                status == 200 && has_code(body, "config_refused") && body["notes"].to_string().contains(why)
            })
            .await;
        let stream = tokio::net::UnixStream::connect(self.home.socket()).await.unwrap();
        let answer = ask(stream, "POST", "/api/v1/reload").await;
        assert_eq!(answer.status, 422, "{what}: {}", answer.body);
        assert!(answer.body.contains(why), "{what}: {}", answer.body);
        // The command finds the daemon by the file.
        let is_file = fs::metadata(self.config()).is_ok_and(|found| found.is_file());
        if is_file && fs::read_to_string(self.config()).is_ok_and(|text| text.starts_with("daemon.state_directory")) {
            let reload = self.home.output(&["reload"]);
            let text = String::from_utf8(reload.stderr).unwrap();
            assert_eq!(reload.status.code(), Some(1), "{what}: {text}");
            assert!(text.contains(why), "{what}: {text}");
        }
    }

    fn applied(&self) -> usize {
        self.daemon.log().matches("configuration applied").count()
    }
}

/// A 1 s monitor that nobody changed: by the target's own log each second has its beat, in the same phase. The first check
/// comes at once and not in the phase. A busy machine delays single beats; a second that is left out, asked twice or moved
/// shifts all that follow, so of each half of the beats the most punctual counts.
async fn assert_steady(target: &Target, path: &str, what: &str) {
    until("there are beats to look at", MOST, async || (target.beats(path).len() > 8).then_some(())).await;
    let beats = &target.beats(path)[1..];
    let offset = |(number, beat): (usize, &Instant)| (*beat - beats[0]).as_secs_f64() - number as f64;
    let offsets: Vec<f64> = beats.iter().enumerate().map(offset).collect();
    let least = |offsets: &[f64]| offsets.iter().copied().fold(f64::INFINITY, f64::min);
    let (before, after) = offsets.split_at(offsets.len() / 2);
    let shift = least(after) - least(before);
    assert!(shift.abs() < 0.3, "{what}: {path} has moved by {shift} s: {offsets:?}");
    let most = offsets.iter().copied().fold(0.0, f64::max) - least(&offsets);
    assert!(most < 0.9, "{what}: {path} was late by {most} s: {offsets:?}");
}

fn replace(path: &Path, text: &str) {
    let draft = path.with_file_name("4913");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_saving_a_good_file_is_noticed() {
    let mut world = World::start().await;
    let file = world.config();
    let fresh_backup = |text: &str| {
        // emacs keeps the old file as a backup and writes a new one.
        fs::rename(&file, file.with_file_name("config.toml~")).unwrap();
        fs::write(&file, text).unwrap();
    };
    let sed = |text: &str| {
        let draft = file.with_file_name("sedAbC123");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, &file).unwrap();
    };
    let ways: [Saving<'_>; 6] = [
        ("an editor's rename", &|text| replace(&file, text)),
        ("a backup and a new file", &fresh_backup),
        ("sed -i", &sed),
        ("truncated and written", &|text| fs::write(&file, text).unwrap()),
        ("deleted and made anew", &|text| {
            fs::remove_file(&file).unwrap();
            fs::write(&file, text).unwrap();
        }),
        ("with a time of long ago", &|text| {
            fs::write(&file, text).unwrap();
            let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1);
            fs::File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
        }),
    ];
    for (what, save) in ways {
        let (text, path) = world.good();
        save(&text);
        world.asks(what, &path).await;
    }
    // In slow pieces, each of which but the last is a valid file without the second monitor.
    let (text, path) = world.good();
    let applied = world.applied();
    let at = text.find("[[monitor]]\nid = \"second\"").unwrap();
    let middle = at + 30;
    for part in [&text[..at], &text[at..middle], &text[middle..]] {
        let mut written = if part.len() == at { String::new() } else { fs::read_to_string(&file).unwrap() };
        written.push_str(part);
        fs::write(&file, written).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    world.asks("in slow pieces", &path).await;
    assert_eq!(world.applied(), applied + 1, "only the whole was applied: {}", world.daemon.log());
    assert!(!world.daemon.log().contains("archived"), "{}", world.daemon.log());

    // As Kubernetes mounts it: a link to a link to a folder.
    let folder = file.parent().unwrap().to_owned();
    for round in 0..2 {
        let (text, path) = world.good();
        let version = folder.join(format!("..v{round}"));
        fs::create_dir(&version).unwrap();
        fs::write(version.join("config.toml"), &text).unwrap();
        symlink(&version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        if round == 0 {
            fs::remove_file(&file).unwrap();
            symlink("..data/config.toml", &file).unwrap();
        }
        world.asks("a swapped link", &path).await;
    }
    fs::remove_file(&file).unwrap();
    let (text, path) = world.good();
    fs::write(&file, &text).unwrap();
    world.asks("a file again", &path).await;

    // Nothing new: touched, and files that are not sources.
    let applied = world.applied();
    fs::File::options().append(true).open(&file).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    fs::create_dir(folder.join("config.d")).unwrap();
    for name in ["a.toml~", ".#a.toml", "a.toml.swp", "4913", "a.toml.bak"] {
        fs::write(folder.join("config.d").join(name), "this is = no [[ toml").unwrap();
    }
    let (_, body) = world.daemon.readiness().await.unwrap();
    assert!(!has_code(&body, "config_refused"), "{body}");
    assert_eq!(world.home.output(&["reload"]).status.code(), Some(0));
    // The log has a thread of its own, and the answer may overtake it.
    until("it is logged", MOST, async || (world.applied() > applied).then_some(())).await;
    assert_eq!(world.applied(), applied + 1, "only what was asked for: {}", world.daemon.log());
    assert_steady(&world.target, "/steady", "good ways").await;
    assert_eq!(world.daemon.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_spoiling_a_file_is_refused_and_heals() {
    let mut world = World::start().await;
    let file = world.config();
    let good = fs::read_to_string(&file).unwrap();
    let gone = || match fs::symlink_metadata(&file) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&file).unwrap(),
        Ok(_) => fs::remove_file(&file).unwrap(),
        Err(_) => {}
    };
    let pipe = || {
        gone();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let is_root = rustix::process::geteuid().is_root();
    let half = good.len() - 20;
    let mut ways: Vec<Spoiling<'_>> = vec![
        ("half written", ":", Box::new(|| fs::write(&file, &good[..half]).unwrap())),
        ("deleted", "no such file", Box::new(gone)),
        ("emptied", "was emptied", Box::new(|| fs::write(&file, "").unwrap())),
        ("only comments", "was emptied", Box::new(|| fs::write(&file, "# gone\n\n").unwrap())),
        (
            "a folder",
            "is a folder",
            Box::new(|| {
                gone();
                fs::create_dir(&file).unwrap();
            }),
        ),
        ("a pipe", "is not a regular file", Box::new(pipe)),
        ("not text", "is not UTF-8", Box::new(|| fs::write(&file, b"a = \"\xff\"\n").unwrap())),
        (
            "a dangling link",
            "no such file",
            Box::new(|| {
                gone();
                symlink("nowhere", &file).unwrap();
            }),
        ),
        (
            "a link to itself",
            "symbolic links",
            Box::new(|| {
                gone();
                symlink("config.toml", &file).unwrap();
            }),
        ),
    ];
    if !is_root {
        ways.push((
            "unreadable",
            "ermission denied",
            Box::new(|| {
                fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
            }),
        ));
    }
    for (what, why, spoil) in &ways {
        spoil();
        world.refused(what, why).await;
        if *what == "deleted" {
            // The command asks the daemon all the same, unless it is to force something.
            for (arguments, exit, said) in
                [(&["reload"][..], 1, "keeps its configuration"), (&["reload", "--force"], 78, why)]
            {
                let mut command = world.home.command(arguments);
                let output = command.env("STATE_DIRECTORY", world.home.state()).output().unwrap();
                let text = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(exit), "{text}");
                assert!(text.contains(said) && text.contains(why), "{text}");
            }
            assert_eq!(world.home.output(&["reload"]).status.code(), Some(78), "nobody is found");
            let mut command = world.home.command(&["status"]);
            let output = command.env("STATE_DIRECTORY", world.home.state()).output().unwrap();
            let (table, text) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
            assert!(output.status.success() && table.contains("config_refused"), "{table}{text}");
            assert!(text.contains(why) && text.contains("admin.sock"), "{text}");
            assert_eq!(world.home.output(&["status"]).status.code(), Some(78), "nobody is found");
        }
        gone();
        fs::write(&file, &good).unwrap();
        world
            .daemon
            .wait_ready(&format!("{what}: it is back"), |status, body| {
                status == 200 && !has_code(body, "config_refused")
            })
            .await;
    }
    drop(ways);
    assert_eq!(world.db.get::<i64>("SELECT count(*) FROM monitors WHERE archived_at IS NULL").await, 1);

    // A key that needs a restart is told until it is as it was.
    let (text, path) = world.good();
    fs::write(&file, text.replace("127.0.0.1:0", "127.0.0.1:1")).unwrap();
    until("the rest is applied", MOST, async || (world.target.hits(&path) > 0).then_some(())).await;
    let reload = world.home.output(&["reload"]);
    assert!(String::from_utf8_lossy(&reload.stdout).contains("needs a restart: [server]"), "{reload:?}");
    world.daemon.wait_ready("it is told", |_, body| has_code(body, "restart_needed")).await;
    fs::write(&file, text).unwrap();
    world.daemon.wait_ready("it is as it was", |_, body| !has_code(body, "restart_needed")).await;
    assert_steady(&world.target, "/steady", "bad ways").await;
    assert_eq!(world.daemon.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragments_come_go_and_are_renamed_also_behind_links() {
    let world = World::start().await;
    let folder = world.home.path().to_owned();
    let text = |id: &str, path: &str| monitor(id, &world.target.url(path));
    // A folder elsewhere, linked.
    let elsewhere = folder.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("a.toml"), text("a", "/a1")).unwrap();
    symlink(&elsewhere, folder.join("config.d")).unwrap();
    world.asks("a linked folder", "/a1").await;
    fs::write(elsewhere.join("a.toml"), text("a", "/a2")).unwrap();
    world.asks("a file in it", "/a2").await;
    // Under another name it is the same monitor.
    fs::rename(elsewhere.join("a.toml"), elsewhere.join("b.toml")).unwrap();
    fs::write(elsewhere.join("c.toml"), text("c", "/c1")).unwrap();
    world.asks("one more", "/c1").await;
    assert_eq!(world.db.get::<i64>("SELECT count(*) FROM monitors WHERE key = 'a'").await, 1);
    // Twice the same id.
    fs::write(elsewhere.join("d.toml"), text("c", "/d")).unwrap();
    world.refused("an id twice", "d.toml:2").await;
    fs::remove_file(elsewhere.join("d.toml")).unwrap();
    fs::remove_file(elsewhere.join("c.toml")).unwrap();
    until("c is archived", MOST, async || {
        world.db.get::<bool>("SELECT archived_at IS NOT NULL FROM monitors WHERE key = 'c'").await.then_some(())
    })
    .await;
    // The link leads elsewhere.
    let other = folder.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.toml"), text("a", "/a3")).unwrap();
    symlink(&other, folder.join("config.d.new")).unwrap();
    fs::rename(folder.join("config.d.new"), folder.join("config.d")).unwrap();
    world.asks("another folder behind the link", "/a3").await;
    fs::write(other.join("a.toml"), text("a", "/a4")).unwrap();
    world.asks("a file there", "/a4").await;
    assert_steady(&world.target, "/steady", "fragments").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folder_of_the_configuration_may_be_another_one() {
    let (db, target) = (TestDb::new().await, Target::start().await);
    let home = Home::new("");
    let etc = home.path().join("etc");
    let text = |path: &str| {
        let head = format!(
            "daemon.state_directory = {:?}\nserver.listen = \"127.0.0.1:0\"\n",
            home.state().display().to_string()
        );
        head + &on(&db.url, &(monitor("steady", &target.url("/steady")) + &monitor("second", &target.url(path))))
    };
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("config.toml"), text("/1")).unwrap();
    let mut command = std::process::Command::new(crate::support::daemon::PROGRAM);
    command.arg("--config").arg(etc.join("config.toml")).arg("run");
    let daemon = home.start_as(command);
    until("it is watched", MOST, async || (target.hits("/1") > 0).then_some(())).await;
    for round in 2..4 {
        let (next, path) = (home.path().join(format!("etc{round}")), format!("/{round}"));
        fs::create_dir(&next).unwrap();
        fs::write(next.join("config.toml"), text(&path)).unwrap();
        fs::rename(&etc, home.path().join(format!("old{round}"))).unwrap();
        fs::rename(&next, &etc).unwrap();
        until(&format!("{path} is asked"), MOST, async || (target.hits(&path) > 0).then_some(())).await;
    }
    fs::write(etc.join("config.toml"), text("/4")).unwrap();
    until("/4 is asked", MOST, async || (target.hits("/4") > 0).then_some(())).await;
    assert_steady(&target, "/steady", "another folder").await;
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_askers_at_once_all_get_the_answer_of_what_is_there() {
    let mut world = World::start().await;
    let (text, path) = world.good();
    fs::write(world.config(), &text).unwrap();
    world.daemon.signal(rustix::process::Signal::HUP);
    let commands: Vec<_> = (0..20)
        .map(|_| {
            let mut command = world.home.command(&["reload"]);
            std::thread::spawn(move || command.output().unwrap())
        })
        .collect();
    let mut posts = tokio::task::JoinSet::new();
    for asker in 0..20 {
        let socket = world.home.socket();
        posts.spawn(async move {
            let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
            if asker % 4 == 0 {
                // Asks and goes away.
                let mut stream = stream;
                let request = b"POST /api/v1/reload HTTP/1.1\r\nhost: x\r\n\r\n";
                tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.unwrap();
                return None;
            }
            Some(ask(stream, "POST", "/api/v1/reload").await)
        });
    }
    while let Some(answer) = posts.join_next().await {
        if let Some(answer) = answer.unwrap() {
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }
    for command in commands {
        let output = command.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    world.asks("all at once", &path).await;
    // What is bad when it is asked for is answered so, however many ask.
    fs::write(world.config(), format!("{text}colour = 1\n")).unwrap();
    let answers: Vec<_> = (0..8)
        .map(|_| {
            let mut command = world.home.command(&["reload"]);
            std::thread::spawn(move || command.output().unwrap())
        })
        .collect();
    for answer in answers {
        let output = answer.join().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("colour"), "{output:?}");
    }
    assert_steady(&world.target, "/steady", "many askers").await;
    assert_eq!(world.daemon.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_monitor_misses_no_beat_through_fifty_reloads() {
    let mut world = World::start().await;
    for round in 0..50 {
        let (text, path) = world.good();
        let bad = round % 3 == 1;
        let text = if bad { format!("{text}colour = 1\n") } else { text };
        replace(&world.config(), &text);
        let reload = world.home.output(&["reload"]);
        assert_eq!(reload.status.code(), Some(i32::from(bad)), "{reload:?}");
        if !bad && round % 10 == 0 {
            world.asks("it was applied", &path).await;
        }
    }
    let beats = world.target.hits("/steady");
    until("it goes on", MOST, async || (world.target.hits("/steady") > beats + 2).then_some(())).await;
    assert_steady(&world.target, "/steady", "fifty reloads").await;
    assert_eq!(world.daemon.stop().await.code(), Some(0));
}
