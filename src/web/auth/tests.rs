use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::*;
use crate::access::Viewer;
use crate::access::token::generate;
use crate::model::{Secret, UserId};

/// A store with tokens, that may be away.
#[derive(Default)]
struct Fake {
    grants: Mutex<HashMap<TokenHash, Grant>>,
    away: Mutex<bool>,
    /// Look-ups take so long.
    slow: Mutex<Duration>,
    asked: AtomicUsize,
}

impl TokenStore for Fake {
    fn find<'a>(&'a self, hash: &'a TokenHash) -> BoxFuture<'a, Result<Option<Grant>, StoreFault>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let slow = *self.slow.lock().unwrap();
            tokio::time::sleep(slow).await;
            if *self.away.lock().unwrap() {
                return Err(StoreFault::Away("gone".to_owned()));
            }
            Ok(self.grants.lock().unwrap().get(hash).cloned())
        })
    }
}

struct Fixed(Mutex<DateTime<Utc>>);

impl Wall for Fixed {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

struct House {
    auth: Auth,
    store: Arc<Fake>,
    wall: Arc<Fixed>,
    admin: Secret,
    reader: Secret,
    user: UserId,
}

fn house() -> House {
    let (admin, reader, user) = (generate().unwrap(), generate().unwrap(), UserId(Uuid::new_v4()));
    let hash = |secret: &Secret| TokenHash::of(secret.expose()).unwrap();
    let store = Arc::new(Fake::default());
    let wall = Arc::new(Fixed(Mutex::new(DateTime::UNIX_EPOCH)));
    let grant = Grant {
        id: Uuid::new_v4(),
        user,
        scope: Scope::Read,
        expires_at: Some(DateTime::UNIX_EPOCH + TimeDelta::days(1)),
    };
    store.grants.lock().unwrap().insert(hash(&reader), grant);
    let auth =
        Auth::new(Some(hash(&admin)), Arc::clone(&store) as Arc<dyn TokenStore>, Arc::clone(&wall) as Arc<dyn Wall>);
    House { auth, store, wall, admin, reader, user }
}

impl House {
    async fn ask(&self, value: &str) -> Result<Caller, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        self.auth.caller(&headers, "10.0.0.1".parse().ok()).await.map_err(|problem| problem.status().as_u16())
    }

    async fn bearer(&self, token: &Secret) -> Result<Caller, u16> {
        self.ask(&format!("Bearer {}", token.expose())).await
    }

