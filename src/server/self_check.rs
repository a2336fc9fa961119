//! The server asks itself, over its own listener and TLS, before it says that it is ready.

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

use super::tls::{CertResolver, provider};

/// More than it can take on a machine that is of any use.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks a server that shows a certificate which is known.
#[derive(Clone)]
pub(super) struct SelfCheck {
    shown: CertResolver,
    /// Whether the server wants a certificate of its clients, which there is none of here.
    has_client_authorities: bool,
}

/// How far the server was tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SelfCheckResult {
    /// It has answered a request.
    Answered,
    /// It has shown its certificate and signed with its key.
    Handshake,
}

impl SelfCheck {
    pub(super) fn new(shown: CertResolver, has_client_authorities: bool) -> Self {
        Self { shown, has_client_authorities }
    }

    /// Asks the server that listens on an address.
    ///
    /// # Errors
    /// It does not answer, or shows another certificate.
    pub(super) async fn ask(&self, address: SocketAddr) -> io::Result<SelfCheckResult> {
        match timeout(PATIENCE, self.try_at(reachable(address))).await {
            Ok(proof) => proof,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}"))),
        }
    }

    async fn try_at(&self, address: SocketAddr) -> io::Result<SelfCheckResult> {
        let connector = TlsConnector::from(Arc::new(self.config()?));
        let stream = TcpStream::connect(address).await?;
        let mut stream = connector.connect(ServerName::from(address.ip()), stream).await?;
        if self.has_client_authorities {
            // In TLS 1.3 the client is done before the server has looked for its certificate. What comes now is the
            // alert that there was none.
            return Ok(SelfCheckResult::Handshake);
        }
        converse(&mut stream).await?;
        Ok(SelfCheckResult::Answered)
    }

    fn config(&self) -> io::Result<ClientConfig> {
        let certificate = self.shown.certificate().ok_or_else(|| io::Error::other("there is no certificate yet"))?;
        let provider = Arc::new(provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(io::Error::other)?.dangerous();
        Ok(builder.with_custom_certificate_verifier(Arc::new(Known { certificate, provider })).with_no_client_auth())
    }
}

/// A listener on all addresses is reached on the one of the machine itself.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Sends a request that is no review, which leaves no trace, and reads its answer.
async fn converse(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    stream.write_all(b"HEAD /validate HTTP/1.1\r\nhost: nicplug\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(1 << 10).read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 405 ") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "another answer than expected"))
}

/// Trusts one certificate, for any name and at any time: whether others trust it is theirs to judge.
#[derive(Debug)]
struct Known {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *shown == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("it shows another certificate".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, shown, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, shown, signature, &self.provider.signature_verification_algorithms)
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
        for (listens, reached) in [
            ("0.0.0.0:8443", "127.0.0.1:8443"),
            ("[::]:8443", "[::1]:8443"),
            ("192.0.2.1:8443", "192.0.2.1:8443"),
            ("127.0.0.1:8443", "127.0.0.1:8443"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
