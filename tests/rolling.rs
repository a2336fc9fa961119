//! Replicas come and go under load: the built program behind an address that hears late of what has become of it.
//!
//! No test waits for a time to pass. A replica that is told to end has an hour of grace, and a second signal ends that
//! when the test has seen what it waits for.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "these are tests"
)]

mod clients;
mod cluster_support;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use clients::{Balancer, IDLE, Pool};
use cluster_support::{
    apiserver,
    crds::Kind,
    eventually,
    request::{self, Run},
    webhook::{FailurePolicy, Webhook},
};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

/// A guard against hanging; no test depends on how long it is.
async fn guarded<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(15), Box::pin(test)).await.expect("the awaited event never came")
}

// === Who answers ===

/// Replicas with one certificate behind one address.
struct Service {
    balancer: Balancer,
    replicas: Vec<Webhook>,
    flags: Vec<&'static str>,
}

impl Service {
    /// Starts so many, each with these flags besides.
    async fn start(count: usize, flags: &[&'static str]) -> Self {
        let flags = [&["--facts", "none", "--drain-grace", "1h", "--drain-deadline", "1h"], flags].concat();
        let first = Webhook::start(&flags).await;
        let mut service = Self { balancer: Balancer::start().await, replicas: vec![first], flags };
        service.hear();
        while service.replicas.len() < count {
            service.add().await;
        }
        service
    }

    /// Starts a replica more. Connections come to it when it is ready.
    async fn add(&mut self) {
        let replica = self.replicas[0].replica(&self.flags).await;
        self.replicas.push(replica);
        self.hear();
    }

    /// Ends a replica as Kubernetes does: it is told to end, and the news of it travels more slowly than connections.
    async fn retire(&mut self, index: usize) {
        let replica = self.replicas.remove(index);
        let address = address(&replica);
        replica.terminate();
        eventually("it is not ready any more", async || (!replica.is_ready().await).then_some(())).await;
        let before = self.balancer.traffic(address).opened;
        let still_come = || self.balancer.traffic(address).opened >= before + 3;
        eventually("new connections still come to it", async || still_come().then_some(())).await;
        self.hear();
        let has_left = || self.balancer.traffic(address).open == 0;
        eventually("every client has left it", async || has_left().then_some(())).await;
        replica.stop().await;
    }

    /// The address hears of what replicas there are.
    fn hear(&self) {
        self.balancer.set(&self.replicas.iter().map(address).collect::<Vec<_>>());
    }
}

fn address(replica: &Webhook) -> SocketAddr {
    replica.address().parse().unwrap()
}

// === Who asks ===

/// Clients that ask without a pause, whatever is answered, and repeat nothing.
struct Load {
    ledger: Arc<Ledger>,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Ledger {
    is_over: AtomicBool,
    answered: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
}

#[derive(Debug)]
struct Failure {
    began: Instant,
    ended: Instant,
    words: String,
}

impl Load {
    fn begin<F: Future<Output = Result<(), String>> + Send>(
        workers: usize,
        ask: impl Fn() -> F + Clone + Send + 'static,
    ) -> Self {
        let mut load = Self { ledger: Arc::default(), workers: JoinSet::new() };
        for _ in 0..workers {
            let (ledger, ask) = (Arc::clone(&load.ledger), ask.clone());
            load.workers.spawn(async move {
                while !ledger.is_over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    match ask().await {
                        Ok(()) => drop(ledger.answered.fetch_add(1, Ordering::Relaxed)),
                        Err(words) => {
                            ledger.failures.lock().unwrap().push(Failure { began, ended: Instant::now(), words });
                        }
                    }
                }
            });
        }
        load
    }

    /// Waits until so many more are answered.
    async fn go_on(&self, count: usize) {
        let answered = || self.ledger.answered.load(Ordering::Relaxed);
        let enough = answered() + count;
        eventually("more is answered", async || (answered() >= enough).then_some(())).await;
    }

