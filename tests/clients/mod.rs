//! Clients as the API server is one, a clock that a test can move, and an address with several servers behind it.

// Each test compiles this module for itself and uses a part of it; its helpers fail as tests do.
#![allow(dead_code, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::{
    collections::HashMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};
use serde_json::Value;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A clock that is ahead of the real one by what the test says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Time(Arc<AtomicI64>);

impl Time {
    /// A clock that is late.
    pub(crate) fn late(by: Duration) -> Self {
        Self(Arc::new(AtomicI64::new(-i64::try_from(by.as_secs()).unwrap())))
    }

    pub(crate) fn now(&self) -> SystemTime {
        let ahead = self.0.load(Ordering::SeqCst);
        let distance = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
    }

    pub(crate) fn go(&self, ahead: Duration) {
        self.0.fetch_add(i64::try_from(ahead.as_secs()).unwrap(), Ordering::SeqCst);
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap()))
    }
}

/// A handshake with a server at 127.0.0.1, by a client that trusts these authorities and has this time.
pub(crate) async fn shake_hands(
    address: SocketAddr,
    authorities: &str,
    time: &Time,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(time.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Several servers behind one address, which get connections in turn: a Service.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    routes: Arc<Mutex<Routes>>,
    _tasks: JoinSet<()>,
}

/// Where connections go, and how many have gone there. Under one lock: whoever takes a server out knows from then on
/// how many connections lead to it.
#[derive(Default)]
struct Routes {
    backends: Vec<SocketAddr>,
    accepted: usize,
    traffic: HashMap<SocketAddr, Traffic>,
}

/// The connections of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// How many it was given.
    pub(crate) opened: usize,
    /// How many of them have not ended.
    pub(crate) open: usize,
}

impl Routes {
    fn next(&mut self) -> Option<SocketAddr> {
        let next = *self.backends.get(self.accepted % self.backends.len().max(1))?;
        self.accepted += 1;
        let traffic = self.traffic.entry(next).or_default();
        traffic.opened += 1;
        traffic.open += 1;
        Some(next)
    }
}

impl Balancer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Arc::<Mutex<Routes>>::default();
        let shared = Arc::clone(&routes);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // With nobody behind it the connection is closed; a Service without endpoints would refuse it.
                let Some(next) = shared.lock().unwrap().next() else { continue };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    if let Ok(mut backend) = TcpStream::connect(next).await {
                        let _ = (stream.set_nodelay(true), backend.set_nodelay(true));
                        let _ = copy_bidirectional(&mut stream, &mut backend).await;
                    }
                    drop(stream);
                    shared.lock().unwrap().traffic.get_mut(&next).unwrap().open -= 1;
                });
            }
        });
        Self { address, routes, _tasks: tasks }
    }

    /// How many connections it has had.
    pub(crate) fn accepted(&self) -> usize {
        self.routes.lock().unwrap().accepted
    }

    /// What has gone to a server.
    pub(crate) fn traffic(&self, backend: SocketAddr) -> Traffic {
        self.routes.lock().unwrap().traffic.get(&backend).copied().unwrap_or_default()
    }

    /// New connections go to these; those that are open stay where they are.
    pub(crate) fn set(&self, backends: &[SocketAddr]) {
        self.routes.lock().unwrap().backends = backends.to_vec();
    }
}

/// A review of a real API server, and its uid.
static REVIEW: LazyLock<(Bytes, Value)> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reviews");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let body = fs::read(&files[0]).unwrap();
    let review: Value = serde_json::from_slice(&body).unwrap();
    (body.into(), review["request"]["uid"].clone())
});

/// A client as the API server is one: keeps its connection, leaves when asked to, and repeats nothing.
pub(crate) struct Client {
    address: SocketAddr,
    time: Time,
    connection: Option<http1::SendRequest<Full<Bytes>>>,
    /// How often it opened a connection.
    pub(crate) opened: usize,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, time: &Time) -> Self {
        Self { address, time: time.clone(), connection: None, opened: 0 }
    }

    /// Whether it has a connection that the other side has not closed.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.is_closed())
    }

    /// The next request opens a connection.
    pub(crate) fn leave(&mut self) {
        self.connection = None;
    }

    /// Sends a review and reads the answer; `authorities` are for the handshake, where one is due.
    pub(crate) async fn ask(&mut self, authorities: &str) -> Result<(), String> {
        let said = |what: &'static str| move |error: &dyn std::fmt::Display| format!("{what}: {error}");
        if self.connection.is_none() {
            self.opened += 1;
            let stream = shake_hands(self.address, authorities, &self.time).await;
            let stream = stream.map_err(|error| said("handshake")(&error))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        let sender = self.connection.as_mut().unwrap();
        let request = Request::post("/validate?timeout=10s").header("host", "nicplug");
        let request = request.header("content-type", "application/json").body(Full::new(REVIEW.0.clone())).unwrap();
        sender.ready().await.map_err(|error| said("connection")(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| said("request")(&error))?;
        let is_last = answer.headers().get("connection").is_some_and(|value| value == "close");
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| said("answer")(&error))?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).map_err(|error| said("answer")(&error))?;
        if status != 200 || answer["response"]["uid"] != REVIEW.1 {
            return Err(format!("{status}: {answer}"));
        }
        if is_last {
            self.leave();
        }
        Ok(())
    }
}

/// What client-go keeps idle for one host (`idleConnsPerHost` in k8s.io/client-go/transport).
pub(crate) const IDLE: usize = 25;

/// The connections of an API server to one webhook, as client-go keeps them: what was used last is used next, what the
/// other side has closed is not used, and where none is idle one more is opened.
pub(crate) struct Pool {
    address: SocketAddr,
    authorities: String,
    idle: Mutex<Vec<Client>>,
}

impl Pool {
    pub(crate) fn new(address: SocketAddr, authorities: String) -> Self {
        Self { address, authorities, idle: Mutex::default() }
    }

    /// Sends a review once, on any connection, and reads the answer.
    pub(crate) async fn ask(&self) -> Result<(), String> {
        let mut client = self.take().unwrap_or_else(|| Client::new(self.address, &Time::default()));
        client.ask(&self.authorities).await?;
        let mut idle = self.idle.lock().unwrap();
        if client.is_connected() && idle.len() < IDLE {
            idle.push(client);
        }
        Ok(())
    }

    fn take(&self) -> Option<Client> {
        let mut idle = self.idle.lock().unwrap();
        idle.retain(Client::is_connected);
        idle.pop()
    }
}
