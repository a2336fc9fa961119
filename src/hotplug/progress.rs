//! How far a NIC has come on its way into a running guest, or out of it, and what it waits for.
//!
//! Whoever follows a NIC sees four kinds of objects change: the VM, its VMI, the pod that it runs in and its migrations.
//! This module looks at them as they are at one moment, and remembers nothing.

use std::{
    borrow::Cow,
    fmt::{self, Write},
    sync::Arc,
};

use ring::digest;
use serde_json::Value;

use crate::{
    facts::{Fact, KubeVirt, attachment::InPlace, kubevirt::AutoMigration},
    kubevirt::Version,
};

/// What KubeVirt asks Multus for, on the guest's pod.
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// What Multus has attached to the guest's pod.
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// The first version that copies a NIC of the template to the VMI; before it only `addinterface` requests counted.
const COPIES_SINCE: Version = Version::new(1, 1, 0);

/// How much of a message of KubeVirt's is quoted, in characters.
const QUOTED_AT_MOST: usize = 200;

/// How many hexadecimal digits of its hash name a NIC's interface in the pod.
const HASH_LENGTH: usize = 11;

/// A NIC that is followed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The name of the VM and of its VMI.
    pub guest: String,
    /// The name of the NIC.
    pub nic: String,
    /// Into the guest or out of it.
    pub way: Direction,
}

/// Which way a NIC goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// Into the guest.
    In,
    /// Out of the guest.
    Out,
}

/// A station of a NIC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The VM's template has it; on the way out no more, or as absent.
    Template,
    /// The VMI's spec has it; on the way out no more, or as absent.
    Spec,
    /// The pod's annotation asks Multus for it.
    Annotation,
    /// Multus has attached it to the pod, and the VMI's status says so.
    Multus,
    /// Libvirt has plugged it; on the way out: unplugged.
    Domain,
    /// The guest agent has seen it.
    Agent,
    /// The VMI's status does not show it any more.
    Status,
}

impl Stage {
    /// As it is called in KubeVirt's objects.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Spec => "VMI spec",
            Self::Annotation => "pod annotation",
            Self::Multus => "multus-status",
            Self::Domain => "domain",
            Self::Agent => "guest-agent",
            Self::Status => "status",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// The objects around a guest at one moment, as the API gives them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot<'s> {
    /// The VirtualMachine, if there is one.
    pub vm: Option<&'s Value>,
    /// The VirtualMachineInstance, if there is one.
    pub vmi: Option<&'s Value>,
    /// The pods that the guest runs in, or ran; `None` when nobody may look.
    pub pods: Option<&'s [Value]>,
    /// Migrations of the namespace; `None` when nobody may look.
    pub migrations: Option<&'s [Value]>,
    /// The name of the migration that was started for this NIC, if one was.
    pub started: Option<&'s str>,
}

/// What is known of the cluster before the NIC starts.
#[derive(Clone, Debug, Default)]
pub struct ClusterInfo {
    /// Whether Multus can attach a NIC to a pod that runs.
    pub in_place: Fact<InPlace>,
    /// The KubeVirt resource.
    pub kubevirt: Option<Arc<KubeVirt>>,
}

/// How far a NIC has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Progress {
    /// The stages that lie behind, in order, and what is to be seen there.
    pub passed: Vec<(Stage, String)>,
    /// What comes now.
    pub state: State,
    /// Whether a migration takes it further.
    pub migration: Migration,
}

/// What comes next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// Nothing: it has arrived.
    Done,
    /// It goes no further.
    Over(String),
    /// The next stage.
    Waits {
        /// Which.
        stage: Stage,
        /// What has to happen, or what stands in the way.
        reason: String,
    },
}

/// Whether a migration takes a NIC further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Migration {
    /// Somebody has to start one.
    ByHand,
    /// KubeVirt starts one.
    ByItself,
    /// One is on its way.
    Running,
    /// None is needed, or not yet.
    NotNeeded,
}

/// RecheckCounts at a NIC.
#[must_use]
pub fn observe(target: &Target, scene: &Snapshot, cluster_info: &ClusterInfo) -> Progress {
    let sight = Observer { target, scene, cluster_info };
    match target.way {
        Direction::In => sight.way_in(),
        Direction::Out => sight.way_out(),
    }
}

/// How a NIC that is to be plugged will reach a guest that runs.
#[must_use]
pub fn path(is_sriov: bool, cluster_info: &ClusterInfo) -> Path {
    match cluster_info.in_place {
        _ if is_sriov => Path::Migration(cluster_info.auto_migration()),
        Fact::Known(InPlace::Yes) => Path::InPlace,
        Fact::Known(InPlace::SomeNodes { ready, desired }) => Path::Perhaps { ready, desired },
        Fact::Known(InPlace::No) | Fact::Absent => Path::Migration(cluster_info.auto_migration()),
        Fact::Unknown => Path::Unknown,
    }
}

