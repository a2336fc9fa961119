//! Reads the instancetypes and preferences with which KubeVirt expands VMs, and its copies of them: for many VMs as
//! lists, each once and page by page.

use futures_util::future::join_all;
use kube::core::params::ListParams;
use serde_json::Value;

use super::{FoundGuests, PAGE, Unread, add_all, list};
use crate::{
    cluster::store::Store,
    k8s::{
        api_error::ApiError,
        kind::Kind,
        request::{ApiClient, Fields, ObjectPath},
    },
};

/// The label of the ControllerRevisions in which KubeVirt keeps copies of instancetypes and preferences.
const OF_EXPANDER: &str = "instancetype.kubevirt.io/object-name";

/// Whether a VM names an instancetype or a preference.
pub(super) fn is_expanded(vm: &Value) -> bool {
    ["/spec/instancetype", "/spec/preference"]
        .iter()
        .any(|pointer| vm.pointer(pointer).is_some_and(|value| !value.is_null()))
}

/// Reads all of a namespace, or of the cluster for an empty one.
pub(super) async fn read_expanders(client: &ApiClient, namespace: &str, guests: &mut FoundGuests) {
    let path = |kind: Kind| match kind {
        Kind::ClusterInstancetype | Kind::ClusterPreference => ObjectPath::all(kind, ""),
        _ => ObjectPath::all(kind, namespace),
    };
    let lists = join_all(Kind::EXPANDING.iter().map(|&kind| list(client, path(kind)))).await;
    let FoundGuests { store, unread, .. } = guests;
    for (path, listed) in lists {
        match listed {
            Ok(objects) => add_all(store, path.kind, &objects),
            Err(ApiError::NotInstalled) => store.finish_sync(path.kind),
            Err(error) => unread.add(&path, &error),
        }
    }
    read_copies(client, &path(Kind::Revision), store, unread).await;
}

/// Reads KubeVirt's copies: two for each VM, so no page is in memory as a whole.
async fn read_copies(client: &ApiClient, path: &ObjectPath, store: &mut Store, unread: &mut Unread) {
    let params = ListParams::default().limit(PAGE).labels(OF_EXPANDER);
    let mut pages = client.list(path, params, Fields::All);
    loop {
        match pages.read_next(|copy| drop(store.apply(path.kind, copy))).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return unread.add(path, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_vm_with_an_instancetype_or_a_preference_is_expanded() {
        for (spec, expected) in [
            (json!({}), false),
            (json!({"instancetype": null}), false),
            (json!({"instancetype": {"name": "u1.small"}}), true),
            (json!({"preference": {"name": "fedora"}}), true),
        ] {
            assert_eq!(is_expanded(&json!({"spec": spec})), expected, "{spec}");
        }
    }
}
