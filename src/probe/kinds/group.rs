//! `group:`: a monitor whose target is other monitors. It is never probed: `verdict::gathering` has its rules.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use url::Url;
use uuid::Uuid;

use crate::model::{Failure, Fault, MonitorId, Observation};
use crate::probe::driven::{Driven, Group, Member, Require};
use crate::probe::form::Form;
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::settings::tree::Value;
use crate::verdict::expectation::Expectations;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "group",
    schemes: &["group"],
    form: Form::Bare,
    example_url: "group:",
    keys: &["members", "require"],
    prepare,
    example: include_str!("group/example.toml"),
};

/// A look at every member is made at every change of one of them.
const MEMBERS_MOST: usize = 1000;
const REQUIRE_ALLOWED: &str = "must be \"all\", \"any\" or a number of members";

struct Gathered(Group);

fn prepare(_: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let members = read_members(reader);
    let require = read_require(reader, members.len());
    if reader.findings().count() > before {
        return None;
    }
    let group = Group { members: members.into(), require };
    Some(Prepared { probe: Arc::new(Gathered(group)), expect: Expectations::default().shared() })
}

fn read_members(reader: &mut TableReader<'_>) -> Vec<Member> {
    let allowed = || format!("1 to {MEMBERS_MOST} ids of monitors, such as members = [\"web\", \"mail\"]");
    if reader.node("members").is_none() {
        reader.error("members", "is missing", allowed());
    }
    let Some(items) = reader.list("members") else { return Vec::new() };
    if items.is_empty() || items.len() > MEMBERS_MOST {
        reader.error("members", "has no or too many monitors", allowed());
        return Vec::new();
    }
    let trusted = reader.origin().trusted;
    let mut members: Vec<Member> = Vec::with_capacity(items.len());
    let mut seen = std::collections::HashSet::new();
    for item in items {
        let member = match &item.value {
            // A key may look like an id. Monitors of a file have keys, others may have none.
            Value::String(text) => match (text.parse::<Uuid>(), text.parse()) {
                (Ok(id), _) if !trusted => Member::Id(MonitorId(id)),
                (_, Ok(key)) => Member::Key(key),
                (_, Err(allowed)) => {
                    reader.error_at(item.span, "members", "is not an id", format!("must be {allowed}"));
                    continue;
                }
            },
            other => {
                let what = format!("found {}", other.type_name());
                reader.error_at(item.span, "members", what, "must be an id".to_owned());
                continue;
            }
        };
        if seen.insert(member.clone()) {
            members.push(member);
        } else {
            reader.error_at(item.span, "members", "stands here twice", None);
        }
    }
    members
}

fn read_require(reader: &mut TableReader<'_>, members: usize) -> Require {
    let Some(node) = reader.node("require") else { return Require::All };
    match &node.value {
        Value::String(text) if &**text == "all" => return Require::All,
        Value::String(text) if &**text == "any" => return Require::Any,
        Value::Integer(number) => {
            let least = u16::try_from(*number).ok().filter(|least| (1..=members).contains(&usize::from(*least)));
            // Without members that was said already.
            if let Some(least) = least.or((members == 0).then_some(1)) {
                return Require::AtLeast(least);
            }
            reader.error("require", format!("{number} of {members} members"), format!("must be 1 to {members}"));
            return Require::All;
        }
        _ => {}
    }
    reader.error("require", format!("found {}", node.value), REQUIRE_ALLOWED.to_owned());
    Require::All
}

impl Probe for Gathered {
    fn driven(&self) -> Driven<'_> {
        Driven::Members(&self.0)
    }

    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        let mut seen = Observation::new(context.started_at);
        seen.fault = Some(Fault::new(Failure::Internal, "a group is what its members are, and cannot be probed"));
        Box::pin(std::future::ready(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    const ID: &str = "123e4567-e89b-12d3-a456-426614174000";

    fn group(trusted: bool, keys: &str) -> Result<Group, String> {
        let read = testing::read_as(trusted, &format!("url = \"group:\"\n{keys}"), KIND.prepare);
        match read.value {
            Some(prepared) => match prepared.probe.driven() {
                Driven::Members(group) => Ok(group.clone()),
                _ => panic!("{keys}"),
            },
            None => Err(read.findings.join("\n")),
        }
    }

    #[test]
    fn members_are_keys_and_in_rows_ids_as_well() {
        let keys = format!("members = [\"a\", {ID:?}]\nrequire = 2");
        let key = |text: &str| Member::Key(text.parse().unwrap());
        let file = group(true, &keys).unwrap();
        assert_eq!((&*file.members, file.require), (&[key("a"), key(ID)][..], Require::AtLeast(2)));
        let row = group(false, &keys).unwrap();
        assert_eq!(*row.members, [key("a"), Member::Id(MonitorId(ID.parse().unwrap()))]);
        assert_eq!(group(true, "members = [\"a\"]").unwrap().require, Require::All);
        assert_eq!(group(true, "members = [\"a\"]\nrequire = \"any\"").unwrap().require, Require::Any);
    }

    #[test]
    fn wrong_keys_are_named() {
        for (keys, what) in [
            ("", "members: is missing"),
            ("members = []", "1 to 1000 ids"),
            ("members = \"a\"", "must be a list"),
            ("members = [\"A b\"]", "is not an id"),
            ("members = [1]", "must be an id"),
            ("members = [\"a\", \"a\"]", "stands here twice"),
            ("members = [\"a\"]\nrequire = 2", "must be 1 to 1"),
            ("members = [\"a\"]\nrequire = 0", "must be 1 to 1"),
            ("members = [\"a\"]\nrequire = \"most\"", "must be \"all\", \"any\" or a number"),
        ] {
            let found = group(true, keys).unwrap_err();
            assert!(found.contains(what), "{keys}: {found}");
        }
    }
}
