//! The TLS handshake: full ones only, since a check measures what a new visitor sees.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, PeerIncompatible, ProtocolVersion,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Handshaken;
use super::chain::{self, Chains, Session};
use super::trust::{self, Trust, Witness};
use crate::model::{Failure, Fault};
use crate::settings::limited;
use crate::settings::reader::TableReader;

/// A private key file is read up to this size.
const KEY_MAX_BYTES: u64 = 256 * 1024;

/// How long a refusal is waited for beside the time that two round trips take.
const REFUSAL_MARGIN: Duration = Duration::from_millis(100);

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
    match CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider()) {
        Ok(key) => Some(Arc::new(Client { key: Arc::new(key) })),
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

/// Makes handshakes.
pub(super) struct Tls {
    trust: Arc<Trust>,
    /// For TLS 1.2 and newer; verifier, client certificate and ALPN are set per handshake.
    any: ClientConfig,
    /// For TLS 1.3 only.
    tls13: ClientConfig,
    chains: Chains,
}

impl Tls {
    /// Reads the roots, once. Errors name the file.
    pub(super) fn new(ca_files: &[PathBuf]) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = Arc::new(Trust::read(ca_files, provider.signature_verification_algorithms)?);
        let any = build(&provider, &trust, rustls::ALL_VERSIONS)?;
        let tls13 = build(&provider, &trust, &[&rustls::version::TLS13])?;
        Ok(Self { trust, any, tls13, chains: Chains::default() })
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
        let client = options.client.as_ref().map(|client| Arc::clone(&client.key));
        let witness = Arc::new(Witness::new(Arc::clone(&self.trust), options.verify, client, now));
        let result = match server_name(host) {
            Err(fault) => Err(fault),
            Ok(name) => {
                let connector = TlsConnector::from(Arc::new(self.config(options, &witness)));
                match timeout_at(deadline, connector.connect(name, stream)).await {
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
        let session = match &result {
            Ok(stream) => session(stream),
            Err(_) => Session { version: witness.version(), cipher: None },
        };
        let certificate = witness.seen().and_then(|seen| self.chains.facts(&seen.chain, session, now));
        (Handshaken { result, certificate, wants_client: witness.wants_client() }, ended)
    }

    /// A copy of the shared configuration with this handshake's witness: a dozen reference counts.
    fn config(&self, options: &TlsOptions, witness: &Arc<Witness>) -> ClientConfig {
        let mut config = if options.tls13_only { self.tls13.clone() } else { self.any.clone() };
        config.dangerous().set_certificate_verifier(Arc::clone(witness) as _);
        config.client_auth_cert_resolver = Arc::clone(witness) as _;
        config.alpn_protocols = options.alpn.to_vec();
        config
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
            // No algorithm of ours takes a signature by such a key, which looks as if somebody else had made it.
            (Error::InvalidCertificate(CertificateError::BadSignature), Some(seen))
                if seen.chain.first().is_some_and(chain::has_weak_key) =>
            {
                trust::weak(&seen.chain)
            }
            // TLS 1.2 has no alert of its own for this.
            (Error::AlertReceived(alert), _) if witness.came_without_client() && is_about_certificate(*alert) => {
                client_wanted()
            }
            _ => protocol_fault(tls),
        }
    }
}

fn session(stream: &TlsStream<TcpStream>) -> Session {
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
        Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
        _ => None,
    };
    Session { version, cipher: connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()) }
}

fn build(
    provider: &Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ClientConfig, String> {
    // Every handshake brings its own witness; this one never sees a chain.
    let nobody = Witness::new(Arc::clone(trust), true, None, DateTime::UNIX_EPOCH);
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(nobody)).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Waits for what a server says about the client certificate that it asked for, or did not get. With TLS 1.3 it does so
/// after the handshake, one round trip later, and a client that says nothing would take the silence for consent. A
/// ticket, data or silence for twice as long as the handshake took (`shaken`) is consent; so is the end of the stream,
/// which is no alert.
pub(super) async fn refusal(
    stream: &mut TlsStream<TcpStream>,
    shaken: Duration,
    deadline: Instant,
) -> Result<(), Fault> {
    let (io, connection) = stream.get_mut();
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Ok(());
    }
    let until = deadline.min(Instant::now() + shaken * 2 + REFUSAL_MARGIN);
    while connection.tls13_tickets_received() == 0 && timeout_at(until, io.readable()).await.is_ok() {
        let mut reader = Ready(io);
        match connection.read_tls(&mut reader) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(transport_fault(&error)),
        }
        let state = connection.process_new_packets().map_err(|error| protocol_fault(&error))?;
        if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
            break;
        }
    }
    Ok(())
}

/// Reads what is there.
struct Ready<'a>(&'a TcpStream);

impl io::Read for Ready<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

/// Alerts by which servers say that a client's certificate is missing or refused (RFC 8446, 6.2).
const fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::HandshakeFailure
            | A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::CertificateRequired
    )
}

fn client_wanted() -> Fault {
    let what = "the server wants a client certificate: set tls.client_certificate and tls.client_key";
    Fault::new(Failure::TlsHandshake, what)
}

/// What to look at when a server sends an alert.
const fn advice(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::HandshakeFailure | A::InsufficientSecurity => ": it found no cipher and key exchange in common with us",
        A::UnrecognisedName => ": it has no certificate for the name that was asked for",
        A::NoApplicationProtocol => ": it speaks none of the protocols that were offered (ALPN)",
        A::InternalError => ": something is wrong inside the server",
        A::NoRenegotiation | A::UserCanceled => ": it gave up",
        alert if is_about_certificate(alert) => ": it does not accept our client certificate",
        _ => "",
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
        Error::AlertReceived(AlertDescription::CertificateRequired) => return client_wanted(),
        Error::AlertReceived(alert) => {
            let advice = advice(*alert);
            (Failure::TlsHandshake, format!("the server ended the TLS handshake with the alert {alert:?}{advice}"))
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
