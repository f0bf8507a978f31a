//! What the tests stand on: databases, hostile servers, daemons.

pub mod brokers;
pub mod canary;
pub mod cost;
pub mod daemon;
pub mod databases;
pub mod every;
pub mod netns;
pub mod nginx;
pub mod postgres;
pub mod probing;
pub mod servers;
pub mod source;
pub mod sshd;
pub mod target;

/// Held by tests that measure time while they load the machine, and by those that such a load would disturb.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}
