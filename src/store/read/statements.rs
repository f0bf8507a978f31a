//! What is asked for the API, as SQL.

pub(in crate::store) const STATEMENTS: &[&str] =
    &[MONITORS, BY_ID, BY_KEY, INCIDENTS, INCIDENT, UPTIME_OF, UPTIME, LABELS];

/// Others may write any time, and decoding one beyond chrono's range (or 'infinity') panics: such a time is not shown.
macro_rules! sane {
    ($column:literal, $name:literal) => {
        concat!(
            "CASE WHEN ",
            $column,
            " BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN ",
            $column,
            " END AS ",
            $name
        )
    };
}

/// Texts of others may be of any length; a page of them must not. What is cut ends with an ellipsis.
macro_rules! cut {
    ($text:literal, $most:literal, $name:literal) => {
        concat!(
            "CASE WHEN length(",
            $text,
            ") > ",
            $most,
            " THEN left(",
            $text,
            ", ",
            $most,
            " - 1) || '…' ELSE ",
            $text,
            " END AS ",
            $name
        )
    };
}

macro_rules! monitors {
    ($rest:literal) => {
        concat!(
            "SELECT m.id, m.source, m.user_id, coalesce(m.is_active, true) AS is_active, \
             coalesce(m.interval_seconds, 300) AS interval_seconds, coalesce(m.timeout_seconds, 10) AS timeout_seconds, \
             ARRAY(SELECT CASE WHEN length(t) > 100 THEN left(t, 99) || '…' ELSE t END \
                FROM unnest(m.tags) t WHERE t IS NOT NULL LIMIT 100) AS tags, \
             coalesce(m.uptime_percentage, 100) AS uptime_percentage, m.response_time, m.revision, now() AS read_at, \
             (SELECT u.plan FROM users u WHERE u.id = m.user_id) AS plan, ",
            cut!("m.key", "500", "key"), ", ",
            cut!("m.name", "500", "name"), ", ",
            cut!("m.url", "4096", "url"), ", ",
            cut!("m.kind", "500", "kind"), ", ",
            cut!("coalesce(m.status, 'pending')", "500", "status"), ", ",
            "CASE WHEN m.status = 'maintenance' THEN (SELECT s.status FROM monitor_state s WHERE s.monitor_id = m.id \
                ORDER BY s.last_checked DESC NULLS LAST, s.region LIMIT 1) END AS status_beneath, ",
            cut!("m.uptime", "500", "uptime"), ", ",
            cut!("m.invalid_reason", "4096", "invalid_reason"), ", ",
            sane!("m.last_checked", "last_checked"), ", ",
            sane!("m.ssl_expiry", "ssl_expiry"), ", ",
            sane!("m.archived_at", "archived_at"), ", ",
            sane!("m.created_at", "created_at"), ", ",
            sane!("m.updated_at", "updated_at"),
            " FROM monitors m WHERE ($1::uuid IS NULL OR m.user_id = $1) AND ",
            $rest
        )
    };
}

pub(super) const MONITORS: &str = monitors!(
    "m.archived_at IS NULL AND ($2::text IS NULL OR m.status = $2) AND ($3::text IS NULL OR $3 = ANY(m.tags)) \
     AND ($4::text IS NULL OR m.source = $4) AND ($5::text IS NULL OR strpos(lower(m.name), lower($5)) > 0 \
        OR strpos(lower(m.key), lower($5)) > 0 OR strpos(lower(m.url), lower($5)) > 0) \
     AND ($6::uuid IS NULL OR m.id > $6) ORDER BY m.id LIMIT $7::bigint"
);
pub(super) const BY_ID: &str = monitors!("m.id = $2");
/// The sources are named because the index begins with them.
pub(super) const BY_KEY: &str = monitors!(
    "m.source = ANY(ARRAY['file', 'api', 'database']) AND m.key = $2 \
     ORDER BY array_position(ARRAY['file', 'api', 'database'], m.source::text) LIMIT 1"
);

