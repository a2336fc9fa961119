//! The objects on which the verdicts depend, and when they were how.
//!
//! Only the test writes them, one write after the other, into a namespace of its own. So the state of the cluster at
//! any time is known: an object has its new content at the earliest when the write is sent, and its old content at the
//! latest until the write is acknowledged.

use std::sync::Mutex;

use hyper::http::Method;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    support::{
        api_server::{
            ApiServer,
            crds::Kind,
            requests::{self, Response, Run, send, try_send},
        },
        builders::{bare_vm, nad, vm},
    },
    until,
};

/// The VM that is updated; its guest comes and goes.
pub(crate) const GUEST: &str = "load";
/// The NIC of the VM that not every guest of it has.
pub(crate) const NIC: &str = "blue";
/// A network that never changes.
pub(crate) const STATIC: &str = "static";
/// A network that comes, changes and goes.
pub(crate) const NETWORK: &str = "flip";
/// A network that exists in another namespace only.
pub(crate) const ELSEWHERE: &str = "far";
/// The MAC address of a VM that comes and goes.
pub(crate) const MAC: &str = "02:00:00:00:00:01";

/// Something that changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// The NetworkAttachmentDefinition [`NETWORK`].
    Network,
    /// The VirtualMachineInstance [`GUEST`].
    Guest,
    /// The VM with the address [`MAC`].
    Holder,
    /// The enforcement that the namespace asks for.
    Namespace,
}

impl Part {
    pub(crate) const ALL: [Self; 4] = [Self::Network, Self::Guest, Self::Holder, Self::Namespace];
}

/// The content of each part, by its number.
pub(crate) type State = [usize; Part::ALL.len()];

/// The contents that each part had in some time.
pub(crate) type Contents = [Vec<usize>; Part::ALL.len()];

/// A content of a part, and when the cluster had it.
#[derive(Clone, Copy, Debug)]
struct Version {
    content: usize,
    /// When the write was sent.
    from: Instant,
    /// When the next write was acknowledged.
    until: Option<Instant>,
}

/// The history of all parts.
pub(crate) struct History {
    pub(crate) namespace: String,
    admin: Client,
    /// The objects that never change, as they are stored.
    pub(crate) fixed: Vec<Value>,
    recorded: Mutex<Recorded>,
}

#[derive(Default)]
struct Recorded {
    /// Each content that a part ever had; none if the object did not exist.
    contents: [Vec<Option<Value>>; Part::ALL.len()],
    versions: [Vec<Version>; Part::ALL.len()],
    /// When the write that is not acknowledged yet was sent.
    writing: Option<Instant>,
}

impl History {
    /// Creates the objects that never change, and the first state.
    pub(crate) async fn begin(api: &ApiServer) -> Self {
        let (admin, namespace) = (api.admin(), api.namespace("load").await);
        let fixed = create_fixed(api, &namespace).await;
        let history = Self { namespace, admin, fixed, recorded: Mutex::default() };
        for part in Part::ALL {
            history.write(part, 0).await;
        }
        history
    }

    /// Changes one part at random. It takes as long as the API server does not answer.
    pub(crate) async fn change(&self, random: &mut fastrand::Rng) {
        let part = Part::ALL[random.usize(0..Part::ALL.len())];
        let variant = match (part, self.exists(part)) {
            // A guest gets another content only by another start. It runs most of the time.
            (Part::Guest, true) if random.u8(0..4) != 0 => return,
            (Part::Guest | Part::Holder, true) => 0,
            (Part::Guest, false) => [1, 1, 2, 3, 4][random.usize(0..5)],
            (Part::Holder, false) => 1,
            (Part::Network, _) => [0, 0, 1, 1, 2, 3][random.usize(0..6)],
            (Part::Namespace, _) => random.usize(0..3),
        };
        self.write(part, variant).await;
    }

    /// Whether the object of a part exists.
    fn exists(&self, part: Part) -> bool {
        let recorded = self.recorded.lock().unwrap();
        let last = recorded.versions[part as usize].last().unwrap();
        recorded.contents[part as usize][last.content].is_some()
    }

    async fn write(&self, part: Part, variant: usize) {
        let begin = Instant::now();
        self.recorded.lock().unwrap().writing = Some(begin);
        let object = until("the object is written", async || self.try_write(part, variant).await).await;
        self.recorded.lock().unwrap().add(part, object, begin);
    }

