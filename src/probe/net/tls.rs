//! The TLS handshake: full ones only, since a check measures what a new visitor sees.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, PeerIncompatible};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::trust::{self, Trust, Witness};
use super::{Handshaken, certificate};
use crate::model::{Failure, Fault};
use crate::settings::limited;
use crate::settings::reader::TableReader;

/// A private key file is read up to this size.
const KEY_MAX_BYTES: u64 = 256 * 1024;

/// Client configurations kept; more than this many client certificates in use at once are built again and again.
const MOST_CONFIGS: usize = 1024;

/// `tls = { … }` of a monitor, ready to use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    verify: bool,
    tls13_only: bool,
    client: Option<Arc<Client>>,
    alpn: Arc<[Vec<u8>]>,
}

/// A client certificate with its key. `Debug` shows neither.
struct Client {
    key: Arc<CertifiedKey>,
    /// SHA-256 over certificate and key file: the same files are the same configuration.
    digest: [u8; 32],
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client { .. }")
    }
}

impl Default for TlsOptions {
    /// Verify, TLS 1.2 or newer, no client certificate, no ALPN.
    fn default() -> Self {
        Self { verify: true, tls13_only: false, client: None, alpn: Arc::from(Vec::new()) }
    }
}

impl TlsOptions {
    /// Reads the `tls` sub-table; the default when there is none. Files are read here, so that a missing one is an error
    /// of the configuration.
    pub fn read(monitor: &mut TableReader<'_>) -> Option<Self> {
        let mut options = Self::default();
        let Some(mut table) = monitor.table("tls") else {
            // Absent is fine; of the wrong type is not.
            return monitor.node("tls").is_none().then_some(options);
        };
        let before = table.findings().count();
        options.verify = table.boolean("verify").unwrap_or(true);
        match table.string("min_version").as_deref() {
            None | Some("1.2") => {}
            Some("1.3") => options.tls13_only = true,
            Some(other) => {
                table.error("min_version", format!("{other:?} is no TLS version"), "\"1.2\" or \"1.3\"".to_owned())
            }
        }
        match (table.path("client_certificate"), table.path("client_key")) {
            (None, None) => {}
            (Some(certificate), Some(key)) => options.client = client(&table, &certificate, &key),
            (Some(_), None) if !table.has_own("client_key") => {
                table.error("client_certificate", "has no key", "set client_key as well".to_owned());
            }
            (None, Some(_)) if !table.has_own("client_certificate") => {
                table.error("client_key", "has no certificate", "set client_certificate as well".to_owned());
            }
            // The other one was given, but is wrong: that was reported.
            _ => {}
        }
        let findings = table.findings();
        table.finish(&|_| None);
        (findings.count() == before).then_some(options)
    }

    /// The same with application protocols to offer, the first preferred (RFC 7301).
    #[must_use]
    pub fn with_alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// The same without a client certificate: for a host that its owner did not name.
    #[must_use]
    pub fn without_client(mut self) -> Self {
        self.client = None;
        self
    }
}

/// Reads and checks a client certificate. Messages never show what a file contains.
fn client(table: &TableReader<'_>, certificate: &PathBuf, key: &PathBuf) -> Option<Arc<Client>> {
    let complain = |which: &'static str, path: &PathBuf, why: String| {
        table.error(which, format!("{}: {why}", path.display()), "a PEM file".to_owned());
    };
    let chain =
        trust::certificates(certificate).map_err(|why| complain("client_certificate", certificate, why)).ok()?;
    let pem = limited::read(key, KEY_MAX_BYTES).map_err(|why| complain("client_key", key, why.to_string())).ok()?;
    let Ok(private) = PrivateKeyDer::from_pem_slice(pem.as_bytes()) else {
        complain("client_key", key, "has no unencrypted PEM private key (PKCS#8, PKCS#1 or SEC1)".to_owned());
        return None;
    };
    let mut digest = Sha256::new();
    for der in &chain {
        digest.update(der.len().to_be_bytes());
        digest.update(der);
    }
    digest.update(private.secret_der());
    match CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider()) {
        Ok(key) => Some(Arc::new(Client { key: Arc::new(key), digest: digest.finalize().into() })),
        Err(Error::InconsistentKeys(_)) => {
            let what = format!("{}: does not belong to the certificate {}", key.display(), certificate.display());
            table.error("client_key", what, "the key that the certificate was issued for".to_owned());
            None
        }
        Err(why) => {
            complain("client_key", key, format!("the pair cannot be used: {why}"));
            None
        }
    }
}

