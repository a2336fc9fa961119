//! The API server: one for all tests of a process, or one of a test's own that it may stop and start again.

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
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

use super::{
    Folder, crds,
    program::{Announcement, Process, Program},
    request::text,
    roles,
};

/// A kube-apiserver with its etcd, on a port of 127.0.0.1.
pub(crate) struct ApiServer {
    program: &'static Program,
    /// Flags of kube-apiserver beside those that all have.
    flags: &'static [&'static str],
    /// Where the data is, unless nobody will need them again.
    folder: Option<Folder>,
    /// None while it is stopped.
    process: Option<Process>,
    announcement: Announcement,
}

/// The one that all tests of this process share, with [KubeVirt's definitions](crds) and roles in it.
///
/// None where there is neither Go nor `KUBEBUILDER_ASSETS`: one line on standard error says so, once, and the test
/// passes. Where CI is set to `true` such a machine is a failure instead.
pub(crate) async fn shared() -> Option<&'static ApiServer> {
    // The other tests wait for the first, and fail with it.
    static SHARED: LazyLock<Option<ApiServer>> = LazyLock::new(|| Some(ApiServer::furnished(program()?, &[], None)));
    spawn_blocking(|| SHARED.as_ref()).await.unwrap()
}

impl ApiServer {
    /// Starts one of the test's own, with KubeVirt's definitions in it; None as with [`shared`].
    ///
    /// It takes seconds and some hundred MiB, so it is for tests that stop it.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// As [`start`](Self::start), with further flags of kube-apiserver.
    pub(crate) async fn start_with(flags: &'static [&'static str]) -> Option<Self> {
        let start = move || Some(Self::furnished(program()?, flags, Some(Folder::new("apiserver"))));
        spawn_blocking(start).await.unwrap()
    }

    /// Stops it: connections end, and until [`start_again`](Self::start_again) nobody listens on its port.
    pub(crate) async fn stop(&mut self) {
        assert!(self.folder.is_some(), "the shared API server is not for one test to stop");
        // Its end is waited for where the process is dropped.
        let process = self.process.take();
        spawn_blocking(move || drop(process)).await.unwrap();
    }

    /// Starts a stopped one on the same data, port and credentials: for clients it was away, and is back.
    pub(crate) async fn start_again(&mut self) {
        let dir = self.folder.as_ref().unwrap().path().to_owned();
        let (program, port, flags) = (self.program, self.port(), self.flags);
        let start = move || program.start(Some(&dir), Some(port), flags);
        let (process, announcement) = spawn_blocking(start).await.unwrap();
        assert_eq!(announcement.address, self.announcement.address);
        self.process = Some(process);
    }

    /// A client of a user who may do everything, also speak for others.
    pub(crate) fn admin(&self) -> Client {
        client(self.config())
    }

    /// A client of an ordinary user, by impersonation. He may do nothing until [`let_edit`](Self::let_edit).
    pub(crate) fn user(&self, name: &str) -> Client {
        let mut config = self.config();
        config.auth_info.impersonate = Some(name.to_owned());
        client(config)
    }

    /// A client of a service account, by impersonation; those of the namespace `kubevirt` may do what KubeVirt does.
    pub(crate) fn service_account(&self, namespace: &str, name: &str) -> Client {
        // The API server adds the groups of service accounts by itself.
        self.user(&format!("system:serviceaccount:{namespace}:{name}"))
    }

    /// Lets a user read and write all that is of KubeVirt and Multus in a namespace.
    pub(crate) async fn let_edit(&self, user: &str, namespace: &str) {
        roles::bind(self, user, namespace).await;
    }

    /// A new namespace of this name and a random end.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let namespaces: Api<Namespace> = Api::all(self.admin());
        let namespace = Namespace { metadata, ..Namespace::default() };
        namespaces.create(&PostParams::default(), &namespace).await.unwrap().metadata.name.unwrap()
    }

    /// Where it is: `https://127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.announcement.address
    }

    /// The file of the admin's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.announcement.kubeconfig
    }

    /// Writes the kubeconfig of an ordinary user, as [`user`](Self::user), into a folder; gives its path.
    pub(crate) fn kubeconfig_of(&self, user: &str, folder: &Folder) -> String {
        let mut config = serde_json::to_value(Kubeconfig::read_from(self.kubeconfig()).unwrap()).unwrap();
        config["users"][0]["user"]["as"] = user.into();
        let file = folder.path().join("kubeconfig");
        fs::write(&file, config.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// The version of Kubernetes: `v1.37.2`.
    pub(crate) fn version(&self) -> &str {
        &self.announcement.version
    }

    /// kubectl as the admin, where it is to be had: without arguments yet, and with a cache of its own.
    pub(crate) fn kubectl(&self) -> Option<Command> {
        let mut command = self.program.kubectl()?;
        let cache = self.kubeconfig().with_file_name("kubectl-cache");
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", cache).env("KUBERC", "off");
        Some(command)
    }

    /// How often the API server has called a webhook, by the webhook's name and `CREATE` or `UPDATE`: its own count.
    pub(crate) async fn webhook_calls(&self, webhook: &str, operation: &str) -> u64 {
        let metric = "apiserver_admission_webhook_admission_duration_seconds_count";
        self.count(metric, &[("name", webhook), ("operation", operation)]).await
    }

    /// How often the match conditions of a webhook have spared it a call.
    pub(crate) async fn webhook_exclusions(&self, webhook: &str, operation: &str) -> u64 {
        let metric = "apiserver_admission_match_condition_exclusions_total";
        self.count(metric, &[("name", webhook), ("operation", operation)]).await
    }

    /// The sum of a counter over its series that have these labels.
    async fn count(&self, metric: &str, labels: &[(&str, &str)]) -> u64 {
        let metrics = text(&self.admin(), "/metrics").await;
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let series = metrics.lines().filter(|line| {
            let rest = line.strip_prefix(metric);
            rest.is_some_and(|rest| rest.starts_with('{')) && labels.iter().all(|label| line.contains(label))
        });
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Starts it, with what every test needs in it; blocks.
    fn furnished(program: &'static Program, flags: &'static [&'static str], folder: Option<Folder>) -> Self {
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

/// The program, found or built once.
fn program() -> Option<&'static Program> {
    static PROGRAM: LazyLock<Option<Program>> = LazyLock::new(|| {
        let found = Program::find();
        if let Err(reason) = &found {
            assert!(env::var("CI").as_deref() != Ok("true"), "CI must test with an API server: {reason}");
            // Not by a macro: what those print is shown for tests that fail only.
            let _ = writeln!(io::stderr(), "skipped: no API server to test with: {reason}");
        }
        found.ok()
    });
    PROGRAM.as_ref()
}
