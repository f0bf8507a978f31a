//! What monitors of one file say about each other: ids, former ids, dependencies.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::definition::{Definition, Located, Place};
use super::diagnostic::{Diagnostic, Findings, Quote, nearest};
use super::tree::{Span, Table, Value};
use crate::model::MonitorKey;
use crate::probe::driven::{Driven, Member};

/// Unknown ids for which the nearest is looked for: a look at every id each. Whoever has more typing errors than that has
/// another problem.
const EXPLAINED: usize = 20;

/// One monitor of the file: valid or not, its id is taken.
pub(super) struct Named<'a> {
    pub(super) key: Cow<'a, MonitorKey>,
    pub(super) table: &'a Table,
    pub(super) span: Option<Span>,
    pub(super) place: Option<Place>,
}

/// Complains about the same of monitors that are valid each by itself; whoever wants places and all of it takes [`check`].
pub(super) fn check_valid(definitions: &[Located], findings: &Findings) {
    let nothing = Table::default();
    let named = definitions.iter().filter_map(|located| {
        let key = Cow::Borrowed(located.definition.key.as_ref()?);
        Some(Named { key, table: &nothing, span: None, place: located.place.clone() })
    });
    check(&named.collect::<Vec<_>>(), definitions, true, findings);
}

/// Complains about ids that stand twice, former ids still in use, unknown dependencies and cycles. `complete` tells
/// that every source parsed: else what is unknown may be in the part that was lost.
pub(super) fn check(named: &[Named<'_>], definitions: &[Located], complete: bool, findings: &Findings) {
    let mut by_key: HashMap<&MonitorKey, &Named<'_>> = HashMap::with_capacity(named.len());
    for monitor in named {
        if let Some(first) = by_key.get(&*monitor.key) {
            let what = format!("{:?} stands twice", monitor.key.as_str());
            twice(findings, monitor, "id", what, first.place.as_ref());
        } else {
            by_key.insert(&*monitor.key, monitor);
        }
    }
    former_ids(&by_key, definitions, findings);
    let edges: HashMap<&MonitorKey, &[MonitorKey]> = definitions
        .iter()
        .filter(|definition| !definition.depends_on.is_empty())
        .filter_map(|definition| Some((definition.key.as_ref()?, &*definition.depends_on)))
        .collect();
    let members: HashMap<&MonitorKey, Vec<MonitorKey>> =
        definitions.iter().filter_map(|definition| Some((definition.key.as_ref()?, members_of(definition)?))).collect();
    let members = members.iter().map(|(key, members)| (*key, members.as_slice())).collect();
    for (relation, edges) in [(&DEPENDS_ON, &edges), (&MEMBERS, &members)] {
        if complete {
            unknown_ends(named, &by_key, relation, edges, findings);
        }
        cycles(named, relation, edges, findings);
    }
}

/// Complains about monitors that a maintenance names and that are not there.
pub(super) fn check_maintenances<'a>(tree: &Table, ids: impl Iterator<Item = &'a str>, findings: &Findings) {
    let Some(Value::Array(items)) = tree.get("maintenance").map(|entry| &entry.node.value) else { return };
    let ids: Vec<&str> = ids.collect();
    let known: HashSet<&str> = ids.iter().copied().collect();
    let mut unknown = 0;
    for (table_index, item) in items.iter().enumerate() {
        let Value::Table(table) = &item.value else { continue };
        let Some(Value::Array(names)) = table.get("monitors").map(|entry| &entry.node.value) else { continue };
        for (index, name) in names.iter().enumerate() {
            let Value::String(text) = &name.value else { continue };
            // What is no id was reported.
            if known.contains(&**text) || text.parse::<MonitorKey>().is_err() {
                continue;
            }
            unknown += 1;
            let near = if unknown <= EXPLAINED { nearest(text, ids.iter().copied()) } else { None };
            findings.push(Diagnostic {
                span: name.span,
                key: format!("maintenance[{table_index}].monitors[{index}]"),
                what: format!("no monitor has the id {text:?}"),
                allowed: near.map(|near| format!("did you mean {near:?}?")),
                quote: Quote::Value,
            });
        }
    }
}

/// What monitors may say of others.
struct Relation {
    key: &'static str,
    why_no_cycle: &'static str,
}

const DEPENDS_ON: Relation = Relation { key: "depends_on", why_no_cycle: "a monitor cannot explain itself" };
const MEMBERS: Relation = Relation { key: "members", why_no_cycle: "a group cannot be a member of itself" };

fn members_of(definition: &Definition) -> Option<Vec<MonitorKey>> {
    let Driven::Members(group) = definition.prepared.probe.driven() else { return None };
    let keys = group.members.iter().filter_map(|member| match member {
        Member::Key(key) => Some(key.clone()),
        Member::Id(_) => None,
    });
    Some(keys.collect())
}

fn twice(findings: &Findings, monitor: &Named<'_>, key: &str, what: String, other: Option<&Place>) {
    let allowed = other.map(|place| format!("the other is at {place}"));
    let (span, key) = (value_span(monitor, key, None), format!("monitor.{key}"));
    findings.push(Diagnostic { span, key, what, allowed, quote: Quote::Value });
}

