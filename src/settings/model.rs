//! The whole configuration, typed, from a list of sources: all of it valid, or every error.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::again::{self, Former, Given};
use super::common;
use super::defaults::{Defaults, NEVER};
use super::definition::{Located, Place};
use super::diagnostic::{Diagnostic, Findings, Quote, SourceText, render};
use super::history::read_history;
use super::maintenance;
use super::reader::{Origin, TableReader};
use super::sections::{Daemon, Database, Egress, Probing, Server};
use super::tree::{Node, Span, Table, Value};
use super::{document, graph, monitor, slo};
use crate::maintenance::definition::FileMaintenance;
use crate::model::{Keeping, MonitorKey, Secret};
use crate::probe::Kind;
use crate::probe::kinds::{KINDS, LATER};
use crate::slo::Objective;

/// Monitors of one configuration at most.
pub const MAX_MONITORS: usize = 250_000;

/// Monitors that are worth a thread, which then reads some 10 ms.
const LEAST_SHARE: usize = 2_000;

/// Threads that read monitors at most.
const MOST_READERS: usize = 8;

/// Parts of the contract that this version does not have.
const LATER_TABLES: &[&str] = &["observer", "channel", "status_page", "auth"];

/// Everything that a configuration says.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `[daemon]`.
    pub daemon: Daemon,
    /// `[server]`.
    pub server: Server,
    /// `[database]`.
    pub database: Database,
    /// `[probe]`.
    pub probe: Probing,
    /// `[egress]`.
    pub egress: Egress,
    /// `[[slo]]`.
    pub slos: Arc<[Objective]>,
    /// `[retention]` and `[plans]`.
    pub keeping: Arc<Keeping>,
    /// `[defaults]`, for rows as well.
    pub defaults: Arc<Defaults>,
    /// `[[monitor]]`, in the order of the sources.
    pub monitors: Vec<Located>,
    /// `[[maintenance]]`, in the order of the sources.
    pub maintenances: Vec<FileMaintenance>,
}

/// What the outside gives besides the sources.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Looks up an environment variable.
    pub variable: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<&'a Path>,
}

/// Every error of a configuration, ready to be shown. Names no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Each as `file:line:column: key: what, allowed`, with the source line and a caret where there is one.
    pub messages: Vec<String>,
    /// How many more there were.
    pub more: usize,
}

impl Refusal {
    pub(super) fn of(findings: Findings, sources: &[SourceText]) -> Self {
        let (mut list, more) = findings.into_sorted();
        let line = |span: Span| Some((span.source, sources.get(usize::from(span.source))?.line_of(span.start)));
        let broken: HashSet<_> = list.iter().filter(|d| d.quote == Quote::Keys).filter_map(|d| line(d.span?)).collect();
        // What was recovered of a line that does not parse is not what stands there.
        list.retain(|d| d.quote == Quote::Keys || d.span.and_then(line).is_none_or(|line| !broken.contains(&line)));
        Self { messages: list.iter().map(|diagnostic| render(diagnostic, sources)).collect(), more }
    }

    /// How many errors there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.messages.len() + self.more
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages.join("\n"))?;
        if self.more > 0 {
            write!(f, "\nand {} more errors", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// The kinds of monitors, and the names of those that are not built yet.
#[derive(Clone, Copy)]
pub(super) struct Kinds {
    pub(super) built: &'static [&'static Kind],
    pub(super) later: &'static [&'static str],
}

/// The registration table's.
const ALL_KINDS: Kinds = Kinds { built: KINDS, later: LATER };

/// Reads a configuration. `base` is the folder that relative paths start from; `problems` are errors of reading the
/// sources, which make the outcome a refusal together with all that is wrong inside them.
pub fn read(
    sources: &[SourceText],
    base: &Path,
    environment: Environment<'_>,
    problems: &[Diagnostic],
) -> Result<Settings, Refusal> {
    read_again(sources, base, environment, problems, &mut Former::default())
}

/// The same, knowing what a reading before has left, and leaving the same for the next one. What comes out is what [`read`]
/// gives. After a refusal `former` is as it was.
pub fn read_again(
    sources: &[SourceText],
    base: &Path,
    environment: Environment<'_>,
    problems: &[Diagnostic],
    former: &mut Former,
) -> Result<Settings, Refusal> {
    read_by(ALL_KINDS, sources, base, environment, problems, former)
}

