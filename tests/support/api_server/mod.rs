//! A real API server: one for all tests of a process, or one that a test has alone and can stop and start again.

pub(crate) mod crds;
pub(crate) mod endpoints;
mod kubebuilder;
mod process;
pub(crate) mod requests;
pub(crate) mod roles;
pub(crate) mod service;
pub(crate) mod webhooks;

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::Kubeconfig,
};
use tokio::{runtime::Builder, task::spawn_blocking};

use self::{
    process::{Announcement, Process, Program},
    requests::text,
};
use super::{folder::Folder, metrics};

/// A kube-apiserver with its etcd, on a port of 127.0.0.1.
pub(crate) struct ApiServer {
    program: &'static Program,
    /// Further flags of kube-apiserver.
    flags: &'static [&'static str],
    /// The folder of the data, for a server that is started again.
    folder: Option<Folder>,
    /// None while it is stopped.
    process: Option<Process>,
    announcement: Announcement,
}

/// Returns the API server that all tests of this process share. The [definitions](crds) of KubeVirt and the roles are
/// installed.
///
/// Returns none on a machine with neither Go nor `KUBEBUILDER_ASSETS`: one line on standard error says so, and the test
/// passes. With `CI=true` it panics instead.
pub(crate) async fn shared() -> Option<&'static ApiServer> {
    // The other tests wait for the first one, and fail if it does.
    static SHARED: LazyLock<Option<ApiServer>> =
        LazyLock::new(|| Some(ApiServer::start_and_install(program()?, &[], None)));
    spawn_blocking(|| SHARED.as_ref()).await.unwrap()
}

