//! Chaos on a real API server: two replicas behind one address under load, and one fault after the other.
//!
//! `cargo test --test chaos` runs five faults, each once. `just chaos SECONDS SEED` runs faults for that long, also those
//! that take a minute: the orderly end of an API server, a new certificate and a new CA (docs/reliability.md). What is
//! checked does not depend on time:
//!
//! - Each answer is that of the library (`Reviewer::review`) to the review of the request and to the facts of that time:
//!   allowed or denied, message, causes, warnings and the object after the patch. Facts may be of a moment before, but
//!   the networks and the guest of a denial may not. While the API server does not answer, facts may be of before or
//!   unknown.
//! - Each NIC to persist is written into its template once, by one write, and has one Event.
//!
//! A request without an answer has failed: the connection broke, or the API server could not call the webhook.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "these are tests"
)]

mod support;

/// The load and its replay.
mod chaos {
    pub(crate) mod history;
    pub(crate) mod load;
    pub(crate) mod replay;
    pub(crate) mod request;
}

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chaos::{history::History, load::Load};
use hyper::http::Method;
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use support::{
    api_server::{
        ApiServer,
        crds::Kind,
        requests::{self, Change, Run, try_send},
    },
    builders::{nad, vm},
    installation::{Installation, NAMESPACE},
    kube_proxy::KubeProxy,
    kubevirt::KubeVirtDouble,
    link::Link,
    replica::Replica,
    wait::within,
};
use tokio::time::{Instant, sleep};

/// Flags that make the election of a leader and the end of a replica fast enough for tests.
const FLAGS: [&str; 5] =
    ["--lease-duration=3s", "--lease-deadline=2s", "--lease-retry=200ms", "--drain-grace=100ms", "--drain-deadline=5s"];
const SECRET: &str = "nicplug-certificates";
const PERSIST: &str = "nicplug.io/persist";
/// How many of [`Fault::FREQUENT`] run if no duration is given.
const FAULTS: usize = 5;

/// How long the test waits for the end of a fault. The leader of the certificates waits a minute before it uses a new
/// CA, and another replica leads 15 seconds after a kill.
const LIMIT: Duration = Duration::from_mins(5);

async fn until<T, F: Future<Output = Option<T>>>(what: &str, check: impl FnMut() -> F) -> T {
    within(LIMIT, what, check).await
}

// === Faults ===

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Fault {
    OneReplicaKilled,
    BothReplicasKilled,
    ReplicaTerminated,
    ApiServerKilled,
    ApiServerRestarted,
    ReplicasCutOff,
    CertificateRenewed,
    CaRenewed,
}

impl Fault {
    /// The faults that a long run has often; the last two take a minute.
    const FREQUENT: [Self; 7] = [
        Self::OneReplicaKilled,
        Self::BothReplicasKilled,
        Self::ReplicaTerminated,
        Self::ApiServerKilled,
        Self::ReplicasCutOff,
        Self::ApiServerRestarted,
        Self::CertificateRenewed,
    ];

    /// Whether facts may be old or unknown meanwhile.
    fn hides_facts(self) -> bool {
        matches!(self, Self::ApiServerKilled | Self::ApiServerRestarted | Self::ReplicasCutOff)
    }

    /// Whether the API server may fail to call a webhook meanwhile. A replica that ends in order is among the causes: its
    /// grace period is so short here that the API server may use a connection that it closes.
    fn breaks_calls(self) -> bool {
        !matches!(self, Self::ReplicasCutOff | Self::CertificateRenewed | Self::CaRenewed)
    }
}

/// Two replicas of the installation, behind the address of its Service.
struct Cluster {
    api: ApiServer,
    installation: Installation,
    kubeconfig: String,
    /// The network from the replicas to the API server.
    link: Link,
    proxy: KubeProxy,
    replicas: Vec<Replica>,
    load: Arc<Load>,
    started: AtomicU64,
}

impl Cluster {
    async fn start(api: ApiServer) -> Self {
        let history = History::begin(&api).await;
        let installation = Installation::apply(&api.admin()).await;
        let kubeconfig = installation.kubeconfig(&api).await;
        let link = Link::to(api.address().strip_prefix("https://").unwrap().parse().unwrap()).await;
        let text = fs::read_to_string(&kubeconfig).unwrap();
        fs::write(&kubeconfig, text.replace(api.address(), &format!("https://{}", link.address))).unwrap();
        let proxy = KubeProxy::start_at(installation.service.address()).await;
        let (load, started) = (Arc::new(Load::new(history, &installation.settings(), api.admin())), AtomicU64::new(0));
        let mut cluster = Self { api, installation, kubeconfig, link, proxy, replicas: Vec::new(), load, started };
        cluster.refill().await;
        cluster.installation.activate(&cluster.api.admin(), &cluster.replicas[0]).await;
        cluster
    }

