//! Whom we trust, and the verdict on one presented chain.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::{certificate, chain};
use crate::model::{Failure, Fault};
use crate::settings::limited;

/// A PEM file is read up to this size: the system's whole bundle has 220 KiB.
const PEM_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The roots: the system's and those of `probe.ca_files`.
pub(super) struct Trust {
    roots: RootCertStore,
    /// Certificates of `probe.ca_files`: a server may also present one of these itself.
    pinned: HashSet<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Reads the system's store and the files. A bad file is an error that names it; single bad certificates of the
    /// system's store are skipped, as every client does.
    pub(super) fn read(ca_files: &[PathBuf], algorithms: WebPkiSupportedAlgorithms) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            log::warn!("the system's root certificates: {error}");
        }
        roots.add_parsable_certificates(system.certs);
        let mut pinned = HashSet::new();
        for path in ca_files {
            for certificate in certificates(path).map_err(|why| format!("probe.ca_files: {}: {why}", path.display()))? {
                roots.add(certificate.clone()).map_err(|why| {
                    format!("probe.ca_files: {}: a certificate cannot be a root: {why}", path.display())
                })?;
                pinned.insert(certificate);
            }
        }
        if roots.is_empty() {
            log::warn!(
                "no root certificates are installed: TLS checks cannot tell good from bad; install ca-certificates or set probe.ca_files"
            );
        }
        Ok(Self { roots, pinned, algorithms })
    }

    /// The verdict on a chain. When several things are wrong, the first of this order is told:
    ///
    /// 1. not X.509: `cert_invalid`;
    /// 2. a leaf that signs itself, unless it stands in `probe.ca_files`: `cert_untrusted`, also when it expired;
    /// 3. `cert_expired` and `cert_not_yet_valid`, of any certificate on a path to a root;
    /// 4. a signature that the named issuer did not make: `cert_untrusted`;
    /// 5. forbidden uses, unknown critical extensions, too weak signatures and the like: `cert_invalid`;
    /// 6. no path to a root: `cert_untrusted`;
    /// 7. another name: `cert_hostname_mismatch`.
    fn verify(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        let self_issued = certificate::is_self_issued(leaf);
        let is_pinned = self_issued && self.pinned.contains(leaf);
        let told =
            |error: Error| if self_issued && !is_pinned { CertificateError::UnknownIssuer.into() } else { error };
        let parsed = ParsedCertificate::try_from(leaf).map_err(told)?;
        if is_pinned {
            // webpki refuses a CA certificate as a leaf; the operator has vouched for this very one.
            within_validity(leaf, now)?;
        } else {
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)
                .map_err(told)?;
        }
        verify_server_name(&parsed, name)
    }

    /// Without any root every chain would look untrusted, which is our fault and not the target's.
    pub(super) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }
}

fn within_validity(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let Some((not_before, not_after)) = certificate::validity(leaf) else {
        return Err(CertificateError::BadEncoding.into());
    };
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds > not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if seconds < not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

/// All certificates of a PEM file; none is an error.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = limited::read(path, PEM_MAX_BYTES).map_err(|why| why.to_string())?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates {
        Ok(list) if list.is_empty() => Err("has no PEM block \"CERTIFICATE\"".to_owned()),
        Ok(list) => Ok(list),
        Err(why) => Err(format!("is not PEM: {why}")),
    }
}

/// The verifier of ONE handshake: notes the chain that was presented and our verdict, so that both are known also when
/// the handshake fails later.
pub(super) struct Witness {
    trust: Arc<Trust>,
    /// `tls.verify`.
    verify: bool,
    /// What is shown to a server that asks for a client's certificate.
    client: Option<Arc<CertifiedKey>>,
    now: UnixTime,
    seen: OnceLock<Seen>,
    wants_client: AtomicBool,
    /// Of TLS; known when the signature over the handshake comes, after the chain.
    version: OnceLock<&'static str>,
}

/// What the witness saw.
pub(super) struct Seen {
    /// As it came, leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Our verdict.
    pub(super) verdict: Result<(), Error>,
}

impl Witness {
    pub(super) fn new(trust: Arc<Trust>, verify: bool, client: Option<Arc<CertifiedKey>>, now: DateTime<Utc>) -> Self {
        // Before 1970 nothing is valid anyway.
        let since_epoch = std::time::Duration::from_secs(u64::try_from(now.timestamp()).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(since_epoch);
        Self {
            trust,
            verify,
            client,
            now,
            seen: OnceLock::new(),
            wants_client: AtomicBool::new(false),
            version: OnceLock::new(),
        }
    }

    /// webpki reads the certificate before it checks a signature with its key, and refuses what `verify = false` is
    /// for: certificates of version 1 in old devices, unknown critical extensions. The signature is checked all the same.
    fn without_webpki(
        &self,
        error: Error,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let is_about_signature =
            !matches!(error, Error::InvalidCertificate(_)) || error == CertificateError::BadSignature.into();
        if self.verify || is_about_signature {
            return Err(error);
        }
        let key = certificate::public_key(certificate).ok_or(error)?;
        let mapping = self.trust.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
        let mut algorithms = mapping.into_iter().flat_map(|(_, algorithms)| algorithms.iter());
        // An algorithm for another sort of key fails to read this one.
        match algorithms.any(|algorithm| algorithm.verify_signature(&key, message, signature.signature()).is_ok()) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    /// What was presented, once the certificate message arrived.
    pub(super) fn seen(&self) -> Option<&Seen> {
        self.seen.get()
    }

    /// `1.2` or `1.3`, once the server has proven that it holds the key, or would have had to.
    pub(super) fn version(&self) -> Option<&'static str> {
        self.version.get().copied()
    }

    /// The verdict on the chain is told here and not when it is made: by then the version is known. Nothing is sent
    /// in between.
    fn told(&self, version: &'static str) -> Result<(), Error> {
        self.version.get_or_init(|| version);
        self.seen.get().map_or(Ok(()), |seen| seen.verdict.clone())
    }

    /// The server asked for a client's certificate.
    pub(super) fn wants_client(&self) -> bool {
        self.wants_client.load(Ordering::Relaxed)
    }

    /// It asked, and there was none to show.
    pub(super) fn came_without_client(&self) -> bool {
        self.client.is_none() && self.wants_client()
    }
}

impl ResolvesClientCert for Witness {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.wants_client.store(true, Ordering::Relaxed);
        self.client.clone()
    }

