//! The floor of the speed comparison: the cost of a webhook that does nothing.
//!
//! It uses axum's router over hyper's HTTP/1.1 connection over TLS, as `nicplug serve` does. It reads the whole body
//! and always sends the same response. It has no limits, no timeouts and no graceful shutdown: use it for benchmarks
//! only.

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
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};
use tokio_rustls::TlsAcceptor;

/// The allocator of nicplug in the same build.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A response that allows the request, as long as nicplug's response.
const RESPONSE: &str = concat!(
    r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","#,
    r#""response":{"uid":"4ab850ca-bb05-4514-9f30-5d166d14a1ec","allowed":true}}"#
);

/// The body limit, large enough for every review of the benchmark.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// A service that reads a body and sends a fixed response.
#[derive(Parser)]
struct Args {
    /// Certificate chain, in PEM.
    #[arg(long)]
    tls_cert: PathBuf,
    /// Private key, in PEM.
    #[arg(long)]
    tls_key: PathBuf,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let acceptor = TlsAcceptor::from(Arc::new(tls(&args)?));
    let routes = Router::new().route("/validate", post(respond)).layer(DefaultBodyLimit::max(BODY_LIMIT));
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    // An instrumented build writes its counts only when it returns from `main`.
    let mut end = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::spawn(serve(accepted?.0, acceptor.clone(), routes.clone()));
            }
            _ = end.recv() => return Ok(()),
        }
    }
}

async fn respond(_body: Bytes) -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], RESPONSE)
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
    // As in nicplug: the API server does not resume sessions.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
