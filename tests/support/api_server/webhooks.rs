//! The chart's webhook configurations, for one namespace of a test.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hyper::http::Method;
use kube::Client;
use nicplug::cluster::manifests;
use serde_json::{Value, json};

use super::{
    super::{builders::bare_vm, wait::eventually},
    ApiServer,
    crds::Kind,
    requests::{self, Run, send},
    service::Service,
};

/// The namespace that `deploy/install.yaml` installs into.
const CHART_NAMESPACE: &str = "nicplug-system";

/// What the API server does with a request if the webhook does not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FailurePolicy {
    Fail,
    Ignore,
}

/// Returns the objects of the chart with its default values (`deploy/install.yaml`), for another namespace.
pub(crate) fn chart(namespace: &str) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/install.yaml");
    let text = fs::read_to_string(file).unwrap().replace(CHART_NAMESPACE, namespace);
    manifests::read(&text).unwrap().into_iter().map(|manifest| manifest.object).collect()
}

/// Returns the chart's validating and mutating configurations. They are named after the namespace of the Service, and
/// review the requests of that namespace only, because other tests use the same API server.
pub(crate) fn configurations(service: &Service, policy: FailurePolicy) -> [Value; 2] {
    let namespace = &service.namespace;
    let objects = chart(namespace);
    ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"].map(|kind| {
        let mut configuration = objects.iter().find(|object| object["kind"] == kind).unwrap().clone();
        configuration["metadata"]["name"] = json!(namespace);
        service.ip.write_into(&mut configuration);
        for (index, webhook) in configuration["webhooks"].as_array_mut().unwrap().iter_mut().enumerate() {
            let name = webhook["name"].as_str().unwrap().split('.').next().unwrap().to_owned();
            webhook["name"] = json!(format!("{name}.{namespace}.nicplug.io"));
            webhook["clientConfig"]["service"]["name"] = json!(service.name);
            // The webhook for networks, which is the second, keeps the policy of the chart.
            if index == 0 {
                webhook["failurePolicy"] = json!(format!("{policy:?}"));
            }
            webhook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
        }
        configuration
    })
}

/// Grants the permission that the match conditions of the webhooks ask for, as nicplug does when it is ready.
pub(crate) async fn activate(admin: &Client, namespace: &str) {
    let objects = chart(namespace);
    // The only RoleBinding that the chart installs without a subject: nicplug adds the subject, of the same name.
    let is_unbound = |object: &&Value| object["kind"] == "RoleBinding" && object["subjects"].is_null();
    let mut binding = objects.iter().find(is_unbound).unwrap().clone();
    let role = &binding["roleRef"]["name"];
    let role = objects.iter().find(|object| object["kind"] == "Role" && object["metadata"]["name"] == *role).unwrap();
    let account = binding["metadata"]["name"].clone();
    binding["subjects"] = json!([{"kind": "ServiceAccount", "name": account, "namespace": namespace}]);
    for (plural, object) in [("roles", role), ("rolebindings", &binding)] {
        let name = object["metadata"]["name"].as_str().unwrap();
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{plural}/{name}");
        apply(admin, &path, object).await;
    }
}

/// The webhooks of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    /// The name of both configurations.
    pub(crate) name: String,
    /// The name of the mutating webhook, as the API server counts its calls.
    pub(crate) mutating: String,
    /// The name of the validating webhook.
    pub(crate) validating: String,
    /// The name of the validating webhook for networks.
    pub(crate) networks: String,
}

impl Registration {
    /// Installs both configurations with this CA (PEM), and waits until the API server calls both webhooks.
    pub(crate) async fn install(api: &ApiServer, service: &Service, ca: &str, policy: FailurePolicy) -> Self {
        let (admin, namespace) = (api.admin(), &service.namespace);
        activate(&admin, namespace).await;
        for mut configuration in configurations(service, policy) {
            for webhook in configuration["webhooks"].as_array_mut().unwrap() {
                webhook["clientConfig"]["caBundle"] = json!(BASE64.encode(ca));
            }
            let plural = format!("{}s", configuration["kind"].as_str().unwrap().to_lowercase());
            let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}/{namespace}");
            apply(&admin, &path, &configuration).await;
        }
        let registration = Self {
            name: namespace.clone(),
            mutating: format!("mutate.{namespace}.nicplug.io"),
            validating: format!("validate.{namespace}.nicplug.io"),
            networks: format!("validate-networks.{namespace}.nicplug.io"),
        };
        registration.wait_until_called(api).await;
        registration
    }

    /// Deletes both configurations.
    pub(crate) async fn delete(&self, admin: &Client) {
        for plural in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
            let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}/{}", self.name);
            send(admin, Method::DELETE, &path, "application/json", "").await.granted();
        }
    }

    /// Waits until both webhooks answer. The API server learns of the Service, the permission and the configurations by
    /// watches, a moment after it has stored them.
    async fn wait_until_called(&self, api: &ApiServer) {
        let admin = api.admin();
        let probe = bare_vm("probe").build_vmi();
        // With the policy `Ignore` a failed call counts as a call, and the request is allowed.
        let answered = async |webhook: &str| {
            let calls = api.webhook_calls(webhook, "CREATE").await;
            calls - api.webhook_failures(webhook).await.min(calls)
        };
        let before = (answered(&self.mutating).await, answered(&self.validating).await);
        eventually("both webhooks answer", async || {
            let response = requests::create(&admin, Kind::Vmi, &self.name, &probe, Run::Dry).await;
            let now = (answered(&self.mutating).await, answered(&self.validating).await);
            (now.0 > before.0 && now.1 > before.1 && !response.message().contains("failed calling webhook"))
                .then_some(())
        })
        .await;
    }
}

async fn apply(admin: &Client, path: &str, object: &Value) {
    let path = format!("{path}?fieldManager=nicplug-tests&force=true");
    send(admin, Method::PATCH, &path, "application/apply-patch+yaml", object.to_string()).await.granted();
}