pub(super) fn read_by(
    kinds: Kinds,
    sources: &[SourceText],
    base: &Path,
    environment: Environment<'_>,
    problems: &[Diagnostic],
    former: &mut Former,
) -> Result<Settings, Refusal> {
    if problems.is_empty()
        && let Some((settings, now)) = again::read(sources, Given { kinds, base, environment }, former)
    {
        *former = now;
        return Ok(settings);
    }
    let findings = Findings::default();
    problems.iter().cloned().for_each(|problem| findings.push(problem));
    let settings = read_with(kinds.built, kinds.later, sources, base, environment, &findings);
    if findings.count() > 0 {
        return Err(Refusal::of(findings, sources));
    }
    // It cannot be cut into pieces that the next one could know again.
    *former = Former::default();
    Ok(settings)
}

/// What can be read of a configuration that may be bad, its monitors apart.
pub(super) fn read_whatever(sources: &[SourceText], base: &Path, environment: Environment<'_>) -> Settings {
    again::read_without_monitors(sources, Given { kinds: ALL_KINDS, base, environment })
        .unwrap_or_else(|| read_with(KINDS, LATER, sources, base, environment, &Findings::default()))
}

/// Reads all that is no monitor; and gives the monitors, unread.
pub(super) fn read_sections<'a>(
    tree: &'a Table,
    kinds: &'static [&'static Kind],
    origin: &'a Origin<'a>,
    findings: &'a Findings,
    secrets: &'a RefCell<Vec<Secret>>,
) -> (Settings, &'a [Node]) {
    let whole = findings.count() == 0;
    let mut reader = TableReader::new(tree, None, "", origin, findings, secrets);
    reader.not_built_yet(LATER_TABLES);
    let mut settings = Settings::default();
    section(&mut reader, "daemon", |table| settings.daemon = Daemon::read(table));
    section(&mut reader, "server", |table| settings.server = Server::read(table));
    section(&mut reader, "database", |table| settings.database = Database::read(table));
    section(&mut reader, "probe", |table| settings.probe = Probing::read(table));
    section(&mut reader, "egress", |table| settings.egress = Egress::read(table));
    settings.slos = slo::read(&mut reader, whole).into();
    settings.keeping = Arc::new(read_history(&mut reader));
    settings.defaults = Arc::new(read_defaults(&mut reader, kinds, findings, origin));
    settings.maintenances = maintenance::read(&mut reader);
    let nodes = monitor_nodes(&mut reader);
    reader.finish(&|_| None);
    (settings, nodes)
}

pub(super) fn read_with(
    kinds: &'static [&'static Kind],
    later: &'static [&'static str],
    texts: &[SourceText],
    base: &Path,
    environment: Environment<'_>,
    findings: &Findings,
) -> Settings {
    let (tree, broken) = parse_all(texts, findings);
    let origin = Origin { trusted: true, env: environment.variable, base, credentials: environment.credentials };
    // What the sections refer to reaches nobody's evidence.
    let secrets = RefCell::default();
    let (mut settings, nodes) = read_sections(&tree, kinds, &origin, findings, &secrets);
    let names: Vec<Arc<str>> = texts.iter().map(|source| Arc::from(source.name.as_str())).collect();
    let place = |span: Span| {
        let index = usize::from(span.source);
        Some(Place { source: Arc::clone(names.get(index)?), line: texts.get(index)?.line_of(span.start) })
    };
    let is_broken = |span: Span| broken.get(usize::from(span.source)).copied().unwrap_or(false);
    let no_secrets: Arc<[Secret]> = Arc::from([]);
    let defaults = &*settings.defaults;
    let monitors = in_shares(nodes, findings, |share, findings| {
        let no_secrets = Arc::clone(&no_secrets);
        let context = monitor::Context { origin: &origin, findings, defaults, kinds, later, no_secrets };
        let monitors = share.iter().filter_map(|node| {
            let Value::Table(table) = &node.value else { return None };
            let broken = node.span.is_some_and(is_broken);
            let definition = Arc::new(monitor::read_file_monitor(table, node.span, broken, &context)?);
            Some(Located { definition, place: node.span.and_then(place) })
        });
        monitors.collect()
    });
    let complete = !broken.contains(&true);
    let ids = named(nodes, place);
    graph::check(&ids, &monitors, complete, findings);
    if complete {
        graph::check_maintenances(&tree, ids.iter().map(|monitor| monitor.key.as_str()), findings);
        slo::check(&tree, ids.iter().map(|monitor| &*monitor.key), findings);
    }
    settings.monitors = monitors;
    settings
}

