//! Upgrades: what another version of nicplug has written is read or unknown, and never the reason of a denial; two
//! versions run side by side without a fight over what they share.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "these are tests"
)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_util::StreamExt;
use hyper::http::Method;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, runtime::watcher::watch_object};
use nicplug::{admission::Reviewer, settings::Settings};
use serde_json::{Value, json};
use support::{
    api_server::{
        ApiServer,
        crds::Kind,
        requests::{self, Run, send},
    },
    builders::{GUEST_KINDS, bare_vm, nad, review, vm},
    cases::{Answer, patch_for, store},
    folder::Folder,
    installation::{Installation, NAMESPACE},
    kube_proxy::KubeProxy,
    replica::Replica,
    wait::{eventually, guarded},
};
use tokio::task::{JoinHandle, JoinSet};

// === What another version has written ===

const BOOT_SLOTS: &str = "nicplug.io/boot-slots";

/// Returns a reviewer that knows a network, a running VM, and its guest with these annotations.
fn reviewer(annotations: &Value, of_namespace: &Value) -> Reviewer {
    let in_demo = |mut object: Value| {
        object["metadata"]["namespace"] = json!("demo");
        object
    };
    let mut vmi = in_demo(vm().build_vmi());
    vmi["metadata"]["annotations"] = annotations.clone();
    vmi["status"] = json!({"phase": "Running", "conditions": [{"type": "LiveMigratable", "status": "True"}]});
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {"vmRolloutStrategy": "LiveUpdate"},
            "workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}},
        "status": {"observedKubeVirtVersion": "v1.9.0"}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "demo", "annotations": of_namespace}});
    let objects = [in_demo(nad("blue")), in_demo(vm().build()), vmi, kubevirt, namespace];
    Reviewer::new(Arc::new(store(&objects)), Settings::default())
}

/// Returns the answer to a NIC that is added to the running VM.
fn answer_to_a_nic(reviewer: &Reviewer, annotations: &Value) -> Answer {
    let with_annotations = |mut vm: Value| {
        vm["metadata"]["annotations"] = annotations.clone();
        vm
    };
    let (old, new) = (with_annotations(vm().build()), with_annotations(vm().nic("second", "blue").build()));
    Answer::to(reviewer, &review(GUEST_KINDS[0], &old, &new))
}

