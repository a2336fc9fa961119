//! A second look, at the cluster itself, before an answer that rests on what memory may not have seen yet.
//!
//! A watch is behind the cluster by a moment: a network that was made just before the VM that wants it may be absent in
//! memory alone. So a denial that facts have a part in is judged again with facts that were read there and then, and
//! what cannot be read in time is unknown, which denies nothing. Denials are rare, and the looks that are taken at once
//! are bounded: who provokes denials cannot make us ask more than that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kube::Client;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    admission::{Decision, Evaluation, Evaluator, ParsedBody, Recheck},
    change::{Change, MigrationStart},
    cluster::{
        fetch::{self, FetchPlan, FetchedFacts},
        store::Store,
    },
    facts::{Fact, FactSource, Facts},
    k8s::kind::Kind,
};

/// How many may look at once.
const LOOKS_AT_ONCE: usize = 8;

/// Nobody waits longer for an answer that is a warning in the end.
const LONGEST: Duration = Duration::from_secs(2);

/// What is kept of a request's time for judging again.
const MARGIN: Duration = Duration::from_millis(50);

/// Takes second looks.
pub(super) struct Rechecker {
    client: Client,
    permits: Semaphore,
    counts: RecheckCounts,
}

impl Rechecker {
    pub(super) fn new(client: Client) -> Self {
        Self { client, permits: Semaphore::new(LOOKS_AT_ONCE), counts: RecheckCounts::default() }
    }

    pub(super) fn counts(&self) -> &RecheckCounts {
        &self.counts
    }

    /// Returns the final evaluation: the first one if newer facts cannot change it.
    pub(super) async fn confirm<'r>(
        &self,
        evaluator: Evaluator<'_>,
        body: &'r ParsedBody<'r>,
        first: Evaluation<'r>,
        deadline: Instant,
    ) -> Evaluation<'r> {
        let Some(query) = evaluator.recheck(&first).map(|recheck| RecheckQuery::of(&recheck)) else { return first };
        let until = deadline.checked_sub(MARGIN).unwrap_or(deadline).min(Instant::now() + LONGEST);
        let fetched = self.fetch(&query.plan, until).await;
        let is_complete = fetched.as_ref().is_some_and(|fetched| fetched.errors.is_empty());
        let fresh = fetched.map(|fetched| fetched.store).unwrap_or_default();
        let second = evaluator.with_facts(&OverlayFacts { fresh, query }).evaluate(first.endpoint(), body);
        self.counts.add(match (first.decision(), second.decision()) {
            (Decision::Denied, Decision::Denied) => RecheckResult::Confirmed,
            _ if second.has_same_answer(&first) => RecheckResult::Confirmed,
            _ if is_complete => RecheckResult::Changed,
            _ => RecheckResult::Inconclusive,
        });
        second
    }

    /// Reads the cluster; `None` if all permits are taken or the time is over.
    async fn fetch(&self, plan: &FetchPlan, until: Instant) -> Option<FetchedFacts> {
        let _permit = timeout_at(until, self.permits.acquire()).await.ok()?.ok()?;
        let timeout = until.checked_duration_since(Instant::now())?;
        Some(fetch::fetch_facts(&self.client, plan, timeout).await)
    }
}

/// What is asked, and what need not be.
struct RecheckQuery {
    plan: FetchPlan,
    /// What was known at the first look.
    known: Facts,
    asked: Vec<Kind>,
}

impl RecheckQuery {
    fn of(recheck: &Recheck) -> Self {
        let (plan, facts, depends_on) = match recheck {
            Recheck::Change { change, facts, depends_on } => (FetchPlan::of(change), *facts, *depends_on),
            Recheck::Migration { start, facts, depends_on } => (FetchPlan::of_migration(start), *facts, *depends_on),
        };
        let mut asked = vec![Kind::Vmi, Kind::KubeVirt, Kind::Vm, Kind::Migration, Kind::Nad, Kind::Revision];
        // Lists of a whole cluster, and so they are asked for only where something depends on them.
        asked.extend(depends_on.attachment.then_some(Kind::DaemonSet));
        asked.extend(depends_on.isolation.then_some(Kind::ConfigMap));
        asked.extend(depends_on.nodes.then_some(Kind::Node));
        let mut plan = plan.only(&asked);
        for user in facts.mac_users.known().into_iter().flatten() {
            if let Some((namespace, name)) = user.guest.split_once('/') {
                plan = plan.with_guest(namespace, name);
            }
        }
        Self { plan, known: facts.clone(), asked }
    }

    fn asks(&self, kind: Kind) -> bool {
        self.asked.contains(&kind)
    }
}

/// Facts at the second look: fresh where they were asked for, as they were known where nothing depends on them.
struct OverlayFacts {
    fresh: Store,
    query: RecheckQuery,
}