/// How a NIC reaches a guest that runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Path {
    /// Multus attaches it to the pod.
    InPlace,
    /// It is born with another pod.
    Migration(AutoMigration),
    /// Multus attaches it, if the guest is on the right node.
    Perhaps {
        /// Nodes on which the dynamic-networks controller is ready.
        ready: u32,
        /// Nodes on which it should be.
        desired: u32,
    },
    /// Nobody may look.
    Unknown,
}

/// What the interface of a NIC is called in its pod, since KubeVirt 0.59: `pod` and the beginning of the name's SHA-256.
#[must_use]
pub fn pod_interface(nic: &str) -> String {
    let hash = digest::digest(&digest::SHA256, nic.as_bytes());
    let mut name = String::from("pod");
    for byte in hash.as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate("pod".len() + HASH_LENGTH);
    name
}

impl ClusterInfo {
    fn auto_migration(&self) -> AutoMigration {
        self.kubevirt.as_ref().map_or(AutoMigration::Unknown, |kubevirt| kubevirt.auto_migration())
    }
}

/// A NIC and all that is known around it.
#[derive(Clone, Copy)]
struct Observer<'s> {
    target: &'s Target,
    scene: &'s Snapshot<'s>,
    cluster_info: &'s ClusterInfo,
}

impl<'s> Observer<'s> {
    fn way_in(self) -> Progress {
        let Some(vm) = self.scene.vm else { return over("the VM was deleted") };
        if !has_nic(vm.pointer("/spec/template/spec"), &self.target.nic) {
            return over("somebody took it out of the template again");
        }
        let Some(vmi) = self.scene.vmi else { return over("the VM does not run: it has the NIC when it starts") };
        if let Some(end) = end_of(vmi) {
            return over(&format!("the guest {end}: it has the NIC when it starts again"));
        }
        let evidence = self.evidence(vmi);
        // Who shows a later stage has gone through all before it, seen or not.
        let last = evidence.iter().rposition(|(_, seen)| seen.is_some());
        let count = last.map_or(1, |last| last + 1);
        let passed = evidence.iter().take(count);
        let passed = passed.map(|(stage, seen)| (*stage, seen.clone().unwrap_or_else(|| "passed, unseen".to_owned())));
        let passed = passed.collect();
        let migration = self.migration(vmi, count);
        let state = match evidence.get(count) {
            None => State::Done,
            Some((stage, _)) => State::Waits { stage: *stage, reason: self.reason_in(*stage, vmi, migration) },
        };
        Progress { passed, state, migration }
    }

    /// The stages of the way in, and what is to be seen at each that was reached.
    fn evidence(self, vmi: &'s Value) -> Vec<(Stage, Option<String>)> {
        let Target { guest, nic, .. } = self.target;
        let seen = self.seen();
        let has_source = |source: &str| seen.is_some_and(|seen| is_reported_by(seen, source));
        let mut evidence = vec![
            (Stage::Template, Some(format!("VirtualMachine {guest:?} has it"))),
            (Stage::Spec, has_nic(vmi.get("spec"), nic).then(|| "KubeVirt has copied it".to_owned())),
            (Stage::Annotation, self.requested().map(|pod| format!("asked for on pod {pod:?}"))),
            (
                Stage::Multus,
                has_source("multus-status").then(|| format!("attached to the pod as {:?}", self.interfaces()[0])),
            ),
            (Stage::Domain, has_source("domain").then(|| "plugged into the guest".to_owned())),
        ];
        if condition(vmi, "AgentConnected").is_some_and(|(status, _)| status == "True") {
            evidence.push((Stage::Agent, has_source("guest-agent").then(|| in_guest(seen))));
        }
        evidence
    }

    fn reason_in(self, stage: Stage, vmi: &Value, migration: Migration) -> String {
        let reason = match stage {
            Stage::Template | Stage::Status => Cow::default(),
            Stage::Spec => self.reason_of_spec(vmi),
            Stage::Annotation | Stage::Multus if self.has_migrated() => {
                format!("KubeVirt to note it; migration {:?} has succeeded", self.scene.started.unwrap_or_default())
                    .into()
            }
            Stage::Annotation if migration == Migration::NotNeeded => match self.pod() {
                Some(pod) => format!("KubeVirt to ask Multus for it on pod {:?}", name_of(pod)).into(),
                None if self.scene.pods.is_none() => "KubeVirt to ask Multus for it; pods may not be read".into(),
                None => "the guest's pod, which is not to be seen".into(),
            },
            Stage::Annotation | Stage::Multus => self.reason_of_attachment(vmi, migration),
            Stage::Domain => "libvirt to plug it into the guest".into(),
            Stage::Agent => "the guest agent to report it".into(),
        };
        with_fault(&reason, vmi)
    }

