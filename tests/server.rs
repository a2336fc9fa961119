//! The server as the API server sees it: real TLS, real bytes, and clients that behave badly.
//!
//! Nothing here waits for a time to pass: tests wait for events, and a guard ends the ones that would hang.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use nicplug::{
    admission::{Decision, Reviewer},
    certificates::{self, Bundle, Host},
    facts::NoFacts,
    server::{
        Config, Counts, Drain, Limits, Server,
        health::Readiness,
        tls::{CertResolver, ClientAuthorities, Pair},
    },
    settings::Settings,
};
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Barrier, mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(100);
const JSON: &str = "content-type: application/json\r\n";

// === What is sent ===

/// Every real review, by the name of its file.
static REVIEWS: LazyLock<Vec<Review>> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reviews");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let reviews: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "json")).map(Review::read).collect();
    assert_eq!(reviews.len(), 8);
    reviews
});

struct Review {
    body: Vec<u8>,
    uid: String,
}

impl Review {
    fn read(path: impl AsRef<Path>) -> Self {
        let body = fs::read(path).unwrap();
        let review: Value = serde_json::from_slice(&body).unwrap();
        Self { body, uid: review["request"]["uid"].as_str().unwrap().to_owned() }
    }
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: nicplug\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

// === Who sends it ===

static BUNDLE: LazyLock<Bundle> =
    LazyLock::new(|| certificates::generate(&Host::local().unwrap(), SystemTime::now()).unwrap());

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn connector(version: &'static SupportedProtocolVersion, alpn: &[u8], identity: Option<Identity>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(BUNDLE.ca.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
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

static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| connector(&TLS13, b"http/1.1", None));

/// A client that writes its own bytes.
struct Wire {
    stream: TlsStream<TcpStream>,
    unread: Vec<u8>,
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Wire {
    async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &CONNECTOR).await.unwrap()
    }

    async fn open_with(address: SocketAddr, connector: &TlsConnector) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(IpAddr::from(Ipv4Addr::LOCALHOST).into());
        Ok(Self { stream: connector.connect(name, stream).await?, unread: Vec::new() })
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    async fn ask(&mut self, request: &[u8]) -> Reply {
        self.send(request).await;
        self.reply().await
    }

    async fn reply(&mut self) -> Reply {
        self.try_reply().await.unwrap()
    }

    async fn try_reply(&mut self) -> io::Result<Reply> {
        let head = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap().to_ascii_lowercase();
            }
            self.read_more().await?;
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            self.read_more().await?;
        }
        reply.body = self.unread.drain(..length).collect();
        Ok(reply)
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits for the server to close the connection, with nothing more to say.
    async fn closed(mut self) {
        // A connection that is cut off in the middle of a request may end without the goodbye of TLS.
        let end = self.stream.read_buf(&mut self.unread).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{:?}", String::from_utf8_lossy(&self.unread));
        assert!(self.unread.is_empty());
    }
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// The reply is a short JSON text that says what is wrong.
    #[track_caller]
    fn assert_error(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.head);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert!(!body["error"].as_str().unwrap().is_empty());
        assert!(self.body.len() < 400);
    }

    #[track_caller]
    fn assert_answers(&self, review: &Review) {
        assert_eq!(self.status, 200, "{}", self.head);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["response"]["uid"].as_str(), Some(review.uid.as_str()));
        assert_eq!(body["kind"], "AdmissionReview");
    }
}

// === Who answers ===

fn reviewer() -> Reviewer {
    Reviewer::new(Arc::new(NoFacts), Settings::default())
}

struct Replica {
    address: SocketAddr,
    health: SocketAddr,
    readiness: Readiness,
    counts: Counts,
    shutdown: Option<oneshot::Sender<()>>,
    hurry: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Replica {
    /// A server in which no time is up before the test is over.
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = Config {
            health_listen: Some(any_port),
            limits: Limits { request: LONG, handshake: LONG, header: LONG, idle: LONG, ..Limits::default() },
            drain: Drain { grace: LONG, deadline: LONG },
            ..Config::new(Pair::try_from(&*BUNDLE).unwrap().into())
        };
        change(&mut config);
        let server = Server::bind(config, reviewer()).await.unwrap();
        let (shutdown, stopping) = oneshot::channel();
        let (hurry, hurrying) = oneshot::channel();
        Self {
            address: server.local_addr(),
            health: server.health_addr().unwrap(),
            readiness: server.readiness().clone(),
            counts: server.counts().clone(),
            shutdown: Some(shutdown),
            hurry: Some(hurry),
            running: tokio::spawn(server.run_until(told(stopping), told(hurrying))),
        }
    }