#[test]
fn a_stamp_of_any_version_is_read_or_unknown_and_never_a_reason_to_deny() {
    for (stamp, is_read) in [
        ("v1:port=4,nics=1,disks=0", true),
        ("v1:any,nics=1,disks=0", true),
        // An earlier form.
        ("4", false),
        ("port=4,nics=1,disks=0", false),
        // Later ones.
        ("v1:port=4,nics=1,disks=0,gpus=1", false),
        ("v1:slot=4,nics=1,disks=0", false),
        ("v2:port=0,nics=1,disks=0", false),
        (r#"{"v":3,"ports":0}"#, false),
        // No version.
        ("", false),
        ("v1:port=-1,nics=1,disks=0", false),
        ("v1:port=99999999999999999999,nics=1,disks=0", false),
        ("\u{0}\u{fffd}💥", false),
        (&"v1:".repeat(10_000), false),
    ] {
        let shown: String = stamp.chars().take(40).collect();
        let annotations = json!({ BOOT_SLOTS: stamp });
        let reviewer = reviewer(&annotations, &json!({}));
        let answer = answer_to_a_nic(&reviewer, &json!({}));
        assert!(answer.is_allowed && answer.causes.is_empty(), "{shown}: {answer:?}");
        let is_unchecked = answer.warnings.iter().any(|line| line.contains("boot-slots cannot be read"));
        assert_eq!(is_unchecked, !is_read, "{shown}: {answer:?}");

        // A version that cannot read the stamp keeps it: the newer one still needs it.
        let mut vmi = vm().build_vmi();
        vmi["metadata"]["annotations"] = annotations.clone();
        let mut heartbeat = vmi.clone();
        heartbeat["status"] = json!({"guestOSInfo": {"kernelVersion": "2"}});
        let heartbeat = review(GUEST_KINDS[1], &vmi, &heartbeat);
        assert_eq!(patch_for(&reviewer, &heartbeat), [], "{shown}");
    }
}

#[test]
fn annotations_of_another_version_on_stored_objects_change_no_answer() {
    let plain = answer_to_a_nic(&reviewer(&json!({}), &json!({})), &json!({}));
    assert!(plain.is_allowed, "{plain:?}");
    for (key, value) in [
        ("nicplug.io/rollout-plan", "v2:canary"),
        ("nicplug.io/boot-slots.v2", "ports: 0"),
        ("nicplug.io/", "x"),
        ("nicplug.io/persist", "{\"all\": true}"),
        ("nicplug.io/unplug", "soon"),
        ("nicplug.io/apply", "at-night"),
    ] {
        let annotations = json!({ key: value });
        for (place, answer) in [
            ("VM", answer_to_a_nic(&reviewer(&json!({}), &json!({})), &annotations)),
            ("VMI", answer_to_a_nic(&reviewer(&annotations, &json!({})), &json!({}))),
            ("Namespace", answer_to_a_nic(&reviewer(&json!({}), &annotations), &json!({}))),
        ] {
            let same = (answer.is_allowed, &answer.causes, &answer.warnings);
            assert_eq!(same, (true, &plain.causes, &plain.warnings), "{key} on the {place}");
        }
    }
    // Rules that only another version has, or words that it does not use.
    for rules in ["NP999=deny", "NP105=audit", "v2;NP105:deny", "=,=", "\u{0}"] {
        let answer = answer_to_a_nic(&reviewer(&json!({}), &json!({"nicplug.io/rules": rules})), &json!({}));
        assert!(answer.is_allowed && answer.causes.is_empty(), "{rules}: {answer:?}");
    }
}

// === Two versions side by side ===

/// Copies the program with another version in it. The copy is as good as an earlier release as far as nothing but the
/// version has changed.
fn other_version(folder: &Folder) -> PathBuf {
    let mine = concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"), ".").to_owned()
        + env!("CARGO_PKG_VERSION_PATCH");
    let other = format!("{}{}", &mine[..mine.len() - 1], if mine.ends_with('9') { '8' } else { '9' });
    let mut bytes = fs::read(env!("CARGO_BIN_EXE_nicplug")).unwrap();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(mine.len()).position(|window| window == mine.as_bytes()) {
        at += found;
        bytes[at..at + mine.len()].copy_from_slice(other.as_bytes());
    }
    let program = folder.path().join("nicplug");
    fs::write(&program, bytes).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&program).arg("version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(&other), "{text}");
    program
}

/// Follows who holds a Lease.
fn holders(admin: &Client, name: &'static str) -> (Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let leases: Api<Lease> = Api::namespaced(admin.clone(), NAMESPACE);
    let holders = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&holders);
    let task = tokio::spawn(async move {
        let mut leases = Box::pin(watch_object(leases, name));
        while let Some(change) = leases.next().await {
            let spec = change.ok().flatten().and_then(|lease| lease.spec);
            let holder = spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            let mut seen = seen.lock().unwrap();
            // It is empty between the release and the next leader.
            if !holder.is_empty() && seen.last() != Some(&holder) {
                seen.push(holder);
            }
        }
    });
    (holders, task)
}

/// Returns what both versions write, as it is stored: a write would change the resource version.
async fn shared_objects(admin: &Client) -> Vec<Value> {
    let paths = [
        format!("/api/v1/namespaces/{NAMESPACE}/secrets/nicplug-certificates"),
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings/nicplug-call"),
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/nicplug".to_owned(),
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/nicplug".to_owned(),
    ];
    let mut objects = Vec::new();
    for path in paths {
        objects.push(send(admin, Method::GET, &path, "", "").await.granted());
    }
    objects
}

