//! `nicplug addinterface` and `removeinterface` on a real API server: their output, the stored VM and the exit status.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, extract::Request};
use hyper::http::Method;
use kube::{
    Client,
    api::{ListParams, Patch, PatchParams},
};
use nicplug::hotplug::progress::pod_interface;
use serde_json::{Value, json};
use support::{
    api_server::{
        crds::Kind,
        requests::{self, Change, Run},
    },
    builders::{INTERFACES, NETWORKS, VM, names},
    commands::{BY_MIGRATION, CommandFixture, IN_PLACE, NETWORK, POD, Running, run, vm},
    folder::Folder,
    wait::eventually,
};
use tokio::{net::TcpListener, task::JoinHandle};

const NIC: &str = "dyniface1";

/// The arguments that virtctl had.
const ADD: [&str; 6] = ["addinterface", VM, "--network-attachment-definition-name", NETWORK, "--name", NIC];
const REMOVE: [&str; 4] = ["removeinterface", VM, "--name", NIC];

// === The fixture ===

impl CommandFixture {
    async fn get(&self, kind: Kind) -> Value {
        serde_json::to_value(kind.api(&self.admin, &self.namespace).get(VM).await.unwrap()).unwrap()
    }

    /// Writes an annotation of the pod with the interface of the NIC.
    async fn annotate_pod(&self, annotation: &str) {
        let networks = json!([{"name": NETWORK, "interface": pod_interface(NIC)}]).to_string();
        let path = format!("/api/v1/namespaces/{}/pods/{POD}", self.namespace);
        let merge = json!({"metadata": {"annotations": {annotation: networks}}}).to_string();
        requests::send(&self.admin, Method::PATCH, &path, "application/merge-patch+json", merge).await.granted();
    }

    /// Waits for a migration of the guest and returns its name.
    async fn migration(&self) -> String {
        let migrations = Kind::Migration.api(&self.admin, &self.namespace);
        eventually("there is a migration", async || {
            let all = migrations.list(&ListParams::default()).await.unwrap();
            all.items.into_iter().find(|migration| migration.data["spec"]["vmiName"] == VM)?.metadata.name
        })
        .await
    }