    /// SIGTERM; returns when `/readyz` says so.
    async fn begin_shutdown(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
        while probe(self.health, "/readyz").await.0 != 503 {}
    }

    /// The grace period is over.
    fn hurry(&mut self) {
        self.hurry.take().unwrap().send(()).unwrap();
    }
}

async fn told(event: oneshot::Receiver<()>) {
    if event.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A plain request to the health listener: status and body.
async fn probe(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n").as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A guard against hanging; no test depends on how long it is.
async fn guarded<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(3), Box::pin(test)).await.expect("the awaited event never came")
}

// === Requests and answers ===

#[tokio::test]
async fn every_real_review_is_answered_with_its_uid_over_one_connection() {
    guarded(async {
        let server = Replica::start().await;
        let mut wire = Wire::open(server.address).await;
        for path in ["/validate", "/mutate?timeout=10s"] {
            for review in REVIEWS.iter() {
                let reply = wire.ask(&post(path, JSON, &review.body)).await;
                reply.assert_answers(review);
                assert!(!reply.closes());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_review_is_counted_by_its_outcome() {
    guarded(async {
        let server = Replica::start().await;
        let mut wire = Wire::open(server.address).await;
        for review in REVIEWS.iter() {
            wire.ask(&post("/validate", JSON, &review.body)).await;
        }
        wire.ask(&post("/validate", JSON, b"no review")).await;
        let count = |decision| server.counts.of(decision);
        // Without facts nothing is denied, and what was not checked is told; the deletion and the update of a status are not judged.
        assert_eq!(Decision::ALL.map(count), [1, 0, 1, 0, 2, 5]);
    })
    .await;
}

#[tokio::test]
async fn the_metrics_tell_what_was_answered_what_was_refused_and_who_called() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.body = 1 << 20).await;
        // It has asked itself by then.
        while probe(server.health, "/readyz").await.0 != 200 {}
        let refused = |reason: &str| format!("nicplug_requests_refused_total{{reason=\"{reason}\"}}");
        let text = metrics(&server).await;
        let before = |series: &str| count(&text, series);
        let (connections, failures) = (before("nicplug_connections_total"), before("nicplug_handshake_failures_total"));
        assert_eq!(before(&refused("method")), 1);
        let mut wire = Wire::open(server.address).await;
        for review in REVIEWS.iter() {
            wire.ask(&post("/validate", JSON, &review.body)).await.assert_answers(review);
            wire.ask(&post("/mutate", JSON, &review.body)).await.assert_answers(review);
        }
        wire.ask(&post("/validate", JSON, b"{}")).await.assert_error(400);
        wire.ask(&post("/elsewhere", JSON, b"")).await.assert_error(404);
        wire.ask(b"GET /validate HTTP/1.1\r\nhost: nicplug\r\n\r\n").await.assert_error(405);
        wire.ask(&post("/validate", "content-type: text/plain\r\n", b"")).await.assert_error(415);
        wire.ask(&post("/validate", JSON, &vec![b' '; 2 << 20])).await.assert_error(413);
        wire.closed().await;
        let mut stranger = TcpStream::connect(server.address).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        while let Ok(1..) = stranger.read(&mut [0; 64]).await {}
        let kept = Wire::open(server.address).await;

        let vm = |operation, verdict| {
            format!(
                "nicplug_requests_total{{endpoint=\"validate\",kind=\"VirtualMachine\",operation=\"{operation}\",verdict=\"{verdict}\"}}"
            )
        };
        let is_shown = [
            (vm("UPDATE", "warned"), 2),
            (vm("DELETE", "unhandled"), 1),
            (refused("path"), 1),
            (refused("method"), 2),
            (refused("media_type"), 1),
            (refused("body_too_large"), 1),
            (refused("overload"), 0),
            ("nicplug_request_duration_seconds_count{endpoint=\"validate\"}".to_owned(), 9),
            ("nicplug_request_duration_seconds_count{endpoint=\"mutate\"}".to_owned(), 8),
            ("nicplug_requests_in_flight".to_owned(), 0),
            ("nicplug_connections_total".to_owned(), connections + 3),
            ("nicplug_handshake_failures_total".to_owned(), failures + 1),
        ];
        let text = metrics(&server).await;
        for (series, expected) in is_shown {
            assert_eq!(count(&text, &series), expected, "{series}\n{text}");
        }
        assert!(value(&text, "nicplug_request_duration_seconds_sum{endpoint=\"validate\"}") > 0.0);
        assert!(value(&text, "process_start_time_seconds") > 1.7e9);
        assert!(count(&text, "nicplug_connections") >= 1);
        drop(kept);
    })
    .await;
}

async fn metrics(server: &Replica) -> String {
    let (status, text) = probe(server.health, "/metrics").await;
    assert_eq!(status, 200);
    text
}

#[track_caller]
fn count(metrics: &str, series: &str) -> u64 {
    text_of(metrics, series).parse().unwrap()
}

#[track_caller]
fn value(metrics: &str, series: &str) -> f64 {
    text_of(metrics, series).parse().unwrap()
}

#[track_caller]
fn text_of<'m>(metrics: &'m str, series: &str) -> &'m str {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{metrics}"))
}