/// Replicas of two versions behind the Service, as during a rolling update.
struct Rollout<'a> {
    installation: &'a Installation,
    kubeconfig: String,
    proxy: KubeProxy,
    replicas: Vec<Replica>,
    ended: Vec<Value>,
}

impl Rollout<'_> {
    async fn add(&mut self, program: &Path, name: &str) {
        let flags = ["--lease-retry=200ms", "--drain-grace=500ms"];
        let replica = self.installation.start_replica(program, &self.kubeconfig, name, &flags).await;
        eventually("the replica is ready", async || replica.is_ready().await.then_some(())).await;
        self.replicas.push(replica);
        self.update_endpoints();
    }

    /// Ends the first replica: kube-proxy learns of it, and it gets SIGTERM.
    async fn remove_first(&mut self) {
        let replica = self.replicas.remove(0);
        self.update_endpoints();
        self.ended.extend(replica.stop().await);
    }

    fn update_endpoints(&self) {
        self.proxy.set_replicas(&self.replicas);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_versions_side_by_side_share_certificates_leases_and_the_role_binding_without_a_fight() {
    guarded(async {
        let Some(api) = ApiServer::start().await else { return };
        let (admin, namespace, folder) = (api.admin(), api.namespace("upgrade").await, Folder::new("other-version"));
        let (old, new) = (other_version(&folder), PathBuf::from(env!("CARGO_BIN_EXE_nicplug")));
        let installation = Installation::apply(&admin).await;
        let kubeconfig = installation.kubeconfig(&api).await;
        let proxy = KubeProxy::start_at(installation.service.address()).await;
        let mut rollout =
            Rollout { installation: &installation, kubeconfig, proxy, replicas: Vec::new(), ended: Vec::new() };
        let (persist, persist_task) = holders(&admin, "nicplug-persist");
        let (certificates, certificates_task) = holders(&admin, "nicplug-certificates");
        rollout.add(&old, "old-0").await;
        rollout.add(&old, "old-1").await;
        installation.activate(&admin, &rollout.replicas[0]).await;
        let before = shared_objects(&admin).await;

        let (is_over, created) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut load = JoinSet::new();
        for _ in 0..2 {
            let (admin, namespace) = (admin.clone(), namespace.clone());
            let (is_over, created) = (Arc::clone(&is_over), Arc::clone(&created));
            load.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    requests::create(&admin, Kind::Vmi, &namespace, &bare_vm("vm").build_vmi(), Run::Dry)
                        .await
                        .granted();
                    created.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = async || {
            let enough = created.load(Ordering::Relaxed) + 50;
            eventually("more are created", async || (created.load(Ordering::Relaxed) >= enough).then_some(())).await;
        };
        // Forwards, and back again: both directions occur.
        for (program, name) in [(&new, "new-0"), (&new, "new-1"), (&old, "old-2"), (&old, "old-3")] {
            rollout.add(program, name).await;
            more().await;
            rollout.remove_first().await;
            more().await;
        }
        is_over.store(true, Ordering::Relaxed);
        load.join_all().await;

        assert_eq!(shared_objects(&admin).await, before, "no version rewrites what the other one has written");
        for (lease, holders) in [("persist", &persist), ("certificates", &certificates)] {
            let holders = holders.lock().unwrap().clone();
            let mut names: Vec<&String> = holders.iter().collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), holders.len(), "a replica that lost the Lease got it back: {lease}: {holders:?}");
            println!("{lease}: {} leaders one after the other", holders.len());
        }
        while !rollout.replicas.is_empty() {
            rollout.remove_first().await;
        }
        let complaints: Vec<&Value> =
            rollout.ended.iter().filter(|line| matches!(line["level"].as_str(), Some("WARN" | "ERROR"))).collect();
        println!(
            "{} VMIs created meanwhile, none failed; warnings in the logs: {complaints:#?}",
            created.load(Ordering::Relaxed)
        );
        persist_task.abort();
        certificates_task.abort();
    })
    .await;
}
