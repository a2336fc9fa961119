//! The outside of the webhook: listeners, connections, and how they end.
//!
//! HTTP/1.1 over TLS, since that is what the API server speaks to a webhook behind a Service (it has not spoken HTTP/2
//! to one since Kubernetes 1.16). Every connection is one task and one timer (`connection.rs`), on a thread that it never
//! leaves (`connections.rs`).
//!
//! The end comes in three steps, because a client that sends on a connection which is just being closed loses its
//! request, and the API server does not repeat it:
//!
//! 1. `/readyz` fails at once; for the *grace* period new connections are still taken, since the news travels slowly,
//!    and every answer says `Connection: close`, so that clients leave on their own;
//! 2. then nothing new is accepted, and connections with no request under way are closed;
//! 3. at the *deadline* whatever is left is cut off.

mod body;
mod connection;
mod counts;
pub mod deadline;
mod decision_log;
mod denial_events;
pub mod health;
mod in_flight;
mod limits;
mod metrics;
mod recheck;
pub mod reload;
mod routes;
mod self_check;
pub mod tls;

use std::{
    future::{self, Future},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};

use self::{
    connection::{Common, threads::Connections},
    denial_events::DenialEvents,
    health::{Check, Readiness},
    in_flight::InFlight,
    metrics::Metrics,
    recheck::Rechecker,
    routes::AppState,
    self_check::{SelfCheck, SelfCheckResult},
    tls::{CertResolver, ClientAuthorities, TlsError},
};
pub use self::{
    counts::Counts,
    limits::{Drain, LimitError, Limits},
};
use crate::{
    admission::{Decision, Reviewer},
    cluster::watch::Watches,
    controllers::{persist::PersistStatus, webhook_activation::Activation},
    k8s::{
        backoff::{Backoff, Delays},
        events::EventQueue,
    },
    telemetry::spans::Spans,
};

/// Delays between failed accepts, and between failed self-checks: an immediate retry would only use the CPU.
const RETRY_DELAYS: Delays = Delays { first: Duration::from_millis(10), longest: Duration::from_secs(1) };

/// Everything that a server is told.
#[derive(Debug)]
pub struct Config {
    /// Where the API server reaches `/validate` and `/mutate`, over TLS. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are, in plain HTTP; `None` for no such listener.
    pub health_listen: Option<SocketAddr>,
    /// The certificate to show; a clone of it can replace the pair while the server runs.
    pub certificate: CertResolver,
    /// When given, a client has to show a certificate signed by one of these.
    pub client_authorities: Option<ClientAuthorities>,
    /// Bounds of connections and requests.
    pub limits: Limits,
    /// How the server ends.
    pub drain: Drain,
    /// The cluster that the reviewer's facts come from, if they come from one: the server is ready when all watches
    /// are, and looks at the cluster again before it gives a denial that facts have a part in.
    pub watches: Option<Watches>,
    /// Where denials are handed in that a controller of KubeVirt met, with `watches`.
    pub events: Option<EventQueue>,
    /// The mirroring of NICs in that cluster, if this process does it: its numbers are shown.
    pub mirroring: Option<PersistStatus>,
    /// Whether the API server calls the webhooks, if this process has a say in it: that is shown.
    pub calls: Option<watch::Receiver<Activation>>,
    /// Where the span of each request goes, if anywhere.
    pub spans: Option<Spans>,
}

impl Config {
    /// The least that a server can be told: it listens on a free port of loopback, has no health listener and no
    /// cluster, and takes the limits that are the default.
    #[must_use]
    pub fn new(certificate: CertResolver) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            health_listen: None,
            certificate,
            client_authorities: None,
            limits: Limits::default(),
            drain: Drain::default(),
            watches: None,
            events: None,
            mirroring: None,
            calls: None,
            spans: None,
        }
    }
}

/// A server whose sockets are bound, and which answers once it [runs](Server::run).
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    health: Option<(TcpListener, SocketAddr)>,
    common: Arc<Common>,
    counts: Counts,
    connections: Connections,
    readiness: Readiness,
    serving: Check,
    metrics: Metrics,
    self_check: SelfCheck,
    drain: Drain,
    _watches: Option<Watches>,
}

