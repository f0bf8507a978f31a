//! `lamplighter token`: API tokens, made and ended directly in the database, also while the daemon runs.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use uuid::Uuid;

use super::migrate::{running_or_started, store};
use super::{Environment, Exit, Stop, exit, load, small_runtime};
use crate::access::Scope;
use crate::access::token::{self, TokenHash};
use crate::daemon::start_stop;
use crate::settings::duration;
use crate::store::{NewToken, Store, TokenError, TokenRow};
use crate::telemetry::escape;

/// Characters of a name, at most.
const NAME_MOST: usize = 200;
/// The longest life of a token that ends: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it, which happens this once
    Create {
        /// What it is for, such as the program that will use it
        #[arg(long, value_parser = name)]
        name: String,
        /// What it may do: read, write (that too), admin (everything, of every user)
        #[arg(long, value_parser = scope)]
        scope: Scope,
        /// E-mail address of the user whose rows it sees [default: the system user, who owns what has no owner]
        #[arg(long)]
        user: Option<String>,
        /// For how long it works, such as 90d [default: until it is revoked]
        #[arg(long, value_parser = expires)]
        expires: Option<Duration>,
    },
    /// List the tokens, without what they are
    List,
    /// End a token; a running daemon takes ten seconds to notice
    Revoke {
        /// Its id, as the list shows it
        #[arg(value_parser = id)]
        id: Uuid,
    },
}

fn name(text: &str) -> Result<String, String> {
    let good = !text.trim().is_empty() && text.chars().count() <= NAME_MOST && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err(format!("1 to {NAME_MOST} characters, no control characters")) }
}

fn id(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| "the id of a token, as `lamplighter token list` shows it".to_owned())
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::from_name(text).ok_or_else(|| "read, write or admin".to_owned())
}

fn expires(text: &str) -> Result<Duration, String> {
    let allowed = |time: &Duration| *time >= Duration::from_secs(1) && *time <= LONGEST;
    duration::parse(text).filter(allowed).ok_or_else(|| "a time such as \"12h\" or \"90d\", 1s to 100y".to_owned())
}

pub(super) fn run(command: &TokenCommand, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let settings = load(config, environment)?;
    let _cluster = running_or_started(&settings, environment)?;
    small_runtime()?.block_on(async {
        let store = store(&settings, environment)?;
        let done = match command {
            TokenCommand::Create { name, scope, user, expires } => {
                let token = NewToken { name, scope: *scope, user: user.as_deref(), expires: *expires };
                create(&store, &token).await
            }
            TokenCommand::List => list(&store).await,
            TokenCommand::Revoke { id } => revoke(&store, *id).await,
        };
        store.close().await;
        done
    })
}

async fn create(store: &Store, token: &NewToken<'_>) -> Result<Exit, Stop> {
    let secret = token::generate().map_err(|error| Stop::new(Exit::Failure, error.to_string()))?;
    let hash = TokenHash::of(secret.expose());
    let hash = hash.ok_or_else(|| Stop::new(Exit::Failure, "a new token has not the form of one"))?;
    let (id, ends) = store.create_token(token, &hash).await.map_err(stop)?;
    let end = ends.map_or_else(|| "until it is revoked".to_owned(), |at| format!("until {}", shown(at)));
    // The token alone on standard output, so that a script can take it.
    exit::complain_plainly(&format!("token {id}, scope {}, works {end}; it is shown this once:", token.scope.name()));
    exit::say(&format!("{}\n", secret.expose()));
    Ok(Exit::Ok)
}

async fn list(store: &Store) -> Result<Exit, Stop> {
    let rows = store.list_tokens().await.map_err(stop)?;
    exit::say(&table(&rows));
    Ok(Exit::Ok)
}

async fn revoke(store: &Store, id: Uuid) -> Result<Exit, Stop> {
    match store.revoke_token(id).await.map_err(stop)? {
        Some(name) => {
            exit::say(&format!("revoked: {id} {}\n", escape(&name)));
            Ok(Exit::Ok)
        }
        None => Err(Stop::new(Exit::Failure, format!("there is no token {id}; `lamplighter token list` shows them"))),
    }
}

fn stop(error: TokenError) -> Stop {
    match error {
        TokenError::NotReady(error) => start_stop(&error),
        TokenError::NoSuchUser(_) => Stop::new(Exit::Failure, error.to_string()),
        TokenError::NotMigrated(_) | TokenError::Store(_) => Stop::new(Exit::Unavailable, error.to_string()),
    }
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn table(rows: &[TokenRow]) -> String {
    if rows.is_empty() {
        return "No tokens. The one of the state directory is in its file admin-token.\n".to_owned();
    }
    let mut lines = vec![["ID", "SCOPE", "STATE", "USER", "CREATED", "LAST USED", "NAME"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let time = |at: Option<DateTime<Utc>>, none: &str| at.map_or_else(|| none.to_owned(), shown);
        let state = match (row.revoked, row.expired, row.expires_at) {
            (true, ..) => format!("revoked {}", time(row.revoked_at, "")),
            (false, true, _) => "expired".to_owned(),
            (false, false, Some(at)) => format!("until {}", shown(at)),
            (false, false, None) => "works".to_owned(),
        };
        let used = time(row.last_used_at, "never");
        let user = row.email.as_deref().map_or_else(|| "-".to_owned(), |email| escape(email).into_owned());
        [
            row.id.to_string(),
            row.scope.clone(),
            state,
            user,
            time(row.created_at, "-"),
            used,
            escape(&row.name).into_owned(),
        ]
    }));
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        assert!(name("CI").is_ok() && name(" ").is_err() && name("a\nb").is_err() && name(&"x".repeat(201)).is_err());
        assert_eq!(scope("admin"), Ok(Scope::Admin));
        assert!(scope("root").is_err());
        assert_eq!(expires("90d"), Ok(Duration::from_secs(90 * 86_400)));
        for bad in ["", "90", "0s", "500ms", "101y", "soon"] {
            assert!(expires(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_table_shows_what_works() {
        let at = DateTime::UNIX_EPOCH;
        let row = |name: &str, revoked_at: Option<DateTime<Utc>>, expired, expires_at| TokenRow {
            id: Uuid::nil(),
            name: name.to_owned(),
            scope: "read".to_owned(),
            email: None,
            created_at: Some(at),
            expires_at,
            revoked: revoked_at.is_some(),
            revoked_at,
            last_used_at: None,
            expired,
        };
        let rows = [
            row("a\x1b[2Jb", None, false, None),
            row("gone", Some(at), true, Some(at)),
            row("old", None, true, Some(at)),
            row("lasts", None, false, Some(at)),
        ];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("works") && !text.contains('\x1b'), "{text}");
        assert!(lines[2].contains("revoked 1970-01-01T00:00:00Z"));
        assert!(lines[3].contains("expired") && lines[4].contains("until 1970-01-01T00:00:00Z"));
    }
}