    fn reason_of_spec(self, vmi: &Value) -> Cow<'static, str> {
        let version = self.cluster_info.kubevirt.as_ref().and_then(|kubevirt| kubevirt.version);
        if let Some(version) = version.filter(|&version| version < COPIES_SINCE) {
            return format!("a restart: KubeVirt {version} does not copy NICs to a running guest").into();
        }
        let phase = text(vmi, "/status/phase");
        if phase != "Running" {
            let phase = if phase.is_empty() { "not set yet" } else { phase };
            return format!("the guest to run; its phase is {phase}").into();
        }
        match self.scene.vm.and_then(|vm| condition(vm, "RestartRequired")) {
            Some(("True", why)) => format!("KubeVirt to copy it; the VM has RestartRequired{}", quoted(why)).into(),
            _ => "KubeVirt to copy it to the VMI".into(),
        }
    }

    fn reason_of_attachment(self, vmi: &Value, migration: Migration) -> Cow<'static, str> {
        if let Some(interface) = self.attached() {
            return format!("KubeVirt to note it; Multus has attached it as {interface:?}").into();
        }
        if migration == Migration::Running {
            return self.reason_of_migration();
        }
        if let Some(why) = immobility(vmi).filter(|_| migration != Migration::NotNeeded) {
            return format!("a live migration, and the guest cannot migrate{}", quoted(why)).into();
        }
        let failed = failed_migration(vmi);
        match migration {
            Migration::ByItself => format!("a live migration, which KubeVirt starts by itself{failed}").into(),
            Migration::ByHand => {
                format!("a live migration, which somebody has to start{}{failed}", self.why_by_hand()).into()
            }
            Migration::Running | Migration::NotNeeded => match condition(vmi, "MigrationRequired") {
                Some(("False", _)) => {
                    "Multus' dynamic-networks controller; KubeVirt gives it 15 s, then a migration is needed".into()
                }
                _ => "Multus' dynamic-networks controller to attach it".into(),
            },
        }
    }

    fn why_by_hand(self) -> String {
        match self.cluster_info.auto_migration() {
            AutoMigration::Off(settings) => format!(" (KubeVirt lacks {settings})"),
            AutoMigration::TooOld(version) => format!(" (KubeVirt {version} starts none)"),
            AutoMigration::On | AutoMigration::Unknown => String::new(),
        }
    }

    fn reason_of_migration(self) -> Cow<'static, str> {
        match self.active_migration() {
            Some(migration) => {
                let phase = text(migration, "/status/phase");
                let phase = if phase.is_empty() { "not started yet" } else { phase };
                format!("migration {:?}: {phase}", name_of(migration)).into()
            }
            None => "a migration that runs".into(),
        }
    }

    fn way_out(self) -> Progress {
        let nic = &self.target.nic;
        let template = self.scene.vm.and_then(|vm| vm.pointer("/spec/template/spec"));
        if has_nic(template, nic) {
            return over("somebody put it back into the template");
        }
        let mut passed = vec![(Stage::Template, "absent".to_owned())];
        let Some(vmi) = self.scene.vmi.filter(|vmi| end_of(vmi).is_none()) else {
            return Progress { passed, state: State::Done, migration: Migration::NotNeeded };
        };
        let seen = self.seen();
        let steps = [
            (Stage::Spec, !has_nic(vmi.get("spec"), nic), "absent"),
            (Stage::Domain, seen.is_none_or(|seen| !is_in_domain(seen)), "unplugged from the guest"),
            (Stage::Status, seen.is_none(), "gone"),
        ];
        let mut migration = Migration::NotNeeded;
        for (stage, is_passed, note) in steps {
            if !is_passed {
                migration = self.migration(vmi, passed.len());
                let reason = self.reason_out(stage, vmi, migration);
                return Progress { passed, state: State::Waits { stage, reason }, migration };
            }
            passed.push((stage, note.to_owned()));
        }
        Progress { passed, state: State::Done, migration }
    }

    fn reason_out(self, stage: Stage, vmi: &Value, migration: Migration) -> String {
        let reason: Cow<str> = match stage {
            Stage::Spec => self.reason_of_spec(vmi),
            Stage::Domain => "the guest to let it go".into(),
            _ => match migration {
                Migration::NotNeeded => match condition(vmi, "MigrationRequired") {
                    Some(("False", _)) => {
                        "Multus' dynamic-networks controller; KubeVirt gives it 15 s, then a migration is needed".into()
                    }
                    _ => "the pod to lose it".into(),
                },
                _ => self.reason_of_attachment(vmi, migration),
            },
        };
        with_fault(&reason, vmi)
    }

    /// Whether a migration takes the NIC further, after so many stages.
    fn migration(self, vmi: &Value, passed: usize) -> Migration {
        let is_before = passed < 2;
        let is_behind = self.target.way == Direction::In && passed > 3;
        if is_before || is_behind || self.attached().is_some() && self.target.way == Direction::In {
            return Migration::NotNeeded;
        }
        let is_out_of_domain = self.target.way == Direction::In || passed > 2;
        if self.active_migration().is_some() {
            return Migration::Running;
        }
        if self.has_migrated() {
            return Migration::NotNeeded;
        }
        let is_required = match condition(vmi, "MigrationRequired") {
            Some((status, _)) => status == "True",
            // Before 1.6 nothing tells: a NIC that nothing can attach in place needs one.
            None => is_out_of_domain && matches!(path(self.is_sriov(vmi), self.cluster_info), Path::Migration(_)),
        };
        match self.cluster_info.auto_migration() {
            _ if !is_required => Migration::NotNeeded,
            AutoMigration::On => Migration::ByItself,
            AutoMigration::Off(_) | AutoMigration::TooOld(_) | AutoMigration::Unknown => Migration::ByHand,
        }
    }

    fn is_sriov(self, vmi: &Value) -> bool {
        let interfaces = list(vmi, "/spec/domain/devices/interfaces");
        interfaces.iter().any(|interface| name_is(interface, &self.target.nic) && interface.get("sriov").is_some())
    }

    fn active_migration(self) -> Option<&'s Value> {
        let is_active = |migration: &&Value| {
            text(migration, "/spec/vmiName") == self.target.guest
                && !matches!(text(migration, "/status/phase"), "Succeeded" | "Failed")
        };
        self.scene.migrations?.iter().find(is_active)
    }

    /// Whether the migration that was started for this NIC has come to a good end.
    fn has_migrated(self) -> bool {
        let started = self
            .scene
            .migrations
            .into_iter()
            .flatten()
            .filter(|migration| self.scene.started == Some(name_of(migration)));
        started.into_iter().any(|migration| text(migration, "/status/phase") == "Succeeded")
    }

    /// The NIC in the VMI's status.
    fn seen(self) -> Option<&'s Value> {
        list(self.scene.vmi?, "/status/interfaces").iter().find(|entry| name_is(entry, &self.target.nic))
    }

    /// What the NIC's interface may be called in the pod: what the status says, else what KubeVirt calls it.
    fn interfaces(self) -> [String; 2] {
        let named = pod_interface(&self.target.nic);
        let told = self.seen().map(|seen| text(seen, "/podInterfaceName")).filter(|name| !name.is_empty());
        [told.map_or_else(|| named.clone(), str::to_owned), named]
    }

    /// The pod that Multus was asked to attach the NIC to.
    fn requested(self) -> Option<&'s str> {
        let pods = self.scene.pods?.iter().filter(|pod| is_alive(pod));
        let mut asked = pods.filter(|pod| self.is_listed(pod, NETWORKS));
        asked.next().map(name_of)
    }

    /// The interface in the pod, once Multus has attached the NIC there.
    fn attached(self) -> Option<String> {
        let pod = self.pod()?;
        self.is_listed(pod, NETWORK_STATUS).then(|| self.interfaces()[0].clone())
    }

    /// Whether an annotation of a pod, which is a JSON list, has the NIC's interface.
    fn is_listed(self, pod: &Value, annotation: &str) -> bool {
        let written = pod.pointer("/metadata/annotations").and_then(|annotations| annotations.get(annotation));
        let entries: Option<Vec<Value>> =
            written.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
        let interfaces = self.interfaces();
        let is_ours = |entry: &Value| interfaces.iter().any(|name| text(entry, "/interface") == name);
        entries.is_some_and(|entries| entries.iter().any(is_ours))
    }

    /// The pod that the guest runs in now: that on its node, else the one that was made last.
    fn pod(self) -> Option<&'s Value> {
        let node = self.scene.vmi.map(|vmi| text(vmi, "/status/nodeName")).unwrap_or_default();
        let pods = self.scene.pods?.iter().filter(|pod| is_alive(pod));
        pods.max_by_key(|pod| {
            let is_here = !node.is_empty() && text(pod, "/spec/nodeName") == node;
            (is_here, text(pod, "/metadata/creationTimestamp"))
        })
    }
}

