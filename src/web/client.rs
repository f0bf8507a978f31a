//! The other end of `admin.sock`, for commands.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// A table of 250,000 monitors is below it.
const ANSWER_MAX_BYTES: usize = 512 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the daemon does not run with this state directory.
    #[error("no daemon is running: nobody listens on {path}; is its state directory another one?")]
    NotRunning {
        /// The socket.
        path: String,
    },
    /// The socket is there and may not be used.
    #[error("cannot use {path}: run this as the daemon's user or as root")]
    Forbidden {
        /// The socket.
        path: String,
    },
    /// The daemon did not answer as it should.
    #[error("the daemon did not answer: {0}")]
    Failed(String),
}

/// Asks for something; returns the body, whatever the status. `deadline` bounds the whole.
pub async fn get(socket: &Path, path: &str, deadline: Duration) -> Result<Bytes, ClientError> {
    request(socket, Method::GET, path, deadline).await
}

/// Asks for something to be done; returns the body, whatever the status. `deadline` bounds the whole.
pub async fn post(socket: &Path, path: &str, deadline: Duration) -> Result<Bytes, ClientError> {
    request(socket, Method::POST, path, deadline).await
}

async fn request(socket: &Path, method: Method, path: &str, deadline: Duration) -> Result<Bytes, ClientError> {
    let exchange = exchange(socket, method, path);
    match tokio::time::timeout(deadline, exchange).await {
        Ok(result) => result,
        Err(_) => Err(ClientError::Failed(format!("not within {} s", deadline.as_secs()))),
    }
}

async fn exchange(socket: &Path, method: Method, path: &str) -> Result<Bytes, ClientError> {
    let shown = || socket.display().to_string();
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { path: shown() },
        io::ErrorKind::PermissionDenied => ClientError::Forbidden { path: shown() },
        _ => ClientError::Failed(error.to_string()),
    })?;
    let failed = |error: hyper::Error| ClientError::Failed(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ClientError::Failed(error.to_string()))?;
    let talk = async move {
        let response = sender.send_request(request).await.map_err(failed)?;
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|error| ClientError::Failed(error.to_string()))?;
        Ok(body.to_bytes())
    };
    // The connection must be driven while we talk; it ends with the conversation.
    tokio::pin!(talk, connection);
    tokio::select! {
        result = &mut talk => result,
        _ = &mut connection => talk.await,
    }
}
