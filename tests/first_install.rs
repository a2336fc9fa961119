//! The first minute of an installation: `deploy/install.yaml` is applied before the first replica runs.
//!
//! The program runs with the flags of that file, as its service account, behind its Service.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "these are tests"
)]

mod support;

use std::{process::Command, time::Instant};

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::json;
use support::{
    api_server::{
        self, ApiServer,
        crds::Kind,
        endpoints,
        requests::{self, Response, Run},
    },
    builders::bare_vm,
    installation::{Installation, NAMESPACE},
    replica::Replica,
    wait::eventually,
};

const WEBHOOK: &str = "validate.nicplug.io";

async fn create(admin: &Client, namespace: &str) -> Response {
    requests::create(admin, Kind::Vm, namespace, &bare_vm("vm").build(), Run::Dry).await
}

/// Runs `nicplug probe`, as `helm test` does, and returns its exit status and its output.
fn probe(api: &ApiServer, namespace: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    let output =
        command.args(["probe", "--namespace", namespace, "--kubeconfig"]).arg(api.kubeconfig()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// The measurement of docs/install.md, "The first minute": run it with `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_denied_before_the_first_replica_is_ready_and_every_one_is_reviewed_afterwards() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("first").await);
    let installation = Installation::apply(&admin).await;
    let calls = async || api.webhook_calls(WEBHOOK, "CREATE").await;
    eventually("the webhook is registered and not called", async || {
        create(&admin, &namespace).await.granted();
        (api.webhook_exclusions(WEBHOOK, "CREATE").await > 0).then_some(())
    })
    .await;
    assert_eq!(calls().await, 0);
    let (status, text) = probe(api, &namespace);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.starts_with("nicplug does not deny the request: check"), "{text}");

    // The kubelet starts the container.
    let begin = Instant::now();
    let kubeconfig = installation.kubeconfig(api).await;
    let environment = [("KUBECONFIG", kubeconfig.as_str()), ("POD_NAMESPACE", NAMESPACE)];
    let nicplug = Replica::start_with(&installation.flags(&[]), &environment).await;
    let ready = begin.elapsed();
    eventually("nicplug waits for the Service", async || {
        create(&admin, &namespace).await.granted();
        let report = nicplug.page("/readyz?verbose").await;
        report
            .contains("the API server does not call the webhooks yet: the Service \"nicplug\" has no ready endpoint")
            .then_some(())
    })
    .await;
    assert_eq!(calls().await, 0);

    // The kubelet reports the pod ready.
    let begin = Instant::now();
    endpoints::publish(&admin, NAMESPACE, "nicplug", true).await;
    eventually("a VM is reviewed", async || {
        create(&admin, &namespace).await.granted();
        (calls().await > 0).then_some(())
    })
    .await;
    println!("ready {ready:?} after its start, called {:?} after the Service had an endpoint", begin.elapsed());
    eventually("the report says so", async || {
        nicplug.page("/readyz?verbose").await.contains("[+]webhook-activation ok\n").then_some(())
    })
    .await;
    assert!(nicplug.page("/metrics").await.contains("\nnicplug_webhook_active 1\n"));
    let (status, text) = probe(api, &namespace);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.starts_with("nicplug denies the request: ") && text.contains("[NP115]"), "{text}");
    let before = calls().await;
    for _ in 0..20 {
        create(&admin, &namespace).await.granted();
    }
    assert_eq!(calls().await, before + 20, "all of them were reviewed");

    // An administrator removes the subject, and nicplug writes it again.
    let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({ "subjects": null }));
    bindings.patch("nicplug-call", &PatchParams::default(), &patch).await.unwrap();
    let is_bound = |binding: Option<&RoleBinding>| {
        binding.is_some_and(|binding| binding.subjects.iter().flatten().any(|subject| subject.name == "nicplug-call"))
    };
    await_condition(bindings, "nicplug-call", is_bound).await.unwrap();
    let before = calls().await;
    eventually("the webhook is called again", async || {
        create(&admin, &namespace).await.granted();
        (calls().await > before).then_some(())
    })
    .await;

    // An active webhook is called also when no replica answers.
    drop(nicplug);
    let denied = eventually("no replica answers", async || {
        let response = create(&admin, &namespace).await;
        (!response.is_ok()).then_some(response)
    })
    .await;
    assert!(denied.message().contains("failed calling webhook \"validate.nicplug.io\""), "{denied:?}");
}
