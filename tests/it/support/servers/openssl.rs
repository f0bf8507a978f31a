//! `openssl s_server`, for versions, keys and signatures that are too old for our own library.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Certificates for `shop.test` by one root, as `NAME.pem` and `NAME.key`: `rsa2048`, `rsa1024`, `under1024` (whose
/// intermediate has 1024 bits) and `sha1`.
pub struct Files {
    pub root: PathBuf,
    folder: PathBuf,
}

impl Files {
    pub async fn make(folder: &tempfile::TempDir) -> Self {
        let folder = folder.path().to_owned();
        let files = Self { root: folder.join("old-root.pem"), folder };
        files.request("old-root", 2048).await;
        let ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign";
        files.sign("old-root", None, "sha256", ca).await;
        files.request("middle", 1024).await;
        files.sign("middle", Some("old-root"), "sha256", ca).await;
        let leaf = "subjectAltName=DNS:shop.test\nextendedKeyUsage=serverAuth";
        for (name, bits, issuer, digest) in [
            ("rsa2048", 2048, "old-root", "sha256"),
            ("rsa1024", 1024, "old-root", "sha256"),
            ("under1024", 2048, "middle", "sha256"),
            ("sha1", 2048, "old-root", "sha1"),
        ] {
            files.request(name, bits).await;
            files.sign(name, Some(issuer), digest, leaf).await;
        }
        files
    }

    async fn request(&self, name: &str, bits: u32) {
        let (key, out) = (format!("{name}.key"), format!("{name}.csr"));
        let bits = format!("rsa:{bits}");
        let subject = format!("/CN={name}");
        self.run(&["req", "-new", "-nodes", "-newkey", &bits, "-keyout", &key, "-out", &out, "-subj", &subject]).await;
    }

    async fn sign(&self, name: &str, issuer: Option<&str>, digest: &str, extensions: &str) {
        std::fs::write(self.folder.join("extensions"), extensions).unwrap();
        let (csr, out, digest) = (format!("{name}.csr"), format!("{name}.pem"), format!("-{digest}"));
        let mut arguments =
            vec!["x509", "-req", "-in", &csr, "-out", &out, &digest, "-days", "3650", "-extfile", "extensions"];
        let by = issuer.unwrap_or(name);
        let (certificate, key) = (format!("{by}.pem"), format!("{by}.key"));
        match issuer {
            Some(_) => arguments.extend(["-CA", &certificate, "-CAkey", &key, "-CAcreateserial"]),
            None => arguments.extend(["-signkey", &key]),
        }
        self.run(&arguments).await;
    }

    async fn run(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(&self.folder).output().await.unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Ends when dropped.
pub struct OpenSsl {
    pub port: u16,
    _child: Child,
}

impl OpenSsl {
    /// Presents the certificate `NAME.pem` of the files, with its intermediate where it has one.
    pub async fn start(files: &Files, name: &str, arguments: &[&str]) -> Self {
        let (chain, key) = (format!("{name}.pem"), format!("{name}.key"));
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-cert", &chain, "-key", &key]);
        if name == "under1024" {
            command.args(["-cert_chain", "middle.pem"]);
        }
        if !arguments.contains(&"-cipher") {
            // Debian's default forbids what is old.
            command.args(["-cipher", "DEFAULT@SECLEVEL=0"]);
        }
        command.args(arguments).current_dir(&files.folder).kill_on_drop(true);
        // It ends with its standard input.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let line = lines.next_line().await.unwrap().expect("s_server ended");
                if let Some(address) = line.strip_prefix("ACCEPT ") {
                    break address.rsplit(':').next().unwrap().parse().unwrap();
                }
            }
        });
        let port = port.await.expect("s_server does not listen");
        // What it prints must go somewhere, or it blocks.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { port, _child: child }
    }
}
