//! A well-behaved HTTP server that remembers who asked what and when, and can be switched off and on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// The server.
pub struct Target {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<(String, DateTime<Utc>)>>>,
    status: Arc<AtomicU16>,
    /// Answers wait for a permit while holding.
    gate: Arc<Semaphore>,
    task: Option<JoinHandle<()>>,
}

impl Target {
    pub async fn start() -> Self {
        let mut target = Self {
            address: ([127, 0, 0, 1], 0).into(),
            log: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            task: None,
        };
        target.resume().await;
        target
    }

    /// Listens (again, on the same port).
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (log, status, gate) = (Arc::clone(&self.log), Arc::clone(&self.status), Arc::clone(&self.gate));
        self.task = Some(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, status, gate) = (Arc::clone(&log), Arc::clone(&status), Arc::clone(&gate));
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    log.lock().unwrap().push((request.uri().path().to_owned(), Utc::now()));
                    let (status, gate) = (status.load(Ordering::SeqCst), Arc::clone(&gate));
                    async move {
                        let _permit = gate.acquire().await;
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
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn release(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS - self.gate.available_permits());
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often a path was asked for.
    pub fn hits(&self, path: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|(asked, _)| asked == path).count()
    }

    /// When each path was asked for.
    pub fn times(&self) -> HashMap<String, Vec<DateTime<Utc>>> {
        let mut times: HashMap<String, Vec<DateTime<Utc>>> = HashMap::new();
        for (path, at) in self.log.lock().unwrap().iter() {
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
