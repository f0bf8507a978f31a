//! Reading sources of which most were read before: what is the same is not parsed and checked a second time.
//!
//! Only for what is valid as a whole. At the first thing to complain about `read` gives up, and [`super::model`] reads
//! everything at once, which knows all errors and their places.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::defaults::Defaults;
use super::definition::{Definition, Located, Place};
use super::diagnostic::{Findings, SourceText};
use super::document;
use super::model::{self, Environment, Kinds, MAX_MONITORS, Settings};
use super::monitor;
use super::pieces::{self, Digest, Piece};
use super::reader::Origin;
use super::tree::{Node, Table, Value};

/// What a reading leaves for the next one of the same configuration, in the same process.
#[derive(Default)]
pub struct Former {
    defaults: Arc<Defaults>,
    /// By what their texts say, in their order.
    monitors: Vec<(Digest, Arc<Definition>)>,
}

impl Former {
    /// Keeps these definitions instead of those that are equal to them: `monitors` are of the reading that left this.
    pub fn adopt(&mut self, monitors: &[Located]) {
        if self.monitors.len() == monitors.len() {
            for (former, located) in self.monitors.iter_mut().zip(monitors) {
                former.1 = Arc::clone(&located.definition);
            }
        }
    }

    /// The definitions of pieces that are as they were, in the order of the pieces.
    fn same(&self, pieces: &[Piece<'_>], defaults: &Defaults) -> Vec<Option<Arc<Definition>>> {
        if !self.defaults.say_the_same(defaults) {
            return pieces.iter().map(|_| None).collect();
        }
        let same = |(piece, former): &(&Piece<'_>, &(Digest, Arc<Definition>))| piece.digest == former.0;
        let reused = |former: &Arc<Definition>| (!former.reads_files).then(|| Arc::clone(former));
        // Nearly always all but a few are where they were.
        let front = pieces.iter().zip(&self.monitors).take_while(same).count();
        let (mut found, rest): (Vec<_>, _) = match self.monitors.split_at_checked(front) {
            Some((front, rest)) => (front.iter().map(|(_, former)| reused(former)).collect(), rest),
            None => (Vec::new(), self.monitors.as_slice()),
        };
        let pieces = pieces.get(found.len()..).unwrap_or_default();
        let back = pieces.iter().rev().zip(rest.iter().rev()).take_while(same).count();
        let (middle, tail) = rest.split_at_checked(rest.len() - back).unwrap_or((rest, &[]));
        let by_digest: HashMap<&Digest, &Arc<Definition>> = middle.iter().map(|row| (&row.0, &row.1)).collect();
        let moved = pieces.iter().take(pieces.len() - back).map(|piece| by_digest.get(&piece.digest).copied());
        found.extend(moved.map(|former| former.and_then(reused)));
        found.extend(tail.iter().map(|(_, former)| reused(former)));
        found
    }
}

/// The fixed parts of a reading.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) kinds: Kinds,
    pub(super) base: &'a Path,
    pub(super) environment: Environment<'a>,
}

/// Reads sources in pieces, those that `former` knows not anew. None: there is something to complain about, or they are
/// written in a way that cannot be cut.
pub(super) fn read(texts: &[SourceText], given: Given<'_>, former: &Former) -> Option<(Settings, Former)> {
    let Given { kinds, base, environment } = given;
    let pieces = pieces::cut(texts);
    if pieces.monitors.len() > MAX_MONITORS {
        return None;
    }
    let findings = Findings::default();
    let origin = Origin { trusted: true, env: environment.variable, base, credentials: environment.credentials };
    let rest = rest_of(texts, &pieces.rest, &findings)?;
    let secrets = RefCell::default();
    let (mut settings, _) = model::read_sections(&rest, kinds.built, &origin, &findings, &secrets);
    if findings.count() > 0 {
        return None;
    }
    let mut definitions = former.same(&pieces.monitors, &settings.defaults);
    let missing = definitions.iter().zip(&pieces.monitors).filter(|(known, _)| known.is_none());
    let missing: Vec<&Piece<'_>> = missing.map(|(_, piece)| piece).collect();
    let (no_secrets, defaults, gave_up) = (Arc::from([]), &*settings.defaults, AtomicBool::new(false));
    let read = model::in_shares(&missing, &findings, |share, findings| {
        let no_secrets = Arc::clone(&no_secrets);
        let context = monitor::Context {
            origin: &origin,
            findings,
            defaults,
            kinds: kinds.built,
            later: kinds.later,
            no_secrets,
        };
        let each = share.iter().map_while(|piece| {
            let read = read_piece(piece, &context);
            if read.is_none() {
                gave_up.store(true, Ordering::Relaxed);
            }
            read.filter(|_| !gave_up.load(Ordering::Relaxed))
        });
        each.collect()
    });
    if gave_up.into_inner() || findings.count() > 0 || read.len() != missing.len() {
        return None;
    }
    let mut read = read.into_iter();
    for place in definitions.iter_mut().filter(|known| known.is_none()) {
        *place = read.next().map(Arc::new);
    }
    let names: Vec<Arc<str>> = texts.iter().map(|source| Arc::from(source.name.as_str())).collect();
    let mut monitors = Vec::with_capacity(definitions.len());
    let mut known = Vec::with_capacity(definitions.len());
    for (piece, definition) in pieces.monitors.iter().zip(definitions.into_iter().flatten()) {
        known.push((piece.digest, Arc::clone(&definition)));
        let place = Place { source: Arc::clone(names.get(piece.source)?), line: u32::try_from(piece.line).ok()? };
        monitors.push(Located { definition, place: Some(place) });
    }
    super::graph::check_valid(&monitors, &findings);
    let ids = monitors.iter().filter_map(|located| Some(located.definition.key.as_ref()?.as_str()));
    super::graph::check_maintenances(&rest, ids, &findings);
    if findings.count() > 0 {
        return None;
    }
    settings.monitors = monitors;
    let former = Former { defaults: Arc::clone(&settings.defaults), monitors: known };
    Some((settings, former))
}

/// What can be said without the monitors, whatever is wrong with them. None: the rest has something wrong itself.
pub(super) fn read_without_monitors(texts: &[SourceText], given: Given<'_>) -> Option<Settings> {
    let Given { kinds, base, environment } = given;
    let findings = Findings::default();
    let origin = Origin { trusted: true, env: environment.variable, base, credentials: environment.credentials };
    let rest = rest_of(texts, &pieces::cut(texts).rest, &findings)?;
    let secrets = RefCell::default();
    let (settings, _) = model::read_sections(&rest, kinds.built, &origin, &findings, &secrets);
    (findings.count() == 0).then_some(settings)
}

/// All that is no monitor, as one tree.
fn rest_of(texts: &[SourceText], rest: &[Vec<&str>], findings: &Findings) -> Option<Table> {
    let mut merged = Table::default();
    for (index, parts) in rest.iter().enumerate() {
        let number = u16::try_from(index).ok()?;
        // Each must be whole by itself: a string that two of them are parts of would hide the monitors between them.
        let whole = |part: &&str| !document::parse(number, part, findings).1;
        if parts.len() > 1 && !parts.iter().all(whole) {
            return None;
        }
        let (table, broken) = document::parse(number, &parts.concat(), findings);
        // Whatever says something of `monitor` here belongs to the monitors.
        if broken || table.get("monitor").is_some() {
            return None;
        }
        document::merge(&mut merged, table, "", texts, findings);
    }
    (findings.count() == 0).then_some(merged)
}

fn read_piece(piece: &Piece<'_>, context: &monitor::Context<'_>) -> Option<Definition> {
    let number = u16::try_from(piece.source).ok()?;
    let (root, broken) = document::parse(number, piece.text, context.findings);
    let [only] = root.entries.as_slice() else { return None };
    let Value::Array(items) = &only.node.value else { return None };
    let [Node { value: Value::Table(table), span }] = items.as_slice() else { return None };
    if broken || &*only.key != "monitor" {
        return None;
    }
    monitor::read_file_monitor(table, *span, false, context)
}

#[cfg(test)]
mod tests;
