//! `nicplug addinterface` and `removeinterface` on a real API server: what is printed, what is stored, and how it ends.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod cluster_support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, extract::Request};
use cluster_support::{
    Folder, LONG,
    apiserver::{self, ApiServer},
    crds::Kind,
    kubevirt_double::KubeVirtDouble,
    request::{self, Change, Run},
};
use hyper::http::Method;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use nicplug::hotplug::progress::pod_interface;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{OnceCell, mpsc},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

const VM: &str = "vm-fedora";
const NETWORK: &str = "new-fancy-net";
const NIC: &str = "dyniface1";
const INTERFACES: &str = "/spec/template/spec/domain/devices/interfaces";
const NETWORKS: &str = "/spec/template/spec/networks";

/// As virtctl had it.
const ADD: [&str; 6] = ["addinterface", VM, "--network-attachment-definition-name", NETWORK, "--name", NIC];
const REMOVE: [&str; 4] = ["removeinterface", VM, "--name", NIC];

/// Settings of a cluster whose Multus attaches NICs to pods that run, and of one where only a migration does.
const IN_PLACE: &str = "attachment: {dynamicNetworks: yes}";
const BY_MIGRATION: &str = "attachment: {dynamicNetworks: no}";

// === The scene ===

/// A namespace with a network and KubeVirt's double. The cluster has KubeVirt 1.9, which migrates nothing by itself.
struct Scene {
    api: &'static ApiServer,
    namespace: String,
    admin: Client,
    kubevirt: KubeVirtDouble,
    folder: Folder,
}

impl Scene {
    /// None where there is no API server.
    async fn open(name: &str) -> Option<Self> {
        let api = apiserver::shared().await?;
        let (namespace, admin) = (api.namespace(name).await, api.admin());
        install_kubevirt(api).await;
        request::create(&admin, Kind::Nad, &namespace, &network(), Run::Real).await.granted();
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        Some(Self { api, namespace, admin, kubevirt, folder: Folder::new("addinterface") })
    }

    /// With a VM that does not run.
    async fn with_vm(name: &str) -> Option<Self> {
        let scene = Self::open(name).await?;
        request::create(&scene.admin, Kind::Vm, &scene.namespace, &vm(), Run::Real).await.granted();
        Some(scene)
    }

    /// With a VM that runs.
    async fn with_running_vm(name: &str) -> Option<Self> {
        let scene = Self::with_vm(name).await?;
        scene.kubevirt.start_vm(VM).await;
        scene.kubevirt.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
        Some(scene)
    }

    /// The program as the admin; the settings say how the cluster attaches NICs.
    fn program(&self, settings: &str, args: &[&str]) -> Command {
        self.program_of(self.api.kubeconfig().to_owned(), settings, args)
    }

