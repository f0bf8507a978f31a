//! CSV as RFC 4180 has it: comma, CRLF, a header, quotes around a cell where it needs them. A missing value is an empty
//! cell, an empty text is `""`, as PostgreSQL's COPY reads and writes them.
//!
//! A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, and a name or title may have been
//! written by a stranger. Such texts get an apostrophe in front, which is what OWASP's page on CSV injection advises. Whoever needs
//! texts to the letter takes NDJSON. Numbers, times and ids are written as they are: none of ours begins so.

use std::fmt::Write as _;

use super::{CheckRow, IncidentRow, time};

/// The header of checks, in the order of [`check`].
pub(super) const CHECK_COLUMNS: &[&str] = &[
    "id",
    "monitor_id",
    "monitor",
    "checked_at",
    "verdict",
    "status",
    "error_type",
    "status_code",
    "response_time_ms",
    "attempt",
    "region",
    "dns_us",
    "connect_us",
    "tls_us",
    "send_us",
    "wait_us",
    "receive_us",
];

/// The header of incidents, in the order of [`incident`].
pub(super) const INCIDENT_COLUMNS: &[&str] = &[
    "id",
    "user_id",
    "monitor_id",
    "monitor",
    "title",
    "description",
    "status",
    "severity",
    "started_at",
    "resolved_at",
    "duration_seconds",
    "source",
    "cause",
    "caused_by",
    "maintenance_id",
    "resolve_reason",
    "acknowledged_at",
    "acknowledged_by",
    "acknowledge_note",
    "evidence",
];

pub(super) fn head(columns: &[&str]) -> Vec<u8> {
    format!("{}\r\n", columns.join(",")).into_bytes()
}

pub(super) fn check(row: &CheckRow, out: &mut Vec<u8>) {
    let mut line = Line::new(out);
    line.plain(row.id).plain(row.monitor_id).text(&row.monitor).plain(time(row.checked_at)).plain(row.verdict.name());
    line.plain(row.status).some_text(row.error_type.as_deref()).some(row.status_code).some(row.response_time_ms);
    line.plain(row.attempt).text(&row.region);
    for phase in [row.dns_us, row.connect_us, row.tls_us, row.send_us, row.wait_us, row.receive_us] {
        line.some(phase);
    }
    line.end();
}

pub(super) fn incident(row: &IncidentRow, out: &mut Vec<u8>) {
    let mut line = Line::new(out);
    line.plain(row.id).plain(row.user_id).plain(row.monitor_id).text(&row.monitor).text(&row.title);
    line.some_text(row.description.as_deref()).text(&row.status).some_text(row.severity.as_deref());
    line.plain(time(row.started_at)).some(row.resolved_at.map(time)).some(row.duration_seconds).text(&row.source);
    line.some_text(row.cause.as_deref()).some(row.caused_by).some(row.maintenance_id);
    line.some_text(row.resolve_reason.as_deref())
        .some(row.acknowledged_at.map(time))
        .some_text(row.acknowledged_by.as_deref());
    line.some_text(row.acknowledge_note.as_deref());
    line.some_text(row.evidence.as_ref().map(ToString::to_string).as_deref());
    line.end();
}

/// A line that is being written.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    scratch: String,
}

impl<'a> Line<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, first: true, scratch: String::new() }
    }

    fn begin(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
    }

    /// What needs no quotes: numbers, ids, times, our own words.
    fn plain(&mut self, value: impl std::fmt::Display) -> &mut Self {
        self.begin();
        self.scratch.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.scratch, "{value}");
        self.out.extend_from_slice(self.scratch.as_bytes());
        self
    }

    fn some(&mut self, value: Option<impl std::fmt::Display>) -> &mut Self {
        match value {
            Some(value) => self.plain(value),
            None => {
                self.begin();
                self
            }
        }
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.begin();
        cell(text, self.out);
        self
    }

    fn some_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => {
                self.begin();
                self
            }
        }
    }

    fn end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// A tab or a return before a formula is skipped by some programs.
fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

fn cell(text: &str, out: &mut Vec<u8>) {
    let formula = is_formula(text);
    let quoted =
        text.is_empty() || text.contains([',', '"', '\r', '\n']) || text.starts_with(' ') || text.ends_with(' ');
    // PostgreSQL takes this line of one column for the end of the data.
    let quoted = quoted || formula || text == "\\.";
    if !quoted {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    if formula {
        out.push(b'\'');
    }
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        cell(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cells_are_quoted_where_they_need_it() {
        for (text, cell) in [
            ("plain", "plain"),
            ("", "\"\""),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("two\r\nlines", "\"two\r\nlines\""),
            (" edge", "\" edge\""),
            ("it's", "it's"),
        ] {
            assert_eq!(written(text), cell);
        }
    }

    #[test]
    fn no_cell_is_a_formula() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(\"http://x\",\"y\")"] {
            assert!(written(text).starts_with("\"'"), "{text}");
        }
        assert_eq!(written("a=1"), "a=1");
    }

    /// A reader by RFC 4180, of one line.
    fn read(line: &str) -> Vec<String> {
        let (mut cells, mut rest) = (Vec::new(), line);
        loop {
            let mut cell = String::new();
            if let Some(quoted) = rest.strip_prefix('"') {
                let mut chars = quoted.char_indices().peekable();
                let mut end = quoted.len();
                while let Some((at, char)) = chars.next() {
                    if char != '"' {
                        cell.push(char);
                    } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
                        chars.next();
                        cell.push('"');
                    } else {
                        end = at + 1;
                        break;
                    }
                }
                rest = &quoted[end..];
            } else {
                let end = rest.find(',').unwrap_or(rest.len());
                cell.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            cells.push(cell);
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    assert_eq!(rest, "");
                    return cells;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(texts in prop::collection::vec("[ -~\r\n\té€😀]{0,12}", 1..6)) {
            let mut out = Vec::new();
            let mut line = Line::new(&mut out);
            for text in &texts {
                line.text(text);
            }
            line.end();
            let out = String::from_utf8(out).unwrap();
            let cells = read(out.strip_suffix("\r\n").unwrap());
            prop_assert_eq!(cells.len(), texts.len());
            for (cell, text) in cells.iter().zip(&texts) {
                let exact = if is_formula(text) { cell.strip_prefix('\'').unwrap() } else { cell.as_str() };
                prop_assert_eq!(exact, text);
                prop_assert!(!is_formula(cell));
            }
        }
    }

    #[test]
    fn headers_have_a_name_for_every_cell() {
        let row = crate::access::export::CheckRow {
            id: 1,
            monitor_id: crate::model::MonitorId(uuid::Uuid::nil()),
            monitor: "a".to_owned(),
            checked_at: chrono::DateTime::UNIX_EPOCH,
            verdict: crate::model::Verdict::Degraded,
            status: true,
            error_type: Some("cert_expiring".to_owned()),
            status_code: None,
            response_time_ms: Some(5),
            attempt: 1,
            region: "r".to_owned(),
            dns_us: None,
            connect_us: Some(7),
            tls_us: None,
            send_us: None,
            wait_us: None,
            receive_us: None,
        };
        let mut out = Vec::new();
        check(&row, &mut out);
        let line = String::from_utf8(out).unwrap();
        let cells = read(line.trim_end());
        let json = serde_json::to_value(&row).unwrap();
        let json = json.as_object().unwrap();
        assert_eq!(json.keys().map(String::as_str).collect::<Vec<_>>(), CHECK_COLUMNS);
        for (name, cell) in CHECK_COLUMNS.iter().zip(&cells) {
            let value = &json[*name];
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(*cell, if value.is_null() { String::new() } else { text }, "{name}");
        }
    }
}
