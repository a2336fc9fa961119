//! `nicplug serve`: the webhook.

mod calls;
mod certificates;
mod live_settings;
mod logs;
mod persist;
pub(super) mod source;
mod traces;

use std::{env, fmt, net::SocketAddr, path::PathBuf, process::ExitCode, str::FromStr, time::Duration};

use anyhow::Context;
use clap::Args;
use kube::Client;
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use self::{
    calls::CallArgs,
    certificates::CertificateArgs,
    live_settings::LiveSettingsArgs,
    logs::LogArgs,
    persist::PersistArgs,
    source::{Source, SourceArgs},
    traces::TraceArgs,
};
use crate::{
    admission::Reviewer,
    k8s::events::{EventQueue, Events},
    server::{
        Config, Drain, Limits, Server,
        deadline::parse_duration,
        reload::every,
        tls::{CertResolver, ClientAuthorities},
    },
};

/// Who reports events that are not about mirrored NICs, as a qualified name.
const CONTROLLER: &str = "nicplug.io/webhook";

/// How often to look whether the API server may be let call, while it may not.
const CALL_INTERVAL: Duration = Duration::from_millis(500);

/// Serve the webhook: POST /validate and /mutate over TLS.
///
/// Every flag has a twin in the environment. Durations are written as in Go (500ms, 10s, 1m30s), sizes in bytes or with
/// a unit (512KiB, 8MiB).
///
/// SIGTERM or SIGINT ends it: /readyz fails at once, new connections are taken for a while longer and every answer closes
/// its connection; then idle connections are closed and the exit status is 0.
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: LiveSettingsArgs,

    #[command(flatten)]
    certificates: CertificateArgs,

    /// Where to serve /validate and /mutate, over TLS 1.2 and 1.3 with HTTP/1.1.
    #[arg(long, value_name = "ADDRESS", env = "NICPLUG_LISTEN", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where to serve /livez, /readyz (?verbose lists the checks) and /metrics, in plain HTTP.
    #[arg(long, value_name = "ADDRESS", env = "NICPLUG_HEALTH_LISTEN", default_value = "127.0.0.1:8444")]
    health_listen: SocketAddr,
    /// Authorities of client certificates, PEM: whoever shows none that they signed is refused by TLS. The API server
    /// shows one only if its AdmissionConfiguration says so.
    #[arg(long, value_name = "FILE", env = "NICPLUG_CLIENT_CA")]
    client_ca: Option<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    persist: PersistArgs,
    #[command(flatten)]
    calls: CallArgs,

    /// Largest body of a request; a larger one gets 413.
    #[arg(long, value_name = "SIZE", env = "NICPLUG_MAX_BODY", default_value_t = Size(Limits::default().body))]
    #[arg(help_heading = "Limits")]
    max_body: Size,
    /// Requests read and judged at once; a further one gets 503 with Retry-After.
    #[arg(long, value_name = "COUNT", env = "NICPLUG_MAX_IN_FLIGHT", default_value_t = Limits::default().in_flight)]
    #[arg(help_heading = "Limits")]
    max_in_flight: usize,
    /// Connections open at once; a further one waits until another ends.
    #[arg(long, value_name = "COUNT", env = "NICPLUG_MAX_CONNECTIONS", default_value_t = Limits::default().connections)]
    #[arg(help_heading = "Limits")]
    max_connections: usize,
    /// Oldest age of a connection: the answer that is due then closes it. Each is given from a half to the whole of it, at
    /// random. An API server would keep its connections to one replica for ever, and leave the others idle.
    #[arg(long, value_name = "TIME", env = "NICPLUG_MAX_CONNECTION_AGE")]
    #[arg(default_value_t = Span(Limits::default().connection_age), help_heading = "Limits")]
    max_connection_age: Span,
    /// Most requests of a connection: the answer to the last one closes it. Each is given from a half to all of them.
    #[arg(long, value_name = "COUNT", env = "NICPLUG_MAX_CONNECTION_REQUESTS")]
    #[arg(default_value_t = Limits::default().connection_requests, help_heading = "Limits")]
    max_connection_requests: usize,
    /// Longest time for a body to arrive and be answered, then 504. The ?timeout= of the API server can only shorten it:
    /// a tenth of that, half a second at most, is kept for the way back.
    #[arg(long, value_name = "TIME", env = "NICPLUG_REQUEST_TIMEOUT", default_value_t = Span(Limits::default().request))]
    #[arg(help_heading = "Limits")]
    request_timeout: Span,
    /// Longest time for a TLS handshake.
    #[arg(long, value_name = "TIME", env = "NICPLUG_HANDSHAKE_TIMEOUT", default_value_t = Span(Limits::default().handshake))]
    #[arg(help_heading = "Limits")]
    handshake_timeout: Span,
    /// Longest time from the first byte of a request to the end of its header.
    #[arg(long, value_name = "TIME", env = "NICPLUG_HEADER_TIMEOUT", default_value_t = Span(Limits::default().header))]
    #[arg(help_heading = "Limits")]
    header_timeout: Span,
    /// How long a connection may be open without a request. The API server closes it after 90s itself; make this longer,
    /// so that no request is lost on a connection that is just being closed.
    #[arg(long, value_name = "TIME", env = "NICPLUG_IDLE_TIMEOUT", default_value_t = Span(Limits::default().idle))]
    #[arg(help_heading = "Limits")]
    idle_timeout: Span,

    /// After SIGTERM or SIGINT, how long new connections are still taken, while /readyz fails and every answer closes
    /// its connection. A second signal ends it at once.
    #[arg(long, value_name = "TIME", env = "NICPLUG_DRAIN_GRACE", default_value_t = Span(Drain::default().grace))]
    #[arg(help_heading = "Shutdown")]
    drain_grace: Span,
    /// When to cut off what is left, counted from the signal; keep it below the pod's terminationGracePeriodSeconds.
    #[arg(long, value_name = "TIME", env = "NICPLUG_DRAIN_DEADLINE", default_value_t = Span(Drain::default().deadline))]
    #[arg(help_heading = "Shutdown")]
    drain_deadline: Span,

    #[command(flatten)]
    logs: LogArgs,
    #[command(flatten)]
    traces: TraceArgs,
}