    /// How many were answered, and what failed.
    async fn end(self) -> (usize, Vec<Failure>) {
        self.ledger.is_over.store(true, Ordering::Relaxed);
        self.workers.join_all().await;
        let failures = std::mem::take(&mut *self.ledger.failures.lock().unwrap());
        (self.ledger.answered.load(Ordering::Relaxed), failures)
    }
}

// === Whoever ends says goodbye ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_rolling_updates_with_a_scale_down_after_each_fail_no_request() {
    guarded(async {
        // Connections that end spread over all replicas, so that each which is to go has some.
        let mut service = Service::start(2, &["--max-connection-requests", "100"]).await;
        let pool = Arc::new(Pool::new(service.balancer.address, service.replicas[0].authority()));
        let load = Load::begin(IDLE, move || {
            let pool = Arc::clone(&pool);
            async move { pool.ask().await }
        });
        for _ in 0..20 {
            // As the chart has it: one more than is wanted while an old one goes, and never one less.
            for _ in 0..2 {
                service.add().await;
                service.retire(0).await;
            }
            service.add().await;
            load.go_on(10 * IDLE).await;
            service.retire(2).await;
        }
        let (answered, failures) = load.end().await;
        assert!(failures.is_empty(), "{} of {answered}: {failures:?}", failures.len());
    })
    .await;
}

// === Whoever is killed does not ===

/// The measurement of docs/runbook.md, "A replica dies": run it with `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_fails_what_was_on_its_way_and_what_is_still_sent_there_and_nothing_after() {
    guarded(async {
        let Some(api) = apiserver::shared().await else { return };
        for (connections, flags) in [("kept", &[][..]), ("renewed", &["--max-connection-requests", "10"])] {
            let namespace = api.namespace("killed").await;
            let mut service = Service::start(3, flags).await;
            let place = service.balancer.address.to_string();
            service.replicas[0].register_at(&place, api, &namespace, FailurePolicy::Fail).await;
            let (admin, vm) = (api.admin(), Arc::new(vm()));
            let load = Load::begin(8, move || {
                let (admin, vm, namespace) = (admin.clone(), Arc::clone(&vm), namespace.clone());
                async move {
                    let answer = request::create(&admin, Kind::Vm, &namespace, &vm, Run::Dry).await;
                    if answer.is_ok() { Ok(()) } else { Err(answer.message().to_owned()) }
                }
            });
            load.go_on(200).await;
            let killed = kill(&mut service, &load).await;
            load.go_on(200).await;
            killed.judge(connections, load).await;
        }
    })
    .await;
}

/// What happened to one that was killed.
struct Killed {
    at: Instant,
    /// When the address had heard of it, and nobody was connected to it any more.
    heard: Instant,
    /// Connections that were open.
    open: usize,
    /// Connections that were sent there afterwards.
    late: usize,
}

/// Kills a replica, and lets the address hear of it when 200 more requests were answered.
async fn kill(service: &mut Service, load: &Load) -> Killed {
    let dead = service.replicas.remove(0);
    let place = address(&dead);
    let before = service.balancer.traffic(place);
    let at = Instant::now();
    // By SIGKILL.
    drop(dead);
    load.go_on(200).await;
    service.hear();
    let is_free = || service.balancer.traffic(place).open == 0;
    eventually("nobody is connected to it", async || is_free().then_some(())).await;
    let late = service.balancer.traffic(place).opened - before.opened;
    Killed { at, heard: Instant::now(), open: before.open, late }
}

impl Killed {
    async fn judge(self, connections: &str, load: Load) {
        let (answered, failures) = load.end().await;
        for failure in &failures {
            assert!(failure.words.contains("failed calling webhook"), "{failure:?}");
            assert!(failure.ended >= self.at && failure.began <= self.heard, "{failure:?}");
        }
        // Each connection had one call on its way at most.
        assert!(failures.len() <= self.open + self.late, "{failures:?}");
        let last = failures.iter().map(|failure| failure.ended - self.at).max().unwrap_or_default();
        println!(
            "connections {connections}: {} of {} failed, the last one {last:?} after the kill; {} were open, {} were \
             opened to it in the {:?} until the address heard of it",
            failures.len(),
            answered + failures.len(),
            self.open,
            self.late,
            self.heard - self.at,
        );
        if let Some(first) = failures.first() {
            println!("{}", first.words);
        }
    }
}

/// A VM without NICs.
fn vm() -> serde_json::Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "vm"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}})
}
