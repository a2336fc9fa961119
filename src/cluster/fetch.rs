//! The facts that one change needs, read from the cluster there and then: just the objects that it asks about.
//!
//! For a command, which has no watches, and for a denial that rests on an object that was not there a moment ago. All
//! reads go out at once. One that fails makes its own fact unknown and no other, and is told as a [`FetchError`].

use std::{collections::BTreeSet, fmt, future::Future, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, join_all};
use kube::{
    Client, Error,
    core::{
        Request, Status,
        params::{GetParams, ListParams},
    },
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, timeout_at};

use super::store::{
    Store,
    projection::{KUBEVIRT_NODE, MULTUS_CONFIG},
};
use crate::{
    api::{network::NadRef, vmi::VirtualMachineInstance},
    change::{Change, MigrationStart, Nic},
    k8s::kind::Kind,
};

/// How many networks of a namespace are looked at for one that was perhaps meant instead.
const NEIGHBOURS_AT_MOST: u32 = 500;

/// The longest name that an object can have: a DNS subdomain.
const NAME_AT_MOST: usize = 253;

/// What is asked about: a guest, and networks that it is to have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FetchPlan {
    namespace: String,
    guest: String,
    /// Namespace and name of each NetworkAttachmentDefinition.
    networks: BTreeSet<(String, String)>,
    /// Namespace and name of each further guest.
    guests: BTreeSet<(String, String)>,
    /// `None` for all kinds.
    kinds: Option<Vec<Kind>>,
}

impl FetchPlan {
    /// Asks for all that the rules may need for a change. Who else has its MAC addresses is not asked: that takes every
    /// VM of the cluster, and stays unknown.
    #[must_use]
    pub fn of(change: &Change) -> Self {
        let subject = change.subject;
        let nics = change.nics.added.iter().chain(change.nics.modified.iter().map(|(_, nic)| nic));
        let networks = nics.filter_map(Nic::network_name).map(|name| {
            let NadRef { namespace, name } = NadRef::parse(name, subject.namespace);
            (namespace.to_owned(), name.to_owned())
        });
        Self {
            namespace: subject.namespace.to_owned(),
            guest: subject.name.to_owned(),
            networks: networks.collect(),
            guests: BTreeSet::new(),
            kinds: None,
        }
    }

    /// Asks for all that the rules may need for the start of a migration.
    #[must_use]
    pub fn of_migration(start: &MigrationStart) -> Self {
        Self { namespace: start.namespace.to_owned(), guest: start.vmi_name.to_owned(), ..Self::default() }
    }

    /// Asks for another guest, too: whether it has a MAC address still that it was seen to have.
    #[must_use]
    pub fn and_guest(mut self, namespace: &str, name: &str) -> Self {
        self.guests.insert((namespace.to_owned(), name.to_owned()));
        self
    }

    /// Asks for objects of these kinds alone; all else stays unknown.
    #[must_use]
    pub fn only(self, kinds: &[Kind]) -> Self {
        Self { kinds: Some(kinds.to_vec()), ..self }
    }

    /// Asks for all around a guest, without a network yet.
    #[must_use]
    pub fn about(namespace: &str, guest: &str) -> Self {
        Self { namespace: namespace.to_owned(), guest: guest.to_owned(), ..Self::default() }
    }

    /// Asks for a network too: `nad` or `namespace/nad`.
    #[must_use]
    pub fn with_network(mut self, network_name: &str) -> Self {
        let NadRef { namespace, name } = NadRef::parse(network_name, &self.namespace);
        let network = (namespace.to_owned(), name.to_owned());
        self.networks.insert(network);
        self
    }

    fn is_about(&self, kind: Kind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

/// What the cluster said.
#[derive(Debug, Default)]
pub struct FetchedFacts {
    /// What is known now.
    pub store: Store,
    /// What is unknown, and why.
    pub gaps: Vec<FetchError>,
}

/// Something that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct FetchError {
    /// Which object, or all of a kind.
    pub what: Target,
    /// Why not.
    pub why: Why,
}

/// One object, or all of a kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Of which kind.
    pub kind: Kind,
    /// Empty for all namespaces, and for a kind that has none.
    pub namespace: String,
    /// `None` for all of the kind.
    pub name: Option<String>,
}

