//! The sources of a configuration on disk: the file, then `config.d/*.toml` beside it in name order.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::again::Former;
use super::diagnostic::{Diagnostic, Quote, SourceText};
use super::model::{self, Environment, Refusal, Settings};
use super::{limited, size};

/// All sources together, bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Files of one configuration; a place has two bytes for the number of its source.
const MAX_SOURCES: usize = 60_000;

/// Symbolic links on the way to one file; the kernel's own bound is 40.
const MAX_LINKS: usize = 40;

/// Whether the file must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Somebody named it.
    Required,
    /// The default place: absent means built-in defaults.
    Optional,
}

/// Where the configuration stands when nobody says otherwise.
const DEFAULT_FILE: &str = "/etc/lamplighter/config.toml";

/// The configuration file: the one named on the command line, else `$LAMPLIGHTER_CONFIG`, else the default place.
#[must_use]
pub fn locate(named: Option<&Path>, environment: Environment<'_>) -> (PathBuf, Presence) {
    if let Some(path) = named {
        return (path.to_owned(), Presence::Required);
    }
    match (environment.variable)("LAMPLIGHTER_CONFIG").filter(|path| !path.is_empty()) {
        Some(path) => (path.into(), Presence::Required),
        None => (DEFAULT_FILE.into(), Presence::Optional),
    }
}

/// What was found on disk.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The texts, in order; an unreadable one is missing and is one of the problems.
    pub texts: Vec<SourceText>,
    /// SHA-256 over the names and texts. Files that the texts refer to are not in it.
    pub hash: [u8; 32],
    /// Folders whose changes may change the sources, those of symbolic links and of their targets included. Known also
    /// when a source is missing or unreadable.
    pub folders: BTreeSet<PathBuf>,
    /// The folder that relative paths start from.
    pub base: PathBuf,
    /// Whether the file itself is there.
    pub found: bool,
    /// Why a source could not be read.
    pub problems: Vec<Diagnostic>,
}

impl Sources {
    /// Reads everything that the sources say: a refusal names every error of every source.
    pub fn settings(&self, environment: Environment<'_>) -> Result<Settings, Refusal> {
        model::read(&self.texts, &self.base, environment, &self.problems)
    }

    /// The same, knowing what a reading before has left.
    pub fn settings_again(&self, environment: Environment<'_>, former: &mut Former) -> Result<Settings, Refusal> {
        model::read_again(&self.texts, &self.base, environment, &self.problems, former)
    }

    /// What can be read but for monitors, whatever else is wrong: for commands that look for a daemon which runs on with the configuration
    /// of before, or that need little of it.
    pub fn settings_leniently(&self, environment: Environment<'_>) -> Settings {
        model::read_whatever(&self.texts, &self.base, environment)
    }
}

/// The folder that relative paths of the configuration `file` start from.
#[must_use]
pub fn base(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reads the sources of the configuration `file`. Blocks on the disk.
#[must_use]
pub fn read(file: &Path, presence: Presence) -> Sources {
    let parent = base(file);
    let mut gathering = Gathering { left: MAX_BYTES, ..Gathering::default() };
    let found = gathering.source(file, presence);
    let folder = parent.join("config.d");
    match fragments(&folder) {
        Ok(paths) if paths.len() < MAX_SOURCES => {
            for path in &paths {
                gathering.source(path, Presence::Required);
            }
        }
        Ok(paths) => gathering.problem(&folder, &format!("{} files are too many", paths.len())),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => gathering.problem(&folder, &why.to_string()),
    }
    // Absent folders appear in their parents, which are watched for the file's sake.
    folders_on_the_way(&folder.join("x"), &mut gathering.folders);
    gathering.folders.retain(|folder| folder.is_dir());
    Sources {
        texts: gathering.texts,
        hash: gathering.hasher.finalize().into(),
        folders: gathering.folders,
        base: parent,
        found,
        problems: gathering.problems,
    }
}

#[derive(Default)]
struct Gathering {
    texts: Vec<SourceText>,
    hasher: Sha256,
    folders: BTreeSet<PathBuf>,
    problems: Vec<Diagnostic>,
    /// Bytes that may still be read.
    left: u64,
}

impl Gathering {
    /// Reads one source; false when it is not there.
    fn source(&mut self, path: &Path, presence: Presence) -> bool {
        folders_on_the_way(path, &mut self.folders);
        match limited::read(path, self.left) {
            Ok(text) => {
                self.left = self.left.saturating_sub(text.len() as u64);
                let name = path.display().to_string();
                // Lengths first, so that no two lists of sources hash alike.
                for part in [&name, &text] {
                    self.hasher.update((part.len() as u64).to_le_bytes());
                    self.hasher.update(part);
                }
                self.texts.push(SourceText::new(name, text));
                return true;
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                // A dangling link is a mistake, an absent default is not.
                if presence == Presence::Required || path.symlink_metadata().is_ok() {
                    self.problem(path, "no such file");
                    return false;
                }
            }
            Err(why) if why.kind() == io::ErrorKind::FileTooLarge => {
                self.problem(path, &format!("with it the configuration is larger than {}", size::format(MAX_BYTES)));
            }
            Err(why) => self.problem(path, &why.to_string()),
        }
        false
    }

    fn problem(&mut self, path: &Path, why: &str) {
        let what = format!("{}: {why}", path.display());
        self.problems.push(Diagnostic { span: None, key: String::new(), what, allowed: None, quote: Quote::Nothing });
    }
}

/// `*.toml` in a folder, by name; files that editors hide are not sources.
fn fragments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".toml") && !bytes.starts_with(b".") {
            names.push(name);
        }
        if names.len() > MAX_SOURCES {
            break;
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Adds the folder of a path, of every symbolic link on the way to it, and of every link's target: a swap of any of
/// them (an editor's rename, a Kubernetes `..data`) is a change of one of these folders.
fn folders_on_the_way(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    let mut links = 0;
    let mut todo: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let mut walked = PathBuf::new();
        let parts: Vec<Component<'_>> = path.components().collect();
        for (index, part) in parts.iter().enumerate() {
            let before = walked.clone();
            walked.push(part);
            if let Ok(target) = std::fs::read_link(&walked) {
                links += 1;
                folders.insert(or_here(&before));
                if links > MAX_LINKS {
                    return;
                }
                let rest: PathBuf = parts.iter().skip(index + 1).collect();
                let next = before.join(target);
                todo.push(if rest.as_os_str().is_empty() { next } else { next.join(rest) });
                break;
            }
        }
        if let Some(parent) = path.parent() {
            folders.insert(or_here(parent));
        }
    }
}

fn or_here(folder: &Path) -> PathBuf {
    if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() }
}
