//! Certificates: read, checked against each other, and shown to clients; replaced while the server runs.

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
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use crate::certificates::{
    GeneratedCertificates, Host,
    chain::is_valid_for,
    validity::{Validity, ValidityPhase},
};

/// A certificate chain and the key that belongs to it.
#[derive(Debug)]
pub struct Pair {
    key: Arc<CertifiedKey>,
    validity: Validity,
    origin: Origin,
}

impl Pair {
    /// Reads a PEM chain, the server's own certificate first, and its PEM key.
    ///
    /// # Errors
    /// A file cannot be read, has no certificate or no key in it, or the two do not belong together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let (chain, secret) = (read(certificate)?, read(key)?);
        Self::new(&chain, &secret, &Origin::File(certificate.into()), &Origin::File(key.into()))
    }

    /// The same from memory.
    ///
    /// # Errors
    /// As [`from_files`](Pair::from_files).
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

    /// From when until when the server's own certificate is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Checks that clients may call the server by each of `hosts`.
    ///
    /// # Errors
    /// The certificate is not for one of them.
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

/// The pair that handshakes get. It may be replaced at any time; connections that are open keep theirs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CertResolver(Arc<Served>);

#[derive(Debug, Default)]
struct Served {
    pair: RwLock<Option<Arc<Pair>>>,
    /// The end of the authority that signs now, where it is known by something else than the pair.
    authority: RwLock<Option<SystemTime>>,
    /// How often something newer was refused.
    faults: AtomicU64,
}

impl CertResolver {
    /// From now on handshakes get this pair.
    pub fn show(&self, pair: Pair) {
        *self.0.pair.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
    }

    /// Tells until when the authority that signs now is valid.
    pub(super) fn tell_authority(&self, end: Option<SystemTime>) {
        *self.0.authority.write().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// Until when the authority of the pair is valid, where that is known: one that nicplug made, or the soonest to
    /// expire of those that the chain holds.
    #[must_use]
    pub fn authority_end(&self) -> Option<SystemTime> {
        let told = *self.0.authority.read().unwrap_or_else(PoisonError::into_inner);
        told.or_else(|| {
            let authorities = self.pair()?.key.cert.clone().into_iter().skip(1);
            authorities.filter_map(|authority| Some(Validity::of(&authority)?.not_after)).min()
        })
    }

    /// How often a pair was refused while an older one stayed.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.0.faults.load(Ordering::Relaxed)
    }

    fn add_fault(&self) {
        self.0.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// From when until when the certificate that is shown is valid; `None` when there is none yet.
    #[must_use]
    pub fn validity(&self) -> Option<Validity> {
        self.pair().map(|pair| pair.validity)
    }

    /// The server's own certificate; `None` when there is none yet.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.pair()?.key.cert.first().cloned()
    }

    fn pair(&self) -> Option<Arc<Pair>> {
        self.0.pair.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TryFrom<&GeneratedCertificates> for Pair {
    type Error = TlsError;

    /// The server's pair of what was made in memory.
    fn try_from(made: &GeneratedCertificates) -> Result<Self, TlsError> {
        Self::from_pem(made.server.as_bytes(), made.server_key.as_bytes())
    }
}

impl From<Pair> for CertResolver {
    fn from(pair: Pair) -> Self {
        let shown = Self::default();
        shown.show(pair);
        shown
    }
}

impl ResolvesServerCert for CertResolver {
    /// Asked once for each handshake, and for nothing else: the lock is far from the way of a request.
    fn resolve(&self, _: ClientHello) -> Option<Arc<CertifiedKey>> {
        self.pair().map(|pair| Arc::clone(&pair.key))
    }
}

/// Authorities that sign the certificates of clients.
#[derive(Debug)]
pub struct ClientAuthorities(RootCertStore);

impl ClientAuthorities {
    /// Reads PEM certificates.
    ///
    /// # Errors
    /// The file cannot be read, or has no usable certificate in it.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        Self::new(&read(path)?, &Origin::File(path.into()))
    }

    /// The same from memory.
    ///
    /// # Errors
    /// There is no usable certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        Self::new(pem, &Origin::Memory("client authority"))
    }

    fn new(pem: &[u8], origin: &Origin) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem, origin)? {
            roots.add(certificate).map_err(|error| TlsError::BadCertificate(origin.clone(), error))?;
        }
        Ok(Self(roots))
    }
}

