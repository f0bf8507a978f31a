//! A private nginx on a loopback port: what real servers do.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::servers::http::closed_port;

const PROGRAM: &str = "/usr/sbin/nginx";

/// Killed when dropped.
pub struct Nginx {
    address: SocketAddr,
    process: Child,
    _folder: tempfile::TempDir,
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
                 location = /silent {{ return 444; }}
                 location = /turn {{ return 301 /turn2; }}
                 location = /turn2 {{ return 301 /turn; }}
                 location = /slow {{ limit_rate 1k; }}
               }}
             }}"
        );
        let path = root.join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("-p").arg(root).arg("-c").arg(&path).arg("-e").arg(root.join("error.log"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let nginx = Self { address, process, _folder: folder };
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
}