    /// Starts replicas until there are two, and tells kube-proxy.
    async fn refill(&mut self) {
        self.update_endpoints();
        while self.replicas.len() < 2 {
            let name = format!("nicplug-{}", self.started.fetch_add(1, Ordering::Relaxed));
            let program = Path::new(env!("CARGO_BIN_EXE_nicplug"));
            let replica = self.installation.start_replica(program, &self.kubeconfig, &name, &FLAGS).await;
            // Without a certificate in the Secret it waits for the leader, who may wait for a new CA to spread.
            until("the replica is ready", async || replica.is_ready().await.then_some(())).await;
            self.replicas.push(replica);
            self.update_endpoints();
        }
    }

    fn update_endpoints(&self) {
        self.proxy.set_replicas(&self.replicas);
    }

    /// Lets a fault happen, and ends it.
    async fn suffer(&mut self, fault: Fault, random: &mut fastrand::Rng) {
        self.load.begin_fault(fault);
        match fault {
            Fault::OneReplicaKilled => {
                // By SIGKILL. kube-proxy learns of it later.
                drop(self.replicas.remove(random.usize(0..2)));
                self.load.wait_for_requests(20).await;
                self.refill().await;
            }
            Fault::BothReplicasKilled => {
                self.replicas.clear();
                self.load.wait_for_requests(20).await;
                self.refill().await;
            }
            Fault::ReplicaTerminated => {
                let replica = self.replicas.remove(random.usize(0..2));
                self.update_endpoints();
                replica.stop().await;
                self.refill().await;
            }
            Fault::ApiServerKilled | Fault::ApiServerRestarted => {
                if fault == Fault::ApiServerKilled {
                    self.api.kill().await;
                    self.load.is_ready.store(false, Ordering::Relaxed);
                } else {
                    // It ends in order when no new requests come.
                    self.load.is_ready.store(false, Ordering::Relaxed);
                    self.api.stop().await;
                }
                self.api.start_again().await;
                self.load.is_ready.store(true, Ordering::Relaxed);
            }
            Fault::ReplicasCutOff => {
                // The API server goes on to call them.
                self.link.cut(true);
                self.load.wait_for_requests(200).await;
                self.link.cut(false);
            }
            Fault::CertificateRenewed => self.renew(&["tls.crt", "tls.key"]).await,
            Fault::CaRenewed => self.renew(&["ca.key", "tls.crt", "tls.key"]).await,
        }
        for replica in &self.replicas {
            until("each replica is ready and its facts are current", async || {
                let is_current = !replica.page("/readyz?verbose").await.contains("stale for");
                (is_current && replica.is_ready().await).then_some(())
            })
            .await;
        }
        self.load.end_fault();
    }

    /// Removes keys from the Secret, and waits until nicplug has written a new certificate.
    async fn renew(&self, keys: &[&str]) {
        let secrets: Api<Secret> = Api::namespaced(self.api.admin(), NAMESPACE);
        let data: serde_json::Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
        secrets.patch(SECRET, &PatchParams::default(), &Patch::Merge(json!({ "data": data }))).await.unwrap();
        until("there is a new certificate", async || {
            let data = secrets.get(SECRET).await.ok()?.data.unwrap_or_default();
            let is_written = |key: &&str| data.get(*key).is_some_and(|value| !value.0.is_empty());
            keys.iter().all(is_written).then_some(())
        })
        .await;
    }
}

// === NICs to persist ===

/// Creates a running VM with one NIC.
async fn start_vm(api: &ApiServer, double: &KubeVirtDouble, namespace: &str, name: &str) {
    requests::create(&api.admin(), Kind::Vm, namespace, &vm().named(name).build(), Run::Real).await.granted();
    double.start_vm(name).await;
    double.report_condition(name, json!({"type": "LiveMigratable", "status": "True"})).await;
}

/// Plugs a NIC into a guest, which nicplug is to persist.
async fn plug_to_persist(controller: &Client, namespace: &str, name: &str) {
    let guest = vm().nic("kept", "static").guest();
    let devices = &guest["domain"]["devices"];
    let patch = json!({"metadata": {"annotations": {PERSIST: "kept"}}, "spec": {"networks": guest["networks"],
        "domain": {"devices": {"interfaces": devices["interfaces"]}}}});
    requests::change(controller, Kind::Vmi, namespace, name, Change::Merge(patch), Run::Real).await.granted();
}