    async fn report_migration(&self, name: &str, phase: &str) {
        let migrations = Kind::Migration.api(&self.admin, &self.namespace);
        let status = json!({"status": {"phase": phase, "migrationState": {"failureReason": "no room"}}});
        migrations.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
}

/// Returns the rules of a role that can read the VMI and change the VM, but cannot start a migration.
fn without_migrations() -> Value {
    json!([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines", "virtualmachineinstances"],
            "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["get"]}])
}

// === Writes ===

#[tokio::test]
async fn a_nic_is_added_to_and_removed_from_a_running_vm_and_a_repeated_command_changes_nothing() {
    let Some(fixture) = CommandFixture::with_running_vm("live").await else { return };
    let patched = "virtualmachine.kubevirt.io/vm-fedora patched";
    run(fixture.command(IN_PLACE, &ADD)).await.check(0, &[patched, "\"dyniface1\" is attached at once"], &[]);
    fixture.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    let vm = fixture.get(Kind::Vm).await;
    let interface = &vm.pointer(INTERFACES).unwrap()[1];
    assert_eq!(*interface, json!({"name": NIC, "bridge": {}}));
    let managers = vm["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|manager| manager["manager"] == "nicplug"), "{managers:?}");

    let again = [&ADD[..], &["--persist"]].concat();
    let unchanged = "virtualmachine.kubevirt.io/vm-fedora unchanged";
    run(fixture.command(IN_PLACE, &again)).await.check(0, &[unchanged, "already exists"], &[]);
    assert_eq!(fixture.get(Kind::Vm).await, vm);

    let other = ["addinterface", VM, "--network-attachment-definition-name", "other", "--name", NIC];
    run(fixture.command(IN_PLACE, &other)).await.check(1, &[], &["already exists, on network \"new-fancy-net\""]);
    let mac = [&ADD[..], &["--mac", "02:00:00:00:00:aa"]].concat();
    run(fixture.command(IN_PLACE, &mac)).await.check(1, &[], &["already exists, with a MAC address that KubeVirt"]);
    assert_eq!(fixture.get(Kind::Vm).await, vm);

    run(fixture.command(IN_PLACE, &REMOVE)).await.check(0, &[patched, "as soon as the guest releases it"], &[]);
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!(vm.pointer(INTERFACES).unwrap()[1], json!({"name": NIC, "bridge": {}, "state": "absent"}));
    let going = ["\"dyniface1\" is already being unplugged; `nicplug why vm-fedora dyniface1` shows"];
    run(fixture.command(IN_PLACE, &REMOVE)).await.check(0, &[&[unchanged][..], &going].concat(), &[]);
    assert_eq!(fixture.get(Kind::Vm).await, vm);
}

#[tokio::test]
async fn a_nic_to_remove_that_does_not_exist_is_an_error_with_a_similar_name() {
    let Some(fixture) = CommandFixture::with_vm("not-found").await else { return };
    let remove = |name: &'static str| ["removeinterface", VM, "--name", name];
    let head = "Error (NotFound): VirtualMachine \"vm-fedora\" has no NIC";
    for (name, hint) in [("defualt", "did you mean \"default\"?"), (NIC, "it has: default")] {
        let error = format!("{head} {name:?}; {hint}");
        for output in [&[][..], &["-ojson"], &["--wait"], &["--dry-run"]] {
            let args = [&remove(name)[..], output].concat();
            run(fixture.command(IN_PLACE, &args)).await.check(1, &[], &[&error]);
        }
    }
    let ignored = [&remove(NIC)[..], &["--ignore-not-found", "--wait"]].concat();
    let text = "has no NIC \"dyniface1\"; it has: default: nothing to do";
    let finished = run(fixture.command(IN_PLACE, &ignored)).await.check(0, &[text], &[]);
    assert_eq!(finished.stderr, "");
}

#[tokio::test]
async fn the_command_that_undoes_a_change_is_printed_and_works() {
    let Some(fixture) = CommandFixture::with_vm("undo").await else { return };
    let before = names(&fixture.get(Kind::Vm).await, INTERFACES);
    let mac = [&ADD[..], &["--mac", "02:00:00:00:00:aa"]].concat();
    for args in [&mac[..], &REMOVE] {
        let finished = run(fixture.command(IN_PLACE, args)).await.check(0, &["To undo this:"], &[]);
        let undo = finished.stdout.lines().find_map(|line| line.trim().strip_prefix("nicplug ")).unwrap().to_owned();
        let undo: Vec<&str> = undo.split(' ').collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(&undo).env_remove("KUBECONFIG");
        if args == REMOVE {
            assert!(undo.windows(2).any(|pair| pair == ["--mac", "02:00:00:00:00:aa"]), "{undo:?}");
            run(command).await.check(0, &["patched"], &[]);
            assert_eq!(names(&fixture.get(Kind::Vm).await, INTERFACES), ["default", NIC]);
        } else {
            run(command).await.check(0, &["patched"], &[]);
            assert_eq!(names(&fixture.get(Kind::Vm).await, INTERFACES), before);
            run(fixture.command(IN_PLACE, &mac)).await.check(0, &["patched"], &[]);
        }
    }
}

#[tokio::test]
async fn a_nic_is_added_to_a_stopped_vm_for_its_next_start() {
    let Some(fixture) = CommandFixture::with_vm("stopped").await else { return };
    let sriov = [&ADD[..], &["--sriov", "--mac", "02-00-00-00-00-AA", "--wait"]].concat();
    run(fixture.command(IN_PLACE, &sriov)).await.check(0, &["patched", "\"vm-fedora\" does not run"], &[]);
    let vm = fixture.get(Kind::Vm).await;
    let interface = &vm.pointer(INTERFACES).unwrap()[1];
    assert_eq!(*interface, json!({"name": NIC, "sriov": {}, "macAddress": "02:00:00:00:00:aa"}));
    run(fixture.command(IN_PLACE, &REMOVE)).await.check(0, &["patched", "\"dyniface1\" is removed"], &[]);
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!((names(&vm, INTERFACES), names(&vm, NETWORKS)), (vec!["default".into()], vec!["default".into()]));
}

#[tokio::test]
async fn a_dry_run_stores_nothing_and_only_a_server_dry_run_needs_the_permission_to_write() {
    let Some(fixture) = CommandFixture::with_running_vm("dry").await else { return };
    let before = fixture.get(Kind::Vm).await;
    let with = |flags: &[&'static str]| [&ADD[..], flags].concat();
    for (flags, result) in [
        (&["--dry-run=client"][..], "patched (dry run)"),
        (&["--dry-run", "--wait"], "patched (dry run)"),
        (&["--dry-run=server"], "patched (server dry run)"),
    ] {
        run(fixture.command(IN_PLACE, &with(flags))).await.check(0, &[result], &[]);
        let yaml = run(fixture.command(IN_PLACE, &with(&[flags, &["-o", "yaml"]].concat()))).await.check(0, &[], &[]);
        let vm: Value = serde_saphyr::from_str(&yaml.stdout).unwrap();
        assert_eq!(names(&vm, INTERFACES), ["default", NIC], "{flags:?}");
    }
    assert_eq!(fixture.get(Kind::Vm).await, before);

    let reader = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]);
    let client = fixture.command_as("reader", reader, IN_PLACE, &with(&["--dry-run=client"])).await;
    run(client).await.check(0, &["patched (dry run)"], &[]);
    let mut server = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    server.args(with(&["--dry-run=server", "--namespace", fixture.namespace.clone().leak(), "--kubeconfig"]));
    server.arg(fixture.folder.path().join("kubeconfig"));
    run(server).await.check(1, &[], &["Error from server (Forbidden): ", "cannot patch resource"]);
}

#[tokio::test]
async fn standard_output_has_only_the_object_for_machine_readable_formats() {
    let Some(fixture) = CommandFixture::with_running_vm("output").await else { return };
    let json = [&ADD[..], &["-o", "json"]].concat();
    let finished = run(fixture.command(IN_PLACE, &json)).await.check(0, &[], &["is attached at once"]);
    let vm: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(vm["spec"], fixture.get(Kind::Vm).await["spec"]);
    assert_eq!(vm["metadata"]["managedFields"], Value::Null);
    let name = [&REMOVE[..], &["--output=name"]].concat();
    let finished = run(fixture.command(IN_PLACE, &name)).await.check(0, &[], &[]);
    assert_eq!(finished.stdout, "virtualmachine.kubevirt.io/vm-fedora\n");
}

#[tokio::test]
async fn an_invalid_change_is_denied_with_a_reason_and_not_sent() {
    let Some(fixture) = CommandFixture::with_running_vm("denied").await else { return };
    let before = fixture.get(Kind::Vm).await;
    let mistyped = ["addinterface", VM, "--network-attachment-definition-name", "new-fancy-nett", "--name", NIC];
    let head = "The VirtualMachine \"vm-fedora\" is invalid: spec.template.spec.networks[1].multus.networkName: ";
    let near = format!("{}/{NETWORK}", fixture.namespace);
    run(fixture.command(IN_PLACE, &mistyped)).await.check(1, &[], &[head, &near, "[NP105]"]);

    fixture
        .kubevirt
        .report_condition(VM, json!({"type": "LiveMigratable", "status": "False", "reason": "Local"}))
        .await;
    let both = [&mistyped[..], &["-o", "json"]].concat();
    let finished =
        run(fixture.command(BY_MIGRATION, &both)).await.check(1, &[], &["is invalid: * spec.", "[NP112] * spec."]);
    assert_eq!(finished.stdout, "");
    let name = ["removeinterface", VM, "--name", "a,b"];
    run(fixture.command(IN_PLACE, &name)).await.check(1, &[], &["\"a,b\" is not a valid NIC name"]);
    assert_eq!(fixture.get(Kind::Vm).await, before);
}

#[tokio::test]
async fn facts_without_read_permission_are_reported_and_cause_no_denial() {
    let Some(fixture) = CommandFixture::with_running_vm("unknown").await else { return };
    let program = fixture.command_as("jane", without_migrations(), "{}", &ADD).await;
    let unknown = "Checks skipped, no permission to read: KubeVirts, DaemonSets, ConfigMaps, Nodes, ";
    let stdout = ["patched", "by a live migration: the DaemonSets that decide it cannot be read"];
    run(program).await.check(0, &stdout, &[unknown, "Warning: "]);
}

#[tokio::test]
async fn a_concurrent_change_by_another_user_is_kept() {
    let Some(fixture) = CommandFixture::with_running_vm("conflict").await else { return };
    let proxy = ConflictProxy::start(&fixture, 1).await;
    run(fixture.command_with(proxy.kubeconfig(&fixture), IN_PLACE, &ADD)).await.check(0, &["patched"], &[]);
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!(names(&vm, INTERFACES), ["default", "other1-0", NIC]);
    assert_eq!(names(&vm, NETWORKS), ["default", "other1-0", NIC]);
    assert_eq!(proxy.patches.load(Ordering::SeqCst), 2);

    let Some(fixture) = CommandFixture::with_vm("storm").await else { return };
    let proxy = ConflictProxy::start(&fixture, 100).await;
    let finished = run(fixture.command_with(proxy.kubeconfig(&fixture), IN_PLACE, &ADD)).await;
    let finished = finished.check(2, &[], &["during each of 5 attempts: run the command again"]);
    assert_eq!(finished.stderr.matches("(NICs: 4)").count(), 1, "each warning is printed once: {finished:?}");
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!((names(&vm, NETWORKS).len(), proxy.patches.load(Ordering::SeqCst)), (6, 5));
}

/// A proxy of the API server that causes conflicts.
struct ConflictProxy {
    address: String,
    patches: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl ConflictProxy {
    /// Adds a NIC to the VM before each of the first patches.
    async fn start(fixture: &CommandFixture, times: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let patches = Arc::new(AtomicUsize::new(0));
        let (admin, namespace, count) = (fixture.admin.clone(), fixture.namespace.clone(), Arc::clone(&patches));
        let forward = async move |request: Request| {
            if request.method() == Method::PATCH {
                let number = count.fetch_add(1, Ordering::SeqCst);
                if number < times {
                    add_other(&admin, &namespace, &format!("other{times}-{number}")).await;
                }
            }
            let (mut head, body) = request.into_parts();
            for header in ["host", "authorization", "connection"] {
                head.headers.remove(header);
            }
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let request = hyper::Request::from_parts(head, kube::client::Body::from(body.to_vec()));
            admin.send(request).await.unwrap().map(Body::new)
        };
        let handler = move |request: Request| {
            let forward = forward.clone();
            async move { forward(request).await }
        };
        let app = Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, patches, task }
    }

    fn kubeconfig(&self, fixture: &CommandFixture) -> PathBuf {
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": self.address}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}]});
        fixture.folder.write("proxy.kubeconfig", &config.to_string()).into()
    }
}

impl Drop for ConflictProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn add_other(admin: &Client, namespace: &str, name: &str) {
    let patch = json!([
        {"op": "add", "path": format!("{INTERFACES}/-"), "value": {"name": name, "bridge": {}}},
        {"op": "add", "path": format!("{NETWORKS}/-"), "value": {"name": name, "multus": {"networkName": NETWORK}}}]);
    requests::change(admin, Kind::Vm, namespace, VM, Change::Json(patch), Run::Real).await.granted();
}

#[tokio::test]
async fn without_a_vm_of_that_name_the_command_suggests_what_to_do() {
    let Some(fixture) = CommandFixture::with_vm("none").await else { return };
    let mistyped = ["removeinterface", "vm-fedroa", "--name", NIC];
    run(fixture.command(IN_PLACE, &mistyped)).await.check(
        2,
        &[],
        &["VirtualMachine \"vm-fedroa\" not found", "did you mean \"vm-fedora\"?"],
    );
    let kubevirt = fixture.api.service_account("kubevirt", "kubevirt-controller");
    let alone = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "alone"},
        "spec": vm().guest()});
    requests::create(&kubevirt, Kind::Vmi, &fixture.namespace, &alone, Run::Real).await.granted();
    let add = ["addinterface", "alone", "--network-attachment-definition-name", NETWORK, "--name", NIC];
    run(fixture.command(IN_PLACE, &add)).await.check(
        2,
        &[],
        &["\"alone\" is a VirtualMachineInstance without a VirtualMachine", "KubeVirt v1.9.0 does not allow changing"],
    );
}

