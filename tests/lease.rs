//! On a real API server: who leads, until when, and who comes next.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod cluster_support;

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cluster_support::{
    LONG,
    apiserver::{self, ApiServer},
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use nicplug::controllers::leader_election::{LeaderElector, Timings};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

const NAME: &str = "nicplug-persist";

/// Short, so that the tests are.
const TIMINGS: Timings =
    Timings { lease: Duration::from_secs(2), renew: Duration::from_millis(1500), retry: Duration::from_millis(100) };

/// A replica that stands for election, and counts who works at once.
struct Replica {
    leads: watch::Receiver<bool>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// How many work now, and how many did at most.
#[derive(Clone, Default)]
struct Workers(Arc<(AtomicUsize, AtomicUsize)>);

/// One that works, until it is dropped.
struct Worker(Workers);

impl Workers {
    fn begin(&self) -> Worker {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        Worker(self.clone())
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }

    fn now(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Replica {
    fn start(client: Client, namespace: &str, identity: &str, workers: &Workers) -> Self {
        let candidate = LeaderElector::new(client, namespace, NAME, identity, TIMINGS);
        let leads = candidate.is_leader();
        let (stop, stopped) = oneshot::channel();
        let workers = workers.clone();
        let work = move || {
            let worker = workers.begin();
            async move {
                let _worker = worker;
                future::pending().await
            }
        };
        let task = tokio::spawn(candidate.run(work, async {
            let _ = stopped.await;
        }));
        Self { leads, stop: Some(stop), task }
    }

    async fn wait(&mut self, leads: bool) {
        timeout(LONG, self.leads.wait_for(|is| *is == leads)).await.expect("it comes to that").unwrap();
    }

    /// Ends it in order.
    async fn stop(&mut self) {
        self.stop.take();
        timeout(LONG, &mut self.task).await.expect("it ends").unwrap();
    }
}

async fn holder(api: &ApiServer, namespace: &str) -> String {
    let leases: Api<Lease> = Api::namespaced(api.admin(), namespace);
    leases.get(NAME).await.unwrap().spec.unwrap().holder_identity.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_at_a_time_and_who_leaves_lets_the_next_one_in_at_once() {
    let Some(api) = apiserver::shared().await else { return };
    let namespace = api.namespace("lease").await;
    let workers = Workers::default();
    let mut a = Replica::start(api.admin(), &namespace, "a", &workers);
    a.wait(true).await;
    let mut b = Replica::start(api.admin(), &namespace, "b", &workers);
    assert_eq!(holder(api, &namespace).await, "a");
    assert!(!*b.leads.borrow());
    a.stop().await;
    b.wait(true).await;
    assert_eq!(holder(api, &namespace).await, "b");
    b.stop().await;
    assert_eq!(holder(api, &namespace).await, "", "it was given back");
    assert_eq!((workers.most(), workers.now()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_killed_is_followed_when_its_time_is_over() {
    let Some(api) = apiserver::shared().await else { return };
    let namespace = api.namespace("lease").await;
    let workers = Workers::default();
    let mut a = Replica::start(api.admin(), &namespace, "a", &workers);
    a.wait(true).await;
    let mut b = Replica::start(api.admin(), &namespace, "b", &workers);
    a.task.abort();
    b.wait(true).await;
    let leases: Api<Lease> = Api::namespaced(api.admin(), &namespace);
    let spec = leases.get(NAME).await.unwrap().spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(1)));
    assert_eq!(workers.most(), 1);
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_robbed_stops_and_takes_it_back_when_it_may() {
    let Some(api) = apiserver::shared().await else { return };
    let namespace = api.namespace("lease").await;
    let workers = Workers::default();
    let mut a = Replica::start(api.admin(), &namespace, "a", &workers);
    a.wait(true).await;
    let leases: Api<Lease> = Api::namespaced(api.admin(), &namespace);
    let thief = serde_json::json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 1}});
    leases.patch(NAME, &PatchParams::default(), &Patch::Merge(thief)).await.unwrap();
    a.wait(false).await;
    a.wait(true).await;
    assert_eq!(holder(api, &namespace).await, "a");
    a.stop().await;
    assert_eq!(workers.now(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_nobody_leads_and_with_it_somebody_does_again() {
    let Some(mut api) = ApiServer::start().await else { return };
    let namespace = api.namespace("lease").await;
    let workers = Workers::default();
    let mut a = Replica::start(api.admin(), &namespace, "a", &workers);
    a.wait(true).await;
    api.stop().await;
    a.wait(false).await;
    assert_eq!(workers.now(), 0, "the work has ended with the time in office");
    api.start_again().await;
    a.wait(true).await;
    a.stop().await;
    assert_eq!(holder(&api, &namespace).await, "");
}
