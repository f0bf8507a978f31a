//! A well-behaved HTTP server that remembers who asked what and when, and can be switched off and on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Paths with the time they were asked for.
type Log = Arc<Mutex<Vec<(String, DateTime<Utc>)>>>;

/// The server.
pub struct Target {
    pub address: SocketAddr,
    asked: Log,
    answered: Log,
    /// The same as `asked`, on a clock that never jumps.
    beats: Arc<Mutex<Vec<(String, Instant)>>>,
    status: Arc<AtomicU16>,
    /// Answers wait while this is true.
    holding: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Target {
    pub async fn start() -> Self {
        let mut target = Self {
            address: ([127, 0, 0, 1], 0).into(),
            asked: Arc::default(),
            answered: Arc::default(),
            beats: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            holding: watch::Sender::new(false),
            task: None,
        };
        target.resume().await;
        target
    }

    /// Listens (again, on the same port).
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (asked, answered) = (Arc::clone(&self.asked), Arc::clone(&self.answered));
        let (status, holding) = (Arc::clone(&self.status), self.holding.subscribe());
        let beats = Arc::clone(&self.beats);
        self.task = Some(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (asked, answered) = (Arc::clone(&asked), Arc::clone(&answered));
                let (status, holding) = (Arc::clone(&status), holding.clone());
                let beats = Arc::clone(&beats);
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let path = request.uri().path().to_owned();
                    asked.lock().unwrap().push((path.clone(), Utc::now()));
                    beats.lock().unwrap().push((path.clone(), Instant::now()));
                    let (status, answered) = (status.load(Ordering::SeqCst), Arc::clone(&answered));
                    let mut holding = holding.clone();
                    async move {
                        // An error means that the target is gone.
                        let _ = holding.wait_for(|holding| !holding).await;
                        answered.lock().unwrap().push((path, Utc::now()));
                        let mut response = Response::new(Full::new(Bytes::from_static(b"all is well\n")));
                        *response.status_mut() = StatusCode::from_u16(status).unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(
                    async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await },
                );
            }
        }));
    }

    /// Stops listening: connections are refused.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Answers this from now on.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Requests are accepted and not answered until `release`.
    pub fn hold(&self) {
        self.holding.send_replace(true);
    }

    pub fn release(&self) {
        self.holding.send_replace(false);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often a path was asked for.
    pub fn hits(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == path).count()
    }

    /// How many answers a path got.
    pub fn answers(&self, path: &str) -> usize {
        self.answered.lock().unwrap().iter().filter(|(asked, _)| asked == path).count()
    }

    /// How many answers there were.
    pub fn all_answers(&self) -> usize {
        self.answered.lock().unwrap().len()
    }

    /// When a path was asked for, on a clock that never jumps.
    pub fn beats(&self, path: &str) -> Vec<Instant> {
        self.beats.lock().unwrap().iter().filter(|(asked, _)| asked == path).map(|(_, at)| *at).collect()
    }

    /// When each path was asked for.
    pub fn times(&self) -> HashMap<String, Vec<DateTime<Utc>>> {
        let mut times: HashMap<String, Vec<DateTime<Utc>>> = HashMap::new();
        for (path, at) in self.asked.lock().unwrap().iter() {
            times.entry(path.clone()).or_default().push(*at);
        }
        times
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Waits until a condition holds; the bound is for a test that fails, not a time that is hoped for.
pub async fn until<T>(what: &str, most: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + most;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {most:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
