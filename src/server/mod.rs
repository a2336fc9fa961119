//! The HTTPS server of the webhook: its listeners, its connections and its shutdown.
//!
//! It serves HTTP/1.1 over TLS, which the API server uses for a webhook behind a Service (since Kubernetes 1.16 it does
//! not use HTTP/2 for that). Each connection is one task with one timer (`connection.rs`), which stays on one thread
//! (`connection/threads.rs`).
//!
//! The shutdown has three steps, because a request that a client sends while its connection is being closed is lost,
//! and the API server does not repeat it:
//!
//! 1. `/readyz` fails at once. For the *grace* period new connections are still accepted, because endpoints are updated
//!    slowly, and every answer has `Connection: close`, so that clients close their connections;
//! 2. then no connection is accepted, and connections without a request are closed;
//! 3. at the *deadline* the remaining connections are aborted.

mod acceptor;
mod body;
mod change_events;
mod connection;
mod counts;
pub mod deadline;
mod decision_log;
mod denial_events;
pub mod denials;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod in_flight;
mod limits;
mod metrics;
mod open_files;
mod overload;
pub mod readiness;
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
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};

use self::{
    acceptor::Acceptor,
    body::BodyBudget,
    change_events::ChangeEvents,
    connection::{ConnectionContext, threads::Connections},
    denial_events::DenialEvents,
    denials::DenialCounts,
    in_flight::InFlight,
    metrics::Metrics,
    overload::Overload,
    readiness::{Check, Readiness},
    recheck::Rechecker,
    reload::settings::ReloadCounts,
    routes::AppState,
    self_check::{SelfCheck, SelfCheckResult},
    tls::{CertResolver, ClientCas, TlsError},
};
pub use self::{
    counts::Counts,
    limits::{Drain, LimitError, Limits},
};
use crate::{
    admission::{Decision, Reviewer},
    certificates::crypto,
    cluster::watch::Watches,
    controllers::{
        changes::ChangeFollower, pending::PendingCounts, persist::PersistStatus, webhook_activation::Activation,
    },
    k8s::{
        backoff::{Backoff, Delays},
        events::EventQueue,
    },
    telemetry::{LogQueue, spans::Spans},
};

/// The delays between failed accepts, and between failed self-checks: an immediate retry would only use the CPU.
const RETRY_DELAYS: Delays = Delays { first: Duration::from_millis(10), longest: Duration::from_secs(1) };

/// The configuration of a server.
#[derive(Debug)]
pub struct Config {
    /// The address of `/validate` and `/mutate`, over TLS. Port 0 selects a free port.
    pub listen: SocketAddr,
    /// The address of `/livez`, `/readyz` and `/metrics`, over plain HTTP; `None` for no such listener.
    pub health_listen: Option<SocketAddr>,
    /// The serving certificate. A clone can replace it while the server runs.
    pub certificate: CertResolver,
    /// The CAs of client certificates; `None` if clients need no certificate.
    pub client_cas: Option<ClientCas>,
    /// Limits of connections and requests.
    pub limits: Limits,
    /// The times of the shutdown.
    pub drain: Drain,
    /// The watches of the cluster from which the reviewer's facts come, if any. The server is ready when all watches
    /// are, and reads the cluster again before a denial that depends on facts.
    pub watches: Option<Watches>,
    /// The queue for Events about denied requests of KubeVirt and about changes of running VMs; needs `watches`.
    pub events: Option<EventQueue>,
    /// The number of namespaces that the metric of denials tells apart; 0 for none.
    pub denial_namespaces: usize,
    /// The numbers of pending NICs, for the metrics, if this process follows them.
    pub pending: Option<PendingCounts>,
    /// Whether this process is the leader, for the metrics, if it takes part in the election.
    pub leader: Option<watch::Receiver<bool>>,
    /// The status of the persist controller, for the metrics, if it runs in this process.
    pub persist: Option<PersistStatus>,
    /// The webhook activation, for the metrics and `/readyz`, if this process manages it.
    pub activation: Option<watch::Receiver<Activation>>,
    /// The exporter of a span per request, if any.
    pub spans: Option<Spans>,
}

