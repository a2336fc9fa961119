//! Certificates: read, checked against each other, and shown to clients.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

/// A certificate chain and the key that belongs to it.
#[derive(Debug)]
pub struct Pair(Arc<CertifiedKey>);

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

    /// The server's own certificate.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.0.cert.first().cloned()
    }

    fn new(chain: &[u8], key: &[u8], chain_origin: &Origin, key_origin: &Origin) -> Result<Self, TlsError> {
        let chain = certificates(chain, chain_origin)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey(key_origin.clone()))?;
        let pair = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { certificate: chain_origin.clone(), key: key_origin.clone() }
            }
            rustls::Error::InvalidCertificate(_) => TlsError::BadCertificate(chain_origin.clone(), error),
            _ => TlsError::BadKey(key_origin.clone(), error),
        })?;
        Ok(Self(Arc::new(pair)))
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
pub(super) fn server_config(pair: Pair, clients: Option<ClientAuthorities>) -> Result<ServerConfig, TlsError> {
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
    let mut config = builder.with_cert_resolver(Arc::new(Shown(pair.0)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // The API server resumes no sessions (client-go keeps no session cache): tickets would be made for nobody.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// The pair that handshakes get; it is asked anew for each.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
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
    use std::time::SystemTime;

    use super::*;
    use crate::certificates::{self, Bundle, Host};

    fn bundle() -> Bundle {
        certificates::make(&Host::local().unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn a_pair_that_was_made_together_is_taken() {
        let made = bundle();
        assert!(Pair::from_pem(made.server.as_bytes(), made.server_key.as_bytes()).is_ok());
        assert!(ClientAuthorities::from_pem(made.authority.as_bytes()).is_ok());
    }

    #[test]
    fn a_key_of_another_certificate_is_told() {
        let (one, other) = (bundle(), bundle());
        let error = Pair::from_pem(one.server.as_bytes(), other.server_key.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
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
