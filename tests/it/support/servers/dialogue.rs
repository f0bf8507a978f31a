//! Servers that speak first, or in turns, also under TLS from the middle on; and one that answers datagrams.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// One step of a server.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Sends.
    Say(String),
    /// Waits until what was received since the last turn holds this.
    Hear(&'static str),
    /// Goes over to TLS.
    Tls,
    /// Reads until the other side is gone.
    Hang,
}

pub fn say(text: impl Into<String>) -> Turn {
    Turn::Say(text.into())
}

/// Follows its turns with everybody who comes, then closes.
pub struct Dialogue {
    pub address: SocketAddr,
    heard: Arc<Mutex<String>>,
    _tasks: JoinSet<()>,
}

impl Dialogue {
    pub async fn start(turns: Vec<Turn>, tls: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<String>> = Arc::default();
        let log = Arc::clone(&heard);
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (turns, acceptor, log) = (turns.clone(), acceptor.clone(), Arc::clone(&log));
                sessions.spawn(async move { serve(stream, turns, acceptor, &log).await });
            }
        });
        Self { address, heard, _tasks: tasks }
    }

    /// All that was said to it, by everybody, also under TLS.
    pub fn heard(&self) -> String {
        self.heard.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, turns: Vec<Turn>, acceptor: TlsAcceptor, log: &Mutex<String>) {
    let mut turns = turns.into_iter();
    let over = follow(&mut stream, &mut turns, log).await;
    if over {
        let Ok(mut secured) = acceptor.accept(stream).await else { return };
        follow(&mut secured, &mut turns, log).await;
        close(secured).await;
    } else {
        close(stream).await;
    }
}

/// A close with unread bytes would be a reset.
async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = stream.shutdown().await;
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await.is_ok_and(|length| length > 0) {}
}

/// Whether TLS is next.
async fn follow(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    turns: &mut impl Iterator<Item = Turn>,
    log: &Mutex<String>,
) -> bool {
    for turn in turns {
        match turn {
            Turn::Say(text) => {
                if stream.write_all(text.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    return false;
                }
            }
            Turn::Hear(wanted) => {
                let mut received = String::new();
                while !received.contains(wanted) {
                    let mut buffer = [0; 1024];
                    let Ok(length @ 1..) = stream.read(&mut buffer).await else { return false };
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    log.lock().unwrap().push_str(&text);
                    received.push_str(&text);
                }
            }
            Turn::Tls => return true,
            Turn::Hang => {
                let mut sink = [0; 1024];
                while stream.read(&mut sink).await.is_ok_and(|length| length > 0) {}
            }
        }
    }
    false
}

/// Answers each datagram with any number of others.
pub struct Datagrams {
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Datagrams {
    pub async fn start(bind: &str, answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind(bind).await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                for datagram in answer(&buffer[..length]) {
                    let _ = socket.send_to(&datagram, from).await;
                }
            }
        });
        Self { address, _tasks: tasks }
    }
}
