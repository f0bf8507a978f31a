//! API tokens.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{Problem, StartError, Store, within};
use crate::access::Scope;
use crate::access::token::{Grant, TokenHash, TokenStore};
use crate::model::{SYSTEM_USER, StoreFault, UserId};

pub(super) const STATEMENTS: &[&str] = &[FIND, TOUCH, OWNER, CREATE, LIST, REVOKE];

const FIND: &str = "SELECT id, user_id, scope, hash, \
    CASE WHEN expires_at < '9999-12-31 00:00+00' THEN expires_at END, \
    last_used_at IS NULL OR last_used_at < now() - interval '5 minutes' \
    FROM tokens WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())";
/// Never waits: when it was used is not worth a request's time.
const TOUCH: &str = "UPDATE tokens SET last_used_at = now() WHERE id IN \
    (SELECT id FROM tokens WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)";
const OWNER: &str = "SELECT id FROM users WHERE lower(email) = lower($1) ORDER BY created_at, id LIMIT 1";
const CREATE: &str = "INSERT INTO tokens (user_id, name, scope, hash, expires_at) \
    VALUES ($1, $2, $3, $4, now() + $5::bigint * interval '1 second') RETURNING id, expires_at";
/// Decoding a time beyond chrono's range (or 'infinity') panics; who writes such a one sees none.
const LIST: &str = "SELECT t.id, t.name, t.scope, u.email, \
    CASE WHEN t.created_at BETWEEN '1970-01-01' AND '9999-12-31' THEN t.created_at END AS created_at, \
    CASE WHEN t.expires_at BETWEEN '1970-01-01' AND '9999-12-31' THEN t.expires_at END AS expires_at, \
    CASE WHEN t.revoked_at BETWEEN '1970-01-01' AND '9999-12-31' THEN t.revoked_at END AS revoked_at, \
    CASE WHEN t.last_used_at BETWEEN '1970-01-01' AND '9999-12-31' THEN t.last_used_at END AS last_used_at, \
    t.revoked_at IS NOT NULL AS revoked, coalesce(t.expires_at <= now(), false) AS expired \
    FROM tokens t JOIN users u ON u.id = t.user_id ORDER BY t.created_at, t.id LIMIT 10000";
const REVOKE: &str = "UPDATE tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING name";

/// A look-up by a unique index; the rest is for a server that hangs.
const FIND_DEADLINE: Duration = Duration::from_secs(4);
const TOUCH_DEADLINE: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(15);

/// What `token create` asks for.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// For people.
    pub name: &'a str,
    /// What it may do.
    pub scope: Scope,
    /// E-mail address of its user; none: the system user.
    pub user: Option<&'a str>,
    /// For how long; none: for ever.
    pub expires: Option<Duration>,
}

/// A token as `token list` shows it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct TokenRow {
    /// `tokens.id`.
    pub id: Uuid,
    /// For people.
    pub name: String,
    /// What it may do.
    pub scope: String,
    /// Whose it is; none: a user without an address, such as the system user.
    pub email: Option<String>,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, to about five minutes.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// Whether it has ended by the database's clock.
    pub expired: bool,
}

/// Why a token command did not work.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No user has this address.
    #[error("no user has the e-mail address {0:?}")]
    NoSuchUser(String),
    /// The schema is not up to date.
    #[error("the schema is not up to date ({0}): start the daemon once, or run `lamplighter migrate`")]
    NotMigrated(String),
    /// The database is not ours, or cannot be reached.
    #[error(transparent)]
    NotReady(#[from] StartError),
    /// The call failed.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

impl TokenStore for Store {
    fn find<'a>(&'a self, hash: &'a TokenHash) -> BoxFuture<'a, Result<Option<Grant>, StoreFault>> {
        Box::pin(async move {
            let found = within(FIND_DEADLINE, self.find_token(hash)).await?;
            let Some((grant, stale)) = found else { return Ok(None) };
            if stale && let Err(fault) = within(TOUCH_DEADLINE, self.touch_token(grant.id)).await {
                log::debug!(token = grant.id.to_string(); "the use of a token could not be noted: {fault}");
            }
            Ok(Some(grant))
        })
    }
}

impl Store {
    async fn find_token(&self, hash: &TokenHash) -> Result<Option<(Grant, bool)>, Problem> {
        type Row = (Uuid, Uuid, String, Vec<u8>, Option<DateTime<Utc>>, bool);
        let row: Option<Row> = sqlx::query_as(FIND).bind(&hash.bytes()[..]).fetch_optional(&self.reading).await?;
        let Some((id, user, scope, stored, expires_at, stale)) = row else { return Ok(None) };
        // The index found it; that it is the same is decided here, in constant time.
        let same = TokenHash::stored(&stored).is_some_and(|stored| stored == *hash);
        let Some(scope) = Scope::from_name(&scope).filter(|_| same) else { return Ok(None) };
        Ok(Some((Grant { id, user: UserId(user), scope, expires_at }, stale)))
    }

    async fn touch_token(&self, id: Uuid) -> Result<(), Problem> {
        sqlx::query(TOUCH).bind(id).execute(&self.pool).await?;
        Ok(())
    }

    /// Looks whether the table is there, so that a command can say what to do.
    async fn ready_for_tokens(&self) -> Result<(), TokenError> {
        let found = self.classify().await?;
        match found {
            super::Found::Ours { pending: 0 } => Ok(()),
            other => Err(other.as_error().map_or_else(|| TokenError::NotMigrated(other.to_string()), TokenError::from)),
        }
    }

    /// Keeps the hash of a new token; its id, and when it ends.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn create_token(
        &self,
        token: &NewToken<'_>,
        hash: &TokenHash,
    ) -> Result<(Uuid, Option<DateTime<Utc>>), TokenError> {
        self.ready_for_tokens().await?;
        let user = match token.user {
            None => SYSTEM_USER.0,
            Some(email) => {
                let found = within(DEADLINE, async {
                    Ok::<_, Problem>(sqlx::query_scalar(OWNER).bind(email).fetch_optional(&self.pool).await?)
                });
                found.await?.ok_or_else(|| TokenError::NoSuchUser(email.to_owned()))?
            }
        };
        let seconds = token.expires.map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        let row = within(DEADLINE, async {
            let row = sqlx::query_as(CREATE)
                .bind(user)
                .bind(token.name)
                .bind(token.scope.name())
                .bind(&hash.bytes()[..])
                .bind(seconds)
                .fetch_one(&self.pool);
            Ok::<_, Problem>(row.await?)
        });
        Ok(row.await?)
    }

    /// Tokens, oldest first, at most 10,000.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn list_tokens(&self) -> Result<Vec<TokenRow>, TokenError> {
        self.ready_for_tokens().await?;
        let rows = within(DEADLINE, async { Ok::<_, Problem>(sqlx::query_as(LIST).fetch_all(&self.pool).await?) });
        Ok(rows.await?)
    }

    /// Ends a token; its name, or none if there is no such token. Again is the same.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn revoke_token(&self, id: Uuid) -> Result<Option<String>, TokenError> {
        self.ready_for_tokens().await?;
        let row = within(DEADLINE, async {
            Ok::<_, Problem>(sqlx::query_scalar(REVOKE).bind(id).fetch_optional(&self.pool).await?)
        });
        Ok(row.await?)
    }
}
