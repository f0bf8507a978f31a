//! Who asks: bearer tokens (RFC 6750). Look-ups are remembered for a short time, so that a scrape is not a query.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::limiter::{Client, Limiter};
use super::reply::Problem;
use crate::access::token::{Grant, TokenHash, TokenStore};
use crate::access::{Caller, Scope};
use crate::clock::Wall;
use crate::model::StoreFault;

/// A token that was found is not looked up again for so long: then a revoked one ends.
const FRESH: Duration = Duration::from_secs(10);
/// While the store is away, a token goes on working for so long after it was found.
const STALE: Duration = Duration::from_secs(900);
/// A store that takes so long to fail is not asked again for a while: a scraper has not many seconds.
const SLOW: Duration = Duration::from_secs(1);
/// Tokens that are remembered; when it is full all are forgotten.
const MOST: usize = 1024;

/// Look-ups at once, and how long one may wait for its turn: while the store hangs, strangers with made-up tokens must
/// not keep every place of the server.
const LOOKUPS: usize = 32;
const TURN: Duration = Duration::from_millis(200);

/// Knows who may.
pub struct Auth {
    /// Of the token file. It works while the store is away.
    admin: Option<TokenHash>,
    store: Arc<dyn TokenStore>,
    wall: Arc<dyn Wall>,
    known: Mutex<HashMap<TokenHash, Known>>,
    failures: Limiter,
    lookups: Semaphore,
}

/// What the store said, and when. Tokens that are not there are not remembered: strangers could fill the memory.
#[derive(Clone)]
struct Known {
    grant: Grant,
    at: Instant,
    /// When the store was last asked in vain, and took long.
    unanswered: Option<Instant>,
}

impl Known {
    /// Whether it counts without asking again.
    fn holds(&self, now: Instant) -> bool {
        let recent = |at: Instant| now.duration_since(at) < FRESH;
        recent(self.at) || (self.unanswered.is_some_and(recent) && now.duration_since(self.at) < STALE)
    }
}

impl Auth {
    /// With the hash of the token file's token.
    #[must_use]
    pub fn new(admin: Option<TokenHash>, store: Arc<dyn TokenStore>, wall: Arc<dyn Wall>) -> Self {
        let lookups = Semaphore::new(LOOKUPS);
        Self { admin, store, wall, known: Mutex::default(), failures: Limiter::default(), lookups }
    }

    /// The caller that the headers name.
    pub(super) async fn caller(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Result<Caller, Problem> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = given.next() else { return Err(unauthorized("this needs a token", None)) };
        let client = Client::of(address);
        let hash = bearer(value).and_then(TokenHash::of).filter(|_| given.next().is_none());
        let now = Instant::now();
        let known = hash.as_ref().and_then(|hash| self.remembered(hash));
        if hash.is_some() && hash == self.admin {
            return Ok(Caller::ADMIN);
        }
        // Those that are known pass whatever others do at the same address, such as that of a proxy.
        if let Some(known) = known.as_ref().filter(|known| known.holds(now)) {
            return self.checked(&known.grant, client);
        }
        if let Some(wait) = self.failures.wait(client) {
            let text = "too many requests with a wrong token came from this address";
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", "too many failures", text);
            return Err(problem.with(RETRY_AFTER, HeaderValue::from(wait.as_secs())));
        }
        let Some(hash) = hash else { return Err(self.refuse(client)) };
        match (self.look_up(&hash).await, known) {
            (Ok(Some(grant)), _) => {
                self.remember(hash, Known { grant: grant.clone(), at: now, unanswered: None });
                self.checked(&grant, client)
            }
            (Ok(None), _) => {
                self.lock().remove(&hash);
                Err(self.refuse(client))
            }
            (Err(StoreFault::Away(_)), Some(known)) if now.duration_since(known.at) < STALE => {
                // Who is refused at once may ask again at once: a token that was revoked must not last longer for it.
                let asked = Instant::now();
                if asked.duration_since(now) >= SLOW {
                    self.remember(hash, Known { unanswered: Some(asked), ..known.clone() });
                }
                self.checked(&known.grant, client)
            }
            (Err(fault), _) => Err(fault.into()),
        }
    }

    async fn look_up(&self, hash: &TokenHash) -> Result<Option<Grant>, StoreFault> {
        let turn = timeout(TURN, self.lookups.acquire()).await;
        let _turn = turn.map_err(|_| StoreFault::Away("too many tokens are being looked up".to_owned()))?;
        self.store.find(hash).await
    }

    fn checked(&self, grant: &Grant, client: Client) -> Result<Caller, Problem> {
        grant.caller(self.wall.now()).ok_or_else(|| self.refuse(client))
    }

    fn refuse(&self, client: Client) -> Problem {
        if self.failures.failed(client) {
            log::warn!("a request from {client} with a wrong, revoked or expired token was refused");
        }
        unauthorized("the token is wrong, revoked or expired", Some("invalid_token"))
    }

    fn remembered(&self, hash: &TokenHash) -> Option<Known> {
        self.lock().get(hash).cloned()
    }

    fn remember(&self, hash: TokenHash, known: Known) {
        let mut all = self.lock();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(hash, known);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TokenHash, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token of `Bearer …`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(detail: &str, error: Option<&str>) -> Problem {
    let way_out = "send Authorization: Bearer with one of `lamplighter token create`, or that of the state directory";
    let challenge = match error {
        None => HeaderValue::from_static("Bearer realm=\"lamplighter\""),
        Some(_) => HeaderValue::from_static("Bearer realm=\"lamplighter\", error=\"invalid_token\""),
    };
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "unauthorized", format!("{detail}: {way_out}"))
        .with(WWW_AUTHENTICATE, challenge)
}

/// A caller who may do too little.
pub(super) fn forbidden(needed: Scope) -> Problem {
    let text = format!("this needs a token of scope {}", needed.name());
    let challenge = match needed {
        Scope::Read => "Bearer realm=\"lamplighter\", error=\"insufficient_scope\", scope=\"read\"",
        Scope::Write => "Bearer realm=\"lamplighter\", error=\"insufficient_scope\", scope=\"write\"",
        Scope::Admin => "Bearer realm=\"lamplighter\", error=\"insufficient_scope\", scope=\"admin\"",
    };
    Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", "forbidden", text)
        .with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

#[cfg(test)]
mod tests;
