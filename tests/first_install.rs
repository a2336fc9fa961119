//! The first minute of an installation: `deploy/install.yaml` is applied, and nicplug is not there yet.
//!
//! The program runs with the flags of that file and as its service account, with the rights that the file gives it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "these are tests"
)]

mod clients;
mod cluster_support;

use std::{fs, path::Path, time::Instant};

use clients::Balancer;
use cluster_support::{
    Folder,
    apiserver::{self, ApiServer},
    crds::Kind,
    eventually,
    request::{self, Answer, Run, send},
    service,
    webhook::Webhook,
};
use hyper::http::Method;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::wait::await_condition,
};
use nicplug::cluster::manifests;
use serde_json::{Value, json};

const NAMESPACE: &str = "nicplug-system";
const WEBHOOK: &str = "validate.nicplug.io";

/// What is applied, in this order; the webhooks are called where the Service would be.
fn objects(service: &Balancer) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/install.yaml");
    let manifests = manifests::read(&fs::read_to_string(file).unwrap()).unwrap();
    let mut objects: Vec<Value> = manifests.into_iter().map(|manifest| manifest.object).collect();
    for webhook in objects.iter_mut().filter_map(|object| object.get_mut("webhooks")).map(|list| &mut list[0]) {
        let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap().to_owned();
        webhook["clientConfig"] = json!({"url": format!("https://{}{path}", service.address)});
    }
    objects
}

async fn apply(admin: &Client, object: &Value) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = object["metadata"]["namespace"].as_str().map(|name| format!("/namespaces/{name}"));
    let kind = text(&object["kind"]).to_lowercase();
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    let (namespace, name) = (namespace.unwrap_or_default(), text(&object["metadata"]["name"]));
    let path = format!("/{root}/{version}{namespace}/{plural}/{name}?fieldManager=kubectl");
    send(admin, Method::PATCH, &path, "application/apply-patch+yaml", object.to_string()).await.granted();
}

/// The flags of the Deployment, with the one name that is another here, and with the settings of the ConfigMap.
fn flags(objects: &[Value], folder: &Folder) -> Vec<String> {
    let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    let settings = folder.path().join("settings.yaml");
    fs::write(&settings, of_kind("ConfigMap")["data"]["settings.yaml"].as_str().unwrap()).unwrap();
    let container = &of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let given = container["args"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap());
    let flags = given.skip(1).filter_map(|flag| match flag.split_once('=').unwrap() {
        ("--listen" | "--health-listen", _) => None,
        ("--cert-dns-name", _) => Some("--cert-dns-name=127.0.0.1".to_owned()),
        ("--settings", _) => Some(format!("--settings={}", settings.display())),
        _ => Some(flag.to_owned()),
    });
    flags.collect()
}

/// A kubeconfig of nicplug's service account, with a token as the kubelet mounts one.
async fn kubeconfig(api: &ApiServer, folder: &Folder) -> String {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/nicplug/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}).to_string();
    let token = send(&api.admin(), Method::POST, &path, "application/json", request).await.granted();
    let admin = kube::config::Kubeconfig::read_from(api.kubeconfig()).unwrap();
    let mut config = serde_json::to_value(admin).unwrap();
    config["users"][0]["user"] = json!({"token": token["status"]["token"]});
    let file = folder.path().join("kubeconfig");
    fs::write(&file, config.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

async fn create(admin: &Client, namespace: &str) -> Answer {
    let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "vm"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}});
    request::create(admin, Kind::Vm, namespace, &vm, Run::Dry).await
}

/// The measurement of docs/install.md, "The first minute": run it with `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_refused_before_the_first_replica_is_there_and_all_is_judged_from_then_on() {
    let Some(api) = apiserver::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("first").await);
    let (balancer, folder) = (Balancer::start().await, Folder::new("first-install"));
    let objects = objects(&balancer);
    for object in &objects {
        apply(&admin, object).await;
    }
    let calls = async || api.webhook_calls(WEBHOOK, "CREATE").await;
    eventually("the webhook is registered, and not called", async || {
        create(&admin, &namespace).await.granted();
        (api.webhook_exclusions(WEBHOOK, "CREATE").await > 0).then_some(())
    })
    .await;
    assert_eq!(calls().await, 0);

    // The image is there, and the pod is on its node.
    let begin = Instant::now();
    let (flags, kubeconfig) = (flags(&objects, &folder), kubeconfig(api, &folder).await);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let environment = [("KUBECONFIG", kubeconfig.as_str()), ("POD_NAMESPACE", NAMESPACE)];
    let nicplug = Webhook::start_with(&flags, &environment).await;
    let ready = begin.elapsed();
    eventually("it waits for the Service", async || {
        create(&admin, &namespace).await.granted();
        let report = nicplug.get("/readyz?verbose").await;
        report.contains("the API server does not call yet: the Service \"nicplug\" has no ready endpoint").then_some(())
    })
    .await;
    assert_eq!(calls().await, 0);

    balancer.set(&[nicplug.address().parse().unwrap()]);
    let begin = Instant::now();
    service::lead(&admin, NAMESPACE, "nicplug", true).await;
    eventually("a machine is judged", async || {
        create(&admin, &namespace).await.granted();
        (calls().await > 0).then_some(())
    })
    .await;
    println!("ready {ready:?} after its start, called {:?} after the Service led to it", begin.elapsed());
    eventually("it knows", async || nicplug.get("/readyz?verbose").await.contains("[+]calls ok\n").then_some(())).await;
    assert!(nicplug.get("/metrics").await.contains("\nnicplug_called 1\n"));
    let before = calls().await;
    for _ in 0..20 {
        create(&admin, &namespace).await.granted();
    }
    assert_eq!(calls().await, before + 20, "all of them were judged");

    // Somebody takes the right away, and gets it back.
    let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({ "subjects": null }));
    bindings.patch("nicplug-call", &PatchParams::default(), &patch).await.unwrap();
    let is_bound = |binding: Option<&RoleBinding>| {
        binding.is_some_and(|binding| binding.subjects.iter().flatten().any(|subject| subject.name == "nicplug-call"))
    };
    await_condition(bindings, "nicplug-call", is_bound).await.unwrap();
    let before = calls().await;
    eventually("it is called again", async || {
        create(&admin, &namespace).await.granted();
        (calls().await > before).then_some(())
    })
    .await;

    // What was called once is called also when nobody is there to answer.
    drop(nicplug);
    balancer.set(&[]);
    let refused = eventually("nobody answers", async || {
        let answer = create(&admin, &namespace).await;
        (!answer.is_ok()).then_some(answer)
    })
    .await;
    assert!(refused.message().contains("failed calling webhook \"validate.nicplug.io\""), "{refused:?}");
}