#[tokio::test]
async fn an_error_about_the_kubeconfig_names_its_flag() {
    let folder = Folder::new("kubeconfig");
    let file = folder.path().join("config");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "gone",
        "clusters": [{"name": "gone", "cluster": {"server": "http://127.0.0.1:1"}}], "users": [],
        "contexts": [{"name": "gone", "context": {"cluster": "gone", "user": "gone"}}]});
    fs::write(&file, config.to_string()).unwrap();
    for (flags, parts) in [
        (&["--kubeconfig", "/nowhere/config"][..], &["--kubeconfig /nowhere/config cannot be read"][..]),
        (&["--context", "other"], &["--context other cannot be used: "]),
        (&["--context", "gone"], &["\"vm-fedora\" cannot be read", "the API server cannot be reached: "]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(ADD).args(flags).env("KUBECONFIG", &file);
        run(command).await.check(2, &[], parts);
    }
    for (args, part) in [
        (["vm?watch=1", "-nteam"], "\"vm?watch=1\" is not a valid name of a VirtualMachine"),
        (["vm", "-n../team"], "\"../team\" is not a valid name of a namespace"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.arg("removeinterface").args(args).args(["--name", NIC]).env("KUBECONFIG", &file);
        run(command).await.check(2, &[], &[part]);
    }
}

// === Waiting ===

#[tokio::test]
async fn each_stage_is_printed_when_it_is_reached() {
    let Some(fixture) = CommandFixture::with_running_vm("wait").await else { return };
    fixture.start_pod(VM, POD).await;
    let add = [&ADD[..], &["--wait=60s"]].concat();
    let mut command = fixture.command(IN_PLACE, &add);
    command.env("COLUMNS", "80");
    let mut running = Running::start(command);
    running.wait_for(&["✓ template"]).await;
    running.wait_for(&["✓ VMI spec"]).await;
    running.wait_for(&["… pod annotation", "waits for KubeVirt to request it"]).await;
    fixture.annotate_pod("k8s.v1.cni.cncf.io/networks").await;
    running.wait_for(&["✓ pod annotation"]).await;
    // KubeVirt sets MigrationRequired to False at once.
    running.wait_for(&["… multus-status", "dynamic-networks controller; KubeVirt"]).await;
    fixture.annotate_pod("k8s.v1.cni.cncf.io/network-status").await;
    running.wait_for(&["… multus-status", "KubeVirt to update the"]).await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "multus-status")]).await;
    running.wait_for(&["✓ multus-status"]).await;
    running.wait_for(&["… domain", "libvirt"]).await;
    fixture.kubevirt.report_condition(VM, json!({"type": "AgentConnected", "status": "True"})).await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    running.wait_for(&["✓ domain"]).await;
    running.wait_for(&["… guest-agent"]).await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, guest-agent, multus-status")]).await;
    running.wait_for(&["✓ guest-agent"]).await;
    let finished = running.end().await.check(0, &["\"dyniface1\" is plugged"], &[]);
    // A command that can be copied is not broken.
    for line in finished.stdout.lines().filter(|line| !line.contains("--kubeconfig")) {
        assert!(line.chars().count() <= 80, "{line:?}");
    }
    assert_documented(&finished.stdout);

    let remove = [&REMOVE[..], &["--wait"]].concat();
    let mut running = Running::start(fixture.command(IN_PLACE, &remove));
    running.wait_for(&["✓ VMI spec"]).await;
    running.wait_for(&["… domain", "the guest to release it"]).await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "multus-status")]).await;
    running.wait_for(&["✓ domain"]).await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain")]).await;
    running.wait_for(&["✓ status"]).await;
    running.end().await.check(0, &["\"dyniface1\" is unplugged"], &[]);
}

