//! The chart on a real API server. Helm's own engine renders and installs it, by `tests/chart/chart.py`.
//!
//! `just chart` compares the manifests with the code, without a cluster.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hyper::http::Method;
use kube::Client;
use nicplug::{
    admission::Reviewer,
    cluster::manifests,
    facts::NoFacts,
    rules::RULES,
    settings::{LiveChanges, OverridePolicy, Settings, UnplugPolicy},
};
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::{self, Kind},
        requests::{self, Change, Response, Run, path_of, send},
        webhooks,
    },
    builders::bare_vm,
    cases::{Answer, entries},
    folder::Folder,
    wait::eventually,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::spawn_blocking,
};

const NAMESPACE: &str = "nicplug-system";
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// Groups that the test cluster does not have; `just chart` checks their objects by models of their definitions.
const FOREIGN_GROUPS: &[&str] = &["cert-manager.io", "monitoring.coreos.com"];

/// Fields that the API server sets, and why the chart cannot set them.
const SERVER_FIELDS: &[&str] = &[
    // The older name of serviceAccountName, which gets the same value.
    "Deployment.spec.template.spec.serviceAccount",
    "CronJob.spec.jobTemplate.spec.template.spec.serviceAccount",
    "CronJob.status",
    "Deployment.status",
    "PodDisruptionBudget.status",
    // The cluster allocates addresses, of the families that it has.
    "Service.spec.clusterIP",
    "Service.spec.clusterIPs",
    "Service.spec.ipFamilies",
    "Service.spec.ipFamilyPolicy",
    "Service.status",
];

// === Rendering ===

/// Renders each set of values into the folder `target/chart`; returns none without the Python environment of `just
/// chart`.
///
/// In that case one line on standard error says so, and the test passes. With `CI=true` it panics instead.
fn rendered() -> Option<&'static Path> {
    static RENDERED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = RENDERED.get_or_init(|| {
        if !python().exists() {
            assert_ne!(
                env::var("CI").as_deref(),
                Ok("true"),
                "with CI=true the tests need Helm's engine: run `just chart` first"
            );
            // Not by a macro: the test runner shows their output for failed tests only.
            let _ = writeln!(
                io::stderr(),
                "skipped: there is no Python to render the chart with (`just chart` installs it)"
            );
            return None;
        }
        helm(&["render"]);
        Some(root().join("target/chart"))
    });
    folder.as_deref()
}

/// Returns the objects of each set of values.
fn sets() -> BTreeMap<String, Vec<Value>> {
    let files = entries(rendered().unwrap());
    let manifests = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    manifests.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), objects(path))).collect()
}

fn objects(path: &Path) -> Vec<Value> {
    let manifests = manifests::read(&fs::read_to_string(path).unwrap()).unwrap();
    manifests.into_iter().map(|manifest| manifest.object).collect()
}

/// Runs `chart.py` and checks that it succeeds.
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

/// Returns the first object of a kind.
fn of_kind<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

// === The fixture ===

/// The API server for one test at a time, because all sets of values have objects of the same names.
struct ChartFixture {
    api: &'static ApiServer,
    admin: Client,
    sets: BTreeMap<String, Vec<Value>>,
    _lock: MutexGuard<'static, ()>,
}

impl ChartFixture {
    /// Removes the objects of an earlier test; returns none without an API server or without Python.
    async fn start() -> Option<Self> {
        static LOCK: Mutex<()> = Mutex::const_new(());
        rendered()?;
        let api = api_server::shared().await?;
        let fixture = Self { api, admin: api.admin(), sets: sets(), _lock: LOCK.lock().await };
        let namespace = json!({"metadata": {"name": NAMESPACE}}).to_string();
        let answer = send(&fixture.admin, Method::POST, "/api/v1/namespaces", JSON, namespace).await;
        assert!(answer.is_ok() || answer.reason() == "AlreadyExists", "{answer:?}");
        for object in fixture.sets.values().flatten() {
            fixture.delete(object).await;
        }
        let vm = bare_vm("probe").build();
        eventually("no webhook is called any more", async || {
            let answer = requests::create(&fixture.admin, Kind::Vm, "default", &vm, Run::Dry).await;
            sent_to(&answer).is_empty().then_some(())
        })
        .await;
        Some(fixture)
    }

