//! Every kind of record, and what other versions wrote.

use super::*;
use crate::model::{Gap, GapReason};

#[tokio::test]
async fn every_kind_of_record_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let gap = |monitor| Gap { monitor, from_at: at(1), to_at: at(2), reason: GapReason::Overloaded };
    let evidence: crate::model::Evidence = serde_json::from_value(serde_json::json!({
        "checked_at": "2026-11-22T12:00:00.123Z", "verdict": "down", "failure": "connect_refused",
        "address": "[::1]:443", "timings_us": {"dns": 5, "total": 9}, "headers": [["a", "b"]], "excerpt": "…"
    }))
    .unwrap();
    let opening = crate::model::Opening {
        uid: Uuid::from_u128(9).into(),
        monitor: id(1),
        owner: crate::model::SYSTEM_USER,
        title: "Shop is down".into(),
        failure: crate::model::Failure::ConnectRefused,
        started_at: at(3),
        caused_by: Some(id(2)),
        maintenance: Some(crate::model::MaintenanceId(Uuid::from_u128(5))),
        first_bad: Some(Box::new(evidence.clone())),
        last_good: None,
    };
    let mut rich = MonitorState { first_bad: Some(Box::new(evidence)), ..MonitorState::default() };
    rich.flaps.push_back(at(7));
    let mut timings = Timings::default();
    timings.add(crate::model::Phase::Dns, std::time::Duration::from_micros(17));
    timings.total = std::time::Duration::from_micros(70);
    let Record::Check(plain) = check(1, 4) else { panic!() };
    let full = Check {
        verdict: Verdict::Down,
        failure: Some(crate::model::Failure::StatusUnexpected),
        message: Some("it \u{1F600} broke".into()),
        timings,
        address: Some("127.0.0.1:80".parse().unwrap()),
        certificate: Some(Arc::new(crate::model::CertificateFacts {
            subject: "CN=a".into(),
            issuer: "CN=b".into(),
            not_before: at(0),
            not_after: at(9),
            days_left: -3,
            fingerprint_sha256: "00".into(),
            chain_length: 2,
            more: None,
        })),
        attempt: 7,
        ..plain.clone()
    };
    let records = vec![
        Record::Check(plain),
        Record::Check(full),
        Record::Open(Box::new(opening)),
        resolve(1, 5),
        Record::Gap(gap(Some(id(1)))),
        Record::Gap(gap(None)),
        Record::State(id(1), Box::new(rich)),
        state(1, 6),
    ];
    open(&folder).write(vec![records.clone()]);
    assert_eq!(rest(&open(&folder)).await, records);
}

#[tokio::test]
async fn what_an_older_version_wrote_is_read() {
    // As version 0.2 wrote it; a later field may be missing, an unknown one may be there.
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    #[derive(serde::Serialize)]
    struct Old {
        monitor: MonitorId,
        at_ns: i64,
        verdict: &'static str,
        us: [Option<i32>; 6],
        total_us: u64,
        attempt: u16,
        from_a_later_version: Vec<u8>,
    }
    #[derive(serde::Serialize)]
    enum Kind {
        #[serde(rename = "check")]
        Check(Old),
    }
    let old = Old {
        monitor: id(1),
        at_ns: at(5).timestamp_nanos_opt().unwrap(),
        verdict: "up",
        us: [None; 6],
        total_us: 3,
        attempt: 1,
        from_a_later_version: vec![1, 2],
    };
    let payload = rmp_serde::to_vec_named(&[Kind::Check(old)]).unwrap();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &payload).to_le_bytes();
    let bytes = [&segment::header(7)[..], &length, &crc, &payload].concat();
    std::fs::write(crate::journal::log::path(&folder.path().join("journal"), 7), bytes).unwrap();
    let records = rest(&open(&folder)).await;
    let [Record::Check(check)] = &records[..] else { panic!("{records:?}") };
    assert_eq!((check.monitor, check.checked_at, check.timings.total.as_micros()), (id(1), at(5), 3));
}

#[test]
fn a_later_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder).write(vec![vec![check(1, 1)]]);
    let path = segments(&folder).pop().unwrap();
    let mut bytes = bytes_of(&path);
    bytes[8] = 2;
    std::fs::write(&path, &bytes).unwrap();
    let refused = DiskJournal::open(folder.path(), 1 << 20, at(0));
    assert!(matches!(refused, Err(JournalError::Newer { version: 2, .. })));
    assert_eq!(bytes_of(&path), bytes);
}