#[tokio::test]
async fn every_real_review_is_answered_with_its_uid_over_a_connection_of_its_own() {
    guarded(async {
        let server = Replica::start().await;
        for review in REVIEWS.iter() {
            let mut wire = Wire::open(server.address).await;
            let headers = format!("{JSON}connection: close\r\n");
            wire.ask(&post("/validate", &headers, &review.body)).await.assert_answers(review);
            wire.closed().await;
        }
    })
    .await;
}

#[tokio::test]
async fn both_versions_of_tls_speak_http_1_1_and_nothing_else() {
    guarded(async {
        let server = Replica::start().await;
        for version in [&TLS12, &TLS13] {
            let mut wire = Wire::open_with(server.address, &connector(version, b"http/1.1", None)).await.unwrap();
            let session = wire.stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
            wire.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);

            let refused = Wire::open_with(server.address, &connector(version, b"h2", None)).await.err().unwrap();
            assert_eq!(alert(&refused), Some(AlertDescription::NoApplicationProtocol));
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_in_pieces_is_the_same_body() {
    guarded(async {
        let server = Replica::start().await;
        let mut wire = Wire::open(server.address).await;
        let review = &REVIEWS[0];

        let request = post("/validate", JSON, &review.body);
        for piece in request.chunks(1000) {
            wire.send(piece).await;
        }
        wire.reply().await.assert_answers(review);

        wire.send(format!("POST /validate HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n").as_bytes())
            .await;
        for piece in review.body.chunks(700) {
            wire.send(format!("{:x}\r\n", piece.len()).as_bytes()).await;
            wire.send(piece).await;
            wire.send(b"\r\n").await;
        }
        wire.send(b"0\r\n\r\n").await;
        wire.reply().await.assert_answers(review);

        // One kept alive after the other, and both in one piece.
        wire.send(&[request.clone(), request].concat()).await;
        wire.reply().await.assert_answers(review);
        wire.reply().await.assert_answers(review);
    })
    .await;
}

#[tokio::test]
async fn twenty_five_connections_at_once_are_all_answered() {
    guarded(async {
        let server = Replica::start().await;
        let barrier = Arc::new(Barrier::new(25));
        let mut clients = JoinSet::new();
        for _ in 0..25 {
            let (address, barrier) = (server.address, Arc::clone(&barrier));
            clients.spawn(async move {
                let mut wire = Wire::open(address).await;
                for review in REVIEWS.iter().cycle().take(24) {
                    barrier.wait().await;
                    wire.ask(&post("/validate?timeout=30s", JSON, &review.body)).await.assert_answers(review);
                }
            });
        }
        clients.join_all().await;
    })
    .await;
}

// === What is no review ===

#[tokio::test]
async fn what_is_no_review_gets_400_and_the_connection_goes_on() {
    guarded(async {
        let server = Replica::start().await;
        let mut wire = Wire::open(server.address).await;
        for body in ["", "{", "no JSON", "{}", "[]", "null", "\u{0}"] {
            let reply = wire.ask(&post("/validate", JSON, body.as_bytes())).await;
            reply.assert_error(400);
            assert!(!reply.closes());
        }
        wire.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_gets_413_before_it_is_sent() {
    guarded(async {
        let server = Replica::start().await;
        let mut wire = Wire::open(server.address).await;
        let length = (8 << 20) + 1;
        let head = format!("POST /validate HTTP/1.1\r\nhost: x\r\n{JSON}content-length: {length}\r\n\r\n");
        let reply = wire.ask(head.as_bytes()).await;
        reply.assert_error(413);
        assert!(reply.closes());
        wire.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_becomes_too_large_gets_413() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.body = 10_000).await;
        let chunked = format!("POST /validate HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n");

        let mut wire = Wire::open(server.address).await;
        wire.send(format!("{chunked}2710\r\n{:10000}\r\n0\r\n\r\n", "").as_bytes()).await;
        wire.reply().await.assert_error(400);

        wire.send(format!("{chunked}1388\r\n{:5000}\r\n1389\r\n{:5001}\r\n", "", "").as_bytes()).await;
        let reply = wire.reply().await;
        reply.assert_error(413);
        assert!(reply.closes());
    })
    .await;
}

/// A socket that is closed over unread bytes is reset, and the reset would overtake the answer.
#[tokio::test]
async fn a_client_that_sends_all_of_a_large_body_first_still_reads_its_413() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.body = 10_000).await;
        let mut wire = Wire::open(server.address).await;
        wire.send(&post("/validate", JSON, &vec![b' '; 6 << 20])).await;
        wire.reply().await.assert_error(413);
        wire.closed().await;
    })
    .await;
}

#[tokio::test]
async fn another_content_type_gets_415() {
    guarded(async {
        let server = Replica::start().await;
        for headers in ["content-type: application/yaml\r\n", ""] {
            let mut wire = Wire::open(server.address).await;
            let reply = wire.ask(&post("/validate", headers, &REVIEWS[0].body)).await;
            reply.assert_error(415);
        }
        let mut wire = Wire::open(server.address).await;
        let headers = "content-type: application/json; charset=utf-8\r\n";
        wire.ask(&post("/validate", headers, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

#[tokio::test]
async fn another_path_gets_404_and_another_method_405() {
    guarded(async {
        let server = Replica::start().await;
        let mut wire = Wire::open(server.address).await;
        for path in ["/", "/validate/", "/Validate", "/metrics"] {
            wire.ask(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.assert_error(404);
        }
        for path in ["/validate", "/mutate"] {
            let reply = wire.ask(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
            reply.assert_error(405);
            assert_eq!(reply.header("allow"), Some("post"));
            assert!(!reply.closes(), "there was no body to be left unread");
        }
        let reply = wire.ask(&post("/elsewhere", JSON, &REVIEWS[0].body)).await;
        reply.assert_error(404);
        assert!(reply.closes());
        wire.closed().await;
    })
    .await;
}

// === Limits ===

/// Sends a header and waits until the server has begun to read the body, which it then does not get.
async fn hold(address: SocketAddr, path: &str, review: &Review) -> Wire {
    let mut wire = Wire::open(address).await;
    let request = post(path, &format!("{JSON}expect: 100-continue\r\n"), &review.body);
    let reply = wire.ask(&request[..request.len() - review.body.len()]).await;
    assert_eq!(reply.status, 100);
    wire
}

#[tokio::test]
async fn requests_beyond_the_bound_get_503_until_there_is_room_again() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.in_flight = 2).await;
        let review = &REVIEWS[0];
        let mut held = [hold(server.address, "/validate", review).await, hold(server.address, "/mutate", review).await];

        let mut third = Wire::open(server.address).await;
        for _ in 0..3 {
            let reply = third.ask(&post("/validate", JSON, &review.body)).await;
            reply.assert_error(503);
            assert_eq!(reply.header("retry-after"), Some("1"));
            assert!(!reply.closes(), "a further handshake would be dearer than what was refused");
        }

        for wire in &mut held {
            wire.ask(&review.body).await.assert_answers(review);
        }
        third.ask(&post("/validate", JSON, &review.body)).await.assert_answers(review);
    })
    .await;
}

#[tokio::test]
async fn a_connection_beyond_the_bound_is_served_when_another_ends() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.connections = 1).await;
        let mut first = Wire::open(server.address).await;
        let second = tokio::spawn(Wire::open(server.address));
        first.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        drop(first);
        let mut second = second.await.unwrap();
        second.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_silent_at_the_handshake_is_let_go() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.handshake = SHORT).await;
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);

        let mut half = TcpStream::connect(server.address).await.unwrap();
        half.write_all(&[22, 3, 1]).await.unwrap();
        assert!(matches!(half.read(&mut [0]).await, Ok(0) | Err(_)));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_silent_in_the_header_is_let_go_while_an_idle_one_may_stay() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.header = SHORT).await;
        let mut fresh = Wire::open(server.address).await;
        let mut idle = Wire::open(server.address).await;
        idle.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);

        let mut first = Wire::open(server.address).await;
        first.send(b"POST /validate HTTP/1.1\r\nhost: ").await;
        first.closed().await;
        let mut second = Wire::open(server.address).await;
        second.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        second.send(b"P").await;
        second.closed().await;

        // The time of a header is over twice, and these two have said nothing since.
        for wire in [&mut fresh, &mut idle] {
            wire.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_client_is_let_go_with_a_goodbye() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.idle = SHORT).await;
        let mut fresh = Wire::open(server.address).await;
        assert_eq!(fresh.stream.read(&mut [0]).await.unwrap(), 0);

        // On a machine with other things to do the time may be over before the request is sent: then once more.
        let request = post("/validate", JSON, &REVIEWS[0].body);
        let mut used = loop {
            let mut wire = Wire::open(server.address).await;
            if wire.try_send(&request).await.is_ok() && wire.try_reply().await.is_ok_and(|reply| reply.status == 200) {
                break wire;
            }
        };
        assert_eq!(used.stream.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_does_not_come_in_the_time_the_api_server_gave_gets_504() {
    guarded(async {
        let server = Replica::start().await;
        let mut wire = hold(server.address, "/validate?timeout=50ms", &REVIEWS[0]).await;
        let reply = wire.reply().await;
        reply.assert_error(504);
        assert!(reply.closes());
        wire.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_does_not_come_in_our_own_time_gets_504() {
    guarded(async {
        let server = Replica::start_with(|config| config.limits.request = SHORT).await;
        let mut wire = hold(server.address, "/validate?timeout=30s", &REVIEWS[0]).await;
        wire.reply().await.assert_error(504);
    })
    .await;
}

// === Strangers ===

/// The alert that the server sent.
fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

fn client_pair() -> (String, Identity) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(["kube-apiserver".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    (authority.pem(), (vec![certificate.der().clone()], key))
}

#[tokio::test]
async fn a_stranger_gets_an_alert_when_clients_have_to_show_a_certificate() {
    guarded(async {
        let (authority, friend) = client_pair();
        let (_, impostor) = client_pair();
        let authorities = ClientAuthorities::from_pem(authority.as_bytes()).unwrap();
        let server = Replica::start_with(|config| config.client_authorities = Some(authorities)).await;
        let request = post("/validate", JSON, &REVIEWS[0].body);

        for version in [&TLS12, &TLS13] {
            let error = refusal(server.address, &connector(version, b"http/1.1", None), &request).await;
            assert_eq!(alert(&error), Some(AlertDescription::CertificateRequired), "{error}");
        }
        let error = refusal(server.address, &connector(&TLS13, b"http/1.1", Some(impostor)), &request).await;
        assert!(alert(&error).is_some(), "{error}");

        let friendly = connector(&TLS13, b"http/1.1", Some(friend));
        let mut wire = Wire::open_with(server.address, &friendly).await.unwrap();
        wire.ask(&request).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

/// How the server refuses a client: in TLS 1.3 that is told after the handshake.
async fn refusal(address: SocketAddr, connector: &TlsConnector, request: &[u8]) -> io::Error {
    let mut wire = match Wire::open_with(address, connector).await {
        Ok(wire) => wire,
        Err(error) => return error,
    };
    // The server may have closed already; the alert is then still there to be read.
    let _ = wire.try_send(request).await;
    wire.try_reply().await.err().expect("a stranger was answered")
}

#[tokio::test]
async fn without_a_certificate_handshakes_get_an_alert_until_there_is_one() {
    guarded(async {
        let shown = CertResolver::default();
        let server = Replica::start_with(|config| config.certificate = shown.clone()).await;
        let refused = Wire::open_with(server.address, &CONNECTOR).await.err().unwrap();
        assert_eq!(alert(&refused), Some(AlertDescription::AccessDenied));
        shown.show(Pair::try_from(&*BUNDLE).unwrap());
        let mut wire = Wire::open(server.address).await;
        wire.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

// === Health ===

#[tokio::test]
async fn readiness_tells_each_check_by_name() {
    guarded(async {
        let server = Replica::start().await;
        while probe(server.health, "/readyz").await.0 != 200 {}
        assert_eq!(probe(server.health, "/readyz").await, (200, "ok\n".to_owned()));
        assert_eq!(probe(server.health, "/readyz?verbose").await, (200, "[+]webhook ok\nready\n".to_owned()));

        let facts = server.readiness.add("facts", "KubeVirt has not been listed yet");
        let (status, body) = probe(server.health, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("[-]facts failed: KubeVirt has not been listed yet"), "{body}");
        assert_eq!(probe(server.health, "/livez").await, (200, "ok\n".to_owned()));
        facts.pass();
        assert_eq!(probe(server.health, "/readyz").await.0, 200);
        assert_eq!(probe(server.health, "/validate").await.0, 404);
    })
    .await;
}

// === The end ===

#[tokio::test]
async fn in_the_grace_period_everybody_is_served_and_asked_to_leave() {
    guarded(async {
        let mut server = Replica::start().await;
        let request = post("/validate", JSON, &REVIEWS[0].body);
        let mut idle = Wire::open(server.address).await;
        idle.ask(&request).await.assert_answers(&REVIEWS[0]);
        let mut fresh = Wire::open(server.address).await;
        server.begin_shutdown().await;
        assert_eq!(probe(server.health, "/livez").await.0, 200);

        let late = Wire::open(server.address).await;
        for mut wire in [idle, late] {
            let reply = wire.ask(&request).await;
            reply.assert_answers(&REVIEWS[0]);
            assert!(reply.closes());
            wire.closed().await;
        }
        // Refusals close too.
        let reply = fresh.ask(b"GET /validate HTTP/1.1\r\nhost: x\r\n\r\n").await;
        reply.assert_error(405);
        assert!(reply.closes());
        fresh.closed().await;

        assert!(!server.running.is_finished());
        server.hurry();
        server.running.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn after_the_grace_period_the_silent_are_closed_and_a_request_under_way_is_answered() {
    guarded(async {
        let mut server = Replica::start().await;
        let mut idle = Wire::open(server.address).await;
        idle.ask(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        let fresh = Wire::open(server.address).await;
        let mut at_handshake = TcpStream::connect(server.address).await.unwrap();
        let mut busy = hold(server.address, "/validate", &REVIEWS[0]).await;

        server.begin_shutdown().await;
        server.hurry();
        idle.closed().await;
        fresh.closed().await;
        assert!(matches!(at_handshake.read(&mut [0]).await, Ok(0) | Err(_)));

        let reply = busy.ask(&REVIEWS[0].body).await;
        reply.assert_answers(&REVIEWS[0]);
        assert!(reply.closes());
        busy.closed().await;
        // The deadline is an hour away.
        server.running.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn at_the_deadline_a_request_that_never_ends_is_cut_off() {
    guarded(async {
        let mut server = Replica::start_with(|config| config.drain = Drain { grace: SHORT, deadline: SHORT }).await;
        let body = hold(server.address, "/validate", &REVIEWS[0]).await;
        let mut header = Wire::open(server.address).await;
        header.send(b"POST /validate HTTP/1.1\r\n").await;
        server.shutdown.take().unwrap().send(()).unwrap();
        server.running.await.unwrap();
        body.closed().await;
        header.closed().await;
    })
    .await;
}

/// A rolling update, twenty times: the old replica is stopped under load while the news of it still travels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_shutdowns_under_load_lose_no_request() {
    guarded(async {
        let mut old = Replica::start().await;
        let (endpoint, endpoints) = watch::channel(Endpoint { round: 0, address: old.address });
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let (burst, bursts) = watch::channel(());
        let (bursted, mut burst_ends) = mpsc::unbounded_channel();
        let mut clients = JoinSet::new();
        for name in 0..8 {
            let client =
                Client { name, endpoints: endpoints.clone(), arrived: arrived.clone(), wire: None, answered: 0 };
            if name < 4 {
                clients.spawn(keep_busy(client));
            } else {
                clients.spawn(sit_idle_then_burst(client, bursts.clone(), bursted.clone()));
            }
        }
        wait_for_all(&mut arrivals, &mut clients, 0).await;

        for round in 1..=20 {
            let new = Replica::start().await;
            old.begin_shutdown().await;
            // The idle connections wake up on a server that is about to go, whose successor nobody knows yet.
            burst.send(()).unwrap();
            for _ in 4..8 {
                until_failure(&mut clients, burst_ends.recv()).await.unwrap();
            }
            endpoint.send(Endpoint { round, address: new.address }).unwrap();
            wait_for_all(&mut arrivals, &mut clients, round).await;
            old.hurry();
            old.running.await.unwrap();
            old = new;
        }

        drop((endpoint, burst));
        let answered: usize = clients.join_all().await.into_iter().sum();
        assert!(answered >= 20 * 8, "{answered}");
    })
    .await;
}

/// Waits for an event, or for the first client to fail.
async fn until_failure<T>(clients: &mut JoinSet<usize>, event: impl Future<Output = T>) -> T {
    tokio::select! {
        value = event => value,
        Some(end) = clients.join_next() => panic!("a client ended early: {end:?}"),
    }
}

/// Waits until each client was answered by the endpoint of `round`, and so has left the one before.
async fn wait_for_all(
    arrivals: &mut mpsc::UnboundedReceiver<(usize, usize)>,
    clients: &mut JoinSet<usize>,
    round: usize,
) {
    let mut there = BTreeSet::new();
    while there.len() < clients.len() {
        let (name, place) = until_failure(clients, arrivals.recv()).await.unwrap();
        if place == round {
            there.insert(name);
        }
    }
}

/// Where the service is, as clients hear of it.
#[derive(Clone, Copy)]
struct Endpoint {
    round: usize,
    address: SocketAddr,
}

/// A client as the API server is one: keeps its connection, leaves when asked to, and repeats nothing.
struct Client {
    name: usize,
    endpoints: watch::Receiver<Endpoint>,
    arrived: mpsc::UnboundedSender<(usize, usize)>,
    wire: Option<Wire>,
    answered: usize,
}

impl Client {
    async fn ask(&mut self) {
        let review = &REVIEWS[self.answered % REVIEWS.len()];
        let mut arrival = None;
        if self.wire.is_none() {
            let endpoint = *self.endpoints.borrow_and_update();
            self.wire = Some(Wire::open(endpoint.address).await);
            arrival = Some((self.name, endpoint.round));
        }
        let reply = self.wire.as_mut().unwrap().ask(&post("/validate?timeout=10s", JSON, &review.body)).await;
        reply.assert_answers(review);
        self.answered += 1;
        if reply.closes() {
            self.wire = None;
        }
        if let Some(arrival) = arrival {
            // At the end of the test nobody listens any more.
            let _ = self.arrived.send(arrival);
        }
    }
}

/// Asks without a pause, until there are no endpoints any more.
async fn keep_busy(mut client: Client) -> usize {
    while client.endpoints.has_changed().is_ok() {
        client.ask().await;
    }
    client.answered
}

/// Sits on an idle connection until told to burst; when there is a new endpoint, goes to sit there.
async fn sit_idle_then_burst(
    mut client: Client,
    mut bursts: watch::Receiver<()>,
    bursted: mpsc::UnboundedSender<()>,
) -> usize {
    client.ask().await;
    while bursts.changed().await.is_ok() {
        assert!(client.wire.is_some(), "the connection was idle all the time");
        for _ in 0..5 {
            client.ask().await;
            assert!(client.wire.is_none(), "every answer asks to leave");
        }
        bursted.send(()).unwrap();
        client.endpoints.changed().await.unwrap();
        client.ask().await;
    }
    client.answered
}
