//! A server that does what a script says, byte by byte, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// One thing to do on a connection.
#[derive(Clone)]
pub enum Act {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends bytes one by one.
    Drip(Vec<u8>, Duration),
    /// Sends bytes again and again until nobody takes them.
    Endless(Vec<u8>),
    /// Waits.
    Pause(Duration),
    /// Says nothing until the other side is gone.
    Hang,
    /// Closes with a reset; over TLS without saying so (no close_notify).
    Reset,
}

pub fn text(text: &str) -> Act {
    Act::Send(text.as_bytes().to_vec())
}

/// A whole response with a counted body.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<Act> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    bytes.extend(body);
    vec![Act::Send(bytes)]
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub line: String,
    /// As written.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

type Script = Arc<dyn Fn(&Request) -> Vec<Act> + Send + Sync>;

/// Ends when dropped.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Reads each request, then follows the script.
    pub async fn start(script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::build("127.0.0.1:0", Some(Arc::new(script)), Vec::new(), None).await
    }

    /// Follows the acts at once, before it reads anything.
    pub async fn at_accept(acts: Vec<Act>) -> Self {
        Self::build("127.0.0.1:0", None, acts, None).await
    }

    /// The same over TLS, with a certificate that signs itself.
    pub async fn start_tls(script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::build("127.0.0.1:0", Some(Arc::new(script)), Vec::new(), Some(acceptor(false))).await
    }

    /// The same over TLS, as this configuration says.
    pub async fn start_tls_as(
        config: rustls::ServerConfig,
        script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let tls = TlsAcceptor::from(Arc::new(config));
        Self::build("127.0.0.1:0", Some(Arc::new(script)), Vec::new(), Some(tls)).await
    }

    /// The same, for clients that have a certificate of that very issuer, which nobody has.
    pub async fn start_tls_for_members(script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::build("127.0.0.1:0", Some(Arc::new(script)), Vec::new(), Some(acceptor(true))).await
    }

    async fn build(bind: &str, script: Option<Script>, acts: Vec<Act>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(bind).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let sent: Arc<AtomicU64> = Arc::default();
        let (log, count) = (Arc::clone(&requests), Arc::clone(&sent));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, acts, tls) = (script.clone(), acts.clone(), tls.clone());
                let (log, count) = (Arc::clone(&log), Arc::clone(&count));
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, script, acts, &log, &count).await;
                            }
                        }
                        None => {
                            if let Some(stream) = serve(stream, script, acts, &log, &count).await {
                                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                            }
                        }
                    }
                });
            }
        });
        Self { address, requests, sent, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The same, for who outlives the server.
    pub fn log(&self) -> Arc<Mutex<Vec<Request>>> {
        Arc::clone(&self.requests)
    }

    /// Bytes that the other side's kernel took.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Gives the stream back when it is to be reset.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    script: Option<Script>,
    acts: Vec<Act>,
    log: &Mutex<Vec<Request>>,
    count: &AtomicU64,
) -> Option<S> {
    let acts = match script {
        Some(script) => {
            let request = read_request(&mut stream).await?;
            let acts = script(&request);
            log.lock().unwrap().push(request);
            acts
        }
        None => acts,
    };
    perform(stream, acts, count).await
}

/// Follows the acts, then closes in order; gives the stream back when it is to be reset.
pub(super) async fn perform<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    acts: Vec<Act>,
    count: &AtomicU64,
) -> Option<S> {
    for act in acts {
        match act {
            Act::Send(bytes) => put(&mut stream, &bytes, count).await?,
            Act::Drip(bytes, every) => {
                for byte in bytes {
                    put(&mut stream, &[byte], count).await?;
                    tokio::time::sleep(every).await;
                }
            }
            Act::Endless(bytes) => loop {
                put(&mut stream, &bytes, count).await?;
            },
            Act::Pause(time) => tokio::time::sleep(time).await,
            Act::Hang => {
                let mut sink = [0; 1024];
                while stream.read(&mut sink).await.is_ok_and(|length| length > 0) {}
            }
            Act::Reset => return Some(stream),
        }
    }
    // A close with unread bytes would be a reset.
    let _ = stream.shutdown().await;
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await.is_ok_and(|length| length > 0) {}
    None
}

async fn put<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8], count: &AtomicU64) -> Option<()> {
    stream.write_all(bytes).await.ok()?;
    stream.flush().await.ok()?;
    count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Some(())
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let mut request = Request { line, headers, body: bytes.split_off(end + 4) };
    let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while request.body.len() < length {
        if stream.read_buf(&mut request.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(request)
}

fn acceptor(members_only: bool) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if members_only {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap()))
}

/// A loopback address on which nobody listens.
pub async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
