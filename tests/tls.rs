//! TLS of the server: versions, ALPN, client certificates, and the time before the first certificate.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{io, net::SocketAddr};

use nicplug::server::tls::{CertKeyPair, CertResolver, ClientCas};
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    AlertDescription,
    pki_types::{PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use support::{
    server::{BUNDLE, CONNECTOR, ClientIdentity, JSON, REVIEWS, RawConnection, TestServer, alert, connector, post},
    wait::guarded,
};
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn both_versions_of_tls_negotiate_http_1_1_and_nothing_else() {
    guarded(async {
        let server = TestServer::start().await;
        for version in [&TLS12, &TLS13] {
            let mut connection =
                RawConnection::open_with(server.address, &connector(version, b"http/1.1", None)).await.unwrap();
            let session = connection.stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
            connection.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);

            let error = RawConnection::open_with(server.address, &connector(version, b"h2", None)).await.err().unwrap();
            assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol));
        }
    })
    .await;
}

/// Returns a new CA (PEM) and a client certificate of it.
fn client_certificate() -> (String, ClientIdentity) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(["kube-apiserver".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    (ca.pem(), (vec![certificate.der().clone()], key))
}

#[tokio::test]
async fn a_client_without_a_required_certificate_gets_an_alert() {
    guarded(async {
        let (ca, trusted) = client_certificate();
        let (_, untrusted) = client_certificate();
        let authorities = ClientCas::from_pem(ca.as_bytes()).unwrap();
        let server = TestServer::start_with(|config| config.client_cas = Some(authorities)).await;
        let request = post("/validate", JSON, &REVIEWS[0].body);

        for version in [&TLS12, &TLS13] {
            let error = rejection(server.address, &connector(version, b"http/1.1", None), &request).await;
            assert_eq!(alert(&error), Some(AlertDescription::CertificateRequired), "{error}");
        }
        let error = rejection(server.address, &connector(&TLS13, b"http/1.1", Some(untrusted)), &request).await;
        assert!(alert(&error).is_some(), "{error}");

        let with_certificate = connector(&TLS13, b"http/1.1", Some(trusted));
        let mut connection = RawConnection::open_with(server.address, &with_certificate).await.unwrap();
        connection.request(&request).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

/// Returns the error of a client that the server rejects; in TLS 1.3 it arrives after the handshake.
async fn rejection(address: SocketAddr, connector: &TlsConnector, request: &[u8]) -> io::Error {
    let mut connection = match RawConnection::open_with(address, connector).await {
        Ok(connection) => connection,
        Err(error) => return error,
    };
    // The server may have closed the connection before; the alert can still be read.
    let _ = connection.try_send(request).await;
    connection.try_response().await.err().expect("the server rejects the client")
}

#[tokio::test]
async fn handshakes_before_the_first_certificate_get_an_alert() {
    guarded(async {
        let shown = CertResolver::default();
        let server = TestServer::start_with(|config| config.certificate = shown.clone()).await;
        let error = RawConnection::open_with(server.address, &CONNECTOR).await.err().unwrap();
        assert_eq!(alert(&error), Some(AlertDescription::AccessDenied));
        shown.set(CertKeyPair::try_from(&*BUNDLE).unwrap());
        let mut connection = RawConnection::open(server.address).await;
        connection.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}
