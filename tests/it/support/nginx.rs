//! A private nginx on a loopback port: what real servers do.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::servers::http::closed_port;
use super::servers::tls::{Authority, leaf_params, pem, self_signed};

const PROGRAM: &str = "/usr/sbin/nginx";

/// Killed when dropped.
pub struct Nginx {
    address: SocketAddr,
    tls_address: SocketAddr,
    /// Asks for a client certificate, such as `client.pem` of its folder.
    pub members: SocketAddr,
    /// Speaks TLS 1.2 and nothing else.
    pub old: SocketAddr,
    process: Child,
    pub folder: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Nginx {
    pub async fn start() -> Self {
        assert!(Path::new(PROGRAM).exists(), "there is no {PROGRAM}: tests/run installs it");
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("www/folder")).unwrap();
        std::fs::write(root.join("www/page"), "x".repeat(20_000)).unwrap();
        std::fs::write(root.join("www/large"), "x".repeat(10_000_000)).unwrap();
        std::fs::write(root.join("www/slow"), "x".repeat(60_000)).unwrap();
        let address = closed_port().await;
        let (tls_address, members, old) = (closed_port().await, closed_port().await, closed_port().await);
        let clients = Authority::root("Clients");
        std::fs::write(root.join("clients.pem"), pem(&clients.der())).unwrap();
        let client = clients.issue(&leaf_params(&["lamp"]));
        std::fs::write(root.join("client.pem"), pem(&client.chain[0])).unwrap();
        std::fs::write(root.join("client.key"), client.key_pem()).unwrap();
        let made = self_signed(&leaf_params(&["localhost", "127.0.0.1"]));
        std::fs::write(root.join("tls.pem"), pem(&made.chain[0])).unwrap();
        std::fs::write(root.join("tls.key"), made.key_pem()).unwrap();
        let shown = root.display();
        let config = format!(
            "daemon off; master_process off; pid {shown}/pid; error_log {shown}/error.log;
             events {{ }}
             http {{
               access_log off; gzip on; gzip_types *; gzip_min_length 100;
               client_body_temp_path {shown}/body; proxy_temp_path {shown}/proxy; fastcgi_temp_path {shown}/fastcgi;
               uwsgi_temp_path {shown}/uwsgi; scgi_temp_path {shown}/scgi;
               server {{
                 listen {address}; root {shown}/www;
                 location = /taken {{ return 200; }}
                 location = /silent {{ return 444; }}
                 location = /turn {{ return 301 /turn2; }}
                 location = /turn2 {{ return 301 /turn; }}
                 location = /slow {{ limit_rate 1k; }}
               }}
               server {{
                 listen {tls_address} ssl http2; root {shown}/www; client_max_body_size 2m;
                 ssl_certificate {shown}/tls.pem; ssl_certificate_key {shown}/tls.key;
                 location = /echo {{ return 200 '$host $server_protocol'; }}
                 location = /upload {{ proxy_pass http://{address}/taken; }}
               }}
               ssl_certificate {shown}/tls.pem; ssl_certificate_key {shown}/tls.key;
               server {{
                 listen {members} ssl http2; ssl_verify_client on; ssl_client_certificate {shown}/clients.pem;
                 location / {{ return 200 '$ssl_client_s_dn $http_authorization'; }}
               }}
               server {{ listen {old} ssl; ssl_protocols TLSv1.2; location / {{ return 200 '$ssl_protocol'; }} }}
             }}"
        );
        let path = root.join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("-p").arg(root).arg("-c").arg(&path).arg("-e").arg(root.join("error.log"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let nginx = Self { address, tls_address, members, old, process, folder };
        let begin = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "nginx did not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        nginx
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The same over TLS and, to those who ask for it, HTTP/2.
    pub fn tls_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.tls_address)
    }
}