    /// The program as a user who may do what the rules of a role say, in the scene's namespace and nowhere else.
    async fn program_as(&self, user: &str, rules: Value, settings: &str, args: &[&str]) -> Command {
        for (kind, body) in [
            ("roles", json!({"metadata": {"name": user}, "rules": rules})),
            (
                "rolebindings",
                json!({"metadata": {"name": user}, "subjects": [{"kind": "User", "name": user}],
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}}),
            ),
        ] {
            let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{kind}", self.namespace);
            request::send(&self.admin, Method::POST, &path, "application/json", body.to_string()).await.granted();
        }
        let mut config: Value = serde_saphyr::from_str(&fs::read_to_string(self.api.kubeconfig()).unwrap()).unwrap();
        config["users"][0]["user"]["as"] = json!(user);
        self.program_of(self.file("user.kubeconfig", &config.to_string()), settings, args)
    }

    fn program_of(&self, kubeconfig: PathBuf, settings: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(args).args(["--namespace", &self.namespace]).arg("--kubeconfig").arg(kubeconfig);
        command.arg("--settings").arg(self.file("settings.yaml", settings)).env_remove("KUBECONFIG");
        command
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    async fn get(&self, kind: Kind) -> Value {
        serde_json::to_value(kind.api(&self.admin, &self.namespace).get(VM).await.unwrap()).unwrap()
    }

    /// Waits until the VMI is as it should be.
    async fn vmi_when(&self, is_right: impl Fn(&Value) -> bool) {
        let vmis = Kind::Vmi.api(&self.admin, &self.namespace);
        let condition = |vmi: Option<&DynamicObject>| vmi.is_some_and(|vmi| is_right(&vmi.data));
        let found = timeout(LONG, await_condition(vmis, VM, condition)).await;
        found.unwrap_or_else(|_| panic!("KubeVirt's double was refused: {:?}", self.kubevirt.refusals())).unwrap();
    }

    /// Makes the pod that the guest runs in.
    async fn start_pod(&self) {
        let uid = self.get(Kind::Vmi).await["metadata"]["uid"].clone();
        let pod = json!({"metadata": {"name": "virt-launcher-vm-fedora-abcde", "labels": {"kubevirt.io/created-by": uid}},
            "spec": {"automountServiceAccountToken": false, "nodeName": "node-a",
                "containers": [{"name": "compute", "image": "example.com/virt-launcher"}]}});
        for (kind, object) in [("serviceaccounts", json!({"metadata": {"name": "default"}})), ("pods", pod)] {
            let path = format!("/api/v1/namespaces/{}/{kind}", self.namespace);
            request::send(&self.admin, Method::POST, &path, "application/json", object.to_string()).await.granted();
        }
    }

    /// Writes an annotation of the pod that names the interface of the NIC.
    async fn annotate_pod(&self, annotation: &str) {
        let networks = json!([{"name": NETWORK, "interface": pod_interface(NIC)}]).to_string();
        let path = format!("/api/v1/namespaces/{}/pods/virt-launcher-vm-fedora-abcde", self.namespace);
        let merge = json!({"metadata": {"annotations": {annotation: networks}}}).to_string();
        request::send(&self.admin, Method::PATCH, &path, "application/merge-patch+json", merge).await.granted();
    }

    /// Waits for a migration of the guest, and returns its name.
    async fn migration(&self) -> String {
        let migrations = Kind::Migration.api(&self.admin, &self.namespace);
        cluster_support::eventually("a migration", async || {
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

/// The one KubeVirt resource of the cluster.
async fn install_kubevirt(api: &ApiServer) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED
        .get_or_init(async || {
            let (admin, namespace) = (api.admin(), api.namespace("kubevirt").await);
            let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
                "spec": {"configuration": {"vmRolloutStrategy": "LiveUpdate"}}});
            request::create(&admin, Kind::KubeVirt, &namespace, &kubevirt, Run::Real).await.granted();
            let status = Patch::Merge(json!({"status": {"observedKubeVirtVersion": "v1.9.0"}}));
            let kubevirts: Api<DynamicObject> = Kind::KubeVirt.api(&admin, &namespace);
            kubevirts.patch_status("kubevirt", &PatchParams::default(), &status).await.unwrap();
        })
        .await;
}

fn network() -> Value {
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": NETWORK},
        "spec": {"config": json!({"cniVersion": "0.3.1", "type": "bridge", "name": NETWORK}).to_string()}})
}

/// A VM with one NIC, on the pod network.
fn vm() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": VM},
        "spec": {"runStrategy": "Manual", "template": {"spec": {
            "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}]}, "memory": {"guest": "1Gi"}},
            "networks": [{"name": "default", "pod": {}}]}}}})
}