macro_rules! incidents {
    ($long:literal, $more:literal, $rest:literal) => {
        concat!(
            "SELECT i.id, i.monitor_id, i.duration_seconds, i.caused_by, i.maintenance_id, \
             i.resolved_at IS NULL AND EXISTS (SELECT FROM maintenance_spans s WHERE s.monitor_id = i.monitor_id \
                AND s.from_at <= now() AND s.to_at > now()) AS under_maintenance, ",
            cut!("coalesce(m.key, m.name)", "500", "monitor"),
            ", ",
            cut!("i.title", "500", "title"),
            ", ",
            cut!("i.description", $long, "description"),
            ", ",
            cut!("coalesce(i.status, 'open')", "500", "status"),
            ", ",
            cut!("i.severity", "500", "severity"),
            ", ",
            cut!("coalesce(i.source, 'manual')", "500", "source"),
            ", ",
            cut!("i.cause", "500", "cause"),
            ", ",
            cut!("i.resolve_reason", "500", "resolve_reason"),
            ", ",
            cut!("i.acknowledged_by", "500", "acknowledged_by"),
            ", ",
            cut!("i.acknowledge_note", $long, "acknowledge_note"),
            ", ",
            "greatest('1970-01-01 00:00+00', least(i.started_at, '9999-12-31 00:00+00')) AS started_at, ",
            sane!("i.resolved_at", "resolved_at"),
            ", ",
            sane!("i.acknowledged_at", "acknowledged_at"),
            $more,
            " FROM incidents i JOIN monitors m ON m.id = i.monitor_id \
             WHERE ($1::uuid IS NULL OR (i.user_id = $1 AND m.user_id = $1)) AND ",
            $rest
        )
    };
}

pub(super) const INCIDENTS: &str = incidents!(
    "4000",
    "",
    "($2::text IS NULL OR i.status = $2) AND ($3::uuid IS NULL OR i.monitor_id = $3) \
     AND ($4::timestamptz IS NULL OR i.started_at >= $4) AND ($5::timestamptz IS NULL OR i.started_at < $5) \
     AND ($6::timestamptz IS NULL OR (i.started_at, i.id) < ($6, $7::bigint)) \
     ORDER BY i.started_at DESC, i.id DESC LIMIT $8::bigint"
);
pub(super) const INCIDENT: &str = incidents!("64000", ", i.evidence", "i.id = $2");

pub(super) const UPTIME_OF: &str = "SELECT checks, good FROM lamplighter_counts(ARRAY[$1::uuid], \
    greatest(now() - make_interval(hours => 24 * $2), $3::timestamptz), 'infinity')";
/// All whose window begins at the same time, for the plans of their owners, are counted at once.
pub(super) const UPTIME: &str = concat!(
    "WITH page AS MATERIALIZED (SELECT m.id, ",
    cut!("coalesce(m.key, m.name)", "500", "monitor"),
    ", greatest(now() - make_interval(hours => 24 * $4), now() - make_interval(secs => p.seconds)) AS from_at \
    FROM (SELECT id, user_id, key, name FROM monitors WHERE ($1::uuid IS NULL OR user_id = $1) AND archived_at IS NULL \
        AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3::bigint) m \
    LEFT JOIN users o ON o.id = m.user_id \
    LEFT JOIN unnest($5::text[], $6::float8[]) AS p (plan, seconds) ON p.plan = o.plan) \
    SELECT page.id, u.checks, u.good, page.monitor \
    FROM (SELECT array_agg(id) AS ids, from_at FROM page GROUP BY from_at) g \
    CROSS JOIN LATERAL lamplighter_counts(g.ids, g.from_at, 'infinity') u \
    JOIN page ON page.id = u.monitor_id ORDER BY page.id"
);
pub(super) const LABELS: &str = concat!(
    "SELECT m.id, NULL::bigint AS checks, NULL::bigint AS good, ",
    cut!("coalesce(m.key, m.name)", "500", "monitor"),
    " FROM monitors m WHERE ($1::uuid IS NULL OR m.user_id = $1) AND m.archived_at IS NULL \
        AND ($2::uuid IS NULL OR m.id > $2) ORDER BY m.id LIMIT $3::bigint"
);
