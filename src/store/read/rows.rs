//! Rows as they come from the database, as the API shows them.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use url::Url;
use uuid::Uuid;

use crate::access::read::{IncidentView, MonitorView, UptimeView};
use crate::model::{MaintenanceId, MonitorId, UserId};

pub(super) fn monitor(row: &PgRow) -> Result<MonitorView, sqlx::Error> {
    let url: String = row.try_get("url")?;
    Ok(MonitorView {
        id: MonitorId(row.try_get("id")?),
        key: row.try_get("key")?,
        name: row.try_get("name")?,
        url: without_password(url),
        kind: row.try_get("kind")?,
        source: row.try_get("source")?,
        user_id: UserId(row.try_get("user_id")?),
        status: row.try_get("status")?,
        status_beneath: row.try_get("status_beneath")?,
        active: row.try_get("is_active")?,
        interval_seconds: row.try_get("interval_seconds")?,
        timeout_seconds: row.try_get("timeout_seconds")?,
        tags: row.try_get("tags")?,
        uptime_percentage: row.try_get("uptime_percentage")?,
        uptime: row.try_get("uptime")?,
        last_checked: time(row, "last_checked")?,
        response_time_ms: row.try_get("response_time")?,
        ssl_expiry: time(row, "ssl_expiry")?,
        invalid_reason: row.try_get("invalid_reason")?,
        archived_at: time(row, "archived_at")?,
        revision: row.try_get("revision")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        history_from: None,
    })
}

fn time(row: &PgRow, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    row.try_get(column)
}

/// Rows of others may have one in their url.
fn without_password(url: String) -> String {
    match Url::parse(&url) {
        Ok(mut parsed) if parsed.password().is_some() => match parsed.set_password(Some("***")) {
            Ok(()) => parsed.into(),
            Err(()) => "(not shown: it has a password)".to_owned(),
        },
        // What was cut off may be all that tells a password from a host.
        Err(_) if url.ends_with('…') && !url.split_once("://").is_some_and(|(_, rest)| rest.contains('/')) => {
            "(not shown: it is too long)".to_owned()
        }
        _ => url,
    }
}

pub(super) fn incident(row: &PgRow) -> Result<IncidentView, sqlx::Error> {
    Ok(IncidentView {
        id: row.try_get("id")?,
        monitor: row.try_get("monitor")?,
        monitor_id: MonitorId(row.try_get("monitor_id")?),
        title: row.try_get("title")?,
        description: row.try_get("description")?,
        status: row.try_get("status")?,
        severity: row.try_get("severity")?,
        started_at: row.try_get("started_at")?,
        resolved_at: time(row, "resolved_at")?,
        duration_seconds: row.try_get("duration_seconds")?,
        source: row.try_get("source")?,
        cause: row.try_get("cause")?,
        caused_by: row.try_get::<Option<Uuid>, _>("caused_by")?.map(MonitorId),
        maintenance_id: row.try_get::<Option<Uuid>, _>("maintenance_id")?.map(MaintenanceId),
        under_maintenance: row.try_get("under_maintenance")?,
        resolve_reason: row.try_get("resolve_reason")?,
        acknowledged_at: time(row, "acknowledged_at")?,
        acknowledged_by: row.try_get("acknowledged_by")?,
        acknowledge_note: row.try_get("acknowledge_note")?,
        evidence: None,
    })
}

pub(super) fn uptime(row: &PgRow) -> Result<UptimeView, sqlx::Error> {
    Ok(UptimeView {
        monitor: row.try_get("monitor")?,
        monitor_id: MonitorId(row.try_get("id")?),
        counts: row.try_get::<Option<i64>, _>("checks")?.zip(row.try_get("good")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let shown = |url: &str| without_password(url.to_owned());
        assert_eq!(shown("postgres://u:hunter2@h/d"), "postgres://u:***@h/d");
        assert_eq!(shown("https://:hunter2@h/"), "https://:***@h/");
        assert_eq!(shown(&format!("postgres://u:{}…", "hunter2".repeat(500))), "(not shown: it is too long)");
        for url in ["https://h/p?x=1", "tcp://h:1", "not a url", "postgres://u@h/d", "dns:name"] {
            assert_eq!(shown(url), url);
        }
    }
}
