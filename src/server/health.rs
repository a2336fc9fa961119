//! `/livez` and `/readyz` for the kubelet, and `/metrics` for Prometheus, over plain HTTP.
//!
//! They have their own listener: a probe needs no certificate, and gets an answer while the webhook is at its limits.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::StatusCode,
    routing::get,
};
use futures_util::FutureExt;
use hyper::{
    header::{CONTENT_TYPE, HeaderName},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    counts::RemovedConnections,
    in_flight::LogLimit,
    metrics::{self, Metrics},
    open_files,
    readiness::{Health, Readiness},
};
use crate::{
    cluster::watch::{WatchState, WatchStatus},
    controllers::webhook_activation::Activation,
};

/// The limit of open connections: enough for probes, for scrapes and for a few users. A further one ends the oldest.
const MAX_CONNECTIONS: usize = 64;
/// The limit for one connection. A probe sends one short request, so a slow client is not a probe.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The limit for the header of a request. The kubelet waits one second for an answer by default.
const HEADER_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest pause after a failed accept. It does not grow, because a probe comes only every few seconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Returns the health of a watch. Stale or unknown facts do not make the replica unready: an answer from memory, or a
/// warning about what was not checked, is better than no answer.
pub(super) fn watch_health(record: &WatchStatus) -> Health {
    let (state, lasted) = record.state();
    let lasted = lasted.as_secs();
    match state {
        WatchState::Starting(None) => Health::Bad("not listed yet".into()),
        WatchState::Starting(Some(error)) => Health::Bad(format!("not listed yet: {error}").into()),
        WatchState::Synced => Health::Good,
        WatchState::Stale(error) => Health::Fair(format!("stale for {lasted}s: {error}").into()),
        WatchState::Forbidden(error) => Health::Fair(format!("not permitted, facts unknown: {error}").into()),
        WatchState::NotInstalled if record.kind.is_optional() => Health::Good,
        WatchState::NotInstalled => Health::Fair("not installed, facts unknown".into()),
    }
}

/// Returns the health of the webhook activation. An inactive webhook does not make the replica unready.
pub(super) fn activation_health(activation: &Activation) -> Health {
    match activation {
        Activation::Active => Health::Good,
        Activation::Waiting(reason) => {
            Health::Fair(format!("the API server does not call the webhooks yet: {reason}").into())
        }
        Activation::Failed(reason) => {
            Health::Fair(format!("the API server does not call the webhooks: {reason}").into())
        }
    }
}

/// Returns the health of the connections. A replica at their limit still answers; one that is not ready would leave its
/// share to the others, which the same clients would take next.
pub(super) fn connection_health(removed: &RemovedConnections, limit: usize) -> Health {
    match removed.last() {
        None => Health::Good,
        Some(age) => Health::Fair(
            format!(
                "the limit was reached {}s ago (--max-connections {limit}): since the start {} connections that waited \
                 for their clients were closed for new ones",
                age.as_secs(),
                removed.count()
            )
            .into(),
        ),
    }
}

/// Answers probes and scrapes until the future is dropped.
pub(super) async fn serve(listener: TcpListener, readiness: Readiness, metrics: Metrics) {
    let router = TowerToHyperService::new(router(readiness, metrics));
    let mut connections = JoinSet::new();
    // Those that were opened, the oldest first; some have ended.
    let mut opened = VecDeque::<AbortHandle>::new();
    let mut reserve = reserved_descriptor();
    let failed = LogLimit::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => {
                reserve = reserve.or_else(reserved_descriptor);
                continue;
            }
        };
        let is_exhausted = accepted.as_ref().is_err_and(open_files::is_exhausted);
        let accepted = if is_exhausted && let Some(descriptor) = reserve.take() {
            // No await is in between, so another thread seldom takes the descriptor.
            drop(descriptor);
            listener.accept().now_or_never().unwrap_or(accepted)
        } else {
            accepted
        };
        opened.retain(|connection| !connection.is_finished());
        match accepted {
            Ok((stream, peer)) => {
                if opened.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = opened.pop_front()
                {
                    oldest.abort();
                }
                opened.push_back(connections.spawn(serve_connection(stream, peer, router.clone())));
            }
            Err(error) => {
                if let Some(suppressed) = failed.pass() {
                    tracing::error!(%error, suppressed, "cannot accept a connection for health checks");
                }
                // Its end frees a descriptor. The newest one stays: it may be a probe that is just being answered.
                if is_exhausted
                    && opened.len() > 1
                    && let Some(oldest) = opened.pop_front()
                {
                    oldest.abort();
                }
                tokio::select! {
                    () = sleep(ACCEPT_PAUSE) => {}
                    Some(_) = connections.join_next() => {}
                }
            }
        }
        reserve = reserve.or_else(reserved_descriptor);
    }
}

/// Returns a file descriptor to close when a probe needs one and the process has no other; `None` if there is none.
fn reserved_descriptor() -> Option<TcpSocket> {
    TcpSocket::new_v4().or_else(|_| TcpSocket::new_v6()).ok()
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: TowerToHyperService<Router>) {
    let mut http = http1::Builder::new();
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    match timeout(TIMEOUT, http.serve_connection(TokioIo::new(stream), router)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a health check was aborted"),
        Err(_) => tracing::debug!(%peer, "a health check timed out"),
    }
}

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    let metrics = Router::new().route("/metrics", get(show_metrics)).with_state(Arc::new(metrics));
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(readiness).merge(metrics)
}

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, metrics::CONTENT)], metrics.text())
}

/// Checks nothing: the kubelet must not restart a process because it is not ready.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let is_verbose = query.is_some_and(|query| query.split('&').any(|pair| matches!(pair, "verbose" | "verbose=true")));
    match readiness.is_ready() {
        true if is_verbose => (StatusCode::OK, readiness.report()),
        true => (StatusCode::OK, "ok\n".to_owned()),
        // The report saves a second request with ?verbose.
        false => (StatusCode::SERVICE_UNAVAILABLE, readiness.report()),
    }
}
