//! A webhook client like an API server: it trusts one CA and posts JSON over TLS.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certificates::crypto::provider;

/// A client of the demo's server.
pub(super) struct Client {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Client {
    /// Creates a client that trusts only this CA (PEM).
    pub(super) fn new(address: SocketAddr, ca: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { address, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Posts a review on a new connection and returns the response.
    pub(super) async fn post(&self, path: &str, review: &Value) -> anyhow::Result<Value> {
        let tcp = TcpStream::connect(self.address).await.context("cannot connect to the server")?;
        let tls = self
            .connector
            .connect(ServerName::try_from("localhost")?, tcp)
            .await
            .context("the TLS handshake failed")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::post(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(review.to_string())))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path} answered {status}: {}", String::from_utf8_lossy(&body));
        drop(sender);
        connection.await??;
        Ok(serde_json::from_slice(&body)?)
    }
}