impl OverlayFacts {
    fn complete(&self, fresh: Facts) -> Facts {
        let RecheckQuery { known, .. } = &self.query;
        let is_fresh = |kind| self.query.asks(kind);
        Facts {
            attachment: if is_fresh(Kind::DaemonSet) { fresh.attachment } else { known.attachment },
            isolation: if is_fresh(Kind::ConfigMap) { fresh.isolation } else { known.isolation.clone() },
            overrides: known.overrides.clone(),
            nodes: if is_fresh(Kind::Node) { fresh.nodes } else { known.nodes },
            // That nobody has an address takes all guests to know. Whoever was seen to have one was asked again.
            mac_users: match &known.mac_users {
                Fact::Known(users) if !users.is_empty() => fresh.mac_users,
                known => known.clone(),
            },
            ..fresh
        }
    }
}

impl FactSource for OverlayFacts {
    fn facts_for(&self, change: &Change) -> Facts {
        self.complete(self.fresh.facts_for(change))
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.complete(self.fresh.facts_for_migration(start))
    }
}

/// What a second look comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RecheckResult {
    /// The answer stands.
    Confirmed,
    /// The cluster is not what it seemed to be: another answer is given.
    Changed,
    /// The cluster did not say all: what it might have said is warned of.
    Inconclusive,
}

impl RecheckResult {
    pub(super) const ALL: [Self; 3] = [Self::Confirmed, Self::Changed, Self::Inconclusive];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "upheld",
            Self::Changed => "corrected",
            Self::Inconclusive => "unconfirmed",
        }
    }
}

/// How many second looks came to what.
#[derive(Clone, Debug, Default)]
pub(super) struct RecheckCounts(Arc<[AtomicU64; RecheckResult::ALL.len()]>);

