//! A server of HTTP/2 over TLS that answers with the frames of a script.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::http::{Act, perform};
use super::tls::{config, leaf_params, self_signed};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// `:status: 200`, by HPACK's static table (RFC 7541, appendix A).
pub const STATUS_200: &[u8] = &[0x88];

/// One frame of RFC 9113, 4.1.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[high, middle, low, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

pub fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

pub fn ping() -> Vec<u8> {
    frame(6, 0, 0, b"are you ")
}

/// A head on the first stream, whole.
pub fn head(flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, 1, block)
}

pub fn data(flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, bytes)
}

pub fn reset_stream(code: u32) -> Vec<u8> {
    frame(3, 0, 1, &code.to_be_bytes())
}

pub fn goaway(last_stream: u32, code: u32) -> Vec<u8> {
    frame(7, 0, 0, &[last_stream.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A field without compression: never indexed, new name (RFC 7541, 6.2.3).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len();
        let mut bytes = if length < 127 { vec![u8::try_from(length).unwrap()] } else { vec![127] };
        // RFC 7541, 5.1: what a prefix of 7 bits does not hold follows by 7 bits a byte.
        let mut rest = length.checked_sub(127);
        while let Some(left) = rest {
            let low = u8::try_from(left % 128).unwrap();
            rest = (left >= 128).then_some(left / 128);
            bytes.push(if rest.is_some() { low | 128 } else { low });
        }
        bytes.extend(text.bytes());
        bytes
    };
    [vec![0x10], text(name), text(value)].concat()
}

/// `:status` of any number.
pub fn status(code: u16) -> Vec<u8> {
    field(":status", &code.to_string())
}

/// Ends when dropped.
pub struct Http2Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<usize>>,
    _tasks: JoinSet<()>,
}

impl Http2Server {
    /// For the n-th request, from 0: greets with its settings, waits for the request, and follows the script.
    pub async fn start(script: impl Fn(usize) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = self_signed(&leaf_params(&["127.0.0.1"]));
        let acceptor = TlsAcceptor::from(Arc::new(config(&identity, rustls::ALL_VERSIONS, None)));
        let requests: Arc<Mutex<usize>> = Arc::default();
        let (script, seen) = (Arc::new(script), Arc::clone(&requests));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script, seen) = (acceptor.clone(), Arc::clone(&script), Arc::clone(&seen));
                sessions.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let request = if is_http2 { until_head(&mut stream).await } else { until_line(&mut stream).await };
                    if request.is_none() {
                        return;
                    }
                    let turn = {
                        let mut seen = seen.lock().unwrap();
                        *seen += 1;
                        *seen - 1
                    };
                    let mut acts = if is_http2 { vec![Act::Send(settings())] } else { Vec::new() };
                    acts.extend(script(turn));
                    if let Some(stream) = perform(stream, acts, &AtomicU64::new(0)).await {
                        let socket = socket2::SockRef::from(stream.get_ref().0);
                        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
                    }
                });
            }
        });
        Self { address, requests, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("https://{}/", self.address)
    }

    pub fn requests(&self) -> usize {
        *self.requests.lock().unwrap()
    }
}

/// Reads the preface and frames until a head of a request is there.
async fn until_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<()> {
    stream.read_exact(&mut [0; 24]).await.ok()?;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.ok()?;
        if header[3] == HEADERS {
            return Some(());
        }
    }
}

async fn until_line<S: AsyncRead + Unpin>(stream: &mut S) -> Option<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(())
}