    /// Writes a variant of a part and returns what is stored; none if the API server does not answer.
    async fn try_write(&self, part: Part, variant: usize) -> Option<Option<Value>> {
        let (collection, name) = match part {
            Part::Network => (Kind::Nad.path(&self.namespace), NETWORK),
            Part::Guest => (Kind::Vmi.path(&self.namespace), GUEST),
            Part::Holder => (Kind::Vm.path(&self.namespace), "holder"),
            Part::Namespace => ("/api/v1/namespaces".to_owned(), &*self.namespace),
        };
        let path = format!("{collection}/{name}");
        if variant == 0 && part != Part::Namespace {
            let response = try_send(&self.admin, Method::DELETE, &path, "application/json", "").await.ok()?;
            return (response.is_ok() || response.code == 404).then_some(None);
        }
        let (content, query, body) = match part {
            Part::Network => ("apply-patch+yaml", "?fieldManager=chaos&force=true", network(variant)),
            Part::Guest => ("apply-patch+yaml", "?fieldManager=chaos&force=true", guest(variant)),
            Part::Holder => ("apply-patch+yaml", "?fieldManager=chaos&force=true", holder()),
            Part::Namespace => ("merge-patch+json", "", namespace(variant)),
        };
        let (path, content) = (format!("{path}{query}"), format!("application/{content}"));
        let response = try_send(&self.admin, Method::PATCH, &path, &content, body.to_string()).await.ok()?;
        assert!(response.is_ok() || super::load::is_failure(&response), "{response:?}");
        response.is_ok().then_some(Some(response.body))
    }

    /// Whether the contents at this time are known.
    pub(crate) fn is_known(&self, at: Instant) -> bool {
        self.recorded.lock().unwrap().writing.is_none_or(|writing| writing > at)
    }

    /// Returns the contents that the parts had at some time between these.
    pub(crate) fn contents(&self, since: Instant, to: Instant) -> Contents {
        let recorded = self.recorded.lock().unwrap();
        recorded.versions.each_ref().map(|versions| {
            let true_then = |version: &&Version| version.from <= to && version.until.is_none_or(|until| until >= since);
            // The last one is the most likely one.
            let mut contents = Vec::new();
            for version in versions.iter().filter(true_then).rev() {
                if !contents.contains(&version.content) {
                    contents.push(version.content);
                }
            }
            contents
        })
    }

    /// Returns all contents that a part ever had.
    pub(crate) fn all_contents(&self, part: Part) -> Vec<usize> {
        (0..self.recorded.lock().unwrap().contents[part as usize].len()).collect()
    }

    /// Returns when contents of which parts were replaced in some time, the last first.
    pub(crate) fn replacements(&self, since: Instant, to: Instant) -> Vec<(Instant, Part)> {
        let recorded = self.recorded.lock().unwrap();
        let all = Part::ALL.into_iter().flat_map(|part| {
            recorded.versions[part as usize].iter().filter_map(move |version| Some((version.until?, part)))
        });
        let mut replaced: Vec<(Instant, Part)> = all.filter(|(until, _)| (since..to).contains(until)).collect();
        replaced.sort_unstable_by_key(|(until, _)| std::cmp::Reverse(*until));
        replaced
    }

    /// Returns a content of a part.
    pub(crate) fn content(&self, part: Part, content: usize) -> Option<Value> {
        self.recorded.lock().unwrap().contents[part as usize][content].clone()
    }

    /// Returns how often something was changed.
    pub(crate) fn changes(&self) -> usize {
        self.recorded.lock().unwrap().versions.iter().map(|versions| versions.len() - 1).sum()
    }
}

impl Recorded {
    fn add(&mut self, part: Part, object: Option<Value>, from: Instant) {
        let object = object.map(without_server_fields);
        let contents = &mut self.contents[part as usize];
        let content = contents.iter().position(|known| *known == object).unwrap_or_else(|| {
            contents.push(object);
            contents.len() - 1
        });
        let versions = &mut self.versions[part as usize];
        if let Some(last) = versions.last_mut() {
            last.until = Some(Instant::now());
        }
        versions.push(Version { content, from, until: None });
        self.writing = None;
    }
}

/// Removes what the API server writes differently each time, so that equal contents are found.
fn without_server_fields(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
        metadata.remove(field);
    }
    object
}

// === The objects ===