fn over(because: &str) -> Progress {
    Progress { passed: Vec::new(), state: State::Over(because.to_owned()), migration: Migration::NotNeeded }
}

/// Why the guest cannot migrate, if it cannot.
fn immobility(vmi: &Value) -> Option<&str> {
    condition(vmi, "LiveMigratable").filter(|(status, _)| *status == "False").map(|(_, why)| why)
}

/// What the last migration failed of, in brackets.
fn failed_migration(vmi: &Value) -> String {
    let state = vmi.pointer("/status/migrationState");
    let has_failed = state.and_then(|state| state.get("failed")).and_then(Value::as_bool) == Some(true);
    let reason = text(vmi, "/status/migrationState/failureReason");
    if has_failed { format!("; the last one failed{}", quoted(reason)) } else { String::new() }
}

/// How a guest ends or has ended.
fn end_of(vmi: &Value) -> Option<String> {
    if vmi.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Some("is being stopped".to_owned());
    }
    let phase = text(vmi, "/status/phase");
    matches!(phase, "Succeeded" | "Failed").then(|| format!("has ended ({phase})"))
}

/// Whether a guest's spec has both halves of a NIC, and not as absent.
fn has_nic(guest: Option<&Value>, nic: &str) -> bool {
    let Some(guest) = guest else { return false };
    let interfaces = list(guest, "/domain/devices/interfaces");
    let is_there = |interface: &&Value| name_is(interface, nic) && text(interface, "/state") != "absent";
    interfaces.iter().any(|interface| is_there(&interface))
        && list(guest, "/networks").iter().any(|network| name_is(network, nic))
}

