//! The chart on a real API server: rendered and installed by Helm's own engine, which `tests/chart/chart.py` drives.
//!
//! What the manifests say is held to the code by `just chart`, without a cluster.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod cluster_support;
mod common;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use cluster_support::{
    apiserver::{self, ApiServer},
    crds::{self, Kind},
    eventually,
    request::{self, Answer, Change, Run, send},
};
use hyper::http::Method;
use kube::Client;
use nicplug::{
    admission::Reviewer,
    cluster::manifests,
    facts::NoFacts,
    rules::RULES,
    settings::{OverridePolicy, Settings},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

const NAMESPACE: &str = "nicplug-system";
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// Groups whose definitions no cluster of the tests has; `just chart` holds their objects to models made from them.
const OF_OTHERS: &[&str] = &["cert-manager.io", "monitoring.coreos.com"];

/// What the API server puts into an object that has nothing in that place, and why the chart cannot.
const OF_THE_SERVER: &[&str] = &[
    // The older name of serviceAccountName, which the API server keeps equal to it.
    "Deployment.spec.template.spec.serviceAccount",
    "Deployment.status",
    "PodDisruptionBudget.status",
    // Addresses are given out by the cluster, of the families that it has.
    "Service.spec.clusterIP",
    "Service.spec.clusterIPs",
    "Service.spec.ipFamilies",
    "Service.spec.ipFamilyPolicy",
    "Service.status",
];

// === What is rendered ===

/// The folder `target/chart` with each set of values rendered; None where there is no Python to do it with.
///
/// One line on standard error says so then, and the test passes. Where CI is set to `true` that is a failure instead.
fn rendered() -> Option<&'static Path> {
    static RENDERED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = RENDERED.get_or_init(|| {
        if !python().exists() {
            assert_ne!(env::var("CI").as_deref(), Ok("true"), "CI must test the chart: run `just chart` first");
            // Not by a macro: what those print is shown for tests that fail only.
            let _ = writeln!(io::stderr(), "skipped: nothing to render the chart with (`just chart` installs it)");
            return None;
        }
        helm(&["render"]);
        Some(root().join("target/chart"))
    });
    folder.as_deref()
}

/// The objects of each set of values.
fn sets() -> BTreeMap<String, Vec<Value>> {
    let files = common::entries(rendered().unwrap());
    let manifests = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    manifests.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), objects(path))).collect()
}

fn objects(path: &Path) -> Vec<Value> {
    let manifests = manifests::read(&fs::read_to_string(path).unwrap()).unwrap();
    manifests.into_iter().map(|manifest| manifest.object).collect()
}

