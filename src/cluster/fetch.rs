//! The facts that one change needs, read directly from the API server: only the objects that the change involves.
//!
//! For a command, which has no watches, and for a denial that depends on an object that was missing a moment ago. All
//! reads run at once. A read that fails makes only its own fact unknown, and is returned as a [`FetchError`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt, join_all};
use kube::{Client, core::params::ListParams};

use super::{
    reference::Reference,
    store::{Store, kinds::MULTUS_CONFIG, network_index::OF_MULTUS},
};
use crate::{
    api::{network::NadRef, vm::VirtualMachine, vmi::VirtualMachineInstance},
    change::{Change, MigrationStart, Nic},
    facts::{
        nad::{MULTUS_NAMESPACE, SIMILAR_AT_MOST, nad_of},
        nodes::KUBEVIRT_NODE,
    },
    k8s::{
        api_error::ApiError,
        kind::Kind,
        request::{ApiClient, Fields, ObjectPath},
    },
};

/// What to read: a guest, and the networks that it is to have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FetchPlan {
    namespace: String,
    guest: String,
    /// Namespace and name of each NetworkAttachmentDefinition.
    networks: BTreeSet<(String, String)>,
    /// The names of default networks without a namespace, which Multus looks for in one of its own.
    default_networks: BTreeSet<String>,
    /// That namespace; `None` if the configuration of Multus decides.
    multus_namespace: Option<Arc<str>>,
    /// Namespace and name of each further guest.
    guests: BTreeSet<(String, String)>,
    /// `None` for all kinds.
    kinds: Option<Vec<Kind>>,
    /// Whether no networks are listed to find one that may have been meant.
    is_without_suggestions: bool,
}

/// How many networks, and how many further guests, a [bounded](FetchPlan::bounded) plan reads.
const READ_AT_MOST: usize = 16;

impl FetchPlan {
    /// Plans to read all that the rules may need for a change, except which other guests have its MAC addresses: that
    /// would take every VM of the cluster, so it stays unknown.
    #[must_use]
    pub fn of(change: &Change) -> Self {
        let subject = change.subject;
        // A default network without a namespace is in that of Multus, and often meant to be in that of the VM.
        let names = change.nics.added_or_modified().filter_map(Nic::network_name);
        let networks = names.map(|name| NadRef::parse(name, subject.namespace));
        let networks = networks.map(|NadRef { namespace, name }| (namespace.to_owned(), name.to_owned()));
        let of_multus = change.nics.added_or_modified().filter_map(|nic| nad_of(nic, subject.namespace, OF_MULTUS));
        let default_networks = of_multus.filter(|nad| nad.namespace == OF_MULTUS).map(|nad| nad.name.to_owned());
        Self {
            namespace: subject.namespace.to_owned(),
            guest: subject.name.to_owned(),
            networks: networks.collect(),
            default_networks: default_networks.collect(),
            multus_namespace: change.multus_namespace.clone(),
            ..Self::default()
        }
    }

    /// Plans to read all that the rules may need for the start of a migration.
    #[must_use]
    pub fn of_migration(start: &MigrationStart) -> Self {
        Self { namespace: start.namespace.to_owned(), guest: start.vmi_name.to_owned(), ..Self::default() }
    }

    /// Plans to read all about a guest, without a network.
    #[must_use]
    pub fn about(namespace: &str, guest: &str) -> Self {
        Self { namespace: namespace.to_owned(), guest: guest.to_owned(), ..Self::default() }
    }

    /// Sets the namespace where Multus looks for default networks, if it is known.
    #[must_use]
    pub fn with_multus_namespace(self, multus_namespace: Option<Arc<str>>) -> Self {
        Self { multus_namespace, ..self }
    }

    /// Adds another guest, to learn whether it still has a MAC address that it had.
    #[must_use]
    pub fn with_guest(mut self, namespace: &str, name: &str) -> Self {
        self.guests.insert((namespace.to_owned(), name.to_owned()));
        self
    }

    /// Adds a network: `nad` or `namespace/nad`.
    #[must_use]
    pub fn with_network(mut self, network_name: &str) -> Self {
        let NadRef { namespace, name } = NadRef::parse(network_name, &self.namespace);
        let network = (namespace.to_owned(), name.to_owned());
        self.networks.insert(network);
        self
    }

