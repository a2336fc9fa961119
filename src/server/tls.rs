//! The serving certificate: reads it, checks it, and replaces it while the server runs. Also the CAs of clients.

mod expiry;
pub mod files;
pub mod self_signed;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use crate::certificates::{
    GeneratedCertificates, Host,
    chain::is_valid_for,
    crypto::provider,
    validity::{Validity, ValidityPhase},
};

/// A certificate chain and its private key.
#[derive(Debug)]
pub struct CertKeyPair {
    key: Arc<CertifiedKey>,
    validity: Validity,
    origin: Origin,
}

impl CertKeyPair {
    /// Reads a PEM chain, the server's own certificate first, and its PEM key.
    ///
    /// # Errors
    /// A file cannot be read, has no certificate or no key, or the key does not match the certificate.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let (chain, secret) = (read(certificate)?, read(key)?);
        Self::new(&chain, &secret, &Origin::File(certificate.into()), &Origin::File(key.into()))
    }

    /// Reads a PEM chain and a PEM key from memory.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files).
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::new(certificate, key, &Origin::Memory("certificate"), &Origin::Memory("key"))
    }

    fn new(chain: &[u8], key: &[u8], chain_origin: &Origin, key_origin: &Origin) -> Result<Self, TlsError> {
        let chain = certificates(chain, chain_origin)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey(key_origin.clone()))?;
        let unusable = |error| TlsError::BadCertificate(chain_origin.clone(), error);
        let validity = chain.first().and_then(|certificate| Validity::of(certificate));
        let validity = validity.ok_or_else(|| unusable(rustls::CertificateError::BadEncoding.into()))?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { certificate: chain_origin.clone(), key: key_origin.clone() }
            }
            rustls::Error::InvalidCertificate(_) => unusable(error),
            _ => TlsError::BadKey(key_origin.clone(), error),
        })?;
        Ok(Self { key: Arc::new(key), validity, origin: chain_origin.clone() })
    }

    /// Returns the validity of the server's own certificate.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Checks that the certificate is valid for all of `hosts`.
    ///
    /// # Errors
    /// The certificate is not valid for one of them.
    pub fn check_hosts(&self, hosts: &[Host]) -> Result<(), TlsError> {
        match hosts
            .iter()
            .find(|host| !self.key.cert.first().is_some_and(|certificate| is_valid_for(certificate, host)))
        {
            Some(host) => Err(TlsError::Host { certificate: self.origin.clone(), host: host.to_string() }),
            None => Ok(()),
        }
    }

    /// Checks that the certificate is valid at this time.
    ///
    /// # Errors
    /// It has expired, or is not valid yet.
    pub fn check_dates(&self, now: SystemTime) -> Result<(), TlsError> {
        match self.validity.phase(now) {
            ValidityPhase::NotYetValid => Err(TlsError::Early(self.origin.clone(), self.validity)),
            ValidityPhase::Expired => Err(TlsError::Expired(self.origin.clone(), self.validity)),
            ValidityPhase::Fresh | ValidityPhase::RenewalDue | ValidityPhase::RenewalOverdue => Ok(()),
        }
    }
}

/// The serving certificate of TLS handshakes. It can be replaced at any time; open connections keep theirs. Clones
/// share it.
#[derive(Clone, Debug, Default)]
pub struct CertResolver(Arc<ResolverState>);

#[derive(Debug, Default)]
struct ResolverState {
    pair: RwLock<Option<Arc<CertKeyPair>>>,
    /// When the CA expires, if this is known from another source than the chain.
    ca_expiry: RwLock<Option<SystemTime>>,
    /// The number of newer pairs that were rejected.
    load_failures: AtomicU64,
}

impl CertResolver {
    /// Replaces the pair.
    pub fn set(&self, pair: CertKeyPair) {
        *self.0.pair.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
    }

    /// Sets when the CA expires.
    pub(super) fn set_ca_expiry(&self, expiry: Option<SystemTime>) {
        *self.0.ca_expiry.write().unwrap_or_else(PoisonError::into_inner) = expiry;
    }