/// Rules of a role that may see the guest and change the VM, and start no migration.
fn without_migrations() -> Value {
    json!([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines", "virtualmachineinstances"],
            "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["get"]}])
}

fn names(object: &Value, list: &str) -> Vec<String> {
    let entries = object.pointer(list).and_then(Value::as_array).into_iter().flatten();
    entries.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

/// A run that came to its end.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    /// Standard error on one line, so that a text is found wherever a line is broken.
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn ends(self, code: i32, stdout: &[&str], stderr: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let output = unbroken(&self.stdout);
        let missing = stdout.iter().find(|part| !output.contains(**part));
        let missing = missing.or_else(|| stderr.iter().find(|part| !self.stderr.contains(**part)));
        assert_eq!(missing, None, "{self:#?}");
        self
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        for line in stdout.lines().chain(stderr.lines()) {
            assert!(!line.contains('\u{1b}'), "a colour without a terminal: {line:?}");
        }
        Self { code: output.status.code(), stdout, stderr: unbroken(&stderr) }
    }
}

/// The text on one line, as it was before it was wrapped.
fn unbroken(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs it to its end.
async fn run(mut command: Command) -> Ended {
    spawn_blocking(move || command.output().unwrap()).await.unwrap().into()
}

/// A program that is under way, whose standard output is read as it comes.
struct Running {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    seen: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, seen: String::new() }
    }

    /// Waits for a line that has the parts.
    async fn says(&mut self, parts: &[&str]) {
        let wait = async {
            while let Some(line) = self.lines.recv().await {
                self.seen.push_str(&line);
                self.seen.push('\n');
                if parts.iter().all(|part| line.contains(part)) {
                    return true;
                }
            }
            false
        };
        if timeout(LONG, wait).await != Ok(true) {
            let complaints = self.complaints();
            panic!("{parts:?} is not in what was said:\n{}{complaints}", self.seen);
        }
    }

    fn complaints(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    async fn end(mut self) -> Ended {
        let wait = spawn_blocking(move || {
            let mut stderr = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            (self.child.wait().unwrap(), stderr, self.lines, self.seen)
        });
        let (status, stderr, mut lines, mut stdout) = timeout(LONG, wait).await.expect("the program ends").unwrap();
        while let Some(line) = lines.recv().await {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        Ended { code: status.code(), stdout, stderr: unbroken(&stderr) }
    }
}

// === What is written ===

#[tokio::test]
async fn a_running_vm_gets_the_nic_and_lets_it_go_and_a_command_twice_changes_nothing() {
    let Some(scene) = Scene::with_running_vm("live").await else { return };
    let patched = "virtualmachine.kubevirt.io/vm-fedora patched";
    run(scene.program(IN_PLACE, &ADD)).await.ends(0, &[patched, "\"dyniface1\" is attached at once"], &[]);
    scene.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    let vm = scene.get(Kind::Vm).await;
    let interface = &vm.pointer(INTERFACES).unwrap()[1];
    assert_eq!(*interface, json!({"name": NIC, "bridge": {}}));
    let managers = vm["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|manager| manager["manager"] == "nicplug"), "{managers:?}");

    let again = [&ADD[..], &["--persist"]].concat();
    let unchanged = "virtualmachine.kubevirt.io/vm-fedora unchanged";
    run(scene.program(IN_PLACE, &again)).await.ends(0, &[unchanged, "exists already"], &[]);
    assert_eq!(scene.get(Kind::Vm).await, vm);

    let other = ["addinterface", VM, "--network-attachment-definition-name", "other", "--name", NIC];
    run(scene.program(IN_PLACE, &other)).await.ends(1, &[], &["is there already, on network \"new-fancy-net\""]);
    let mac = [&ADD[..], &["--mac", "02:00:00:00:00:aa"]].concat();
    run(scene.program(IN_PLACE, &mac)).await.ends(1, &[], &["is there already, with a MAC address of KubeVirt's"]);
    assert_eq!(scene.get(Kind::Vm).await, vm);

    run(scene.program(IN_PLACE, &REMOVE)).await.ends(0, &[patched, "as soon as the guest releases it"], &[]);
    let vm = scene.get(Kind::Vm).await;
    assert_eq!(vm.pointer(INTERFACES).unwrap()[1], json!({"name": NIC, "bridge": {}, "state": "absent"}));
    run(scene.program(IN_PLACE, &REMOVE)).await.ends(0, &[unchanged, "\"dyniface1\" does not exist"], &[]);
    assert_eq!(scene.get(Kind::Vm).await, vm);
}

#[tokio::test]
async fn a_stopped_vm_has_the_nic_when_it_starts() {
    let Some(scene) = Scene::with_vm("stopped").await else { return };
    let sriov = [&ADD[..], &["--sriov", "--mac", "02-00-00-00-00-AA", "--wait"]].concat();
    run(scene.program(IN_PLACE, &sriov)).await.ends(0, &["patched", "\"vm-fedora\" does not run"], &[]);
    let vm = scene.get(Kind::Vm).await;
    let interface = &vm.pointer(INTERFACES).unwrap()[1];
    assert_eq!(*interface, json!({"name": NIC, "sriov": {}, "macAddress": "02:00:00:00:00:aa"}));
    run(scene.program(IN_PLACE, &REMOVE)).await.ends(0, &["patched", "\"dyniface1\" is removed"], &[]);
    let vm = scene.get(Kind::Vm).await;
    assert_eq!((names(&vm, INTERFACES), names(&vm, NETWORKS)), (vec!["default".into()], vec!["default".into()]));
}

#[tokio::test]
async fn a_dry_run_stores_nothing_and_only_one_on_the_server_needs_the_right_to_write() {
    let Some(scene) = Scene::with_running_vm("dry").await else { return };
    let before = scene.get(Kind::Vm).await;
    let with = |flags: &[&'static str]| [&ADD[..], flags].concat();
    for (flags, how) in [
        (&["--dry-run=client"][..], "patched (dry run)"),
        (&["--dry-run", "--wait"], "patched (dry run)"),
        (&["--dry-run=server"], "patched (server dry run)"),
    ] {
        run(scene.program(IN_PLACE, &with(flags))).await.ends(0, &[how], &[]);
        let yaml = run(scene.program(IN_PLACE, &with(&[flags, &["-o", "yaml"]].concat()))).await.ends(0, &[], &[]);
        let vm: Value = serde_saphyr::from_str(&yaml.stdout).unwrap();
        assert_eq!(names(&vm, INTERFACES), ["default", NIC], "{flags:?}");
    }
    assert_eq!(scene.get(Kind::Vm).await, before);

    let reader = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]);
    let client = scene.program_as("reader", reader, IN_PLACE, &with(&["--dry-run=client"])).await;
    run(client).await.ends(0, &["patched (dry run)"], &[]);
    let mut server = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    server.args(with(&["--dry-run=server", "--namespace", scene.namespace.clone().leak(), "--kubeconfig"]));
    server.arg(scene.folder.path().join("user.kubeconfig"));
    run(server).await.ends(1, &[], &["Error from server (Forbidden): ", "cannot patch resource"]);
}

#[tokio::test]
async fn the_object_alone_is_on_standard_output_when_a_program_reads_it() {
    let Some(scene) = Scene::with_running_vm("output").await else { return };
    let json = [&ADD[..], &["-o", "json"]].concat();
    let ended = run(scene.program(IN_PLACE, &json)).await.ends(0, &[], &["is attached at once"]);
    let vm: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(vm["spec"], scene.get(Kind::Vm).await["spec"]);
    assert_eq!(vm["metadata"]["managedFields"], Value::Null);
    let name = [&REMOVE[..], &["--output=name"]].concat();
    let ended = run(scene.program(IN_PLACE, &name)).await.ends(0, &[], &[]);
    assert_eq!(ended.stdout, "virtualmachine.kubevirt.io/vm-fedora\n");
}

#[tokio::test]
async fn what_cannot_work_is_refused_in_words_and_never_sent() {
    let Some(scene) = Scene::with_running_vm("denied").await else { return };
    let before = scene.get(Kind::Vm).await;
    let nowhere = ["addinterface", VM, "--network-attachment-definition-name", "new-fancy-nett", "--name", NIC];
    let head = "The VirtualMachine \"vm-fedora\" is invalid: spec.template.spec.networks[1].multus.networkName: ";
    let near = format!("{}/{NETWORK}", scene.namespace);
    run(scene.program(IN_PLACE, &nowhere)).await.ends(1, &[], &[head, &near, "[NP105]"]);

    scene.kubevirt.report_condition(VM, json!({"type": "LiveMigratable", "status": "False", "reason": "Local"})).await;
    let both = [&nowhere[..], &["-o", "json"]].concat();
    let ended = run(scene.program(BY_MIGRATION, &both)).await.ends(1, &[], &["is invalid: * spec.", "[NP112] * spec."]);
    assert_eq!(ended.stdout, "");
    let name = ["removeinterface", VM, "--name", "a,b"];
    run(scene.program(IN_PLACE, &name)).await.ends(1, &[], &["\"a,b\" is no name of a NIC"]);
    assert_eq!(scene.get(Kind::Vm).await, before);
}

#[tokio::test]
async fn facts_that_may_not_be_read_are_told_and_deny_nothing() {
    let Some(scene) = Scene::with_running_vm("unknown").await else { return };
    let program = scene.program_as("jane", without_migrations(), "{}", &ADD).await;
    let cannot = "Checks skipped, no permission to read: KubeVirts, DaemonSets, ConfigMaps, Nodes, ";
    let says = ["patched", "by a live migration: the DaemonSets that decide it cannot be read"];
    run(program).await.ends(0, &says, &[cannot, "Warning: "]);
}

#[tokio::test]
async fn a_change_of_somebody_else_in_between_is_kept() {
    let Some(scene) = Scene::with_running_vm("conflict").await else { return };
    let proxy = Proxy::start(&scene, 1).await;
    run(scene.program_of(proxy.kubeconfig(&scene), IN_PLACE, &ADD)).await.ends(0, &["patched"], &[]);
    let vm = scene.get(Kind::Vm).await;
    assert_eq!(names(&vm, INTERFACES), ["default", "other1-0", NIC]);
    assert_eq!(names(&vm, NETWORKS), ["default", "other1-0", NIC]);
    assert_eq!(proxy.patches.load(Ordering::SeqCst), 2);

    let Some(scene) = Scene::with_vm("storm").await else { return };
    let proxy = Proxy::start(&scene, 100).await;
    let ended = run(scene.program_of(proxy.kubeconfig(&scene), IN_PLACE, &ADD)).await;
    let ended = ended.ends(2, &[], &["during each of 5 attempts: run the command again"]);
    assert_eq!(ended.stderr.matches("(4 NICs)").count(), 1, "no warning comes twice: {ended:?}");
    let vm = scene.get(Kind::Vm).await;
    assert_eq!((names(&vm, NETWORKS).len(), proxy.patches.load(Ordering::SeqCst)), (6, 5));
}

/// Stands before the API server, and lets somebody else be faster.
struct Proxy {
    address: String,
    patches: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Before each of so many patches of the VM somebody else adds a NIC.
    async fn start(scene: &Scene, times: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let patches = Arc::new(AtomicUsize::new(0));
        let (admin, namespace, count) = (scene.admin.clone(), scene.namespace.clone(), Arc::clone(&patches));
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

    fn kubeconfig(&self, scene: &Scene) -> PathBuf {
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": self.address}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}]});
        scene.file("proxy.kubeconfig", &config.to_string())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn add_other(admin: &Client, namespace: &str, name: &str) {
    let patch = json!([
        {"op": "add", "path": format!("{INTERFACES}/-"), "value": {"name": name, "bridge": {}}},
        {"op": "add", "path": format!("{NETWORKS}/-"), "value": {"name": name, "multus": {"networkName": NETWORK}}}]);
    request::change(admin, Kind::Vm, namespace, VM, Change::Json(patch), Run::Real).await.granted();
}

#[tokio::test]
async fn where_there_is_no_vm_the_program_says_what_is_possible() {
    let Some(scene) = Scene::with_vm("none").await else { return };
    let mistyped = ["removeinterface", "vm-fedroa", "--name", NIC];
    run(scene.program(IN_PLACE, &mistyped)).await.ends(
        2,
        &[],
        &["VirtualMachine \"vm-fedroa\" not found", "did you mean \"vm-fedora\"?"],
    );
    let kubevirt = scene.api.service_account("kubevirt", "kubevirt-controller");
    let alone = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "alone"},
        "spec": vm()["spec"]["template"]["spec"]});
    request::create(&kubevirt, Kind::Vmi, &scene.namespace, &alone, Run::Real).await.granted();
    let add = ["addinterface", "alone", "--network-attachment-definition-name", NETWORK, "--name", NIC];
    run(scene.program(IN_PLACE, &add)).await.ends(
        2,
        &[],
        &["\"alone\" is a VirtualMachineInstance without a VirtualMachine", "KubeVirt v1.9.0 does not allow changing"],
    );
}

#[tokio::test]
async fn a_cluster_that_is_not_to_be_found_is_told_by_the_flag_that_names_it() {
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
        run(command).await.ends(2, &[], parts);
    }
    for (args, part) in [
        (["vm?watch=1", "-nteam"], "\"vm?watch=1\" is not a valid name of a VirtualMachine"),
        (["vm", "-n../team"], "\"../team\" is not a valid name of a namespace"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.arg("removeinterface").args(args).args(["--name", NIC]).env("KUBECONFIG", &file);
        run(command).await.ends(2, &[], &[part]);
    }
}

// === What is followed ===

#[tokio::test]
async fn each_stage_is_a_line_when_it_comes() {
    let Some(scene) = Scene::with_running_vm("wait").await else { return };
    scene.start_pod().await;
    let add = [&ADD[..], &["--wait=60s"]].concat();
    let mut running = Running::start(scene.program(IN_PLACE, &add));
    running.says(&["✓ template"]).await;
    running.says(&["✓ VMI spec"]).await;
    running.says(&["… pod annotation", "waits for KubeVirt to request it"]).await;
    scene.annotate_pod("k8s.v1.cni.cncf.io/networks").await;
    running.says(&["✓ pod annotation"]).await;
    running.says(&["… multus-status", "dynamic-networks controller to attach"]).await;
    let waiting = json!({"type": "MigrationRequired", "status": "False", "reason": "AutoMigrationPending"});
    scene.kubevirt.report_condition(VM, waiting).await;
    running.says(&["… multus-status", "dynamic-networks controller; KubeVirt"]).await;
    scene.annotate_pod("k8s.v1.cni.cncf.io/network-status").await;
    running.says(&["… multus-status", "KubeVirt to update the"]).await;
    scene.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "multus-status")]).await;
    running.says(&["✓ multus-status"]).await;
    running.says(&["… domain", "libvirt"]).await;
    scene.kubevirt.report_condition(VM, json!({"type": "AgentConnected", "status": "True"})).await;
    scene.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    running.says(&["✓ domain"]).await;
    running.says(&["… guest-agent"]).await;
    scene.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, guest-agent, multus-status")]).await;
    running.says(&["✓ guest-agent"]).await;
    let ended = running.end().await.ends(0, &["\"dyniface1\" is plugged"], &[]);
    for line in ended.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line:?}");
    }
    assert_documented(&ended.stdout);

    let remove = [&REMOVE[..], &["--wait"]].concat();
    let mut running = Running::start(scene.program(IN_PLACE, &remove));
    running.says(&["✓ VMI spec"]).await;
    running.says(&["… domain", "the guest to release it"]).await;
    scene.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "multus-status")]).await;
    running.says(&["✓ domain"]).await;
    scene.kubevirt.report_nics(VM, &[("default", "domain")]).await;
    running.says(&["✓ status"]).await;
    running.end().await.ends(0, &["\"dyniface1\" is unplugged"], &[]);
}

