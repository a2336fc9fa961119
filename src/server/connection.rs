//! One connection from its TLS handshake to its end, as one task with one timer.

pub(super) mod places;
mod records;
pub(super) mod threads;
mod timeouts;

use std::{
    convert::Infallible,
    future::{self, Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::{Router, response::Response};
use hyper::{Request, body::Incoming, header::CONNECTION, server::conn::http1, service::Service};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::server::Acceptor;
use tokio::{
    io::AsyncBufReadExt,
    net::TcpStream,
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use self::{
    places::Removal,
    records::RecordStream,
    timeouts::{ConnectionTimeouts, Phase, RequestStart, TimedBody, TimedStream},
};
use super::{counts::Counts, in_flight::LogLimit, limits::Limits, overload::Waited, routes::CLOSE};

/// A TLS stream over TCP. Boxed, because its place is needed each time that a future moves it.
type Stream = Box<TlsStream<RecordStream>>;

/// Longer than any header that the API server sends.
const MAX_HEADER: usize = 16 << 10;

/// The most bytes of a body that hyper reads ahead, beside those that [`super::body`] counts: a few TLS records.
const MAX_BUFFER: usize = 64 << 10;

/// The time for a handshake that is not complete when the server stops, and then for its first request.
const LAST_HANDSHAKE: Duration = Duration::from_secs(2);

/// The state that all connections share.
pub(super) struct ConnectionContext {
    pub(super) limits: Limits,
    /// Whether the self-check has passed. Until then a failed handshake can be the server's own.
    pub(super) self_check_passed: AtomicBool,
    tls: Arc<rustls::ServerConfig>,
    http: http1::Builder,
    router: TowerToHyperService<Router>,
    draining: AtomicBool,
    counts: Counts,
    failed_handshakes: LogLimit,
}

impl ConnectionContext {
    pub(super) fn new(tls: rustls::ServerConfig, router: Router, limits: Limits, counts: Counts) -> Self {
        let mut http = http1::Builder::new();
        http.header_read_timeout(None).max_header_size(MAX_HEADER).max_buf_size(MAX_BUFFER);
        Self {
            tls: Arc::new(tls),
            http,
            router: TowerToHyperService::new(router),
            self_check_passed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            counts,
            failed_handshakes: LogLimit::new(),
            limits,
        }
    }

    /// Makes every later answer close its connection.
    pub(super) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends, or until `removal` says how to end it. Then it drops `_registration`.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    context: Arc<ConnectionContext>,
    timeouts: Arc<ConnectionTimeouts>,
    removal: impl Future<Output = Removal>,
    _registration: impl Sized,
) {
    let _guard = context.counts.add_connection();
    let mut removal = pin!(removal);
    // Boxed, so that the connection has no place for it later.
    let mut handshake = Box::pin(handshake(stream, peer, &context, &timeouts));
    let stream = tokio::select! {
        biased;
        stream = &mut handshake => stream,
        removal = &mut removal => {
            // The client sends a request once the handshake is complete, and would lose it.
            if removal != Removal::Abort && let Ok(Some(stream)) = timeout(LAST_HANDSHAKE, &mut handshake).await {
                let timeouts = ConnectionTimeouts::new(&Limits { idle: LAST_HANDSHAKE, ..context.limits.clone() }, 0);
                // Boxed, so that the other connections have no place for it.
                Box::pin(serve_requests(stream, &context, &Arc::new(timeouts), future::pending())).await;
            }
            return;
        }
    };
    drop(handshake);
    if let Some(stream) = stream {
        serve_requests(stream, &context, &timeouts, removal).await;
    }
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    context: &ConnectionContext,
    timeouts: &ConnectionTimeouts,
) -> Option<Stream> {
    timeouts.begin_handshake();
    // An answer is one small write, which Nagle's algorithm would only delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let stream = RecordStream::new(stream);
    let handshake = async {
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        timeouts.end_hello();
        // The client of a connection that waited long may have given up, and the rest of the handshake is its expensive
        // part.
        if start.io.has_closed().await {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        start.into_stream(Arc::clone(&context.tls)).await
    };
    match timeout(context.limits.handshake, handshake).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            log_failed_handshake(peer, &error, context);
            None
        }
        Err(_) => {
            context.counts.add_failed_handshake();
            tracing::debug!(%peer, "the TLS handshake timed out");
            None
        }
    }
}

/// Counts a failed handshake, and logs a warning if it ended with a TLS error. A client that only closes the connection
/// is a port check. An alert usually comes from an API server with a wrong `caBundle`, and then every change of a
/// virtual machine is delayed or fails.
fn log_failed_handshake(peer: SocketAddr, error: &io::Error, context: &ConnectionContext) {
    context.counts.add_failed_handshake();
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_expected = !context.self_check_passed.load(Ordering::Relaxed);
    let Some(alert) = alert.filter(|_| !is_expected) else {
        tracing::debug!(%peer, %error, "the TLS handshake failed");
        return;
    };
    if let Some(suppressed) = context.failed_handshakes.pass() {
        let advice = match alert {
            rustls::Error::AlertReceived(_) => {
                "the client rejected the serving certificate: check its CA in caBundle and its host names"
            }
            rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_) => {
                "the client needs a certificate that a CA of --client-ca signed"
            }
            rustls::Error::General(_) => "there is no serving certificate yet: /readyz?verbose gives the reason",
            _ => "the client has no protocol version or cipher suite in common with nicplug (TLS 1.2 and 1.3)",
        };
        tracing::warn!(%peer, %error, suppressed, "the TLS handshake failed: {advice}");
    }
}

/// Answers the requests of a connection, one after the other.
async fn serve_requests(
    mut stream: Stream,
    context: &Arc<ConnectionContext>,
    timeouts: &Arc<ConnectionTimeouts>,
    removal: impl Future<Output = Removal>,
) {
    timeouts.end_handshake();
    let mut timer = pin!(sleep_until(timeouts.deadline()));
    let mut removal = pin!(removal);
    let mut removed = None;
    let now = |removal| Some((removal, Instant::now()));
    // hyper takes 16 KiB at once, so it starts only when it has something to do. It gets the end of the stream, too.
    tokio::select! {
        biased;
        _ = stream.fill_buf() => {}
        removal = &mut removal => removed = now(removal),
        () = &mut timer => {}
    }
    let stream = TokioIo::new(TimedStream::new(stream, Arc::clone(timeouts)));
    let service = RequestHandler { context: Arc::clone(context), timeouts: Arc::clone(timeouts) };
    let mut connection = pin!(context.http.serve_connection(stream, hyper::service::service_fn(|r| service.answer(r))));
    poll_fn(|cx| {
        loop {
            // This is polled first, so that a request that has arrived is not treated as a timeout.
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if removed.is_none()
                && let Poll::Ready(removal) = removal.as_mut().poll(cx)
            {
                removed = now(removal);
            }
            let mut deadline = timeouts.deadline();
            match (removed, timeouts.phase()) {
                (Some(_), Phase::Idle) => {
                    connection.as_mut().graceful_shutdown();
                    timeouts.begin_closing();
                    continue;
                }
                (Some((Removal::Abort, _)), Phase::Header | Phase::Body) => return Poll::Ready(()),
                (Some((Removal::CloseIdle, since)), Phase::Header | Phase::Body) => {
                    deadline = deadline.min(since + timeouts.arrival());
                }
                _ => {}
            }
            // A reset is expensive, so a later deadline does not reset the timer: it can fire early, and is reset then.
            if deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if timer.deadline() < deadline {
                timer.as_mut().reset(deadline);
                continue;
            }
            tracing::debug!(phase = ?timeouts.phase(), "the connection timed out");
            if timeouts.phase() != Phase::Idle {
                return Poll::Ready(());
            }
            connection.as_mut().graceful_shutdown();
            timeouts.begin_closing();
        }
    })
    .await;
}

/// Handles the requests of one connection.
struct RequestHandler {
    context: Arc<ConnectionContext>,
    timeouts: Arc<ConnectionTimeouts>,
}

impl RequestHandler {
    fn answer(&self, mut request: Request<Incoming>) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        let RequestStart { is_last, is_pipelined, waited } = self.timeouts.begin_request();
        if let Some(waited) = Waited::of(waited) {
            request.extensions_mut().insert(waited);
        }
        let timed = |body| TimedBody::new(body, Arc::clone(&self.timeouts));
        let answer = self.context.router.call(request.map(timed));
        let (context, timeouts) = (Arc::clone(&self.context), Arc::clone(&self.timeouts));
        async move {
            // A client that sends many requests at once would hold up the other connections of the thread.
            if is_pipelined {
                yield_now().await;
            }
            let mut response = answer.await?;
            // A handler closes the connection only if a part of the body is unread.
            let unread = response.headers().contains_key(CONNECTION);
            if !unread && (is_last || context.draining.load(Ordering::Relaxed)) {
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
            timeouts.begin_response(unread);
            Ok(response)
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, routing::post};
    use rcgen::CertifiedKey;
    use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::{Notify, oneshot},
    };
    use tokio_rustls::{TlsConnector, client};

    use super::*;
    use crate::{
        certificates::crypto::provider,
        server::tls::{self, CertKeyPair, CertResolver},
    };

    /// A connection whose client has sent the header of a request and half of its body.
    struct HalfRequest {
        client: client::TlsStream<TcpStream>,
        removal: oneshot::Sender<Removal>,
    }

    impl HalfRequest {
        async fn start(arrival: Duration) -> Self {
            let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
            let certificates = CertResolver::default();
            let pair = CertKeyPair::from_pem(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes());
            certificates.set(pair.unwrap());
            let has_begun = Arc::new(Notify::new());
            let begins = Arc::clone(&has_begun);
            let answer = async move |request: axum::extract::Request| {
                begins.notify_one();
                to_bytes(request.into_body(), 100).await.unwrap()
            };
            let router = Router::new().route("/", post(answer));
            let limits = Limits { arrival, ..Limits::default() };
            let timeouts = Arc::new(ConnectionTimeouts::new(&limits, 0));
            let tls = tls::server_config(certificates, None).unwrap();
            let context = Arc::new(ConnectionContext::new(tls, router, limits, Counts::default()));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, peer) = listener.accept().await.unwrap();
            let (removal, removed) = oneshot::channel();
            let removed = async { removed.await.unwrap() };
            tokio::spawn(async move { serve(accepted, peer, context, timeouts, removed, ()).await });

            let mut roots = RootCertStore::empty();
            roots.add(cert.der().clone()).unwrap();
            let config = ClientConfig::builder_with_provider(Arc::new(provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let connector = TlsConnector::from(Arc::new(config));
            let mut client = connector.connect(ServerName::try_from("a").unwrap(), stream).await.unwrap();
            client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
            has_begun.notified().await;
            Self { client, removal }
        }
    }

    #[tokio::test]
    async fn a_request_that_began_before_its_idle_connection_was_closed_must_arrive_in_time() {
        let HalfRequest { mut client, removal } = HalfRequest::start(Duration::ZERO).await;
        removal.send(Removal::CloseIdle).unwrap();
        // The connection is cut, so TLS does not end as it should.
        assert!(matches!(client.read_u8().await, Err(error) if error.kind() == io::ErrorKind::UnexpectedEof));

        for removal in [Removal::CloseIdle, Removal::Close] {
            let mut half = HalfRequest::start(Duration::from_hours(1)).await;
            half.removal.send(removal).unwrap();
            half.client.write_all(b"cd").await.unwrap();
            let mut response = String::new();
            half.client.read_to_string(&mut response).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("abcd"), "{removal:?}: {response}");
        }
    }
}