impl RecheckCounts {
    pub(super) fn of(&self, upshot: RecheckResult) -> u64 {
        self.counter(upshot).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn add(&self, upshot: RecheckResult) {
        if let Some(counter) = self.counter(upshot) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, upshot: RecheckResult) -> Option<&AtomicU64> {
        self.0.get(RecheckResult::ALL.iter().position(|known| *known == upshot)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        io::{self, Read},
        sync::Mutex,
    };

    use axum::body::Body;
    use futures_util::{FutureExt, future::BoxFuture};
    use hyper::{Response, StatusCode};
    use serde_json::{Value, json};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        admission::{Answer, Endpoint, Reviewer, parse},
        api::review::parse_count,
        cluster::cache::Cache,
        k8s::events::{DropReason, EventQueue},
        server::{
            counts::Counts,
            denial_events::DenialEvents,
            in_flight::InFlight,
            routes::{self, AppState},
        },
        settings::{Enforcement, Settings},
    };

    const VMI: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachineinstances/vm";
    const NAD: &str = "/apis/k8s.cni.cncf.io/v1/namespaces/demo/network-attachment-definitions/net";
    const OTHER: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/other";
    const MAC: &str = "02:00:00:00:00:01";

    /// An answer of the cluster: `None` never comes.
    type Reply = Option<(u16, Value)>;

    fn guest(nics: &[&str]) -> Value {
        let interface = |name: &&str| match *name {
            "with-mac" => json!({"name": name, "bridge": {}, "macAddress": MAC}),
            name => json!({"name": name, "bridge": {}}),
        };
        let interfaces: Vec<Value> = nics.iter().map(interface).collect();
        let networks: Vec<Value> =
            nics.iter().map(|name| json!({"name": name, "multus": {"networkName": "net"}})).collect();
        json!({"domain": {"devices": {"interfaces": interfaces}}, "networks": networks})
    }

    fn object(kind: &str, name: &str) -> Value {
        json!({"apiVersion": if kind.starts_with('N') { "k8s.cni.cncf.io/v1" } else { "kubevirt.io/v1" }, "kind": kind,
            "metadata": {"namespace": "demo", "name": name, "resourceVersion": "1"}})
    }

    fn vmi() -> Value {
        let mut vmi = object("VirtualMachineInstance", "vm");
        vmi["spec"] = guest(&["old"]);
        vmi["status"] = json!({"phase": "Running", "conditions": [{"type": "LiveMigratable", "status": "True"}]});
        vmi
    }

    fn vm(name: &str, nics: &[&str], annotations: &Value) -> Value {
        let mut vm = object("VirtualMachine", name);
        vm["metadata"]["annotations"] = annotations.clone();
        vm["spec"]["template"]["spec"] = guest(nics);
        vm
    }

    fn kubevirt() -> Value {
        let mut kubevirt = object("KubeVirt", "kubevirt");
        kubevirt["status"]["observedKubeVirtVersion"] = json!("v1.9.0");
        kubevirt
    }

    /// What memory holds: some objects, and that there are no others.
    fn reviewer(objects: &[Value]) -> Reviewer {
        let mut store = Store::complete();
        for object in objects {
            store.insert(object).unwrap();
        }
        let settings = Settings::default().with_rule("NP113", Enforcement::Deny).with_rule("NP112", Enforcement::Warn);
        Reviewer::new(Arc::new(store), settings)
    }

    /// The update of a VM from one NIC to these.
    fn body(nics: &[&str], annotations: &Value) -> Vec<u8> {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "name": "vm",
            "namespace": "demo", "operation": "UPDATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"},
            "object": vm("vm", nics, annotations), "oldObject": vm("vm", &["old"], &json!({}))}})
        .to_string()
        .into_bytes()
    }

    /// A cluster that has all of [`reviewer`]'s kinds and these objects by their paths, and what was asked of it.
    fn cluster(reply: impl Fn(&str) -> Reply + Send + 'static) -> (Rechecker, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let service = service_fn(move |request: hyper::Request<kube::client::Body>| {
            let path = request.uri().path();
            log.lock().unwrap().push(path.to_owned());
            answer(reply(path), path)
        });
        (Rechecker::new(Client::new(service, "default")), asked)
    }

    fn answer(reply: Reply, path: &str) -> BoxFuture<'static, io::Result<Response<Body>>> {
        let Some((code, body)) = reply else { return pending().boxed() };
        let body = if code == 404 { absence(path) } else { body };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        ready(Ok(response)).boxed()
    }

    fn absence(path: &str) -> Value {
        let name = path.rsplit('/').next().unwrap();
        json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found",
            "details": {"name": name}})
    }

    /// A cluster in which the VM runs on a known KubeVirt.
    fn running(path: &str) -> (u16, Value) {
        match path {
            VMI => (200, vmi()),
            "/apis/kubevirt.io/v1/kubevirts" => (200, json!({"metadata": {}, "items": [kubevirt()]})),
            path if path.ends_with('s') => (200, json!({"metadata": {}, "items": []})),
            _ => (404, Value::Null),
        }
    }

    /// The answers without and with a recheck.
    async fn confirm(second: &Rechecker, reviewer: &Reviewer, endpoint: Endpoint, body: &[u8]) -> (Answer, Answer) {
        let first = reviewer.review(endpoint, body);
        let deadline = Instant::now() + Duration::from_secs(4);
        let (settings, body) = (reviewer.settings(), parse(body));
        let evaluator = reviewer.evaluator(&settings);
        let last = second.confirm(evaluator, &body, evaluator.evaluate(endpoint, &body), deadline).await;
        (first, Answer { status: last.http_status(), body: last.render(), decision: last.decision() })
    }

    fn text(answer: &Answer) -> &str {
        std::str::from_utf8(&answer.body).unwrap()
    }

    fn upshots(second: &Rechecker) -> [u64; 3] {
        RecheckResult::ALL.map(|upshot| second.counts().of(upshot))
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_was_made_a_moment_ago_denies_nothing() {
        let reviewer = reviewer(&[kubevirt(), vmi()]);
        let (second, _) = cluster(|path| match path {
            NAD => Some((200, object("NetworkAttachmentDefinition", "net"))),
            path => Some(running(path)),
        });
        let body = body(&["old", "new"], &json!({}));
        let (first, last) = confirm(&second, &reviewer, Endpoint::Validate, &body).await;
        assert!(first.decision == Decision::Denied && text(&first).contains("NP105"), "{}", text(&first));
        assert_eq!(last.decision, Decision::Warned, "{}", text(&last));
        assert_eq!(upshots(&second), [0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_is_not_there_is_denied_after_one_question() {
        let reviewer = reviewer(&[kubevirt(), vmi()]);
        let (second, asked) = cluster(|path| Some(running(path)));
        let body = body(&["old", "new"], &json!({}));
        let (first, last) = confirm(&second, &reviewer, Endpoint::Validate, &body).await;
        assert_eq!((text(&first), upshots(&second)), (text(&last), [1, 0, 0]));
        let asked = asked.lock().unwrap();
        assert_eq!(asked.iter().filter(|path| path.as_str() == NAD).count(), 1, "{asked:?}");
        // Nothing of it depends on what takes a list of the whole cluster.
        assert!(!asked.iter().any(|path| path.contains("nodes") || path.contains("daemonsets")), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_cluster_away_or_slow_or_asked_too_much_it_is_a_warning() {
        let body = body(&["old", "new"], &json!({}));
        for (code, reply) in [(None, Value::Null), (Some(500), json!("broken"))] {
            let reviewer = reviewer(&[kubevirt(), vmi()]);
            let (second, _) = cluster(move |_| code.map(|code| (code, reply.clone())));
            let start = Instant::now();
            let (_, last) = confirm(&second, &reviewer, Endpoint::Validate, &body).await;
            assert_eq!((last.decision, upshots(&second)), (Decision::Warned, [0, 0, 1]), "{}", text(&last));
            assert!(text(&last).contains("was not checked"), "{}", text(&last));
            assert!(start.elapsed() <= LONGEST + Duration::from_millis(10));
        }
        // All places are taken by looks that never end.
        let reviewer = reviewer(&[kubevirt(), vmi()]);
        let (second, asked) = cluster(|_| None);
        let _all = second.permits.acquire_many(u32::try_from(LOOKS_AT_ONCE).unwrap()).await.unwrap();
        let (_, last) = confirm(&second, &reviewer, Endpoint::Validate, &body).await;
        assert_eq!((last.decision, asked.lock().unwrap().len()), (Decision::Warned, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_fact_could_change_is_not_asked_about() {
        let (second, asked) = cluster(|path| Some(running(path)));
        let twice = body(&["old", "new", "new"], &json!({}));
        let reviewer = reviewer(&[kubevirt(), vmi(), object("NetworkAttachmentDefinition", "net")]);
        for (endpoint, body) in [(Endpoint::Validate, twice), (Endpoint::Mutate, body(&["old"], &json!({})))] {
            let (first, last) = confirm(&second, &reviewer, endpoint, &body).await;
            assert_eq!(first, last);
        }
        assert_eq!(*asked.lock().unwrap(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_has_just_been_started_loses_a_nic_by_unplugging() {
        let (second, _) = cluster(|path| Some(running(path)));
        let reviewer = reviewer(&[kubevirt()]);
        let body = body(&["old"], &json!({"nicplug.io/remove-interfaces": "old"}));
        let (first, last) = confirm(&second, &reviewer, Endpoint::Mutate, &body).await;
        assert_eq!(
            (first.decision, last.decision, upshots(&second)),
            (Decision::Patched, Decision::Patched, [0, 1, 0])
        );
        assert_ne!(text(&first), text(&last));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_an_address_is_asked_whether_it_still_has() {
        let nad = object("NetworkAttachmentDefinition", "net");
        let other = || vm("other", &["with-mac"], &json!({}));
        let reviewer = reviewer(&[kubevirt(), vmi(), nad.clone(), other()]);
        let body = body(&["old", "with-mac"], &json!({}));
        for (is_there, decision) in [(true, Decision::Denied), (false, Decision::Warned)] {
            let nad = nad.clone();
            let (second, _) = cluster(move |path| match path {
                NAD => Some((200, nad.clone())),
                OTHER if is_there => Some((200, vm("other", &["with-mac"], &json!({})))),
                path => Some(running(path)),
            });
            let (first, last) = confirm(&second, &reviewer, Endpoint::Validate, &body).await;
            assert!(first.decision == Decision::Denied && text(&first).contains("NP113"), "{}", text(&first));
            assert_eq!(last.decision, decision, "{}", text(&last));
        }
    }

    /// A denial in a cluster takes every step: a recheck, the log, the metrics and an Event.
    #[tokio::test(start_paused = true)]
    async fn the_body_of_a_denial_is_parsed_once() {
        let (rechecker, fetched) = cluster(|path| Some(running(path)));
        let events = EventQueue::without_sender();
        let mut store = Store::default();
        store.insert(&kubevirt()).unwrap();
        let counts = Counts::default();
        let router = routes::router(AppState {
            reviewer: reviewer(&[kubevirt(), vmi()]),
            rechecker: Some(rechecker),
            denial_events: Some(DenialEvents::new(Arc::new(Cache::new(store).0), events.clone())),
            counts: counts.clone(),
            in_flight: Arc::new(InFlight::new(1)),
            spans: None,
            largest_body: 1 << 20,
            longest: Duration::from_secs(4),
        });
        let mut body: Value = serde_json::from_slice(&body(&["old", "new"], &json!({}))).unwrap();
        body["request"]["userInfo"]["username"] = json!("system:serviceaccount:demo:kubevirt-controller");
        let request = hyper::Request::post("/validate").header("Content-Type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        let (mut log, writer) = io::pipe().unwrap();
        let logging =
            tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(Arc::new(writer)).finish());

        parse_count::take();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(parse_count::take(), 1);

        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(counts.of(Decision::Denied), 1);
        assert!(!fetched.lock().unwrap().is_empty(), "the cluster was not read");
        drop(logging);
        let mut line = String::new();
        log.read_to_string(&mut line).unwrap();
        assert!(line.contains("kubevirt-controller") && line.contains("NP105"), "{line}");
        // The queue has no sender, so it drops the Event.
        assert_eq!(events.dropped(DropReason::Full), 1);
    }
}
