//! `/livez` and `/readyz` for the kubelet, and `/metrics` for Prometheus, in plain HTTP.
//!
//! A listener of its own: a probe needs no certificate, and gets an answer when the webhook is full.

use std::{
    borrow::Cow,
    fmt::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
    task::JoinSet,
    time::{sleep, timeout},
};

use super::metrics::{self, Metrics};
use crate::{
    cluster::watch::{WatchState, WatchStatus},
    controllers::webhook_activation::Activation,
};

/// Enough for probes, scrapes of a port, and a person or two.
const CONNECTIONS: usize = 64;
/// A probe is one short request; whoever takes longer is none.
const LONGEST: Duration = Duration::from_secs(10);

/// What has to be true before requests may come, by name. Clones share their checks.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<Named>>>);

/// A check by its name.
type Named = (Cow<'static, str>, Source);

/// How something is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Health {
    /// All is well.
    Good,
    /// Requests may come, and whoever asks should know this.
    Fair(Cow<'static, str>),
    /// Requests may not come, for this reason.
    Bad(Cow<'static, str>),
}

/// Where the health of a check comes from.
enum Source {
    /// It is told when it changes.
    LogOnce(Health),
    /// It is asked for when somebody wants to know.
    Asked(Box<dyn Fn() -> Health + Send>),
}

impl Source {
    fn health(&self) -> Health {
        match self {
            Self::LogOnce(health) => health.clone(),
            Self::Asked(ask) => ask(),
        }
    }
}

impl Readiness {
    /// Adds a check that fails for `reason` until it is passed. Names are unique: `webhook`, `certificate`, …
    pub fn add(&self, name: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Check {
        let mut checks = self.lock();
        checks.push((name.into(), Source::LogOnce(Health::Bad(reason.into()))));
        Check { index: checks.len() - 1, readiness: self.clone() }
    }

    /// Adds a check that is asked each time. It may not ask the readiness in turn.
    pub fn ask(&self, name: impl Into<Cow<'static, str>>, ask: impl Fn() -> Health + Send + 'static) {
        self.lock().push((name.into(), Source::Asked(Box::new(ask))));
    }

    /// Do all checks pass?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().iter().all(|(_, source)| !matches!(source.health(), Health::Bad(_)))
    }

    /// One line a check, in the form of Kubernetes' own components, and the sum.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = String::new();
        let mut is_ready = true;
        for (name, source) in self.lock().iter() {
            // Writing to a string cannot fail.
            let _ = match source.health() {
                Health::Good => writeln!(report, "[+]{name} ok"),
                Health::Fair(news) => writeln!(report, "[+]{name} ok: {news}"),
                Health::Bad(reason) => {
                    is_ready = false;
                    writeln!(report, "[-]{name} failed: {reason}")
                }
            };
        }
        report.push_str(if is_ready { "ready\n" } else { "not ready\n" });
        report
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Named>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One check of a [`Readiness`].
#[derive(Clone)]
pub struct Check {
    index: usize,
    readiness: Readiness,
}

impl Check {
    /// From now on it passes.
    pub fn pass(&self) {
        self.set(Health::Good);
    }

    /// From now on it passes, and whoever asks is told the news.
    pub fn pass_with(&self, news: impl Into<Cow<'static, str>>) {
        self.set(Health::Fair(news.into()));
    }

    /// From now on it fails.
    pub fn fail(&self, reason: impl Into<Cow<'static, str>>) {
        self.set(Health::Bad(reason.into()));
    }

    fn set(&self, health: Health) {
        if let Some((_, source)) = self.readiness.lock().get_mut(self.index) {
            *source = Source::LogOnce(health);
        }
    }
}

/// How the watch of a kind is doing. Facts that are stale or unknown do not keep requests away: an answer from memory,
/// or a warning of what could not be checked, is better than none.
pub(super) fn of_watch(record: &WatchStatus) -> Health {
    let (state, lasted) = record.state();
    let lasted = lasted.as_secs();
    match state {
        WatchState::Starting(None) => Health::Bad("not listed yet".into()),
        WatchState::Starting(Some(error)) => Health::Bad(format!("not listed yet: {error}").into()),
        WatchState::Synced => Health::Good,
        WatchState::Stale(error) => Health::Fair(format!("stale for {lasted}s: {error}").into()),
        WatchState::Forbidden(error) => Health::Fair(format!("not permitted, facts unknown: {error}").into()),
        WatchState::NotInstalled => Health::Fair("not installed, facts unknown".into()),
    }
}

/// Whether the API server calls. That it does not keeps no request away.
pub(super) fn of_calls(called: &Activation) -> Health {
    match called {
        Activation::Active => Health::Good,
        Activation::Waiting(reason) => Health::Fair(format!("the API server does not call yet: {reason}").into()),
        Activation::Failed(reason) => Health::Fair(format!("the API server does not call: {reason}").into()),
    }
}

/// Answers probes until the future is dropped.
pub(super) async fn serve(listener: TcpListener, readiness: Readiness, metrics: Metrics) {
    let router = TowerToHyperService::new(router(readiness, metrics));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, peer)) => { connections.spawn(answer(stream, peer, router.clone())); }
                // Probes come every few seconds: a pause of fixed length will do.
                Err(error) => {
                    tracing::error!(%error, "cannot accept a health check");
                    sleep(Duration::from_millis(500)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, router: TowerToHyperService<Router>) {
    let mut http = http1::Builder::new();
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(LONGEST);
    match timeout(LONGEST, http.serve_connection(TokioIo::new(stream), router)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "health check broken off"),
        Err(_) => tracing::debug!(%peer, "health check took too long"),
    }
}

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    let metrics = Router::new().route("/metrics", get(show)).with_state(Arc::new(metrics));
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(readiness).merge(metrics)
}

async fn show(State(metrics): State<Arc<Metrics>>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, metrics::CONTENT)], metrics.text())
}

/// That this is answered is all it says: a process that is not ready must not be restarted for it.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let is_verbose = query.is_some_and(|query| query.split('&').any(|pair| matches!(pair, "verbose" | "verbose=true")));
    match readiness.is_ready() {
        true if is_verbose => (StatusCode::OK, readiness.report()),
        true => (StatusCode::OK, "ok\n".to_owned()),
        // Whoever asks why would ask again with ?verbose.
        false => (StatusCode::SERVICE_UNAVAILABLE, readiness.report()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_check_passes() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (webhook, facts) = (readiness.add("webhook", "starting"), readiness.add("facts", "not read yet"));
        webhook.pass();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report(), "[+]webhook ok\n[-]facts failed: not read yet\nnot ready\n");
        facts.pass_with("1 kind is old");
        assert!(readiness.is_ready());
        webhook.fail("shutting down");
        assert_eq!(readiness.report(), "[-]webhook failed: shutting down\n[+]facts ok: 1 kind is old\nnot ready\n");
    }

    #[test]
    fn what_is_worth_knowing_keeps_nobody_away() {
        let readiness = Readiness::default();
        readiness.ask("facts/Node", || Health::Fair("stale for 3s: connection refused".into()));
        readiness.add("webhook", "starting").pass_with("only the handshake was tried");
        assert!(readiness.is_ready());
        assert_eq!(
            readiness.report(),
            "[+]facts/Node ok: stale for 3s: connection refused\n[+]webhook ok: only the handshake was tried\nready\n"
        );
    }
}
