//! A private OpenSSH server on a loopback port, with keys of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::servers::http::closed_port;

const PROGRAM: &str = "/usr/sbin/sshd";

/// Killed when dropped.
pub struct Sshd {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    process: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sshd {
    /// With host keys of these types, and these lines in its configuration.
    pub async fn start(types: &[&str], lines: &str) -> Self {
        assert!(Path::new(PROGRAM).exists(), "there is no {PROGRAM}: tests/run installs it");
        // Where it separates privileges when it is started by root.
        let _ = std::fs::create_dir("/run/sshd");
        let folder = tempfile::tempdir().unwrap();
        let address = closed_port().await;
        let mut config = format!("ListenAddress {address}\nPidFile none\nUsePAM no\nLogLevel INFO\n{lines}\n");
        for sort in types {
            let key = folder.path().join(sort);
            let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", sort, "-f"]).arg(&key).status().unwrap();
            assert!(made.success());
            config += &format!("HostKey {}\n", key.display());
        }
        std::fs::write(folder.path().join("config"), config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("-D").arg("-e").arg("-f").arg(folder.path().join("config"));
        let process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let server = Self { address, folder, process };
        let begin = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "sshd did not come up: {}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// As `ssh-keygen -lf` prints it.
    pub fn fingerprint(&self, sort: &str) -> String {
        let key = self.folder.path().join(format!("{sort}.pub"));
        let output = Command::new("ssh-keygen").arg("-lf").arg(key).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    }
}
