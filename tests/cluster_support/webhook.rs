//! Our own webhook beside the API server: the built program, certificates that it made itself, and its registration.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hyper::http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_blocking,
};

use super::{
    Folder,
    apiserver::ApiServer,
    crds::Kind,
    eventually,
    request::{self, Run, send},
};

/// A running `nicplug serve`; killed when it is dropped.
pub(crate) struct Webhook {
    child: Child,
    folder: Folder,
    address: String,
    health: String,
    log: Arc<Mutex<Vec<Value>>>,
    /// Reads the log to its end.
    reader: Option<JoinHandle<()>>,
}

/// What the API server does where a webhook cannot be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FailurePolicy {
    Fail,
    Ignore,
}

/// The names of our two webhooks for one namespace, as the API server counts their calls.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) mutating: String,
    pub(crate) validating: String,
}

impl Webhook {
    /// Starts `nicplug serve FLAGS…` on free ports and waits until it is ready. Flags given here win, as `--listen`.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &[]).await
    }

    /// As [`start`](Self::start), with variables of the environment.
    pub(crate) async fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = Folder::new("webhook");
        let certificates =
            Command::new(env!("CARGO_BIN_EXE_nicplug")).arg("certs").arg(folder.path()).output().unwrap();
        assert!(certificates.status.success(), "{certificates:?}");
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (chain, key) = (file("tls.crt"), file("tls.key"));
        let mut defaults = vec![
            ("--tls-cert", chain.as_str()),
            ("--tls-key", &key),
            ("--listen", "127.0.0.1:0"),
            ("--health-listen", "127.0.0.1:0"),
            ("--drain-grace", "10ms"),
            ("--log-format", "json"),
        ];
        defaults.retain(|(flag, _)| !flags.iter().any(|given| given.split('=').next() == Some(flag)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.arg("serve").args(defaults.iter().flat_map(|(flag, value)| [*flag, value])).args(flags);
        // A test's cluster is its own, never the one that somebody works with.
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
        let mut webhook =
            Self { child, folder, address: String::new(), health: String::new(), log, reader: Some(reader) };
        webhook.health = webhook.address_of("health checks").await;
        webhook.address = webhook.address_of("serving").await;
        eventually("/readyz", || webhook.is_ready()).await;
        webhook
    }

    /// Registers both webhooks for one namespace, or moves its registration here, and waits until both are called.
    ///
    /// VirtualMachines and VirtualMachineInstances, CREATE and UPDATE; a VMI that keeps its NICs is not sent at all.
    pub(crate) async fn register(&self, api: &ApiServer, namespace: &str, policy: FailurePolicy) -> Registration {
        let registration = Registration {
            mutating: format!("mutate.{namespace}.nicplug.io"),
            validating: format!("validate.{namespace}.nicplug.io"),
        };
        let admin = api.admin();
        for (kind, path, name) in [
            ("MutatingWebhookConfiguration", "mutate", &registration.mutating),
            ("ValidatingWebhookConfiguration", "validate", &registration.validating),
        ] {
            let mut webhook = self.webhook(path, name, namespace, policy);
            if path == "mutate" {
                webhook["reinvocationPolicy"] = json!("IfNeeded");
            }
            let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                "metadata": {"name": name}, "webhooks": [webhook]});
            let url = format!(
                "/apis/admissionregistration.k8s.io/v1/{}s/{name}?fieldManager=nicplug-tests&force=true",
                kind.to_lowercase()
            );
            let body = configuration.to_string();
            send(&admin, Method::PATCH, &url, "application/apply-patch+yaml", body).await.granted();
        }
        self.wait_until_called(api, namespace, &registration).await;
        registration
    }

    /// The lines of the log so far, each an object.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// Where it serves `/validate` and `/mutate`: `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Where it serves `/livez` and `/readyz`: `127.0.0.1:PORT`.
    pub(crate) fn health(&self) -> &str {
        &self.health
    }

    /// What it answers to a GET of `/livez`, `/readyz` or `/metrics`: the head and the body.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.health).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Ends it as Kubernetes does, and returns its log to the end: the last line counts requests by their outcome.
    pub(crate) async fn stop(mut self) -> Vec<Value> {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let reader = self.reader.take().unwrap();
        spawn_blocking(move || reader.join().unwrap()).await.unwrap();
        self.log()
    }

    fn webhook(&self, path: &str, name: &str, namespace: &str, policy: FailurePolicy) -> Value {
        let authority = fs::read(self.folder.path().join("ca.crt")).unwrap();
        json!({
            "name": name,
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://{}/{path}", self.address), "caBundle": BASE64.encode(authority)},
            "failurePolicy": format!("{policy:?}"),
            "matchConditions": [{"name": "touches-nics", "expression": TOUCHES_NICS}],
            "matchPolicy": "Equivalent",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [{"apiGroups": ["kubevirt.io"], "apiVersions": ["v1", "v1alpha3"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["virtualmachines", "virtualmachineinstances"], "scope": "Namespaced"}],
            "sideEffects": "None",
            "timeoutSeconds": 5,
        })
    }

    /// The API server learns of a registration a moment after it has stored it.
    async fn wait_until_called(&self, api: &ApiServer, namespace: &str, registration: &Registration) {
        let admin = api.admin();
        let calls = async || {
            let mutating = api.webhook_calls(&registration.mutating, "CREATE").await;
            (mutating, api.webhook_calls(&registration.validating, "CREATE").await)
        };
        let before = calls().await;
        eventually("both webhooks are called", async || {
            // Whatever is answered to it.
            request::create(&admin, Kind::Vm, namespace, &probe(), Run::Dry).await;
            let now = calls().await;
            (now.0 > before.0 && now.1 > before.1).then_some(())
        })
        .await;
    }

    async fn address_of(&self, message: &str) -> String {
        eventually(message, async || {
            // The program tells its own addresses; without them there is nothing to wait for.
            assert!(!self.reader.as_ref().unwrap().is_finished(), "nicplug has ended: {:?}", self.log());
            let log = self.log.lock().unwrap();
            let line = log.iter().find(|line| line["message"] == message)?;
            line["address"].as_str().map(str::to_owned)
        })
        .await
    }

    async fn is_ready(&self) -> Option<()> {
        self.get("/readyz").await.starts_with("HTTP/1.1 200").then_some(())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        // It has ended already where it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The update of a VMI is for us only if it changes NICs, or asks for a NIC to be kept: most of them are heartbeats.
const TOUCHES_NICS: &str = "\
    request.operation != 'UPDATE' || request.kind.kind != 'VirtualMachineInstance' || \
    object.?spec.?networks.orValue([]) != oldObject.?spec.?networks.orValue([]) || \
    object.?spec.?domain.?devices.?interfaces.orValue([]) != oldObject.?spec.?domain.?devices.?interfaces.orValue([]) || \
    object.?metadata.?annotations[?'nicplug.io/persist'].orValue('') != \
        oldObject.?metadata.?annotations[?'nicplug.io/persist'].orValue('')";

/// A VM without NICs.
fn probe() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "probe"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}})
}
