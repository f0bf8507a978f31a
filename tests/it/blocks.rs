//! The blocks of the documentation: each belongs to a test, and those that need no machine of their own run here. Those of
//! an installed service run in `tests/systemd`.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::daemon::{monitor, on};
use crate::support::daemon::{Home, PROGRAM};
use crate::support::postgres::TestDb;
use crate::support::target::Target;

const LEGACY: &str = include_str!("data/legacy.sql");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a scene of `tests/blocks/daemon` in a home; what it says when it fails.
async fn play(scene: &str, home: &Home, variables: &[(&str, &str)]) -> Result<(), String> {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "180", "bash"]).arg(root().join(format!("tests/blocks/daemon/{scene}.sh")));
    command.current_dir(home.path()).env("HOME", home.path()).env("TMPDIR", home.path());
    for name in ["STATE_DIRECTORY", "LAMPLIGHTER_CONFIG", "http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.env("PROGRAM", PROGRAM).envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    if output.status.success() { Ok(()) } else { Err(format!("{scene}: {}\n{}", output.status, said(&output))) }
}

/// The variables of a reader who has the program on his path and a configuration.
fn reader(home: &Home) -> [(&'static str, String); 2] {
    let path = std::env::var("PATH").unwrap();
    let folder = Path::new(PROGRAM).parent().unwrap().display().to_string();
    [("PATH", format!("{folder}:{path}")), ("LAMPLIGHTER_CONFIG", home.config().display().to_string())]
}

/// What `packaging/quickstart` writes, but for the name server that it finds.
fn first_configuration(address: &str, site: &str) -> String {
    let script = "eval \"$(sed -n '/^first_configuration()/,/^}/p' packaging/quickstart)\"; name_server() { :; }; first_configuration";
    let output = Command::new("bash").args(["-euc", script]).current_dir(root()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("CHANGE ME") && text.contains("127.0.0.1:8780"), "{text}");
    text.replace("127.0.0.1:8780", address).replace("https://example.com/", site)
}

async fn readme() -> Result<(), String> {
    let target = Target::start().await;
    let home = Home::new("");
    let daemon = home.start();
    let address = daemon.address().await;
    let address = address.strip_prefix("http://").unwrap();
    home.write(&first_configuration(address, &target.url("/before")));
    std::os::unix::fs::symlink("config.toml", home.path().join("lamplighter.toml")).unwrap();
    daemon.wait_status("my-site", "up").await;
    // Free now, and at an address that no other test listens on.
    let nobody = TcpListener::bind("127.80.0.1:0").unwrap().local_addr().unwrap().to_string();
    play("readme", &home, &[("ADDRESS", address), ("TARGET", &target.url("")), ("NOBODY", &nobody)]).await
}

async fn api() -> Result<(), String> {
    let (db, target) = (TestDb::new().await, Target::start().await);
    let home = Home::new("");
    // Where a daemon that is not root's keeps it.
    let state = home.path().join(".local/state/lamplighter");
    let listen = "server.listen = \"127.0.0.1:0\"\n";
    let heartbeat =
        "[[monitor]]\nid = \"backup\"\nurl = \"heartbeat:\"\ntoken = \"u0Jm3oYt9Qe4Kx7w\"\nperiod = \"1d\"\n";
    let config = format!(
        "daemon.state_directory = {:?}\n{listen}{}",
        state.display().to_string(),
        on(&db.url, &(monitor("shop", &target.url("/shop")) + heartbeat))
    );
    fs::write(home.config(), config).unwrap();
    let daemon = home.start();
    let address = daemon.address().await;
    daemon.wait_status("shop", "up").await;
    let variables = reader(&home);
    let mut variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    variables.push(("ADDRESS", address.strip_prefix("http://").unwrap()));
    play("api", &home, &variables).await
}

/// A scene that needs no daemon.
async fn alone(scene: &str, config: &str) -> Result<(), String> {
    let home = Home::new(config);
    let variables = reader(&home);
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    play(scene, &home, &variables).await
}

async fn legacy() -> Result<(), String> {
    let db = TestDb::empty().await;
    let few = LEGACY.replace("generate_series(1, 100000)", "generate_series(1, 1000)");
    assert_ne!(few, LEGACY);
    db.sql(&few).await;
    alone("legacy", &on(&db.url, "")).await
}

#[tokio::test]
async fn blocks_run_beside_a_daemon() {
    let (readme, api, legacy, configurations) = tokio::join!(readme(), api(), legacy(), alone("configurations", ""));
    let failed: Vec<_> = [readme, api, legacy, configurations].into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The names of a folder's scenes.
fn scenes(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join("tests/blocks").join(folder)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".sh").unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// A block that belongs to a scene that nobody plays would run nowhere.
#[test]
fn every_scene_is_played() {
    assert_eq!(scenes("daemon"), ["api", "configurations", "legacy", "readme"], "those of the test above");
    let players =
        ["tests/systemd", "tests/systemd-tarball.sh"].map(|name| fs::read_to_string(root().join(name)).unwrap());
    for name in scenes("guest") {
        let call = format!("scene {name}");
        let played = players.iter().flat_map(|text| text.lines()).any(|line| line.trim() == call);
        assert!(
            played,
            "tests/blocks/guest/{name}.sh is played by neither of tests/systemd and tests/systemd-tarball.sh"
        );
    }
}

fn assigned(tree: &Path) -> Output {
    Command::new("bash").arg(root().join("tests/blocks/assigned")).arg(tree).output().unwrap()
}

#[test]
fn every_block_belongs_to_one_test() {
    let output = assigned(root());
    assert!(output.status.success(), "{}", said(&output));
}

/// A small tree in which all is in order, and what is said when it is not.
#[test]
fn a_block_that_is_new_gone_or_taken_twice_is_told() {
    let tree = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path: PathBuf = tree.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let page = "# A\n\n```sh\nfirst\n```\n\n  ```\n  second\n  more\n  ```\n";
    write("tests/blocks/find.sh", &fs::read_to_string(root().join("tests/blocks/find.sh")).unwrap());
    write("tests/blocks/guest/a.sh", "# docs/a.md 'gone'\nblock docs/a.md 'first'\n");
    write("tests/blocks/daemon/b.sh", "text docs/a.md 'sec' >x\n");
    write("tests/blocks/not-run", "# none\n");
    write("docs/a.md", page);
    let differs = |what: &str| {
        let output = assigned(tree.path());
        assert!(!output.status.success() && said(&output).contains(what), "{what}: {}", said(&output));
    };
    let output = assigned(tree.path());
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "2 blocks: 1 run on a booted machine, 1 beside a daemon, 0 are not run\n");

    write("docs/a.md", &format!("{page}```toml\nthird = 3\n```\n"));
    differs("docs/a.md:11: this block (toml) runs nowhere");
    write("docs/a.md", &page.replace("first", "1st"));
    differs("tests/blocks/guest/a.sh:2: no block of docs/a.md holds: first");
    write("docs/a.md", &format!("{page}```\n"));
    differs("docs/a.md:11 a block that does not end");
    write("docs/a.md", page);
    write("tests/blocks/daemon/c.sh", "exits 1 docs/a.md 'first'\n");
    differs("docs/a.md:3: is in tests/blocks/guest/a.sh and in tests/blocks/daemon/c.sh");
    write("tests/blocks/daemon/c.sh", "");
    write("tests/blocks/not-run", "docs/a.md 'first'\n");
    differs("tests/blocks/not-run:1: a line is PAGE 'TEXT OF THE BLOCK' REASON");
    write("tests/blocks/not-run", "docs/b.md 'x' It is long.\n");
    differs("tests/blocks/not-run:1: there is no page docs/b.md");
    write("tests/blocks/not-run", "");
    write("docs/a.md", &page.replace("second", "first of more"));
    differs("daemon/b.sh:1: no block");
    write("tests/blocks/guest/a.sh", "block docs/a.md 'r'\n");
    differs("more than one block of docs/a.md holds: r");
}
