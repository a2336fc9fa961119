//! An added NIC without a binding gets `bridge: {}`, the only one that can be hotplugged everywhere.

use json_patch::PatchOperation;
use serde_json::json;

use super::Case;
use crate::{
    api::{
        json_patch::{add_op, pointer},
        review::ObjectKind,
    },
    change::Nic,
};

/// Binds what an update of a VM or VMI adds to a network other than the pod's own.
///
/// On the pod network a bridge is another wish than on a further network: who wants it says so.
pub(super) fn repair(case: &Case) -> Vec<PatchOperation> {
    let change = case.change;
    let is_guest = matches!(change.subject.kind, ObjectKind::Vm | ObjectKind::Vmi);
    if !is_guest || change.before.is_none() {
        return Vec::new();
    }
    let unbound = change.nics.added.iter().filter_map(unbound_interface);
    unbound.map(|index| add_op(bridge_of(change.after.path, index), json!({}))).collect()
}

/// The index of the NIC's interface, if that has no binding.
fn unbound_interface(nic: &Nic) -> Option<usize> {
    let (interface, network) = (nic.interface?, nic.network?);
    let is_unbound = interface.value.bindings.is_empty() && network.value.pod.is_none();
    is_unbound.then_some(interface.index)
}

fn bridge_of(guest: &str, index: usize) -> json_patch::jsonptr::PointerBuf {
    pointer(guest, &["domain", "devices", "interfaces", &index.to_string(), "bridge"])
}
