//! The CustomResourceDefinitions of KubeVirt and Multus, and the kinds that they define.

use std::{fs, path::Path};

use hyper::http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{super::wait::LONG, requests::send};

/// A kind of `tests/data/crds`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// `KubeVirt`; a cluster has one.
    KubeVirt,
    /// `VirtualMachineInstanceMigration`.
    Migration,
    /// `NetworkAttachmentDefinition`.
    Nad,
    /// `VirtualMachinePool`, of which no definition is in `tests/data/crds`.
    Pool,
    /// `VirtualMachine`.
    Vm,
    /// `VirtualMachineInstance`.
    Vmi,
}

impl Kind {
    /// Returns a client for the objects of this kind in a namespace.
    pub(crate) fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource())
    }

    /// Returns the URL path of the objects of this kind in a namespace.
    pub(crate) fn path(self, namespace: &str) -> String {
        let resource = self.resource();
        format!("/apis/{}/namespaces/{namespace}/{}", resource.api_version, resource.plural)
    }

    fn resource(self) -> ApiResource {
        let (group, kind, plural) = match self {
            Self::KubeVirt => ("kubevirt.io", "KubeVirt", "kubevirts"),
            Self::Migration => ("kubevirt.io", "VirtualMachineInstanceMigration", "virtualmachineinstancemigrations"),
            Self::Nad => ("k8s.cni.cncf.io", "NetworkAttachmentDefinition", "network-attachment-definitions"),
            Self::Pool => ("pool.kubevirt.io", "VirtualMachinePool", "virtualmachinepools"),
            Self::Vm => ("kubevirt.io", "VirtualMachine", "virtualmachines"),
            Self::Vmi => ("kubevirt.io", "VirtualMachineInstance", "virtualmachineinstances"),
        };
        let version = if self == Self::Pool { "v1beta1" } else { "v1" };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }
}

/// Installs the definitions of `tests/data/crds` that are missing, and waits until all are established.
pub(crate) async fn install(admin: &Client) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/crds");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let definitions = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let mut installing = tokio::task::JoinSet::new();
    for file in definitions {
        let admin = admin.clone();
        installing.spawn(async move { establish(&admin, fs::read(file).unwrap()).await });
    }
    installing.join_all().await;
}

/// Installs the kinds of KubeVirt's own group in another group, as a fork of KubeVirt does.
pub(crate) async fn install_fork(admin: &Client, group: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/crds");
    for kind in ["kubevirts", "virtualmachineinstancemigrations", "virtualmachineinstances", "virtualmachines"] {
        let definition = fs::read_to_string(folder.join(kind).with_extension("yaml")).unwrap();
        let names = [("group: ", ""), ("name: ", &*format!("{kind}."))];
        let definition = names.iter().fold(definition, |text, (key, prefix)| {
            text.replacen(&format!("{key}{prefix}kubevirt.io\n"), &format!("{key}{prefix}{group}\n"), 1)
        });
        establish(admin, definition.into_bytes()).await;
    }
}

/// Installs a definition unless it exists, and waits until it is established.
pub(crate) async fn establish(admin: &Client, definition: Vec<u8>) {
    // The API server reads YAML itself.
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let answer = send(admin, Method::POST, path, "application/yaml", definition).await;
    assert!(answer.is_ok() || answer.reason() == "AlreadyExists", "{answer:?}");
    let name = if answer.is_ok() { &answer.body["metadata"]["name"] } else { &answer.body["details"]["name"] };
    let definitions: Api<CustomResourceDefinition> = Api::all(admin.clone());
    // A busy API server may compact its store before the watch begins, and then refuses it: begin again.
    let established = async {
        while await_condition(definitions.clone(), name.as_str().unwrap(), is_crd_established()).await.is_err() {}
    };
    timeout(LONG, established).await.expect("the definition is established");
}

/// Changes the schema of VirtualMachines so that it keeps `status.interfaceRequests`, as KubeVirt up to 1.0 has it.
pub(crate) async fn keep_interface_requests(admin: &Client) {
    let vms = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/virtualmachines.kubevirt.io";
    let definition = send(admin, Method::GET, vms, "", "").await.granted();
    let versions = definition["spec"]["versions"].as_array().unwrap().len();
    let operations: Vec<Value> = (0..versions)
        .map(|index| {
            let status = format!("/spec/versions/{index}/schema/openAPIV3Schema/properties/status");
            json!({"op": "add", "path": format!("{status}/x-kubernetes-preserve-unknown-fields"), "value": true})
        })
        .collect();
    let patch = Value::Array(operations).to_string();
    send(admin, Method::PATCH, vms, "application/json-patch+json", patch).await.granted();
}
