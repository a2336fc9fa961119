//! From when on the API server calls the webhooks: the RoleBinding, its rights, and what is waited for.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod cluster_support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster_support::{
    LONG,
    apiserver::{self, ApiServer},
    eventually,
    request::send,
    roles::Role,
    service,
    webhook::Webhook,
};
use futures_util::future;
use hyper::http::Method;
use kube::Client;
use nicplug::{
    controllers::webhook_activation::{Activation, ObjectNames, WebhookActivation},
    server::reload::every,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time};

const BINDINGS: (&str, &str) = ("rbac.authorization.k8s.io", "rolebindings");
const SLICES: (&str, &str) = ("discovery.k8s.io", "endpointslices");
const CALLS: (&str, &str) = ("nicplug.io", "webhooks");

/// What the chart gives for it: group, resource and verb.
const RIGHTS: [((&str, &str), &str); 5] =
    [(BINDINGS, "list"), (BINDINGS, "watch"), (BINDINGS, "patch"), (SLICES, "list"), (CALLS, "call")];

/// A namespace with the objects of the chart that matter here.
struct Scene {
    admin: Client,
    namespace: String,
}

impl Scene {
    async fn open(api: &ApiServer, purpose: &str) -> Self {
        let scene = Self { admin: api.admin(), namespace: api.namespace(purpose).await };
        let rules = json!([{"apiGroups": [CALLS.0], "resources": [CALLS.1], "verbs": ["call"]}]);
        scene.create("roles", json!({"metadata": {"name": "call"}, "rules": rules})).await;
        scene
    }

    async fn create(&self, plural: &str, object: Value) {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{plural}", self.namespace);
        send(&self.admin, Method::POST, &path, "application/json", object.to_string()).await.granted();
    }

    /// The RoleBinding as it is installed: without a subject.
    async fn bind(&self) {
        let role = json!({"apiGroup": BINDINGS.0, "kind": "Role", "name": "call"});
        let binding = json!({"metadata": {"name": "call"}, "roleRef": role});
        self.create("rolebindings", binding).await;
    }

    async fn lead(&self, service: &str, is_ready: bool) {
        service::lead(&self.admin, &self.namespace, service, is_ready).await;
    }

    /// A replica that is as ready as `is_ready` says.
    fn replica(&self, client: Client, is_ready: &Arc<AtomicBool>) -> Replica {
        let [binding, service] = ["call", "nicplug"].map(str::to_owned);
        let calls = WebhookActivation::new(client, ObjectNames { namespace: self.namespace.clone(), binding, service });
        let (called, is_ready) = (calls.called(), Arc::clone(is_ready));
        let task = tokio::spawn(async move {
            calls.keep(|| is_ready.load(Ordering::Relaxed), every(Duration::from_millis(20))).await;
        });
        Replica { called, task }
    }
}

struct Replica {
    called: watch::Receiver<Activation>,
    task: JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replica {
    /// Waits until it says so.
    async fn says(&mut self, what: &str, is_it: impl FnMut(&Activation) -> bool) {
        let is_said = time::timeout(LONG, self.called.wait_for(is_it)).await.is_ok();
        assert!(is_said, "not within {LONG:?}: {what}; but {:?}", self.called.borrow());
    }

    async fn waits_for(&mut self, words: &str) {
        self.says(words, |called| matches!(called, Activation::NotYet(reason) if reason.contains(words))).await;
    }

    async fn complains(&mut self, words: &str) {
        self.says(words, |called| matches!(called, Activation::No(reason) if reason.contains(words))).await;
    }

    async fn is_called(&mut self) {
        self.says("it is called", |called| *called == Activation::Yes).await;
    }
}

#[tokio::test]
async fn what_is_waited_for_is_told_one_after_the_other() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api, "calls").await;
    let is_ready = Arc::default();
    let (mut one, mut other) = (scene.replica(api.admin(), &is_ready), scene.replica(api.admin(), &is_ready));
    one.complains("there is no RoleBinding \"call\"").await;
    scene.bind().await;
    one.waits_for("this replica is not ready").await;
    is_ready.store(true, Ordering::Relaxed);
    one.waits_for("the Service \"nicplug\" leads to no replica").await;
    scene.lead("another", true).await;
    scene.lead("nicplug", false).await;
    other.waits_for("the Service \"nicplug\" leads to no replica").await;
    scene.lead("nicplug", true).await;
    one.is_called().await;
    other.is_called().await;

    // Once it is so, it does not matter who is ready.
    is_ready.store(false, Ordering::Relaxed);
    scene.replica(api.admin(), &is_ready).is_called().await;
}

#[tokio::test]
async fn a_server_that_judges_by_files_is_called_too() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api, "calls-files").await;
    scene.bind().await;
    scene.lead("nicplug", true).await;
    let environment = [("KUBECONFIG", api.kubeconfig().to_str().unwrap()), ("POD_NAMESPACE", &scene.namespace)];
    let flags = ["--facts", "none", "--activation-binding", "call", "--activation-service", "nicplug"];
    let nicplug = Webhook::start_with(&flags, &environment).await;
    let is_called = async || nicplug.get("/readyz?verbose").await.contains("[+]calls ok\n").then_some(());
    eventually("it is called", is_called).await;
}

#[tokio::test]
async fn each_verb_that_is_missed_is_named_and_when_it_is_given_the_webhooks_are_called() {
    let Some(api) = apiserver::shared().await else { return };
    let rules = |without: Option<((&str, &str), &str)>| -> Vec<Value> {
        let left = RIGHTS.iter().filter(|right| Some(**right) != without);
        left.map(|((group, resource), verb)| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]}))
            .collect()
    };
    let case = async |missing: ((&str, &str), &str)| {
        let ((_, resource), verb) = missing;
        let scene = Scene::open(api, &format!("calls-{verb}")).await;
        scene.bind().await;
        scene.lead("nicplug", true).await;
        let role = Role { api, name: format!("calls-without-{verb}-{resource}") };
        role.grant(&rules(Some(missing))).await;
        let mut replica = scene.replica(api.user(&role.name), &Arc::new(true.into()));
        match verb {
            // What is listed is enough, again and again.
            "watch" => {}
            // The API server lets nobody give what he has not.
            "call" => replica.complains("attempting to grant RBAC permissions not currently held").await,
            _ => replica.complains(&format!("cannot {verb} resource {resource:?}")).await,
        }
        if verb != "watch" {
            role.grant(&rules(None)).await;
        }
        replica.is_called().await;
    };
    let cases: Vec<_> = RIGHTS.iter().map(|right| case(*right)).collect();
    future::join_all(cases).await;
}