async fn get(admin: &Client, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
    let path = format!("{}/{name}", kind.path(namespace));
    let response = try_send(admin, Method::GET, &path, "", "").await.ok()?;
    response.is_ok().then_some(response.body)
}

fn template_nics(vm: &Value) -> Vec<&str> {
    let interfaces = vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"].as_array().unwrap();
    interfaces.iter().map(|interface| interface["name"].as_str().unwrap()).collect()
}

/// Returns how many Events report the persisted NIC of each VM.
async fn persist_events(admin: &Client, namespace: &str) -> BTreeMap<String, usize> {
    let events: Api<Event> = Api::namespaced(admin.clone(), namespace);
    let mut counts = BTreeMap::new();
    for event in events.list(&ListParams::default()).await.unwrap() {
        if event.reason.as_deref() == Some("InterfacePersisted") {
            *counts.entry(event.regarding.unwrap().name.unwrap()).or_default() += 1;
        }
    }
    counts
}

// === The run ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_cause_no_wrong_verdict_and_each_nic_is_persisted_once_with_one_event() {
    let Some(api) = ApiServer::start().await else { return };
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let (seconds, seed) = (number("CHAOS_SECONDS"), number("CHAOS_SEED").unwrap_or(14));
    let mut random = fastrand::Rng::with_seed(seed);
    let (admin, namespace) = (api.admin(), api.namespace("chaos").await);
    let controller = api.service_account("kubevirt", "kubevirt-controller");
    requests::create(&admin, Kind::Nad, &namespace, &nad("static"), Run::Real).await.granted();
    let mut cluster = Cluster::start(api).await;
    let double = KubeVirtDouble::start(&cluster.api, &namespace);
    let load = Arc::clone(&cluster.load);
    let clients = load.begin(seed);

    let begin = Instant::now();
    let mut durations: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
    let mut persisted = BTreeMap::new();
    let is_over = |count: usize| match seconds {
        Some(seconds) => begin.elapsed() >= Duration::from_secs(seconds),
        None => count >= FAULTS,
    };
    while !is_over(persisted.len()) {
        let fault = match seconds {
            None => Fault::FREQUENT[persisted.len()],
            Some(_) if random.u8(0..20) == 0 => Fault::CaRenewed,
            Some(_) => Fault::FREQUENT[random.usize(0..7)],
        };
        let name = format!("vm-{}", persisted.len());
        start_vm(&cluster.api, &double, &namespace, &name).await;
        let generation = |vm: &Value| vm["metadata"]["generation"].as_i64().unwrap();
        let before = generation(&get(&admin, Kind::Vm, &namespace, &name).await.unwrap());
        plug_to_persist(&controller, &namespace, &name).await;
        // The fault meets the writes of the leader at another step each time.
        sleep(Duration::from_millis(random.u64(0..300))).await;
        let start = Instant::now();
        cluster.suffer(fault, &mut random).await;
        until("the NIC is persisted", async || {
            let vmi = get(&admin, Kind::Vmi, &namespace, &name).await?;
            vmi["metadata"]["annotations"][PERSIST].is_null().then_some(())
        })
        .await;
        let healed = start.elapsed();
        durations.entry(fault).or_default().push(healed);
        println!("{:>6.1?} {fault:?}: all well after {healed:.1?}", begin.elapsed());
        persisted.insert(name, before);

        load.wait_for_current_facts().await;
    }
    let counts = load.end(clients).await;

    for (name, before) in &persisted {
        let vm = get(&admin, Kind::Vm, &namespace, name).await.unwrap();
        assert_eq!(template_nics(&vm), ["default", "kept"], "{name}");
        assert_eq!(vm["metadata"]["generation"].as_i64().unwrap(), before + 1, "{name}: the template was written once");
    }
    let events = persist_events(&admin, &namespace).await;
    let expected: BTreeMap<String, usize> = persisted.keys().map(|name| (name.clone(), 1)).collect();
    assert_eq!(events, expected, "each NIC has one Event");
    println!("seed {seed}: {} faults in {:.0?}", persisted.len(), begin.elapsed());
    for (fault, durations) in &durations {
        let longest = durations.iter().max().unwrap();
        println!("  {fault:?}: {}, all well after {longest:.1?} at most", durations.len());
    }
    println!("{counts}");
    println!("{} changes of facts", load.history.changes());
    println!("{} NICs persisted, each by one write and with one Event", persisted.len());
    assert!(counts.wrong.is_empty(), "{} answers are wrong; the first: {}", counts.wrong.len(), counts.wrong[0]);
    assert!(counts.depending > 0);
}