/// The page shows what is printed, line by line; only times differ.
#[track_caller]
fn assert_documented(printed: &str) {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/addinterface.md")).unwrap();
    let (_, after) = page.split_once("--name dyniface1 --wait\n").unwrap();
    let (shown, _) = after.split_once("```").unwrap();
    assert!(shown.lines().count() > 10, "{shown}");
    // `   0.1s `, or as many blanks.
    let without_time = |line: &str| line.chars().skip(8).collect::<String>();
    let printed: Vec<String> = printed.lines().map(without_time).collect();
    for line in shown.lines().map(without_time) {
        assert!(printed.contains(&line), "{line:?} is not printed any more: {printed:#?}");
    }
}

#[tokio::test]
async fn a_nic_that_does_not_come_in_time_is_told_with_its_stage() {
    let Some(scene) = Scene::with_running_vm("timeout").await else { return };
    run(scene.program(IN_PLACE, &ADD)).await.ends(0, &[], &[]);
    scene.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    let add = [&ADD[..], &["--wait=5s"]].concat();
    let reached = ["timed out after 5s: \"dyniface1\" has not reached stage \"pod annotation\""];
    run(scene.program(IN_PLACE, &add)).await.ends(1, &["✓ VMI spec"], &reached);
}

#[tokio::test]
async fn a_guest_that_ends_meanwhile_ends_the_wait() {
    let Some(scene) = Scene::with_running_vm("ends").await else { return };
    let add = [&ADD[..], &["--wait"]].concat();
    let mut running = Running::start(scene.program(IN_PLACE, &add));
    running.says(&["✓ VMI spec"]).await;
    scene.kubevirt.report(VM, json!({"phase": "Succeeded"})).await;
    let because = "stopped following \"dyniface1\": the guest has ended (Succeeded)";
    running.end().await.ends(1, &[], &[because]);
}

