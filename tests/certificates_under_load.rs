//! Certificates are renewed under load, and no request fails.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use kube::{api::DeleteParams, runtime::watcher::watch_object};
use nicplug::certificates::chain::Certificate;
use support::{
    api_server::{
        crds::Kind,
        requests::{self, Response, Run},
    },
    builders::bare_vm,
    certificates::{CertificateFixture, DAY, SECRET, SelfSigningReplica, certificates},
    client::Client,
    wait::{eventually, guarded},
};
use tokio::{sync::watch, task::JoinSet};

const CLIENTS: usize = 25;

/// Starts three replicas behind both Services; one of them leads by a Lease.
async fn replicas(fixture: &CertificateFixture) -> [SelfSigningReplica; 3] {
    let replicas = [fixture.candidate("a").await, fixture.candidate("b").await, fixture.candidate("c").await];
    let addresses = replicas.each_ref().map(|replica| replica.address);
    fixture.validate.proxy.set_endpoints(&addresses);
    fixture.mutate.proxy.set_endpoints(&addresses);
    all_serve(fixture, &replicas, None).await;
    replicas
}

/// Waits until all replicas serve the same certificate, which both webhooks trust and which is not `except`.
async fn all_serve(
    fixture: &CertificateFixture,
    replicas: &[SelfSigningReplica; 3],
    except: Option<&Certificate>,
) -> Certificate {
    let served = fixture.until_trusted(&replicas[0], except).await;
    for replica in &replicas[1..] {
        fixture
            .until("all replicas serve the same certificate", async || {
                (fixture.trusted_certificate(replica).await.as_ref() == Some(&served)).then_some(())
            })
            .await;
    }
    served
}

// === Twenty-five clients with the clock of the replicas ===

/// The shared state of all clients.
struct Crowd {
    /// The `caBundle`, as an API server gets it by a watch.
    trust: watch::Receiver<String>,
    /// When this number changes, each client opens a new connection for its next request.
    round: watch::Sender<usize>,
    /// Whether clients open new connections at other times too.
    reconnects: AtomicBool,
    stop: AtomicBool,
    answered: AtomicUsize,
}

/// Sends reviews without a pause and returns how many connections it opened.
async fn send_reviews(mut client: Client, crowd: Arc<Crowd>, arrived: Arc<AtomicUsize>) -> Result<usize, String> {
    let mut round = crowd.round.subscribe();
    let mut count = 0_usize;
    while !crowd.stop.load(Ordering::Relaxed) {
        let is_new_round = round.has_changed().unwrap();
        if is_new_round {
            round.mark_unchanged();
        }
        if is_new_round || (crowd.reconnects.load(Ordering::Relaxed) && count % 50 == 49) {
            client.disconnect();
        }
        let cas = crowd.trust.borrow().clone();
        client.send_review(&cas).await?;
        count += 1;
        crowd.answered.fetch_add(1, Ordering::Relaxed);
        if is_new_round {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(client.opened)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_five_clients_see_no_failure_over_renewals_a_lost_secret_and_a_year_without_requests() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start("load").await else { return };
        let replicas = replicas(&fixture).await;
        let mut served = all_serve(&fixture, &replicas, None).await;

        let (trusted, trust) = watch::channel(fixture.bundles().await[0].clone());
        let mut tasks = JoinSet::new();
        let mut webhooks = Box::pin(watch_object(fixture.validating(), fixture.webhooks()));
        tasks.spawn(async move {
            while let Some(event) = webhooks.next().await {
                let Ok(Some(configuration)) = event else { continue };
                let bundle = configuration.webhooks.unwrap().remove(0).client_config.ca_bundle;
                trusted.send_replace(String::from_utf8(bundle.unwrap_or_default().0).unwrap());
            }
        });
        let crowd = Arc::new(Crowd {
            trust,
            round: watch::Sender::default(),
            reconnects: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
        });
        let arrived = Arc::<AtomicUsize>::default();
        let mut load = JoinSet::new();
        for _ in 0..CLIENTS {
            let service = &fixture.validate.service;
            let client = Client::new(service.address(), &service.host(), &fixture.clock);
            load.spawn(send_reviews(client, Arc::clone(&crowd), Arc::clone(&arrived)));
        }
        // Each client opens a new connection, with the certificate and the bundle of this moment, and gets an answer.
        let all_reconnect = async || {
            arrived.store(0, Ordering::Relaxed);
            crowd.round.send_modify(|round| *round += 1);
            eventually("all clients have reconnected", async || {
                (arrived.load(Ordering::Relaxed) == CLIENTS).then_some(())
            })
            .await;
        };
        let cas_are_known = async |count: usize| {
            fixture
                .until("the clients know all CAs", async || {
                    let is_published = fixture.bundles().await.iter().all(|text| certificates(text).len() == count);
                    (is_published && certificates(&crowd.trust.borrow()).len() == count).then_some(())
                })
                .await;
            // nicplug waits this long for the API servers of a cluster to receive the bundle.
            fixture.clock.advance(Duration::from_secs(61));
        };

        // The serving certificate is renewed at 61, 122 and 183 days.
        for _ in 0..3 {
            fixture.clock.advance(61 * DAY);
            served = all_serve(&fixture, &replicas, Some(&served)).await;
            all_reconnect().await;
        }
        // The CA is renewed at 243 days. The serving certificate is due too, and is renewed after the CA.
        let first = certificates(&fixture.bundles().await[0]);
        fixture.clock.advance(61 * DAY);
        cas_are_known(2).await;
        served = all_serve(&fixture, &replicas, Some(&served)).await;
        assert!(!served.is_signed_by(&first[0]));
        all_reconnect().await;

        fixture.secrets().delete(SECRET, &DeleteParams::default()).await.unwrap();
        cas_are_known(3).await;
        served = all_serve(&fixture, &replicas, Some(&served)).await;
        all_reconnect().await;

        // A year later all certificates have expired. New connections would fail until they are renewed; open ones do
        // not.
        crowd.reconnects.store(false, Ordering::Relaxed);
        all_reconnect().await;
        fixture.clock.advance(365 * DAY);
        all_serve(&fixture, &replicas, Some(&served)).await;
        fixture
            .until("the clients know the new CA", async || {
                (*crowd.trust.borrow() == fixture.bundles().await[0]).then_some(())
            })
            .await;
        all_reconnect().await;

        crowd.stop.store(true, Ordering::Relaxed);
        let opened: Vec<usize> = load.join_all().await.into_iter().map(|end| end.expect("no request fails")).collect();
        let answered = crowd.answered.load(Ordering::Relaxed);
        assert!(opened.iter().all(|opened| *opened >= 7), "{opened:?}");
        assert!(answered >= 7 * CLIENTS, "{answered}");
    })
    .await;
}

