//! The facts of a live cluster, and the objects that stand there.

use std::{collections::BTreeSet, time::Duration};

use anyhow::bail;
use kube::api::ListParams;
use serde_json::Value;

use super::source::Before;
use crate::{
    cli::kubeconfig::Cluster,
    cluster::store::Store,
    k8s::{
        api_error::ApiError,
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
    /// The kinds that are known only in the namespace of the context.
    listed: Vec<Kind>,
}

/// The kinds that are read in the namespace of the context if the user may not list them in all namespaces.
const IN_NAMESPACE: [Kind; 8] = [
    Kind::Vm,
    Kind::Vmi,
    Kind::Nad,
    Kind::Migration,
    Kind::ResourceQuota,
    Kind::Instancetype,
    Kind::Preference,
    Kind::Revision,
];

/// Reads every kind that rules use. A kind that the user may not list is unknown.
pub(super) async fn read(cluster: &Cluster) -> anyhow::Result<ClusterState> {
    let client = ApiClient::new(cluster.client.clone(), cluster.timeout(PAGE_TIMEOUT));
    let mut state = ClusterState::default();
    let mut known = 0;
    for kind in Kind::ALL {
        match state.read_kind(&client, cluster, kind, "").await {
            Ok(()) => {
                state.store.finish_sync(kind);
                known += 1;
            }
            Err(error) if error.is_forbidden() && IN_NAMESPACE.contains(&kind) => {
                match state.read_kind(&client, cluster, kind, &cluster.namespace).await {
                    Ok(()) => {
                        let namespace = &cluster.namespace;
                        state.notes.push(format!("{kind}s are known only in namespace {namespace:?}: {error}"));
                        state.listed.push(kind);
                        known += 1;
                    }
                    Err(error) => state.notes.push(format!("{kind} is not known: {error}")),
                }
            }
            Err(error) => state.notes.push(format!("{kind} is not known: {error}")),
        }
    }
    if known == 0 {
        bail!("--cluster: {}", state.notes.first().map_or("the cluster has nothing", String::as_str));
    }
    state.mark_stopped(&cluster.namespace);
    Ok(state)
}

impl ClusterState {
    async fn read_kind(
        &mut self,
        client: &ApiClient,
        cluster: &Cluster,
        kind: Kind,
        namespace: &str,
    ) -> Result<(), ApiError> {
        let group = cluster.groups.of(kind.group());
        let params = ListParams::default().limit(PAGE_SIZE);
        let params = if kind == Kind::ConfigMap { params.fields(MULTUS_CONFIG) } else { params };
        let path = ObjectPath::all(kind, namespace);
        let mut pages = client.list(&path, params, Fields::All);
        while pages.read_next(|text| self.add(kind, group, text)).await? {}
        Ok(())
    }

    /// Marks the VMIs that the VMs of the namespace lack as absent, if those of the namespace were listed.
    fn mark_stopped(&mut self, namespace: &str) {
        if !self.listed.contains(&Kind::Vmi) {
            return;
        }
        let text = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let named = |kind: &'static str| {
            let objects = self.before.objects().filter(move |object| object["kind"] == kind);
            objects.filter_map(move |object| text(object, "/metadata/name"))
        };
        let running: BTreeSet<String> = named("VirtualMachineInstance").collect();
        let stopped: Vec<String> = named("VirtualMachine").filter(|name| !running.contains(name)).collect();
        for name in stopped {
            self.store.mark_absent(Kind::Vmi, namespace, &name);
        }
    }

    /// Adds an object that the cluster serves in a group.
    fn add(&mut self, kind: Kind, group: &str, text: &str) {
        // An object that cannot be read is unknown, and the store notes that.
        let _ = self.store.apply(kind, text);
        if matches!(kind, Kind::Vm | Kind::Vmi)
            && let Ok(Value::Object(mut object)) = serde_json::from_str(text)
        {
            // Items of a list of the API server may have neither.
            object.insert("apiVersion".to_owned(), format!("{group}/{}", kind.version()).into());
            object.insert("kind".to_owned(), kind.kind().into());
            self.before.insert(Value::Object(object));
        }
    }
}
