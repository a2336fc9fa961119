//! What `serve` does in a cluster besides answering: it watches, and one replica mirrors what is to be kept.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use kube::{Client, Config};

use super::persist::{PersistArgs, Persisting};
use crate::{
    cluster::{
        cache::Cache,
        pending::Pending,
        watch::{Tuning, Watches},
    },
    facts::FactSource,
};

/// A cluster that is watched; no longer so when this is dropped.
pub(super) struct Cluster {
    watches: Watches,
    /// The mirroring, unless it is switched off.
    pub(super) persisting: Option<Persisting>,
}

impl Cluster {
    /// Joins the cluster of the pod, or that of the kubeconfig. Without either there is no cluster, and with facts on
    /// disk none is wanted.
    pub(super) async fn join(facts: Option<&Path>, persist: &PersistArgs) -> anyhow::Result<Option<Self>> {
        if facts.is_some() {
            return Ok(None);
        }
        let config = match Config::infer().await {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!(%error, "no cluster to watch, and no --facts: nothing is known, and nothing is mirrored");
                return Ok(None);
            }
        };
        let client = Client::try_from(config).context("the cluster cannot be asked")?;
        let pending = Pending::default();
        let watches = Watches::start(&client, pending.clone(), &Tuning::default());
        let persisting = persist.start(&client, pending)?;
        Ok(Some(Self { watches, persisting }))
    }

    /// What is known of it.
    pub(super) fn facts(&self) -> Arc<dyn FactSource> {
        Arc::<Cache>::clone(self.watches.cache())
    }
}