impl Target {
    fn one(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: Some(name.to_owned()) }
    }

    fn all(kind: Kind, namespace: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: None }
    }

    fn request(&self) -> Request {
        let (group, version, plural) = (self.kind.group(), self.kind.version(), self.kind.plural());
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match self.namespace.as_str() {
            "" => Request::new(format!("{root}/{plural}")),
            namespace => Request::new(format!("{root}/namespaces/{namespace}/{plural}")),
        }
    }

    /// Whether there may be such an object at all. Names come from whoever made the request, and become a path.
    fn is_possible(&self) -> bool {
        let namespace = self.namespace.as_str();
        (namespace.is_empty() || is_name(namespace)) && self.name.as_deref().is_none_or(is_name)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.kind();
        match (self.namespace.as_str(), &self.name) {
            ("", None) => write!(formatter, "{kind}s"),
            (namespace, None) => write!(formatter, "{kind}s of namespace {namespace:?}"),
            ("", Some(name)) => write!(formatter, "{kind} {name:?}"),
            (namespace, Some(name)) => write!(formatter, "{kind} {:?}", format!("{namespace}/{name}")),
        }
    }
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Whoever asks may not.
    #[error("{0}")]
    Forbidden(String),
    /// The cluster has no such kind: what brings it is not installed.
    #[error("the cluster has no objects of this kind")]
    NoSuchKind,
    /// There was no answer in time.
    #[error("no answer within {}", in_seconds(*.0))]
    TimedOut(Duration),
    /// The API server answered with an error.
    #[error("the API server answered {code}: {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// What it said.
        message: String,
    },
    /// There is no way to the API server, or none that is trusted.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The answer is not what this kind of object looks like.
    #[error("cannot be understood: {0}")]
    Unreadable(String),
}

fn in_seconds(patience: Duration) -> String {
    format!("{} s", patience.as_secs_f64())
}

/// Reads what is asked, all at once. What has not come when the patience ends is unknown.
pub async fn ask(client: &Client, question: &FetchPlan, patience: Duration) -> FetchedFacts {
    let asker = Asker { client, patience, until: Instant::now() + patience };
    let mut answer = FetchedFacts::default();
    for piece in join_all(asker.reads(question)).await.into_iter().flatten() {
        if let Err(gap) = piece.note_in(&mut answer.store) {
            answer.gaps.push(gap);
        }
    }
    answer
}

/// What one read came to.
enum Fetched {
    /// An object, as JSON text.
    Object(Target, String),
    /// Some objects of a kind, or all.
    Objects { target: Target, texts: Vec<String>, are_all: bool },
    /// It is not there.
    Absent(Target),
    /// Nobody knows.
    FetchError(FetchError),
}

impl Fetched {
    fn note_in(self, store: &mut Store) -> Result<(), FetchError> {
        let unreadable = |target: &Target, why: &dyn fmt::Display| FetchError {
            what: target.clone(),
            why: Why::Unreadable(why.to_string()),
        };
        match self {
            Self::Object(target, text) => {
                store.apply(target.kind, &text).map_err(|why| unreadable(&target, &why))?;
            }
            Self::Objects { target, texts, are_all } => {
                let unread = texts.iter().find_map(|text| store.apply(target.kind, text).err());
                match unread {
                    None if are_all => store.finish_sync(target.kind),
                    // One that cannot be read leaves all of them unknown: it may be the one that matters.
                    Some(why) if are_all => {
                        store.clear(target.kind);
                        return Err(unreadable(&target, &why));
                    }
                    _ => {}
                }
            }
            Self::Absent(Target { kind, namespace, name }) => {
                store.absent(kind, &namespace, name.as_deref().unwrap_or_default());
            }
            Self::FetchError(gap) => return Err(gap),
        }
        Ok(())
    }
}

/// Sends the reads of one question.
#[derive(Clone, Copy)]
struct Asker<'c> {
    client: &'c Client,
    patience: Duration,
    until: Instant,
}

/// A read that is under way.
type Read<'c> = BoxFuture<'c, Vec<Fetched>>;