    /// Limits the plan to these kinds; all other facts stay unknown.
    #[must_use]
    pub fn only(self, kinds: &[Kind]) -> Self {
        Self { kinds: Some(kinds.to_vec()), ..self }
    }

    /// Limits the plan for a request that a server answers, which may name 256 networks: to the first networks and
    /// guests, and without a list of others that may have been meant.
    #[must_use]
    pub fn bounded(self) -> Self {
        let first = |names: BTreeSet<_>| names.into_iter().take(READ_AT_MOST).collect();
        Self {
            networks: first(self.networks),
            default_networks: self.default_networks.into_iter().take(READ_AT_MOST).collect(),
            guests: first(self.guests),
            is_without_suggestions: true,
            ..self
        }
    }

    /// Whether the plan reads a network.
    #[must_use]
    pub fn reads_network(&self, network: NadRef) -> bool {
        self.networks.iter().any(|(namespace, name)| NadRef { namespace, name } == network)
            || self.default_networks.contains(network.name)
    }

    fn includes(&self, kind: Kind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct FetchedFacts {
    /// The objects that were read.
    pub store: Store,
    /// What could not be read, and so is unknown.
    pub errors: Vec<FetchError>,
}

/// Something that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FetchError {
    /// The object, or all objects of a kind.
    pub path: ObjectPath,
    /// Why not.
    pub reason: ApiError,
}

/// Reads what a plan names, all at once. Whatever has not arrived after `timeout` is unknown.
pub async fn fetch_facts(client: &Client, plan: &FetchPlan, timeout: Duration) -> FetchedFacts {
    let client = ApiClient::with_deadline(client.clone(), timeout);
    let mut facts = FetchedFacts::default();
    let planned = plan.multus_namespace.as_deref().unwrap_or(MULTUS_NAMESPACE);
    let mut reads = reads(&client, plan);
    reads.push(default_networks(&client, plan, planned));
    facts.add(join_all(reads).await);
    // The configuration of Multus was read at the same time.
    let configured = facts.store.multus_namespace(plan.multus_namespace.as_ref());
    if let Some(namespace) = configured.as_deref().filter(|&namespace| namespace != planned) {
        facts.add(vec![default_networks(&client, plan, namespace).await]);
    }
    facts
}

impl FetchedFacts {
    fn add(&mut self, fetched: Vec<Vec<Fetched>>) {
        for fetched in fetched.into_iter().flatten() {
            if let Err(error) = fetched.add_to(&mut self.store) {
                self.errors.push(error);
            }
        }
    }
}

/// Returns the read of the default networks without a namespace, in this namespace of Multus.
fn default_networks<'c>(client: &'c ApiClient, plan: &FetchPlan, multus_namespace: &str) -> Read<'c> {
    let names = plan.default_networks.iter().filter(|_| plan.includes(Kind::Nad));
    let paths = names.map(|name| ObjectPath::one(Kind::Nad, multus_namespace, name));
    networks(client, paths.collect(), !plan.is_without_suggestions).boxed()
}

/// The result of one read.
enum Fetched {
    /// An object, as JSON text.
    Object(ObjectPath, String),
    /// Some or all objects of a kind, as JSON text.
    Objects { path: ObjectPath, objects: Vec<String>, are_all: bool },
    /// The object does not exist.
    Absent(ObjectPath),
    /// It is unknown whether the object exists.
    Failed(FetchError),
}

impl Fetched {
    fn add_to(self, store: &mut Store) -> Result<(), FetchError> {
        let unreadable =
            |path, error: &dyn ToString| FetchError { path, reason: ApiError::Unreadable(error.to_string()) };
        match self {
            Self::Object(path, object) => {
                store.apply(path.kind, &object).map_err(|error| unreadable(path, &error))?;
            }
            Self::Objects { path, objects, are_all } => {
                let error = objects.iter().find_map(|object| store.apply(path.kind, object).err());
                match error {
                    None if are_all => store.finish_sync(path.kind),
                    // One unreadable object makes all of them unknown: it may be the one that decides.
                    Some(error) if are_all => {
                        store.clear(path.kind);
                        return Err(unreadable(path, &error));
                    }
                    _ => {}
                }
            }
            Self::Absent(path) => store.mark_absent(path.kind, &path.namespace, path.name()),
            Self::Failed(error) => return Err(error),
        }
        Ok(())
    }
}

