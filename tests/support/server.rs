//! The server in the test's own process, and a client that writes raw bytes to it.

use std::{
    fs,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use nicplug::{
    admission::Reviewer,
    certificates::{self, GeneratedCertificates, Host},
    facts::NoFacts,
    server::{Config, Counts, Drain, Limits, Server, readiness::Readiness, tls::CertKeyPair},
    settings::Settings,
};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    cases::{data, entries},
    client::get,
    wait::eventually,
};

/// A limit that no test reaches.
pub(crate) const HOUR: Duration = Duration::from_hours(1);
/// A limit that a test waits for.
pub(crate) const SHORT: Duration = Duration::from_millis(100);
/// The header of a review's media type.
pub(crate) const JSON: &str = "content-type: application/json\r\n";

// === Reviews ===

/// Every recorded review.
pub(crate) static REVIEWS: LazyLock<Vec<RecordedReview>> = LazyLock::new(|| {
    let files = entries(&data("reviews")).into_iter();
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let reviews: Vec<_> = files.map(|path| RecordedReview::read(&path)).collect();
    assert_eq!(reviews.len(), 8);
    reviews
});

/// A review that a real API server has sent.
pub(crate) struct RecordedReview {
    pub(crate) body: Vec<u8>,
    pub(crate) uid: String,
}

impl RecordedReview {
    fn read(path: &Path) -> Self {
        let body = fs::read(path).unwrap();
        let review: Value = serde_json::from_slice(&body).unwrap();
        Self { body, uid: review["request"]["uid"].as_str().unwrap().to_owned() }
    }
}

/// Returns the bytes of a POST with these headers, each with its line end, and a body.
pub(crate) fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: nicplug\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

// === The client ===

/// The CA and the serving certificate of the test servers.
pub(crate) static BUNDLE: LazyLock<GeneratedCertificates> =
    LazyLock::new(|| certificates::generate(&Host::local().unwrap(), SystemTime::now()).unwrap());

/// A client certificate and its key.
pub(crate) type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Returns a connector that offers one version of TLS and one ALPN protocol.
pub(crate) fn connector(
    version: &'static SupportedProtocolVersion,
    alpn: &[u8],
    identity: Option<ClientIdentity>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(BUNDLE.ca.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(nicplug::certificates::crypto::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// The connector of an ordinary client.
pub(crate) static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| connector(&TLS13, b"http/1.1", None));

/// Returns the TLS alert that the server has sent.
pub(crate) fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// A connection whose client writes its own bytes.
pub(crate) struct RawConnection {
    pub(crate) stream: TlsStream<TcpStream>,
    unread: Vec<u8>,
}

impl RawConnection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &CONNECTOR).await.unwrap()
    }

    pub(crate) async fn open_with(address: SocketAddr, connector: &TlsConnector) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?, connector).await
    }

    /// Completes the handshake over an open connection.
    pub(crate) async fn over(stream: TcpStream, connector: &TlsConnector) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(IpAddr::from(Ipv4Addr::LOCALHOST).into());
        Ok(Self { stream: connector.connect(name, stream).await?, unread: Vec::new() })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends a request and reads the response.
    pub(crate) async fn request(&mut self, request: &[u8]) -> RawResponse {
        self.send(request).await;
        self.response().await
    }

    pub(crate) async fn response(&mut self) -> RawResponse {
        self.try_response().await.unwrap()
    }

    pub(crate) async fn try_response(&mut self) -> io::Result<RawResponse> {
        let head = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap().to_ascii_lowercase();
            }
            self.read_more().await?;
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = RawResponse { status, head, body: Vec::new() };
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            self.read_more().await?;
        }
        response.body = self.unread.drain(..length).collect();
        Ok(response)
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits until the server closes the connection without sending anything more.
    pub(crate) async fn closed(mut self) {
        // A connection that is cut in the middle of a request may end without TLS's close_notify.
        let end = self.stream.read_buf(&mut self.unread).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{:?}", String::from_utf8_lossy(&self.unread));
        assert!(self.unread.is_empty());
    }
}