impl<'c> Asker<'c> {
    /// The reads that a question takes. What the devices of a guest are is known from the KubeVirt resource, so that
    /// comes first.
    fn reads(self, question: &'c FetchPlan) -> Vec<Read<'c>> {
        let FetchPlan { namespace, guest, networks, .. } = question;
        let mut reads: Vec<(Kind, Read)> = vec![
            (Kind::KubeVirt, self.all(Target::all(Kind::KubeVirt, ""), ListParams::default())),
            (Kind::DaemonSet, self.all(Target::all(Kind::DaemonSet, ""), ListParams::default())),
            (Kind::ConfigMap, self.all(Target::all(Kind::ConfigMap, ""), named(MULTUS_CONFIG))),
            (Kind::Node, self.nodes().boxed()),
        ];
        if !namespace.is_empty() {
            let target = Target::one(Kind::Namespace, "", namespace);
            reads.push((Kind::Namespace, self.one(target).map(|piece| vec![piece]).boxed()));
        }
        // An object that is still to be named is not there.
        if !guest.is_empty() {
            let target = |kind| Target::one(kind, namespace, guest);
            reads.push((Kind::Vm, self.one(target(Kind::Vm)).map(|piece| vec![piece]).boxed()));
            reads.push((Kind::Vmi, self.vmi(target(Kind::Vmi)).boxed()));
            let migrations = Target::all(Kind::Migration, namespace);
            reads.push((Kind::Migration, self.all(migrations, ListParams::default())));
        }
        for (namespace, name) in &question.guests {
            let one = |kind| self.one(Target::one(kind, namespace, name)).map(|piece| vec![piece]).boxed();
            reads.extend([Kind::Vm, Kind::Vmi].map(|kind| (kind, one(kind))));
        }
        for (namespace, name) in networks {
            reads.push((Kind::Nad, self.network(Target::one(Kind::Nad, namespace, name)).boxed()));
        }
        reads.into_iter().filter(|(kind, _)| question.is_about(*kind)).map(|(_, read)| read).collect()
    }

    /// Reads one object.
    async fn one(self, target: Target) -> Fetched {
        let name = target.name.as_deref().unwrap_or_default();
        if !target.is_possible() {
            return Fetched::Absent(target);
        }
        match self.text(target.request().get(name, &GetParams::default())).await {
            Ok(text) => Fetched::Object(target, text),
            Err(why) if why.is_absence_of(name) => Fetched::Absent(target),
            Err(why) => Fetched::FetchError(FetchError { what: target, why: why.into() }),
        }
    }

    /// Lists objects of a kind, all that there are of those that are asked for.
    fn all(self, target: Target, params: ListParams) -> Read<'c> {
        let list = async move {
            if !target.is_possible() {
                return Fetched::Objects { target, texts: Vec::new(), are_all: true };
            }
            match self.list(target.request().list(&params)).await {
                Ok(texts) => Fetched::Objects { target, texts, are_all: true },
                Err(why) => Fetched::FetchError(FetchError { what: target, why }),
            }
        };
        list.map(|piece| vec![piece]).boxed()
    }

    /// A VMI, and the ControllerRevision that it was started from.
    async fn vmi(self, target: Target) -> Vec<Fetched> {
        let vmi = self.one(target).await;
        let revision = match &vmi {
            Fetched::Object(target, text) => {
                revision_of(text).map(|name| Target::one(Kind::Revision, &target.namespace, &name))
            }
            _ => None,
        };
        match revision {
            Some(revision) => vec![vmi, self.one(revision).await],
            None => vec![vmi],
        }
    }

    /// A network; where there is none of that name, those that were perhaps meant.
    async fn network(self, target: Target) -> Vec<Fetched> {
        let network = self.one(target).await;
        let Fetched::Absent(target) = &network else { return vec![network] };
        let neighbours = Target::all(Kind::Nad, &target.namespace);
        let mut pieces = Vec::new();
        if neighbours.is_possible() {
            let params = ListParams::default().limit(NEIGHBOURS_AT_MOST);
            // They are for the wording only: without them the answer is the same.
            if let Ok(texts) = self.list(neighbours.request().list(&params)).await {
                pieces.push(Fetched::Objects { target: neighbours, texts, are_all: false });
            }
        }
        pieces.push(network);
        pieces
    }

    /// Nodes by their labels: those that KubeVirt runs on, or all where it has labelled none.
    async fn nodes(self) -> Vec<Fetched> {
        let target = Target::all(Kind::Node, "");
        let labelled = ListParams::default().labels(KUBEVIRT_NODE);
        let mut nodes = self.list(target.request().list_metadata(&labelled)).await;
        if nodes.as_ref().is_ok_and(Vec::is_empty) {
            nodes = self.list(target.request().list_metadata(&ListParams::default())).await;
        }
        vec![match nodes {
            Ok(texts) => {
                Fetched::Objects { target, texts: texts.iter().map(|text| node(text)).collect(), are_all: true }
            }
            Err(why) => Fetched::FetchError(FetchError { what: target, why }),
        }]
    }

