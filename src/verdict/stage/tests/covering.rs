//! Maintenance over what is known.

use super::*;
use crate::model::{MaintenanceId, Under};

fn under(number: u128, until: i64) -> Under {
    Under { maintenance: MaintenanceId(Uuid::from_u128(number)), until: at(until) }
}

fn covers(monitors: &[(u128, Under)], complete: bool) -> Arc<Covers> {
    Arc::new(Covers { monitors: monitors.iter().map(|(number, under)| (id(*number), *under)).collect(), complete })
}

impl Bench {
    async fn cover(&self, monitors: &[(u128, Under)], complete: bool) {
        self.covers.send_replace(covers(monitors, complete));
        // It is asked after all that it does at once.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_incident_that_opens_in_a_window_is_marked_and_outlives_it() {
    let (shop, other) = (entry(Monitor { confirmations: 1, ..monitor(1) }), entry(monitor(2)));
    let mut bench = Bench::with(&[&shop, &other]).await;
    bench.check(result(&shop, 0, None)).await;
    bench.records();
    bench.cover(&[(1, under(7, 2000))], true).await;
    assert_eq!(bench.records(), ["state:maintenance"], "only of the one that changed");
    bench.check(result(&shop, 10, DOWN)).await;
    let row = bench.board.row(id(1)).unwrap();
    assert_eq!((row.shown, row.beneath, row.maintenance), (Status::Maintenance, Status::Down, Some(under(7, 2000))));
    assert!(row.incident.is_some());
    let marks: Vec<_> = bench
        .journal
        .0
        .lock()
        .unwrap()
        .iter()
        .flatten()
        .filter_map(|record| match record {
            Record::Open(opening) => Some(opening.maintenance),
            _ => None,
        })
        .collect();
    assert_eq!(marks, [Some(MaintenanceId(Uuid::from_u128(7)))]);
    assert_eq!(bench.records(), ["down open:10 state:maintenance"]);
    bench.cover(&[(1, under(7, 2000))], true).await;
    assert_eq!(bench.records(), [""; 0], "nothing changed");
    bench.cover(&[], true).await;
    assert_eq!(bench.records(), ["state:down"], "the window is over, and the incident goes on");
    assert_eq!(bench.board.row(id(1)).unwrap().shown, Status::Down);
    bench.check(result(&shop, 20, None)).await;
    bench.check(result(&shop, 30, DOWN)).await;
    let unmarked = bench
        .journal
        .0
        .lock()
        .unwrap()
        .iter()
        .flatten()
        .any(|record| matches!(record, Record::Open(opening) if opening.maintenance.is_none()));
    assert!(unmarked, "the next one is an incident as any other");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_stays_until_everything_is_known_or_its_planned_end() {
    let stored =
        |until| MonitorState { status: Status::Up, maintenance: Some(under(7, until)), ..MonitorState::default() };
    let (long, over) = (entry(monitor(1)), entry(monitor(2)));
    let bench = Bench::start();
    // The wall clock shows 1000.
    let added = vec![(Arc::clone(&long), stored(2000)), (Arc::clone(&over), stored(900))];
    bench.update(Changes { added, ..Changes::default() }).await;
    let shown = |number| bench.board.row(id(number)).unwrap().shown;
    assert_eq!((shown(1), shown(2)), (Status::Maintenance, Status::Up));
    bench.cover(&[], false).await;
    assert_eq!(shown(1), Status::Maintenance);
    bench.cover(&[], true).await;
    assert_eq!(shown(1), Status::Up);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_is_covered_and_a_pause_is_a_pause() {
    let bench = Bench::start();
    bench.cover(&[(1, under(7, 2000)), (2, under(7, 2000))], true).await;
    let (active, paused) = (entry(monitor(1)), entry(Monitor { active: false, ..monitor(2) }));
    let added = vec![(active, MonitorState::default()), (paused, MonitorState::default())];
    bench.update(Changes { added, ..Changes::default() }).await;
    let shown = |number| bench.board.row(id(number)).unwrap().shown;
    assert_eq!((shown(1), shown(2)), (Status::Maintenance, Status::Paused));
    bench.update(Changes { changed: vec![entry(monitor(2))], ..Changes::default() }).await;
    assert_eq!(shown(2), Status::Maintenance);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn many_are_covered_all() {
    let entries: Vec<Arc<Entry>> = (1..=1000).map(|number| entry(monitor(number))).collect();
    let bench = Bench::with(&entries.iter().collect::<Vec<_>>()).await;
    let all: Vec<_> = (1..=1000).map(|number| (number, under(7, 2000))).collect();
    bench.cover(&all, true).await;
    assert_eq!(bench.board.tally().monitors[&(Status::Maintenance, Source::File)], 1000);
    assert_eq!(bench.records().len(), 1000);
    bench.end().await;
}