/// A read in progress.
type Read<'c> = BoxFuture<'c, Vec<Fetched>>;

/// Returns the reads of a plan. The KubeVirt resource is first, since it defines the types of devices of a guest.
fn reads<'c>(client: &'c ApiClient, plan: &'c FetchPlan) -> Vec<Read<'c>> {
    let FetchPlan { namespace, guest, .. } = plan;
    let all = |path, params| list(client, path, params).map(|fetched| vec![fetched]).boxed();
    let one = |path| get(client, path).map(|fetched| vec![fetched]).boxed();
    let permitted = |path| list(client, path, ListParams::default()).map(|fetched| without_failures([fetched])).boxed();
    let mut reads: Vec<(Kind, Read)> = vec![
        (Kind::KubeVirt, all(ObjectPath::all(Kind::KubeVirt, ""), ListParams::default())),
        (Kind::DaemonSet, all(ObjectPath::all(Kind::DaemonSet, ""), ListParams::default())),
        (Kind::ConfigMap, all(ObjectPath::all(Kind::ConfigMap, ""), named(MULTUS_CONFIG))),
        (Kind::Node, nodes(client).boxed()),
    ];
    if !namespace.is_empty() {
        reads.push((Kind::Namespace, one(ObjectPath::one(Kind::Namespace, "", namespace))));
    }
    // An object that gets its name from the API server does not exist yet.
    if !guest.is_empty() {
        reads.push((Kind::Vm, vm(client, ObjectPath::one(Kind::Vm, namespace, guest)).boxed()));
        reads.push((Kind::Vmi, vmi(client, ObjectPath::one(Kind::Vmi, namespace, guest)).boxed()));
        reads.push((Kind::ResourceQuota, permitted(ObjectPath::all(Kind::ResourceQuota, namespace))));
        reads.push((Kind::Migration, all(ObjectPath::all(Kind::Migration, namespace), ListParams::default())));
    }
    for (namespace, name) in &plan.guests {
        reads.extend([Kind::Vm, Kind::Vmi].map(|kind| (kind, one(ObjectPath::one(kind, namespace, name)))));
    }
    if !plan.networks.is_empty() {
        reads.push((Kind::MutatingWebhooks, permitted(ObjectPath::all(Kind::MutatingWebhooks, ""))));
    }
    let mut by_namespace: BTreeMap<&str, Vec<ObjectPath>> = BTreeMap::new();
    for (namespace, name) in &plan.networks {
        by_namespace.entry(namespace).or_default().push(ObjectPath::one(Kind::Nad, namespace, name));
    }
    let suggests = !plan.is_without_suggestions;
    reads.extend(by_namespace.into_values().map(|paths| (Kind::Nad, networks(client, paths, suggests).boxed())));
    reads.into_iter().filter(|(kind, _)| plan.includes(*kind)).map(|(_, read)| read).collect()
}

/// Reads one object.
async fn get(client: &ApiClient, path: ObjectPath) -> Fetched {
    if !path.is_valid() {
        return Fetched::Absent(path);
    }
    match client.get(&path).await {
        Ok(object) => Fetched::Object(path, object),
        Err(ApiError::NotFound(_)) => Fetched::Absent(path),
        Err(reason) => Fetched::Failed(FetchError { path, reason }),
    }
}

/// Lists all objects that match.
async fn list(client: &ApiClient, path: ObjectPath, params: ListParams) -> Fetched {
    if !path.is_valid() {
        return Fetched::Objects { path, objects: Vec::new(), are_all: true };
    }
    match client.list(&path, params, Fields::All).objects().await {
        Ok(objects) => Fetched::Objects { path, objects, are_all: true },
        Err(reason) => Fetched::Failed(FetchError { path, reason }),
    }
}

