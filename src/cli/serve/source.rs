//! Where the facts of a server come from: a cluster, files, or nowhere.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use clap::Args;
use kube::Client;

use super::persist::{Leader, PersistArgs};
use crate::{
    cli::{
        facts,
        kubeconfig::{self, LoadError, Preferred},
    },
    cluster::{
        persist_queue::PersistQueue,
        watch::{Tuning, Watches},
    },
    facts::{FactSource, NoFacts},
    k8s::served_groups::ServedGroups,
    settings::CurrentSettings,
};

/// The longest time in which a connection to the API server must open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The flags that select the cluster or the files.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Facts")]
pub(super) struct SourceArgs {
    /// Objects to use instead of a cluster, in YAML or JSON: a file or a folder, as for `nicplug review`; or `none`:
    /// then rules that need facts warn instead of denying. Without this flag nicplug watches a cluster: that of the
    /// pod, else that of the kubeconfig.
    #[arg(long, value_name = "FILE_OR_DIR", env = "NICPLUG_FACTS", conflicts_with_all = ["kubeconfig", "context"])]
    facts: Option<PathBuf>,

    /// The kubeconfig of the cluster to watch [default: in a pod its service account, else $KUBECONFIG, else
    /// ~/.kube/config].
    #[arg(long, value_name = "FILE", env = "NICPLUG_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig [default: its current context].
    #[arg(long, value_name = "NAME", env = "NICPLUG_CONTEXT")]
    context: Option<String>,
}

/// Facts, and what runs in the cluster that they come from.
pub(super) struct Source {
    pub(super) facts: Arc<dyn FactSource>,
    /// The watches that keep the facts up to date; `None` without a cluster.
    pub(super) watches: Option<Watches>,
    /// The controllers that only the leader runs; `None` without a cluster, or if all are switched off.
    pub(super) leader: Option<Leader>,
}

impl Source {
    fn without_cluster(facts: Arc<dyn FactSource>) -> Self {
        Self { facts, watches: None, leader: None }
    }
}

impl SourceArgs {
    /// Reads the files, or starts to watch the cluster and the controllers of the leader; needs a runtime.
    pub(super) async fn open(&self, persist: &PersistArgs, settings: CurrentSettings) -> anyhow::Result<Source> {
        match &self.facts {
            Some(path) if path.as_os_str() == "none" => Ok(Source::without_cluster(Arc::new(NoFacts))),
            Some(path) => Ok(Source::without_cluster(facts::load(path, &settings.load())?)),
            None => {
                let groups = ServedGroups::new(settings.load().api.forks());
                let client = self.client_of(&groups).await.map_err(|error| match error.downcast_ref() {
                    Some(LoadError::NotFound(_)) => {
                        anyhow!("{error}, or --facts FILE_OR_DIR or --facts none to serve without a cluster")
                    }
                    _ => error,
                })?;
                let queue = PersistQueue::default();
                let watches = Watches::of_groups(&client, groups, queue.clone(), &Tuning::default());
                let facts = Arc::clone(watches.cache());
                let leader = persist.start(&client, queue, &facts, settings)?;
                Ok(Source { facts, watches: Some(watches), leader })
            }
        }
    }

    /// Returns a client of the cluster, for what is not KubeVirt's.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        self.client_of(&ServedGroups::default()).await
    }

    async fn client_of(&self, groups: &ServedGroups) -> anyhow::Result<Client> {
        let mut config = kubeconfig::load(self.kubeconfig.as_deref(), self.context.as_deref(), Preferred::Pod).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        groups.client(config).context("the configuration of the cluster cannot be used")
    }
}
