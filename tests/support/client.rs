//! TLS clients that behave as the API server does, and a plain HTTP client for the health listener.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    cases::{data, entries},
    clock::Clock,
};

/// The name in the certificate of a server that is called by its address.
pub(crate) const LOCALHOST: &str = "127.0.0.1";

/// Connects to a server and completes a TLS handshake, as a client with this clock that trusts these CAs (PEM) and
/// expects this name in the certificate.
pub(crate) async fn handshake(
    address: SocketAddr,
    name: &str,
    cas: &str,
    clock: &Clock,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(cas.as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let provider = Arc::new(nicplug::certificates::crypto::provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

/// Sends a plain GET, as the kubelet does, and returns the status and the body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A review of a real API server, and its uid.
static REVIEW: LazyLock<(Bytes, Value)> = LazyLock::new(|| {
    let is_json = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let body = fs::read(entries(&data("reviews")).into_iter().find(is_json).unwrap()).unwrap();
    let review: Value = serde_json::from_slice(&body).unwrap();
    (body.into(), review["request"]["uid"].clone())
});

/// A client that keeps its connection, closes it when the server asks for that, and retries nothing.
pub(crate) struct Client {
    address: SocketAddr,
    name: String,
    clock: Clock,
    connection: Option<http1::SendRequest<Full<Bytes>>>,
    /// How many connections it has opened.
    pub(crate) opened: usize,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, name: &str, clock: &Clock) -> Self {
        Self { address, name: name.to_owned(), clock: clock.clone(), connection: None, opened: 0 }
    }

    /// Returns whether it has a connection that the server has not closed.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.is_closed())
    }

    /// Closes the connection: the next request opens another one.
    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends a review and checks that the response answers it. A new connection trusts these CAs.
    pub(crate) async fn send_review(&mut self, cas: &str) -> Result<(), String> {
        let body = self.send(cas, REVIEW.0.clone()).await?;
        if body["response"]["uid"] == REVIEW.1 { Ok(()) } else { Err(body.to_string()) }
    }

    /// Sends the body of a review and reads the response. A new connection trusts these CAs.
    pub(crate) async fn send(&mut self, cas: &str, review: Bytes) -> Result<Value, String> {
        let context = |step: &'static str| move |error: &dyn std::fmt::Display| format!("{step}: {error}");
        if self.connection.is_none() {
            self.opened += 1;
            let stream = handshake(self.address, &self.name, cas, &self.clock).await;
            let stream = stream.map_err(|error| context("handshake")(&error))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        let sender = self.connection.as_mut().unwrap();
        let request = Request::post("/validate?timeout=10s").header("host", "nicplug");
        let request = request.header("content-type", "application/json").body(Full::new(review)).unwrap();
        sender.ready().await.map_err(|error| context("connection")(&error))?;
        let response = sender.send_request(request).await.map_err(|error| context("request")(&error))?;
        let is_last = response.headers().get("connection").is_some_and(|value| value == "close");
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| context("response")(&error))?.to_bytes();
        let body: Value = serde_json::from_slice(&body).map_err(|error| context("response")(&error))?;
        if status != 200 {
            return Err(format!("{status}: {body}"));
        }
        if is_last {
            self.disconnect();
        }
        Ok(body)
    }
}

/// How many idle connections client-go keeps for one host (`idleConnsPerHost` in k8s.io/client-go/transport).
pub(crate) const IDLE: usize = 25;

/// The connections of an API server to one webhook, as client-go keeps them: it uses the connection that was used last,
/// drops those that the server has closed, and opens another one if none is idle.
pub(crate) struct ClientPool {
    address: SocketAddr,
    name: String,
    cas: String,
    idle: Mutex<Vec<Client>>,
}

impl ClientPool {
    pub(crate) fn new(address: SocketAddr, name: &str, cas: String) -> Self {
        Self { address, name: name.to_owned(), cas, idle: Mutex::default() }
    }

    /// Sends a review once, on any connection, and reads the response.
    pub(crate) async fn send_review(&self) -> Result<(), String> {
        let mut client = self.take();
        client.send_review(&self.cas).await?;
        self.keep(client);
        Ok(())
    }

    /// Sends the body of a review once, on any connection, and reads the response.
    pub(crate) async fn send(&self, review: Bytes) -> Result<Value, String> {
        let mut client = self.take();
        let answer = client.send(&self.cas, review).await?;
        self.keep(client);
        Ok(answer)
    }

    fn keep(&self, client: Client) {
        let mut idle = self.idle.lock().unwrap();
        if client.is_connected() && idle.len() < IDLE {
            idle.push(client);
        }
    }

    fn take(&self) -> Client {
        let mut idle = self.idle.lock().unwrap();
        idle.retain(Client::is_connected);
        idle.pop().unwrap_or_else(|| Client::new(self.address, &self.name, &Clock::default()))
    }
}
