//! The built program: `nicplug serve` with its certificates, alone or behind the chart's Service and webhooks.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{
    api_server::{
        ApiServer,
        service::Service,
        webhooks::{FailurePolicy, Registration},
    },
    client::get,
    folder::Folder,
    wait::eventually,
};

/// A running `nicplug serve`; killed when it is dropped.
pub(crate) struct Replica {
    child: Child,
    certificates: Arc<Folder>,
    address: Option<SocketAddr>,
    health: Option<SocketAddr>,
    log: Arc<Mutex<Vec<Value>>>,
    /// Reads the log to its end.
    reader: Option<JoinHandle<()>>,
}

impl Replica {
    /// Starts `nicplug serve FLAGS…` on free ports of 127.0.0.1 and waits until it is ready. Flags such as `--listen`
    /// replace the defaults of this function.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &[]).await
    }

    /// As [`start`](Self::start), with environment variables.
    pub(crate) async fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::launch(Arc::new(certificates(&[])), "127.0.0.1:0", flags, environment).await
    }

    /// As [`start_with`](Self::start_with), another build of the program. It may not be ready yet.
    pub(crate) async fn start_program(program: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawn(program, Arc::new(certificates(&[])), "127.0.0.1:0", flags, environment).await
    }

    /// Starts it on the ClusterIP of a Service, with a certificate for the Service's name.
    pub(crate) async fn start_on(service: &Service, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let certificates = Arc::new(certificates(&["--host", &service.host()]));
        Self::launch(certificates, &service.address().to_string(), flags, environment).await
    }

    /// Starts it on a free port, with a certificate for the name of a Service that a double of kube-proxy serves.
    pub(crate) async fn start_behind(service: &Service, flags: &[&str]) -> Self {
        let certificates = Arc::new(certificates(&["--host", &service.host()]));
        Self::launch(certificates, "127.0.0.1:0", flags, &[]).await
    }

    /// Starts another replica with the same certificate, on a free port.
    pub(crate) async fn another(&self, flags: &[&str]) -> Self {
        Self::launch(Arc::clone(&self.certificates), "127.0.0.1:0", flags, &[]).await
    }

    async fn launch(certificates: Arc<Folder>, listen: &str, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_nicplug"));
        let replica = Self::spawn(program, certificates, listen, flags, environment).await;
        eventually("/readyz answers 200", async || replica.is_ready().await.then_some(())).await;
        replica
    }

    async fn spawn(
        program: &Path,
        certificates: Arc<Folder>,
        listen: &str,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let file = |name: &str| certificates.path().join(name).to_str().unwrap().to_owned();
        let (chain, key) = (file("tls.crt"), file("tls.key"));
        let mut defaults = vec![
            ("--tls-cert", chain.as_str()),
            ("--tls-key", &key),
            ("--listen", listen),
            ("--health-listen", "127.0.0.1:0"),
            ("--drain-grace", "10ms"),
            ("--log-format", "json"),
        ];
        defaults.retain(|(flag, _)| !flags.iter().any(|given| given.split('=').next() == Some(flag)));
        let mut command = Command::new(program);
        command.arg("serve").args(defaults.iter().flat_map(|(flag, value)| [*flag, value])).args(flags);
        // A test never uses the cluster of the developer.
        command.env_remove("KUBECONFIG");
        let mut child = command.envs(environment.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();

        let log = Arc::<Mutex<Vec<Value>>>::default();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let written = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                written.lock().unwrap().push(line);
            }
        });
        let mut replica = Self { child, certificates, address: None, health: None, log, reader: Some(reader) };
        replica.health = Some(replica.logged_address("health checks").await);
        replica.address = Some(replica.logged_address("serving").await);
        replica
    }

    /// Waits for the log line that has the address of a listener.
    async fn logged_address(&self, message: &str) -> SocketAddr {
        eventually(message, async || {
            assert!(!self.reader.as_ref().unwrap().is_finished(), "nicplug has ended: {:?}", self.log());
            let log = self.log.lock().unwrap();
            let line = log.iter().find(|line| line["message"] == message)?;
            line["address"].as_str()?.parse().ok()
        })
        .await
    }

    /// Returns the log so far; each line is an object.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// Returns where it serves `/validate` and `/mutate`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// Returns the body of `/livez`, `/readyz` or `/metrics`.
    pub(crate) async fn page(&self, path: &str) -> String {
        get(self.health.unwrap(), path).await.1
    }

    /// Returns whether `/readyz` answers 200.
    pub(crate) async fn is_ready(&self) -> bool {
        get(self.health.unwrap(), "/readyz").await.0 == 200
    }

    /// Returns its CA (PEM).
    pub(crate) fn ca(&self) -> String {
        fs::read_to_string(self.certificates.path().join("ca.crt")).unwrap()
    }

    /// Sends SIGTERM, as the kubelet does. A second one ends the grace period.
    pub(crate) fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Sends SIGTERM, waits for the end and returns the whole log. Its last line counts requests by their outcome.
    pub(crate) async fn stop(mut self) -> Vec<Value> {
        self.terminate();
        let reader = self.reader.take().unwrap();
        spawn_blocking(move || reader.join().unwrap()).await.unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        self.log()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // A stopped one has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a folder with the files of `nicplug certs`.
fn certificates(flags: &[&str]) -> Folder {
    let folder = Folder::new("certificates");
    let output = Command::new(env!("CARGO_BIN_EXE_nicplug")).arg("certs").arg(folder.path()).args(flags).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    folder
}

/// nicplug as the chart deploys it, for one namespace: a replica on the ClusterIP of the chart's Service, which the API
/// server calls by the chart's webhook configurations.
pub(crate) struct Deployment {
    pub(crate) replica: Replica,
    pub(crate) registration: Registration,
    /// Keeps the ClusterIP reserved.
    pub(crate) service: Service,
}

impl Deployment {
    /// Starts nicplug with these flags and environment variables, and waits until both webhooks answer.
    pub(crate) async fn start(
        api: &ApiServer,
        namespace: &str,
        policy: FailurePolicy,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let service = Service::create(api, namespace).await;
        let replica = Replica::start_on(&service, flags, environment).await;
        let registration = Registration::install(api, &service, &replica.ca(), policy).await;
        Self { replica, registration, service }
    }
}
