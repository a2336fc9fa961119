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

use hyper::http::Method;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::Kind,
        endpoints,
        requests::{self, Response, Run, send},
        service::ClusterIp,
        webhooks::chart,
    },
    builders::bare_vm,
    folder::Folder,
    replica::Replica,
    wait::eventually,
};

const NAMESPACE: &str = "nicplug-system";
const WEBHOOK: &str = "validate.nicplug.io";

async fn apply(admin: &Client, object: &Value) {
    let path = format!("{}?fieldManager=kubectl", requests::path_of(object));
    send(admin, Method::PATCH, &path, "application/apply-patch+yaml", object.to_string()).await.granted();
}

/// Returns the flags of the Deployment, with the address of the Service and a file with the settings of the ConfigMap.
fn flags(objects: &[Value], service: &ClusterIp, folder: &Folder) -> Vec<String> {
    let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    let settings = of_kind("ConfigMap")["data"]["settings.yaml"].as_str().unwrap();
    let settings = folder.write("settings.yaml", settings);
    let container = &of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let given = container["args"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap());
    let flags = given.skip(1).filter_map(|flag| match flag.split_once('=').unwrap() {
        ("--listen", _) => Some(format!("--listen={}", service.address())),
        // The replica of the tests has its own.
        ("--health-listen", _) => None,
        ("--settings", _) => Some(format!("--settings={settings}")),
        _ => Some(flag.to_owned()),
    });
    flags.collect()
}

/// Writes a kubeconfig of nicplug's service account, with a token as the kubelet mounts one.
async fn kubeconfig(api: &ApiServer, folder: &Folder) -> String {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/nicplug/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}).to_string();
    let token = send(&api.admin(), Method::POST, &path, "application/json", request).await.granted();
    let admin = kube::config::Kubeconfig::read_from(api.kubeconfig()).unwrap();
    let mut config = serde_json::to_value(admin).unwrap();
    config["users"][0]["user"] = json!({"token": token["status"]["token"]});
    folder.write("kubeconfig", &config.to_string())
}

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
    let (service, folder) = (ClusterIp::reserve(), Folder::new("first-install"));
    let mut objects = chart(NAMESPACE);
    for object in &mut objects {
        service.write_into(object);
        apply(&admin, object).await;
    }
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
    let (flags, kubeconfig) = (flags(&objects, &service, &folder), kubeconfig(api, &folder).await);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let environment = [("KUBECONFIG", kubeconfig.as_str()), ("POD_NAMESPACE", NAMESPACE)];
    let nicplug = Replica::start_with(&flags, &environment).await;
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