    fn asked(&self) -> usize {
        self.store.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_its_caller_and_is_looked_up_once_in_ten_seconds() {
    let house = house();
    let reader = Caller { scope: Scope::Read, viewer: Viewer::User(house.user) };
    for _ in 0..5 {
        assert_eq!(house.bearer(&house.reader).await, Ok(reader));
    }
    assert_eq!(house.asked(), 1);
    assert_eq!(house.ask(&format!("bearer   {}", house.reader.expose())).await, Ok(reader));
    tokio::time::advance(FRESH).await;
    assert_eq!(house.bearer(&house.reader).await, Ok(reader));
    assert_eq!(house.asked(), 2);
    // Revoked: within ten seconds it ends.
    house.store.grants.lock().unwrap().clear();
    tokio::time::advance(FRESH).await;
    assert_eq!(house.bearer(&house.reader).await, Err(401));
}

#[tokio::test(start_paused = true)]
async fn it_expires_by_the_wall_clock_also_when_remembered() {
    let house = house();
    assert!(house.bearer(&house.reader).await.is_ok());
    *house.wall.0.lock().unwrap() += TimeDelta::days(1);
    assert_eq!(house.bearer(&house.reader).await, Err(401));
    assert_eq!(house.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_the_store_those_that_are_known_go_on_for_a_while() {
    let house = house();
    assert!(house.bearer(&house.reader).await.is_ok());
    *house.store.away.lock().unwrap() = true;
    tokio::time::advance(STALE - Duration::from_secs(1)).await;
    assert!(house.bearer(&house.reader).await.is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(house.bearer(&house.reader).await, Err(503));
    assert_eq!(house.bearer(&generate().unwrap()).await, Err(503));
    assert_eq!(house.bearer(&house.admin).await, Ok(Caller::ADMIN));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_not_asked_by_every_request() {
    let house = house();
    assert!(house.bearer(&house.reader).await.is_ok());
    *house.store.away.lock().unwrap() = true;
    tokio::time::advance(FRESH).await;
    // One that fails at once costs nothing.
    for asked in 2..5 {
        assert!(house.bearer(&house.reader).await.is_ok());
        assert_eq!(house.asked(), asked);
    }
    *house.store.slow.lock().unwrap() = Duration::from_secs(3);
    let began = Instant::now();
    for _ in 0..5 {
        assert!(house.bearer(&house.reader).await.is_ok());
    }
    assert_eq!((house.asked(), began.elapsed()), (5, Duration::from_secs(3)));
    // Back again, and revoked meanwhile.
    *house.store.away.lock().unwrap() = false;
    house.store.grants.lock().unwrap().clear();
    tokio::time::advance(FRESH).await;
    assert_eq!(house.bearer(&house.reader).await, Err(401));
}

#[tokio::test(start_paused = true)]
async fn wrong_tokens_are_slowed_down_and_right_ones_are_not() {
    let house = house();
    assert!(house.bearer(&house.reader).await.is_ok());
    let asked = house.asked();
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.push(house.bearer(&generate().unwrap()).await.unwrap_err());
    }
    assert_eq!((answers[0], answers[9], answers[10], answers[29]), (401, 401, 429, 429));
    assert_eq!(house.asked(), asked + 10);
    assert!(house.bearer(&house.reader).await.is_ok() && house.bearer(&house.admin).await.is_ok());
    // Another address is another matter.
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {}", generate().unwrap().expose()).parse().unwrap());
    let answer = house.auth.caller(&headers, "10.0.0.2".parse().ok()).await;
    assert_eq!(answer.unwrap_err().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_never_reaches_the_store() {
    let house = house();
    let token = house.admin.expose().to_owned();
    for value in [
        "Bearer",
        "Bearer ",
        "Basic dTpw",
        &token,
        "Bearer lamp_",
        &format!("Basic {token}"),
        &format!("Bearer {token}0"),
    ] {
        assert_eq!(house.ask(value).await, Err(401), "{value}");
    }
    assert_eq!(house.asked(), 0);
    let mut headers = HeaderMap::new();
    assert_eq!(house.auth.caller(&headers, None).await.unwrap_err().status(), StatusCode::UNAUTHORIZED);
    // Two of them: which one would count?
    headers.append(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    headers.append(AUTHORIZATION, "Bearer x".parse().unwrap());
    assert!(house.auth.caller(&headers, None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn made_up_tokens_do_not_pile_up_before_a_store_that_hangs() {
    let house = house();
    assert!(house.bearer(&house.reader).await.is_ok());
    *house.store.slow.lock().unwrap() = Duration::from_secs(4);
    tokio::time::advance(FRESH).await;
    let tokens: Vec<Secret> = (0..100).map(|_| generate().unwrap()).collect();
    let began = Instant::now();
    let answers = tokens.iter().map(|token| async { (house.bearer(token).await.unwrap_err(), began.elapsed()) });
    let known = async {
        // Behind the crowd, and not for its sake refused.
        tokio::time::sleep(Duration::from_millis(1)).await;
        (house.bearer(&house.reader).await.is_ok(), began.elapsed())
    };
    let (answers, known) = tokio::join!(futures_util::future::join_all(answers), known);
    let soon = answers.iter().filter(|(status, took)| *status == 503 && *took <= TURN).count();
    assert_eq!((soon, house.asked()), (100 - LOOKUPS, 1 + LOOKUPS));
    assert!(known.0 && known.1 < TURN * 2, "{known:?}");
}
