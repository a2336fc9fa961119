//! Replicas start and stop under load, behind a double of kube-proxy that learns of it late.
//!
//! No test waits for a time to pass. A replica that gets SIGTERM has a grace period of an hour, which a second signal
//! ends after the event that the test waits for.

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
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use support::{
    api_server::{
        self,
        crds::Kind,
        requests::{self, Run},
        service::Service,
        webhooks::{FailurePolicy, Registration},
    },
    builders::bare_vm,
    client::{ClientPool, IDLE, LOCALHOST},
    kube_proxy::KubeProxy,
    replica::Replica,
    wait::{eventually, guarded},
};
use tokio::task::JoinSet;

// === Replicas ===

/// Replicas with one certificate behind one address.
struct ReplicaSet {
    proxy: KubeProxy,
    replicas: Vec<Replica>,
    flags: Vec<&'static str>,
}

impl ReplicaSet {
    /// Starts this many replicas with further flags, behind an address of 127.0.0.1.
    async fn start(count: usize, flags: &[&'static str]) -> Self {
        let flags = Self::flags(flags);
        let first = Replica::start(&flags).await;
        Self::behind(KubeProxy::start().await, first, flags, count).await
    }

    /// Starts this many replicas with further flags, behind the ClusterIP of a Service.
    async fn start_on(service: &Service, count: usize, flags: &[&'static str]) -> Self {
        let flags = Self::flags(flags);
        let first = Replica::start_behind(service, &flags).await;
        Self::behind(KubeProxy::start_at(service.address()).await, first, flags, count).await
    }

    fn flags(further: &[&'static str]) -> Vec<&'static str> {
        [&["--facts", "none", "--drain-grace", "1h", "--drain-deadline", "1h"], further].concat()
    }

    async fn behind(proxy: KubeProxy, first: Replica, flags: Vec<&'static str>, count: usize) -> Self {
        let mut set = Self { proxy, replicas: vec![first], flags };
        set.update_endpoints();
        while set.replicas.len() < count {
            set.add().await;
        }
        set
    }

    /// Starts one more replica. It gets connections when it is ready.
    async fn add(&mut self) {
        let replica = self.replicas[0].another(&self.flags).await;
        self.replicas.push(replica);
        self.update_endpoints();
    }

    /// Ends a replica as Kubernetes does: it gets SIGTERM, and kube-proxy learns of that later, so that new connections
    /// still arrive.
    async fn terminate(&mut self, index: usize) {
        let replica = self.replicas.remove(index);
        let address = replica.address();
        replica.terminate();
        eventually("the replica is not ready any more", async || (!replica.is_ready().await).then_some(())).await;
        let before = self.proxy.traffic(address).opened;
        let still_arrive = || self.proxy.traffic(address).opened >= before + 3;
        eventually("new connections still arrive", async || still_arrive().then_some(())).await;
        self.update_endpoints();
        let is_free = || self.proxy.traffic(address).open == 0;
        eventually("all clients have left the replica", async || is_free().then_some(())).await;
        replica.stop().await;
    }

    /// Tells kube-proxy which replicas there are.
    fn update_endpoints(&self) {
        self.proxy.set_replicas(&self.replicas);
    }
}

// === Clients ===

/// Clients that send requests without a pause, also after a failure, and retry none.
struct Load {
    results: Arc<Results>,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Results {
    is_over: AtomicBool,
    answered: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
}

#[derive(Debug)]
struct Failure {
    began: Instant,
    ended: Instant,
    message: String,
}

impl Load {
    fn begin<F: Future<Output = Result<(), String>> + Send>(
        workers: usize,
        send: impl Fn() -> F + Clone + Send + 'static,
    ) -> Self {
        let mut load = Self { results: Arc::default(), workers: JoinSet::new() };
        for _ in 0..workers {
            let (results, send) = (Arc::clone(&load.results), send.clone());
            load.workers.spawn(async move {
                while !results.is_over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    match send().await {
                        Ok(()) => drop(results.answered.fetch_add(1, Ordering::Relaxed)),
                        Err(message) => {
                            results.failures.lock().unwrap().push(Failure { began, ended: Instant::now(), message });
                        }
                    }
                }
            });
        }
        load
    }

    /// Waits until this many more requests have been answered.
    async fn wait_for_more(&self, count: usize) {
        let answered = || self.results.answered.load(Ordering::Relaxed);
        let enough = answered() + count;
        eventually("more requests are answered", async || (answered() >= enough).then_some(())).await;
    }

    /// Stops the clients; returns how many requests were answered, and the failures.
    async fn end(self) -> (usize, Vec<Failure>) {
        self.results.is_over.store(true, Ordering::Relaxed);
        self.workers.join_all().await;
        let failures = std::mem::take(&mut *self.results.failures.lock().unwrap());
        (self.results.answered.load(Ordering::Relaxed), failures)
    }
}

// === Graceful ends ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_rolling_updates_each_with_a_scale_down_fail_no_request() {
    guarded(async {
        // With limited connections every replica has some when it ends.
        let mut set = ReplicaSet::start(2, &["--max-connection-requests", "100"]).await;
        let pool = Arc::new(ClientPool::new(set.proxy.address, LOCALHOST, set.replicas[0].ca()));
        let load = Load::begin(IDLE, move || {
            let pool = Arc::clone(&pool);
            async move { pool.send_review().await }
        });
        for _ in 0..20 {
            // As the chart configures it: maxSurge 1, maxUnavailable 0.
            for _ in 0..2 {
                set.add().await;
                set.terminate(0).await;
            }
            set.add().await;
            load.wait_for_more(10 * IDLE).await;
            set.terminate(2).await;
        }
        let (answered, failures) = load.end().await;
        assert!(failures.is_empty(), "{} of {answered}: {failures:?}", failures.len());
    })
    .await;
}

// === Kills ===

/// The measurement of docs/runbook.md, "A replica dies": run it with `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_fails_only_the_requests_that_are_sent_to_it_before_kube_proxy_learns_of_it() {
    guarded(async {
        let Some(api) = api_server::shared().await else { return };
        for (connections, flags) in [("kept", &[][..]), ("renewed", &["--max-connection-requests", "10"])] {
            let namespace = api.namespace("killed").await;
            let service = Service::create(api, &namespace).await;
            let mut set = ReplicaSet::start_on(&service, 3, flags).await;
            Registration::install(api, &service, &set.replicas[0].ca(), FailurePolicy::Fail).await;
            let (admin, vmi) = (api.admin(), Arc::new(bare_vm("vm").build_vmi()));
            let load = Load::begin(8, move || {
                let (admin, vmi, namespace) = (admin.clone(), Arc::clone(&vmi), namespace.clone());
                async move {
                    let response = requests::create(&admin, Kind::Vmi, &namespace, &vmi, Run::Dry).await;
                    if response.is_ok() { Ok(()) } else { Err(response.message().to_owned()) }
                }
            });
            load.wait_for_more(200).await;
            let killed = kill(&mut set, &load).await;
            load.wait_for_more(200).await;
            killed.check(connections, load).await;
        }
    })
    .await;
}

/// A replica that was killed.
struct Killed {
    at: Instant,
    /// When kube-proxy knew it and no connection to the replica was left.
    known: Instant,
    /// How many connections were open.
    open: usize,
    /// How many connections were opened afterwards.
    late: usize,
}

/// Kills a replica, and tells kube-proxy after 200 more requests.
async fn kill(set: &mut ReplicaSet, load: &Load) -> Killed {
    let replica = set.replicas.remove(0);
    let address = replica.address();
    let before = set.proxy.traffic(address);
    let at = Instant::now();
    // By SIGKILL.
    drop(replica);
    load.wait_for_more(200).await;
    set.update_endpoints();
    let is_free = || set.proxy.traffic(address).open == 0;
    eventually("no client is connected to it", async || is_free().then_some(())).await;
    let late = set.proxy.traffic(address).opened - before.opened;
    Killed { at, known: Instant::now(), open: before.open, late }
}

impl Killed {
    async fn check(self, connections: &str, load: Load) {
        let (answered, failures) = load.end().await;
        for failure in &failures {
            assert!(failure.message.contains("failed calling webhook"), "{failure:?}");
            assert!(failure.ended >= self.at && failure.began <= self.known, "{failure:?}");
        }
        // A connection has one request at a time.
        assert!(failures.len() <= self.open + self.late, "{failures:?}");
        let last = failures.iter().map(|failure| failure.ended - self.at).max().unwrap_or_default();
        println!(
            "connections {connections}: {} of {} failed, the last one {last:?} after the kill; {} were open, {} were \
             opened to it in the {:?} until kube-proxy knew it",
            failures.len(),
            answered + failures.len(),
            self.open,
            self.late,
            self.known - self.at,
        );
        if let Some(first) = failures.first() {
            println!("{}", first.message);
        }
    }
}