/// Checks that the page shows this output, except for the times.
#[track_caller]
fn assert_documented(printed: &str) {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/addinterface.md")).unwrap();
    let (_, after) = page.split_once("--name dyniface1 --wait\n").unwrap();
    let (shown, _) = after.split_once("```").unwrap();
    assert!(shown.lines().count() > 10, "{shown}");
    // The first eight characters are a time, such as `   0.1s `, or blanks.
    let without_time = |line: &str| line.chars().skip(8).collect::<String>();
    let printed: Vec<String> = printed.lines().map(without_time).collect();
    for line in shown.lines().map(without_time) {
        // The command that undoes the change has the flags of the test too.
        assert!(
            printed.iter().any(|printed| printed.starts_with(&line)),
            "{line:?} is not printed any more: {printed:#?}"
        );
    }
}

#[tokio::test]
async fn a_timeout_names_the_stage_that_was_not_reached() {
    let Some(fixture) = CommandFixture::with_running_vm("timeout").await else { return };
    run(fixture.command(IN_PLACE, &ADD)).await.check(0, &[], &[]);
    fixture.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    let add = [&ADD[..], &["--wait=5s"]].concat();
    let stderr = ["timed out after 5s: \"dyniface1\" has not reached stage \"pod annotation\""];
    run(fixture.command(IN_PLACE, &add)).await.check(1, &["✓ VMI spec"], &stderr);
}

