//! From the driver's errors to [`StoreFault`]: by SQLSTATE, never by message text.

use sqlx::Error;

use crate::model::StoreFault;

/// What a SQLSTATE means to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The same call may work later.
    Away,
    /// It cannot.
    Refused,
}

/// SQLSTATEs by their class (the first two characters), then single ones.
pub(super) fn meaning(code: &str) -> Meaning {
    match code {
        // Read-only server (standby), and what passes by itself: lock timeout, deadlock, serialization.
        "25006" | "55P03" | "55006" | "40001" | "40P01" => Meaning::Away,
        // Statement cancelled by statement_timeout or an operator; idle transaction ended.
        "57014" | "25P03" => Meaning::Away,
        // The database or role is being replaced: what worked at the start may work again.
        "3D000" | "28P01" | "28000" => Meaning::Away,
        // 08 connection, 53 out of resources, 57P operator intervention, 58 system error (I/O), F0 lock file.
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => Meaning::Away,
        _ if code.starts_with("58") || code.starts_with("F0") => Meaning::Away,
        _ => Meaning::Refused,
    }
}

/// The SQLSTATE, if the server gave one.
pub(super) fn sqlstate(error: &Error) -> Option<String> {
    error.as_database_error().and_then(|e| e.code()).map(std::borrow::Cow::into_owned)
}

/// One line without secrets.
pub(super) fn describe(error: &Error) -> String {
    match error {
        Error::Database(e) => match e.code() {
            Some(code) => format!("{} (SQLSTATE {code})", e.message()),
            None => e.message().to_owned(),
        },
        Error::Io(e) => e.to_string(),
        Error::Tls(e) => format!("TLS: {e}"),
        Error::PoolTimedOut => "no connection within 3 s".to_owned(),
        Error::PoolClosed => "the connections are closed".to_owned(),
        // May quote the URL.
        Error::Configuration(_) => "the connection settings cannot be used".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn fault_of(error: Error) -> StoreFault {
    let text = describe(&error);
    match &error {
        Error::Database(e) => match e.code().map_or(Meaning::Refused, |code| meaning(&code)) {
            Meaning::Away => StoreFault::Away(text),
            Meaning::Refused => StoreFault::Refused(text),
        },
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) => StoreFault::Away(text),
        Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => StoreFault::Away(text),
        _ => StoreFault::Refused(text),
    }
}

/// For a batch, whose records are dropped when it is refused: only data (class 22) and constraints (class 23) are the
/// records' own fault. All else, a missing table or permission as well, may be put right while the results wait.
pub(super) fn fault_of_batch(error: &Error) -> StoreFault {
    let text = describe(error);
    match sqlstate(error) {
        Some(code) if is_of_records(&code) && !is_missing_partition(error) => StoreFault::Refused(text),
        _ => StoreFault::Away(text),
    }
}

fn is_of_records(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("23")
}

/// One row is to blame, not the batch: a foreign key without its row, or a lock that somebody holds.
pub(super) fn is_culprit(error: &Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("23503" | "55P03"))
}

/// Another transaction has written the name of this batch.
pub(super) fn is_claimed(error: &Error) -> bool {
    let Some(e) = error.as_database_error() else { return false };
    e.code().as_deref() == Some("23505") && e.table() == Some("recorded_batches")
}

/// No partition for a row of `monitor_checks`: a check violation of no named constraint.
pub(super) fn is_missing_partition(error: &Error) -> bool {
    let Some(e) = error.as_database_error() else { return false };
    e.code().as_deref() == Some("23514") && e.constraint().is_none() && e.table() == Some("monitor_checks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_away() {
        for code in ["25006", "53100", "53300", "57P01", "57P03", "57014", "55P03", "08006", "40P01", "58030", "28P01"]
        {
            assert_eq!(meaning(code), Meaning::Away, "{code}");
        }
        for code in ["42P01", "23505", "23503", "42501", "22P02", "XX000"] {
            assert_eq!(meaning(code), Meaning::Refused, "{code}");
        }
    }

    #[test]
    fn only_data_and_constraints_cost_a_record() {
        for code in ["22003", "22P02", "22P05", "23502", "23503", "23514"] {
            assert!(is_of_records(code), "{code}");
        }
        for code in ["42P01", "42501", "42703", "26000", "0A000", "XX000", "XX001", "25P02", "54000", "08006"] {
            assert!(!is_of_records(code), "{code}");
        }
        assert!(matches!(fault_of_batch(&Error::RowNotFound), StoreFault::Away(_)));
    }

    #[test]
    fn a_url_is_never_quoted() {
        let error = Error::Configuration("postgres://u:hunter2@h/d".into());
        assert!(!describe(&error).contains("hunter2"));
    }
}
