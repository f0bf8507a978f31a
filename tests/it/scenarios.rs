//! What servers do, and what a check says of it: verdict, failure, phases. One row, one scenario.

use std::collections::HashSet;
use std::sync::Arc;

use lamplighter::model::Failure;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::staging::{Room, Row};

mod closed_list;
mod dns;
mod http;
mod names;
mod proxies;
mod redirects;
mod staging;
mod talks;
mod tcp;
mod tls;

fn table(room: &Room) -> Vec<Row> {
    [
        dns::rows(),
        names::rows(),
        tcp::rows(),
        tls::chains(room),
        tls::alerts(),
        tls::handshakes(),
        tls::ports(),
        http::rows(),
        http::heads(),
        http::broken_bodies(),
        http::expectations(),
        http::json_expectations(),
        http::oddities(),
        http::http2(),
        redirects::rows(),
        redirects::between_hosts(),
        proxies::rows(),
        talks::starttls(),
        talks::websocket(),
        talks::grpc(),
        talks::ssh(),
        talks::logins(),
        talks::domains(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[tokio::test]
async fn scenarios() {
    let room = Room::new();
    let (turns, mut running) = (Arc::new(Semaphore::new(16)), JoinSet::new());
    for row in table(&room) {
        let (turns, room) = (Arc::clone(&turns), Arc::clone(&room));
        running.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            let name = row.name.clone();
            // A task of its own, so that a panic is a difference as well.
            let found = tokio::spawn(row.difference(room)).await.unwrap_or_else(|error| Some(error.to_string()));
            found.map(|difference| format!("{name}: {difference}"))
        });
    }
    let mut differing: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    differing.sort();
    assert!(differing.is_empty(), "{} scenarios differ:\n{}", differing.len(), differing.join("\n"));
}

#[test]
fn scenario_names_are_unique_and_failures_exist() {
    let rows = table(&Room::new());
    let names: HashSet<&str> = rows.iter().map(|row| &*row.name).collect();
    assert_eq!(names.len(), rows.len());
    assert!(rows.len() >= MIN_ROWS, "{} rows", rows.len());
    for row in &rows {
        assert!(row.failure.is_none_or(|name| Failure::from_name(name).is_some()), "{}", row.name);
    }
}

const MIN_ROWS: usize = 630;
