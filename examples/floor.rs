//! The floor of the speed comparison: what a webhook would cost that did nothing.
//!
//! Axum's router over hyper's HTTP/1.1 connection over TLS, as in `nicplug serve`; it reads a whole body and answers the
//! same bytes each time. It has no limits, no timeouts and no orderly end, so it serves for measuring and nothing else.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::header::{CONTENT_TYPE, HeaderName},
    routing::post,
};
use clap::Parser;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::NoServerSessionStorage,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An allowing answer, as long as nicplug's.
const ANSWER: &str = concat!(
    r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","#,
    r#""response":{"uid":"4ab850ca-bb05-4514-9f30-5d166d14a1ec","allowed":true}}"#
);

/// Large enough for every review that the benchmark sends.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// A service that reads a body and answers fixed bytes.
#[derive(Parser)]
struct Args {
    /// The certificate chain, in PEM.
    #[arg(long)]
    tls_cert: PathBuf,
    /// The private key, in PEM.
    #[arg(long)]
    tls_key: PathBuf,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let acceptor = TlsAcceptor::from(Arc::new(tls(&args)?));
    let routes = Router::new().route("/validate", post(answer)).layer(DefaultBodyLimit::max(BODY_LIMIT));
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, acceptor.clone(), routes.clone()));
    }
}

async fn answer(_body: Bytes) -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], ANSWER)
}

/// Serves one connection to its end.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, routes: Router) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await?;
    Ok(())
}

fn tls(args: &Args) -> anyhow::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&args.tls_cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificate {}", args.tls_cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(&args.tls_key)
        .with_context(|| format!("cannot read the key {}", args.tls_key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // As nicplug does, and for its reason: the API server resumes no sessions.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
