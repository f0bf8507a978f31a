//! One signal that every task watches.

use tokio::sync::watch;

/// Tells every holder of a [`Shutdown`] to end. Dropping it does the same.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Resolves when it is time to end.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// A trigger and what it triggers.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Ends everything that watches. Idempotent.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Waits for the trigger.
    pub async fn wait(&mut self) {
        // An error means that the trigger is gone, which means the same.
        let _ = self.0.wait_for(|fired| *fired).await;
    }

    /// Whether it has fired.
    #[must_use]
    pub fn fired(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
