//! Commands of the built program on a namespace of the real API server.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use hyper::http::Method;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use tokio::{sync::OnceCell, task::spawn_blocking, time::timeout};

use super::{
    api_server::{
        self, ApiServer,
        crds::Kind,
        requests::{self, Run},
    },
    builders::{self, VM, VmBuilder, nad},
    folder::Folder,
    kubevirt::KubeVirtDouble,
    wait::LONG,
};

pub(crate) const NETWORK: &str = "new-fancy-net";
pub(crate) const POD: &str = "virt-launcher-vm-fedora-abcde";

/// Settings of a cluster whose Multus attaches NICs to running pods, and of one that needs a migration for that.
pub(crate) const IN_PLACE: &str = "attachment: {dynamicNetworks: yes}";
pub(crate) const BY_MIGRATION: &str = "attachment: {dynamicNetworks: no}";

/// A namespace with a network and KubeVirt's double, in a cluster with KubeVirt 1.9. The double starts no migration.
pub(crate) struct CommandFixture {
    pub(crate) api: &'static ApiServer,
    pub(crate) namespace: String,
    pub(crate) admin: Client,
    pub(crate) kubevirt: KubeVirtDouble,
    pub(crate) folder: Folder,
}

impl CommandFixture {
    /// Returns none if there is no API server.
    pub(crate) async fn start(name: &str) -> Option<Self> {
        let api = api_server::shared().await?;
        let (namespace, admin) = (api.namespace(name).await, api.admin());
        install_kubevirt(api).await;
        requests::create(&admin, Kind::Nad, &namespace, &nad(NETWORK), Run::Real).await.granted();
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        Some(Self { api, namespace, admin, kubevirt, folder: Folder::new("command") })
    }

    /// Adds a stopped VM.
    pub(crate) async fn with_vm(name: &str) -> Option<Self> {
        let fixture = Self::start(name).await?;
        fixture.create_vm(&vm()).await;
        Some(fixture)
    }

    /// Adds a running VM.
    pub(crate) async fn with_running_vm(name: &str) -> Option<Self> {
        let fixture = Self::with_vm(name).await?;
        fixture.kubevirt.start_vm(VM).await;
        fixture.kubevirt.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
        Some(fixture)
    }

    pub(crate) async fn create_vm(&self, vm: &VmBuilder) {
        requests::create(&self.admin, Kind::Vm, &self.namespace, &vm.build(), Run::Real).await.granted();
    }

    /// Creates an object of the core group.
    pub(crate) async fn create_core(&self, kind: &str, object: Value) {
        let path = format!("/api/v1/namespaces/{}/{kind}", self.namespace);
        requests::send(&self.admin, Method::POST, &path, "application/json", object.to_string()).await.granted();
    }

    /// Creates the pod of a guest.
    pub(crate) async fn start_pod(&self, vm: &str, pod: &str) {
        let vmi = Kind::Vmi.api(&self.admin, &self.namespace).get(vm).await.unwrap();
        let labels = json!({"kubevirt.io/created-by": vmi.metadata.uid});
        let pod = json!({"metadata": {"name": pod, "labels": labels},
            "spec": {"automountServiceAccountToken": false, "nodeName": "node-a",
                "containers": [{"name": "compute", "image": "example.com/virt-launcher"}]}});
        self.create_core("serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        self.create_core("pods", pod).await;
    }

    /// Waits for a state of the VMI.
    pub(crate) async fn vmi_when(&self, is_right: impl Fn(&Value) -> bool) {
        let vmis = Kind::Vmi.api(&self.admin, &self.namespace);
        let condition = |vmi: Option<&DynamicObject>| vmi.is_some_and(|vmi| is_right(&vmi.data));
        let found = timeout(LONG, await_condition(vmis, VM, condition)).await;
        found.unwrap_or_else(|_| panic!("errors of KubeVirt's double: {:?}", self.kubevirt.errors())).unwrap();
    }

    /// Returns a command of the admin. The settings say how the cluster attaches NICs.
    pub(crate) fn command(&self, settings: &str, args: &[&str]) -> Command {
        self.command_with(self.api.kubeconfig().to_owned(), settings, args)
    }

    /// Returns a command of a user with a role of these rules in the namespace.
    pub(crate) async fn command_as(&self, user: &str, rules: Value, settings: &str, args: &[&str]) -> Command {
        for (kind, body) in [
            ("roles", json!({"metadata": {"name": user}, "rules": rules})),
            (
                "rolebindings",
                json!({"metadata": {"name": user}, "subjects": [{"kind": "User", "name": user}],
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}}),
            ),
        ] {
            let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{kind}", self.namespace);
            requests::send(&self.admin, Method::POST, &path, "application/json", body.to_string()).await.granted();
        }
        self.command_with(self.api.kubeconfig_of(user, &self.folder).into(), settings, args)
    }

    /// The namespace is passed unless the arguments select all namespaces.
    pub(crate) fn command_with(&self, kubeconfig: PathBuf, settings: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(args).arg("--kubeconfig").arg(kubeconfig);
        if !args.contains(&"-A") {
            command.args(["--namespace", &self.namespace]);
        }
        command.arg("--settings").arg(self.folder.write("settings.yaml", settings));
        command.env_remove("KUBECONFIG").env_remove("COLUMNS");
        command
    }
}

/// The exit status and the output of a command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    /// Standard error with one blank between words, so that line breaks do not split a text.
    pub(crate) stderr: String,
}

impl Finished {
    /// Checks the exit status, and parts of standard output and standard error.
    #[track_caller]
    pub(crate) fn check(self, code: i32, stdout: &[&str], stderr: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let missing = stdout.iter().find(|part| !self.stdout.contains(**part));
        let missing = missing.or_else(|| stderr.iter().find(|part| !self.stderr.contains(**part)));
        assert_eq!(missing, None, "{self:#?}");
        self
    }

    /// Checks the exit status, and parts of standard output or standard error.
    #[track_caller]
    pub(crate) fn check_output(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let missing = parts.iter().find(|part| !self.stdout.contains(**part) && !self.stderr.contains(**part));
        assert_eq!(missing, None, "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Returns standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// Runs a command to its end, without a terminal.
pub(crate) async fn run(mut command: Command) -> Finished {
    let output = spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    for line in stdout.lines().chain(stderr.lines()) {
        assert!(!line.contains('\u{1b}'), "there is a colour without a terminal: {line:?}");
    }
    let stderr = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    Finished { code: output.status.code(), stdout, stderr }
}

/// Begins a VM that the user starts and stops, with one NIC on the pod network.
pub(crate) fn vm() -> VmBuilder {
    builders::vm().run_strategy("Manual")
}

/// Creates the KubeVirt resource of the cluster, once.
async fn install_kubevirt(api: &ApiServer) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED.get_or_init(async || create_kubevirt(&api.admin(), &api.namespace("kubevirt").await).await).await;
}

/// Creates the KubeVirt resource of a cluster with KubeVirt 1.9.
pub(crate) async fn create_kubevirt(admin: &Client, namespace: &str) {
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
        "spec": {"configuration": {"vmRolloutStrategy": "LiveUpdate"}}});
    requests::create(admin, Kind::KubeVirt, namespace, &kubevirt, Run::Real).await.granted();
    let status = Patch::Merge(json!({"status": {"observedKubeVirtVersion": "v1.9.0"}}));
    let kubevirts: Api<DynamicObject> = Kind::KubeVirt.api(admin, namespace);
    kubevirts.patch_status("kubevirt", &PatchParams::default(), &status).await.unwrap();
}
