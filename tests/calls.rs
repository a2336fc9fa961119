//! Webhook activation: the RoleBinding, its permissions, and what nicplug waits for.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future;
use hyper::http::Method;
use kube::Client;
use nicplug::{
    controllers::webhook_activation::{Activation, ObjectNames, WebhookActivation},
    server::reload::every,
};
use serde_json::{Value, json};
use support::{
    api_server::{self, ApiServer, endpoints, requests::send, roles::Role},
    replica::Replica,
    wait::{LONG, eventually},
};
use tokio::{sync::watch, task::JoinHandle, time};

const BINDINGS: (&str, &str) = ("rbac.authorization.k8s.io", "rolebindings");
const SLICES: (&str, &str) = ("discovery.k8s.io", "endpointslices");
const CALLS: (&str, &str) = ("nicplug.io", "webhooks");

/// The permissions of the chart: group, resource and verb.
const RIGHTS: [((&str, &str), &str); 5] =
    [(BINDINGS, "list"), (BINDINGS, "watch"), (BINDINGS, "patch"), (SLICES, "list"), (CALLS, "call")];

/// A namespace with the Role of the chart, and its RoleBinding when a test creates it.
struct ActivationFixture {
    admin: Client,
    namespace: String,
}

impl ActivationFixture {
    async fn create_in_namespace(api: &ApiServer, purpose: &str) -> Self {
        let fixture = Self { admin: api.admin(), namespace: api.namespace(purpose).await };
        let rules = json!([{"apiGroups": [CALLS.0], "resources": [CALLS.1], "verbs": ["call"]}]);
        fixture.create("roles", json!({"metadata": {"name": "call"}, "rules": rules})).await;
        fixture
    }

    async fn create(&self, plural: &str, object: Value) {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{plural}", self.namespace);
        send(&self.admin, Method::POST, &path, "application/json", object.to_string()).await.granted();
    }

    /// Creates the RoleBinding as the chart does: without a subject.
    async fn install_binding(&self) {
        let role = json!({"apiGroup": BINDINGS.0, "kind": "Role", "name": "call"});
        let binding = json!({"metadata": {"name": "call"}, "roleRef": role});
        self.create("rolebindings", binding).await;
    }

    async fn publish_endpoint(&self, service: &str, is_ready: bool) {
        endpoints::publish(&self.admin, &self.namespace, service, is_ready).await;
    }

    /// Starts the activation task of a replica whose readiness a test sets.
    fn start_task(&self, client: Client, is_ready: &Arc<AtomicBool>) -> ActivationTask {
        let [binding, service] = ["call", "nicplug"].map(str::to_owned);
        let calls = WebhookActivation::new(client, ObjectNames { namespace: self.namespace.clone(), binding, service });
        let (called, is_ready) = (calls.activation(), Arc::clone(is_ready));
        let task = tokio::spawn(async move {
            calls.run(|| is_ready.load(Ordering::Relaxed), every(Duration::from_millis(20))).await;
        });
        ActivationTask { called, task }
    }
}

/// The activation task of a replica.
struct ActivationTask {
    called: watch::Receiver<Activation>,
    task: JoinHandle<()>,
}

impl Drop for ActivationTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ActivationTask {
    /// Waits for a state.
    async fn wait_for(&mut self, what: &str, is_right: impl FnMut(&Activation) -> bool) {
        let is_reached = time::timeout(LONG, self.called.wait_for(is_right)).await.is_ok();
        assert!(is_reached, "did not happen within {LONG:?}: {what}; the state is {:?}", self.called.borrow());
    }

    /// Waits until the webhooks are inactive for this reason.
    async fn is_waiting(&mut self, words: &str) {
        self.wait_for(words, |called| matches!(called, Activation::Waiting(reason) if reason.contains(words))).await;
    }

    /// Waits until there is this error.
    async fn has_error(&mut self, words: &str) {
        self.wait_for(words, |called| matches!(called, Activation::Failed(reason) if reason.contains(words))).await;
    }

    async fn is_active(&mut self) {
        self.wait_for("the webhooks are active", |called| *called == Activation::Active).await;
    }
}

#[tokio::test]
async fn the_state_names_each_condition_that_is_not_met_yet() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = ActivationFixture::create_in_namespace(api, "calls").await;
    let is_ready = Arc::default();
    let (mut one, mut other) = (fixture.start_task(api.admin(), &is_ready), fixture.start_task(api.admin(), &is_ready));
    one.has_error("the RoleBinding \"call\" is missing").await;
    fixture.install_binding().await;
    one.is_waiting("this replica is not ready").await;
    is_ready.store(true, Ordering::Relaxed);
    one.is_waiting("the Service \"nicplug\" has no ready endpoint").await;
    fixture.publish_endpoint("another", true).await;
    fixture.publish_endpoint("nicplug", false).await;
    other.is_waiting("the Service \"nicplug\" has no ready endpoint").await;
    fixture.publish_endpoint("nicplug", true).await;
    one.is_active().await;
    other.is_active().await;

    // An active webhook stays active when no replica is ready.
    is_ready.store(false, Ordering::Relaxed);
    fixture.start_task(api.admin(), &is_ready).is_active().await;
}

#[tokio::test]
async fn a_server_with_facts_from_files_activates_the_webhooks_too() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = ActivationFixture::create_in_namespace(api, "calls-files").await;
    fixture.install_binding().await;
    fixture.publish_endpoint("nicplug", true).await;
    let environment = [("KUBECONFIG", api.kubeconfig().to_str().unwrap()), ("POD_NAMESPACE", &fixture.namespace)];
    let flags = ["--facts", "none", "--activation-binding", "call", "--activation-service", "nicplug"];
    let nicplug = Replica::start_with(&flags, &environment).await;
    let is_active = async || nicplug.page("/readyz?verbose").await.contains("[+]webhook-activation ok\n").then_some(());
    eventually("the webhooks are active", is_active).await;
}

#[tokio::test]
async fn each_missing_permission_is_named_and_when_it_is_granted_the_webhooks_become_active() {
    let Some(api) = api_server::shared().await else { return };
    let rules = |without: Option<((&str, &str), &str)>| -> Vec<Value> {
        let left = RIGHTS.iter().filter(|right| Some(**right) != without);
        left.map(|((group, resource), verb)| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]}))
            .collect()
    };
    let case = async |missing: ((&str, &str), &str)| {
        let ((_, resource), verb) = missing;
        let fixture = ActivationFixture::create_in_namespace(api, &format!("calls-{verb}")).await;
        fixture.install_binding().await;
        fixture.publish_endpoint("nicplug", true).await;
        let role = Role { api, name: format!("calls-without-{verb}-{resource}") };
        role.grant(&rules(Some(missing))).await;
        let mut task = fixture.start_task(api.user(&role.name), &Arc::new(true.into()));
        match verb {
            // Lists at each tick replace the watch.
            "watch" => {}
            // In Kubernetes a user can only grant permissions that the user has.
            "call" => task.has_error("attempting to grant RBAC permissions not currently held").await,
            _ => task.has_error(&format!("cannot {verb} resource {resource:?}")).await,
        }
        if verb != "watch" {
            role.grant(&rules(None)).await;
        }
        task.is_active().await;
    };
    let cases: Vec<_> = RIGHTS.iter().map(|right| case(*right)).collect();
    future::join_all(cases).await;
}
