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
use hyper::{
    header::{CONTENT_TYPE, HeaderName},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    metrics::{self, Metrics},
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
/// The pause after a failed accept. Its length does not grow, because a probe comes only every few seconds.
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

/// Answers probes and scrapes until the future is dropped.
pub(super) async fn serve(listener: TcpListener, readiness: Readiness, metrics: Metrics) {
    let router = TowerToHyperService::new(router(readiness, metrics));
    let mut connections = JoinSet::new();
    // Those that were opened, the oldest first; some have ended.
    let mut opened = VecDeque::<AbortHandle>::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    opened.retain(|connection| !connection.is_finished());
                    if opened.len() >= MAX_CONNECTIONS && let Some(oldest) = opened.pop_front() {
                        oldest.abort();
                    }
                    opened.push_back(connections.spawn(serve_connection(stream, peer, router.clone())));
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection for health checks");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
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
