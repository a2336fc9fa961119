//! Roles of the API server, and their users.

use std::collections::BTreeSet;

use hyper::http::Method;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{super::wait::eventually, ApiServer, requests::send};

const EDITOR: &str = "nicplug-tests:editor";
const KUBEVIRT: &str = "nicplug-tests:kubevirt";

/// Creates the roles, and binds the one of KubeVirt to its service accounts.
pub(super) async fn install(api: &ApiServer) {
    let roles = Api::<ClusterRole>::all(api.admin());
    for (name, rules) in [(EDITOR, editor()), (KUBEVIRT, kubevirt())] {
        apply(&roles, name, &json!({ "rules": rules })).await;
    }
    let group = json!([{"apiGroup": RBAC, "kind": "Group", "name": "system:serviceaccounts:kubevirt"}]);
    apply(&Api::<ClusterRoleBinding>::all(api.admin()), KUBEVIRT, &binding(KUBEVIRT, &group)).await;
    wait_until_in_force(api, "system:serviceaccount:kubevirt:kubevirt-controller", "kubevirt", &kubevirt()).await;
}

/// Grants a user all rights on the kinds of KubeVirt and Multus in a namespace.
pub(super) async fn bind(api: &ApiServer, user: &str, namespace: &str) {
    let subjects = json!([{"apiGroup": RBAC, "kind": "User", "name": user}]);
    apply(&Api::<RoleBinding>::namespaced(api.admin(), namespace), user, &binding(EDITOR, &subjects)).await;
    wait_until_in_force(api, user, namespace, &editor()).await;
}

const ALL: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

fn editor() -> Vec<Value> {
    vec![json!({"apiGroups": ["kubevirt.io", "pool.kubevirt.io", "k8s.cni.cncf.io"], "resources": ["*"], "verbs": ALL})]
}

fn kubevirt() -> Vec<Value> {
    let revisions = json!({"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": ALL});
    [editor(), vec![revisions]].concat()
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn binding(role: &str, subjects: &Value) -> Value {
    json!({"roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}, "subjects": subjects})
}

/// Creates or updates an object by server-side apply.
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

/// A user with a cluster role of the same name.
pub(crate) struct Role<'a> {
    pub(crate) api: &'a ApiServer,
    pub(crate) name: String,
}

impl Role<'_> {
    /// Replaces the rights of the user by these rules.
    pub(crate) async fn grant(&self, rules: &[Value]) {
        apply(&Api::<ClusterRole>::all(self.api.admin()), &self.name, &json!({ "rules": rules })).await;
        let subjects = json!([{"apiGroup": RBAC, "kind": "User", "name": self.name}]);
        let bindings = Api::<ClusterRoleBinding>::all(self.api.admin());
        apply(&bindings, &self.name, &binding(&self.name, &subjects)).await;
        wait_until_in_force(self.api, &self.name, "default", rules).await;
    }
}

/// Waits until the API server authorizes a user by these rules and no others. Its authorizer learns of a stored role by
/// a watch, a moment later.
async fn wait_until_in_force(api: &ApiServer, user: &str, namespace: &str, rules: &[Value]) {
    let (client, wanted) = (api.user(user), rights(rules));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace}});
    let are_in_force = async || {
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let answer = send(&client, Method::POST, path, "application/json", review.to_string()).await.granted();
        let mut rights = rights(answer["status"]["resourceRules"].as_array().unwrap());
        // The default roles of Kubernetes give every user rights in these groups.
        let defaults = ["authentication.k8s.io", "authorization.k8s.io", "certificates.k8s.io"];
        rights.retain(|(group, ..)| !defaults.contains(&group.as_str()));
        (rights == wanted).then_some(())
    };
    eventually(&format!("the rights of {user:?} are in force"), are_in_force).await;
}

/// Returns group, resource and verb of each right in these rules.
fn rights(rules: &[Value]) -> BTreeSet<(String, String, String)> {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    rights
}
