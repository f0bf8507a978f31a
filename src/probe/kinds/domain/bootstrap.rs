//! Which RDAP server knows a domain: IANA's list (RFC 9224).

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::kept;
use crate::model::{Failure, Fault, Observation};
use crate::probe::net::Profile;
use crate::probe::{ProbeContext, fetch};

/// How long a list counts; registries change a few times a month.
const FRESH: TimeDelta = TimeDelta::days(1);
const FILE: &str = "bootstrap.json";
/// As large a list is read; IANA's has some 100 KB.
const MAX_BYTES: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct List {
    source: String,
    fetched_at: DateTime<Utc>,
    list: Value,
}

/// The base URL of the server for a domain. None: the list has none for its top level.
pub(super) async fn server(
    domain: &str,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<Option<Url>, Fault> {
    let rdap = context.net.rdap();
    if !rdap.bootstrap.starts_with("http://") && !rdap.bootstrap.starts_with("https://") {
        let list: Option<Value> = kept::load(Some(Path::new("")), &rdap.bootstrap).await;
        let unreadable =
            || Fault::new(Failure::Internal, format!("{}, the list of RDAP servers, cannot be read", rdap.bootstrap));
        return Ok(choose(&list.ok_or_else(unreadable)?, domain));
    }
    // One asks for all: a daemon that starts with a thousand domains needs the list once.
    let late = Fault::new(Failure::QueryFailed, "the list of RDAP servers did not come within the timeout");
    let turn = tokio::time::timeout_at(context.deadline, rdap.turn.lock()).await;
    let _turn = turn.map_err(|_| late)?;
    let kept: Option<List> = kept::load(rdap.folder.as_deref(), FILE).await;
    let kept = kept.filter(|list: &List| list.source == rdap.bootstrap);
    let is_fresh = |list: &&List| (TimeDelta::zero()..FRESH).contains(&(context.started_at - list.fetched_at));
    if let Some(list) = kept.as_ref().filter(is_fresh) {
        return Ok(choose(&list.list, domain));
    }
    match (fetch(&rdap.bootstrap, context, seen).await, kept) {
        (Ok(list), _) => {
            let list = List { source: rdap.bootstrap.clone(), fetched_at: context.started_at, list };
            kept::save(rdap.folder.as_deref(), FILE, &list).await;
            Ok(choose(&list.list, domain))
        }
        // An old list is right about nearly everything.
        (Err(_), Some(old)) => Ok(choose(&old.list, domain)),
        (Err(fault), None) => Err(fault),
    }
}

async fn fetch(source: &str, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<Value, Fault> {
    let not_list = || Fault::new(Failure::QueryFailed, format!("{source} does not answer with a list of RDAP servers"));
    let url = Url::parse(source).map_err(|_| not_list())?;
    let fetched = fetch::get(&url, "application/json", MAX_BYTES, Profile::File, context, seen).await?;
    let list = serde_json::from_slice(&fetched.body).ok().filter(|list: &Value| list["services"].is_array());
    list.filter(|_| fetched.status == 200).ok_or_else(not_list)
}

/// The entry with the most labels that ends the domain; of its URLs one over https, if there is one (RFC 9224, 3 and 4).
fn choose(list: &Value, domain: &str) -> Option<Url> {
    let ends = |entry: &str| {
        let before = domain.len().checked_sub(entry.len())?;
        let behind = domain.get(before..)?.eq_ignore_ascii_case(entry);
        let whole = before == 0 || entry.is_empty() || domain.as_bytes().get(before - 1) == Some(&b'.');
        (behind && whole).then(|| if entry.is_empty() { 0 } else { entry.split('.').count() })
    };
    let services = list["services"].as_array()?.iter();
    let longest = |service: &Value| service[0].as_array()?.iter().filter_map(|entry| ends(entry.as_str()?)).max();
    let (_, service) =
        services.filter_map(|service| Some((longest(service)?, service))).max_by_key(|(labels, _)| *labels)?;
    let urls: Vec<Url> = service[1].as_array()?.iter().filter_map(|url| Url::parse(url.as_str()?).ok()).collect();
    let by = |scheme: &str| urls.iter().find(|url| url.scheme() == scheme).cloned();
    by("https").or_else(|| by("http"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_end_of_whole_labels_wins() {
        let list = json!({ "version": "1.0", "services": [
            [["org", "net"], ["http://a.example/", "https://b.example/rdap"]],
            [["co.uk", "xn--p1ai"], ["http://c.example/"]],
            [["uk"], ["https://d.example/"]],
            [["broken"], ["nothing"]], [], "x", [["alone"]],
        ] });
        for (domain, wanted) in [
            ("example.org", Some("https://b.example/rdap")),
            ("EXAMPLE.ORG", Some("https://b.example/rdap")),
            ("a.co.uk", Some("http://c.example/")),
            ("aco.uk", Some("https://d.example/")),
            ("xn--e1afmkfd.xn--p1ai", Some("http://c.example/")),
            ("example.borg", None),
            ("example.broken", None),
            ("example.alone", None),
        ] {
            assert_eq!(choose(&list, domain).as_ref().map(Url::as_str), wanted, "{domain}");
        }
        assert_eq!(choose(&json!(null), "a.org"), None);
    }
}
