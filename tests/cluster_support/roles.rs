//! Who may do what in the API server.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const EDITOR: &str = "nicplug-tests:editor";
const KUBEVIRT: &str = "nicplug-tests:kubevirt";

/// Makes the roles, and gives KubeVirt's service accounts theirs.
pub(super) async fn install(admin: &Client) {
    let all = json!(["get", "list", "watch", "create", "update", "patch", "delete"]);
    let editor = json!([{"apiGroups": ["kubevirt.io", "k8s.cni.cncf.io"], "resources": ["*"], "verbs": all}]);
    let kubevirt = json!([{"apiGroups": ["kubevirt.io", "k8s.cni.cncf.io"], "resources": ["*"], "verbs": all},
        {"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": all}]);
    let roles = Api::<ClusterRole>::all(admin.clone());
    for (name, rules) in [(EDITOR, editor), (KUBEVIRT, kubevirt)] {
        apply(&roles, name, &json!({"rules": rules})).await;
    }
    let group = json!([{"apiGroup": RBAC, "kind": "Group", "name": "system:serviceaccounts:kubevirt"}]);
    apply(&Api::<ClusterRoleBinding>::all(admin.clone()), KUBEVIRT, &binding(KUBEVIRT, &group)).await;
}

/// Lets a user read and write all that is of KubeVirt and Multus in a namespace.
pub(super) async fn bind(admin: &Client, user: &str, namespace: &str) {
    let subjects = json!([{"apiGroup": RBAC, "kind": "User", "name": user}]);
    apply(&Api::<RoleBinding>::namespaced(admin.clone(), namespace), user, &binding(EDITOR, &subjects)).await;
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn binding(role: &str, subjects: &Value) -> Value {
    json!({"roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}, "subjects": subjects})
}

/// Makes an object, or makes it what it should be.
async fn apply<K>(api: &Api<K>, name: &str, object: &Value)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let mut object = object.clone();
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    object["metadata"]["name"] = name.into();
    api.patch(name, &PatchParams::apply("nicplug-tests").force(), &Patch::Apply(object)).await.unwrap();
}

/// The cluster role of a user of the same name.
pub(crate) struct Role<'a> {
    pub(crate) admin: &'a Client,
    pub(crate) name: String,
}

impl Role<'_> {
    /// Lets the user do what these rules say, and nothing else.
    pub(crate) async fn grant(&self, rules: &[Value]) {
        apply(&Api::<ClusterRole>::all(self.admin.clone()), &self.name, &json!({ "rules": rules })).await;
        let subjects = json!([{"apiGroup": RBAC, "kind": "User", "name": self.name}]);
        let bindings = Api::<ClusterRoleBinding>::all(self.admin.clone());
        apply(&bindings, &self.name, &binding(&self.name, &subjects)).await;
    }
}
