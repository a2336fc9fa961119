//! The facts of a live cluster, and the objects that stand there.

use std::time::Duration;

use anyhow::bail;
use kube::api::ListParams;
use serde_json::Value;

use super::source::Before;
use crate::{
    cli::kubeconfig::Cluster,
    cluster::store::Store,
    k8s::{
        kind::Kind,
        request::{ApiClient, Fields, ObjectPath},
    },
};

/// How long one page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many objects a page has.
const PAGE_SIZE: u32 = 500;

/// The ConfigMap of Multus: of the other ConfigMaps none is read.
const MULTUS_CONFIG: &str = "metadata.name=multus-daemon-config";

/// What a cluster has.
#[derive(Default)]
pub(super) struct ClusterState {
    pub(super) store: Store,
    pub(super) before: Before,
    /// Why some kinds are unknown.
    pub(super) notes: Vec<String>,
}

/// Reads every kind that rules use. A kind that the user may not list is unknown.
pub(super) async fn read(cluster: &Cluster) -> anyhow::Result<ClusterState> {
    let client = ApiClient::new(cluster.client.clone(), cluster.timeout(PAGE_TIMEOUT));
    let mut state = ClusterState::default();
    let mut known = 0;
    for kind in Kind::ALL {
        match state.read_kind(&client, kind).await {
            Ok(()) => {
                state.store.finish_sync(kind);
                known += 1;
            }
            Err(error) => state.notes.push(format!("{kind} is not known: {error:#}")),
        }
    }
    if known == 0 {
        bail!("--cluster: {}", state.notes.first().map_or("the cluster has nothing", String::as_str));
    }
    Ok(state)
}

impl ClusterState {
    async fn read_kind(&mut self, client: &ApiClient, kind: Kind) -> anyhow::Result<()> {
        let params = ListParams::default().limit(PAGE_SIZE);
        let params = if kind == Kind::ConfigMap { params.fields(MULTUS_CONFIG) } else { params };
        let mut pages = client.list(&ObjectPath::all(kind, ""), params, Fields::All);
        while let Some(page) = pages.next().await? {
            page.for_each(|text| self.add(kind, text))?;
        }
        Ok(())
    }

    fn add(&mut self, kind: Kind, text: &str) {
        // An object that cannot be read is unknown, and the store notes that.
        let _ = self.store.apply(kind, text);
        if matches!(kind, Kind::Vm | Kind::Vmi)
            && let Ok(Value::Object(mut object)) = serde_json::from_str(text)
        {
            // Items of a list of the API server may have neither.
            object.insert("apiVersion".to_owned(), format!("{}/{}", kind.group(), kind.version()).into());
            object.insert("kind".to_owned(), kind.kind().into());
            self.before.insert(Value::Object(object));
        }
    }
}