#[tokio::test]
async fn a_user_who_may_not_watch_is_told_so() {
    let Some(scene) = Scene::with_running_vm("blind").await else { return };
    let rules = json!([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines", "virtualmachineinstances"],
        "verbs": ["get", "patch"]}]);
    let add = [&ADD[..], &["--wait"]].concat();
    let program = scene.program_as("blind", rules, IN_PLACE, &add).await;
    let why = ["cannot follow the NIC: ", "User \"blind\" cannot list resource"];
    run(program).await.ends(1, &["patched"], &why);
}

// === What a migration is for ===

#[tokio::test]
async fn a_migration_that_nobody_starts_is_printed_to_be_copied() {
    let Some(scene) = Scene::with_running_vm("byhand").await else { return };
    let said = ["which a user must start", "kind: VirtualMachineInstanceMigration", "vmiName: vm-fedora"];
    let ended = run(scene.program(BY_MIGRATION, &ADD)).await.ends(0, &said, &[]);
    assert!(!ended.stdout.contains("rolebinding"), "{ended:?}");
    let (_, rest) = ended.stdout.split_once("<<EOF\n").unwrap();
    let (yaml, _) = rest.split_once("\nEOF").unwrap();
    let migration: Value = serde_saphyr::from_str(yaml).unwrap();
    request::create(&scene.admin, Kind::Migration, &scene.namespace, &migration, Run::Real).await.granted();
}

