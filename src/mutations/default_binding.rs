//! Sets `bridge: {}` on an added NIC without a binding: the only binding that can be hotplugged in every cluster.

use json_patch::PatchOperation;
use serde_json::json;

use super::MutationInput;
use crate::{
    api::{
        json_patch::{add_op, pointer},
        review::ObjectKind,
    },
    change::Nic,
};

/// Returns the operations for NICs that an update of a VM or VMI adds to a network other than the pod network.
///
/// On the pod network a bridge has another meaning than on an additional network, so the user has to set it explicitly.
pub(super) fn operations(input: &MutationInput) -> Vec<PatchOperation> {
    let change = input.change;
    let is_guest = matches!(change.subject.kind, ObjectKind::Vm | ObjectKind::Vmi);
    if !is_guest || change.before.is_none() {
        return Vec::new();
    }
    let unbound = change.nics.added.iter().filter_map(unbound_interface);
    unbound.map(|index| add_op(bridge_of(change.after.path, index), json!({}))).collect()
}

/// Returns the index of the NIC's interface, if that has no binding.
fn unbound_interface(nic: &Nic) -> Option<usize> {
    let (interface, network) = (nic.interface?, nic.network?);
    let is_unbound = interface.value.bindings.is_empty() && network.value.pod.is_none();
    is_unbound.then_some(interface.index)
}

fn bridge_of(guest: &str, index: usize) -> json_patch::jsonptr::PointerBuf {
    pointer(guest, &["domain", "devices", "interfaces", &index.to_string(), "bridge"])
}