/// A status that tells no source is of a KubeVirt that knew the domain alone.
fn is_in_domain(seen: &Value) -> bool {
    text(seen, "/infoSource").is_empty() || is_reported_by(seen, "domain")
}

fn is_reported_by(seen: &Value, source: &str) -> bool {
    text(seen, "/infoSource").split(',').any(|entry| entry.trim() == source)
}

/// What the guest calls the NIC.
fn in_guest(seen: Option<&Value>) -> String {
    let name = seen.map(|seen| text(seen, "/interfaceName")).unwrap_or_default();
    if name.is_empty() { "the guest has it".to_owned() } else { format!("the guest has it as {name:?}") }
}

fn is_alive(pod: &Value) -> bool {
    let is_going = pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    !is_going && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Status of a condition, and its message, or its reason where there is no message.
fn condition<'v>(object: &'v Value, kind: &str) -> Option<(&'v str, &'v str)> {
    let condition = list(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind)?;
    let message = text(condition, "/message");
    let why = if message.is_empty() { text(condition, "/reason") } else { message };
    Some((text(condition, "/status"), why))
}

/// A reason, and what KubeVirt says of a guest that it cannot bring up to date.
fn with_fault(reason: &str, vmi: &Value) -> String {
    match condition(vmi, "Synchronized") {
        Some(("False", why)) if !why.is_empty() => format!("{reason}; KubeVirt says{}", quoted(why)),
        _ => reason.to_owned(),
    }
}

/// ` (text)`, on one line and not too long; nothing for nothing.
fn quoted(why: &str) -> String {
    let line: String = why.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    match line.trim() {
        "" => String::new(),
        line if line.chars().count() <= QUOTED_AT_MOST => format!(" ({line})"),
        line => format!(" ({}…)", line.chars().take(QUOTED_AT_MOST).collect::<String>().trim_end()),
    }
}

fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn name_of(object: &Value) -> &str {
    text(object, "/metadata/name")
}