    /// Returns when the CA expires: the CA that nicplug created, else the CA of the chain that expires first; `None` if
    /// it is unknown.
    #[must_use]
    pub fn ca_expiry(&self) -> Option<SystemTime> {
        let expiry = *self.0.ca_expiry.read().unwrap_or_else(PoisonError::into_inner);
        expiry.or_else(|| {
            let pair = self.pair()?;
            pair.key.cert.iter().skip(1).filter_map(|ca| Some(Validity::of(ca)?.not_after)).min()
        })
    }

    /// Returns the number of pairs that were rejected while the previous one stayed in use.
    #[must_use]
    pub fn load_failures(&self) -> u64 {
        self.0.load_failures.load(Ordering::Relaxed)
    }

    fn add_load_failure(&self) {
        self.0.load_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the validity of the serving certificate; `None` if there is none yet.
    #[must_use]
    pub fn validity(&self) -> Option<Validity> {
        self.pair().map(|pair| pair.validity)
    }

    /// Returns the server's own certificate; `None` if there is none yet.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.pair()?.key.cert.first().cloned()
    }

    fn pair(&self) -> Option<Arc<CertKeyPair>> {
        self.0.pair.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TryFrom<&GeneratedCertificates> for CertKeyPair {
    type Error = TlsError;

    /// Reads the server's pair of a bundle.
    fn try_from(bundle: &GeneratedCertificates) -> Result<Self, TlsError> {
        Self::from_pem(bundle.server.as_bytes(), bundle.server_key.as_bytes())
    }
}

impl From<CertKeyPair> for CertResolver {
    fn from(pair: CertKeyPair) -> Self {
        let resolver = Self::default();
        resolver.set(pair);
        resolver
    }
}

impl ResolvesServerCert for CertResolver {
    /// rustls calls this once per handshake, so requests do not take the lock.
    fn resolve(&self, _: ClientHello) -> Option<Arc<CertifiedKey>> {
        self.pair().map(|pair| Arc::clone(&pair.key))
    }
}

/// The CAs of client certificates.
#[derive(Debug)]
pub struct ClientCas(RootCertStore);

impl ClientCas {
    /// Reads PEM certificates.
    ///
    /// # Errors
    /// The file cannot be read, or has no usable certificate.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        Self::new(&read(path)?, &Origin::File(path.into()))
    }

    /// Reads PEM certificates from memory.
    ///
    /// # Errors
    /// There is no usable certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        Self::new(pem, &Origin::Memory("client CA"))
    }

    fn new(pem: &[u8], origin: &Origin) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem, origin)? {
            roots.add(certificate).map_err(|error| TlsError::BadCertificate(origin.clone(), error))?;
        }
        Ok(Self(roots))
    }
}