/// The place of a key's value, or of one element of its list.
fn value_span(monitor: &Named<'_>, key: &str, element: Option<&str>) -> Option<Span> {
    let Some(entry) = monitor.table.get(key) else { return monitor.span };
    if let (Some(element), Value::Array(items)) = (element, &entry.node.value) {
        let found = items.iter().find(|item| matches!(&item.value, Value::String(text) if **text == *element));
        return found.and_then(|item| item.span).or(entry.node.span);
    }
    entry.node.span.or(monitor.span)
}

fn former_ids(by_key: &HashMap<&MonitorKey, &Named<'_>>, definitions: &[Located], findings: &Findings) {
    let mut heirs: HashMap<&MonitorKey, &Located> = HashMap::new();
    for definition in definitions {
        let (Some(former), Some(key)) = (&definition.renamed_from, &definition.key) else { continue };
        // A second monitor of one id was reported.
        let Some(monitor) = by_key.get(key).filter(|monitor| monitor.place == definition.place) else { continue };
        if former == key {
            twice(findings, monitor, "renamed_from", "is the monitor's own id".to_owned(), None);
        } else if let Some(there) = by_key.get(former) {
            let what = format!("{:?} is still the id of a monitor", former.as_str());
            twice(findings, monitor, "renamed_from", what, there.place.as_ref());
        } else if let Some(other) = heirs.insert(former, definition) {
            let what = format!("two monitors were renamed from {:?}", former.as_str());
            twice(findings, monitor, "renamed_from", what, other.place.as_ref());
        }
    }
}

fn unknown_ends(
    named: &[Named<'_>],
    by_key: &HashMap<&MonitorKey, &Named<'_>>,
    relation: &Relation,
    edges: &HashMap<&MonitorKey, &[MonitorKey]>,
    findings: &Findings,
) {
    let mut unknown = 0;
    for monitor in named {
        for other in edges.get(&*monitor.key).copied().unwrap_or_default() {
            if by_key.contains_key(other) {
                continue;
            }
            unknown += 1;
            // In the order of the file: of several that are as near, two readings must name the same.
            let candidates = named.iter().map(|monitor| monitor.key.as_str());
            let near = if unknown <= EXPLAINED { nearest(other.as_str(), candidates) } else { None };
            findings.push(Diagnostic {
                span: value_span(monitor, relation.key, Some(other.as_str())),
                key: format!("monitor.{}", relation.key),
                what: format!("no monitor has the id {:?}", other.as_str()),
                allowed: near.map(|near| format!("did you mean {near:?}?")),
                quote: Quote::Value,
            });
        }
    }
}

/// Depth-first with an explicit stack: a chain may be as long as the file. Each cycle is reported once.
fn cycles(named: &[Named<'_>], relation: &Relation, edges: &HashMap<&MonitorKey, &[MonitorKey]>, findings: &Findings) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        OnPath,
        Done,
    }
    let mut marks: HashMap<&MonitorKey, Mark> = HashMap::new();
    for start in named.iter().filter(|monitor| edges.contains_key(&*monitor.key)) {
        if marks.contains_key(&*start.key) {
            continue;
        }
        let mut path: Vec<(&MonitorKey, std::slice::Iter<'_, MonitorKey>)> = Vec::new();
        marks.insert(&*start.key, Mark::OnPath);
        path.push((&*start.key, edges.get(&*start.key).copied().unwrap_or_default().iter()));
        while let Some((key, rest)) = path.last_mut() {
            let key = *key;
            let Some(next) = rest.next() else {
                marks.insert(key, Mark::Done);
                path.pop();
                continue;
            };
            match marks.get(next) {
                Some(Mark::Done) => {}
                Some(Mark::OnPath) => {
                    let from = path.iter().position(|(there, _)| *there == next).unwrap_or(0);
                    let members: Vec<&MonitorKey> = path.iter().skip(from).map(|(key, _)| *key).collect();
                    report_cycle(named, relation, &members, findings);
                }
                None => {
                    marks.insert(next, Mark::OnPath);
                    path.push((next, edges.get(next).copied().unwrap_or_default().iter()));
                }
            }
        }
    }
}

fn report_cycle(named: &[Named<'_>], relation: &Relation, members: &[&MonitorKey], findings: &Findings) {
    const SHOWN: usize = 8;
    let (Some(first), Some(last)) = (members.first(), members.last()) else { return };
    let mut names: Vec<&str> = members.iter().take(SHOWN).map(|key| key.as_str()).collect();
    if members.len() > SHOWN {
        names.push("…");
    }
    names.push(first.as_str());
    // Looking for the place is a walk through all monitors; what is only counted needs none.
    let searched = if findings.is_full() { &[] } else { named };
    let span = searched
        .iter()
        .find(|monitor| *monitor.key == **last)
        .and_then(|monitor| value_span(monitor, relation.key, Some(first.as_str())));
    findings.push(Diagnostic {
        span,
        key: format!("monitor.{}", relation.key),
        what: format!("is a cycle: {}", names.join(" -> ")),
        allowed: Some(relation.why_no_cycle.to_owned()),
        quote: Quote::Value,
    });
}
