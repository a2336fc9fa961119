//! Where the facts of a server come from: the cluster, files, or nowhere.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::persist::{PersistArgs, Persisting};
use crate::{
    cli::facts,
    cluster::{
        persist_queue::PersistQueue,
        watch::{Tuning, Watches},
    },
    facts::{FactSource, NoFacts},
};

/// How long a connection to the API server may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server knows the cluster by.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Facts")]
pub(in crate::cli) struct SourceArgs {
    /// What is known instead of the cluster: its objects in YAML or JSON, a file or a folder, as `nicplug review` reads
    /// them; or `none`, and then rules that need to know warn instead of denying. Without it the cluster itself is
    /// watched: that of the pod, else that of the kubeconfig.
    #[arg(long, value_name = "FILE_OR_DIR", env = "NICPLUG_FACTS", conflicts_with_all = ["kubeconfig", "context"])]
    facts: Option<PathBuf>,

    /// The kubeconfig of the cluster to watch. Without it, and outside of a pod: $KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "FILE", env = "NICPLUG_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// Which context of the kubeconfig; its current one unless given.
    #[arg(long, value_name = "NAME", env = "NICPLUG_CONTEXT")]
    context: Option<String>,
}

/// Facts, and what is done in the cluster that they come from, if they come from one.
pub(super) struct Source {
    pub(super) facts: Arc<dyn FactSource>,
    /// What keeps them.
    pub(super) watches: Option<Watches>,
    /// The mirroring of NICs, unless it is switched off.
    pub(super) persisting: Option<Persisting>,
}

impl Source {
    fn without_cluster(facts: Arc<dyn FactSource>) -> Self {
        Self { facts, watches: None, persisting: None }
    }
}

impl SourceArgs {
    /// Reads the files, or begins to watch the cluster and to mirror NICs in it; needs a runtime.
    pub(super) async fn open(&self, persist: &PersistArgs) -> anyhow::Result<Source> {
        match &self.facts {
            Some(path) if path.as_os_str() == "none" => Ok(Source::without_cluster(Arc::new(NoFacts))),
            Some(path) => Ok(Source::without_cluster(facts::load(path)?)),
            None => {
                let client = self.client().await?;
                let pending = PersistQueue::default();
                let watches = Watches::start(&client, pending.clone(), &Tuning::default());
                let facts = Arc::clone(watches.cache());
                let persisting = persist.start(&client, pending)?;
                Ok(Source { facts, watches: Some(watches), persisting })
            }
        }
    }

    /// A client of the cluster.
    pub(in crate::cli) async fn client(&self) -> anyhow::Result<Client> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        Client::try_from(config).context("the cluster's configuration cannot be used")
    }

    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let explain = || format!("--kubeconfig {}", path.display());
            let kubeconfig = Kubeconfig::read_from(path).with_context(explain)?;
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(explain);
        }
        if self.context.is_some() {
            return Config::from_kubeconfig(&options).await.context("--context");
        }
        // A pod has both, where somebody has mounted a kubeconfig into it: then it is about its own cluster.
        if let Ok(config) = Config::incluster() {
            return Ok(config);
        }
        match Config::from_kubeconfig(&options).await {
            Ok(config) => Ok(config),
            Err(error) => bail!(
                "there is no cluster to watch: this is no pod, and no kubeconfig can be used ({error}); give \
                 --kubeconfig FILE, or --facts FILE_OR_DIR to serve without a cluster, or --facts none"
            ),
        }
    }
}