/// Reads a VMI and the ControllerRevision that it was started from.
async fn vmi(client: &ApiClient, path: ObjectPath) -> Vec<Fetched> {
    let vmi = get(client, path).await;
    let revision = match &vmi {
        Fetched::Object(path, object) => {
            revision_of(object).map(|name| ObjectPath::one(Kind::Revision, &path.namespace, &name))
        }
        _ => None,
    };
    match revision {
        Some(revision) => vec![vmi, get(client, revision).await],
        None => vec![vmi],
    }
}

/// Reads a VM and what KubeVirt expands it with. Many users may not read that, and without it less is known.
async fn vm(client: &ApiClient, path: ObjectPath) -> Vec<Fetched> {
    let vm = get(client, path).await;
    let Fetched::Object(ObjectPath { namespace, .. }, object) = &vm else { return vec![vm] };
    let expanding = expanding_objects(namespace, object);
    let mut fetched = without_failures(join_all(expanding.into_iter().map(|path| get(client, path))).await);
    fetched.push(vm);
    fetched
}

/// Reads networks of one namespace. If one does not exist and `suggests`, it also lists others there, one of which may
/// have been meant: once, because a guest can name 256.
async fn networks(client: &ApiClient, paths: Vec<ObjectPath>, suggests: bool) -> Vec<Fetched> {
    let networks = join_all(paths.into_iter().map(|path| get(client, path))).await;
    let absent = networks.iter().find_map(|network| match network {
        Fetched::Absent(path) => Some(ObjectPath::all(Kind::Nad, &path.namespace)),
        _ => None,
    });
    let mut fetched = Vec::new();
    if let Some(others) = absent.filter(|others| suggests && others.is_valid()) {
        let params = ListParams::default().limit(SIMILAR_AT_MOST.into());
        let first_page = client.list(&others, params, Fields::All).next().await;
        // They only improve the message, so an error changes no decision.
        if let Ok(Some(objects)) = first_page {
            fetched.push(Fetched::Objects { path: others, objects, are_all: false });
        }
    }
    fetched.extend(networks);
    fetched
}

/// Lists the nodes that KubeVirt has labelled; all nodes if it has labelled none.
async fn nodes(client: &ApiClient) -> Vec<Fetched> {
    let path = ObjectPath::all(Kind::Node, "");
    let labelled = ListParams::default().labels(KUBEVIRT_NODE);
    let mut nodes = client.list(&path, labelled, Fields::All).objects().await;
    if nodes.as_ref().is_ok_and(Vec::is_empty) {
        nodes = client.list(&path, ListParams::default(), Fields::All).objects().await;
    }
    vec![match nodes {
        Ok(objects) => Fetched::Objects { path, objects, are_all: true },
        Err(reason) => Fetched::Failed(FetchError { path, reason }),
    }]
}

/// Drops failed reads of what many users may not read. Without quotas a migration is only not known to be refused, and
/// without mutating webhooks the injector is only not known to be missing.
fn without_failures(fetched: impl IntoIterator<Item = Fetched>) -> Vec<Fetched> {
    fetched.into_iter().filter(|fetched| !matches!(fetched, Fetched::Failed(_))).collect()
}

fn named(name: &str) -> ListParams {
    ListParams::default().fields(&format!("metadata.name={name}"))
}

/// Returns the objects with which KubeVirt may expand a VM, given as its JSON text.
#[must_use]
pub fn expanding_objects(namespace: &str, vm: &str) -> Vec<ObjectPath> {
    let Ok(vm) = serde_json::from_str::<VirtualMachine>(vm) else { return Vec::new() };
    let references = Reference::both(&vm);
    references.iter().flatten().flat_map(|reference| reference.paths(namespace)).collect()
}