fn name_is(entry: &Value, name: &str) -> bool {
    text(entry, "/name") == name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::cluster;

    /// A scene that a test changes before it looks.
    struct Stand {
        vm: Value,
        vmi: Value,
        pods: Option<Vec<Value>>,
        migrations: Option<Vec<Value>>,
        started: Option<&'static str>,
        cluster_info: ClusterInfo,
        way: Direction,
    }

    fn guest(nics: &[(&str, &str)]) -> Value {
        let interfaces: Vec<Value> = nics
            .iter()
            .map(|(name, state)| match *state {
                "sriov" => json!({"name": name, "sriov": {}}),
                "" => json!({"name": name, "bridge": {}}),
                state => json!({"name": name, "bridge": {}, "state": state}),
            })
            .collect();
        let networks: Vec<Value> =
            nics.iter().map(|(name, _)| json!({"name": name, "multus": {"networkName": "net"}})).collect();
        json!({"domain": {"devices": {"interfaces": interfaces}}, "networks": networks})
    }

    fn pod(name: &str, node: &str, annotations: &[(&str, &str)]) -> Value {
        let list = |interface: &str| json!([{"name": "net", "interface": interface}]).to_string();
        let annotations: serde_json::Map<String, Value> =
            annotations.iter().map(|(key, interface)| ((*key).to_owned(), list(interface).into())).collect();
        json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"nodeName": node},
            "status": {"phase": "Running"}})
    }

    fn migration(phase: &str) -> Value {
        json!({"metadata": {"name": "m"}, "spec": {"vmiName": "vm"}, "status": {"phase": phase}})
    }

    fn kubevirt(version: &str, methods: &[&str]) -> Arc<KubeVirt> {
        let mut resource = cluster::KubeVirt::default();
        version.clone_into(&mut resource.status.observed_version);
        resource.spec.workload_update_strategy.workload_update_methods =
            methods.iter().map(|&method| method.to_owned()).collect();
        Arc::new(KubeVirt::from(resource))
    }

    impl Stand {
        /// A VM that runs, with a NIC that is in the template and no further.
        fn way_in() -> Self {
            Self {
                vm: json!({"metadata": {"name": "vm"}, "spec": {"template": {"spec": guest(&[("blue", "")])}}}),
                vmi: json!({"metadata": {"name": "vm"}, "spec": guest(&[]),
                    "status": {"phase": "Running", "nodeName": "node-a"}}),
                pods: Some(vec![pod("launcher", "node-a", &[])]),
                migrations: Some(Vec::new()),
                started: None,
                cluster_info: ClusterInfo {
                    in_place: Fact::Known(InPlace::Yes),
                    kubevirt: Some(kubevirt("v1.9.0", &["LiveMigrate"])),
                },
                way: Direction::In,
            }
        }

        /// A VM that runs, with a NIC that was set absent in the template and is still in the guest.
        fn way_out() -> Self {
            let mut stand = Self::way_in().copied().seen("domain, multus-status");
            stand.vm["spec"]["template"]["spec"] = guest(&[("blue", "absent")]);
            Self { way: Direction::Out, ..stand }
        }

        fn copied(mut self) -> Self {
            self.vmi["spec"] = guest(&[("blue", "")]);
            self
        }

        fn sriov(mut self) -> Self {
            self.vmi["spec"] = guest(&[("blue", "sriov")]);
            self
        }

        fn absent(mut self) -> Self {
            self.vmi["spec"] = guest(&[("blue", "absent")]);
            self
        }

        fn pod(mut self, annotations: &[(&str, &str)]) -> Self {
            self.pods = Some(vec![pod("launcher", "node-a", annotations)]);
            self
        }

        fn asked(self) -> Self {
            self.copied().pod(&[(NETWORKS, "pod16477688c0e")])
        }

        fn seen(mut self, source: &str) -> Self {
            self.vmi["status"]["interfaces"] = json!([{"name": "blue", "infoSource": source, "interfaceName": "eth1"}]);
            self
        }

        fn condition(mut self, kind: &str, status: &str, message: &str) -> Self {
            let condition = json!({"type": kind, "status": status, "message": message});
            match self.vmi["status"]["conditions"].as_array_mut() {
                Some(conditions) => conditions.push(condition),
                None => self.vmi["status"]["conditions"] = json!([condition]),
            }
            self
        }

        fn migrations(mut self, phases: &[&str]) -> Self {
            self.migrations = Some(phases.iter().map(|phase| migration(phase)).collect());
            self
        }

        fn cluster_info(mut self, in_place: InPlace, version: &str, methods: &[&str]) -> Self {
            self.cluster_info =
                ClusterInfo { in_place: Fact::Known(in_place), kubevirt: Some(kubevirt(version, methods)) };
            self
        }

        fn observe(&self) -> Progress {
            let target = Target { guest: "vm".to_owned(), nic: "blue".to_owned(), way: self.way };
            let scene = Snapshot {
                vm: Some(&self.vm),
                vmi: Some(&self.vmi).filter(|vmi| !vmi.is_null()),
                pods: self.pods.as_deref(),
                migrations: self.migrations.as_deref(),
                started: self.started,
            };
            observe(&target, &scene, &self.cluster_info)
        }

        /// How many stages lie behind, the stage that it waits for, and a part of the reason.
        #[track_caller]
        fn waits(self, passed: usize, stage: Stage, part: &str, migration: Migration) {
            let progress = self.observe();
            let State::Waits { stage: found, reason } = &progress.state else { panic!("{progress:?}") };
            assert_eq!((progress.passed.len(), *found, progress.migration), (passed, stage, migration), "{progress:?}");
            assert!(reason.contains(part), "{part:?} is not in {reason:?}");
        }

        #[track_caller]
        fn done(self, stages: &[Stage]) {
            let progress = self.observe();
            assert_eq!(progress.state, State::Done, "{progress:?}");
            assert_eq!(progress.passed.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), stages);
        }

        #[track_caller]
        fn over(self, part: &str) {
            let progress = self.observe();
            assert!(matches!(&progress.state, State::Over(because) if because.contains(part)), "{progress:?}");
        }
    }

    #[test]
    fn the_interface_in_the_pod_has_the_name_that_kubevirt_gives() {
        // As KubeVirt's own guide and tests show them.
        assert_eq!(pod_interface("blue"), "pod16477688c0e");
        assert_eq!(pod_interface("red"), "podb1f51a511f1");
    }

    #[test]
    fn each_stage_in_place_waits_for_the_next() {
        use Migration::NotNeeded;
        Stand::way_in().waits(1, Stage::Spec, "KubeVirt to copy it", NotNeeded);
        Stand::way_in().copied().waits(2, Stage::Annotation, "on pod \"launcher\"", NotNeeded);
        Stand::way_in().asked().waits(3, Stage::Multus, "dynamic-networks controller to attach", NotNeeded);
        let attached = [(NETWORKS, "pod16477688c0e"), (NETWORK_STATUS, "pod16477688c0e")];
        Stand::way_in().copied().pod(&attached).waits(3, Stage::Multus, "attached it as \"pod16477688c0e\"", NotNeeded);
        Stand::way_in().asked().seen("multus-status").waits(4, Stage::Domain, "libvirt", NotNeeded);
        Stand::way_in().asked().seen("domain, multus-status").done(&[
            Stage::Template,
            Stage::Spec,
            Stage::Annotation,
            Stage::Multus,
            Stage::Domain,
        ]);
    }

    #[test]
    fn the_guest_agent_counts_where_there_is_one() {
        let plugged = || Stand::way_in().asked().seen("domain, multus-status");
        plugged().condition("AgentConnected", "True", "").waits(5, Stage::Agent, "agent", Migration::NotNeeded);
        let seen = Stand::way_in().asked().seen("domain, guest-agent, multus-status");
        let seen = seen.condition("AgentConnected", "True", "").observe();
        assert_eq!(seen.state, State::Done);
        assert_eq!(seen.passed.last(), Some(&(Stage::Agent, "the guest has it as \"eth1\"".to_owned())));
    }

    #[test]
    fn a_later_stage_implies_those_before_it() {
        let mut stand = Stand::way_in().copied().seen("domain");
        stand.pods = None;
        stand.done(&[Stage::Template, Stage::Spec, Stage::Annotation, Stage::Multus, Stage::Domain]);
    }

    #[test]
    fn an_interface_named_by_the_status_counts_too() {
        let mut stand = Stand::way_in().copied().pod(&[(NETWORKS, "net1")]).seen("");
        stand.vmi["status"]["interfaces"][0]["podInterfaceName"] = json!("net1");
        stand.waits(3, Stage::Multus, "controller", Migration::NotNeeded);
        Stand::way_in().copied().pod(&[(NETWORKS, "net2")]).waits(2, Stage::Annotation, "", Migration::NotNeeded);
    }

    #[test]
    fn the_copy_may_be_held_up() {
        let waits = |stand: Stand, part: &str| stand.waits(1, Stage::Spec, part, Migration::NotNeeded);
        waits(Stand::way_in().cluster_info(InPlace::Yes, "v1.0.1", &[]), "a restart: KubeVirt v1.0.1");
        let mut scheduling = Stand::way_in();
        scheduling.vmi["status"]["phase"] = json!("Scheduling");
        waits(scheduling, "phase is Scheduling");
        let mut restart = Stand::way_in();
        restart.vm["status"]["conditions"] = json!([{"type": "RestartRequired", "status": "True", "message": "a\nb"}]);
        waits(restart, "RestartRequired (a b)");
        waits(Stand::way_in().condition("Synchronized", "False", "no"), "copy it to the VMI; KubeVirt says (no)");
    }

    #[test]
    fn fifteen_seconds_then_a_migration() {
        let asked = || Stand::way_in().asked();
        let required = |status: &str| asked().condition("MigrationRequired", status, "");
        required("False").waits(3, Stage::Multus, "gives it 15 s", Migration::NotNeeded);
        required("True").waits(3, Stage::Multus, "KubeVirt starts by itself", Migration::ByItself);
        required("True").cluster_info(InPlace::No, "v1.9.0", &[]).waits(
            3,
            Stage::Multus,
            "somebody has to start (KubeVirt lacks workloadUpdateMethods LiveMigrate)",
            Migration::ByHand,
        );
        required("True").condition("LiveMigratable", "False", "disk is local").waits(
            3,
            Stage::Multus,
            "the guest cannot migrate (disk is local)",
            Migration::ByItself,
        );
    }

    #[test]
    fn before_1_6_no_condition_tells() {
        let old = |in_place| Stand::way_in().asked().cluster_info(in_place, "v1.5.0", &["LiveMigrate"]);
        old(InPlace::Yes).waits(3, Stage::Multus, "controller", Migration::NotNeeded);
        old(InPlace::No).waits(3, Stage::Multus, "KubeVirt v1.5.0 starts none", Migration::ByHand);
        let sriov = Stand::way_in().sriov().cluster_info(InPlace::Yes, "v1.5.0", &[]);
        sriov.waits(2, Stage::Annotation, "somebody has to start", Migration::ByHand);
    }

    #[test]
    fn a_migration_is_followed_and_a_failed_one_quoted() {
        let required = || Stand::way_in().asked().condition("MigrationRequired", "True", "");
        required().migrations(&["Failed", "Running"]).waits(
            3,
            Stage::Multus,
            "migration \"m\": Running",
            Migration::Running,
        );
        required().migrations(&[""]).waits(3, Stage::Multus, "not started yet", Migration::Running);
        let mut failed = required().migrations(&["Failed"]);
        failed.vmi["status"]["migrationState"] = json!({"failed": true, "failureReason": "no room"});
        failed.waits(3, Stage::Multus, "by itself; the last one failed (no room)", Migration::ByItself);
        let mut ours = required().migrations(&["Succeeded"]);
        ours.started = Some("m");
        ours.waits(3, Stage::Multus, "KubeVirt to note it; migration \"m\" has succeeded", Migration::NotNeeded);
        required().migrations(&["Succeeded"]).waits(3, Stage::Multus, "by itself", Migration::ByItself);
        let mut other = required().migrations(&["Running"]);
        other.migrations.as_mut().unwrap()[0]["spec"]["vmiName"] = json!("other");
        other.waits(3, Stage::Multus, "by itself", Migration::ByItself);
    }

    #[test]
    fn the_pod_is_that_on_the_node_of_the_guest() {
        let mut stand = Stand::way_in().copied();
        let mut gone = pod("gone", "node-a", &[]);
        gone["status"]["phase"] = json!("Succeeded");
        stand.pods = Some(vec![gone, pod("here", "node-a", &[]), pod("target", "node-b", &[])]);
        stand.waits(2, Stage::Annotation, "pod \"here\"", Migration::NotNeeded);
        let mut unseen = Stand::way_in().copied();
        unseen.pods = None;
        unseen.waits(2, Stage::Annotation, "pods may not be read", Migration::NotNeeded);
    }

    #[test]
    fn a_guest_that_ends_takes_the_nic_at_its_next_start() {
        let mut stopped = Stand::way_in();
        stopped.vmi = Value::Null;
        stopped.over("does not run");
        let mut stopping = Stand::way_in();
        stopping.vmi["metadata"]["deletionTimestamp"] = json!("2026-11-01T00:00:00Z");
        stopping.over("is being stopped");
        let mut ended = Stand::way_in();
        ended.vmi["status"]["phase"] = json!("Failed");
        ended.over("has ended (Failed)");
    }

    #[test]
    fn what_somebody_else_undoes_is_over() {
        let mut taken = Stand::way_in();
        taken.vm["spec"]["template"]["spec"] = guest(&[("blue", "absent")]);
        taken.over("took it out");
        let mut back = Stand::way_out();
        back.vm["spec"]["template"]["spec"] = guest(&[("blue", "")]);
        back.over("put it back");
    }

    #[test]
    fn the_way_out_ends_when_the_status_shows_nothing() {
        use Migration::NotNeeded;
        Stand::way_out().waits(1, Stage::Spec, "KubeVirt to copy it", NotNeeded);
        Stand::way_out().absent().waits(2, Stage::Domain, "the guest to let it go", NotNeeded);
        Stand::way_out().absent().seen("").waits(2, Stage::Domain, "the guest to let it go", NotNeeded);
        Stand::way_out().absent().seen("multus-status").waits(3, Stage::Status, "the pod to lose it", NotNeeded);
        let mut gone = Stand::way_out().absent();
        gone.vmi["status"]["interfaces"] = json!([]);
        gone.done(&[Stage::Template, Stage::Spec, Stage::Domain, Stage::Status]);
        let mut stopped = Stand::way_out();
        stopped.vmi = Value::Null;
        stopped.done(&[Stage::Template]);
    }

    #[test]
    fn a_pod_that_keeps_the_nic_waits_for_a_migration_too() {
        let out = || Stand::way_out().absent().seen("multus-status");
        out().condition("MigrationRequired", "False", "").waits(3, Stage::Status, "15 s", Migration::NotNeeded);
        let required = out().condition("MigrationRequired", "True", "");
        required.waits(3, Stage::Status, "by itself", Migration::ByItself);
        let old = out().cluster_info(InPlace::No, "v1.5.0", &[]);
        old.waits(3, Stage::Status, "somebody has to start", Migration::ByHand);
    }

    #[test]
    fn the_path_is_that_of_the_cluster() {
        let of = |in_place: Fact<InPlace>, is_sriov: bool| {
            path(is_sriov, &ClusterInfo { in_place, kubevirt: Some(kubevirt("v1.9.0", &["LiveMigrate"])) })
        };
        assert_eq!(of(Fact::Known(InPlace::Yes), false), Path::InPlace);
        assert_eq!(of(Fact::Known(InPlace::Yes), true), Path::Migration(AutoMigration::On));
        assert_eq!(of(Fact::Known(InPlace::No), false), Path::Migration(AutoMigration::On));
        assert_eq!(of(Fact::Unknown, false), Path::Unknown);
        let perhaps = Fact::Known(InPlace::SomeNodes { ready: 1, desired: 2 });
        assert_eq!(of(perhaps, false), Path::Perhaps { ready: 1, desired: 2 });
    }

    #[test]
    fn a_long_message_is_cut_and_stays_on_its_line() {
        let quoted = quoted(&"x\n".repeat(300));
        assert!(quoted.chars().count() <= QUOTED_AT_MOST + 5, "{quoted}");
        assert!(!quoted.contains('\n'));
    }

    #[test]
    fn objects_of_another_shape_do_no_harm() {
        for odd in [json!(null), json!([]), json!({"spec": 5, "status": {"interfaces": {"a": 1}, "conditions": "x"}})] {
            let target = Target { guest: "vm".to_owned(), nic: "blue".to_owned(), way: Direction::In };
            let odds = [odd.clone()];
            let scene = Snapshot {
                vm: Some(&odd),
                vmi: Some(&odd),
                pods: Some(&odds),
                migrations: Some(&odds),
                started: Some("m"),
            };
            assert!(matches!(observe(&target, &scene, &ClusterInfo::default()).state, State::Over(_)));
            let out = Target { way: Direction::Out, ..target };
            assert_eq!(observe(&out, &scene, &ClusterInfo::default()).state, State::Done);
        }
    }
}