    async fn list(self, request: Prepared) -> Result<Vec<String>, Why> {
        #[derive(Deserialize)]
        struct List<'t> {
            // `null` where a list of metadata is empty.
            #[serde(borrow, default)]
            items: Option<Vec<&'t RawValue>>,
        }

        let text = self.text(request).await.map_err(Why::from)?;
        let List { items } = serde_json::from_str(&text).map_err(|error| Why::Unreadable(error.to_string()))?;
        Ok(items.into_iter().flatten().map(|item| item.get().to_owned()).collect())
    }

    /// The body of an answer.
    async fn text(self, request: Prepared) -> Result<String, Failure> {
        let request = request.map_err(|error| Failure::Failed(Error::BuildRequest(error)))?;
        let reply: BoxFuture<'_, _> = Box::pin(self.client.request_text(request));
        in_time(reply, self.until).await.ok_or(Failure::TimedOut(self.patience))?.map_err(Failure::Failed)
    }
}

/// A request, if it could be made.
type Prepared = Result<hyper::Request<Vec<u8>>, kube::core::request::Error>;

async fn in_time<T>(work: impl Future<Output = T>, until: Instant) -> Option<T> {
    timeout_at(until, work).await.ok()
}

/// Why there is no body.
enum Failure {
    Failed(Error),
    TimedOut(Duration),
}

impl Failure {
    /// Whether the kind is there and the object is not. Where the kind is missing too, the API server names no object.
    fn is_absence_of(&self, name: &str) -> bool {
        let Self::Failed(Error::Api(status)) = self else { return false };
        let named = status.details.as_ref().is_some_and(|details| details.name == name);
        status.code == NOT_FOUND && status.reason == "NotFound" && named
    }
}

const NOT_FOUND: u16 = 404;

impl From<Failure> for Why {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TimedOut(patience) => Self::TimedOut(patience),
            Failure::Failed(Error::Api(status)) => of_status(*status),
            Failure::Failed(error) => Self::Unreachable(root_cause(&error)),
        }
    }
}

fn of_status(status: Status) -> Why {
    match status.code {
        // Not even that it may not is told to whoever has no name.
        401 | 403 => Why::Forbidden(status.message),
        NOT_FOUND => Why::NoSuchKind,
        code => Why::Refused { code, message: status.message },
    }
}

/// The first cause of an error: what wraps it repeats it.
#[must_use]
pub fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}

fn named(name: &str) -> ListParams {
    ListParams::default().fields(&format!("metadata.name={name}"))
}

/// The name of the ControllerRevision that a VMI was started from.
fn revision_of(text: &str) -> Option<String> {
    let vmi: VirtualMachineInstance = serde_json::from_str(text).ok()?;
    vmi.status.virtual_machine_revision_name.map(|name| name.to_string()).filter(|name| !name.is_empty())
}

/// A node of which only labels are wanted: it comes as `PartialObjectMetadata`.
fn node(text: &str) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Partial {
        metadata: crate::api::cluster::Metadata,
    }

    let Partial { metadata } = serde_json::from_str(text).unwrap_or_default();
    let metadata = json!({"name": metadata.name, "labels": metadata.labels});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}).to_string()
}