impl Config {
    /// Returns a minimal configuration: a free port of loopback, no health listener, no cluster, and the default
    /// limits.
    #[must_use]
    pub fn new(certificate: CertResolver) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            health_listen: None,
            certificate,
            client_cas: None,
            limits: Limits::default(),
            drain: Drain::default(),
            watches: None,
            events: None,
            denial_namespaces: 0,
            pending: None,
            leader: None,
            persist: None,
            activation: None,
            spans: None,
        }
    }
}

/// A server with bound sockets, which answers once it [runs](Server::run).
pub struct Server {
    acceptor: Acceptor,
    address: SocketAddr,
    health: Option<(TcpListener, SocketAddr)>,
    context: Arc<ConnectionContext>,
    counts: Counts,
    readiness: Readiness,
    serving: Check,
    metrics: Metrics,
    self_check: SelfCheck,
    drain: Drain,
    _watches: Option<Watches>,
}

impl Server {
    /// Binds the sockets, and checks the configuration.
    ///
    /// # Errors
    /// An address cannot be bound, the certificates cannot be used, or the limits are invalid.
    pub async fn bind(config: Config, reviewer: Reviewer) -> Result<Self, ServerError> {
        limits::check(&config.limits, &config.drain)?;
        let Config { listen: wanted, health_listen, certificate, client_cas, mut limits, drain, .. } = config;
        let connections = Connections::new().map_err(ServerError::Threads)?;
        limits.connections = open_files::hold_to_limit(limits.connections);
        let (watches, events, spans) = (config.watches, config.events, config.spans);
        let self_check = SelfCheck::new(certificate.clone(), client_cas.is_some());
        let counts = Counts::default();
        let in_flight = Arc::new(InFlight::new(limits.in_flight));
        let bodies = Arc::new(BodyBudget::new(limits.bodies));
        let limit = limits.connections;
        let mut metrics =
            Metrics::new(counts.clone(), Arc::clone(&in_flight), Arc::clone(&bodies), certificate.clone(), limit);
        let denials = DenialCounts::new(config.denial_namespaces);
        metrics.add_denials(denials.clone());
        let tls = tls::server_config(certificate, client_cas)?;
        let (listener, address) = listen(wanted).await?;
        let health = match health_listen {
            Some(wanted) => Some(listen(wanted).await?),
            None => None,
        };
        let readiness = Readiness::default();
        let serving = readiness.add("webhook", "not accepting connections yet");
        let removed = counts.clone();
        readiness.add_computed("connections", move || health::connection_health(removed.removed(), limit));
        let rechecker = watches.as_ref().map(|watches| {
            metrics.add_facts(Arc::clone(watches.cache()), watches.statuses().clone());
            for record in watches.statuses().iter() {
                let record = Arc::clone(record);
                readiness.add_computed(format!("facts/{}", record.kind), move || health::watch_health(&record));
            }
            Rechecker::new(watches.client().clone())
        });
        if let Some(rechecker) = &rechecker {
            metrics.add_rechecks(rechecker.counts().clone());
        }
        if let Some(queue) = &events {
            metrics.add_events(queue.clone());
        }
        if let Some(is_leader) = config.leader {
            metrics.add_leader(is_leader);
        }
        if let Some(pending) = config.pending {
            metrics.add_pending(pending);
        }
        if let Some(persist) = config.persist {
            metrics.add_persist(persist);
        }
        if let Some(activation) = config.activation {
            metrics.add_activation(activation.clone());
            readiness.add_computed("webhook-activation", move || health::activation_health(&activation.borrow()));
        }
        if let Some(spans) = &spans {
            metrics.add_spans(spans.clone());
        }
        let change_events = watches
            .as_ref()
            .zip(events.clone())
            .map(|(watches, queue)| ChangeEvents::new(ChangeFollower::start(watches.client().clone(), queue)));
        let denial_events =
            watches.as_ref().zip(events).map(|(watches, queue)| DenialEvents::new(Arc::clone(watches.cache()), queue));
        let router = routes::router(AppState {
            reviewer,
            rechecker,
            denial_events,
            change_events,
            denials,
            counts: counts.clone(),
            in_flight,
            overload: Overload::new(),
            spans,
            max_body: limits.body,
            bodies,
            body_window: limits.body_window,
            timeout: limits.request,
        });
        let context = Arc::new(ConnectionContext::new(tls, router, limits, counts.clone()));
        let acceptor = Acceptor::new(listener, connections, Arc::clone(&context), counts.clone())
            .map_err(|source| ServerError::Bind { address, source })?;
        Ok(Self {
            acceptor,
            address,
            health,
            context,
            counts,
            readiness,
            serving,
            metrics,
            self_check,
            drain,
            _watches: watches,
        })
    }

