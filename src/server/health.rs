//! `/livez` and `/readyz`, in plain HTTP, for the kubelet.
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
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Enough for probes, scrapes of a port, and a person or two.
const CONNECTIONS: usize = 64;
/// A probe is one short request; whoever takes longer is none.
const LONGEST: Duration = Duration::from_secs(10);

/// What has to be true before requests may come, by name. Clones share their checks.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<(&'static str, Health)>>>);

enum Health {
    /// Fine; perhaps with something that an administrator should know.
    Passed(Option<String>),
    /// Why not.
    Failed(Cow<'static, str>),
}

impl Readiness {
    /// Adds a check that fails for `reason` until it is passed. Names are unique: `facts`, `certificate`, …
    pub fn add(&self, name: &'static str, reason: impl Into<Cow<'static, str>>) -> Check {
        let mut checks = self.lock();
        checks.push((name, Health::Failed(reason.into())));
        Check { index: checks.len() - 1, readiness: self.clone() }
    }

    /// Do all checks pass?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().iter().all(|(_, health)| matches!(health, Health::Passed(_)))
    }

    /// One line a check, in the form of Kubernetes' own components, and the sum.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = String::new();
        for (name, health) in self.lock().iter() {
            // Writing to a string cannot fail.
            let _ = match health {
                Health::Passed(None) => writeln!(report, "[+]{name} ok"),
                Health::Passed(Some(note)) => writeln!(report, "[+]{name} ok: {note}"),
                Health::Failed(reason) => writeln!(report, "[-]{name} failed: {reason}"),
            };
        }
        report.push_str(if self.is_ready() { "ready\n" } else { "not ready\n" });
        report
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, Health)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One check of a [`Readiness`].
pub struct Check {
    index: usize,
    readiness: Readiness,
}

impl Check {
    /// From now on it passes.
    pub fn pass(&self) {
        self.set(Health::Passed(None));
    }

    /// From now on it passes, and `note` stands behind it in the report.
    pub fn pass_with(&self, note: impl Into<String>) {
        self.set(Health::Passed(Some(note.into())));
    }

    /// From now on it fails.
    pub fn fail(&self, reason: impl Into<Cow<'static, str>>) {
        self.set(Health::Failed(reason.into()));
    }

    fn set(&self, health: Health) {
        if let Some(check) = self.readiness.lock().get_mut(self.index) {
            check.1 = health;
        }
    }
}

/// Answers probes until the future is dropped.
pub(super) async fn serve(listener: TcpListener, readiness: Readiness) {
    let router = TowerToHyperService::new(router(readiness));
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

fn router(readiness: Readiness) -> Router {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(readiness)
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
}
