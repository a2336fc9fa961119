//! One connection, from the handshake to its end: one task, one timer.

pub(super) mod threads;
mod timeouts;

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use axum::{Router, response::Response};
use hyper::{Request, body::Incoming, header::CONNECTION, server::conn::http1, service::Service};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::BufReader,
    net::TcpStream,
    sync::oneshot,
    time::{sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::timeouts::{ConnectionTimeouts, Phase, TimedStream};
use super::{counts::Counts, in_flight::LogLimit, limits::Limits, routes::CLOSE};

/// TLS over TCP.
type Stream = TlsStream<BufReader<TcpStream>>;

/// A TLS record, in bytes. rustls by itself asks for a quarter of that, and most requests are larger.
const READ_AT_ONCE: usize = 16 << 10;

/// Larger than any header that the API server sends.
const LARGEST_HEADER: usize = 16 << 10;

/// What all connections share.
pub(super) struct Common {
    pub(super) limits: Limits,
    /// Whether the server has answered itself; until then nobody else is expected.
    pub(super) self_check_passed: AtomicBool,
    tls: TlsAcceptor,
    http: http1::Builder,
    router: TowerToHyperService<Router>,
    draining: AtomicBool,
    counts: Counts,
    failed_handshakes: LogLimit,
}

impl Common {
    pub(super) fn new(tls: rustls::ServerConfig, router: Router, limits: Limits, counts: Counts) -> Self {
        let mut http = http1::Builder::new();
        http.header_read_timeout(None).max_header_size(LARGEST_HEADER);
        Self {
            tls: TlsAcceptor::from(Arc::new(tls)),
            http,
            router: TowerToHyperService::new(router),
            self_check_passed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            counts,
            failed_handshakes: LogLimit::new(),
            limits,
        }
    }

    /// From now on every answer closes its connection.
    pub(super) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends; `closing` asks it to end as soon as no request is under way.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    common: Arc<Common>,
    mut closing: oneshot::Receiver<Infallible>,
) {
    let _open = common.counts.open_connection();
    let stream = tokio::select! {
        stream = shake_hands(stream, peer, &common) => stream,
        _ = &mut closing => return,
    };
    if let Some(stream) = stream {
        converse(stream, &common, closing).await;
    }
}

async fn shake_hands(stream: TcpStream, peer: SocketAddr, common: &Common) -> Option<Stream> {
    // An answer is one small write: waiting for more to send would only delay it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let stream = BufReader::with_capacity(READ_AT_ONCE, stream);
    match timeout(common.limits.handshake, common.tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tell_of_failed_handshake(peer, &error, common);
            None
        }
        Err(_) => {
            common.counts.fail_handshake();
            tracing::debug!(%peer, "no TLS handshake in time");
            None
        }
    }
}

/// A client that goes away is no news (port checks do it all day). An alert is: mostly an API server that was given the
/// wrong `caBundle`, and then every change of a virtual machine waits or fails.
fn tell_of_failed_handshake(peer: SocketAddr, error: &io::Error, common: &Common) {
    common.counts.fail_handshake();
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_expected = !common.self_check_passed.load(Ordering::Relaxed);
    let Some(alert) = alert.filter(|_| !is_expected) else {
        tracing::debug!(%peer, %error, "no TLS handshake");
        return;
    };
    if let Some(suppressed) = common.failed_handshakes.pass() {
        let advice = match alert {
            rustls::Error::AlertReceived(_) => {
                "the client refused our certificate: caBundle has to hold its authority, and it this host"
            }
            rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_) => {
                "the client has to show a certificate that --client-ca signed"
            }
            rustls::Error::General(_) => "there is no certificate to show yet: /readyz?verbose says why",
            _ => "the client speaks no TLS that we speak (1.2 and 1.3)",
        };
        tracing::warn!(%peer, %error, suppressed, "TLS handshake failed: {advice}");
    }
}

/// Answers requests, one after the other.
async fn converse(stream: Stream, common: &Arc<Common>, closing: oneshot::Receiver<Infallible>) {
    let timeouts = Arc::new(ConnectionTimeouts::new(&common.limits, fastrand::u32(..)));
    let stream = TokioIo::new(TimedStream::new(stream, Arc::clone(&timeouts)));
    let service = Dialogue { common: Arc::clone(common), timeouts: Arc::clone(&timeouts) };
    let mut connection = pin!(common.http.serve_connection(stream, hyper::service::service_fn(|r| service.answer(r))));
    let mut alarm = pin!(sleep_until(timeouts.due()));
    let mut closing = pin!(closing);
    let mut is_closing = false;

    poll_fn(|cx| {
        loop {
            // First of all, so that a request which has arrived is never taken for silence.
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            is_closing = is_closing || closing.as_mut().poll(cx).is_ready();
            if is_closing && timeouts.phase() == Phase::Idle {
                connection.as_mut().graceful_shutdown();
                timeouts.leave();
                continue;
            }
            // The alarm is never set later than a request, and seldom reset: it may ring early, and is then set anew.
            let due = timeouts.due();
            if due < alarm.deadline() {
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if alarm.deadline() < due {
                alarm.as_mut().reset(due);
                continue;
            }
            tracing::debug!(phase = ?timeouts.phase(), "connection timed out");
            if timeouts.phase() != Phase::Idle {
                return Poll::Ready(());
            }
            connection.as_mut().graceful_shutdown();
            timeouts.leave();
        }
    })
    .await;
}

/// The requests of one connection.
struct Dialogue {
    common: Arc<Common>,
    timeouts: Arc<ConnectionTimeouts>,
}

impl Dialogue {
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        let is_last = self.timeouts.begin_request();
        let answer = self.common.router.call(request);
        let (common, timeouts) = (Arc::clone(&self.common), Arc::clone(&self.timeouts));
        async move {
            let mut response = answer.await?;
            // A handler closes the connection for one reason: there is more of the body to come.
            let unread = response.headers().contains_key(CONNECTION);
            if !unread && (is_last || common.draining.load(Ordering::Relaxed)) {
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
            timeouts.begin_response(unread);
            Ok(response)
        }
    }
}