#[tokio::test]
async fn the_wait_ends_when_the_guest_ends() {
    let Some(fixture) = CommandFixture::with_running_vm("ends").await else { return };
    let add = [&ADD[..], &["--wait"]].concat();
    let mut running = Running::start(fixture.command(IN_PLACE, &add));
    running.wait_for(&["✓ VMI spec"]).await;
    fixture.kubevirt.report(VM, json!({"phase": "Succeeded"})).await;
    let reason = "stopped following \"dyniface1\": the guest has ended (Succeeded)";
    running.end().await.check(1, &[], &[reason]);
}

#[tokio::test]
async fn a_user_without_permission_to_watch_gets_an_error() {
    let Some(fixture) = CommandFixture::with_running_vm("blind").await else { return };
    let rules = json!([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines", "virtualmachineinstances"],
        "verbs": ["get", "patch"]}]);
    let add = [&ADD[..], &["--wait"]].concat();
    let program = fixture.command_as("blind", rules, IN_PLACE, &add).await;
    let stderr = ["cannot follow the NIC: ", "User \"blind\" cannot list resource"];
    run(program).await.check(2, &["patched"], &stderr);
}

// === Migrations ===

#[tokio::test]
async fn without_the_flag_migrate_the_command_prints_a_migration_to_copy() {
    let Some(fixture) = CommandFixture::with_running_vm("byhand").await else { return };
    let stdout = ["which a user must start", "kind: VirtualMachineInstanceMigration", "vmiName: vm-fedora"];
    let finished = run(fixture.command(BY_MIGRATION, &ADD)).await.check(0, &stdout, &[]);
    assert!(!finished.stdout.contains("rolebinding"), "{finished:?}");
    let (_, rest) = finished.stdout.split_once("<<EOF\n").unwrap();
    let (yaml, _) = rest.split_once("\nEOF").unwrap();
    let migration: Value = serde_saphyr::from_str(yaml).unwrap();
    requests::create(&fixture.admin, Kind::Migration, &fixture.namespace, &migration, Run::Real).await.granted();
}