impl ServeArgs {
    /// Serves until a signal; fails only where the server cannot start.
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let log = self.logs.start()?;
        let settings = self.settings.open()?;
        let collector = self.traces.collector()?;
        let certificate = self.certificates.source()?;
        let mut config = self.config(certificate.shown())?;
        // Connections have threads of their own: this one is for what is done beside them.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("cannot start threads")?;
        runtime.block_on(async {
            tokio::spawn(log.follow().context("cannot receive signals")?);
            let (shutdown, hurry) = signals().context("cannot receive signals")?;
            let Source { facts, watches, mut persisting } = self.source.open(&self.persist).await?;
            let queue = watches
                .as_ref()
                .map(|watches| EventQueue::start(Events::new(watches.client().clone(), CONTROLLER, &identity())));
            let calls = self.calls.calls(&self.source).await?;
            config.calls = calls.as_ref().map(|calls| calls.activation());
            (config.watches, config.events) = (watches, queue.clone());
            config.mirroring = persisting.as_ref().map(|persisting| persisting.status().clone());
            let exporting = collector.map(traces::start);
            config.spans = exporting.as_ref().map(|exporting| exporting.spans().clone());
            let mut server = Server::bind(config, Reviewer::new(facts, settings.current())).await?;
            settings.keep(&mut server, queue);
            let check = server.readiness().add("certificate", "not looked at yet");
            let mut keeping = certificate.keep(check, &self.source).await?;
            if let Some(calls) = calls {
                let readiness = server.readiness().clone();
                tokio::spawn(async move { calls.run(|| readiness.is_ready(), every(CALL_INTERVAL)).await });
            }
            let shutdown = async {
                shutdown.await;
                // Another replica may lead before the last request here is answered.
                keeping.end();
                if let Some(persisting) = &mut persisting {
                    persisting.end();
                }
            };
            server.run_until(shutdown, hurry).await;
            if let Some(persisting) = persisting {
                persisting.ended().await;
            }
            keeping.ended().await;
            if let Some(exporting) = exporting {
                exporting.ended().await;
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// What the server needs to know besides its facts; reads the authorities of clients.
    fn config(&self, certificate: CertResolver) -> anyhow::Result<Config> {
        let client_authorities = self.client_ca.as_deref().map(ClientAuthorities::from_file).transpose();
        Ok(Config {
            listen: self.listen,
            health_listen: Some(self.health_listen),
            client_authorities: client_authorities.context("--client-ca")?,
            limits: Limits {
                body: self.max_body.0,
                in_flight: self.max_in_flight,
                connections: self.max_connections,
                request: self.request_timeout.0,
                handshake: self.handshake_timeout.0,
                header: self.header_timeout.0,
                idle: self.idle_timeout.0,
                connection_age: self.max_connection_age.0,
                connection_requests: self.max_connection_requests,
            },
            drain: Drain { grace: self.drain_grace.0, deadline: self.drain_deadline.0 },
            ..Config::new(certificate)
        })
    }
}

/// Who this replica is: its pod or machine, and a random end, since a name may be used again.
pub(super) fn identity() -> String {
    let name = ["POD_NAME", "HOSTNAME"].into_iter().find_map(environment);
    // An event names its reporter in 128 characters at most.
    let name: String = name.as_deref().unwrap_or("nicplug").chars().take(100).collect();
    format!("{name}_{:016x}", fastrand::u64(..))
}

/// The namespace of this pod; outside of one that of the kubeconfig.
fn own_namespace(client: &Client) -> String {
    environment("POD_NAMESPACE").unwrap_or_else(|| client.default_namespace().to_owned())
}

/// A variable of the environment; an empty one is as good as none.
fn environment(key: &str) -> Option<String> {
    env::var(key).ok().filter(|value| !value.is_empty())
}

/// The first and the second of the signals that ask for an end.
fn signals() -> std::io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, shutdown) = oneshot::channel();
    let (second, hurry) = oneshot::channel();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        // Nobody listens any more when the server has ended.
        let _ = first.send(());
        either(&mut terminate, &mut interrupt).await;
        let _ = second.send(());
    });
    Ok((until(shutdown), until(hurry)))
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

