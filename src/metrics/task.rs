//! How long a task waits for a thread after it was woken, and how long it keeps the thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

/// What is known of one task. Written by the task and by who wakes it, read by anybody.
#[derive(Debug)]
pub struct TaskStats {
    /// Its name.
    pub name: &'static str,
    start: Instant,
    /// Nanoseconds after `start`; 0: not woken, or running.
    woken: AtomicU64,
    /// Nanoseconds after `start`; 0: not running.
    running: AtomicU64,
    turns: AtomicU64,
    lag: AtomicU64,
    busy: AtomicU64,
    /// Who drives the task: the runtime's waker.
    inner: AtomicWaker,
}

/// The state of a task's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskReading {
    /// How often it was run.
    pub turns: u64,
    /// Time between being woken and running, summed.
    pub lag: Duration,
    /// Time on a thread, summed; the turn that runs now is not in it.
    pub busy: Duration,
    /// How long it has waited for a thread, if it waits; what it waits for otherwise does not count.
    pub waiting: Duration,
    /// How long the turn that runs now has run.
    pub running: Duration,
}

impl TaskStats {
    /// A task that has not run yet.
    #[must_use]
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            start: Instant::now(),
            woken: AtomicU64::new(0),
            running: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            lag: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            inner: AtomicWaker::new(),
        })
    }

    /// Nanoseconds since the start, never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// The figures now.
    #[must_use]
    pub fn read(&self) -> TaskReading {
        let now = self.now();
        let since = |mark: &AtomicU64| match mark.load(Relaxed) {
            0 => Duration::ZERO,
            at => Duration::from_nanos(now.saturating_sub(at)),
        };
        TaskReading {
            turns: self.turns.load(Relaxed),
            lag: Duration::from_nanos(self.lag.load(Relaxed)),
            busy: Duration::from_nanos(self.busy.load(Relaxed)),
            waiting: since(&self.woken),
            running: since(&self.running),
        }
    }
}

impl Wake for TaskStats {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Woken twice, it has waited since the first time.
        if self.woken.load(Relaxed) == 0 {
            self.woken.store(self.now(), Relaxed);
        }
        self.inner.wake();
    }
}

/// A future whose turns are measured: two readings of the clock each.
pub struct Measured<F> {
    future: Pin<Box<F>>,
    stats: Arc<TaskStats>,
    waker: Waker,
}

impl<F: Future> Measured<F> {
    /// Measures a future from its first turn on.
    pub fn new(stats: Arc<TaskStats>, future: F) -> Self {
        let waker = Waker::from(Arc::clone(&stats));
        Self { future: Box::pin(future), stats, waker }
    }
}

impl<F: Future> Future for Measured<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let stats = &this.stats;
        stats.inner.register(context.waker());
        let began = stats.now();
        let woken = stats.woken.swap(0, Relaxed);
        if woken != 0 {
            stats.lag.fetch_add(began.saturating_sub(woken), Relaxed);
        }
        stats.running.store(began, Relaxed);
        let polled = this.future.as_mut().poll(&mut Context::from_waker(&this.waker));
        stats.running.store(0, Relaxed);
        stats.busy.fetch_add(stats.now().saturating_sub(began), Relaxed);
        stats.turns.fetch_add(1, Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn waiting_for_a_thread_is_lag_and_keeping_one_is_busy() {
        let stats = TaskStats::new("test");
        let (sender, mut receiver) = mpsc::channel::<()>(4);
        let own = Arc::clone(&stats);
        let task = tokio::spawn(Measured::new(Arc::clone(&stats), async move {
            while receiver.recv().await.is_some() {
                assert!(own.read().running > Duration::ZERO);
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
        tokio::task::yield_now().await;
        assert_eq!(stats.read().turns, 1);
        sender.send(()).await.unwrap();
        // The runtime has one thread, and this keeps it.
        std::thread::sleep(Duration::from_millis(30));
        assert!(stats.read().waiting >= Duration::from_millis(30), "{:?}", stats.read());
        drop(sender);
        task.await.unwrap();
        let read = stats.read();
        assert!(read.lag >= Duration::from_millis(30) && read.busy >= Duration::from_millis(20), "{read:?}");
        assert_eq!((read.waiting, read.running), (Duration::ZERO, Duration::ZERO));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost() {
        let stats = TaskStats::new("test");
        let (sender, mut receiver) = mpsc::channel::<u32>(1);
        let task = tokio::spawn(Measured::new(stats, async move {
            let mut sum = 0;
            while let Some(number) = receiver.recv().await {
                sum += number;
            }
            sum
        }));
        for number in 0..10_000 {
            sender.send(number).await.unwrap();
        }
        drop(sender);
        let sum = tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
        assert_eq!(sum, 49_995_000);
    }
}