    fn has_certs(&self) -> bool {
        self.client.is_some()
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").field("verify", &self.verify).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        // The daemon's wall clock counts, not the library's.
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> =
            std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        let verdict = if self.verify { self.trust.verify(&chain, server_name, self.now) } else { Ok(()) };
        self.seen.get_or_init(|| Seen { chain, verdict });
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.told("1.2")?;
        verify_tls12_signature(message, certificate, signature, &self.trust.algorithms)
            .or_else(|error| self.without_webpki(error, message, certificate, signature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.told("1.3")?;
        verify_tls13_signature(message, certificate, signature, &self.trust.algorithms)
            .or_else(|error| self.without_webpki(error, message, certificate, signature))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// The failure that a verdict on a chain stands for.
pub(super) fn fault(error: &CertificateError, chain: &[CertificateDer<'_>], host: &str, now: DateTime<Utc>) -> Fault {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => expired(chain, now),
        E::NotValidYet | E::NotValidYetContext { .. } => not_yet_valid(chain, now),
        E::UnknownIssuer if chain.first().is_some_and(certificate::is_self_issued) => {
            let way_out = "the certificate signs itself: to trust it, add it to probe.ca_files";
            Fault::new(Failure::CertUntrusted, way_out)
        }
        E::UnknownIssuer => {
            let what = "no path leads from the presented chain to a trusted root: an intermediate certificate is missing, \
                        or its CA belongs into probe.ca_files";
            Fault::new(Failure::CertUntrusted, what)
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            Fault::new(Failure::CertHostnameMismatch, mismatch(host, chain))
        }
        E::Revoked => Fault::new(Failure::CertRevoked, "the certificate was revoked"),
        // No algorithm of ours takes a signature by such a key.
        E::BadSignature if chain.iter().skip(1).any(chain::has_weak_key) => weak(chain),
        // A CA that has the name of a trusted one, but another key: nobody whom we trust vouches for it.
        E::BadSignature => {
            let what =
                "a signature in the chain does not match the key of its issuer: was a CA renewed under its old name?";
            Fault::new(Failure::CertUntrusted, what)
        }
        E::BadEncoding => Fault::new(Failure::CertInvalid, "the certificate is not valid X.509"),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            Fault::new(Failure::CertInvalid, "the certificate is not meant for servers (extended key usage)")
        }
        #[allow(deprecated, reason = "the library may still give it")]
        E::UnsupportedSignatureAlgorithm
        | E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => weak(chain),
        other => Fault::new(Failure::CertInvalid, format!("the certificate is not acceptable: {other}")),
    }
}

/// The fault of a key or signature that is too weak, or of a sort that we do not know.
pub(super) fn weak(chain: &[CertificateDer<'_>]) -> Fault {
    let what =
        chain::weakness(chain).unwrap_or_else(|| "a certificate has a key or signature of a strange sort".to_owned());
    Fault::new(Failure::CertInvalid, format!("{what}, which is not accepted any more: it must be issued anew"))
}

/// A chain may end by any of its certificates; the one that did is named.
fn expired(chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Fault {
    let ends = chain.iter().filter_map(certificate::validity).map(|(_, not_after)| not_after);
    let position = ends.clone().position(|end| end < now);
    let message = match position.and_then(|index| Some((index, ends.clone().nth(index)?))) {
        None => "a certificate on the path to the root expired".to_owned(),
        Some((index, end)) => {
            let whose = if index == 0 { "certificate" } else { "an intermediate certificate" };
            format!("{whose} expired {} ({})", ago((now - end).num_seconds()), end.format("%Y-%m-%d"))
        }
    };
    Fault::new(Failure::CertExpired, message)
}

fn not_yet_valid(chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Fault {
    let start =
        chain.iter().filter_map(certificate::validity).map(|(not_before, _)| not_before).find(|start| *start > now);
    let message = match start {
        None => "a certificate on the path to the root is not valid yet".to_owned(),
        Some(start) => format!("certificate is not valid before {}", start.format("%Y-%m-%d %H:%M UTC")),
    };
    Fault::new(Failure::CertNotYetValid, message)
}

fn ago(seconds: i64) -> String {
    let (count, unit) = match seconds {
        86_400.. => (seconds / 86_400, "day"),
        3600.. => (seconds / 3600, "hour"),
        _ => (seconds / 60, "minute"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

fn mismatch(host: &str, chain: &[CertificateDer<'_>]) -> String {
    match certificate::names(chain).as_str() {
        "" => format!("the certificate names no host, so it is not valid for {host}"),
        names => format!("the certificate is valid for {names}, not for {host}"),
    }
}
