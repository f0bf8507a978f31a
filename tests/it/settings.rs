//! Configurations on a real disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use lamplighter::probe::kinds::KINDS;
use lamplighter::settings::diagnostic::SourceText;
use lamplighter::settings::file::{self, Presence, Sources};
use lamplighter::settings::model::{self, Environment, Settings};

use crate::support::daemon::PROGRAM;

fn nothing(_: &str) -> Option<String> {
    None
}

const BARE: Environment<'static> = Environment { variable: &nothing, credentials: None };

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn required(folder: &Path) -> Sources {
    file::read(&folder.join("config.toml"), Presence::Required)
}

fn settings(folder: &Path) -> Result<Settings, String> {
    required(folder).settings(BARE).map_err(|refusal| refusal.to_string())
}

#[test]
fn fragments_add_up_in_name_order() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "config.toml", "[probe]\nmax_in_flight = 5\n");
    write(folder, "config.d/20.toml", "[probe]\nuser_agent = \"b\"\n");
    write(folder, "config.d/10.toml", "[server]\nlisten = \"unix:/run/x.sock\"\n");
    write(folder, "config.d/.hidden.toml", "broken =");
    write(folder, "config.d/10.toml~", "broken =");
    let sources = required(folder);
    let names: Vec<_> = sources.texts.iter().map(|s| s.name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["config.toml", "10.toml", "20.toml"]);
    let settings = settings(folder).unwrap();
    assert_eq!((settings.probe.max_in_flight, settings.probe.user_agent.as_str()), (5, "b"));
    assert_eq!(settings.server.listen.to_string(), "unix:/run/x.sock");
}

#[test]
fn a_key_that_is_set_twice_names_both_places() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "config.toml", "\n[daemon]\nregion = \"a\"\n");
    write(folder, "config.d/b.toml", "[daemon]\nregion = \"b\"\n[[monitor]]\nid = \"m\"\nurl = \"x\"\n");
    write(folder, "config.d/c.toml", "[[monitor]]\nid = \"m\"\nurl = \"x\"\n");
    let found = settings(folder).unwrap_err();
    let at = folder.display();
    let twice = format!("{at}/config.d/b.toml:2:1: daemon.region: set twice, first at {at}/config.toml:3; remove one");
    assert!(found.contains(&twice), "{found}");
    let twice =
        format!("{at}/config.d/c.toml:2:6: monitor.id: \"m\" stands twice, the other is at {at}/config.d/b.toml:3");
    assert!(found.contains(&twice), "{found}");
}

#[test]
fn what_cannot_be_read_is_said_with_all_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(settings(folder).unwrap_err().contains("config.toml: no such file"));
    fs::create_dir(folder.join("config.toml")).unwrap();
    assert!(settings(folder).unwrap_err().contains("config.toml: is a folder"));
    fs::remove_dir(folder.join("config.toml")).unwrap();
    fs::write(folder.join("config.toml"), b"a = \"\xff\"").unwrap();
    assert!(settings(folder).unwrap_err().contains("config.toml: is not UTF-8 text (byte 5)"));
    write(folder, "config.toml", "");
    assert_eq!(settings(folder).unwrap().monitors.len(), 0);
    fs::create_dir_all(folder.join("config.d/x.toml")).unwrap();
    write(folder, "config.d/y.toml", "z = 1");
    symlink("nowhere", folder.join("config.d/dangling.toml")).unwrap();
    let found = settings(folder).unwrap_err();
    for part in ["x.toml: is a folder", "y.toml:1:1: z: unknown key", "dangling.toml: no such file"] {
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn an_absent_default_file_means_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let sources = file::read(&folder.path().join("config.toml"), Presence::Optional);
    assert!(!sources.found && sources.problems.is_empty());
    assert!(sources.settings(BARE).unwrap().database.url.is_none());
    assert!(sources.folders.contains(folder.path()));
}

#[test]
fn all_sources_together_are_limited() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "config.toml", "");
    fs::create_dir(folder.join("config.d")).unwrap();
    for name in ["a.toml", "b.toml"] {
        // Sparse: half of the limit and a little, twice.
        fs::File::create(folder.join("config.d").join(name)).unwrap().set_len((32 << 20) + 1).unwrap();
    }
    let found = required(folder).problems;
    assert_eq!(found.len(), 1);
    assert!(found[0].what.ends_with("b.toml: with it the configuration is larger than 64MiB"), "{:?}", found[0]);
}

#[test]
fn every_link_on_the_way_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    // As Kubernetes mounts it: config.toml -> ..data/config.toml, ..data -> ..1/
    for version in ["..1", "..2"] {
        write(&folder, &format!("data/{version}/config.toml"), &format!("[daemon]\nregion = \"v{}\"", &version[2..]));
    }
    symlink("..1", folder.join("data/..data")).unwrap();
    symlink("..data/config.toml", folder.join("data/config.toml")).unwrap();
    fs::create_dir(folder.join("etc")).unwrap();
    symlink(folder.join("data/config.toml"), folder.join("etc/config.toml")).unwrap();
    let path = folder.join("etc/config.toml");
    let before = file::read(&path, Presence::Required);
    for watched in ["etc", "data", "data/..1"] {
        assert!(before.folders.contains(&folder.join(watched)), "{watched}: {:?}", before.folders);
    }
    assert_eq!(file::read(&path, Presence::Required).hash, before.hash);
    fs::remove_file(folder.join("data/..data")).unwrap();
    symlink("..2", folder.join("data/..data")).unwrap();
    let after = file::read(&path, Presence::Required);
    assert_ne!(after.hash, before.hash);
    assert_eq!(&*after.settings(BARE).unwrap().daemon.region, "v2");
    // A loop of links ends.
    symlink("loop.toml", folder.join("etc/loop.toml")).unwrap();
    assert_eq!(file::read(&folder.join("etc/loop.toml"), Presence::Required).problems.len(), 1);
}