#[tokio::test]
async fn a_migration_is_started_where_it_is_needed_and_followed() {
    let Some(scene) = Scene::with_running_vm("migrate").await else { return };
    scene.start_pod().await;
    let add = [&ADD[..], &["--migrate"]].concat();
    let mut running = Running::start(scene.program(BY_MIGRATION, &add));
    running.says(&["✓ VMI spec"]).await;
    let required = json!({"type": "MigrationRequired", "status": "True", "reason": "AutoMigrationPending"});
    scene.kubevirt.report_condition(VM, required).await;
    running.says(&["virtualmachineinstancemigration.kubevirt.io/nicplug-", " created"]).await;
    let migration = scene.migration().await;
    scene.report_migration(&migration, "Scheduling").await;
    running.says(&["… ", "migration"]).await;
    scene.report_migration(&migration, "Running").await;
    scene.report_migration(&migration, "Succeeded").await;
    running.says(&["… pod annotation", "KubeVirt to update the"]).await;
    scene.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    running.says(&["✓ domain"]).await;
    running.end().await.ends(0, &["is plugged"], &[]);
    let migrations = Kind::Migration.api(&scene.admin, &scene.namespace);
    assert_eq!(migrations.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_migration_that_fails_ends_the_wait() {
    let Some(scene) = Scene::with_running_vm("failed").await else { return };
    let add = [&ADD[..], &["--migrate", "--wait=60s"]].concat();
    let mut running = Running::start(scene.program(BY_MIGRATION, &add));
    running.says(&["✓ VMI spec"]).await;
    running.says(&[" created"]).await;
    let migration = scene.migration().await;
    scene.report_migration(&migration, "Failed").await;
    let failed = format!("migration {migration:?} failed: no room");
    running.end().await.ends(1, &[], &[&failed]);
}

#[tokio::test]
async fn where_multus_attaches_nics_no_migration_is_started() {
    let Some(scene) = Scene::with_running_vm("inplace").await else { return };
    scene.start_pod().await;
    let add = [&ADD[..], &["--migrate"]].concat();
    let mut running = Running::start(scene.program(IN_PLACE, &add));
    running.says(&["… pod annotation"]).await;
    scene.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    running.end().await.ends(0, &["is plugged"], &[]);
    let migrations = Kind::Migration.api(&scene.admin, &scene.namespace);
    assert!(migrations.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn whoever_may_not_migrate_is_told_who_may_before_anything_is_changed() {
    let Some(scene) = Scene::with_running_vm("forbidden").await else { return };
    let before = scene.get(Kind::Vm).await;
    let add = [&ADD[..], &["--migrate"]].concat();
    let program = scene.program_as("jane", without_migrations(), BY_MIGRATION, &add).await;
    let grant = format!(
        "kubectl create rolebinding migrate --namespace={} \\ --clusterrole=kubevirt.io:migrate --user=jane",
        scene.namespace
    );
    run(program).await.ends(1, &["Since KubeVirt 1.5", &grant], &["nothing was changed: you have no permission to create"]);
    assert_eq!(scene.get(Kind::Vm).await, before);
}

// === As a plugin of kubectl ===

#[tokio::test]
async fn kubectl_finds_it_as_a_plugin_and_the_usage_says_so() {
    let Some(scene) = Scene::with_running_vm("plugin").await else { return };
    let plugin = scene.folder.path().join("kubectl-nicplug");
    symlink(env!("CARGO_BIN_EXE_nicplug"), &plugin).unwrap();
    let mut alone = Command::new(&plugin);
    alone.args(["addinterface", "--help"]);
    run(alone).await.ends(0, &["Usage: kubectl nicplug addinterface"], &[]);

    let Some(mut kubectl) = scene.api.kubectl() else { return };
    kubectl.env("PATH", scene.folder.path()).arg("nicplug").args(ADD).args(["-n", &scene.namespace]);
    run(kubectl).await.ends(0, &["virtualmachine.kubevirt.io/vm-fedora patched"], &[]);
    assert_eq!(names(&scene.get(Kind::Vm).await, NETWORKS), ["default", NIC]);
}