impl Server {
    /// Binds the sockets and checks what can be checked before the first request.
    ///
    /// # Errors
    /// An address is taken or not ours, the certificates cannot be used, or a limit refuses everybody.
    pub async fn bind(config: Config, reviewer: Reviewer) -> Result<Self, ServerError> {
        limits::check(&config.limits, &config.drain)?;
        let Config { listen: wanted, health_listen, certificate, client_authorities, limits, drain, .. } = config;
        let (watches, events, spans) = (config.watches, config.events, config.spans);
        let self_check = SelfCheck::new(certificate.clone(), client_authorities.is_some());
        let counts = Counts::default();
        let in_flight = Arc::new(InFlight::new(limits.in_flight));
        let mut metrics = Metrics::new(counts.clone(), Arc::clone(&in_flight), certificate.clone());
        let tls = tls::server_config(certificate, client_authorities)?;
        let (listener, address) = listen(wanted).await?;
        let health = match health_listen {
            Some(wanted) => Some(listen(wanted).await?),
            None => None,
        };
        let readiness = Readiness::default();
        let serving = readiness.add("webhook", "not accepting connections yet");
        let rechecker = watches.as_ref().map(|watches| {
            metrics.add_facts(Arc::clone(watches.cache()), watches.statuses().clone());
            for record in watches.statuses().iter() {
                let record = Arc::clone(record);
                readiness.ask(format!("facts/{}", record.kind), move || health::of_watch(&record));
            }
            Rechecker::new(watches.client().clone())
        });
        if let Some(rechecker) = &rechecker {
            metrics.add_recheck_counts(rechecker.counts().clone());
        }
        if let Some(queue) = &events {
            metrics.add_events(queue.clone());
        }
        if let Some(mirroring) = config.mirroring {
            metrics.add_mirroring(mirroring);
        }
        if let Some(called) = config.calls {
            metrics.add_calls(called.clone());
            readiness.ask("calls", move || health::of_calls(&called.borrow()));
        }
        if let Some(spans) = &spans {
            metrics.add_spans(spans.clone());
        }
        let denial_events =
            watches.as_ref().zip(events).map(|(watches, queue)| DenialEvents::new(Arc::clone(watches.cache()), queue));
        let router = routes::router(AppState {
            reviewer,
            rechecker,
            denial_events,
            counts: counts.clone(),
            in_flight,
            spans,
            largest_body: limits.body,
            longest: limits.request,
        });
        let common = Arc::new(Common::new(tls, router, limits, counts.clone()));
        let connections = Connections::new().map_err(ServerError::Threads)?;
        Ok(Self {
            listener,
            address,
            health,
            common,
            counts,
            connections,
            readiness,
            serving,
            metrics,
            self_check,
            drain,
            _watches: watches,
        })
    }

