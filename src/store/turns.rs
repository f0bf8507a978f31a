//! Transitions of a batch: incidents that open and end.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::record::json;
use super::{Problem, clean};
use crate::model::{MonitorId, Opening, Resolution};

/// A repeat finds its uid. An open incident that our state does not know (it was lost) is taken over, not doubled.
pub(super) const OPEN: &str = "INSERT INTO incidents (uid, user_id, monitor_id, title, started_at, status, source, cause, caused_by, evidence, \
        maintenance_id) \
    SELECT o.uid, m.user_id, m.id, o.title, o.started_at, 'open', 'daemon', o.cause, o.caused_by, o.evidence, o.maintenance_id \
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::text[], $6::uuid[], $7::jsonb[], $8::uuid[]) \
        AS o (uid, monitor_id, title, started_at, cause, caused_by, evidence, maintenance_id) \
    JOIN monitors m ON m.id = o.monitor_id \
    WHERE NOT EXISTS (SELECT FROM incidents i WHERE i.uid = o.uid) \
    ORDER BY m.id \
    ON CONFLICT (monitor_id) WHERE resolved_at IS NULL AND source = 'daemon' DO UPDATE SET uid = excluded.uid";
/// The trigger `lamplighter_resolve` adds status and duration.
pub(super) const RESOLVE: &str = "UPDATE incidents i SET resolved_at = r.resolved_at, resolve_reason = r.reason, updated_at = now() \
    FROM unnest($1::uuid[], $2::timestamptz[], $3::text[]) AS r (uid, resolved_at, reason) \
    WHERE i.uid = r.uid AND i.resolved_at IS NULL";

/// A transition of one monitor.
pub(super) enum Turn<'a> {
    Open(&'a Opening),
    Resolve(&'a Resolution),
}

/// Transitions in rounds: the first of every monitor, then the second, ... A round has one a monitor, so that an incident
/// that ends makes room before the next one opens.
pub(super) async fn write_turns(
    conn: &mut PgConnection,
    turns: &BTreeMap<MonitorId, Vec<Turn<'_>>>,
) -> Result<(), Problem> {
    let rounds = turns.values().map(Vec::len).max().unwrap_or(0);
    for round in 0..rounds {
        let (mut opens, mut ends) = (Vec::new(), Vec::new());
        for turn in turns.values().filter_map(|turns| turns.get(round)) {
            match turn {
                Turn::Open(opening) => opens.push(*opening),
                Turn::Resolve(end) => ends.push(*end),
            }
        }
        open(conn, &opens).await?;
        resolve(conn, &ends).await?;
    }
    Ok(())
}

async fn open(conn: &mut PgConnection, opens: &[&Opening]) -> Result<(), Problem> {
    if opens.is_empty() {
        return Ok(());
    }
    let evidence = |opening: &&Opening| {
        json(&serde_json::json!({ "first_bad": opening.first_bad, "last_good": opening.last_good }))
    };
    sqlx::query(OPEN)
        .bind(opens.iter().map(|o| o.uid.0).collect::<Vec<_>>())
        .bind(opens.iter().map(|o| o.monitor.0).collect::<Vec<_>>())
        .bind(opens.iter().map(|o| clean(&o.title)).collect::<Vec<_>>())
        .bind(opens.iter().map(|o| o.started_at).collect::<Vec<_>>())
        .bind(opens.iter().map(|o| o.failure.name()).collect::<Vec<_>>())
        .bind(opens.iter().map(|o| o.caused_by.map(|id| id.0)).collect::<Vec<_>>())
        .bind(opens.iter().map(evidence).collect::<Result<Vec<_>, _>>()?)
        .bind(opens.iter().map(|o| o.maintenance.map(|id| id.0)).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

async fn resolve(conn: &mut PgConnection, ends: &[&Resolution]) -> Result<(), Problem> {
    if ends.is_empty() {
        return Ok(());
    }
    sqlx::query(RESOLVE)
        .bind(ends.iter().map(|end| end.uid.0).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| end.resolved_at).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| end.reason.name()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}