/// A response as it was sent; the head is in lower case.
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawResponse {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Returns whether the server asks the client to close the connection.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// Checks that the body is a short JSON object with the key `error`.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.head);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert!(!body["error"].as_str().unwrap().is_empty());
        assert!(self.body.len() < 400);
    }

    /// Checks that this answers a review.
    #[track_caller]
    pub(crate) fn assert_answers(&self, review: &RecordedReview) {
        assert_eq!(self.status, 200, "{}", self.head);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["response"]["uid"].as_str(), Some(review.uid.as_str()));
        assert_eq!(body["kind"], "AdmissionReview");
    }
}

/// Sends a review on a new connection until it is answered, and returns the connection. At the limit of connections a
/// client can lose its connection before it sends the request, if it is slow.
pub(crate) async fn answered(address: SocketAddr, review: &RecordedReview) -> RawConnection {
    let request = post("/validate", JSON, &review.body);
    let (connection, response) = eventually("a review on a new connection is answered", async || {
        let mut connection = RawConnection::open_with(address, &CONNECTOR).await.ok()?;
        connection.try_send(&request).await.ok()?;
        let response = connection.try_response().await.ok()?;
        Some((connection, response))
    })
    .await;
    response.assert_answers(review);
    connection
}

/// Sends the head of a review and waits until the server begins to read the body, which the caller can send later.
pub(crate) async fn send_head_only(address: SocketAddr, path: &str, review: &RecordedReview) -> RawConnection {
    let mut connection = RawConnection::open(address).await;
    let request = post(path, &format!("{JSON}expect: 100-continue\r\n"), &review.body);
    let response = connection.request(&request[..request.len() - review.body.len()]).await;
    assert_eq!(response.status, 100);
    connection
}

// === The server ===

/// Returns a reviewer that knows nothing of a cluster.
pub(crate) fn reviewer_without_facts() -> Reviewer {
    Reviewer::new(Arc::new(NoFacts), Settings::default())
}

/// A server in this process, which knows no facts.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) readiness: Readiness,
    pub(crate) counts: Counts,
    /// The first signal to end.
    pub(crate) shutdown: Option<oneshot::Sender<()>>,
    /// The second signal, which ends the grace period.
    skip_grace: Option<oneshot::Sender<()>>,
    pub(crate) running: JoinHandle<()>,
}

impl TestServer {
    /// Starts a server none of whose limits expires during a test.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_reviewing(reviewer_without_facts(), change).await
    }

    /// Starts a server with its own reviewer.
    pub(crate) async fn start_reviewing(reviewer: Reviewer, change: impl FnOnce(&mut Config)) -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = Config {
            health_listen: Some(any_port),
            limits: Limits {
                request: HOUR,
                handshake: HOUR,
                header: HOUR,
                idle: HOUR,
                body_window: HOUR,
                arrival: HOUR,
                ..Limits::default()
            },
            drain: Drain { grace: HOUR, deadline: HOUR },
            ..Config::new(CertKeyPair::try_from(&*BUNDLE).unwrap().into())
        };
        change(&mut config);
        let server = Server::bind(config, reviewer).await.unwrap();
        let (shutdown, shutdown_received) = oneshot::channel();
        let (skip_grace, skip_received) = oneshot::channel();
        Self {
            address: server.local_addr(),
            health: server.health_addr().unwrap(),
            readiness: server.readiness().clone(),
            counts: server.counts().clone(),
            shutdown: Some(shutdown),
            skip_grace: Some(skip_grace),
            running: tokio::spawn(server.run_until(received(shutdown_received), received(skip_received))),
        }
    }

    /// Returns the metrics page.
    pub(crate) async fn metrics(&self) -> String {
        let (status, page) = get(self.health, "/metrics").await;
        assert_eq!(status, 200);
        page
    }

    /// Tells the server to end, as SIGTERM does; returns when `/readyz` answers 503.
    pub(crate) async fn begin_shutdown(&mut self) {
        // Before the self-check `/readyz` fails, too, and does not tell that the shutdown has begun.
        while get(self.health, "/readyz").await.0 != 200 {}
        self.shutdown.take().unwrap().send(()).unwrap();
        while get(self.health, "/readyz").await.0 != 503 {}
    }

    /// Ends the grace period, as a second SIGTERM does.
    pub(crate) fn skip_grace(&mut self) {
        self.skip_grace.take().unwrap().send(()).unwrap();
    }
}

/// Waits for a signal; a sender that is dropped sends none.
async fn received(signal: oneshot::Receiver<()>) {
    if signal.await.is_err() {
        pending::<()>().await;
    }
}
