//! The server sends itself a request, over its own listener and TLS, before it reports that it is ready.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::tls::CertResolver;
use crate::certificates::crypto::provider;

/// The limit of a self-check: more than it needs even on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks a server with a known certificate.
#[derive(Clone)]
pub(super) struct SelfCheck {
    certificates: CertResolver,
    /// Whether the server requires a client certificate, which the self-check does not have.
    needs_client_certificate: bool,
}

/// The part of the server that a successful self-check used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SelfCheckResult {
    /// The server answered a request.
    Answered,
    /// The server completed a TLS handshake with its certificate and key.
    Handshake,
}

impl SelfCheck {
    pub(super) fn new(certificates: CertResolver, needs_client_certificate: bool) -> Self {
        Self { certificates, needs_client_certificate }
    }

    /// Checks the server that listens on an address.
    ///
    /// # Errors
    /// The server does not answer, or has another certificate.
    pub(super) async fn run(&self, address: SocketAddr) -> io::Result<SelfCheckResult> {
        match timeout(TIMEOUT, self.connect(loopback(address))).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {TIMEOUT:?}"))),
        }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<SelfCheckResult> {
        let connector = TlsConnector::from(Arc::new(self.config()?));
        let stream = TcpStream::connect(address).await?;
        let mut stream = connector.connect(ServerName::from(address.ip()), stream).await?;
        if self.needs_client_certificate {
            // In TLS 1.3 the client completes the handshake before the server checks its certificate. The next message
            // is the alert that there is none.
            return Ok(SelfCheckResult::Handshake);
        }
        send_request(&mut stream).await?;
        Ok(SelfCheckResult::Answered)
    }

    fn config(&self) -> io::Result<ClientConfig> {
        let certificate =
            self.certificates.certificate().ok_or_else(|| io::Error::other("there is no certificate yet"))?;
        let provider = Arc::new(provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(io::Error::other)?.dangerous();
        Ok(builder
            .with_custom_certificate_verifier(Arc::new(PinnedCertificate { certificate, provider }))
            .with_no_client_auth())
    }
}

/// Returns the address to connect to: loopback for a listener on all addresses.
fn loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Sends a request that is not a review, so that it is not logged as a decision, and reads the response.
async fn send_request(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    stream.write_all(b"HEAD /validate HTTP/1.1\r\nhost: nicplug\r\nconnection: close\r\n\r\n").await?;
    let mut response = Vec::new();
    stream.take(1 << 10).read_to_end(&mut response).await?;
    if response.starts_with(b"HTTP/1.1 405 ") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the response is not the expected one"))
}

/// Trusts one certificate, for any name and at any time: clients check names and dates themselves.
#[derive(Debug)]
struct PinnedCertificate {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *certificate == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("the server has another certificate".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        for (listener, expected) in [
            ("0.0.0.0:8443", "127.0.0.1:8443"),
            ("[::]:8443", "[::1]:8443"),
            ("192.0.2.1:8443", "192.0.2.1:8443"),
            ("127.0.0.1:8443", "127.0.0.1:8443"),
        ] {
            assert_eq!(loopback(listener.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
