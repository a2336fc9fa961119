//! `nicplug serve`: the webhook server.

mod activation;
mod certificates;
mod leader_task;
mod logs;
mod persist;
mod replica;
mod settings;
mod signals;
mod source;
mod traces;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, value_parser};
use tokio::runtime::Builder;

use self::{
    activation::ActivationArgs,
    certificates::CertificateArgs,
    leader_task::LeaderTask,
    logs::LogArgs,
    persist::PersistArgs,
    replica::identity,
    settings::LiveSettingsArgs,
    source::{Source, SourceArgs},
    traces::TraceArgs,
};
use super::values::{HumanDuration, HumanSize};
use crate::{
    admission::Reviewer,
    k8s::events::{EventQueue, Events},
    server::{
        Config, Drain, Limits, Server,
        denials::MAX_NAMESPACES,
        reload::every,
        tls::{CertResolver, ClientCas},
    },
};

/// The reporting controller of Events that are not about persist, as a qualified name.
const CONTROLLER: &str = "nicplug.io/webhook";

/// The interval at which the conditions of webhook activation are checked, while the webhooks are inactive.
const ACTIVATION_INTERVAL: Duration = Duration::from_millis(500);

/// Serve the webhooks: POST /validate and POST /mutate over TLS.
///
/// Each flag has an environment variable. Durations are written as in Go (500ms, 10s, 1m30s), sizes in bytes or with a
/// unit (512KiB, 8MiB).
///
/// SIGTERM or SIGINT starts the shutdown: /readyz fails at once; for the time of --drain-grace the server accepts new
/// connections, and closes each connection after its response. Then it closes idle connections, waits for the others
/// until --drain-deadline, and exits with status 0.
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: LiveSettingsArgs,

    #[command(flatten)]
    certificates: CertificateArgs,

    /// Address of /validate and /mutate: HTTP/1.1 over TLS 1.2 and 1.3.
    #[arg(long, value_name = "ADDRESS", env = "NICPLUG_LISTEN", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Address of /livez, /readyz (?verbose lists the checks) and /metrics: plain HTTP.
    #[arg(long, value_name = "ADDRESS", env = "NICPLUG_HEALTH_LISTEN", default_value = "127.0.0.1:8444")]
    health_listen: SocketAddr,
    /// CA certificates, PEM. With this flag a client must present a certificate that one of these CAs has signed. The
    /// API server presents one only if its AdmissionConfiguration names one.
    #[arg(long, value_name = "FILE", env = "NICPLUG_CLIENT_CA")]
    client_ca: Option<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    persist: PersistArgs,
    #[command(flatten)]
    activation: ActivationArgs,

    /// Maximum size of a request body. A larger body gets 413.
    #[arg(long, value_name = "SIZE", env = "NICPLUG_MAX_BODY", default_value_t = HumanSize(Limits::default().body))]
    #[arg(help_heading = "Limits")]
    max_body: HumanSize,
    /// Maximum size of all request bodies together that are read or reviewed at once. One more gets 503 with
    /// Retry-After.
    #[arg(long, value_name = "SIZE", env = "NICPLUG_MAX_BODIES")]
    #[arg(default_value_t = HumanSize(Limits::default().bodies), help_heading = "Limits")]
    max_bodies: HumanSize,
    /// Maximum number of requests that are reviewed at once. One more gets 503 with Retry-After.
    #[arg(long, value_name = "COUNT", env = "NICPLUG_MAX_IN_FLIGHT", default_value_t = Limits::default().in_flight)]
    #[arg(help_heading = "Limits")]
    max_in_flight: usize,
    /// Maximum number of open connections, a quarter of them in their TLS handshake. One more closes the one that is idle
    /// longest, else one whose request is incomplete after a second, or waits if there is none. The number is reduced
    /// if the process may not open so many files.
    #[arg(long, value_name = "COUNT", env = "NICPLUG_MAX_CONNECTIONS", default_value_t = Limits::default().connections)]
    #[arg(help_heading = "Limits")]
    max_connections: usize,
    /// Maximum age of a connection; the next response closes it. Each connection gets a random age between half of this
    /// value and all of it. Without the limit an API server would keep all connections to one replica.
    #[arg(long, value_name = "TIME", env = "NICPLUG_MAX_CONNECTION_AGE")]
    #[arg(default_value_t = HumanDuration(Limits::default().connection_age), help_heading = "Limits")]
    max_connection_age: HumanDuration,
    /// Maximum number of requests on a connection; the response to the last one closes it. Each connection gets a
    /// random number between half of this value and all of it.
    #[arg(long, value_name = "COUNT", env = "NICPLUG_MAX_CONNECTION_REQUESTS")]
    #[arg(default_value_t = Limits::default().connection_requests, help_heading = "Limits")]
    max_connection_requests: usize,
    /// Maximum time to read a body and answer it; then the response is 504. A ?timeout= of the API server can only
    /// shorten it: nicplug subtracts a tenth of it, at most 500ms, so that the response arrives in time.
    #[arg(long, value_name = "TIME", env = "NICPLUG_REQUEST_TIMEOUT")]
    #[arg(default_value_t = HumanDuration(Limits::default().request), help_heading = "Limits")]
    request_timeout: HumanDuration,
    /// Maximum time of a TLS handshake.
    #[arg(long, value_name = "TIME", env = "NICPLUG_HANDSHAKE_TIMEOUT")]
    #[arg(default_value_t = HumanDuration(Limits::default().handshake), help_heading = "Limits")]
    handshake_timeout: HumanDuration,
    /// Maximum time from the first byte of a request to the end of its header.
    #[arg(long, value_name = "TIME", env = "NICPLUG_HEADER_TIMEOUT")]
    #[arg(default_value_t = HumanDuration(Limits::default().header), help_heading = "Limits")]
    header_timeout: HumanDuration,
    /// Maximum time without a request on an open connection. The API server closes an idle connection after 90s: choose
    /// a longer time, so that nicplug does not close a connection while a request arrives.
    #[arg(long, value_name = "TIME", env = "NICPLUG_IDLE_TIMEOUT")]
    #[arg(default_value_t = HumanDuration(Limits::default().idle), help_heading = "Limits")]
    idle_timeout: HumanDuration,

    /// How long the server accepts new connections after SIGTERM or SIGINT, while /readyz fails and each response
    /// closes its connection. A second signal ends the wait.
    #[arg(long, value_name = "TIME", env = "NICPLUG_DRAIN_GRACE")]
    #[arg(default_value_t = HumanDuration(Drain::default().grace), help_heading = "Shutdown")]
    drain_grace: HumanDuration,
    /// Time after the signal at which the server closes all remaining connections. It must be shorter than the pod's
    /// terminationGracePeriodSeconds.
    #[arg(long, value_name = "TIME", env = "NICPLUG_DRAIN_DEADLINE")]
    #[arg(default_value_t = HumanDuration(Drain::default().deadline), help_heading = "Shutdown")]
    drain_deadline: HumanDuration,

    /// Number of namespaces that nicplug_denials_total tells apart, from 0 (none) to 1000: the first ones with a denial
    /// have their own series, and all others together one series for each kind of requester. A client that may read
    /// the metrics reads the names.
    #[arg(
        long,
        value_name = "COUNT",
        env = "NICPLUG_DENIAL_NAMESPACES",
        default_value_t = 0,
        help_heading = "Metrics"
    )]
    #[arg(value_parser = value_parser!(u16).range(..=i64::from(MAX_NAMESPACES)))]
    denial_namespaces: u16,

    #[command(flatten)]
    logs: LogArgs,
    #[command(flatten)]
    traces: TraceArgs,
}