    /// Applies an object as a field manager, without force and with strict field validation.
    async fn apply(&self, object: &Value, manager: &str) -> Response {
        let path = format!("{}?fieldManager={manager}&fieldValidation=Strict", path_of(object));
        send(&self.admin, Method::PATCH, &path, APPLY, object.to_string()).await
    }

    async fn get(&self, object: &Value) -> Response {
        send(&self.admin, Method::GET, &path_of(object), JSON, "").await
    }

    async fn delete(&self, object: &Value) {
        if !is_foreign(object) {
            let answer = send(&self.admin, Method::DELETE, &path_of(object), JSON, "").await;
            assert!(answer.is_ok() || answer.code == 404, "{answer:?}");
        }
    }

    /// Returns whether the objects of a set are in the cluster: all of them or none.
    async fn has(&self, set: &str) -> bool {
        let mut found = Vec::new();
        for object in &self.sets[set] {
            found.push(self.get(object).await.is_ok());
        }
        assert!(found.iter().all(|one| *one == found[0]), "{set}: {found:?}");
        found[0]
    }
}

fn is_foreign(object: &Value) -> bool {
    FOREIGN_GROUPS.iter().any(|group| object["apiVersion"].as_str().unwrap().starts_with(group))
}

// === Drift ===

/// Returns the paths at which the stored object differs from the rendered one.
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
async fn rendered_objects_are_stored_unchanged_and_a_second_manager_can_apply_them() {
    let Some(fixture) = ChartFixture::start().await else { return };
    for (set, objects) in &fixture.sets {
        let objects: Vec<&Value> = objects.iter().filter(|object| !is_foreign(object)).collect();
        for object in &objects {
            fixture.apply(object, "helm").await.granted();
        }
        for object in &objects {
            let kind = object["kind"].as_str().unwrap();
            let mut differences = differences(object, &fixture.get(object).await.granted(), kind);
            differences.retain(|path| {
                let is_of_metadata = path.starts_with(&format!("{kind}.metadata.")) && !path.contains(' ');
                !is_of_metadata && !SERVER_FIELDS.contains(&path.as_str())
            });
            assert_eq!(differences, Vec::<String>::new(), "{set}");
            fixture.apply(object, "gitops").await.granted();
            fixture.apply(object, "helm").await.granted();
            fixture.delete(object).await;
        }
    }
}

#[tokio::test]
async fn the_objects_of_helm_test_are_accepted() {
    let Some(fixture) = ChartFixture::start().await else { return };
    for file in entries(&rendered().unwrap().join("tests")) {
        let objects = objects(&file);
        for object in &objects {
            let namespace = json!({"metadata": {"name": object["metadata"]["namespace"]}}).to_string();
            let answer = send(&fixture.admin, Method::POST, "/api/v1/namespaces", JSON, namespace).await;
            assert!(answer.is_ok() || answer.reason() == "AlreadyExists", "{answer:?}");
            fixture.apply(object, "helm").await.granted();
        }
        for object in &objects {
            fixture.delete(object).await;
        }
    }
}

// === Helm ===

/// Returns what nicplug writes into a webhook configuration: its CA.
fn ca_bundle(configuration: &Value) -> Value {
    json!({"apiVersion": configuration["apiVersion"], "kind": configuration["kind"],
        "metadata": {"name": configuration["metadata"]["name"]},
        "webhooks": [{"name": configuration["webhooks"][0]["name"], "clientConfig": {"caBundle": bundle()}}]})
}