/// Returns a configuration for TLS 1.2 and 1.3 and for HTTP/1.1.
pub(super) fn server_config(
    certificates: CertResolver,
    client_cas: Option<ClientCas>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match client_cas {
        Some(ClientCas(roots)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // The API server does not resume sessions (client-go has no session cache), so tickets would be useless.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(pem: &[u8], origin: &Origin) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::NoCertificate(origin.clone())),
    }
}

/// The origin of PEM text, for messages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// Memory, with the purpose of the text.
    Memory(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Memory(what) => write!(formatter, "the {what} in memory"),
        }
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM text is not a usable X.509 certificate.
    #[error("{0} has an unusable certificate: create a new one, for example with `nicplug certs`")]
    BadCertificate(Origin, #[source] rustls::Error),
    /// The PEM text is not a key of a supported kind.
    #[error("{0} has an unusable key: use an ECDSA (P-256, P-384), Ed25519 or RSA key")]
    BadKey(Origin, #[source] rustls::Error),
    /// The certificate is not valid yet.
    #[error("{0} is not valid yet ({1}): wait, or correct the clock of this machine or of the issuer")]
    Early(Origin, Validity),
    /// The certificate has expired.
    #[error("{0} has expired ({1}): renew it")]
    Expired(Origin, Validity),
    /// The certificate is not valid for a required host.
    #[error("{certificate} is not valid for the host {host:?} (--cert-dns-name): create one with this host")]
    Host {
        /// The origin of the certificate.
        certificate: Origin,
        /// The host.
        host: String,
    },
    /// The key does not match the certificate.
    #[error("the key in {key} does not match the certificate in {certificate}: use both files of one pair")]
    Mismatch {
        /// The origin of the certificate.
        certificate: Origin,
        /// The origin of the key.
        key: Origin,
    },
    /// The text has no PEM certificate.
    #[error("{0} has no certificate: it must be PEM text with \"BEGIN CERTIFICATE\"")]
    NoCertificate(Origin),
    /// The text has no PEM key.
    #[error("{0} has no private key: it must be PEM text with \"BEGIN PRIVATE KEY\", not encrypted")]
    NoKey(Origin),
    /// A file cannot be read.
    #[error(
        "cannot read {}: name an existing file that this user may read (`nicplug certs` creates one)",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// rustls rejects the configuration.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::certificates::{self, GeneratedCertificates, Host};

    fn bundle() -> GeneratedCertificates {
        certificates::generate(&Host::local().unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn a_matching_pair_is_accepted() {
        let bundle = bundle();
        assert!(CertKeyPair::try_from(&bundle).is_ok());
        assert!(ClientCas::from_pem(bundle.ca.as_bytes()).is_ok());
    }

    #[test]
    fn connections_use_the_fips_module_with_the_feature_fips() {
        let cas = ClientCas::from_pem(bundle().ca.as_bytes()).unwrap();
        for cas in [None, Some(cas)] {
            let config = server_config(CertResolver::default(), cas).unwrap();
            assert_eq!(config.fips(), cfg!(feature = "fips"));
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_an_error() {
        let (one, other) = (bundle(), bundle());
        let error = CertKeyPair::from_pem(one.server.as_bytes(), other.server_key.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    }

    #[test]
    fn a_certificate_is_checked_for_its_hosts() {
        let hosts: Vec<Host> =
            ["nicplug.nicplug.svc", "*.example.org", "10.0.0.7"].map(|host| host.parse().unwrap()).into();
        let bundle = certificates::generate(&hosts, SystemTime::now()).unwrap();
        let pair = CertKeyPair::try_from(&bundle).unwrap();
        let check = |host: &str| pair.check_hosts(&[hosts[0].clone(), host.parse().unwrap()]);
        for host in ["nicplug.nicplug.svc", "a.example.org", "10.0.0.7"] {
            assert!(check(host).is_ok(), "{host}");
        }
        for host in ["nicplug.nicplug.svc.cluster.local", "example.org", "10.0.0.8", "*.example.com"] {
            let error = check(host).unwrap_err().to_string();
            assert!(error.contains(host), "{error}");
        }
    }

    #[test]
    fn a_certificate_is_checked_for_its_dates() {
        let bundle = bundle();
        let pair = CertKeyPair::try_from(&bundle).unwrap();
        let Validity { not_before, not_after } = pair.validity();
        let second = Duration::from_secs(1);
        assert!(pair.check_dates(not_before).is_ok() && pair.check_dates(not_after).is_ok());
        let early = pair.check_dates(not_before - second).unwrap_err();
        assert!(matches!(early, TlsError::Early(..)) && early.to_string().contains("not valid yet"), "{early}");
        let late = pair.check_dates(not_after + second).unwrap_err();
        assert!(matches!(late, TlsError::Expired(..)) && late.to_string().contains("until 20"), "{late}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = CertKeyPair::from_files(Path::new("/missing/tls.crt"), Path::new("/missing/tls.key")).unwrap_err();
        assert!(error.to_string().contains("/missing/tls.crt"), "{error}");
    }

    #[test]
    fn swapped_files_are_an_error() {
        let bundle = bundle();
        let error = CertKeyPair::from_pem(bundle.server_key.as_bytes(), bundle.server.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::NoCertificate(_)), "{error}");
        let error = CertKeyPair::from_pem(bundle.server.as_bytes(), bundle.server.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::NoKey(_)), "{error}");
        assert!(matches!(ClientCas::from_pem(b"").unwrap_err(), TlsError::NoCertificate(_)));
    }

    #[test]
    fn a_certificate_of_garbage_is_an_error() {
        let bundle = bundle();
        let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = CertKeyPair::from_pem(garbage, bundle.server_key.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::BadCertificate(..)), "{error}");
    }
}
