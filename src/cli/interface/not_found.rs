//! The error for a VM that does not exist.

use kube::{Api, api::DynamicObject};
use serde_json::json;

use super::{FACTS_TIMEOUT, api, explain};
use crate::{
    cli::{guests, kubeconfig::Cluster},
    cluster::fetch::{FetchPlan, fetch_facts},
    hotplug::edit::EditRequest,
    k8s::{kind::Kind, request::ApiClient},
    kubevirt::Version,
};

/// The first version in which the NICs of a VMI without a VM cannot be changed.
const WITHOUT_SUBRESOURCE_SINCE: Version = Version::new(1, 1, 0);

/// Returns why the VM was not found, and what the user can do.
pub(super) async fn error(cluster: &Cluster, name: &str, request: &EditRequest) -> anyhow::Error {
    let vmis: Api<DynamicObject> = api(cluster, Kind::Vmi);
    match vmis.get_opt(name).await {
        Ok(Some(_)) => vmi_without_vm(cluster, name, request).await,
        Ok(None) => vm_not_found(cluster, name).await,
        Err(error) => explain(&error).context(format!(
            "VirtualMachine {name:?} not found in namespace {:?}; it is unknown whether a VirtualMachineInstance \
             of this name exists",
            cluster.namespace
        )),
    }
}

/// KubeVirt up to 1.0 changes the NICs of a VMI without a VM on request; later versions do not allow it.
async fn vmi_without_vm(cluster: &Cluster, name: &str, request: &EditRequest) -> anyhow::Error {
    let plan = FetchPlan::about(&cluster.namespace, name).only(&[Kind::KubeVirt]);
    let fetched = fetch_facts(&cluster.client, &plan, cluster.timeout(FACTS_TIMEOUT)).await;
    let version = fetched.store.kubevirt().known().and_then(|kubevirt| kubevirt.version);
    let head = format!("{name:?} is a VirtualMachineInstance without a VirtualMachine");
    match version {
        Some(version) if version < WITHOUT_SUBRESOURCE_SINCE => {
            anyhow::anyhow!(
                "{head}; in KubeVirt {version} this request changes its NICs:\n{}",
                subresource_request(cluster, name, request)
            )
        }
        Some(version) => anyhow::anyhow!(
            "{head}; KubeVirt {version} does not allow changing its NICs: create a VirtualMachine instead, or delete \
             the VirtualMachineInstance and create it again with the new NICs"
        ),
        None => anyhow::anyhow!(
            "{head}; KubeVirt 1.1 and newer do not allow changing its NICs (the version of this cluster is unknown): \
             create a VirtualMachine instead, or delete the VirtualMachineInstance and create it again with the new \
             NICs"
        ),
    }
}

/// Returns the request to the subresource that virtctl up to 1.0 sends.
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

async fn vm_not_found(cluster: &Cluster, name: &str) -> anyhow::Error {
    let client = ApiClient::new(cluster.client.clone(), cluster.timeout(FACTS_TIMEOUT));
    guests::not_found(&client, &cluster.namespace, name).await
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
    use crate::k8s::served_groups::ServedGroups;

    /// Returns the error in a cluster of this version, in a namespace with a VMI or without, and with VMs of these
    /// names.
    async fn error_in(version: &str, has_vmi: bool, vms: &[&str], request: &EditRequest) -> String {
        let kubevirts = json!({"items": [{"metadata": {"name": "kubevirt", "namespace": "kubevirt"},
            "status": {"observedKubeVirtVersion": version}}]});
        let vms: Vec<Value> = vms.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        let vmi = if has_vmi {
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
        let cluster = Cluster {
            client: Client::new(service, "default"),
            groups: ServedGroups::default(),
            namespace: "demo".to_owned(),
            request_timeout: None,
        };
        error(&cluster, "guest", request).await.to_string()
    }

    fn add() -> EditRequest {
        EditRequest::Add(NewNic { name: "blue".to_owned(), network_name: "net".to_owned(), ..NewNic::default() })
    }

    #[tokio::test]
    async fn a_vmi_without_a_vm_is_changed_by_a_request_up_to_1_0_and_not_at_all_later() {
        let path = "/apis/subresources.kubevirt.io/v1/namespaces/demo/virtualmachineinstances/guest";
        let old = error_in("v1.0.1", true, &[], &add()).await;
        assert!(old.contains(&format!("{path}/addinterface -f -")), "{old}");
        assert!(old.contains(r#"'{"name":"blue","networkAttachmentDefinitionName":"net"}'"#), "{old}");
        let remove = error_in("v1.0.1", true, &[], &EditRequest::Remove("blue".to_owned())).await;
        assert!(
            remove.contains(&format!("'{{\"name\":\"blue\"}}' | kubectl replace --raw \\\n    {path}/remove")),
            "{remove}"
        );
        let new = error_in("v1.1.0", true, &[], &add()).await;
        assert!(new.contains("KubeVirt v1.1.0 does not allow changing"), "{new}");
        let unknown = error_in("", true, &[], &add()).await;
        assert!(unknown.contains("the version of this cluster is unknown"), "{unknown}");
    }

    #[tokio::test]
    async fn a_similar_name_is_suggested() {
        let head = "VirtualMachine \"guest\" not found in namespace \"demo\"";
        for (vms, end) in [
            (&["gest", "other"][..], "; did you mean \"gest\"?"),
            (&["other"], ""),
            (&[], "; pass -n for another namespace"),
        ] {
            assert_eq!(error_in("v1.9.0", false, vms, &add()).await, format!("{head}{end}"));
        }
    }
}