/// Returns what nicplug writes into the RoleBinding: the service account that the match conditions name.
fn subjects() -> Value {
    json!({"subjects": [{"kind": "ServiceAccount", "name": "nicplug-call", "namespace": NAMESPACE}]})
}

fn activation_binding(objects: &[Value]) -> &Value {
    let is_it = |object: &&Value| object["kind"] == "RoleBinding" && object["metadata"]["name"] == "nicplug-call";
    objects.iter().find(is_it).unwrap()
}

fn bundle() -> String {
    BASE64.encode("-----BEGIN CERTIFICATE-----\nof nicplug\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn helm_installs_upgrades_and_uninstalls_the_chart_and_keeps_what_nicplug_has_written() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let kubeconfig = fixture.api.kubeconfig().to_str().unwrap();
    let objects = &fixture.sets["default"];
    let nicplug = fixture.api.service_account(NAMESPACE, "nicplug");
    helm(&["install", kubeconfig]);
    assert!(fixture.has("default").await);

    let written = ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"];
    for kind in written {
        let configuration = of_kind(objects, kind);
        let path = format!("{}?fieldManager=nicplug", path_of(configuration));
        send(&nicplug, Method::PATCH, &path, APPLY, ca_bundle(configuration).to_string()).await.granted();
    }
    let secret = of_kind(objects, "Secret");
    let data = json!({"data": {"tls.crt": bundle()}}).to_string();
    send(&nicplug, Method::PATCH, &path_of(secret), MERGE, data).await.granted();
    let binding = activation_binding(objects);
    let path = format!("{}?fieldManager=nicplug-webhook-activation", path_of(binding));
    send(&nicplug, Method::PATCH, &path, MERGE, subjects().to_string()).await.granted();

    helm(&["upgrade", kubeconfig]);
    for object in objects {
        fixture.apply(object, "gitops").await.granted();
    }
    for kind in written {
        let stored = fixture.get(of_kind(objects, kind)).await.granted();
        assert_eq!(stored["webhooks"][0]["clientConfig"]["caBundle"], bundle(), "{kind}");
    }
    assert_eq!(fixture.get(secret).await.granted()["data"]["tls.crt"], bundle());
    assert_eq!(fixture.get(binding).await.granted()["subjects"], subjects()["subjects"]);

    helm(&["uninstall", kubeconfig]);
    assert!(!fixture.has("default").await);
    let secrets = send(&fixture.admin, Method::GET, &format!("/api/v1/namespaces/{NAMESPACE}/secrets"), JSON, "").await;
    assert_eq!(secrets.granted()["items"], json!([]));
}

#[tokio::test]
async fn helm_upgrades_from_one_set_of_values_to_another() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let kubeconfig = fixture.api.kubeconfig().to_str().unwrap();
    helm(&["install", kubeconfig]);
    for set in ["minimal", "secret", "every-value", "default"] {
        helm(&["upgrade", kubeconfig, set]);
        assert!(fixture.has(set).await, "{set}");
    }
    helm(&["uninstall", kubeconfig]);
}

#[tokio::test]
async fn the_manifest_for_kubectl_has_the_same_objects_without_helms_labels() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let objects = objects(&root().join("deploy/install.yaml"));
    for object in &objects {
        fixture.apply(object, "kubectl").await.granted();
    }
    assert!(fixture.has("default").await);
    let with_helm = objects.iter().find(|object| object.to_string().contains("Helm"));
    assert_eq!(with_helm, None);
}

// === Permissions ===

