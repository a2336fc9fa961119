//! Certificates are renewed, and nobody notices: 0 failed requests.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod certificate_support;
mod clients;
mod cluster_support;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use certificate_support::{DAY, Replica, SECRET, Scene, certificates};
use clients::Client;
use cluster_support::{
    crds::Kind,
    eventually,
    request::{self, Run},
};
use futures_util::StreamExt;
use kube::{api::DeleteParams, runtime::watcher::watch_object};
use nicplug::certificates::chain::Certificate;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::timeout};

const CLIENTS: usize = 25;

/// A guard against hanging; no test depends on how long it is.
async fn guarded<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(5), Box::pin(test)).await.expect("the awaited event never came")
}

/// Three replicas of which one leads by a Lease, behind both addresses.
async fn replicas(scene: &Scene) -> [Replica; 3] {
    let replicas = [scene.candidate("a").await, scene.candidate("b").await, scene.candidate("c").await];
    let addresses = replicas.each_ref().map(|replica| replica.address);
    scene.validate.set(&addresses);
    scene.mutate.set(&addresses);
    all_show(scene, &replicas, None).await;
    replicas
}

/// Waits until all replicas show one certificate that both webhooks trust, and which is not `but`.
async fn all_show(scene: &Scene, replicas: &[Replica; 3], but: Option<&Certificate>) -> Certificate {
    let shown = scene.until_shown(&replicas[0], but).await;
    for replica in &replicas[1..] {
        scene
            .until("all show the same", async || (scene.shown(replica).await.as_ref() == Some(&shown)).then_some(()))
            .await;
    }
    shown
}

// === Twenty-five clients that have the time of the replicas ===

/// What all clients share.
struct Crowd {
    /// The `caBundle` as the watch of an API server has it.
    trust: watch::Receiver<String>,
    /// Counted up: each client opens a new connection for its next request.
    round: watch::Sender<usize>,
    /// Whether clients open new connections by themselves besides.
    restless: AtomicBool,
    stop: AtomicBool,
    answered: AtomicUsize,
}