/// Returns the name of the ControllerRevision that a VMI was started from.
fn revision_of(vmi: &str) -> Option<String> {
    let vmi: VirtualMachineInstance = serde_json::from_str(vmi).ok()?;
    let revision = vmi.status.virtual_machine_revision_name.as_deref();
    revision.filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::{Arc, Mutex},
    };

    use hyper::{Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::{
        api::review::{self, ParsedRequest},
        facts::{Fact, FactSource, Facts, attachment::InPlace},
    };

    const TIMEOUT: Duration = Duration::from_secs(2);
    const VM: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/vm";
    const VMI: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachineinstances/vm";
    const REVISION: &str = "/apis/apps/v1/namespaces/demo/controllerrevisions/revision-1";
    const MIGRATIONS: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachineinstancemigrations";
    const NADS: &str = "/apis/k8s.cni.cncf.io/v1/namespaces/demo/network-attachment-definitions";
    const NAD: &str = "/apis/k8s.cni.cncf.io/v1/namespaces/demo/network-attachment-definitions/net";
    const KUBEVIRTS: &str = "/apis/kubevirt.io/v1/kubevirts";
    const DAEMON_SETS: &str = "/apis/apps/v1/daemonsets";
    const NODES: &str = "/api/v1/nodes";

    /// A response of the API server: status and body.
    type Reply = (u16, Value);

    /// The status of a response that never comes.
    const NEVER: u16 = 0;

    fn metadata(name: &str) -> Value {
        json!({"name": name, "namespace": "demo", "uid": "1", "labels": {}})
    }

    fn guest() -> Value {
        json!({"domain": {"devices": {}}})
    }

    /// A cluster in which every object exists.
    fn complete(path: &str) -> Reply {
        let list = |items: Value| json!({"kind": "List", "metadata": {}, "items": items});
        let body = match path {
            VM => json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": metadata("vm"),
                "spec": {"template": {"spec": guest()}}}),
            VMI => json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata("vm"),
                "spec": guest(), "status": {"phase": "Running", "virtualMachineRevisionName": "revision-1"}}),
            REVISION => {
                json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata("revision-1"),
                "revision": 1, "data": {"spec": {"template": {"spec": guest()}}}})
            }
            NAD => json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": metadata("net"), "spec": {}}),
            KUBEVIRTS => {
                list(json!([{"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": metadata("kubevirt"),
                "status": {"observedKubeVirtVersion": "v1.9.0"}}]))
            }
            // Items of a list of a built-in kind have neither apiVersion nor kind.
            DAEMON_SETS => list(json!([{"metadata": metadata("dnc"),
                "spec": {"template": {"spec": {"containers": [{"command": ["/dynamic-networks-controller"]}]}}},
                "status": {"numberReady": 3, "desiredNumberScheduled": 3}}])),
            NODES => list(json!([{"metadata": {"name": "node-a", "labels": {"kubevirt.io/schedulable": "true"}}}])),
            "/api/v1/configmaps" => list(Value::Null),
            MIGRATIONS | NADS => list(json!([])),
            _ => return absent(path),
        };
        (200, body)
    }

    /// The same, where the VM has an instancetype and a preference.
    fn expanding(path: &str) -> Reply {
        let expanding = "/apis/instancetype.kubevirt.io/v1beta1";
        let named = json!({"name": "pe", "kind": "VirtualMachinePreference"});
        let stored = json!({"controllerRevisionRef": {"name": "vm-u1-1"}});
        let spec = json!({"cpu": {"guest": 2}, "memory": {"guest": "4Gi"}});
        match path {
            VM => (
                200,
                json!({"metadata": metadata("vm"), "status": {"instancetypeRef": stored},
                    "spec": {"instancetype": {"name": "u1"}, "preference": named, "template": {"spec": guest()}}}),
            ),
            path if path == format!("{expanding}/namespaces/demo/virtualmachinepreferences/pe") => {
                (200, json!({"metadata": metadata("pe"), "spec": {"devices": {"preferredInterfaceModel": "e1000e"}}}))
            }
            path if path.ends_with("/controllerrevisions/vm-u1-1") => {
                let labels = json!({"instancetype.kubevirt.io/object-name": "u1"});
                let metadata = json!({"name": "vm-u1-1", "namespace": "demo", "labels": labels});
                let data = json!({"kind": "VirtualMachineClusterInstancetype", "spec": spec});
                (200, json!({"metadata": metadata, "data": data}))
            }
            path if path.starts_with(expanding) => (403, json!({"kind": "Status", "code": 403, "reason": "Forbidden"})),
            _ => complete(path),
        }
    }

    #[tokio::test]
    async fn what_kubevirt_expands_the_vm_with_is_read_as_far_as_permitted() {
        let mut change = adds("net");
        change["request"]["object"]["spec"]["preference"] = json!({"name": "pe", "kind": "VirtualMachinePreference"});
        change["request"]["object"]["spec"]["instancetype"] = json!({"name": "u1"});
        change["request"]["object"]["status"] =
            json!({"instancetypeRef": {"controllerRevisionRef": {"name": "vm-u1-1"}}});
        let (facts, errors, urls) = fetched(&change, expanding).await;
        let after = facts.expansion().unwrap();
        assert_eq!(after.preference.known().map(|preference| &*preference.devices.interface_model), Some("e1000e"));
        assert_eq!(
            after.instancetype.known().map(|instancetype| (instancetype.vcpus, &*instancetype.memory)),
            Some((2, "4Gi"))
        );
        assert!(errors.is_empty(), "{errors:?}");
        assert!(urls.iter().any(|url| url.ends_with("/v1beta1/virtualmachineclusterinstancetypes/u1")), "{urls:?}");
    }

    fn absent(path: &str) -> Reply {
        let name = path.rsplit('/').next().unwrap();
        let message = format!("things {name:?} not found");
        (
            404,
            json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": message,
            "details": {"name": name, "kind": "things"}}),
        )
    }

    /// Fetches the facts of a change; returns the facts, the errors, and the URLs that were requested.
    async fn fetched(
        change: &Value,
        reply: impl Fn(&str) -> Reply + Send + 'static,
    ) -> (Facts, Vec<String>, Vec<String>) {
        let requested = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requested);
        let service = service_fn(move |request: hyper::Request<Body>| {
            log.lock().unwrap().push(request.uri().to_string());
            let reply: BoxFuture<'_, Result<Response<Body>, hyper::http::Error>> = match reply(request.uri().path()) {
                (NEVER, _) => pending().boxed(),
                (code, Value::String(text)) => answer(code, text),
                (code, body) => answer(code, body.to_string()),
            };
            reply
        });
        let client = Client::new(service, "default");
        let text = change.to_string();
        let ParsedRequest::Valid(request) = review::read(text.as_bytes()).unwrap() else { panic!("{text}") };
        let change = Change::of(&request).unwrap();
        let fetched = fetch_facts(&client, &FetchPlan::of(&change), TIMEOUT).await;
        let urls = requested.lock().unwrap().clone();
        (fetched.store.facts_for(&change), fetched.errors.iter().map(ToString::to_string).collect(), urls)
    }

    fn answer<E: Send + 'static>(code: u16, text: String) -> BoxFuture<'static, Result<Response<Body>, E>> {
        let mut response = Response::new(Body::from(text.into_bytes()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        ready(Ok(response)).boxed()
    }

    /// An update that adds a NIC on a network to a VM.
    fn adds(network: &str) -> Value {
        let vm = |guest: Value| json!({"metadata": metadata("vm"), "spec": {"template": {"spec": guest}}});
        let new = json!({"domain": {"devices": {"interfaces": [{"name": "blue", "bridge": {}}]}},
            "networks": [{"name": "blue", "multus": {"networkName": network}}]});
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "operation": "UPDATE", "namespace": "demo", "name": "vm",
            "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"}, "object": vm(new), "oldObject": vm(guest())}})
    }

    fn nad(facts: &Facts, name: &str) -> Fact<()> {
        match facts.nads.lookup(NadRef::parse(name, "demo")).nad {
            Fact::Known(_) => Fact::Known(()),
            Fact::Absent => Fact::Absent,
            Fact::Unknown => Fact::Unknown,
        }
    }

    #[tokio::test]
    async fn every_fact_of_a_change_is_fetched() {
        let (facts, errors, urls) = fetched(&adds("net"), complete).await;
        assert_eq!(errors, [""; 0]);
        assert!(facts.kubevirt.known().unwrap().version.is_some());
        assert!(facts.vmi.known().unwrap().is_live());
        assert!(facts.vm.known().is_some() && facts.revision.known().is_some());
        assert_eq!(facts.attachment.known().unwrap().in_place, InPlace::Yes);
        assert_eq!(facts.nodes.map(|nodes| nodes.count()), Fact::Known(1));
        assert_eq!((facts.migration, facts.isolation), (Fact::Absent, Fact::Absent));
        assert_eq!(nad(&Facts { nads: facts.nads, ..Facts::default() }, "net"), Fact::Known(()));
        let count = |path: &str| urls.iter().filter(|url| url.as_str() == path).count();
        assert_eq!([VM, VMI, REVISION, NAD].map(count), [1; 4], "{urls:?}");
        assert!(urls.iter().any(|url| url.contains("fieldSelector=metadata.name%3Dmultus-daemon-config")), "{urls:?}");
    }

    #[tokio::test]
    async fn a_missing_object_is_absent_and_a_missing_kind_is_unknown() {
        let (facts, errors, _) = fetched(&adds("net"), |path| match path {
            VMI | NAD => absent(path),
            _ => complete(path),
        })
        .await;
        assert_eq!((facts.vmi.known().is_none(), nad(&facts, "net"), errors.len()), (true, Fact::Absent, 0));
        assert!(matches!(facts.vmi, Fact::Absent));

        let (facts, errors, _) = fetched(&adds("net"), |path| match path {
            VMI | NAD | MIGRATIONS => (404, json!("404 page not found\n")),
            _ => complete(path),
        })
        .await;
        assert_eq!((nad(&facts, "net"), facts.migration.known()), (Fact::Unknown, None));
        assert!(matches!(facts.vmi, Fact::Unknown));
        assert_eq!(
            errors,
            [
                "VirtualMachineInstance \"demo/vm\": the cluster has no objects of this kind",
                "VirtualMachineInstanceMigrations of namespace \"demo\": the cluster has no objects of this kind",
                "NetworkAttachmentDefinition \"demo/net\": the cluster has no objects of this kind",
            ]
        );
    }

    #[tokio::test]
    async fn a_forbidden_read_makes_only_its_own_fact_unknown() {
        let message = "daemonsets.apps is forbidden: User \"jane\" cannot list resource \"daemonsets\"";
        let (facts, errors, _) = fetched(&adds("net"), move |path| match path {
            DAEMON_SETS => (403, json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": message})),
            _ => complete(path),
        })
        .await;
        assert_eq!(facts.attachment, Fact::Unknown);
        assert_eq!((facts.nodes.known().is_some(), nad(&facts, "net")), (true, Fact::Known(())));
        assert_eq!(errors, [format!("DaemonSets: {message}")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_response_makes_only_its_own_fact_unknown() {
        let (facts, errors, _) =
            fetched(&adds("net"), |path| if path == VMI { (NEVER, Value::Null) } else { complete(path) }).await;
        assert!(matches!(facts.vmi, Fact::Unknown));
        assert!(facts.vm.known().is_some());
        assert_eq!(errors, ["VirtualMachineInstance \"demo/vm\": no answer within 2 s"]);
    }

    #[tokio::test]
    async fn an_unreadable_response_makes_its_kind_unknown() {
        let (facts, errors, _) = fetched(&adds("net"), |path| match path {
            DAEMON_SETS => (200, json!({"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": 5}}]})),
            NODES => (200, json!("<html>")),
            _ => complete(path),
        })
        .await;
        assert_eq!((facts.attachment, facts.nodes), (Fact::Unknown, Fact::Unknown));
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].starts_with("DaemonSets: the answer cannot be read: "), "{errors:?}");
        assert!(errors[1].starts_with("Nodes: the answer cannot be read: "), "{errors:?}");
    }

    #[tokio::test]
    async fn a_missing_network_is_reported_with_one_of_a_similar_name() {
        let (facts, errors, _) = fetched(&adds("nett"), |path| match path {
            NADS => (200, json!({"items": [complete(NAD).1]})),
            _ => complete(path),
        })
        .await;
        assert_eq!((nad(&facts, "nett"), errors.len()), (Fact::Absent, 0));
        assert_eq!(facts.nads.lookup(NadRef::parse("nett", "demo")).suggestion.as_deref(), Some("demo/net"));
    }

    #[tokio::test]
    async fn the_networks_of_a_namespace_are_listed_once_however_many_are_missing() {
        let names: Vec<String> = ('a'..='t').map(|letter| format!("net{letter}")).collect();
        let mut change = adds("");
        let guest = &mut change["request"]["object"]["spec"]["template"]["spec"];
        guest["domain"]["devices"]["interfaces"] =
            names.iter().map(|name| json!({"name": name, "bridge": {}})).collect();
        guest["networks"] = names.iter().map(|name| json!({"name": name, "multus": {"networkName": name}})).collect();
        let (facts, errors, urls) = fetched(&change, |path| match path {
            NADS => (200, json!({"items": [complete(NAD).1]})),
            _ => complete(path),
        })
        .await;
        assert_eq!(errors.len(), 0);
        assert_eq!(urls.iter().filter(|url| url.starts_with(NADS)).count(), names.len() + 1, "{urls:?}");
        assert!(names.iter().all(|name| nad(&facts, name) == Fact::Absent));
        let suggestion = |name: &str| facts.nads.lookup(NadRef::parse(name, "demo")).suggestion;
        // Further ones get no suggestion, because each costs a comparison with all networks.
        let suggested = names.iter().filter(|name| suggestion(name).as_deref() == Some("demo/net"));
        assert!(suggested.eq(&names[..16]));
    }

    #[tokio::test]
    async fn a_default_network_is_fetched_from_the_namespace_that_the_configuration_of_multus_names() {
        let mut change = adds("tenant");
        change["request"]["object"]["spec"]["template"]["spec"]["networks"][0]["multus"]["default"] = json!(true);
        let path = |namespace: &str| {
            format!("/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/tenant")
        };
        for (config, namespace) in [(r#"{"multusNamespace": "of-multus"}"#, "of-multus"), ("{}", "kube-system")] {
            let wanted = path(namespace);
            let (facts, errors, urls) = fetched(&change, move |requested| match requested {
                "/api/v1/configmaps" => (
                    200,
                    json!({"items": [{"metadata": {"name": MULTUS_CONFIG},
                    "data": {"daemon-config.json": config}}]}),
                ),
                requested if requested == wanted => (
                    200,
                    json!({"metadata": {"name": "tenant",
                    "namespace": requested.split('/').nth(5)}}),
                ),
                requested if requested.ends_with("/tenant") => absent(requested),
                requested if requested.ends_with("-definitions") => (200, json!({"items": []})),
                requested => complete(requested),
            })
            .await;
            assert_eq!(errors, [""; 0]);
            let found = facts.nads.lookup(NadRef { namespace, name: "tenant" }).nad;
            assert!(found.known().is_some(), "{namespace}: {urls:?}");
        }
    }

    #[tokio::test]
    async fn an_invalid_name_is_not_requested() {
        for network in ["../../../../api/v1/namespaces/kube-system/secrets", "a/b/c", "net?watch=1", "..", "", "Net"] {
            let (facts, errors, urls) = fetched(&adds(network), complete).await;
            assert_eq!((nad(&facts, network), errors.len()), (Fact::Absent, 0), "{network}");
            let mut of_networks = urls.iter().filter(|url| url.contains("k8s.cni.cncf.io"));
            assert!(of_networks.all(|url| url.ends_with("/network-attachment-definitions?&limit=500")), "{urls:?}");
            assert!(urls.iter().all(|url| !url.contains("secrets") && !url.contains("watch")), "{urls:?}");
        }
    }

    #[tokio::test]
    async fn only_the_kinds_of_the_plan_are_fetched() {
        let requested = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requested);
        let service = service_fn(move |request: hyper::Request<Body>| {
            log.lock().unwrap().push(request.uri().path().to_owned());
            answer::<hyper::http::Error>(200, complete(request.uri().path()).1.to_string())
        });
        let start = MigrationStart { namespace: "demo", vmi_name: "vm" };
        let plan = FetchPlan::of_migration(&start).only(&[Kind::Vmi]);
        let fetched = fetch_facts(&Client::new(service, "default"), &plan, TIMEOUT).await;
        assert_eq!(*requested.lock().unwrap(), [VMI, REVISION]);
        let facts = fetched.store.facts_for_migration(&start);
        assert!(facts.vmi.known().is_some());
        assert!(matches!(facts.vm, Fact::Unknown));
    }
}
