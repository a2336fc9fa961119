//! `nicplug probe`: checks that the API server calls nicplug.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{
    block_on,
    facts::SettingsArgs,
    kubeconfig::{ConnectionArgs, Preferred, explain},
    progress::Progress,
};
use crate::k8s::{kind::Kind, served_groups::ServedGroups};

/// The rule that denies the request: KubeVirt does not know its annotation, so that only nicplug can deny it.
const RULE: &str = "[NP115]";

/// Check that the API server calls nicplug: send a request that nicplug must deny.
///
/// Creates a VM with a malformed request annotation, as a dry run that stores nothing. The exit status is 0 if nicplug
/// denies it (rule NP115), 1 if it does not, and 2 if the request fails for another reason. In a pod the command uses the
/// service account of the pod, unless a flag names a kubeconfig or a context. The settings only name the group of a fork
/// of KubeVirt (api.groups).
#[derive(Args, Debug)]
#[command(after_help = "Example:
  nicplug probe --namespace default")]
pub(super) struct ProbeArgs {
    /// The namespace of the VM. nicplug must review it: its own namespace is excluded.
    #[arg(long, short, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl ProbeArgs {
    /// Sends the request, and writes its result to `out`.
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let groups = ServedGroups::new(self.settings.read()?.api.forks());
        let result = block_on(self.send(&groups))?;
        let (code, text) = match result {
            Answer::Denied(message) => (ExitCode::SUCCESS, format!("nicplug denies the request: {message}")),
            Answer::Admitted => (
                ExitCode::FAILURE,
                format!(
                    "nicplug does not deny the request: check that its webhooks review the namespace {}, that its pods \
                     are ready, and that rule NP115 is enforced",
                    self.namespace
                ),
            ),
        };
        writeln!(out, "{text}")?;
        Ok(code)
    }

    async fn send(&self, groups: &ServedGroups) -> anyhow::Result<Answer> {
        let _progress = Progress::start("Waiting for the API server");
        let config = self.connection.config(Preferred::Pod).await?;
        let client = groups.client(config).context("cannot connect to the API server")?;
        groups.discover(&client).await.map_err(|error| explain(&error))?;
        let namespace = &self.namespace;
        let path = format!("/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines?dryRun=All");
        let request = hyper::Request::post(path).header(hyper::header::CONTENT_TYPE, "application/json");
        let request = request.body(vm(groups.of(Kind::Vm.group())).to_string().into_bytes())?;
        match client.request::<Value>(request).await {
            Ok(_) => Ok(Answer::Admitted),
            Err(kube::Error::Api(status)) if status.message.contains(RULE) => {
                Ok(Answer::Denied(status.message.clone()))
            }
            Err(error) => Err(error).context("the API server does not answer as expected"),
        }
    }
}

/// The API server's answer.
enum Answer {
    /// nicplug denied the request, with this message.
    Denied(String),
    /// The VM would be created.
    Admitted,
}

/// Returns a VM that KubeVirt admits and rule NP115 denies.
fn vm(group: &str) -> Value {
    json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "VirtualMachine",
        "metadata": {
            "name": "nicplug-probe",
            "annotations": {"nicplug.io/add-interfaces": "not a request"}
        },
        "spec": {
            "runStrategy": "Halted",
            "template": {"spec": {"domain": {"devices": {}}}}
        }
    })
}