#[tokio::test]
async fn with_the_flag_migrate_a_migration_is_started_if_necessary_and_followed() {
    let Some(fixture) = CommandFixture::with_running_vm("migrate").await else { return };
    fixture.start_pod(VM, POD).await;
    let add = [&ADD[..], &["--migrate"]].concat();
    let mut running = Running::start(fixture.command(BY_MIGRATION, &add));
    running.wait_for(&["✓ VMI spec"]).await;
    fixture.kubevirt.end_grace_period().await;
    running.wait_for(&["virtualmachineinstancemigration.kubevirt.io/nicplug-", " created"]).await;
    let migration = fixture.migration().await;
    fixture.report_migration(&migration, "Scheduling").await;
    running.wait_for(&["… ", "migration"]).await;
    fixture.report_migration(&migration, "Running").await;
    fixture.report_migration(&migration, "Succeeded").await;
    running.wait_for(&["… pod annotation", "KubeVirt to update the"]).await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    running.wait_for(&["✓ domain"]).await;
    running.end().await.check(0, &["is plugged"], &[]);
    let migrations = Kind::Migration.api(&fixture.admin, &fixture.namespace);
    assert_eq!(migrations.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_migration_that_fails_ends_the_wait() {
    let Some(fixture) = CommandFixture::with_running_vm("failed").await else { return };
    let add = [&ADD[..], &["--migrate", "--wait=60s"]].concat();
    let mut running = Running::start(fixture.command(BY_MIGRATION, &add));
    running.wait_for(&["✓ VMI spec"]).await;
    fixture.kubevirt.end_grace_period().await;
    running.wait_for(&[" created"]).await;
    let migration = fixture.migration().await;
    fixture.report_migration(&migration, "Failed").await;
    let failed = format!("migration {migration:?} failed: no room");
    running.end().await.check(1, &[], &[&failed]);
}

#[tokio::test]
async fn no_migration_is_started_if_multus_attaches_nics_to_running_pods() {
    let Some(fixture) = CommandFixture::with_running_vm("inplace").await else { return };
    fixture.start_pod(VM, POD).await;
    let add = [&ADD[..], &["--migrate"]].concat();
    let mut running = Running::start(fixture.command(IN_PLACE, &add));
    running.wait_for(&["… pod annotation"]).await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    running.end().await.check(0, &["is plugged"], &[]);
    let migrations = Kind::Migration.api(&fixture.admin, &fixture.namespace);
    assert!(migrations.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_user_without_permission_to_migrate_gets_an_error_before_the_vm_is_changed() {
    let Some(fixture) = CommandFixture::with_running_vm("forbidden").await else { return };
    let before = fixture.get(Kind::Vm).await;
    let add = [&ADD[..], &["--migrate"]].concat();
    let program = fixture.command_as("jane", without_migrations(), BY_MIGRATION, &add).await;
    let grant = format!(
        "kubectl create rolebinding migrate --namespace={} \\\n    --clusterrole=kubevirt.io:migrate --user=jane",
        fixture.namespace
    );
    run(program).await.check(
        1,
        &["Since KubeVirt 1.5", &grant],
        &["nothing was changed: you have no permission to create"],
    );
    assert_eq!(fixture.get(Kind::Vm).await, before);
}

// === The kubectl plugin ===

#[tokio::test]
async fn kubectl_runs_it_as_a_plugin_and_the_usage_says_so() {
    let Some(fixture) = CommandFixture::with_running_vm("plugin").await else { return };
    let plugin = fixture.folder.path().join("kubectl-nicplug");
    symlink(env!("CARGO_BIN_EXE_nicplug"), &plugin).unwrap();
    let mut alone = Command::new(&plugin);
    alone.args(["addinterface", "--help"]);
    run(alone).await.check(0, &["Usage: kubectl nicplug addinterface"], &[]);

    let Some(mut kubectl) = fixture.api.kubectl() else { return };
    kubectl.env("PATH", fixture.folder.path()).arg("nicplug").args(ADD).args(["-n", &fixture.namespace]);
    run(kubectl).await.check(0, &["virtualmachine.kubevirt.io/vm-fedora patched"], &[]);
    assert_eq!(names(&fixture.get(Kind::Vm).await, NETWORKS), ["default", NIC]);
}