#[tokio::test]
async fn the_service_account_has_the_permissions_that_it_needs_and_no_others() {
    let Some(fixture) = ChartFixture::start().await else { return };
    for object in &fixture.sets["default"] {
        fixture.apply(object, "helm").await.granted();
    }
    let nicplug = fixture.api.service_account(NAMESPACE, "nicplug");
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
        lists("/api/v1/pods"),
        lists("/api/v1/events"),
        lists("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"),
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
        (Method::POST, "/api/v1/namespaces/default/pods".to_owned()),
        lists("/api/v1/namespaces/default/pods/a-pod"),
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
    for (requests, is_allowed) in [(&allowed[..], true), (&forbidden, false)] {
        for (method, path) in requests {
            let separator = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{separator}dryRun=All");
            let content = if *method == Method::PATCH { MERGE } else { JSON };
            let answer = send(&nicplug, method.clone(), &path, content, "{}").await;
            // Other errors of a request are found after its authorization.
            assert_eq!(answer.code != 403, is_allowed, "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_audit_runs_with_its_own_account_which_may_only_write_reports() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let objects = &fixture.sets["cert-manager"];
    for object in objects.iter().filter(|object| !is_foreign(object)) {
        fixture.apply(object, "helm").await.granted();
    }
    let definition = root().join("tests/data/report-crds/reports.yaml");
    crds::establish(&fixture.admin, fs::read(definition).unwrap()).await;
    let namespace = fixture.api.namespace("audited").await;
    let two_bindings = json!({"name": "blue", "bridge": {}, "sriov": {}});
    let vm = bare_vm("vm").nic_with(two_bindings, json!({"name": "blue", "multus": {"networkName": "net"}})).build();
    requests::create(&fixture.admin, Kind::Vm, &namespace, &vm, Run::Real).await.granted();

    let pod = &of_kind(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let account = pod["serviceAccountName"].as_str().unwrap();
    let folder = Folder::new("audit");
    let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
    let kubeconfig = fixture.api.kubeconfig_of(&user, &folder);
    let text = of_kind(objects, "ConfigMap")["data"]["settings.yaml"].as_str().unwrap();
    let settings = folder.write("settings.yaml", text);
    let args: Vec<String> = pod["containers"][0]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap().replace("/etc/nicplug/settings/settings.yaml", &settings))
        .collect();
    let run = async || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(&args).args(["--kubeconfig", &kubeconfig]).env_remove("KUBECONFIG").env_remove("COLUMNS");
        let output = spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
        stdout
    };
    // The authorizer learns of the role a moment later.
    let is_allowed = async || {
        let client = fixture.api.user(&user);
        send(&client, Method::GET, "/apis/openreports.io/v1alpha1/reports", JSON, "").await.is_ok().then_some(())
    };
    eventually("the role is in force", is_allowed).await;
    let stdout = run().await;
    assert!(stdout.contains("reports.openreports.io: 1 created, 0 changed, 0 unchanged, 0 removed"), "{stdout}");
    assert!(!stdout.contains("no permission"), "{stdout}");
    let stdout = run().await;
    assert!(stdout.contains("0 created, 0 changed, 1 unchanged, 0 removed"), "{stdout}");

    let client = fixture.api.user(&user);
    for (method, path) in [
        (Method::PATCH, "/apis/kubevirt.io/v1/namespaces/default/virtualmachines/a-vm"),
        (Method::POST, "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstancemigrations"),
        (Method::GET, "/apis/kubevirt.io/v1/namespaces/default/virtualmachines/a-vm"),
        (Method::GET, "/api/v1/secrets"),
        (Method::GET, "/api/v1/configmaps"),
        (Method::GET, "/api/v1/namespaces/default/pods/a-pod/log"),
        (Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events"),
        (Method::DELETE, "/apis/openreports.io/v1alpha1/clusterreports/a-report"),
    ] {
        let content = if method == Method::PATCH { MERGE } else { JSON };
        let answer = send(&client, method.clone(), &format!("{path}?dryRun=All"), content, "{}").await;
        assert_eq!(answer.code, 403, "{method} {path}: {answer:?}");
    }
    for object in objects {
        fixture.delete(object).await;
    }
}

// === Requests that are sent to the webhooks ===

/// Installs a webhook of the chart, its Service and the permission to call it, and no replica. So a request that the
/// API server sends to the webhook is denied, and other requests are allowed.
async fn install_without_replica(fixture: &ChartFixture, kind: &str, failure_policy: &str) {
    let objects = &fixture.sets["default"];
    let mut configuration = of_kind(objects, kind).clone();
    configuration["webhooks"][0]["failurePolicy"] = json!(failure_policy);
    for object in [of_kind(objects, "Service"), &configuration] {
        fixture.apply(object, "helm").await.granted();
    }
    webhooks::activate(&fixture.admin, NAMESPACE).await;
}

/// Returns the name of the webhook that a request was sent to, and an empty text if the request was sent to none.
fn sent_to(response: &Response) -> &str {
    if response.is_ok() {
        return "";
    }
    let message = response.message();
    let name = message.split_once("failed calling webhook \"").and_then(|(_, rest)| rest.split('"').next());
    name.unwrap_or_else(|| panic!("{response:?}"))
}

fn is_sent(response: &Response) -> bool {
    !sent_to(response).is_empty()
}

#[tokio::test]
async fn updates_that_change_nothing_under_review_are_not_sent() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let calls = Calls::of(&fixture, "quiet", "ValidatingWebhookConfiguration", "validate.nicplug.io").await;
    for kind in [Kind::Vm, Kind::Vmi] {
        for (name, patch) in quiet() {
            assert!(!calls.has(kind, name, patch.clone()).await, "{kind:?} {name} {patch}");
        }
        let mut reviewed = vec![
            ("plain", guest(kind, json!({"networks": [{"name": "blue", "pod": {}}]}))),
            ("plain", with_interface(kind, json!({"name": "blue", "bridge": {}}))),
            ("plain", guest(kind, json!({"domain": {"memory": {"guest": "2Gi"}}}))),
            ("annotated", annotate("nicplug.io/persist", json!("blue,red"))),
            ("annotated", annotate("nicplug.io/persist", Value::Null)),
            ("annotated", annotate("nicplug.io/boot-slots", Value::Null)),
            ("annotated", json!({"metadata": {"annotations": null}})),
            // An unhandled request causes a denial or a warning at every update.
            ("request", json!({"metadata": {"labels": {"a": "b"}}})),
            ("request", annotate("nicplug.io/add-interfaces", Value::Null)),
        ];
        let keys = [
            "kubevirt.io/pci-interface-slot-count",
            "kubevirt.io/pci-topology-version",
            "kubevirt.io/placePCIDevicesOnRootComplex",
            "nicplug.io/add-interfaces",
            "nicplug.io/apply",
            "nicplug.io/boot-slots",
            "nicplug.io/persist",
            "nicplug.io/remove-interfaces",
            "nicplug.io/reserve-ports",
            "nicplug.io/unplug",
        ];
        reviewed.extend(keys.map(|key| ("plain", annotate(key, json!("")))));
        for (name, patch) in reviewed {
            assert!(calls.has(kind, name, patch.clone()).await, "{kind:?} {name} {patch}");
        }
    }
    calls.end().await;
}

#[tokio::test]
async fn updates_that_cannot_be_mutated_are_not_sent_to_the_mutating_webhook() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let calls = Calls::of(&fixture, "unchanged", "MutatingWebhookConfiguration", "mutate.nicplug.io").await;
    for kind in [Kind::Vm, Kind::Vmi] {
        let without_mutation = [
            ("plain", guest(kind, json!({"domain": {"memory": {"guest": "2Gi"}}}))),
            ("plain", guest(kind, json!({"networks": [{"name": "blue", "pod": {}}]}))),
            ("plain", with_interface(kind, json!({"name": "blue", "bridge": {}}))),
            ("with-nic", with_interface(kind, json!({"name": "blue", "bridge": {}, "state": "absent"}))),
            ("annotated", annotate("nicplug.io/persist", json!("blue,red"))),
            ("request", annotate("nicplug.io/add-interfaces", Value::Null)),
            ("plain", annotate("nicplug.io/reserve-ports", json!("2"))),
        ];
        for (name, patch) in quiet().into_iter().chain(without_mutation) {
            assert!(!calls.has(kind, name, patch.clone()).await, "{kind:?} {name} {patch}");
        }
        for (name, patch) in [
            ("plain", with_interface(kind, json!({"name": "blue"}))),
            ("with-nic", with_interface(kind, json!({"name": "red", "bridge": {}}))),
            ("with-nic", guest(kind, json!({"domain": {"devices": {"interfaces": null}}}))),
            ("annotated", annotate("nicplug.io/boot-slots", Value::Null)),
            ("annotated", json!({"metadata": {"annotations": null}})),
            ("plain", annotate("nicplug.io/boot-slots", json!(""))),
            ("plain", annotate("nicplug.io/add-interfaces", json!(""))),
            ("plain", annotate("nicplug.io/remove-interfaces", json!(""))),
            ("request", json!({"metadata": {"labels": {"a": "b"}}})),
        ] {
            assert!(calls.has(kind, name, patch.clone()).await, "{kind:?} {name} {patch}");
        }
    }
    calls.end().await;
}

/// Which updates the API server sends to one webhook, in a namespace with a few objects of each kind.
struct Calls<'f> {
    fixture: &'f ChartFixture,
    namespace: String,
    configuration: &'static str,
    webhook: &'static str,
}

