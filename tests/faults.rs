//! Faults of a real API server and of the network to it: nicplug answers all the time, says which facts are stale or
//! unknown, and its facts are right again after each fault.
//!
//! The figures of docs/reliability.md are printed by `FAULTS=real cargo test --test faults -- --nocapture
//! --test-threads=1`: with the timings of `nicplug serve`, and pauses of minutes. Otherwise the timings are short. No
//! result depends on them.

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
    env,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use futures_util::FutureExt;
use hyper::{Request, Response, body::Bytes, http::Method};
use kube::{Client, Config, client::ClientBuilder, config::Kubeconfig};
use nicplug::{
    admission::Reviewer,
    cluster::{
        persist_queue::PersistQueue,
        watch::{Tuning, Watches},
    },
    facts::FactSource,
    k8s::backoff::Delays,
    server::{Config as ServerConfig, Server, tls::CertKeyPair},
    settings::Settings,
};
use serde_json::{Value, json};
use support::{
    api_server::{
        ApiServer,
        crds::Kind,
        requests::{self, Run, send},
    },
    builders::{GUEST_KINDS, VM, nad, review, vm},
    client::{ClientPool, LOCALHOST, get},
    commands::create_kubevirt_with,
    kubevirt::KubeVirtDouble,
    link::Link,
    server::BUNDLE,
    wait::{guarded, within},
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

/// How long a test waits for an event. With the timings of `nicplug serve` some take minutes.
const LIMIT: Duration = Duration::from_mins(10);

/// Whether the timings are those of `nicplug serve`.
fn is_real() -> bool {
    env::var("FAULTS").is_ok_and(|value| value == "real")
}

fn tuning() -> Tuning {
    if is_real() {
        return Tuning::default();
    }
    Tuning {
        page: 3,
        idle_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(2),
        retry_delays: Delays { first: Duration::from_millis(20), longest: Duration::from_millis(500) },
        ..Tuning::default()
    }
}

/// Waits until `check` returns a value, and returns it with the time that it took.
async fn measured<T, F: Future<Output = Option<T>>>(what: &str, check: impl FnMut() -> F) -> (T, Duration) {
    let begin = Instant::now();
    let value = within(LIMIT, what, check).await;
    (value, begin.elapsed())
}

// === nicplug ===

/// nicplug in this process, with clients that send reviews without a pause.
struct Nicplug {
    health: SocketAddr,
    pool: Arc<ClientPool>,
    namespace: String,
    load: Arc<Load>,
    clients: JoinSet<()>,
    running: JoinHandle<()>,
}

#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    answered: AtomicUsize,
    longest: Mutex<Duration>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    fn note(&self, taken: Duration) {
        let mut longest = self.longest.lock().unwrap();
        *longest = taken.max(*longest);
    }
}