async fn until(told: oneshot::Receiver<()>) {
    let _ = told.await;
}

/// A duration of the command line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text)
            .map(Self)
            .ok_or_else(|| "write a number and a unit, such as 500ms, 10s or 1m30s".to_owned())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}

/// A number of bytes of the command line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Size(usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, shift) = match (text.strip_suffix("MiB"), text.strip_suffix("KiB")) {
            (Some(number), _) => (number, 20),
            (_, Some(number)) => (number, 10),
            _ => (text, 0),
        };
        let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| "write a number of bytes, such as 8388608, 512KiB or 8MiB".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes != 0 && bytes.is_multiple_of(1 << 20) => write!(formatter, "{}MiB", bytes >> 20),
            bytes if bytes != 0 && bytes.is_multiple_of(1 << 10) => write!(formatter, "{}KiB", bytes >> 10),
            bytes => write!(formatter, "{bytes}"),
        }
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
    fn sizes_and_spans_are_read_as_they_are_written() {
        for size in [Size(0), Size(1), Size(1000), Size(1024), Size(8 << 20)] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for span in [Duration::ZERO, Duration::from_millis(500), Duration::from_mins(2)].map(Span) {
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for text in ["", "8MB", "-1", "8 MiB", "99999999999999999999", "18446744073709551615MiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_flags_default_to_the_limits_of_the_server() {
        let args = parse(&[]).unwrap();
        let (limits, drain) = (Limits::default(), Drain::default());
        assert_eq!((args.max_body.0, args.idle_timeout.0), (limits.body, limits.idle));
        assert_eq!((args.drain_grace.0, args.drain_deadline.0), (drain.grace, drain.deadline));
    }

    #[test]
    fn no_two_replicas_have_one_name() {
        assert_ne!(identity(), identity());
    }

    #[test]
    fn facts_come_from_files_or_from_a_cluster_and_not_from_both() {
        assert!(parse(&["--facts", "none"]).is_ok() && parse(&["--kubeconfig", "k", "--context", "c"]).is_ok());
        let error = parse(&["--facts", "none", "--kubeconfig", "k"]).err().unwrap().to_string();
        assert!(error.contains("--facts") && error.contains("--kubeconfig"), "{error}");
    }

    #[test]
    fn every_limit_has_an_environment_twin_and_a_default_in_the_help() {
        use clap::CommandFactory;
        for arg in Line::command().get_arguments() {
            let name = arg.get_long().unwrap();
            let twin = match name {
                // All programs that export spans know it by this name.
                "otlp-endpoint" => "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
                _ => format!("NICPLUG_{}", name.replace('-', "_").to_uppercase()),
            };
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(twin.as_str()), "--{name}");
            let names_a_thing = matches!(
                name,
                "call-binding"
                    | "call-service"
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
            assert_eq!(arg.get_default_values().is_empty(), names_a_thing, "--{name}");
        }
    }
}