impl ServeArgs {
    /// Serves until a signal; fails only if the server cannot start.
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let (log, log_end) = self.logs.start()?;
        let settings = self.settings.open()?;
        let collector = self.traces.collector()?;
        let certificate = self.certificates.open()?;
        let mut config = self.config(certificate.resolver())?;
        // Connections have their own threads; this one runs the background tasks.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        runtime.block_on(async {
            tokio::spawn(log.follow().context("cannot receive signals")?);
            let (shutdown, force_shutdown) = signals::stops().context("cannot receive signals")?;
            let Source { facts, watches, leader } = self.source.open(&self.persist, settings.current()).await?;
            let queue = watches
                .as_ref()
                .map(|watches| EventQueue::start(Events::new(watches.client().clone(), CONTROLLER, &identity())));
            let activation = self.activation.activation(&self.source).await?;
            config.activation = activation.as_ref().map(|activation| activation.activation());
            (config.watches, config.events) = (watches, queue.clone());
            config.persist = leader.as_ref().and_then(|leader| leader.persist.clone());
            config.leader = leader.as_ref().map(|leader| leader.leads.clone());
            config.pending = leader.as_ref().and_then(|leader| leader.pending.clone());
            let export = collector.map(traces::start);
            config.spans = export.as_ref().map(|export| export.spans().clone());
            let mut server = Server::bind(config, Reviewer::new(facts, settings.current())).await?;
            server.add_log(log_end.queue().clone());
            settings.start(&mut server, queue);
            let check = server.readiness().add("certificate", "not read yet");
            let certificate = certificate.start(check, &self.source).await?;
            if let Some(activation) = activation {
                let readiness = server.readiness().clone();
                tokio::spawn(async move { activation.run(|| readiness.is_ready(), every(ACTIVATION_INTERVAL)).await });
            }
            let mut leader_tasks: Vec<_> = leader.map(|leader| leader.task).into_iter().chain(certificate).collect();
            let shutdown = async {
                shutdown.await;
                // Another replica can lead while this one still answers its last requests.
                leader_tasks.iter_mut().for_each(LeaderTask::stop);
            };
            server.run_until(shutdown, force_shutdown).await;
            for task in leader_tasks {
                task.join().await;
            }
            if let Some(export) = export {
                export.finish().await;
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// Builds the server's configuration as far as the flags determine it; reads the CAs of clients.
    fn config(&self, certificate: CertResolver) -> anyhow::Result<Config> {
        let client_cas = self.client_ca.as_deref().map(ClientCas::from_file).transpose();
        Ok(Config {
            listen: self.listen,
            health_listen: Some(self.health_listen),
            client_cas: client_cas.context("--client-ca")?,
            limits: Limits {
                body: self.max_body.0,
                bodies: self.max_bodies.0,
                in_flight: self.max_in_flight,
                connections: self.max_connections,
                request: self.request_timeout.0,
                handshake: self.handshake_timeout.0,
                header: self.header_timeout.0,
                idle: self.idle_timeout.0,
                connection_age: self.max_connection_age.0,
                connection_requests: self.max_connection_requests,
                ..Limits::default()
            },
            denial_namespaces: self.denial_namespaces.into(),
            drain: Drain { grace: self.drain_grace.0, deadline: self.drain_deadline.0 },
            ..Config::new(certificate)
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(flags: &[&str]) -> Result<ServeArgs, clap::Error> {
        let line = ["nicplug", "--tls-cert", "missing.crt", "--tls-key", "missing.key"];
        Line::try_parse_from(line.iter().chain(flags)).map(|line| line.serve)
    }

    #[test]
    fn the_flags_default_to_the_limits_of_the_server() {
        let args = parse(&[]).unwrap();
        let (limits, drain) = (Limits::default(), Drain::default());
        assert_eq!((args.max_body.0, args.idle_timeout.0), (limits.body, limits.idle));
        assert_eq!((args.drain_grace.0, args.drain_deadline.0), (drain.grace, drain.deadline));
    }

    #[test]
    fn facts_come_from_files_or_from_a_cluster_but_not_from_both() {
        assert!(parse(&["--facts", "none"]).is_ok() && parse(&["--kubeconfig", "k", "--context", "c"]).is_ok());
        let error = parse(&["--facts", "none", "--kubeconfig", "k"]).err().unwrap().to_string();
        assert!(error.contains("--facts") && error.contains("--kubeconfig"), "{error}");
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_a_default_unless_it_names_an_object_or_a_file() {
        use clap::CommandFactory;
        for arg in Line::command().get_arguments() {
            let name = arg.get_long().unwrap();
            let variable = match name {
                // The name that OpenTelemetry specifies for all programs.
                "otlp-endpoint" => "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
                _ => format!("NICPLUG_{}", name.replace('-', "_").to_uppercase()),
            };
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(variable.as_str()), "--{name}");
            let names_an_object = matches!(
                name,
                "activation-binding"
                    | "activation-service"
                    | "cert-dns-name"
                    | "cert-namespace"
                    | "cert-secret"
                    | "client-ca"
                    | "context"
                    | "facts"
                    | "kubeconfig"
                    | "lease-namespace"
                    | "log-filter-file"
                    | "otlp-endpoint"
                    | "settings"
                    | "tls-cert"
                    | "tls-key"
                    | "webhook-config"
            );
            assert_eq!(arg.get_default_values().is_empty(), names_an_object, "--{name}");
        }
    }
}