    /// Where `/validate` and `/mutate` are.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where `/livez`, `/readyz` and `/metrics` are, if anywhere.
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health.as_ref().map(|(_, address)| *address)
    }

    /// How many requests had which outcome.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What `/readyz` tells; others add their checks to it.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// From now on the metrics tell what came of changes of a settings file.
    pub fn count_settings(&mut self, tally: reload::settings::Tally) {
        self.metrics.add_settings(tally);
    }

    /// Serves until `shutdown`, then ends as the head of this module says.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        self.run_until(shutdown, future::pending()).await;
    }

    /// As [`run`](Server::run); `hurry` cuts the grace period short.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>, hurry: impl Future<Output = ()>) {
        // Dropped, and with it ended, when this function returns.
        let mut health = JoinSet::new();
        if let Some((listener, address)) = self.health.take() {
            tracing::info!(%address, "health checks");
            let metrics = std::mem::take(&mut self.metrics);
            health.spawn(health::serve(listener, self.readiness.clone(), metrics));
        }
        tracing::info!(address = %self.address, "serving");
        let mut self_checks = JoinSet::new();
        self_checks.spawn(run_self_check(
            self.self_check.clone(),
            self.address,
            Arc::clone(&self.common),
            self.serving.clone(),
        ));
        self.accept_until(shutdown).await;
        // Whatever it would have said no longer holds.
        self_checks.shutdown().await;

        let deadline = Instant::now() + self.drain.deadline;
        // In this order: whoever has seen that we are not ready gets answers that close.
        self.common.begin_draining();
        self.serving.fail("shutting down");
        tracing::info!(connections = self.connections.len(), grace = ?self.drain.grace, "draining");
        let grace = self.drain.grace;
        self.accept_until(async {
            tokio::select! {
                () = time::sleep(grace) => {}
                () = hurry => {}
            }
        })
        .await;

        drop(self.listener);
        self.connections.close_idle();
        if time::timeout_at(deadline, self.connections.all_ended()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "cut off at the deadline");
        }
        let count = |decision| self.counts.of(decision);
        tracing::info!(
            allowed = count(Decision::Allowed),
            denied = count(Decision::Denied),
            malformed = count(Decision::Malformed),
            patched = count(Decision::Patched),
            unhandled = count(Decision::Unhandled),
            warned = count(Decision::Warned),
            "stopped"
        );
    }

    async fn accept_until(&mut self, end: impl Future<Output = ()>) {
        let mut end = std::pin::pin!(end);
        let mut backoff = Backoff::new(RETRY_DELAYS);
        let mut retry_at = None;
        let limit = self.common.limits.connections;
        loop {
            let room = self.connections.len() < limit;
            tokio::select! {
                () = &mut end => return,
                () = self.connections.one_ended() => {}
                accepted = accept(&self.listener, retry_at), if room => match accepted {
                    Ok((stream, peer)) => {
                        backoff.reset();
                        retry_at = None;
                        if let Err(error) = self.connections.open(stream, peer, &self.common) {
                            tracing::error!(%peer, %error, "cannot take a connection over");
                        }
                        if self.connections.len() == limit {
                            tracing::warn!(limit, "no further connections until one ends (--max-connections)");
                        }
                    }
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        let pause = backoff.next_delay();
                        retry_at = Some(Instant::now() + pause);
                        tracing::error!(%error, ?pause, "cannot accept connections");
                    }
                }
            }
        }
    }
}

/// Passes the check when the server has answered itself: a replica that is ready before its TLS is gets requests that
/// fail.
async fn run_self_check(self_check: SelfCheck, address: SocketAddr, common: Arc<Common>, serving: Check) {
    let mut backoff = Backoff::new(RETRY_DELAYS);
    loop {
        match self_check.ask(address).await {
            Ok(SelfCheckResult::Answered) => break serving.pass(),
            Ok(SelfCheckResult::Handshake) => {
                break serving.pass_with("tried by a handshake alone, since --client-ca asks for more");
            }
            Err(error) => {
                tracing::debug!(%error, "the server does not answer itself yet");
                serving.fail(format!("the server does not answer itself: {error}"));
                time::sleep(backoff.next_delay()).await;
            }
        }
    }
    common.self_check_passed.store(true, Ordering::Relaxed);
}

async fn listen(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let bind = async {
        let listener = TcpListener::bind(wanted).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind.await.map_err(|source| ServerError::Bind { address: wanted, source })
}

/// Waits out the pause, then for a connection. May be dropped at any await without losing one.
async fn accept(listener: &TcpListener, pause: Option<Instant>) -> io::Result<(TcpStream, SocketAddr)> {
    if let Some(end) = pause {
        time::sleep_until(end).await;
    }
    listener.accept().await
}

/// The client was gone before it was accepted. Any other error is about this process or machine, and lasts.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A socket could not be bound.
    #[error("cannot listen on {address}: choose an address of this machine and a port that is free")]
    Bind {
        /// The address that was wanted.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// There are no threads for connections.
    #[error("cannot start the threads that serve connections: the process has reached a limit of its system")]
    Threads(#[source] io::Error),
    /// The limits make no server.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