/// What distinguishes client configurations; verifier and ALPN are set per handshake.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ConfigKey {
    tls13_only: bool,
    client: Option<[u8; 32]>,
}

/// Makes handshakes.
pub(super) struct Tls {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    configs: Mutex<HashMap<ConfigKey, Arc<ClientConfig>>>,
}

impl Tls {
    /// Reads the roots, once. Errors name the file.
    pub(super) fn new(ca_files: &[PathBuf]) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = Arc::new(Trust::read(ca_files, provider.signature_verification_algorithms)?);
        Ok(Self { trust, provider, configs: Mutex::new(HashMap::new()) })
    }

    /// A handshake as `host` by the deadline; its own time is all that the caller needs to measure.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        host: &str,
        options: &TlsOptions,
        now: DateTime<Utc>,
        deadline: Instant,
    ) -> (Handshaken, Instant) {
        let start = Instant::now();
        let witness = Arc::new(Witness::new(Arc::clone(&self.trust), options.verify, now));
        let prepared = self.config(options, &witness).and_then(|config| Ok((config, server_name(host)?)));
        let result = match prepared {
            Err(fault) => Err(fault),
            Ok((config, name)) => {
                match timeout_at(deadline, TlsConnector::from(Arc::new(config)).connect(name, stream)).await {
                    Ok(Ok(stream)) => Ok(stream),
                    Ok(Err(error)) => Err(self.fault(&error, &witness, host, now)),
                    Err(_) => {
                        let waited = start.elapsed().as_millis();
                        let message = format!("the TLS handshake did not end within {waited} ms");
                        Err(Fault::new(Failure::TlsTimeout, message))
                    }
                }
            }
        };
        let ended = Instant::now();
        let certificate = witness.seen().and_then(|seen| certificate::facts(&seen.chain, now)).map(Arc::new);
        (Handshaken { result, certificate }, ended)
    }

    /// A copy of the shared configuration with this handshake's witness: a dozen reference counts.
    fn config(&self, options: &TlsOptions, witness: &Arc<Witness>) -> Result<ClientConfig, Fault> {
        let key =
            ConfigKey { tls13_only: options.tls13_only, client: options.client.as_ref().map(|client| client.digest) };
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = match configs.get(&key) {
            Some(shared) => Arc::clone(shared),
            None => {
                if configs.len() >= MOST_CONFIGS {
                    configs.clear();
                }
                let built = self.build(options)?;
                configs.insert(key, Arc::clone(&built));
                built
            }
        };
        drop(configs);
        let mut config = ClientConfig::clone(&shared);
        config.dangerous().set_certificate_verifier(Arc::clone(witness) as _);
        config.alpn_protocols = options.alpn.to_vec();
        Ok(config)
    }

    fn build(&self, options: &TlsOptions) -> Result<Arc<ClientConfig>, Fault> {
        let versions: &[&rustls::SupportedProtocolVersion] =
            if options.tls13_only { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|error| Fault::new(Failure::Internal, format!("TLS cannot be set up: {error}")))?
            .dangerous()
            // Every handshake brings its own; this one never sees a chain.
            .with_custom_certificate_verifier(Arc::new(Witness::new(
                Arc::clone(&self.trust),
                true,
                DateTime::UNIX_EPOCH,
            )));
        let mut config = match &options.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let resolver = rustls::sign::SingleCertAndKey::from(Arc::clone(&client.key));
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn fault(&self, error: &io::Error, witness: &Witness, host: &str, now: DateTime<Utc>) -> Fault {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return transport_fault(error);
        };
        match (tls, witness.seen()) {
            (Error::InvalidCertificate(_), Some(seen)) if seen.verdict.is_err() && self.trust.is_empty() => {
                let what = "this host has no root certificates: install ca-certificates or set probe.ca_files";
                Fault::new(Failure::Internal, what)
            }
            (Error::InvalidCertificate(why), Some(seen)) if seen.verdict.is_err() => {
                trust::fault(why, &seen.chain, host, now)
            }
            _ => protocol_fault(tls),
        }
    }
}

