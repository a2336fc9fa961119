//! Reads the cluster again before a denial that depends on facts.
//!
//! A watch is behind the cluster by a moment: a network that was created just before the VM that uses it can be missing
//! in memory. Therefore a denial that depends on facts is evaluated again with facts that are read now. A fact that
//! cannot be read in time is unknown, and an unknown fact denies nothing. Denials are rare, and a limit of simultaneous
//! rechecks protects the API server from a client that provokes denials.

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
    change::{Change, MigrationStart, NetworkChange},
    cluster::{
        fetch::{self, FetchPlan, FetchedFacts},
        store::Store,
    },
    facts::{Fact, FactSource, Facts},
    k8s::kind::Kind,
};

/// The limit of simultaneous rechecks.
const MAX_RECHECKS: usize = 8;

/// The limit of the time for reading. A user must not wait longer for an answer that becomes a warning.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The part of a request's time that is reserved for the second evaluation.
const MARGIN: Duration = Duration::from_millis(50);

/// Evaluates denials again, with facts from the cluster.
pub(super) struct Rechecker {
    client: Client,
    permits: Semaphore,
    counts: RecheckCounts,
}

impl Rechecker {
    pub(super) fn new(client: Client) -> Self {
        Self { client, permits: Semaphore::new(MAX_RECHECKS), counts: RecheckCounts::default() }
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
        let until = deadline.checked_sub(MARGIN).unwrap_or(deadline).min(Instant::now() + TIMEOUT);
        let fetched = self.fetch(&query.plan, until).await;
        let is_complete = fetched.as_ref().is_some_and(|fetched| fetched.errors.is_empty());
        let mut fresh = fetched.map(|fetched| fetched.store).unwrap_or_default();
        // The configuration of Multus is read again only if the decision depends on it.
        fresh.assume_multus_namespace(query.known.multus_namespace.clone());
        let reads_group = first.request().is_some_and(|request| evaluator.has_facts_of(&request.kind));
        let second = evaluator.with_facts(&OverlayFacts { fresh, query, reads_group }).evaluate(first.endpoint(), body);
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

/// The objects to read for a recheck, and the facts that are not read again.
struct RecheckQuery {
    plan: FetchPlan,
    /// The facts of the first evaluation.
    known: Facts,
    /// The kinds of objects that are read again.
    kinds: Vec<Kind>,
}

impl RecheckQuery {
    fn of(recheck: &Recheck) -> Self {
        let (plan, facts, depends_on) = match recheck {
            Recheck::Network { facts, .. } => return Self::of_network(facts),
            Recheck::Change { change, facts, depends_on } => {
                let plan = FetchPlan::of(change).with_multus_namespace(facts.multus_namespace.clone());
                (plan, *facts, *depends_on)
            }
            Recheck::Migration { start, facts, depends_on } => (FetchPlan::of_migration(start), *facts, *depends_on),
        };
        let mut kinds = vec![Kind::Vmi, Kind::KubeVirt, Kind::Vm, Kind::Migration, Kind::Nad, Kind::Revision];
        // These need a list of the whole cluster, so they are read only if the decision depends on them.
        kinds.extend(depends_on.attachment.then_some(Kind::DaemonSet));
        kinds.extend(depends_on.isolation.then_some(Kind::ConfigMap));
        kinds.extend(depends_on.nodes.then_some(Kind::Node));
        let mut plan = plan.only(&kinds);
        for user in facts.mac_users.known().into_iter().flatten() {
            if let Some((namespace, name)) = user.guest.split_once('/') {
                plan = plan.with_guest(namespace, name);
            }
            if let Some(network) = &user.via {
                plan = plan.with_network(network);
            }
        }
        Self { plan: plan.bounded(), known: facts.clone(), kinds }
    }

    /// Plans to read the guests again that use a network.
    fn of_network(facts: &Facts) -> Self {
        let kinds = vec![Kind::Vmi];
        let guests = facts.network_users.known().into_iter().flat_map(|users| &users.guests);
        let names = guests.filter_map(|guest| guest.split_once('/'));
        let plan = names.fold(FetchPlan::default(), |plan, (namespace, name)| plan.with_guest(namespace, name));
        Self { plan: plan.only(&kinds).bounded(), known: facts.clone(), kinds }
    }

    fn reads(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

/// The facts of the second evaluation: new ones where they were read again, else those of the first evaluation.
struct OverlayFacts {
    fresh: Store,
    query: RecheckQuery,
    /// Whether the facts are about objects of the group of the request.
    reads_group: bool,
}

impl OverlayFacts {
    fn overlay(&self, fresh: Facts) -> Facts {
        let RecheckQuery { known, .. } = &self.query;
        let is_fresh = |kind| self.query.reads(kind);
        Facts {
            attachment: if is_fresh(Kind::DaemonSet) { fresh.attachment } else { known.attachment },
            isolation: if is_fresh(Kind::ConfigMap) { fresh.isolation } else { known.isolation.clone() },
            overrides: known.overrides.clone(),
            by_controller: known.by_controller,
            // Only the first networks that the change names are read again.
            nads: fresh.nads.completed_by(&known.nads, |network| self.query.plan.reads_network(network)),
            // They never deny.
            quotas: known.quotas.clone(),
            resource_injector: known.resource_injector,
            // The networks of the NICs that the guest has change rarely.
            guest_networks: known.guest_networks.clone(),
            nodes: if is_fresh(Kind::Node) { fresh.nodes } else { known.nodes.clone() },
            // Only a list of all guests shows that an address is free, so only the known users of it are read again.
            mac_users: match &known.mac_users {
                Fact::Known(users) if !users.is_empty() => fresh.mac_users,
                known => known.clone(),
            },
            ..fresh
        }
    }
}

impl FactSource for OverlayFacts {
    fn reads_group(&self, _group: &str, _of: &str) -> bool {
        self.reads_group
    }

    fn facts_for(&self, change: &Change) -> Facts {
        self.overlay(self.fresh.facts_for(change))
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.overlay(self.fresh.facts_for_migration(start))
    }

    fn facts_for_network(&self, change: &NetworkChange) -> Facts {
        let known = &self.query.known;
        let left = |users| self.fresh.users_left(change, users);
        Facts { network_users: known.network_users.known().map_or(Fact::Unknown, left), ..known.clone() }
    }
}

/// The result of a recheck.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RecheckResult {
    /// The answer is the same.
    Confirmed,
    /// The facts in memory were behind the cluster: the answer is another one.
    Changed,
    /// The API server did not give all facts in time: the answer warns about what was not checked.
    Inconclusive,
}

impl RecheckResult {
    pub(super) const ALL: [Self; 3] = [Self::Confirmed, Self::Changed, Self::Inconclusive];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Changed => "changed",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// The numbers of rechecks, by result. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct RecheckCounts(Arc<[AtomicU64; RecheckResult::ALL.len()]>);

impl RecheckCounts {
    pub(super) fn of(&self, result: RecheckResult) -> u64 {
        self.counter(result).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn add(&self, result: RecheckResult) {
        if let Some(counter) = self.counter(result) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, result: RecheckResult) -> Option<&AtomicU64> {
        self.0.get(RecheckResult::ALL.iter().position(|known| *known == result)?)
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
            body::BodyBudget,
            counts::Counts,
            denial_events::DenialEvents,
            denials::DenialCounts,
            in_flight::InFlight,
            overload::Overload,
            routes::{self, AppState},
        },
        settings::{Enforcement, Settings},
    };

    const VMI: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachineinstances/vm";
    const NAD: &str = "/apis/k8s.cni.cncf.io/v1/namespaces/demo/network-attachment-definitions/net";
    const OTHER: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/other";
    const MAC: &str = "02:00:00:00:00:01";

    /// A response of the API server; `None` never arrives.
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

    /// A reviewer whose memory has these objects and knows that there are no others.
    fn reviewer(objects: &[Value]) -> Reviewer {
        let mut store = Store::complete();
        for object in objects {
            store.insert(object).unwrap();
        }
        let denied = ["NP113", "NP119"];
        let settings = Settings::default().with_rule("NP112", Enforcement::Warn);
        let settings = denied.iter().fold(settings, |settings, rule| settings.with_rule(rule, Enforcement::Deny));
        Reviewer::new(Arc::new(store), settings)
    }

    /// The update of a VM from the NIC `old` to these.
    fn body(nics: &[&str], annotations: &Value) -> Vec<u8> {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "name": "vm",
            "namespace": "demo", "operation": "UPDATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"},
            "object": vm("vm", nics, annotations), "oldObject": vm("vm", &["old"], &json!({}))}})
        .to_string()
        .into_bytes()
    }