async fn create_fixed(api: &ApiServer, namespace: &str) -> Vec<Value> {
    let admin = api.admin();
    let elsewhere = api.namespace("elsewhere").await;
    let mut fixed = Vec::new();
    for (namespace, name) in [(namespace, STATIC), (&elsewhere, ELSEWHERE)] {
        fixed.push(requests::create(&admin, Kind::Nad, namespace, &nad(name), Run::Real).await.granted());
    }
    fixed.push(requests::create(&admin, Kind::Vm, namespace, &updated_vm(), Run::Real).await.granted());
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
        "spec": {"configuration": {"vmRolloutStrategy": "LiveUpdate"},
            "workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}}});
    let installed = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubevirt"}});
    send(&admin, Method::POST, "/api/v1/namespaces", "application/json", installed.to_string()).await.granted();
    requests::create(&admin, Kind::KubeVirt, "kubevirt", &kubevirt, Run::Real).await.granted();
    let status = json!({"status": {"observedKubeVirtVersion": "v1.9.0"}});
    let path = format!("{}/kubevirt/status", Kind::KubeVirt.path("kubevirt"));
    fixed.push(patch(&admin, &path, status).await.granted());
    for (name, image) in [
        ("dynamic-networks-controller-ds", "multus-dynamic-networks-controller:latest"),
        ("kube-multus-ds", "multus-cni:snapshot-thick"),
    ] {
        let labels = json!({"app": name});
        let image = format!("ghcr.io/k8snetworkplumbingwg/{image}");
        let daemon = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": image}]}}}});
        let path = "/apis/apps/v1/namespaces/kube-system/daemonsets";
        send(&admin, Method::POST, path, "application/json", daemon.to_string()).await.granted();
        let status = json!({"numberReady": 3, "desiredNumberScheduled": 3, "currentNumberScheduled": 3,
            "numberMisscheduled": 0});
        fixed.push(patch(&admin, &format!("{path}/{name}/status"), json!({"status": status})).await.granted());
    }
    fixed
}

async fn patch(admin: &Client, path: &str, patch: Value) -> Response {
    send(admin, Method::PATCH, path, "application/merge-patch+json", patch.to_string()).await
}

/// Returns the VM that is updated.
fn updated_vm() -> Value {
    vm().named(GUEST).nic(NIC, STATIC).build()
}

/// Returns a bridge, an SR-IOV network, or one that no pod can use.
fn network(variant: usize) -> Value {
    let mut network = nad(NETWORK);
    match variant {
        1 => {}
        2 => {
            network["spec"]["config"] =
                json!({"cniVersion": "0.3.1", "type": "sriov", "name": NETWORK}).to_string().into();
            network["metadata"]["annotations"] = json!({"k8s.v1.cni.cncf.io/resourceName": "example.com/nic"});
        }
        _ => network["spec"]["config"] = json!("{"),
    }
    network
}

/// Returns a guest that runs with both NICs, with one, that migrates to get one, or that has ended.
fn guest(variant: usize) -> Value {
    let vm = vm().named(GUEST);
    let plugged = |name: &str| json!({"name": name, "infoSource": "domain, guest-agent, multus-status"});
    let (vm, nics) = match variant {
        1 => (vm.nic(NIC, STATIC), vec!["default", NIC]),
        2 => (vm, vec!["default"]),
        3 => (vm.nic(NIC, STATIC), vec!["default"]),
        _ => (vm.nic(NIC, STATIC), vec![]),
    };
    let mut vmi = vm.build_vmi();
    let interfaces: Vec<Value> = nics.into_iter().map(plugged).collect();
    let is_migratable = json!({"type": "LiveMigratable", "status": "True"});
    let phase = if variant == 4 { "Succeeded" } else { "Running" };
    vmi["status"] = json!({"phase": phase, "interfaces": interfaces, "conditions": [is_migratable]});
    vmi
}

fn holder() -> Value {
    let interface = json!({"name": "default", "bridge": {}, "macAddress": MAC});
    bare_vm("holder").nic_with(interface, json!({"multus": {"networkName": STATIC}})).build()
}

/// Returns the annotation: none, a stricter enforcement, or one that is invalid.
fn namespace(variant: usize) -> Value {
    let rules = [Value::Null, json!("NP113=deny, NP102=deny"), json!("NP113")][variant].clone();
    json!({"metadata": {"annotations": {"nicplug.io/rules": rules}}})
}