impl<'f> Calls<'f> {
    /// Creates the objects and then installs the configuration without a replica behind it.
    async fn of(
        fixture: &'f ChartFixture,
        namespace: &str,
        configuration: &'static str,
        webhook: &'static str,
    ) -> Self {
        let namespace = fixture.api.namespace(namespace).await;
        let annotated = json!({"nicplug.io/persist": "blue", "nicplug.io/boot-slots": "v1:port=4,nics=1,disks=0"});
        let request = json!({"nicplug.io/add-interfaces": "blue=blue"});
        let bare = || bare_vm("plain");
        for (vm, annotations) in [
            (bare(), json!({})),
            (bare().named("annotated"), annotated),
            (bare().named("request"), request),
            (bare().named("with-nic").nic("blue", "net"), json!({})),
        ] {
            for (kind, mut object) in [(Kind::Vm, vm.build()), (Kind::Vmi, vm.build_vmi())] {
                object["metadata"]["annotations"] = annotations.clone();
                requests::create(&fixture.admin, kind, &namespace, &object, Run::Real).await.granted();
            }
        }
        install_without_replica(fixture, configuration, "Fail").await;
        let calls = Self { fixture, namespace, configuration, webhook };
        let is_called = async || {
            calls.has(Kind::Vmi, "annotated", annotate("nicplug.io/boot-slots", Value::Null)).await.then_some(())
        };
        eventually("the webhook is called", is_called).await;
        calls
    }