/// The fault in an error of a TLS stream after the handshake; none when it is not about TLS. Alerts arrive this way.
#[must_use]
pub fn tls_fault(error: &io::Error) -> Option<Fault> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).map(protocol_fault)
}

fn server_name(host: &str) -> Result<ServerName<'static>, Fault> {
    // The final dot of an absolute name is never part of a certificate (RFC 6066, section 3).
    let bare = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| Fault::new(Failure::TlsHandshake, format!("{host:?} cannot be the name of a TLS server")))
}

/// Errors of the connection below TLS.
fn transport_fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            Fault::new(Failure::ConnectionReset, "the connection was reset in the TLS handshake")
        }
        io::ErrorKind::UnexpectedEof => {
            Fault::new(Failure::TlsHandshake, "the server closed the connection in the TLS handshake")
        }
        io::ErrorKind::TimedOut => Fault::new(Failure::TlsTimeout, "the connection died in the TLS handshake"),
        io::ErrorKind::HostUnreachable => {
            Fault::new(Failure::HostUnreachable, "the host became unreachable in the TLS handshake")
        }
        io::ErrorKind::NetworkUnreachable => {
            Fault::new(Failure::NetworkUnreachable, "the network became unreachable in the TLS handshake")
        }
        _ => Fault::new(Failure::TlsHandshake, format!("the TLS handshake failed: {error}")),
    }
}

fn protocol_fault(error: &Error) -> Fault {
    let (failure, message) = match error {
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            (Failure::TlsVersion, "the server does not speak a TLS version that this monitor allows".to_owned())
        }
        Error::PeerIncompatible(
            why @ (PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled),
        ) => {
            (Failure::TlsVersion, format!("the server chose a TLS version that this monitor does not allow ({why:?})"))
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => (
            Failure::TlsHandshake,
            "the server wants a client certificate: set tls.client_certificate and tls.client_key".to_owned(),
        ),
        Error::AlertReceived(alert) => {
            (Failure::TlsHandshake, format!("the server ended the TLS handshake with the alert {alert:?}"))
        }
        Error::InvalidMessage(InvalidMessage::CertificatePayloadTooLarge) => {
            (Failure::CertInvalid, "the presented chain is larger than 64 KiB".to_owned())
        }
        // The library takes no longer ones: the bound on what a server may make us keep.
        Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => (
            Failure::TlsHandshake,
            "the server sent a TLS message of more than 64 KiB: too many certificates, or no TLS at all".to_owned(),
        ),
        Error::InvalidMessage(why) => {
            (Failure::TlsHandshake, format!("what the server sent is not TLS ({why:?}): is this a plain-text port?"))
        }
        Error::NoCertificatesPresented => (Failure::CertInvalid, "the server presented no certificate".to_owned()),
        // The chain itself was accepted: what is wrong is the signature over the handshake.
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            (Failure::CertInvalid, "the server does not hold the key of the certificate it presents".to_owned())
        }
        Error::InvalidCertificate(why) => (Failure::CertInvalid, format!("the certificate is not acceptable: {why}")),
        Error::PeerIncompatible(why) => {
            (Failure::TlsHandshake, format!("no common way to speak TLS was found ({why:?})"))
        }
        Error::FailedToGetRandomBytes => (Failure::ResourceExhausted, "the system gave no random bytes".to_owned()),
        other => (Failure::TlsHandshake, format!("the TLS handshake failed: {other}")),
    };
    Fault::new(failure, message)
}