/// Runs `chart.py`, which has to succeed.
fn helm(args: &[&str]) {
    let output = Command::new(python()).arg(root().join("tests/chart/chart.py")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn python() -> PathBuf {
    root().join("target/tools/chart/bin/python")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The one object of a kind.
fn of_kind<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

// === The scene ===

/// The API server, for one test at a time: every set of values has objects of the same names.
struct Scene {
    api: &'static ApiServer,
    admin: Client,
    sets: BTreeMap<String, Vec<Value>>,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// None where there is no API server, or nothing to render with.
    async fn open() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::const_new(());
        rendered()?;
        let api = apiserver::shared().await?;
        let scene = Self { api, admin: api.admin(), sets: sets(), _alone: ALONE.lock().await };
        let namespace = json!({"metadata": {"name": NAMESPACE}}).to_string();
        let answer = send(&scene.admin, Method::POST, "/api/v1/namespaces", JSON, namespace).await;
        assert!(answer.is_ok() || answer.reason() == "AlreadyExists", "{answer:?}");
        // What an earlier test has left.
        for object in scene.sets.values().flatten() {
            scene.delete(object).await;
        }
        let vm = object("VirtualMachine", "probe", &Value::Null);
        eventually("no webhook is called any more", async || {
            let answer = request::create(&scene.admin, Kind::Vm, "default", &vm, Run::Dry).await;
            sent_to(&answer).is_empty().then_some(())
        })
        .await;
        Some(scene)
    }

    /// Applies as a field manager, without force, and with every field checked.
    async fn apply(&self, object: &Value, manager: &str) -> Answer {
        let path = format!("{}?fieldManager={manager}&fieldValidation=Strict", path(object));
        send(&self.admin, Method::PATCH, &path, APPLY, object.to_string()).await
    }

    async fn get(&self, object: &Value) -> Answer {
        send(&self.admin, Method::GET, &path(object), JSON, "").await
    }

    async fn delete(&self, object: &Value) {
        if !is_of_others(object) {
            let answer = send(&self.admin, Method::DELETE, &path(object), JSON, "").await;
            assert!(answer.is_ok() || answer.code == 404, "{answer:?}");
        }
    }

    /// Whether a set's objects are in the cluster.
    async fn has(&self, set: &str) -> bool {
        let mut found = Vec::new();
        for object in &self.sets[set] {
            found.push(self.get(object).await.is_ok());
        }
        assert!(found.iter().all(|one| *one == found[0]), "{set}: {found:?}");
        found[0]
    }
}

fn is_of_others(object: &Value) -> bool {
    OF_OTHERS.iter().any(|group| object["apiVersion"].as_str().unwrap().starts_with(group))
}

/// Where the API server has an object.
fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (version, name) = (text(&object["apiVersion"]), text(&object["metadata"]["name"]));
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = object["metadata"]["namespace"].as_str().map(|name| format!("/namespaces/{name}"));
    let kind = text(&object["kind"]).to_lowercase();
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    format!("/{root}/{version}{}/{plural}/{name}", namespace.unwrap_or_default())
}

// === No drift ===

/// Where the stored object is not what was rendered.
fn differences(rendered: &Value, stored: &Value, path: &str) -> Vec<String> {
    match (rendered, stored) {
        (Value::Object(rendered), Value::Object(stored)) => {
            let inner = |key: &String| format!("{path}.{key}");
            let lost = rendered.keys().filter(|key| !stored.contains_key(*key)).map(|key| inner(key) + " is lost");
            let kept = stored.iter().flat_map(|(key, value)| match rendered.get(key) {
                Some(before) => differences(before, value, &inner(key)),
                None => vec![inner(key)],
            });
            lost.chain(kept).collect()
        }
        (Value::Array(rendered), Value::Array(stored)) if rendered.len() == stored.len() => {
            let pairs = rendered.iter().zip(stored).enumerate();
            pairs.flat_map(|(index, (before, after))| differences(before, after, &format!("{path}[{index}]"))).collect()
        }
        _ if rendered == stored => Vec::new(),
        _ => vec![format!("{path}: {rendered} became {stored}")],
    }
}

#[tokio::test]
async fn what_is_rendered_is_stored_as_it_is_and_another_manager_can_apply_it_too() {
    let Some(scene) = Scene::open().await else { return };
    for (set, objects) in &scene.sets {
        let objects: Vec<&Value> = objects.iter().filter(|object| !is_of_others(object)).collect();
        for object in &objects {
            scene.apply(object, "helm").await.granted();
        }
        for object in &objects {
            let kind = object["kind"].as_str().unwrap();
            let mut differences = differences(object, &scene.get(object).await.granted(), kind);
            differences.retain(|path| {
                let is_of_metadata = path.starts_with(&format!("{kind}.metadata.")) && !path.contains(' ');
                !is_of_metadata && !OF_THE_SERVER.contains(&path.as_str())
            });
            assert_eq!(differences, Vec::<String>::new(), "{set}");
            scene.apply(object, "gitops").await.granted();
            scene.apply(object, "helm").await.granted();
            scene.delete(object).await;
        }
    }
}

// === Helm ===

/// What nicplug writes: its authority, into a webhook configuration.
fn authority(configuration: &Value) -> Value {
    json!({"apiVersion": configuration["apiVersion"], "kind": configuration["kind"],
        "metadata": {"name": configuration["metadata"]["name"]},
        "webhooks": [{"name": configuration["webhooks"][0]["name"], "clientConfig": {"caBundle": bundle()}}]})
}

/// And the account that may have it called, into a RoleBinding.
fn subjects() -> Value {
    json!({"subjects": [{"kind": "ServiceAccount", "name": "nicplug-call", "namespace": NAMESPACE}]})
}

fn binding_of_calls(objects: &[Value]) -> &Value {
    let is_it = |object: &&Value| object["kind"] == "RoleBinding" && object["metadata"]["name"] == "nicplug-call";
    objects.iter().find(is_it).unwrap()
}

fn bundle() -> String {
    BASE64.encode("-----BEGIN CERTIFICATE-----\nof nicplug\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn helm_installs_it_leaves_alone_what_nicplug_writes_and_takes_all_of_it_away() {
    let Some(scene) = Scene::open().await else { return };
    let kubeconfig = scene.api.kubeconfig().to_str().unwrap();
    let objects = &scene.sets["default"];
    let nicplug = scene.api.service_account(NAMESPACE, "nicplug");
    helm(&["install", kubeconfig]);
    assert!(scene.has("default").await);

    let written = ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"];
    for kind in written {
        let configuration = of_kind(objects, kind);
        let path = format!("{}?fieldManager=nicplug", path(configuration));
        send(&nicplug, Method::PATCH, &path, APPLY, authority(configuration).to_string()).await.granted();
    }
    let secret = of_kind(objects, "Secret");
    let data = json!({"data": {"tls.crt": bundle()}}).to_string();
    send(&nicplug, Method::PATCH, &path(secret), MERGE, data).await.granted();
    let binding = binding_of_calls(objects);
    let path = format!("{}?fieldManager=nicplug-calls", path(binding));
    send(&nicplug, Method::PATCH, &path, MERGE, subjects().to_string()).await.granted();

    helm(&["upgrade", kubeconfig]);
    for object in objects {
        scene.apply(object, "gitops").await.granted();
    }
    for kind in written {
        let stored = scene.get(of_kind(objects, kind)).await.granted();
        assert_eq!(stored["webhooks"][0]["clientConfig"]["caBundle"], bundle(), "{kind}");
    }
    assert_eq!(scene.get(secret).await.granted()["data"]["tls.crt"], bundle());
    assert_eq!(scene.get(binding).await.granted()["subjects"], subjects()["subjects"]);

    helm(&["uninstall", kubeconfig]);
    assert!(!scene.has("default").await);
    let secrets = send(&scene.admin, Method::GET, &format!("/api/v1/namespaces/{NAMESPACE}/secrets"), JSON, "").await;
    assert_eq!(secrets.granted()["items"], json!([]));
}

#[tokio::test]
async fn helm_moves_from_one_set_of_values_to_another() {
    let Some(scene) = Scene::open().await else { return };
    let kubeconfig = scene.api.kubeconfig().to_str().unwrap();
    helm(&["install", kubeconfig]);
    for set in ["minimal", "secret", "every-value", "default"] {
        helm(&["upgrade", kubeconfig, set]);
        assert!(scene.has(set).await, "{set}");
    }
    helm(&["uninstall", kubeconfig]);
}

#[tokio::test]
async fn what_is_applied_without_helm_is_accepted() {
    let Some(scene) = Scene::open().await else { return };
    let objects = objects(&root().join("deploy/install.yaml"));
    for object in &objects {
        scene.apply(object, "kubectl").await.granted();
    }
    assert!(scene.has("default").await);
    let of_helm = objects.iter().find(|object| object.to_string().contains("Helm"));
    assert_eq!(of_helm, None);
}

// === Rights ===

#[tokio::test]
async fn the_service_account_may_do_what_it_needs_and_nothing_beside() {
    let Some(scene) = Scene::open().await else { return };
    for object in &scene.sets["default"] {
        scene.apply(object, "helm").await.granted();
    }
    let nicplug = scene.api.service_account(NAMESPACE, "nicplug");
    let configurations = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let own = format!("/api/v1/namespaces/{NAMESPACE}");
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings");
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    let lists = |path: &str| (Method::GET, path.to_owned());
    let named = |path: &str, name: &str| (Method::GET, format!("{path}?fieldSelector=metadata.name%3D{name}"));
    let patches = |path: &str| (Method::PATCH, path.to_owned());
    let allowed = [
        lists("/apis/kubevirt.io/v1/kubevirts"),
        lists("/apis/kubevirt.io/v1/virtualmachines"),
        lists("/apis/kubevirt.io/v1/virtualmachineinstances"),
        lists("/apis/kubevirt.io/v1/virtualmachineinstancemigrations"),
        lists("/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"),
        lists("/apis/apps/v1/daemonsets"),
        lists("/apis/apps/v1/namespaces/default/controllerrevisions/of-a-vm"),
        lists("/api/v1/namespaces"),
        lists("/api/v1/nodes"),
        named("/api/v1/configmaps", "multus-daemon-config"),
        named(&format!("{own}/secrets"), "nicplug-certificates"),
        named(configurations, "nicplug"),
        named(&bindings, "nicplug-call"),
        lists(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")),
        patches(&format!("{bindings}/nicplug-call")),
        patches("/apis/kubevirt.io/v1/namespaces/default/virtualmachines/a-vm"),
        patches("/apis/kubevirt.io/v1/namespaces/default/virtualmachines/a-vm/status"),
        patches("/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances/a-vm"),
        patches(&format!("{configurations}/nicplug")),
        patches(&format!("{own}/secrets/nicplug-certificates")),
        (Method::PUT, format!("{leases}/nicplug-persist")),
        (Method::POST, leases.clone()),
        (Method::POST, format!("{own}/secrets")),
        (Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events".to_owned()),
    ];
    let forbidden = [
        lists("/api/v1/configmaps"),
        lists("/api/v1/pods"),
        lists("/api/v1/secrets"),
        lists("/apis/apps/v1/controllerrevisions"),
        lists("/apis/apps/v1/deployments"),
        lists(&format!("{own}/secrets")),
        lists(configurations),
        lists(&bindings),
        lists("/apis/discovery.k8s.io/v1/endpointslices"),
        named(&format!("{own}/configmaps"), "nicplug"),
        patches("/api/v1/namespaces/default"),
        patches("/api/v1/nodes/a-node"),
        patches("/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt"),
        patches(&format!("{configurations}/another")),
        patches(&format!("{own}/secrets/another")),
        patches(&format!("{bindings}/nicplug")),
        patches(&format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/nicplug-call")),
        (Method::PUT, format!("{leases}/another")),
        (Method::POST, bindings.clone()),
        (Method::POST, configurations.to_owned()),
        (Method::POST, "/api/v1/namespaces/default/secrets".to_owned()),
        (Method::POST, "/apis/kubevirt.io/v1/namespaces/default/virtualmachines".to_owned()),
        (Method::PUT, "/apis/kubevirt.io/v1/namespaces/default/virtualmachines/a-vm".to_owned()),
        (Method::DELETE, "/apis/kubevirt.io/v1/namespaces/default/virtualmachines/a-vm".to_owned()),
        (Method::DELETE, format!("{configurations}/nicplug")),
    ];
    for (requests, may) in [(&allowed[..], true), (&forbidden, false)] {
        for (method, path) in requests {
            let separator = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{separator}dryRun=All");
            let content = if *method == Method::PATCH { MERGE } else { JSON };
            let answer = send(&nicplug, method.clone(), &path, content, "{}").await;
            // Whatever else is wrong with the request is found only after it was permitted.
            assert_eq!(answer.code != 403, may, "{method} {path}: {answer:?}");
        }
    }
}

// === What is sent to the webhook ===

/// Registers a webhook of the chart at an address where nobody is. So whatever is sent to it is refused, and whatever
/// is not is granted.
async fn register(scene: &Scene, kind: &str, failure_policy: &str) {
    let mut configuration = of_kind(&scene.sets["default"], kind).clone();
    configuration["webhooks"][0]["clientConfig"] = json!({"url": "https://127.0.0.1:1/"});
    configuration["webhooks"][0]["failurePolicy"] = json!(failure_policy);
    scene.apply(&configuration, "helm").await.granted();
    let_call(scene).await;
}

/// Gives the right that the match condition asks for, as nicplug does when it is ready.
async fn let_call(scene: &Scene) {
    for object in &scene.sets["default"] {
        if object["metadata"]["name"] == "nicplug-call" {
            scene.apply(object, "helm").await.granted();
        }
    }
    let path = path(binding_of_calls(&scene.sets["default"]));
    send(&scene.admin, Method::PATCH, &path, MERGE, subjects().to_string()).await.granted();
}

/// The name of the webhook that the request was sent to; empty if to none.
fn sent_to(answer: &Answer) -> &str {
    if answer.is_ok() {
        return "";
    }
    let name = answer.message().split_once("failed calling webhook \"").and_then(|(_, rest)| rest.split('"').next());
    name.unwrap_or_else(|| panic!("{answer:?}"))
}

fn is_sent(answer: &Answer) -> bool {
    !sent_to(answer).is_empty()
}

fn object(kind: &str, name: &str, annotations: &Value) -> Value {
    let guest = json!({"domain": {"devices": {}}});
    let spec = match kind {
        "VirtualMachine" => json!({"runStrategy": "Halted", "template": {"spec": guest}}),
        _ => guest,
    };
    json!({"apiVersion": "kubevirt.io/v1", "kind": kind, "metadata": {"name": name, "annotations": annotations},
        "spec": spec})
}

#[tokio::test]
async fn updates_that_change_nothing_to_judge_are_not_sent() {
    let Some(scene) = Scene::open().await else { return };
    let namespace = scene.api.namespace("quiet").await;
    let annotated = json!({"nicplug.io/persist": "blue", "nicplug.io/boot-slots": "v1:port=4,nics=1,disks=0"});
    let left_behind = json!({"nicplug.io/add-interfaces": "blue=blue"});
    let kinds = [(Kind::Vm, "VirtualMachine"), (Kind::Vmi, "VirtualMachineInstance")];
    for (kind, word) in kinds {
        for (name, annotations) in [("plain", &Value::Null), ("annotated", &annotated), ("asks", &left_behind)] {
            let object = object(word, name, annotations);
            request::create(&scene.admin, kind, &namespace, &object, Run::Real).await.granted();
        }
    }
    let configurations = [
        ("ValidatingWebhookConfiguration", "validate.nicplug.io"),
        ("MutatingWebhookConfiguration", "mutate.nicplug.io"),
    ];
    for (configuration, webhook) in configurations {
        register(&scene, configuration, "Fail").await;
        let update = async |kind: Kind, name: &str, patch: Value| {
            let answer = request::change(&scene.admin, kind, &namespace, name, Change::Merge(patch), Run::Dry).await;
            sent_to(&answer) == webhook
        };
        eventually("the webhook is called", async || {
            update(Kind::Vmi, "plain", json!({"spec": {"hostname": "other"}})).await.then_some(())
        })
        .await;
        for (kind, _) in kinds {
            let quiet = [
                ("plain", json!({"metadata": {"labels": {"a": "b"}}})),
                ("plain", json!({"metadata": {"finalizers": ["example.com/a"]}})),
                ("plain", json!({"metadata": {"annotations": {"example.com/a": "b"}}})),
                ("plain", json!({"status": {"printableStatus": "Running", "phase": "Running"}})),
                ("annotated", json!({"metadata": {"labels": {"a": "b"}}})),
                ("annotated", json!({"metadata": {"annotations": {"example.com/a": "b"}}})),
            ];
            for (name, patch) in quiet {
                assert!(!update(kind, name, patch.clone()).await, "{configuration} {kind:?} {name} {patch}");
            }
            let guest = |field: Value| match kind {
                Kind::Vm => json!({"spec": {"template": {"spec": field}}}),
                _ => json!({"spec": field}),
            };
            let annotate = |key: &str, value: Value| json!({"metadata": {"annotations": {key: value}}});
            let mut judged = vec![
                ("plain", guest(json!({"networks": [{"name": "blue", "pod": {}}]}))),
                ("plain", guest(json!({"domain": {"devices": {"interfaces": [{"name": "blue", "bridge": {}}]}}}))),
                ("plain", guest(json!({"domain": {"memory": {"guest": "1Gi"}}}))),
                ("annotated", annotate("nicplug.io/persist", json!("blue,red"))),
                ("annotated", annotate("nicplug.io/persist", Value::Null)),
                ("annotated", annotate("nicplug.io/boot-slots", Value::Null)),
                ("annotated", json!({"metadata": {"annotations": null}})),
                // A request that somebody left behind is told of, whatever is changed.
                ("asks", json!({"metadata": {"labels": {"a": "b"}}})),
                ("asks", annotate("nicplug.io/add-interfaces", Value::Null)),
            ];
            let keys = [
                "kubevirt.io/pci-interface-slot-count",
                "kubevirt.io/placePCIDevicesOnRootComplex",
                "nicplug.io/add-interfaces",
                "nicplug.io/apply",
                "nicplug.io/boot-slots",
                "nicplug.io/persist",
                "nicplug.io/remove-interfaces",
                "nicplug.io/reserve-ports",
            ];
            judged.extend(keys.map(|key| ("plain", annotate(key, json!("")))));
            for (name, patch) in judged {
                assert!(update(kind, name, patch.clone()).await, "{configuration} {kind:?} {name} {patch}");
            }
        }
        scene.delete(of_kind(&scene.sets["default"], configuration)).await;
    }
}

#[tokio::test]
async fn every_kind_that_holds_a_guest_is_sent_in_each_version_and_excluded_namespaces_are_not() {
    let Some(scene) = Scene::open().await else { return };
    let namespace = scene.api.namespace("kinds").await;
    register(&scene, "ValidatingWebhookConfiguration", "Fail").await;
    let create = async |version: &str, plural: &str, namespace: &str, object: Value| {
        let path = format!("/apis/kubevirt.io/{version}/namespaces/{namespace}/{plural}?dryRun=All");
        let mut object = object;
        object["apiVersion"] = json!(format!("kubevirt.io/{version}"));
        is_sent(&send(&scene.admin, Method::POST, &path, JSON, object.to_string()).await)
    };
    let vm = || object("VirtualMachine", "new", &Value::Null);
    let call = async || create("v1", "virtualmachines", &namespace, vm()).await.then_some(());
    eventually("the webhook is called", call).await;

    let set = json!({"kind": "VirtualMachineInstanceReplicaSet", "metadata": {"name": "new"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"domain": {"devices": {}}}}}});
    let migration =
        json!({"kind": "VirtualMachineInstanceMigration", "metadata": {"name": "new"}, "spec": {"vmiName": "vm"}});
    for version in ["v1", "v1alpha3"] {
        for (plural, object) in [
            ("virtualmachines", vm()),
            ("virtualmachineinstances", object("VirtualMachineInstance", "new", &Value::Null)),
            ("virtualmachineinstancereplicasets", set.clone()),
            ("virtualmachineinstancemigrations", migration.clone()),
        ] {
            assert!(create(version, plural, &namespace, object).await, "{version} {plural}");
        }
    }
    for excluded in ["kube-system", NAMESPACE] {
        assert!(!create("v1", "virtualmachines", excluded, vm()).await, "{excluded}");
    }
}

#[tokio::test]
async fn of_a_status_only_new_interface_requests_are_sent() {
    let Some(scene) = Scene::open().await else { return };
    let namespace = scene.api.namespace("status").await;
    crds::keep_interface_requests(&scene.admin).await;
    let vm = object("VirtualMachine", "vm", &Value::Null);
    request::create(&scene.admin, Kind::Vm, &namespace, &vm, Run::Real).await.granted();
    register(&scene, "ValidatingWebhookConfiguration", "Fail").await;
    let path = format!("{}/vm/status", Kind::Vm.path(&namespace));
    let write = async |run: &str, status: Value| {
        let body = json!({"status": status}).to_string();
        send(&scene.admin, Method::PATCH, &format!("{path}?{run}"), MERGE, body).await
    };
    let add = |name: &str| json!([{"addInterfaceOptions": {"name": name, "networkAttachmentDefinitionName": "net"}}]);
    eventually("the webhook is called", async || {
        is_sent(&write("dryRun=All", json!({"interfaceRequests": add("blue")})).await).then_some(())
    })
    .await;
    assert!(!is_sent(&write("", json!({"printableStatus": "Running", "created": true})).await));

    scene.delete(of_kind(&scene.sets["default"], "ValidatingWebhookConfiguration")).await;
    eventually("nothing is sent any more", async || {
        (!is_sent(&write("", json!({"interfaceRequests": add("blue")})).await)).then_some(())
    })
    .await;
    register(&scene, "ValidatingWebhookConfiguration", "Fail").await;
    eventually("the webhook is called again", async || {
        is_sent(&write("dryRun=All", json!({"interfaceRequests": add("red")})).await).then_some(())
    })
    .await;
    assert!(!is_sent(&write("dryRun=All", json!({"printableStatus": "Stopped"})).await));
}

#[tokio::test]
async fn what_the_alerts_ask_for_is_what_the_api_server_counts() {
    let Some(scene) = Scene::open().await else { return };
    let namespace = scene.api.namespace("alerts").await;
    let vm = object("VirtualMachine", "vm", &Value::Null);
    let create = async || request::create(&scene.admin, Kind::Vm, &namespace, &vm, Run::Dry).await;
    register(&scene, "ValidatingWebhookConfiguration", "Fail").await;
    eventually("the webhook is called", async || is_sent(&create().await).then_some(())).await;
    register(&scene, "ValidatingWebhookConfiguration", "Ignore").await;
    eventually("a call may fail", async || (!is_sent(&create().await)).then_some(())).await;

    let rule = of_kind(&scene.sets["cert-manager"], "PrometheusRule");
    let alerts = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    let metrics = request::text(&scene.admin, "/metrics").await;
    for alert in alerts {
        let expression = alert["expr"].as_str().unwrap();
        let start = expression.find("apiserver_").unwrap();
        let name = expression[start..].split('{').next().unwrap();
        let of_ours = |line: &&str| {
            line.starts_with(&format!("{name}{{"))
                && line.contains(r#"name="validate.nicplug.io""#)
                && (!expression.contains("error_type") || line.contains(r#"error_type="calling_webhook_error""#))
        };
        assert!(metrics.lines().any(|line| of_ours(&line)), "{name}");
    }
    assert!(!alerts.is_empty());
}

// === Without a cluster ===

#[test]
fn the_settings_of_the_chart_are_settings_of_the_program() {
    let Some(_) = rendered() else { return };
    let known: Vec<&str> = RULES.iter().map(|rule| rule.id).collect();
    for (set, objects) in sets() {
        let text = of_kind(&objects, "ConfigMap")["data"]["settings.yaml"].as_str().unwrap();
        let settings = Settings::parse(text, &known).unwrap();
        let chosen: Vec<_> = settings.rules.iter().map(|(id, how)| format!("{id} {}", how.as_str())).collect();
        if set == "every-value" {
            assert_eq!(chosen, ["NP103 off", "NP113 deny", "NP118 warn"]);
            assert_eq!(settings.namespaces.override_policy, OverridePolicy::Allow);
            assert_eq!(settings.reserve_ports, Some(2));
        } else {
            assert_eq!(settings, Settings::default(), "{set}");
        }
    }
}

#[test]
fn the_vm_of_the_notes_is_refused_as_they_say() {
    let Some(folder) = rendered() else { return };
    let notes = fs::read_to_string(folder.join("default.txt")).unwrap();
    let (_, rest) = notes.split_once("<<'VM'\n").unwrap();
    let (text, rest) = rest.split_once("   VM\n").unwrap();
    let vm = manifests::read(text).unwrap().remove(0).object;
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1",
        "kind": {"group": "kubevirt.io", "version": "v1", "kind": vm["kind"]}, "operation": "CREATE",
        "namespace": "default", "name": vm["metadata"]["name"], "object": vm}});
    let reviewer = Reviewer::new(Arc::new(NoFacts), Settings::default());
    let answer = common::Answer::to(&reviewer, &review);
    assert!(answer.causes.iter().any(|cause| cause.message.ends_with("[NP002]")), "{:?}", answer.causes);
    assert!(rest.contains("[NP002]"));
}