#[test]
fn the_hash_tells_sources_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "config.toml", "# x\n");
    let one = required(folder).hash;
    write(folder, "config.d/a.toml", "");
    let two = required(folder).hash;
    fs::rename(folder.join("config.d/a.toml"), folder.join("config.d/b.toml")).unwrap();
    let three = required(folder).hash;
    assert!(one != two && two != three && one != three);
}

#[test]
fn a_secret_comes_from_three_places_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let url = "postgres://u:canary@h/d";
    write(folder, "secrets/url", &format!("{url}\r\n"));
    write(folder, "credentials/db", url);
    let variable = |name: &str| (name == "PW").then(|| "canary".to_owned());
    let credentials = folder.join("credentials");
    let environment = Environment { variable: &variable, credentials: Some(&credentials) };
    for written in ["\"postgres://u:${PW}@h/d\"", "{ file = \"secrets/url\" }", "{ credential = \"db\" }"] {
        write(folder, "config.toml", &format!("[database]\nurl = {written}\n"));
        let settings = required(folder).settings(environment).unwrap();
        assert_eq!(settings.database.url.as_ref().unwrap().expose(), url);
        assert!(!format!("{settings:?} {:?}", required(folder)).contains("canary"));
    }
    for (written, what) in [
        ("{ file = \"secrets/none\" }", "cannot read the file \"secrets/none\": No such file or directory"),
        ("{ file = \"secrets\" }", "cannot read the file \"secrets\": is a folder"),
        ("{ credential = \"../x\" }", "not the name of a credential"),
        ("{ password = \"canary\" }", "not a reference to a secret"),
        ("\"canary\"", "not an address of a Postgres database"),
    ] {
        write(folder, "config.toml", &format!("[database]\nurl = {written}\n"));
        let found = required(folder).settings(environment).unwrap_err().to_string();
        assert!(found.contains(what) && !found.contains("canary"), "{found}");
    }
    write(folder, "config.toml", "[database]\nurl = { credential = \"db\" }\n");
    assert!(settings(folder).unwrap_err().contains("credential \"db\": $CREDENTIALS_DIRECTORY is not set"));
}

#[test]
fn check_config_counts_and_exits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let name = path.display();
    let run = |arguments: &[&str], variable: Option<&str>| {
        let mut command = std::process::Command::new(PROGRAM);
        command.arg("check-config").args(arguments).env_remove("LAMPLIGHTER_CONFIG");
        let output = command.envs(variable.map(|value| ("LAMPLIGHTER_CONFIG", value))).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let file = path.to_str().unwrap();
    assert_eq!(run(&[file], None), (78, format!("{name}: no such file\n{name}: invalid: 1 error\n")));
    write(folder.path(), "config.toml", "[server]\nlisten = \"127.0.0.1:0\"\n");
    assert_eq!(run(&[file], None), (0, format!("{name}: valid: 0 monitors in 1 file\n")));
    // Legal, and yet not what a running daemon takes.
    write(folder.path(), "config.toml", " \n# nothing\n");
    let (code, text) = run(&[file], None);
    assert!(
        code == 0 && text.starts_with(&format!("{name}: valid: 0 monitors in 1 file\n{name}: warning: ")),
        "{text}"
    );
    assert!(text.contains("a running daemon") && text.contains("refuses"), "{text}");
    write(folder.path(), "config.toml", "[serve]\n[daemon]\nregion = 1\n");
    let text = format!(
        "{name}:1:2: serve: unknown key, did you mean \"server\"?\n  1 | [serve]\n    |  ^^^^^\n\
         {name}:3:10: daemon.region: found an integer (1), must be a string\n  3 | region = 1\n    |          ^\n\
         {name}: invalid: 2 errors\n"
    );
    assert_eq!(run(&[file], None), (78, text));
    assert_eq!(run(&[file, "--plan"], None).0, 78);
    assert_eq!(run(&[], Some(file)).0, 78);
}

/// URLs are shown, stored and logged as they are written: whoever sees a monitor sees its url. So no kind takes one with a
/// password, of the file or of a row.
#[test]
fn no_kind_takes_a_password_in_a_url() {
    const PASSWORD: &str = "hunter2hunter2";
    let variable = |_: &str| Some("a-value".to_owned());
    let environment = Environment { variable: &variable, credentials: None };
    let mut seen = 0;
    // A command line is the file's alone, and has no user.
    for kind in KINDS.iter().filter(|kind| kind.name != "exec") {
        for scheme in kind.schemes {
            let written = kind.example.lines().find(|line| line.starts_with("url = ")).unwrap();
            let url = written.strip_prefix("url = ").unwrap().trim_matches('"');
            let place = url.split_once("://").map_or("h.example", |(_, place)| place);
            let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
            for form in [format!("{scheme}://u:{PASSWORD}@{place}"), format!("{scheme}:u:{PASSWORD}@{place}")] {
                let table = kind.example.replace(written, &format!("url = \"{form}\"")).replace("\n[", "\n[monitor.");
                let text = format!("[[monitor]]\n{table}");
                let read = model::read(&[SourceText::new("c.toml", text)], Path::new("/"), environment, &[]);
                let refusal = read.map(|_| ()).unwrap_err().to_string();
                assert!(refusal.contains("monitor.url: "), "{form}: {refusal}");
                assert!(!refusal.contains(PASSWORD), "{form}: {refusal}");
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen}");
}
