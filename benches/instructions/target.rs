//! The target: answers every request alike, outside of what is counted.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// About what a web server says.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\nContent-Length: 17\r\nConnection: close\r\n\
    Cache-Control: max-age=60\r\nX-Request-Id: 7b0c6d2e\r\n\r\n<p>All is well</p>";

/// Serves one connection after the other on a thread that lives as long as this process; gives the port.
pub(crate) fn start() -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // One that breaks fails its check, and the counted run says so.
            let _ = stream.and_then(answer);
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            read => head.extend_from_slice(&piece[..read]),
        }
    }
    stream.write_all(ANSWER)?;
    // The other side closes first: whether it saw the answer and its end in one wake-up or in two would be chance.
    while stream.read(&mut piece)? > 0 {}
    Ok(())
}
