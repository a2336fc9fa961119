//! Leader election on a real API server.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use nicplug::controllers::leader_election::{LeaderElector, Timings};
use support::{
    api_server::{self, ApiServer},
    wait::LONG,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

const NAME: &str = "nicplug-persist";

/// Short timings, so that the tests are fast.
const TIMINGS: Timings =
    Timings { lease: Duration::from_secs(2), renew: Duration::from_millis(1500), retry: Duration::from_millis(100) };

/// A candidate of the election, whose work is counted while it leads.
struct Elector {
    leads: watch::Receiver<bool>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// How many leaders work now, and how many did at the same time at most.
#[derive(Clone, Default)]
struct Workers(Arc<(AtomicUsize, AtomicUsize)>);

/// A leader that works until this is dropped.
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

impl Elector {
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
        timeout(LONG, self.leads.wait_for(|is| *is == leads)).await.expect("the leadership changes").unwrap();
    }

    /// Ends it gracefully.
    async fn stop(&mut self) {
        self.stop.take();
        timeout(LONG, &mut self.task).await.expect("the elector ends").unwrap();
    }
}

async fn holder(api: &ApiServer, namespace: &str) -> String {
    let leases: Api<Lease> = Api::namespaced(api.admin(), namespace);
    leases.get(NAME).await.unwrap().spec.unwrap().holder_identity.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_leads_at_a_time_and_the_next_one_follows_at_once_when_it_stops() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = api.namespace("lease").await;
    let workers = Workers::default();
    let mut a = Elector::start(api.admin(), &namespace, "a", &workers);
    a.wait(true).await;
    let mut b = Elector::start(api.admin(), &namespace, "b", &workers);
    assert_eq!(holder(api, &namespace).await, "a");
    assert!(!*b.leads.borrow());
    a.stop().await;
    b.wait(true).await;
    assert_eq!(holder(api, &namespace).await, "b");
    b.stop().await;
    assert_eq!(holder(api, &namespace).await, "", "the Lease is released");
    assert_eq!((workers.most(), workers.now()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_when_its_lease_expires() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = api.namespace("lease").await;
    let workers = Workers::default();
    let mut a = Elector::start(api.admin(), &namespace, "a", &workers);
    a.wait(true).await;
    let mut b = Elector::start(api.admin(), &namespace, "b", &workers);
    a.task.abort();
    b.wait(true).await;
    let leases: Api<Lease> = Api::namespaced(api.admin(), &namespace);
    let spec = leases.get(NAME).await.unwrap().spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(1)));
    assert_eq!(workers.most(), 1);
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_loses_its_lease_stops_and_takes_it_back_after_the_expiry() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = api.namespace("lease").await;
    let workers = Workers::default();
    let mut a = Elector::start(api.admin(), &namespace, "a", &workers);
    a.wait(true).await;
    let leases: Api<Lease> = Api::namespaced(api.admin(), &namespace);
    let other = serde_json::json!({"spec": {"holderIdentity": "other", "leaseDurationSeconds": 1}});
    leases.patch(NAME, &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    a.wait(false).await;
    a.wait(true).await;
    assert_eq!(holder(api, &namespace).await, "a");
    a.stop().await;
    assert_eq!(workers.now(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_there_is_no_leader_and_with_it_there_is_one_again() {
    let Some(mut api) = ApiServer::start().await else { return };
    let namespace = api.namespace("lease").await;
    let workers = Workers::default();
    let mut a = Elector::start(api.admin(), &namespace, "a", &workers);
    a.wait(true).await;
    api.stop().await;
    a.wait(false).await;
    assert_eq!(workers.now(), 0, "the work has ended with the term");
    api.start_again().await;
    a.wait(true).await;
    a.stop().await;
    assert_eq!(holder(&api, &namespace).await, "");
}