/// TLS 1.2 and 1.3, HTTP/1.1 alone.
pub(super) fn server_config(shown: CertResolver, clients: Option<ClientAuthorities>) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match clients {
        Some(ClientAuthorities(roots)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // The API server resumes no sessions (client-go keeps no session cache): tickets would be made for nobody.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

pub(super) fn provider() -> CryptoProvider {
    ring::default_provider()
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

/// Where PEM text came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// Memory; what it should be.
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
    /// PEM text, but no X.509 certificate that can be used.
    #[error("{0} holds a certificate that cannot be used: make a new one, for example with `nicplug certs`")]
    BadCertificate(Origin, #[source] rustls::Error),
    /// PEM text, but of a kind of key that cannot be used.
    #[error("{0} holds a key that cannot be used: give an ECDSA (P-256, P-384), Ed25519 or RSA key")]
    BadKey(Origin, #[source] rustls::Error),
    /// Not valid yet.
    #[error("{0} is not valid yet ({1}): wait, or set the clock of this machine or of whoever made it")]
    Early(Origin, Validity),
    /// Not valid any more.
    #[error("{0} has expired ({1}): renew it")]
    Expired(Origin, Validity),
    /// Not for a host that clients call.
    #[error("{certificate} is not for the host {host:?} (--cert-dns-name): make one that names it")]
    Host {
        /// Where the certificate came from.
        certificate: Origin,
        /// What clients call the server.
        host: String,
    },
    /// Both are fine, but not a pair.
    #[error(
        "the key in {key} does not belong to the certificate in {certificate}: give the two that were made together"
    )]
    Mismatch {
        /// Where the certificate came from.
        certificate: Origin,
        /// Where the key came from.
        key: Origin,
    },
    /// Something else than PEM certificates.
    #[error("{0} holds no certificate: it has to be PEM text with \"BEGIN CERTIFICATE\"")]
    NoCertificate(Origin),
    /// Something else than a PEM key.
    #[error("{0} holds no private key: it has to be PEM text with \"BEGIN PRIVATE KEY\", not encrypted")]
    NoKey(Origin),
    /// A file that cannot be read.
    #[error("cannot read {}: give a file that exists and that this user may read (`nicplug certs` makes a set)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// rustls refuses the configuration as a whole.
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
    fn a_pair_that_was_made_together_is_taken() {
        let made = bundle();
        assert!(Pair::try_from(&made).is_ok());
        assert!(ClientAuthorities::from_pem(made.ca.as_bytes()).is_ok());
    }

    #[test]
    fn a_key_of_another_certificate_is_told() {
        let (one, other) = (bundle(), bundle());
        let error = Pair::from_pem(one.server.as_bytes(), other.server_key.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    }

    #[test]
    fn a_certificate_is_held_against_the_names_that_clients_call() {
        let hosts: Vec<Host> =
            ["nicplug.nicplug.svc", "*.example.org", "10.0.0.7"].map(|host| host.parse().unwrap()).into();
        let made = certificates::generate(&hosts, SystemTime::now()).unwrap();
        let pair = Pair::try_from(&made).unwrap();
        let verdict = |host: &str| pair.check_hosts(&[hosts[0].clone(), host.parse().unwrap()]);
        for host in ["nicplug.nicplug.svc", "a.example.org", "10.0.0.7"] {
            assert!(verdict(host).is_ok(), "{host}");
        }
        for host in ["nicplug.nicplug.svc.cluster.local", "example.org", "10.0.0.8", "*.example.com"] {
            let error = verdict(host).unwrap_err().to_string();
            assert!(error.contains(host), "{error}");
        }
    }

    #[test]
    fn a_certificate_is_held_against_the_clock() {
        let made = bundle();
        let pair = Pair::try_from(&made).unwrap();
        let Validity { not_before, not_after } = pair.validity();
        let second = Duration::from_secs(1);
        assert!(pair.check_dates(not_before).is_ok() && pair.check_dates(not_after).is_ok());
        let early = pair.check_dates(not_before - second).unwrap_err();
        assert!(matches!(early, TlsError::Early(..)) && early.to_string().contains("not valid yet"), "{early}");
        let late = pair.check_dates(not_after + second).unwrap_err();
        assert!(matches!(late, TlsError::Expired(..)) && late.to_string().contains("until 20"), "{late}");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = Pair::from_files(Path::new("/missing/tls.crt"), Path::new("/missing/tls.key")).unwrap_err();
        assert!(error.to_string().contains("/missing/tls.crt"), "{error}");
    }

    #[test]
    fn files_given_in_the_wrong_order_are_told() {
        let made = bundle();
        let error = Pair::from_pem(made.server_key.as_bytes(), made.server.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::NoCertificate(_)), "{error}");
        let error = Pair::from_pem(made.server.as_bytes(), made.server.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::NoKey(_)), "{error}");
        assert!(matches!(ClientAuthorities::from_pem(b"").unwrap_err(), TlsError::NoCertificate(_)));
    }

    #[test]
    fn a_certificate_of_garbage_is_told() {
        let made = bundle();
        let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = Pair::from_pem(garbage, made.server_key.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::BadCertificate(..)), "{error}");
    }
}