    /// Whether the API server calls the webhook for an update.
    async fn has(&self, kind: Kind, name: &str, patch: Value) -> bool {
        let change = Change::Merge(patch);
        let answer = requests::change(&self.fixture.admin, kind, &self.namespace, name, change, Run::Dry).await;
        sent_to(&answer) == self.webhook
    }

    async fn end(self) {
        self.fixture.delete(of_kind(&self.fixture.sets["default"], self.configuration)).await;
    }
}

/// Updates of which nicplug reviews nothing.
fn quiet() -> [(&'static str, Value); 6] {
    [
        ("plain", json!({"metadata": {"labels": {"a": "b"}}})),
        ("plain", json!({"metadata": {"finalizers": ["example.com/a"]}})),
        ("plain", json!({"metadata": {"annotations": {"example.com/a": "b"}}})),
        ("plain", json!({"status": {"printableStatus": "Running", "phase": "Running"}})),
        ("annotated", json!({"metadata": {"labels": {"a": "b"}}})),
        ("annotated", json!({"metadata": {"annotations": {"example.com/a": "b"}}})),
    ]
}

fn guest(kind: Kind, field: impl Into<Value>) -> Value {
    let field = field.into();
    match kind {
        Kind::Vm => json!({"spec": {"template": {"spec": field}}}),
        _ => json!({"spec": field}),
    }
}

fn with_interface(kind: Kind, interface: impl Into<Value>) -> Value {
    guest(kind, json!({"domain": {"devices": {"interfaces": [interface.into()]}}}))
}

fn annotate(key: &str, value: impl Into<Value>) -> Value {
    json!({"metadata": {"annotations": {key: value.into()}}})
}

#[tokio::test]
async fn every_kind_with_a_guest_is_sent_in_each_version_and_excluded_namespaces_are_not() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let namespace = fixture.api.namespace("kinds").await;
    install_without_replica(&fixture, "ValidatingWebhookConfiguration", "Fail").await;
    let create = async |version: &str, plural: &str, namespace: &str, object: Value| {
        let path = format!("/apis/kubevirt.io/{version}/namespaces/{namespace}/{plural}?dryRun=All");
        let mut object = object;
        object["apiVersion"] = json!(format!("kubevirt.io/{version}"));
        is_sent(&send(&fixture.admin, Method::POST, &path, JSON, object.to_string()).await)
    };
    let vm = || bare_vm("new").build();
    let call = async || create("v1", "virtualmachines", &namespace, vm()).await.then_some(());
    eventually("the webhook is called", call).await;

    let set = json!({"kind": "VirtualMachineInstanceReplicaSet", "metadata": {"name": "new"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"domain": {"devices": {}}}}}});
    let migration =
        json!({"kind": "VirtualMachineInstanceMigration", "metadata": {"name": "new"}, "spec": {"vmiName": "vm"}});
    for version in ["v1", "v1alpha3"] {
        for (plural, object) in [
            ("virtualmachines", vm()),
            ("virtualmachineinstances", bare_vm("new").build_vmi()),
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
async fn status_updates_are_sent_only_with_new_interface_requests() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let namespace = fixture.api.namespace("status").await;
    crds::keep_interface_requests(&fixture.admin).await;
    let vm = bare_vm("vm").build();
    requests::create(&fixture.admin, Kind::Vm, &namespace, &vm, Run::Real).await.granted();
    install_without_replica(&fixture, "ValidatingWebhookConfiguration", "Fail").await;
    let path = format!("{}/vm/status", Kind::Vm.path(&namespace));
    let write = async |run: &str, status: Value| {
        let body = json!({"status": status}).to_string();
        send(&fixture.admin, Method::PATCH, &format!("{path}?{run}"), MERGE, body).await
    };
    let add = |name: &str| json!([{"addInterfaceOptions": {"name": name, "networkAttachmentDefinitionName": "net"}}]);
    eventually("the webhook is called", async || {
        is_sent(&write("dryRun=All", json!({"interfaceRequests": add("blue")})).await).then_some(())
    })
    .await;
    assert!(!is_sent(&write("", json!({"printableStatus": "Running", "created": true})).await));

    fixture.delete(of_kind(&fixture.sets["default"], "ValidatingWebhookConfiguration")).await;
    eventually("no request is sent any more", async || {
        (!is_sent(&write("", json!({"interfaceRequests": add("blue")})).await)).then_some(())
    })
    .await;
    install_without_replica(&fixture, "ValidatingWebhookConfiguration", "Fail").await;
    eventually("the webhook is called again", async || {
        is_sent(&write("dryRun=All", json!({"interfaceRequests": add("red")})).await).then_some(())
    })
    .await;
    assert!(!is_sent(&write("dryRun=All", json!({"printableStatus": "Stopped"})).await));
}

#[tokio::test]
async fn the_api_server_has_the_metrics_of_the_alerts() {
    let Some(fixture) = ChartFixture::start().await else { return };
    let namespace = fixture.api.namespace("alerts").await;
    let vm = bare_vm("vm").build();
    let create = async || requests::create(&fixture.admin, Kind::Vm, &namespace, &vm, Run::Dry).await;
    install_without_replica(&fixture, "ValidatingWebhookConfiguration", "Fail").await;
    eventually("the webhook is called", async || is_sent(&create().await).then_some(())).await;
    install_without_replica(&fixture, "ValidatingWebhookConfiguration", "Ignore").await;
    eventually("a failed call is ignored", async || (!is_sent(&create().await)).then_some(())).await;

    let rule = of_kind(&fixture.sets["cert-manager"], "PrometheusRule");
    let alerts = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    let metrics = requests::text(&fixture.admin, "/metrics").await;
    for alert in alerts {
        let expression = alert["expr"].as_str().unwrap();
        let start = expression.find("apiserver_").unwrap();
        let name = expression[start..].split('{').next().unwrap();
        let is_ours = |line: &&str| {
            line.starts_with(&format!("{name}{{"))
                && line.contains(r#"name="validate.nicplug.io""#)
                && (!expression.contains("error_type") || line.contains(r#"error_type="calling_webhook_error""#))
        };
        assert!(metrics.lines().any(|line| is_ours(&line)), "{name}");
    }
    assert!(!alerts.is_empty());
}

// === Without a cluster ===

#[test]
fn the_program_accepts_the_settings_of_the_chart() {
    let Some(_) = rendered() else { return };
    let known: Vec<&str> = RULES.iter().map(|rule| rule.id).collect();
    for (set, objects) in sets() {
        let text = of_kind(&objects, "ConfigMap")["data"]["settings.yaml"].as_str().unwrap();
        let settings = Settings::parse(text, &known).unwrap();
        let chosen: Vec<_> = settings.rules.iter().map(|(id, how)| format!("{id} {}", how.as_str())).collect();
        if set == "every-value" {
            assert_eq!(chosen, ["NP103 off", "NP113 deny", "NP118 warn"]);
            assert_eq!(settings.namespace_override, OverridePolicy::Allow);
            assert_eq!(settings.reserve_ports, Some(2));
            assert_eq!(settings.events.pending_after(), Some(Duration::from_mins(1)));
            assert!(!settings.events.changes);
            assert_eq!(settings.unplug, UnplugPolicy::Dropped);
            for (user, groups, namespace, expected) in [
                ("alice", &[][..], "demo", LiveChanges::Warn),
                ("system:serviceaccount:harvester-system:harvester", &[], "demo", LiveChanges::Deny),
                ("alice", &["ops"], "lab-1", LiveChanges::Deny),
            ] {
                assert_eq!(settings.live_changes(user, || groups.to_vec(), namespace), expected, "{user} {groups:?}");
            }
            assert!(!settings.namespaces.is_empty());
        } else {
            assert_eq!(settings, Settings::default(), "{set}");
        }
    }
}

#[test]
fn the_vm_of_the_notes_is_denied_as_the_notes_say() {
    let Some(folder) = rendered() else { return };
    let notes = fs::read_to_string(folder.join("default.txt")).unwrap();
    let (_, rest) = notes.split_once("<<'VM'\n").unwrap();
    let (text, rest) = rest.split_once("   VM\n").unwrap();
    let vm = manifests::read(text).unwrap().remove(0).object;
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1",
        "kind": {"group": "kubevirt.io", "version": "v1", "kind": vm["kind"]}, "operation": "CREATE",
        "namespace": "default", "name": vm["metadata"]["name"], "object": vm}});
    let reviewer = Reviewer::new(Arc::new(NoFacts), Settings::default());
    let answer = Answer::to(&reviewer, &review);
    assert!(answer.causes.iter().any(|cause| cause.message.ends_with("[NP002]")), "{:?}", answer.causes);
    assert!(rest.contains("[NP002]"));
}