/// Whether an object, or a namespace, can have this name. What cannot must not become part of a path.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    text.len() <= NAME_AT_MOST
        && bytes.iter().copied().all(is_inner)
        && is_end(bytes.first().copied())
        && is_end(bytes.last().copied())
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::{Arc, Mutex},
    };

    use hyper::{Response, StatusCode};
    use kube::client::Body;
    use serde_json::Value;
    use tower::service_fn;

    use super::*;
    use crate::{
        api::review::{self, ParsedRequest},
        facts::{Fact, FactSource, Facts, attachment::InPlace},
    };

    const PATIENCE: Duration = Duration::from_secs(2);
    const VM: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/vm";
    const VMI: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachineinstances/vm";
    const REVISION: &str = "/apis/apps/v1/namespaces/demo/controllerrevisions/revision-1";
    const MIGRATIONS: &str = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachineinstancemigrations";
    const NADS: &str = "/apis/k8s.cni.cncf.io/v1/namespaces/demo/network-attachment-definitions";
    const NAD: &str = "/apis/k8s.cni.cncf.io/v1/namespaces/demo/network-attachment-definitions/net";
    const KUBEVIRTS: &str = "/apis/kubevirt.io/v1/kubevirts";
    const DAEMON_SETS: &str = "/apis/apps/v1/daemonsets";
    const NODES: &str = "/api/v1/nodes";

    /// An answer of the API server: status and body.
    type Reply = (u16, Value);

    /// The status of an answer that never comes.
    const NEVER: u16 = 0;

    fn metadata(name: &str) -> Value {
        json!({"name": name, "namespace": "demo", "uid": "1", "labels": {}})
    }

    fn guest() -> Value {
        json!({"domain": {"devices": {}}})
    }

    /// A cluster in which all is there.
    fn good(path: &str) -> Reply {
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
            // Items of a list of a built-in kind do not say what they are.
            DAEMON_SETS => list(json!([{"metadata": metadata("dnc"),
                "spec": {"template": {"spec": {"containers": [{"command": ["/dynamic-networks-controller"]}]}}},
                "status": {"numberReady": 3, "desiredNumberScheduled": 3}}])),
            NODES => list(json!([{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": "node-a", "labels": {"kubevirt.io/schedulable": "true"}}}])),
            "/api/v1/configmaps" => list(Value::Null),
            MIGRATIONS | NADS => list(json!([])),
            _ => return absent(path),
        };
        (200, body)
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

    /// Asks a cluster that answers by path; gives the facts, the gaps, and the paths that were asked for with their
    /// parameters.
    async fn asked(
        change: &Value,
        reply: impl Fn(&str) -> Reply + Send + 'static,
    ) -> (Facts, Vec<String>, Vec<String>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
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
        let answer = ask(&client, &FetchPlan::of(&change), PATIENCE).await;
        let paths = asked.lock().unwrap().clone();
        (answer.store.facts_for(&change), answer.gaps.iter().map(ToString::to_string).collect(), paths)
    }

    fn answer<E: Send + 'static>(code: u16, text: String) -> BoxFuture<'static, Result<Response<Body>, E>> {
        let mut response = Response::new(Body::from(text.into_bytes()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        ready(Ok(response)).boxed()
    }

    /// A VM gets a NIC on a network.
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
    async fn every_fact_of_a_change_is_read() {
        let (facts, gaps, paths) = asked(&adds("net"), good).await;
        assert_eq!(gaps, [""; 0]);
        assert!(facts.kubevirt.known().unwrap().version.is_some());
        assert!(facts.vmi.known().unwrap().is_live());
        assert!(facts.vm.known().is_some() && facts.revision.known().is_some());
        assert_eq!(facts.attachment.known().unwrap().in_place, InPlace::Yes);
        assert_eq!((facts.nodes, facts.migration, facts.isolation), (Fact::Known(1), Fact::Absent, Fact::Absent));
        assert_eq!(nad(&Facts { nads: facts.nads, ..Facts::default() }, "net"), Fact::Known(()));
        let count = |path: &str| paths.iter().filter(|asked| asked.as_str() == path).count();
        assert_eq!([VM, VMI, REVISION, NAD].map(count), [1; 4], "{paths:?}");
        assert!(
            paths.iter().any(|path| path.contains("fieldSelector=metadata.name%3Dmultus-daemon-config")),
            "{paths:?}"
        );
    }

    #[tokio::test]
    async fn an_object_that_is_not_there_is_absent_and_a_kind_that_is_not_there_leaves_it_unknown() {
        let (facts, gaps, _) = asked(&adds("net"), |path| match path {
            VMI | NAD => absent(path),
            _ => good(path),
        })
        .await;
        assert_eq!((facts.vmi.known().is_none(), nad(&facts, "net"), gaps.len()), (true, Fact::Absent, 0));
        assert!(matches!(facts.vmi, Fact::Absent));

        let (facts, gaps, _) = asked(&adds("net"), |path| match path {
            VMI | NAD | MIGRATIONS => (404, json!("404 page not found\n")),
            _ => good(path),
        })
        .await;
        assert_eq!((nad(&facts, "net"), facts.migration.known()), (Fact::Unknown, None));
        assert!(matches!(facts.vmi, Fact::Unknown));
        assert_eq!(
            gaps,
            [
                "VirtualMachineInstance \"demo/vm\": the cluster has no objects of this kind",
                "VirtualMachineInstanceMigrations of namespace \"demo\": the cluster has no objects of this kind",
                "NetworkAttachmentDefinition \"demo/net\": the cluster has no objects of this kind",
            ]
        );
    }

    #[tokio::test]
    async fn what_may_not_be_read_is_unknown_by_itself() {
        let message = "daemonsets.apps is forbidden: User \"jane\" cannot list resource \"daemonsets\"";
        let (facts, gaps, _) = asked(&adds("net"), move |path| match path {
            DAEMON_SETS => (403, json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": message})),
            _ => good(path),
        })
        .await;
        assert_eq!(facts.attachment, Fact::Unknown);
        assert_eq!((facts.nodes.known(), nad(&facts, "net")), (Some(&1), Fact::Known(())));
        assert_eq!(gaps, [format!("DaemonSets: {message}")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_in_time_is_unknown_and_the_rest_is_not_lost() {
        let (facts, gaps, _) =
            asked(&adds("net"), |path| if path == VMI { (NEVER, Value::Null) } else { good(path) }).await;
        assert!(matches!(facts.vmi, Fact::Unknown));
        assert!(facts.vm.known().is_some());
        assert_eq!(gaps, ["VirtualMachineInstance \"demo/vm\": no answer within 2 s"]);
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_understood_leaves_its_kind_unknown() {
        let (facts, gaps, _) = asked(&adds("net"), |path| match path {
            DAEMON_SETS => (200, json!({"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": 5}}]})),
            NODES => (200, json!("<html>")),
            _ => good(path),
        })
        .await;
        assert_eq!((facts.attachment, facts.nodes), (Fact::Unknown, Fact::Unknown));
        assert_eq!(gaps.len(), 2, "{gaps:?}");
        assert!(gaps[0].starts_with("DaemonSets: cannot be understood: "), "{gaps:?}");
        assert!(gaps[1].starts_with("Nodes: cannot be understood: "), "{gaps:?}");
    }

    #[tokio::test]
    async fn a_network_that_is_not_there_brings_those_that_were_perhaps_meant() {
        let (facts, gaps, _) = asked(&adds("nett"), |path| match path {
            NADS => (200, json!({"items": [good(NAD).1]})),
            _ => good(path),
        })
        .await;
        assert_eq!((nad(&facts, "nett"), gaps.len()), (Fact::Absent, 0));
        assert_eq!(facts.nads.lookup(NadRef::parse("nett", "demo")).suggestion.as_deref(), Some("demo/net"));
    }

    #[tokio::test]
    async fn a_name_that_no_object_can_have_is_not_asked_for() {
        for network in ["../../../../api/v1/namespaces/kube-system/secrets", "a/b/c", "net?watch=1", "..", "", "Net"] {
            let (facts, gaps, paths) = asked(&adds(network), good).await;
            assert_eq!((nad(&facts, network), gaps.len()), (Fact::Absent, 0), "{network}");
            let mut of_networks = paths.iter().filter(|path| path.contains("k8s.cni.cncf.io"));
            assert!(of_networks.all(|path| path.ends_with("/network-attachment-definitions?&limit=500")), "{paths:?}");
            assert!(paths.iter().all(|path| !path.contains("secrets") && !path.contains("watch")), "{paths:?}");
        }
    }

    #[tokio::test]
    async fn only_kinds_that_are_asked_for_are_read() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let service = service_fn(move |request: hyper::Request<Body>| {
            log.lock().unwrap().push(request.uri().path().to_owned());
            answer::<hyper::http::Error>(200, good(request.uri().path()).1.to_string())
        });
        let start = MigrationStart { namespace: "demo", vmi_name: "vm" };
        let question = FetchPlan::of_migration(&start).only(&[Kind::Vmi]);
        let answer = ask(&Client::new(service, "default"), &question, PATIENCE).await;
        assert_eq!(*asked.lock().unwrap(), [VMI, REVISION]);
        let facts = answer.store.facts_for_migration(&start);
        assert!(facts.vmi.known().is_some());
        assert!(matches!(facts.vm, Fact::Unknown));
    }

    #[test]
    fn names_are_those_that_the_api_server_takes() {
        for (name, is_one) in
            [("a", true), ("a-b.c0", true), ("", false), ("-a", false), ("a.", false), ("A", false), ("a/b", false)]
        {
            assert_eq!(is_name(name), is_one, "{name:?}");
        }
        assert!(is_name(&"a".repeat(253)) && !is_name(&"a".repeat(254)));
    }
}
