//! What to say when there is no VM of the name.

use kube::{
    Api,
    api::{DynamicObject, ListParams},
};
use serde_json::json;

use super::{PATIENCE, api, explain};
use crate::{
    cli::kubeconfig::Cluster,
    cluster::fetch::{FetchPlan, ask},
    facts::nad::closest_name,
    hotplug::edit::EditRequest,
    k8s::kind::Kind,
    kubevirt::Version,
};

/// The last versions in which a VMI by itself could be changed.
const LAST_WITH_SUBRESOURCE: Version = Version::new(1, 1, 0);

/// How many names are looked at for one that was perhaps meant.
const NAMES_AT_MOST: u32 = 500;

/// Why nothing can be done, and what can.
pub(super) async fn explain_absence(cluster: &Cluster, name: &str, request: &EditRequest) -> anyhow::Error {
    let vmis: Api<DynamicObject> = api(cluster, Kind::Vmi);
    match vmis.get_opt(name).await {
        Ok(Some(_)) => explain_instance(cluster, name, request).await,
        Ok(None) => explain_nothing(cluster, name).await,
        Err(error) => explain(&error).context(format!(
            "there is no VirtualMachine {name:?} in namespace {:?}, and whether there is a VirtualMachineInstance is not \
             known",
            cluster.namespace
        )),
    }
}

/// A guest without a VM: KubeVirt 1.0 and older change it on request, later ones let nobody do it.
async fn explain_instance(cluster: &Cluster, name: &str, request: &EditRequest) -> anyhow::Error {
    let question = FetchPlan::about(&cluster.namespace, name).only(&[Kind::KubeVirt]);
    let answer = ask(&cluster.client, &question, PATIENCE).await;
    let version = answer.store.kubevirt().known().and_then(|kubevirt| kubevirt.version);
    let head = format!("{name:?} is a VirtualMachineInstance without a VirtualMachine");
    match version {
        Some(version) if version < LAST_WITH_SUBRESOURCE => {
            anyhow::anyhow!(
                "{head}; KubeVirt {version} changes it on request:\n{}",
                subresource_request(cluster, name, request)
            )
        }
        Some(version) => anyhow::anyhow!(
            "{head}; KubeVirt {version} lets nobody change the NICs of one: make a VirtualMachine of it, or delete it and \
             create it anew with the NICs it is to have"
        ),
        None => anyhow::anyhow!(
            "{head}; since 1.1 KubeVirt lets nobody change the NICs of one (the version of this cluster is not known): \
             make a VirtualMachine of it, or delete it and create it anew with the NICs it is to have"
        ),
    }
}

/// The request to the subresource that virtctl made up to 1.0.
fn subresource_request(cluster: &Cluster, name: &str, request: &EditRequest) -> String {
    let (subresource, body) = match request {
        EditRequest::Add(nic) => {
            ("addinterface", json!({"name": nic.name, "networkAttachmentDefinitionName": nic.network_name}))
        }
        EditRequest::Remove(nic) => ("removeinterface", json!({ "name": nic })),
    };
    let namespace = &cluster.namespace;
    format!(
        "  echo '{body}' | kubectl replace --raw \\\n    \
         /apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}/{subresource} -f -"
    )
}

async fn explain_nothing(cluster: &Cluster, name: &str) -> anyhow::Error {
    let vms: Api<DynamicObject> = api(cluster, Kind::Vm);
    let all = vms.list_metadata(&ListParams::default().limit(NAMES_AT_MOST)).await;
    let names: Vec<String> = all.into_iter().flatten().filter_map(|vm| vm.metadata.name).collect();
    let hint = match closest_name(name, names.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None if names.is_empty() => "; there is none at all, pass -n for another namespace".to_owned(),
        None => String::new(),
    };
    anyhow::anyhow!("there is no VirtualMachine {name:?} in namespace {:?}{hint}", cluster.namespace)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready};

    use hyper::{Request, Response, StatusCode};
    use kube::{Client, client::Body};
    use serde_json::Value;
    use tower::service_fn;

    use super::*;
    use crate::hotplug::edit::NewNic;

    /// What is said in a namespace that has a VMI or not, and VMs of these names, in a cluster of this version.
    async fn said(version: &str, has_instance: bool, vms: &[&str], request: &EditRequest) -> String {
        let kubevirts = json!({"items": [{"metadata": {"name": "kubevirt", "namespace": "kubevirt"},
            "status": {"observedKubeVirtVersion": version}}]});
        let vms: Vec<Value> = vms.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        let vmi = if has_instance {
            (200, json!({"metadata": {"name": "guest"}}))
        } else {
            (404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}))
        };
        let service = service_fn(move |request: Request<Body>| {
            let (code, body) = match request.uri().path().rsplit('/').next() {
                Some("kubevirts") => (200, kubevirts.clone()),
                Some("virtualmachines") => (200, json!({"metadata": {}, "items": vms})),
                _ => vmi.clone(),
            };
            let mut response = Response::new(Body::from(body.to_string().into_bytes()));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            ready(Ok::<_, Infallible>(response))
        });
        let cluster = Cluster { client: Client::new(service, "default"), namespace: "demo".to_owned() };
        explain_absence(&cluster, "guest", request).await.to_string()
    }

    fn add() -> EditRequest {
        EditRequest::Add(NewNic { name: "blue".to_owned(), network_name: "net".to_owned(), ..NewNic::default() })
    }

    #[tokio::test]
    async fn a_guest_without_a_vm_is_changed_by_request_up_to_1_0_and_never_after() {
        let path = "/apis/subresources.kubevirt.io/v1/namespaces/demo/virtualmachineinstances/guest";
        let old = said("v1.0.1", true, &[], &add()).await;
        assert!(old.contains(&format!("{path}/addinterface -f -")), "{old}");
        assert!(old.contains(r#"'{"name":"blue","networkAttachmentDefinitionName":"net"}'"#), "{old}");
        let remove = said("v1.0.1", true, &[], &EditRequest::Remove("blue".to_owned())).await;
        assert!(
            remove.contains(&format!("'{{\"name\":\"blue\"}}' | kubectl replace --raw \\\n    {path}/remove")),
            "{remove}"
        );
        let new = said("v1.1.0", true, &[], &add()).await;
        assert!(new.contains("KubeVirt v1.1.0 lets nobody change"), "{new}");
        let unknown = said("", true, &[], &add()).await;
        assert!(unknown.contains("the version of this cluster is not known"), "{unknown}");
    }

    #[tokio::test]
    async fn a_name_that_was_perhaps_meant_is_named() {
        let head = "there is no VirtualMachine \"guest\" in namespace \"demo\"";
        for (vms, end) in [
            (&["gest", "other"][..], "; did you mean \"gest\"?"),
            (&["other"], ""),
            (&[], "; there is none at all, pass -n for another namespace"),
        ] {
            assert_eq!(said("v1.9.0", false, vms, &add()).await, format!("{head}{end}"));
        }
    }
}
