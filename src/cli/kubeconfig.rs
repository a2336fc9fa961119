//! The flags that say which cluster is meant, as kubectl has them.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::k8s::api_error::root_cause;

/// Which cluster, and which namespace of it.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterArgs {
    /// The namespace; without it that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// The context of the kubeconfig; without it the current one.
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,

    /// The kubeconfig; without it KUBECONFIG, then ~/.kube/config, then the service account of the pod.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A cluster that can be spoken to.
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
}

impl ClusterArgs {
    /// Reads the configuration; nothing is sent yet.
    pub(super) async fn connect(&self) -> anyhow::Result<Cluster> {
        let config = self.config().await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("the kubeconfig cannot be used")?;
        Ok(Cluster { client, namespace })
    }

    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let kubeconfig = Kubeconfig::read_from(path)
                .map_err(|error| anyhow!("--kubeconfig {} cannot be read: {}", path.display(), root_cause(&error)))?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            return config.with_context(|| format!("--kubeconfig {} cannot be used", path.display()));
        }
        if self.context.is_some() {
            return Config::from_kubeconfig(&options).await.context("--context cannot be used");
        }
        Config::infer()
            .await
            .map_err(|_| anyhow!("there is no kubeconfig, and this is no pod: set KUBECONFIG or pass --kubeconfig"))
    }
}

/// What the API server says, or why it says nothing.
pub(super) fn explain(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!("the API server says: {}", status.message),
        error => anyhow!("the API server cannot be reached: {}", root_cause(error)),
    }
}