    /// Returns the address of `/validate` and `/mutate`.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of `/livez`, `/readyz` and `/metrics`, if there is one.
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health.as_ref().map(|(_, address)| *address)
    }

    /// Returns the counters of requests.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the checks of `/readyz`, to which callers can add theirs.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Adds the metrics of a settings file.
    pub fn add_settings_counts(&mut self, counts: ReloadCounts) {
        self.metrics.add_settings(counts);
    }

    /// Adds the metrics of the queue of log lines.
    pub fn add_log(&mut self, queue: LogQueue) {
        self.metrics.add_log(queue);
    }

    /// Serves until `shutdown`, then shuts down as described at the top of this module.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        self.run_until(shutdown, future::pending()).await;
    }

    /// As [`run`](Server::run); `end_grace` ends the grace period early.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>, end_grace: impl Future<Output = ()>) {
        // Its tasks end when it is dropped at the end of this function.
        let mut health = JoinSet::new();
        if let Some((listener, address)) = self.health.take() {
            tracing::info!(%address, "health checks");
            let metrics = std::mem::take(&mut self.metrics);
            health.spawn(health::serve(listener, self.readiness.clone(), metrics));
        }
        tracing::info!(address = %self.address, cryptography = crypto::name(), "serving");
        let mut self_checks = JoinSet::new();
        self_checks.spawn(run_self_check(
            self.self_check.clone(),
            self.address,
            Arc::clone(&self.context),
            self.serving.clone(),
        ));
        self.acceptor = self.acceptor.accept_until(shutdown).await;
        // A late self-check must not set the replica to ready again.
        self_checks.shutdown().await;

        let deadline = Instant::now() + self.drain.deadline;
        // In this order, so that a client which has seen the failing check gets `Connection: close`.
        self.context.begin_draining();
        self.serving.fail("shutting down");
        tracing::info!(connections = self.acceptor.open_connections(), grace = ?self.drain.grace, "draining");
        let grace = self.drain.grace;
        let grace_ended = async {
            tokio::select! {
                () = time::sleep(grace) => {}
                () = end_grace => {}
            }
        };
        let connections = self.acceptor.accept_until(grace_ended).await.into_connections();
        connections.close_idle();
        if time::timeout_at(deadline, connections.all_ended()).await.is_err() {
            tracing::warn!(connections = connections.len(), "aborted the remaining connections at the deadline");
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
}

/// Sets the check to passing after a successful self-check: a replica that is ready before it has a certificate would
/// get requests that fail.
async fn run_self_check(self_check: SelfCheck, address: SocketAddr, context: Arc<ConnectionContext>, serving: Check) {
    let mut backoff = Backoff::new(RETRY_DELAYS);
    loop {
        match self_check.run(address).await {
            Ok(SelfCheckResult::Answered) => break serving.pass(),
            Ok(SelfCheckResult::Handshake) => {
                break serving
                    .pass_with("checked by a TLS handshake only, because --client-ca requires a client certificate");
            }
            Err(error) => {
                tracing::debug!(%error, "the self-check fails so far");
                serving.fail(format!("the self-check fails: {error}"));
                time::sleep(backoff.next_delay()).await;
            }
        }
    }
    context.self_check_passed.store(true, Ordering::Relaxed);
}

async fn listen(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let bind = async {
        let listener = TcpListener::bind(wanted).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind.await.map_err(|source| ServerError::Bind { address: wanted, source })
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A socket cannot be bound.
    #[error("cannot listen on {address}: use an address of this machine and a free port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The threads for connections cannot start.
    #[error("cannot start the threads for connections: the process has reached a limit of the system")]
    Threads(#[source] io::Error),
    /// The limits are invalid.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
