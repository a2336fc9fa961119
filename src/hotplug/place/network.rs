//! A NIC whose network was changed: KubeVirt copies the name to the VMI at once, and the pod gets the network by a
//! live migration.

use serde_json::Value;

use super::{
    super::progress::{
        AttachMethod, NETWORKS, attach_method,
        objects::{condition, is_alive, list, quoted, text},
    },
    Diagnosis, GuestView, Need, Place,
};
use crate::{api::network::NadRef, facts::kubevirt::AutoMigration};

/// Returns what a NIC of the guest waits for, if its pod has another network than the VMI.
pub(super) fn change(observed: &GuestView, nic: &str, pod_interface: &str) -> Option<Diagnosis> {
    let vmi = observed.snapshot.vmi?;
    let namespace = text(vmi, "/metadata/namespace");
    let networks = list(vmi, "/spec/networks").iter();
    let mut named = networks.filter(|network| text(network, "/name") == nic);
    let wanted = named.next()?.pointer("/multus/networkName")?.as_str()?;
    let wanted = full(NadRef::parse(wanted, namespace));
    let present = requested(running_pod(observed, vmi)?, pod_interface, namespace)?;
    if wanted == present {
        return None;
    }
    let why = format!("has network {present:?} in the pod, and waits for a live migration to {wanted:?}");
    let blocker = condition(vmi, "LiveMigratable").filter(|(status, _)| *status == "False");
    if let Some((_, blocker)) = blocker {
        let why = format!("{why}, but the guest cannot migrate{}", quoted(blocker));
        let fix = "make the guest live-migratable, or restart the VM";
        return Some(Diagnosis::because(Place::Guest, Need::Action, &why, fix));
    }
    if attach_method(true, &observed.judgement.cluster_info) == AttachMethod::Migration(AutoMigration::On) {
        let why = format!("{why}, which KubeVirt starts");
        return Some(Diagnosis::because(Place::Guest, Need::Time, &why, ""));
    }
    let why = format!("{why}, which a user must start");
    let finding = Diagnosis::because(Place::Guest, Need::Action, &why, "start a live migration");
    Some(Diagnosis { needs_migration: true, ..finding })
}

/// Returns the pod in which the guest runs.
fn running_pod<'o>(observed: &'o GuestView, vmi: &Value) -> Option<&'o Value> {
    let node = text(vmi, "/status/nodeName");
    let is_own = |pod: &&Value| is_alive(pod) && !node.is_empty() && text(pod, "/spec/nodeName") == node;
    observed.snapshot.pods?.iter().find(is_own)
}

/// Returns the network that the pod requests for an interface, as `namespace/name`.
fn requested(pod: &Value, interface: &str, namespace: &str) -> Option<String> {
    let written = pod.pointer("/metadata/annotations")?.get(NETWORKS)?.as_str()?;
    let entries: Vec<Value> = serde_json::from_str(written).ok()?;
    let entry = entries.iter().find(|entry| text(entry, "/interface") == interface)?;
    let own = text(entry, "/namespace");
    Some(full(NadRef { namespace: if own.is_empty() { namespace } else { own }, name: text(entry, "/name") }))
}

fn full(NadRef { namespace, name }: NadRef) -> String {
    format!("{namespace}/{name}")
}