    /// A rechecker with a fake API server, and the paths that it requested.
    fn cluster(reply: impl Fn(&str) -> Reply + Send + 'static) -> (Rechecker, Arc<Mutex<Vec<String>>>) {
        let requested = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requested);
        let service = service_fn(move |request: hyper::Request<kube::client::Body>| {
            let path = request.uri().path();
            log.lock().unwrap().push(path.to_owned());
            answer(reply(path), path)
        });
        (Rechecker::new(Client::new(service, "default")), requested)
    }

    fn answer(reply: Reply, path: &str) -> BoxFuture<'static, io::Result<Response<Body>>> {
        let Some((code, body)) = reply else { return pending().boxed() };
        let body = if code == 404 { not_found(path) } else { body };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        ready(Ok(response)).boxed()
    }

    fn not_found(path: &str) -> Value {
        let name = path.rsplit('/').next().unwrap();
        json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found",
            "details": {"name": name}})
    }

    /// Responses of a cluster in which the VM runs, with a known version of KubeVirt.
    fn running(path: &str) -> (u16, Value) {
        match path {
            VMI => (200, vmi()),
            "/apis/kubevirt.io/v1/kubevirts" => (200, json!({"metadata": {}, "items": [kubevirt()]})),
            path if path.ends_with('s') => (200, json!({"metadata": {}, "items": []})),
            _ => (404, Value::Null),
        }
    }

    /// The answers without and with a recheck.
    async fn confirm(rechecker: &Rechecker, reviewer: &Reviewer, endpoint: Endpoint, body: &[u8]) -> (Answer, Answer) {
        let first = reviewer.review(endpoint, body);
        let deadline = Instant::now() + Duration::from_secs(4);
        let (settings, body) = (reviewer.settings(), parse(body));
        let evaluator = reviewer.evaluator(&settings);
        let last = rechecker.confirm(evaluator, &body, evaluator.evaluate(endpoint, &body), deadline).await;
        (first, Answer { status: last.http_status(), body: last.render(), decision: last.decision() })
    }

    fn text(answer: &Answer) -> &str {
        std::str::from_utf8(&answer.body).unwrap()
    }

    fn results(rechecker: &Rechecker) -> [u64; 3] {
        RecheckResult::ALL.map(|result| rechecker.counts().of(result))
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_was_just_created_denies_nothing() {
        let reviewer = reviewer(&[kubevirt(), vmi()]);
        let (rechecker, _) = cluster(|path| match path {
            NAD => Some((200, object("NetworkAttachmentDefinition", "net"))),
            path => Some(running(path)),
        });
        let body = body(&["old", "new"], &json!({}));
        let (first, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, &body).await;
        assert!(first.decision == Decision::Denied && text(&first).contains("NP105"), "{}", text(&first));
        assert_eq!(last.decision, Decision::Warned, "{}", text(&last));
        assert_eq!(results(&rechecker), [0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_waits_for_a_restart_is_rechecked_as_a_denial_is() {
        let waiting = body(&["old", "new"], &json!({"nicplug.io/apply": "on-restart"}));
        for is_there in [true, false] {
            let reviewer = reviewer(&[kubevirt(), vmi()]);
            let (rechecker, _) = cluster(move |path| match path {
                NAD if is_there => Some((200, object("NetworkAttachmentDefinition", "net"))),
                path => Some(running(path)),
            });
            let (first, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, &waiting).await;
            assert!(first.decision == Decision::Warned && text(&first).contains("never attached"), "{}", text(&first));
            assert_eq!(text(&last).contains("never attached"), !is_there, "{}", text(&last));
            assert_eq!(results(&rechecker), if is_there { [0, 1, 0] } else { [1, 0, 0] });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_network_is_denied_after_one_read() {
        let reviewer = reviewer(&[kubevirt(), vmi()]);
        let (rechecker, requested) = cluster(|path| Some(running(path)));
        let body = body(&["old", "new"], &json!({}));
        let (first, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, &body).await;
        assert_eq!((text(&first), results(&rechecker)), (text(&last), [1, 0, 0]));
        let requested = requested.lock().unwrap();
        assert_eq!(requested.iter().filter(|path| path.as_str() == NAD).count(), 1, "{requested:?}");
        // The denial does not depend on a fact that needs a list of the whole cluster.
        assert!(!requested.iter().any(|path| path.contains("nodes") || path.contains("daemonsets")), "{requested:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_for_many_networks_is_confirmed_by_a_few_reads() {
        let names: Vec<String> = (0..250).map(|number| format!("new{number}")).collect();
        let nics: Vec<&str> = ["old"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let mut review: Value = serde_json::from_slice(&body(&nics, &json!({}))).unwrap();
        let networks = review.pointer_mut("/request/object/spec/template/spec/networks").unwrap();
        for (number, network) in networks.as_array_mut().unwrap().iter_mut().enumerate().skip(1) {
            network["multus"]["networkName"] = json!(format!("ns{number:03}/net"));
        }
        let body = review.to_string();
        // The first network that is read was just created, or all of them were.
        for (created, decision) in [("/ns001/", Decision::Denied), ("/ns", Decision::Warned)] {
            let mut store = Store::complete();
            for object in [kubevirt(), vmi()] {
                store.insert(&object).unwrap();
            }
            // A guest has no ports for so many NICs.
            let warned = ["NP106", "NP112"];
            let settings = warned.iter().fold(Settings::default(), |all, rule| all.with_rule(rule, Enforcement::Warn));
            let reviewer = Reviewer::new(Arc::new(store), settings);
            let (rechecker, requested) = cluster(move |path| match path {
                path if path.contains(created) && path.ends_with("/net") => {
                    let mut nad = object("NetworkAttachmentDefinition", "net");
                    nad["metadata"]["namespace"] = json!(path.split('/').nth(5));
                    Some((200, nad))
                }
                path => Some(running(path)),
            });
            let (first, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, body.as_bytes()).await;
            assert_eq!((first.decision, last.decision), (Decision::Denied, decision), "{}", text(&last));
            let requested = requested.lock().unwrap();
            assert_eq!(requested.iter().filter(|path| path.contains("/network-attachment-definitions")).count(), 16);
            assert!(requested.len() < 32, "{requested:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_confirmed_denial_says_in_which_namespace_the_network_exists() {
        let mut elsewhere = object("NetworkAttachmentDefinition", "net");
        elsewhere["metadata"]["namespace"] = json!("other");
        let reviewer = reviewer(&[kubevirt(), vmi(), elsewhere]);
        let (rechecker, _) = cluster(|path| Some(running(path)));
        let body = body(&["old", "new"], &json!({}));
        let (first, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, &body).await;
        assert!(text(&last).contains("other/net"), "{}", text(&last));
        assert_eq!((text(&first), results(&rechecker)), (text(&last), [1, 0, 0]));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_of_the_cluster_the_denial_becomes_a_warning() {
        let body = body(&["old", "new"], &json!({}));
        for (code, reply) in [(None, Value::Null), (Some(500), json!("broken"))] {
            let reviewer = reviewer(&[kubevirt(), vmi()]);
            let (rechecker, _) = cluster(move |_| code.map(|code| (code, reply.clone())));
            let start = Instant::now();
            let (_, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, &body).await;
            assert_eq!((last.decision, results(&rechecker)), (Decision::Warned, [0, 0, 1]), "{}", text(&last));
            assert!(text(&last).contains("was not checked"), "{}", text(&last));
            assert!(start.elapsed() <= TIMEOUT + Duration::from_millis(10));
        }
        // Other rechecks, which never end, hold all permits.
        let reviewer = reviewer(&[kubevirt(), vmi()]);
        let (rechecker, requested) = cluster(|_| None);
        let _all = rechecker.permits.acquire_many(u32::try_from(MAX_RECHECKS).unwrap()).await.unwrap();
        let (_, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, &body).await;
        assert_eq!((last.decision, requested.lock().unwrap().len()), (Decision::Warned, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_decision_that_facts_cannot_change_reads_nothing() {
        let (rechecker, requested) = cluster(|path| Some(running(path)));
        let twice = body(&["old", "new", "new"], &json!({}));
        let reviewer = reviewer(&[kubevirt(), vmi(), object("NetworkAttachmentDefinition", "net")]);
        for (endpoint, body) in [(Endpoint::Validate, twice), (Endpoint::Mutate, body(&["old"], &json!({})))] {
            let (first, last) = confirm(&rechecker, &reviewer, endpoint, &body).await;
            assert_eq!(first, last);
        }
        assert_eq!(*requested.lock().unwrap(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_with_a_cause_of_the_request_alone_reads_nothing_whatever_its_other_causes_need() {
        // The name that is given twice is a fault of the request; that its network is missing is a fact.
        let (twice, missing) = ("[NP001]", "[NP105]");
        for (nics, causes, reads) in [
            (&["old", "new"][..], &[missing][..], true),
            (&["old", "new", "new"], &[twice, missing], false),
            (&["old", "old"], &[twice], false),
        ] {
            // By the API server the network exists.
            let (rechecker, requested) = cluster(|path| match path {
                NAD => Some((200, object("NetworkAttachmentDefinition", "net"))),
                path => Some(running(path)),
            });
            let reviewer = reviewer(&[kubevirt(), vmi()]);
            let body = body(nics, &json!({}));
            let (first, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, &body).await;
            assert_eq!(first.decision, Decision::Denied, "{nics:?}");
            for cause in [twice, missing] {
                assert_eq!(text(&first).contains(cause), causes.contains(&cause), "{nics:?}: {}", text(&first));
            }
            assert_eq!(!requested.lock().unwrap().is_empty(), reads, "{nics:?}");
            assert_eq!(results(&rechecker), if reads { [0, 1, 0] } else { [0, 0, 0] }, "{nics:?}");
            // The causes that need facts stay as the first evaluation found them.
            assert_eq!(first == last, !reads, "{nics:?}: {}", text(&last));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_nic_of_a_guest_that_was_just_started_is_unplugged() {
        let (rechecker, _) = cluster(|path| Some(running(path)));
        let reviewer = reviewer(&[kubevirt()]);
        let body = body(&["old"], &json!({"nicplug.io/remove-interfaces": "old"}));
        let (first, last) = confirm(&rechecker, &reviewer, Endpoint::Mutate, &body).await;
        assert_eq!(
            (first.decision, last.decision, results(&rechecker)),
            (Decision::Patched, Decision::Patched, [0, 1, 0])
        );
        assert_ne!(text(&first), text(&last));
    }

    #[tokio::test(start_paused = true)]
    async fn the_known_user_of_an_address_is_read_again() {
        let nad = object("NetworkAttachmentDefinition", "net");
        let other = || vm("other", &["with-mac"], &json!({}));
        let reviewer = reviewer(&[kubevirt(), vmi(), nad.clone(), other()]);
        let body = body(&["old", "with-mac"], &json!({}));
        for (is_there, decision) in [(true, Decision::Denied), (false, Decision::Warned)] {
            let nad = nad.clone();
            let (rechecker, _) = cluster(move |path| match path {
                NAD => Some((200, nad.clone())),
                OTHER if is_there => Some((200, vm("other", &["with-mac"], &json!({})))),
                path => Some(running(path)),
            });
            let (first, last) = confirm(&rechecker, &reviewer, Endpoint::Validate, &body).await;
            assert!(first.decision == Decision::Denied && text(&first).contains("NP113"), "{}", text(&first));
            assert_eq!(last.decision, decision, "{}", text(&last));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_known_users_of_a_network_are_read_again() {
        let vmi_of = |name: &str| {
            let mut vmi = object("VirtualMachineInstance", name);
            vmi["spec"] = guest(&["old"]);
            vmi
        };
        let path_of = |name: &str| format!("/apis/kubevirt.io/v1/namespaces/demo/virtualmachineinstances/{name}");
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "operation": "DELETE", "namespace": "demo", "name": "net", "object": null,
            "kind": {"group": "k8s.cni.cncf.io", "version": "v1", "kind": "NetworkAttachmentDefinition"},
            "oldObject": object("NetworkAttachmentDefinition", "net")}})
        .to_string();
        let guests = |count: usize| (0..count).map(|number| vmi_of(&format!("vm-{number}"))).collect::<Vec<_>>();
        // Nine guests are one more than are read again.
        for (count, left, decision, message) in [
            (2, &["vm-1"][..], Decision::Denied, "in use by 1 running guest: vm-1"),
            (2, &[], Decision::Allowed, ""),
            (9, &["vm-7"], Decision::Denied, "in use by 2 running guests: vm-7 and 1 more"),
            (9, &[], Decision::Warned, "was not checked"),
        ] {
            let left: Vec<(String, Value)> = left.iter().map(|name| (path_of(name), vmi_of(name))).collect();
            let (rechecker, requested) = cluster(move |path| {
                let guest = left.iter().find(|(known, _)| known == path).map(|(_, guest)| (200, guest.clone()));
                Some(guest.unwrap_or_else(|| (404, not_found(path))))
            });
            let (first, last) =
                confirm(&rechecker, &reviewer(&guests(count)), Endpoint::Validate, body.as_bytes()).await;
            assert!(text(&first).contains(&format!("in use by {count} running guests")), "{}", text(&first));
            assert_eq!(last.decision, decision, "{}", text(&last));
            assert!(text(&last).contains(message), "{}", text(&last));
            assert_eq!(requested.lock().unwrap().len(), count.min(8), "only the guests that it named");
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
            change_events: None,
            denials: DenialCounts::default(),
            counts: counts.clone(),
            in_flight: Arc::new(InFlight::new(1)),
            overload: Overload::new(),
            spans: None,
            max_body: 1 << 20,
            bodies: Arc::new(BodyBudget::new(1 << 20)),
            body_window: Duration::from_secs(5),
            timeout: Duration::from_secs(4),
        });
        let mut body: Value = serde_json::from_slice(&body(&["old", "new"], &json!({}))).unwrap();
        body["request"]["userInfo"]["username"] = json!("system:serviceaccount:demo:kubevirt-apiserver");
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
        assert!(line.contains("kubevirt-apiserver") && line.contains("NP105"), "{line}");
        // The queue has no sender, so it drops the Event.
        assert_eq!(events.dropped(DropReason::Full), 1);
    }
}