/// Reads many things on several threads when they are worth it. What comes out, the findings included, is as if one had
/// read them in their order.
pub(super) fn in_shares<'a, T: Sync, R: Send>(
    things: &'a [T],
    findings: &Findings,
    read: impl Fn(&'a [T], &Findings) -> Vec<R> + Sync,
) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.min(MOST_READERS).min(things.len() / LEAST_SHARE);
    if threads < 2 {
        return read(things, findings);
    }
    let read = &|share| {
        let findings = Findings::default();
        (read(share, &findings), findings)
    };
    let (first, rest) = things.split_at(things.len() / threads);
    std::thread::scope(|scope| {
        let begin = |share| {
            let reader = std::thread::Builder::new().name("settings".to_owned());
            // Without a thread it is read below, by this one.
            (share, reader.spawn_scoped(scope, move || read(share)).ok())
        };
        let others: Vec<_> = rest.chunks(rest.len().div_ceil(threads - 1)).map(begin).collect();
        let (mut all, found) = read(first);
        findings.append(found);
        for (share, reader) in others {
            let (done, found) = match reader.map(std::thread::ScopedJoinHandle::join) {
                Some(Ok(done)) => done,
                // Only a bug's panic: it goes on here.
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                None => read(share),
            };
            all.extend(done);
            findings.append(found);
        }
        all
    })
}

fn parse_all(texts: &[SourceText], findings: &Findings) -> (Table, Vec<bool>) {
    let mut merged = Table::default();
    let mut all_broken = Vec::with_capacity(texts.len());
    for (index, source) in texts.iter().enumerate() {
        // `file` reads fewer sources than this type counts.
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        let (table, broken) = document::parse(number, &source.text, findings);
        document::merge(&mut merged, table, "", texts, findings);
        all_broken.push(broken);
    }
    (merged, all_broken)
}

fn section<'a>(reader: &mut TableReader<'a>, key: &'static str, read: impl FnOnce(&mut TableReader<'a>)) {
    if let Some(mut table) = reader.table(key) {
        read(&mut table);
        table.finish(&|_| None);
    }
}

/// Checks `[defaults]` on its own; with errors in it none apply, so that each is reported once and not for every monitor.
fn read_defaults(
    reader: &mut TableReader<'_>,
    kinds: &'static [&'static Kind],
    findings: &Findings,
    origin: &Origin<'_>,
) -> Defaults {
    let Some(mut table) = reader.table("defaults") else { return Defaults::default() };
    let Some(Value::Table(tree)) = reader.node("defaults").map(|node| &node.value) else { return Defaults::default() };
    let before = findings.count();
    for key in NEVER {
        if table.has_own(key) {
            table.error(key, "cannot have a default", "every monitor has its own".to_owned());
        }
    }
    table.ask("kind");
    common::default_columns(&mut table);
    let interval = common::interval(&mut table);
    common::shared(&mut table, interval);
    kinds.iter().flat_map(|kind| kind.keys).for_each(|key| table.ask(key));
    table.finish(&|_| None);
    let defaults = Defaults::new(tree.clone(), kinds, origin, findings);
    if findings.count() == before { defaults } else { Defaults::default() }
}

fn monitor_nodes<'a>(reader: &mut TableReader<'a>) -> &'a [Node] {
    let nodes = match reader.node("monitor").map(|node| &node.value) {
        None => return &[],
        Some(Value::Array(nodes)) => nodes,
        Some(_) => {
            reader.error("monitor", "is not a list of tables", "write [[monitor]]".to_owned());
            return &[];
        }
    };
    if nodes.len() > MAX_MONITORS {
        let allowed = format!("at most {MAX_MONITORS}");
        reader.error("monitor", format!("{} monitors are too many", nodes.len()), allowed);
        return &[];
    }
    for node in nodes {
        if !matches!(node.value, Value::Table(_)) {
            reader.error_at(node.span, "monitor", "is not a list of tables", "write [[monitor]]".to_owned());
        }
    }
    nodes
}

/// Every monitor with a well-formed id, valid or not.
fn named<'a>(nodes: &'a [Node], place: impl Fn(Span) -> Option<Place>) -> Vec<graph::Named<'a>> {
    let each = nodes.iter().filter_map(|node| {
        let Value::Table(table) = &node.value else { return None };
        let Value::String(id) = &table.get("id")?.node.value else { return None };
        let key: MonitorKey = id.parse().ok()?;
        Some(graph::Named { key: Cow::Owned(key), table, span: node.span, place: node.span.and_then(&place) })
    });
    each.collect()
}
