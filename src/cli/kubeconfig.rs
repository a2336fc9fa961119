//! Loads the configuration of a cluster: the only place that reads a kubeconfig.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    k8s::{api_error::root_cause, served_groups::ServedGroups},
    settings::Settings,
};

/// The configuration that is tried first if no flag names one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Preferred {
    /// `KUBECONFIG`, else `~/.kube/config`: a user who runs a command in a pod chooses the cluster by it.
    Kubeconfig,
    /// The service account of the pod. A kubeconfig that is mounted into the pod is for other programs.
    Pod,
}

/// The reason for which no configuration can be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("--kubeconfig {} cannot be read: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("--kubeconfig {} cannot be used: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("--context {context} cannot be used: {reason}")]
    Context { context: String, reason: String },
    #[error("nicplug does not run in a pod, and no kubeconfig can be used ({0}); set KUBECONFIG or pass --kubeconfig")]
    NotFound(String),
}

/// Reads the file of `--kubeconfig` with the context of `--context`. Without both it reads the preferred configuration,
/// else the other one.
pub(super) async fn load(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
    preferred: Preferred,
) -> Result<Config, LoadError> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    if let Some(path) = kubeconfig {
        let kubeconfig = Kubeconfig::read_from(path)
            .map_err(|error| LoadError::Unreadable { path: path.to_owned(), reason: root_cause(&error) })?;
        return Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| LoadError::Unusable { path: path.to_owned(), reason: root_cause(&error) });
    }
    if let Some(context) = context {
        return Config::from_kubeconfig(&options)
            .await
            .map_err(|error| LoadError::Context { context: context.to_owned(), reason: root_cause(&error) });
    }
    if let (Preferred::Pod, Ok(config)) = (preferred, Config::incluster()) {
        return Ok(config);
    }
    match Config::from_kubeconfig(&options).await {
        Ok(config) => Ok(config),
        Err(error) => Config::incluster().map_err(|_| LoadError::NotFound(root_cause(&error))),
    }
}

/// The flags that select a cluster and a namespace, as kubectl has them.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterArgs {
    /// The namespace [default: that of the context].
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// The context of the kubeconfig [default: its current context].
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,

    /// The kubeconfig [default: $KUBECONFIG, else ~/.kube/config, else the service account of the pod].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A client of a cluster, and the namespace of the command.
pub(super) struct Cluster {
    pub(super) client: Client,
    /// The groups in which the cluster serves the kinds of KubeVirt.
    pub(super) groups: ServedGroups,
    pub(super) namespace: String,
}

impl ClusterArgs {
    /// Returns the namespace of `--namespace`.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Loads the configuration. Sends nothing yet, unless the settings name forks of KubeVirt: then it asks the API server
    /// which of them the cluster serves.
    pub(super) async fn connect(&self, settings: &Settings) -> anyhow::Result<Cluster> {
        let config = load(self.kubeconfig.as_deref(), self.context.as_deref(), Preferred::Kubeconfig).await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let groups = ServedGroups::new(settings.api.forks());
        let client = groups.client(config).context("the kubeconfig cannot be used")?;
        groups.discover(&client).await.map_err(|error| explain(&error))?;
        Ok(Cluster { client, groups, namespace })
    }
}

/// Returns the message of the API server, or the reason for which it cannot be reached.
pub(super) fn explain(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!("the API server answered: {}", status.message),
        error => anyhow!("the API server cannot be reached: {}", root_cause(error)),
    }
}