impl ApiServer {
    /// Starts an API server for one test; returns none as [`shared`] does.
    ///
    /// It takes seconds and some hundred MiB, so it is for tests that stop it or change all of its cluster.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// As [`start`](Self::start), with further flags of kube-apiserver.
    pub(crate) async fn start_with(flags: &'static [&'static str]) -> Option<Self> {
        let start = move || Some(Self::start_and_install(program()?, flags, Some(Folder::new("apiserver"))));
        spawn_blocking(start).await.unwrap()
    }

    /// Stops it: connections end, and its port is closed until [`start_again`](Self::start_again).
    pub(crate) async fn stop(&mut self) {
        assert!(self.folder.is_some(), "no test may stop the shared API server");
        // Dropping the process waits for its end.
        let process = self.process.take();
        spawn_blocking(move || drop(process)).await.unwrap();
    }

    /// Kills it: nothing is flushed or closed in order.
    pub(crate) async fn kill(&mut self) {
        self.signal("KILL");
        self.stop().await;
    }

    /// Suspends it: its port stays open, and nothing answers until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        assert!(self.folder.is_some(), "no test may stop the shared API server");
        self.process.as_ref().unwrap().signal(name);
    }

    /// Copies the data of etcd while the server is stopped.
    pub(crate) fn snapshot(&self) -> Folder {
        let copy = Folder::new("snapshot");
        self.copy(&self.data(), copy.path());
        copy
    }

    /// Replaces the data of etcd by an earlier copy while the server is stopped.
    pub(crate) fn restore(&self, snapshot: &Folder) {
        fs::remove_dir_all(self.data()).unwrap();
        self.copy(&snapshot.path().join("etcd"), self.data().parent().unwrap());
    }

    fn data(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("etcd")
    }

    fn copy(&self, from: &Path, into: &Path) {
        assert!(self.process.is_none(), "the API server is stopped before its data are copied");
        let copied = Command::new("cp").arg("-R").args([from, into]).status().unwrap();
        assert!(copied.success(), "{copied}");
    }

    /// Starts a stopped server with the same data, port and credentials.
    pub(crate) async fn start_again(&mut self) {
        let dir = self.folder.as_ref().unwrap().path().to_owned();
        let (program, port, flags) = (self.program, self.port(), self.flags);
        let start = move || program.start(Some(&dir), Some(port), flags);
        let (process, announcement) = spawn_blocking(start).await.unwrap();
        assert_eq!(announcement.address, self.announcement.address);
        self.process = Some(process);
    }

    /// Returns the client of a user who has all rights, including impersonation.
    pub(crate) fn admin(&self) -> Client {
        client(self.config())
    }

    /// Returns the client of an impersonated user, who has no rights before [`let_edit`](Self::let_edit).
    pub(crate) fn user(&self, name: &str) -> Client {
        let mut config = self.config();
        config.auth_info.impersonate = Some(name.to_owned());
        client(config)
    }

    /// Returns the client of an impersonated service account. Those of the namespace `kubevirt` have KubeVirt's rights.
    pub(crate) fn service_account(&self, namespace: &str, name: &str) -> Client {
        // The API server adds the groups of service accounts.
        self.user(&format!("system:serviceaccount:{namespace}:{name}"))
    }

    /// Grants a user all rights on the kinds of KubeVirt and Multus in a namespace.
    pub(crate) async fn let_edit(&self, user: &str, namespace: &str) {
        roles::bind(self, user, namespace).await;
    }

    /// Creates a namespace with this prefix and a random suffix, and returns its name.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let namespaces: Api<Namespace> = Api::all(self.admin());
        let namespace = Namespace { metadata, ..Namespace::default() };
        namespaces.create(&PostParams::default(), &namespace).await.unwrap().metadata.name.unwrap()
    }

    /// Returns the URL: `https://127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.announcement.address
    }

    /// Returns the path of the admin's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.announcement.kubeconfig
    }

    /// Writes the kubeconfig of an impersonated [user](Self::user) into a folder and returns its path.
    pub(crate) fn kubeconfig_of(&self, user: &str, folder: &Folder) -> String {
        let mut config = serde_json::to_value(Kubeconfig::read_from(self.kubeconfig()).unwrap()).unwrap();
        config["users"][0]["user"]["as"] = user.into();
        folder.write("kubeconfig", &config.to_string())
    }

    /// Returns the version of Kubernetes: `v1.37.2`.
    pub(crate) fn version(&self) -> &str {
        &self.announcement.version
    }

    /// Returns a command that runs kubectl as the admin, if there is one.
    pub(crate) fn kubectl(&self) -> Option<Command> {
        let mut command = self.program.kubectl()?;
        let cache = self.kubeconfig().with_file_name("kubectl-cache");
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", cache).env("KUBERC", "off");
        Some(command)
    }

    /// Returns how often the API server has called a webhook for an operation, `CREATE` or `UPDATE`, by its own
    /// metrics.
    pub(crate) async fn webhook_calls(&self, webhook: &str, operation: &str) -> u64 {
        let metric = "apiserver_admission_webhook_admission_duration_seconds_count";
        self.count(metric, &[("name", webhook), ("operation", operation)]).await
    }

    /// Returns how many failed calls of a webhook the failure policy `Ignore` has ignored.
    pub(crate) async fn webhook_failures(&self, webhook: &str) -> u64 {
        self.count("apiserver_admission_webhook_fail_open_count", &[("name", webhook)]).await
    }

    /// Returns how many calls of a webhook its match conditions have prevented.
    pub(crate) async fn webhook_exclusions(&self, webhook: &str, operation: &str) -> u64 {
        let metric = "apiserver_admission_match_condition_exclusions_total";
        self.count(metric, &[("name", webhook), ("operation", operation)]).await
    }

    async fn count(&self, metric: &str, labels: &[(&str, &str)]) -> u64 {
        metrics::sum(&text(&self.admin(), "/metrics").await, metric, labels)
    }

    /// Starts it, and installs the definitions and roles; blocks.
    fn start_and_install(program: &'static Program, flags: &'static [&'static str], folder: Option<Folder>) -> Self {
        let (process, announcement) = program.start(folder.as_ref().map(Folder::path), None, flags);
        let api = Self { program, flags, folder, process: Some(process), announcement };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let admin = api.admin();
            tokio::join!(crds::install(&admin), roles::install(&api));
        });
        api
    }

    fn config(&self) -> Config {
        Config::try_from(Kubeconfig::read_from(self.kubeconfig()).unwrap()).unwrap()
    }

    fn port(&self) -> u16 {
        self.address().rsplit(':').next().unwrap().parse().unwrap()
    }
}

fn client(config: Config) -> Client {
    Client::try_from(config).unwrap()
}

/// Returns the program, which is found or built once.
fn program() -> Option<&'static Program> {
    static PROGRAM: LazyLock<Option<Program>> = LazyLock::new(|| {
        let found = Program::find();
        if let Err(reason) = &found {
            assert!(env::var("CI").as_deref() != Ok("true"), "with CI=true the tests need an API server: {reason}");
            // Not by a macro: the test runner shows their output for failed tests only.
            let _ = writeln!(io::stderr(), "skipped: there is no API server to test with: {reason}");
        }
        found.ok()
    });
    PROGRAM.as_ref()
}