// === The API server itself ===

/// Creates a VMI without NICs by a dry run. The API server sends the creation of a VMI to both webhooks.
async fn create(fixture: &CertificateFixture) -> Response {
    let vmi = bare_vm("vm").build_vmi();
    requests::create(&fixture.api.admin(), Kind::Vmi, &fixture.namespace, &vmi, Run::Dry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_creates_guests_all_the_time_sees_no_failure_over_any_renewal() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start("renewals").await else { return };
        let fixture = Arc::new(fixture);
        let replicas = replicas(&fixture).await;
        let mut served = all_serve(&fixture, &replicas, None).await;
        // The API server knows the webhooks and their CA when calls of both succeed.
        eventually("both webhooks are called", async || {
            let was_granted = create(&fixture).await.is_ok();
            (was_granted && fixture.validate.proxy.accepted() > 0 && fixture.mutate.proxy.accepted() > 0).then_some(())
        })
        .await;

        let (stop, created) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut load = JoinSet::new();
        for _ in 0..4 {
            let (fixture, stop, created) = (Arc::clone(&fixture), Arc::clone(&stop), Arc::clone(&created));
            load.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    create(&fixture).await.granted();
                    created.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // The API server opens new connections for a new bundle, which shows that it has received it.
        let received = async |count: usize, before: (usize, usize)| {
            fixture
                .until("the API server has received all CAs", async || {
                    let is_published = fixture.bundles().await.iter().all(|text| certificates(text).len() == count);
                    let is_received =
                        fixture.validate.proxy.accepted() > before.0 && fixture.mutate.proxy.accepted() > before.1;
                    (is_published && is_received).then_some(())
                })
                .await;
            let enough = created.load(Ordering::Relaxed) + 8;
            eventually("more are created", async || (created.load(Ordering::Relaxed) >= enough).then_some(())).await;
            fixture.clock.advance(Duration::from_secs(61));
        };
        let accepted = || (fixture.validate.proxy.accepted(), fixture.mutate.proxy.accepted());

        // A new serving certificate of the same CA, which has been in the bundles for long enough.
        fixture.clock.advance(Duration::from_secs(61));
        fixture.remove_from_secret(&["tls.crt", "tls.key"]).await;
        served = all_serve(&fixture, &replicas, Some(&served)).await;
        // A new CA, and a serving certificate of it.
        let before = accepted();
        fixture.remove_from_secret(&["ca.key", "tls.crt", "tls.key"]).await;
        received(2, before).await;
        served = all_serve(&fixture, &replicas, Some(&served)).await;
        // A new Secret.
        let before = accepted();
        fixture.secrets().delete(SECRET, &DeleteParams::default()).await.unwrap();
        received(3, before).await;
        all_serve(&fixture, &replicas, Some(&served)).await;
        // Some more requests with the last certificate.
        let enough = created.load(Ordering::Relaxed) + 20;
        eventually("twenty more are created", async || (created.load(Ordering::Relaxed) >= enough).then_some(())).await;
        stop.store(true, Ordering::Relaxed);
        load.join_all().await;
    })
    .await;
}