/// Asks without a pause, and gives how often it opened a connection.
async fn keep_asking(mut client: Client, crowd: Arc<Crowd>, arrived: Arc<AtomicUsize>) -> Result<usize, String> {
    let mut round = crowd.round.subscribe();
    let mut count = 0_usize;
    while !crowd.stop.load(Ordering::Relaxed) {
        let is_new_round = round.has_changed().unwrap();
        if is_new_round {
            round.mark_unchanged();
        }
        if is_new_round || (crowd.restless.load(Ordering::Relaxed) && count % 50 == 49) {
            client.leave();
        }
        let authorities = crowd.trust.borrow().clone();
        client.ask(&authorities).await?;
        count += 1;
        crowd.answered.fetch_add(1, Ordering::Relaxed);
        if is_new_round {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(client.opened)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_five_connections_see_a_new_leaf_a_new_authority_a_lost_secret_and_another_year_and_no_failure() {
    guarded(async {
        let Some(scene) = Scene::open("load").await else { return };
        let replicas = replicas(&scene).await;
        let mut shown = all_show(&scene, &replicas, None).await;

        let (trusted, trust) = watch::channel(scene.bundles().await[0].clone());
        let mut tasks = JoinSet::new();
        let mut webhooks = Box::pin(watch_object(scene.validating(), scene.webhooks()));
        tasks.spawn(async move {
            while let Some(news) = webhooks.next().await {
                let Ok(Some(configuration)) = news else { continue };
                let bundle = configuration.webhooks.unwrap().remove(0).client_config.ca_bundle;
                trusted.send_replace(String::from_utf8(bundle.unwrap_or_default().0).unwrap());
            }
        });
        let crowd = Arc::new(Crowd {
            trust,
            round: watch::Sender::default(),
            restless: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
        });
        let arrived = Arc::<AtomicUsize>::default();
        let mut load = JoinSet::new();
        for _ in 0..CLIENTS {
            let client = Client::new(scene.validate.address, &scene.time);
            load.spawn(keep_asking(client, Arc::clone(&crowd), Arc::clone(&arrived)));
        }
        // Each client opens a new connection, with what is shown and trusted now, and is answered.
        let everybody_comes_back = async || {
            arrived.store(0, Ordering::Relaxed);
            crowd.round.send_modify(|round| *round += 1);
            eventually("all clients are back", async || (arrived.load(Ordering::Relaxed) == CLIENTS).then_some(()))
                .await;
        };
        let both_authorities_are_heard_of = async |count: usize| {
            scene
                .until("the watch has brought all authorities", async || {
                    let is_published = scene.bundles().await.iter().all(|text| certificates(text).len() == count);
                    (is_published && certificates(&crowd.trust.borrow()).len() == count).then_some(())
                })
                .await;
            // So long it may take in a cluster; here it was waited for.
            scene.time.go(Duration::from_secs(61));
        };

        // Leaves: at 61, 122 and 183 days.
        for _ in 0..3 {
            scene.time.go(61 * DAY);
            shown = all_show(&scene, &replicas, Some(&shown)).await;
            everybody_comes_back().await;
        }
        // The authority: at 243 days. The leaf is due as well, and waits for it.
        let first = certificates(&scene.bundles().await[0]);
        scene.time.go(61 * DAY);
        both_authorities_are_heard_of(2).await;
        shown = all_show(&scene, &replicas, Some(&shown)).await;
        assert!(!shown.is_signed_by(&first[0]));
        everybody_comes_back().await;

        scene.secrets().delete(SECRET, &DeleteParams::default()).await.unwrap();
        both_authorities_are_heard_of(3).await;
        shown = all_show(&scene, &replicas, Some(&shown)).await;
        everybody_comes_back().await;

        // A year later all has expired, and a new connection would fail until it is made anew; those that are open do not.
        crowd.restless.store(false, Ordering::Relaxed);
        everybody_comes_back().await;
        scene.time.go(365 * DAY);
        all_show(&scene, &replicas, Some(&shown)).await;
        scene
            .until("the watch has brought the new authority", async || {
                (*crowd.trust.borrow() == scene.bundles().await[0]).then_some(())
            })
            .await;
        everybody_comes_back().await;

        crowd.stop.store(true, Ordering::Relaxed);
        let opened: Vec<usize> = load.join_all().await.into_iter().map(|end| end.expect("no request fails")).collect();
        let answered = crowd.answered.load(Ordering::Relaxed);
        assert!(opened.iter().all(|opened| *opened >= 7), "{opened:?}");
        assert!(answered >= 7 * CLIENTS, "{answered}");
    })
    .await;
}

// === The API server itself ===

/// A VM without NICs, which is judged and not stored.
async fn create(scene: &Scene) -> request::Answer {
    let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "vm"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}});
    request::create(&scene.api.admin(), Kind::Vm, &scene.namespace, &vm, Run::Dry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_creates_machines_all_the_time_sees_no_failure_over_any_renewal() {
    guarded(async {
        let Some(scene) = Scene::open("renewals").await else { return };
        let scene = Arc::new(scene);
        let replicas = replicas(&scene).await;
        let mut shown = all_show(&scene, &replicas, None).await;
        // It has heard of the webhooks and of their authority when both were called with success.
        eventually("both webhooks are called", async || {
            let was_granted = create(&scene).await.is_ok();
            (was_granted && scene.validate.accepted() > 0 && scene.mutate.accepted() > 0).then_some(())
        })
        .await;

        let (stop, created) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut load = JoinSet::new();
        for _ in 0..4 {
            let (scene, stop, created) = (Arc::clone(&scene), Arc::clone(&stop), Arc::clone(&created));
            load.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    create(&scene).await.granted();
                    created.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // A new bundle is used with new connections: so it is seen that the API server has heard of it.
        let heard_of = async |count: usize, before: (usize, usize)| {
            scene
                .until("the API server has heard of all authorities", async || {
                    let is_published = scene.bundles().await.iter().all(|text| certificates(text).len() == count);
                    let is_heard = scene.validate.accepted() > before.0 && scene.mutate.accepted() > before.1;
                    (is_published && is_heard).then_some(())
                })
                .await;
            let enough = created.load(Ordering::Relaxed) + 8;
            eventually("more are created", async || (created.load(Ordering::Relaxed) >= enough).then_some(())).await;
            scene.time.go(Duration::from_secs(61));
        };
        let accepted = || (scene.validate.accepted(), scene.mutate.accepted());

        // A new leaf of the same authority.
        scene.take_out(&["tls.crt", "tls.key"]).await;
        shown = all_show(&scene, &replicas, Some(&shown)).await;
        // A new authority, and then a leaf of it.
        let before = accepted();
        scene.take_out(&["ca.key", "tls.crt", "tls.key"]).await;
        heard_of(2, before).await;
        shown = all_show(&scene, &replicas, Some(&shown)).await;
        // All of it.
        let before = accepted();
        scene.secrets().delete(SECRET, &DeleteParams::default()).await.unwrap();
        heard_of(3, before).await;
        all_show(&scene, &replicas, Some(&shown)).await;
        // Some more with what is shown now.
        let enough = created.load(Ordering::Relaxed) + 20;
        eventually("twenty more are created", async || (created.load(Ordering::Relaxed) >= enough).then_some(())).await;
        stop.store(true, Ordering::Relaxed);
        load.join_all().await;
    })
    .await;
}