impl Nicplug {
    /// Starts it, and waits until it is ready if `waits`. It fetches the revision of the guest when a request needs it, so
    /// the first verdict is a warning.
    async fn start(client: &Client, namespace: &str, waits: bool) -> Self {
        let watches = Watches::start(client, PersistQueue::default(), &tuning());
        let reviewer = Reviewer::new(Arc::clone(watches.cache()) as Arc<dyn FactSource>, Settings::default());
        let config = ServerConfig {
            health_listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
            watches: Some(watches),
            ..ServerConfig::new(CertKeyPair::try_from(&*BUNDLE).unwrap().into())
        };
        let server = Server::bind(config, reviewer).await.unwrap();
        let (address, health) = (server.local_addr(), server.health_addr().unwrap());
        let running = tokio::spawn(server.run(std::future::pending()));
        let pool = Arc::new(ClientPool::new(address, LOCALHOST, BUNDLE.ca.clone()));
        let (load, mut clients) = (Arc::<Load>::default(), JoinSet::new());
        for _ in 0..2 {
            let (load, pool) = (Arc::clone(&load), Arc::clone(&pool));
            clients.spawn(async move {
                while !load.is_over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    match pool.send_review().await {
                        Ok(()) => drop(load.answered.fetch_add(1, Ordering::Relaxed)),
                        Err(failure) => load.failures.lock().unwrap().push(failure),
                    }
                    load.note(begin.elapsed());
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        let nicplug = Self { health, pool, namespace: namespace.to_owned(), load, clients, running };
        if waits {
            measured("nicplug is ready", async || (nicplug.get("/readyz").await.0 == 200).then_some(())).await;
        }
        nicplug
    }

    async fn get(&self, path: &str) -> (u16, String) {
        get(self.health, path).await
    }

    /// Returns the verdict on a NIC that is added on a network.
    async fn verdict(&self, network: &str) -> Verdict {
        self.answer(network).await.0
    }

    /// Checks the verdict on a NIC that is added on a network.
    async fn expect(&self, network: &str, expected: Verdict) {
        let (verdict, response) = self.answer(network).await;
        assert_eq!(verdict, expected, "{network}: {response}");
    }

    async fn answer(&self, network: &str) -> (Verdict, Value) {
        let mut review = review(GUEST_KINDS[0], &vm().build(), &vm().nic("second", network).build());
        review["request"]["namespace"] = json!(self.namespace);
        let answer = self.pool.send(Bytes::from(review.to_string())).await.expect("each review is answered");
        let response = &answer["response"];
        if response["allowed"] != json!(true) {
            assert!(response["status"]["message"].as_str().unwrap().contains("[NP105"), "{response}");
            return (Verdict::Denied, response.clone());
        }
        let is_warned = response["warnings"].to_string().contains("was not checked");
        (if is_warned { Verdict::Warned } else { Verdict::Allowed }, response.clone())
    }

    /// Waits for a verdict; returns how long it took.
    async fn until(&self, network: &str, verdict: Verdict) -> Duration {
        let what = format!("{network}: {verdict:?}");
        measured(&what, async || (self.verdict(network).await == verdict).then_some(())).await.1
    }

    /// Waits until all networks are in a state, such as `stale`; returns how long it took.
    async fn until_networks_are(&self, state: &str) -> Duration {
        let series = format!("nicplug_facts_state{{kind=\"NetworkAttachmentDefinition\",state=\"{state}\"}} 1\n");
        measured(state, async || self.get("/metrics").await.1.contains(&series).then_some(())).await.1
    }

    /// Waits until the facts of every kind are current; returns how long it took.
    async fn until_current(&self) -> Duration {
        let is_current = async || {
            let (code, report) = self.get("/readyz?verbose").await;
            (code == 200 && !report.contains("ok: ")).then_some(())
        };
        measured("all facts are current", is_current).await.1
    }

    /// Checks that each review was answered, and prints what was measured.
    async fn end(mut self, fault: &str, figures: &str) {
        self.load.is_over.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        let failures = std::mem::take(&mut *self.load.failures.lock().unwrap());
        assert!(failures.is_empty(), "{failures:?}");
        let (answered, longest) = (self.load.answered.load(Ordering::Relaxed), *self.load.longest.lock().unwrap());
        assert!(answered > 0);
        println!(
            "{fault}: {figures}; {answered} reviews answered meanwhile, none failed, the longest took {longest:?}"
        );
    }
}

impl Drop for Nicplug {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// What nicplug says about a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Allowed,
    Warned,
    /// The network does not exist, and the API server has confirmed that.
    Denied,
}

// === The cluster ===

/// Creates a namespace with a running VM and the network `blue`, in a cluster with KubeVirt 1.9.
async fn namespace(api: &ApiServer) -> String {
    let (admin, namespace) = (api.admin(), api.namespace("fault").await);
    create_kubevirt_with(&admin, &namespace, &json!({"workloadUpdateMethods": ["LiveMigrate"]})).await;
    create_network(&admin, &namespace, "blue").await;
    requests::create(&admin, Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
    let double = KubeVirtDouble::start(api, &namespace);
    double.start_vm(VM).await;
    double.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
    namespace
}

async fn create_network(admin: &Client, namespace: &str, name: &str) {
    requests::create(admin, Kind::Nad, namespace, &nad(name), Run::Real).await.granted();
}

async fn delete_network(admin: &Client, namespace: &str, name: &str) {
    let path = format!("{}/{name}", Kind::Nad.path(namespace));
    send(admin, Method::DELETE, &path, "application/json", "").await.granted();
}

// === The API server ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_api_server_makes_facts_stale_until_it_runs_again() {
    guarded(async {
        let Some(mut api) = ApiServer::start().await else { return };
        let namespace = namespace(&api).await;
        let nicplug = Nicplug::start(&api.admin(), &namespace, true).await;
        nicplug.until("blue", Verdict::Allowed).await;
        nicplug.expect("missing", Verdict::Denied).await;

        api.kill().await;
        let stale = nicplug.until_networks_are("stale").await;
        nicplug.expect("blue", Verdict::Allowed).await;
        // A denial that the API server cannot confirm is a warning.
        nicplug.expect("missing", Verdict::Warned).await;
        api.start_again().await;
        let healed = nicplug.until_current().await;
        nicplug.expect("missing", Verdict::Denied).await;
        let figures = format!("stale after {stale:.1?}, current {healed:.1?} after the API server was ready again");
        nicplug.end("API server killed", &figures).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_api_server_makes_facts_stale_until_it_continues() {
    guarded(async {
        let Some(api) = ApiServer::start().await else { return };
        let namespace = namespace(&api).await;
        let nicplug = Nicplug::start(&api.admin(), &namespace, true).await;
        nicplug.until("blue", Verdict::Allowed).await;
        nicplug.expect("missing", Verdict::Denied).await;

        api.pause();
        // The port is open and no connection ends: only silence says that the API server does not work.
        let stale = nicplug.until_networks_are("stale").await;
        nicplug.expect("blue", Verdict::Allowed).await;
        nicplug.expect("missing", Verdict::Warned).await;
        api.resume();
        let healed = nicplug.until_current().await;
        create_network(&api.admin(), &namespace, "late").await;
        nicplug.until("late", Verdict::Allowed).await;
        nicplug.until("missing", Verdict::Denied).await;
        let figures = format!("stale after {stale:.1?}, current {healed:.1?} after it continued");
        nicplug.end("API server suspended", &figures).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_of_etcd_to_an_older_state_the_facts_are_those_of_that_state() {
    guarded(async {
        let Some(mut api) = ApiServer::start().await else { return };
        let namespace = namespace(&api).await;
        create_network(&api.admin(), &namespace, "deleted-later").await;
        api.stop().await;
        let snapshot = api.snapshot();
        api.start_again().await;
        let nicplug = Nicplug::start(&api.admin(), &namespace, true).await;
        delete_network(&api.admin(), &namespace, "deleted-later").await;
        // More versions than the API server itself writes at its start.
        for number in 0..500 {
            create_network(&api.admin(), &namespace, &format!("late-{number}")).await;
        }
        nicplug.until("late-499", Verdict::Allowed).await;
        nicplug.until("deleted-later", Verdict::Denied).await;

        api.stop().await;
        api.restore(&snapshot);
        api.start_again().await;
        let late = nicplug.until("late-499", Verdict::Denied).await;
        let again = nicplug.until("deleted-later", Verdict::Allowed).await;
        nicplug.until("blue", Verdict::Allowed).await;
        // Changes are followed from there.
        create_network(&api.admin(), &namespace, "after").await;
        nicplug.until("after", Verdict::Allowed).await;
        nicplug.until_current().await;
        let figures = format!("right {:.1?} after the API server was ready again", late + again);
        nicplug.end("etcd restored", &figures).await;
    })
    .await;
}

// === The network ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_whose_connection_was_lost_silently_is_replaced() {
    guarded(async {
        let Some(api) = ApiServer::start().await else { return };
        let namespace = namespace(&api).await;
        let link = Link::to(api.address().strip_prefix("https://").unwrap().parse().unwrap()).await;
        let mut config = Config::try_from(Kubeconfig::read_from(api.kubeconfig()).unwrap()).unwrap();
        config.cluster_url = format!("https://{}", link.address).parse().unwrap();
        let nicplug = Nicplug::start(&Client::try_from(config).unwrap(), &namespace, true).await;
        nicplug.expect("missing", Verdict::Denied).await;

        let lost = Instant::now();
        link.lose_connections();
        create_network(&api.admin(), &namespace, "late").await;
        delete_network(&api.admin(), &namespace, "blue").await;
        // The denial of a network that was created unseen is checked at the API server, also by a new connection.
        assert_ne!(nicplug.verdict("late").await, Verdict::Denied);
        nicplug.until("blue", Verdict::Denied).await;
        nicplug.until("late", Verdict::Allowed).await;
        nicplug.until_current().await;
        let healed = lost.elapsed();
        nicplug.end("watch silent", &format!("right {healed:.1?} after the connections were lost")).await;
    })
    .await;
}

// === Answers of the API server ===

/// What happens to requests for lists and watches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    None,
    /// Each watch is answered with 410: the API server no longer has the resource version.
    Expired,
    /// Lists get no answer until the fault ends.
    HeldLists,
}

/// Faults of a client, which are the same for all its clones.
#[derive(Clone)]
struct Faults {
    fault: watch::Sender<Fault>,
    lists: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
}

impl Faults {
    fn new(fault: Fault) -> Self {
        Self { fault: watch::Sender::new(fault), lists: Arc::default(), held: Arc::default() }
    }

    fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Returns a client of the admin with these faults.
    fn client(&self, api: &ApiServer) -> Client {
        let config = Config::try_from(Kubeconfig::read_from(api.kubeconfig()).unwrap()).unwrap();
        ClientBuilder::try_from(config).unwrap().with_layer(self).build()
    }
}

impl<S> tower::Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, service: S) -> Faulty<S> {
        Faulty { service, faults: self.clone() }
    }
}

struct Faulty<S> {
    service: S,
    faults: Faults,
}

impl<S, R, B> tower::Service<Request<R>> for Faulty<S>
where
    S: tower::Service<Request<R>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;
    type Response = Response<Body>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let (is_watch, is_list) = (query.contains("watch=true"), query.contains("limit="));
        let (response, faults) = (self.service.call(request), self.faults.clone());
        let mut fault = faults.fault.subscribe();
        async move {
            let current = *fault.borrow();
            if is_list {
                faults.lists.fetch_add(1, Ordering::Relaxed);
            }
            match current {
                Fault::Expired if is_watch => {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "reason": "Expired", "code": 410, "message": "too old resource version"});
                    let mut response = Response::new(Body::from(status.to_string()));
                    *response.status_mut() = hyper::StatusCode::GONE;
                    return Ok(response);
                }
                Fault::HeldLists if is_list => {
                    faults.held.fetch_add(1, Ordering::Relaxed);
                    let _ = fault.wait_for(|fault| *fault != Fault::HeldLists).await;
                }
                _ => {}
            }
            Ok(response.await?.map(Body::new))
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_storm_of_410_no_fact_gets_lost_and_lists_are_paced() {
    guarded(async {
        let Some(mut api) = ApiServer::start().await else { return };
        let namespace = namespace(&api).await;
        let faults = Faults::new(Fault::None);
        let nicplug = Nicplug::start(&faults.client(&api), &namespace, true).await;
        nicplug.until("blue", Verdict::Allowed).await;
        // Open watches end when the API server is restarted, and each new one is answered with 410.
        faults.set(Fault::Expired);
        api.stop().await;
        api.start_again().await;
        let expired = "nicplug_facts_errors_total{kind=\"NetworkAttachmentDefinition\",error=\"expired\"}";
        let count = async || support::metrics::value::<u64>(&nicplug.get("/metrics").await.1, expired);
        let (begin, refused, listed) = (Instant::now(), count().await, faults.lists.load(Ordering::Relaxed));
        let enough = async || {
            // The facts of before stay.
            nicplug.expect("blue", Verdict::Allowed).await;
            (count().await >= refused + 10).then_some(())
        };
        measured("ten more watches are refused", enough).await;
        let (lists, lasted) = (faults.lists.load(Ordering::Relaxed) - listed, begin.elapsed());
        // There are nine delays between ten refusals, each of at least half of the first delay.
        assert!(lasted >= tuning().retry_delays.first * 9 / 2, "{lists} lists in {lasted:?}");

        create_network(&api.admin(), &namespace, "late").await;
        faults.set(Fault::None);
        let ended = Instant::now();
        nicplug.until("late", Verdict::Allowed).await;
        nicplug.until_current().await;
        let healed = ended.elapsed();
        let figures = format!("{lists} lists of all kinds in {lasted:.1?}, current {healed:.1?} after the end");
        nicplug.end("storm of 410", &figures).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_lists_make_a_new_replica_wait_and_an_old_one_keep_its_facts() {
    guarded(async {
        let Some(mut api) = ApiServer::start().await else { return };
        let namespace = namespace(&api).await;
        let faults = Faults::new(Fault::HeldLists);
        let nicplug = Nicplug::start(&faults.client(&api), &namespace, false).await;
        // The list takes longer than one request may, more than once.
        let kinds = nicplug::cluster::watch::KINDS.len();
        measured("each list was tried twice", async || {
            (faults.held.load(Ordering::Relaxed) >= 2 * kinds).then_some(())
        })
        .await;
        let (code, report) = nicplug.get("/readyz?verbose").await;
        assert!(code == 503 && report.contains("not listed yet: no answer within"), "{report}");
        // What is unknown is not denied.
        assert_ne!(nicplug.verdict("missing").await, Verdict::Denied);
        faults.set(Fault::None);
        let ready = nicplug.until_current().await;
        nicplug.until("blue", Verdict::Allowed).await;
        nicplug.expect("missing", Verdict::Denied).await;

        // A replica that has facts keeps them: here all watches end, and all lists are slow.
        faults.set(Fault::HeldLists);
        api.stop().await;
        api.start_again().await;
        nicplug.until_networks_are("stale").await;
        nicplug.expect("blue", Verdict::Allowed).await;
        faults.set(Fault::None);
        let healed = nicplug.until_current().await;
        let figures =
            format!("a new replica is ready {ready:.1?} after their end, an old one current after {healed:.1?}");
        nicplug.end("slow lists", &figures).await;
    })
    .await;
}
