//! How far a NIC is attached to a running guest, or detached from it, and what it waits for.
//!
//! Four kinds of objects show it: the VM, its VMI, the pod that the guest runs in, and the migrations of the namespace.
//! This module evaluates a snapshot of them and keeps no state.

mod attach;
mod detach;
pub(super) mod objects;

use std::{
    borrow::Cow,
    fmt::{self, Write},
    sync::Arc,
};

use serde_json::Value;

use self::objects::{condition, failed_migration, is_alive, list, name_is, name_of, quoted, text};
use crate::{
    api::hash::sha256,
    facts::{Fact, Facts, KubeVirt, attachment::InPlace, kubevirt::AutoMigration},
    kubevirt::Version,
    rules,
    settings::Settings,
};

/// The annotation of the guest's pod by which KubeVirt requests networks from Multus.
pub(super) const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// The annotation of the guest's pod in which Multus reports the attached networks.
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// The first version that copies a NIC of the template to the VMI; older ones plug only on an `addinterface` request.
const COPIES_SINCE: Version = Version::new(1, 1, 0);

/// The number of hexadecimal digits of its hash in the name of a NIC's interface in the pod.
const HASH_LENGTH: usize = 11;

/// While the condition MigrationRequired is `False`, KubeVirt still waits for the controller.
const CONTROLLER_HAS_TIME: &str =
    "Multus' dynamic-networks controller; KubeVirt waits 15 s for it, then a migration is needed";

/// The NIC whose progress is evaluated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The name of the VM and of its VMI.
    pub vm: String,
    /// The name of the NIC.
    pub nic: String,
    /// Whether the NIC is attached or detached.
    pub direction: Direction,
}

/// Whether a NIC is attached to a guest or detached from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The NIC is plugged into the guest.
    Attach,
    /// The NIC is unplugged from the guest.
    Detach,
}

/// A stage that a NIC reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The VM's template has the NIC; for a detach: does not have it, or has it as absent.
    Template,
    /// The VMI's spec has the NIC; for a detach: does not have it, or has it as absent.
    Spec,
    /// The pod's annotation requests the NIC from Multus.
    Annotation,
    /// Multus has attached the NIC to the pod, and the VMI's status reports that.
    Multus,
    /// libvirt has plugged the NIC; for a detach: unplugged it.
    Domain,
    /// The guest agent reports the NIC.
    Agent,
    /// The VMI's status no longer has the NIC.
    Status,
}

impl Stage {
    /// Returns the name of the stage, after the field of KubeVirt's objects that shows it.
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

/// The objects around a guest at one moment, as the API returns them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot<'s> {
    /// The VirtualMachine, if it exists.
    pub vm: Option<&'s Value>,
    /// The VirtualMachineInstance, if it exists.
    pub vmi: Option<&'s Value>,
    /// The pods in which the guest runs or has run; `None` without permission to read them.
    pub pods: Option<&'s [Value]>,
    /// The migrations of the namespace; `None` without permission to read them.
    pub migrations: Option<&'s [Value]>,
    /// The name of the migration that was started for this NIC, if there is one.
    pub started_migration: Option<&'s str>,
}

/// The facts about the cluster that decide how a NIC is attached.
#[derive(Clone, Debug, Default)]
pub struct ClusterInfo {
    /// Whether Multus can attach a NIC to a running pod.
    pub in_place: Fact<InPlace>,
    /// The KubeVirt resource.
    pub kubevirt: Option<Arc<KubeVirt>>,
}

/// The progress of a NIC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Progress {
    /// The stages that are reached, in order, each with what shows it.
    pub reached: Vec<(Stage, String)>,
    /// What comes next.
    pub state: State,
    /// Whether the next stage needs a migration.
    pub migration: MigrationNeed,
}

/// What comes next for a NIC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// All stages are reached.
    Done,
    /// The next stage cannot be reached now, for this reason.
    Stopped(String),
    /// The next stage is not reached yet.
    Waiting {
        /// The next stage.
        stage: Stage,
        /// What must happen for it, or what prevents it.
        reason: String,
    },
}

/// Whether a NIC needs a migration to reach the next stage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MigrationNeed {
    /// It needs one that a user must start.
    Manual,
    /// It needs one that KubeVirt starts.
    Automatic,
    /// A migration runs.
    Running,
    /// It needs none, or none yet.
    None,
}

/// Evaluates how far a NIC is.
#[must_use]
pub fn observe(target: &Target, snapshot: &Snapshot, cluster_info: &ClusterInfo) -> Progress {
    let observer = Observer { target, snapshot, cluster_info };
    match target.direction {
        Direction::Attach => observer.attach(),
        Direction::Detach => observer.detach(),
    }
}

/// Returns how a new NIC is attached to a running guest.
#[must_use]
pub fn attach_method(is_sriov: bool, cluster_info: &ClusterInfo) -> AttachMethod {
    match cluster_info.in_place {
        _ if is_sriov => AttachMethod::Migration(cluster_info.auto_migration()),
        Fact::Known(InPlace::Yes) => AttachMethod::InPlace,
        Fact::Known(InPlace::SomeNodes { ready, desired }) => AttachMethod::InPlaceOnSomeNodes { ready, desired },
        Fact::Known(InPlace::No) | Fact::Absent => AttachMethod::Migration(cluster_info.auto_migration()),
        Fact::Unknown => AttachMethod::Unknown,
    }
}

/// How a NIC is attached to a running guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AttachMethod {
    /// Multus attaches it to the running pod.
    InPlace,
    /// Multus attaches it if the guest is on one of the ready nodes; otherwise a migration does.
    InPlaceOnSomeNodes {
        /// The number of nodes on which the dynamic-networks controller is ready.
        ready: u32,
        /// The number of nodes on which it should be ready.
        desired: u32,
    },
    /// A live migration creates a new pod that has the NIC.
    Migration(AutoMigration),
    /// The DaemonSets that decide it cannot be read.
    Unknown,
}

/// Returns the name of a NIC's interface in its pod, since KubeVirt 0.59: `pod` and the start of the name's SHA-256.
#[must_use]
pub fn pod_interface(nic: &str) -> String {
    let mut name = String::from("pod");
    for byte in sha256(nic.as_bytes()) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate("pod".len() + HASH_LENGTH);
    name
}

impl ClusterInfo {
    /// Reads the facts for a change of the VM.
    #[must_use]
    pub fn of(facts: &Facts, settings: &Settings) -> Self {
        let in_place = rules::in_place(&facts.attachment, settings);
        Self { in_place, kubevirt: facts.kubevirt.known().map(Arc::clone) }
    }

    fn auto_migration(&self) -> AutoMigration {
        self.kubevirt.as_ref().map_or(AutoMigration::Unknown, |kubevirt| kubevirt.auto_migration_of(true, None))
    }
}

impl Progress {
    fn stopped(because: &str) -> Self {
        Self { reached: Vec::new(), state: State::Stopped(because.to_owned()), migration: MigrationNeed::None }
    }
}

/// A NIC and everything that is known about it.
#[derive(Clone, Copy)]
struct Observer<'s> {
    target: &'s Target,
    snapshot: &'s Snapshot<'s>,
    cluster_info: &'s ClusterInfo,
}

impl<'s> Observer<'s> {
    fn spec_reason(self, vmi: &Value) -> Cow<'static, str> {
        let version = self.cluster_info.kubevirt.as_ref().and_then(|kubevirt| kubevirt.version);
        if let Some(version) = version.filter(|&version| version < COPIES_SINCE) {
            return format!("a restart: KubeVirt {version} does not copy NICs to a running guest").into();
        }
        let phase = text(vmi, "/status/phase");
        if phase != "Running" {
            let phase = if phase.is_empty() { "not set yet" } else { phase };
            return format!("the guest to run; its phase is {phase}").into();
        }
        match self.snapshot.vm.and_then(|vm| condition(vm, "RestartRequired")) {
            Some(("True", why)) => format!("KubeVirt to copy it; the VM has RestartRequired{}", quoted(why)).into(),
            _ => "KubeVirt to copy it to the VMI".into(),
        }
    }

    /// What must happen in the pod.
    fn pod_reason(self, vmi: &Value, migration: MigrationNeed) -> Cow<'static, str> {
        if let Some(interface) = self.attached() {
            return format!("KubeVirt to update the VMI's status; Multus has attached it as {interface:?}").into();
        }
        if migration == MigrationNeed::Running {
            return self.migration_reason();
        }
        let blocker = condition(vmi, "LiveMigratable").filter(|(status, _)| *status == "False").map(|(_, why)| why);
        if let Some(why) = blocker.filter(|_| migration != MigrationNeed::None) {
            return format!("a live migration, but the guest cannot migrate{}", quoted(why)).into();
        }
        let failed = failed_migration(vmi);
        match migration {
            MigrationNeed::Automatic => format!("a live migration, which KubeVirt starts{failed}").into(),
            MigrationNeed::Manual => {
                format!("a live migration, which a user must start{}{failed}", self.why_manual()).into()
            }
            MigrationNeed::Running | MigrationNeed::None => match condition(vmi, "MigrationRequired") {
                Some(("False", _)) => CONTROLLER_HAS_TIME.into(),
                _ => "Multus' dynamic-networks controller to attach it".into(),
            },
        }
    }

    fn why_manual(self) -> String {
        match self.cluster_info.auto_migration() {
            AutoMigration::Off(settings) => format!(" (KubeVirt lacks {settings})"),
            AutoMigration::TooOld(version) => format!(" (KubeVirt {version} starts none)"),
            AutoMigration::ShutDown => " (workloadUpdateMethods Evict shuts the guest down)".to_owned(),
            AutoMigration::On | AutoMigration::Unknown => String::new(),
        }
    }

    fn migration_reason(self) -> Cow<'static, str> {
        match self.active_migration() {
            Some(migration) => {
                let phase = text(migration, "/status/phase");
                let phase = if phase.is_empty() { "not started yet" } else { phase };
                format!("migration {:?}: {phase}", name_of(migration)).into()
            }
            None => "a running migration".into(),
        }
    }

    /// Returns whether the NIC needs a migration after `reached` stages.
    fn migration(self, vmi: &Value, reached: usize) -> MigrationNeed {
        let is_attach = self.target.direction == Direction::Attach;
        let is_too_early = reached < 2;
        let is_past = is_attach && reached > 3;
        if is_too_early || is_past || self.attached().is_some() && is_attach {
            return MigrationNeed::None;
        }
        let is_out_of_domain = is_attach || reached > 2;
        if self.active_migration().is_some() {
            return MigrationNeed::Running;
        }
        if self.has_migrated() {
            return MigrationNeed::None;
        }
        let needs_other_pod =
            || matches!(attach_method(self.is_sriov(vmi), self.cluster_info), AttachMethod::Migration(_));
        let is_required = match condition(vmi, "MigrationRequired") {
            Some((status, _)) => status == "True",
            // KubeVirt before 1.6 has no such condition: a NIC that cannot be attached in place needs a migration.
            None => is_out_of_domain && needs_other_pod(),
        };
        match self.cluster_info.auto_migration() {
            _ if !is_required => MigrationNeed::None,
            AutoMigration::On => MigrationNeed::Automatic,
            AutoMigration::Off(_) | AutoMigration::ShutDown | AutoMigration::TooOld(_) | AutoMigration::Unknown => {
                MigrationNeed::Manual
            }
        }
    }

    fn is_sriov(self, vmi: &Value) -> bool {
        let interfaces = list(vmi, "/spec/domain/devices/interfaces");
        interfaces.iter().any(|interface| name_is(interface, &self.target.nic) && interface.get("sriov").is_some())
    }

    fn active_migration(self) -> Option<&'s Value> {
        let is_active = |migration: &&Value| {
            text(migration, "/spec/vmiName") == self.target.vm
                && !matches!(text(migration, "/status/phase"), "Succeeded" | "Failed")
        };
        self.snapshot.migrations?.iter().find(is_active)
    }

    /// Whether the migration that was started for this NIC has succeeded.
    fn has_migrated(self) -> bool {
        let is_started = |migration: &&Value| self.snapshot.started_migration == Some(name_of(migration));
        let mut started = self.snapshot.migrations.into_iter().flatten().filter(is_started);
        started.any(|migration| text(migration, "/status/phase") == "Succeeded")
    }

    /// Returns the NIC's entry in the VMI's status.
    fn status_entry(self) -> Option<&'s Value> {
        list(self.snapshot.vmi?, "/status/interfaces").iter().find(|entry| name_is(entry, &self.target.nic))
    }

    /// Returns the possible names of the NIC's interface in the pod: that of the status, else KubeVirt's default.
    fn interfaces(self) -> [String; 2] {
        let default = pod_interface(&self.target.nic);
        let reported =
            self.status_entry().map(|entry| text(entry, "/podInterfaceName")).filter(|name| !name.is_empty());
        [reported.map_or_else(|| default.clone(), str::to_owned), default]
    }

    /// Returns the pod to which Multus was requested to attach the NIC.
    fn requested(self) -> Option<&'s str> {
        let pods = self.snapshot.pods?.iter().filter(|pod| is_alive(pod));
        let mut requested = pods.filter(|pod| self.is_listed(pod, NETWORKS));
        requested.next().map(name_of)
    }

    /// Returns the interface in the pod, if Multus has attached the NIC.
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

    /// Returns the pod in which the guest runs now: the one on its node, else the newest one.
    fn pod(self) -> Option<&'s Value> {
        let node = self.snapshot.vmi.map(|vmi| text(vmi, "/status/nodeName")).unwrap_or_default();
        let pods = self.snapshot.pods?.iter().filter(|pod| is_alive(pod));
        pods.max_by_key(|pod| {
            let is_here = !node.is_empty() && text(pod, "/spec/nodeName") == node;
            (is_here, text(pod, "/metadata/creationTimestamp"))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::cluster;

    /// The objects of a snapshot, which a test changes before it evaluates them.
    struct Fixture {
        vm: Value,
        vmi: Value,
        pods: Option<Vec<Value>>,
        migrations: Option<Vec<Value>>,
        started_migration: Option<&'static str>,
        cluster_info: ClusterInfo,
        direction: Direction,
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

    impl Fixture {
        /// A running VM with a NIC that only the template has.
        fn attach() -> Self {
            Self {
                vm: json!({"metadata": {"name": "vm"}, "spec": {"template": {"spec": guest(&[("blue", "")])}}}),
                vmi: json!({"metadata": {"name": "vm"}, "spec": guest(&[]),
                    "status": {"phase": "Running", "nodeName": "node-a"}}),
                pods: Some(vec![pod("launcher", "node-a", &[])]),
                migrations: Some(Vec::new()),
                started_migration: None,
                cluster_info: ClusterInfo {
                    in_place: Fact::Known(InPlace::Yes),
                    kubevirt: Some(kubevirt("v1.9.0", &["LiveMigrate"])),
                },
                direction: Direction::Attach,
            }
        }

        /// A running VM with a NIC that is absent in the template, and that the guest still has.
        fn detach() -> Self {
            let mut fixture = Self::attach().copied().seen("domain, multus-status");
            fixture.vm["spec"]["template"]["spec"] = guest(&[("blue", "absent")]);
            Self { direction: Direction::Detach, ..fixture }
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

        fn requested(self) -> Self {
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
            let target = Target { vm: "vm".to_owned(), nic: "blue".to_owned(), direction: self.direction };
            let snapshot = Snapshot {
                vm: Some(&self.vm),
                vmi: Some(&self.vmi).filter(|vmi| !vmi.is_null()),
                pods: self.pods.as_deref(),
                migrations: self.migrations.as_deref(),
                started_migration: self.started_migration,
            };
            observe(&target, &snapshot, &self.cluster_info)
        }

        /// Checks the number of reached stages, the next stage, and a part of the reason.
        #[track_caller]
        fn waits(self, reached: usize, stage: Stage, part: &str, migration: MigrationNeed) {
            let progress = self.observe();
            let State::Waiting { stage: found, reason } = &progress.state else { panic!("{progress:?}") };
            assert_eq!(
                (progress.reached.len(), *found, progress.migration),
                (reached, stage, migration),
                "{progress:?}"
            );
            assert!(reason.contains(part), "{part:?} is not in {reason:?}");
        }

        #[track_caller]
        fn done(self, stages: &[Stage]) {
            let progress = self.observe();
            assert_eq!(progress.state, State::Done, "{progress:?}");
            assert_eq!(progress.reached.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), stages);
        }

        #[track_caller]
        fn stopped(self, part: &str) {
            let progress = self.observe();
            assert!(matches!(&progress.state, State::Stopped(because) if because.contains(part)), "{progress:?}");
        }
    }

    #[test]
    fn the_interface_in_the_pod_has_the_name_that_kubevirt_gives_it() {
        // The names in KubeVirt's user guide and tests.
        assert_eq!(pod_interface("blue"), "pod16477688c0e");
        assert_eq!(pod_interface("red"), "podb1f51a511f1");
    }

    #[test]
    fn an_attach_in_place_reaches_one_stage_after_the_other() {
        Fixture::attach().waits(1, Stage::Spec, "KubeVirt to copy it", MigrationNeed::None);
        Fixture::attach().copied().waits(2, Stage::Annotation, "on pod \"launcher\"", MigrationNeed::None);
        Fixture::attach().requested().waits(
            3,
            Stage::Multus,
            "dynamic-networks controller to attach",
            MigrationNeed::None,
        );
        let attached = [(NETWORKS, "pod16477688c0e"), (NETWORK_STATUS, "pod16477688c0e")];
        Fixture::attach().copied().pod(&attached).waits(
            3,
            Stage::Multus,
            "attached it as \"pod16477688c0e\"",
            MigrationNeed::None,
        );
        Fixture::attach().requested().seen("multus-status").waits(4, Stage::Domain, "libvirt", MigrationNeed::None);
        Fixture::attach().requested().seen("domain, multus-status").done(&[
            Stage::Template,
            Stage::Spec,
            Stage::Annotation,
            Stage::Multus,
            Stage::Domain,
        ]);
    }

    #[test]
    fn the_guest_agent_is_a_stage_if_one_is_connected() {
        let plugged = || Fixture::attach().requested().seen("domain, multus-status");
        plugged().condition("AgentConnected", "True", "").waits(5, Stage::Agent, "agent", MigrationNeed::None);
        let seen = Fixture::attach().requested().seen("domain, guest-agent, multus-status");
        let seen = seen.condition("AgentConnected", "True", "").observe();
        assert_eq!(seen.state, State::Done);
        assert_eq!(seen.reached.last(), Some(&(Stage::Agent, "the guest has it as \"eth1\"".to_owned())));
    }

    #[test]
    fn a_later_stage_implies_the_stages_before_it() {
        let mut fixture = Fixture::attach().copied().seen("domain");
        fixture.pods = None;
        fixture.done(&[Stage::Template, Stage::Spec, Stage::Annotation, Stage::Multus, Stage::Domain]);
    }

    #[test]
    fn the_interface_name_of_the_status_counts_too() {
        let mut fixture = Fixture::attach().copied().pod(&[(NETWORKS, "net1")]).seen("");
        fixture.vmi["status"]["interfaces"][0]["podInterfaceName"] = json!("net1");
        fixture.waits(3, Stage::Multus, "controller", MigrationNeed::None);
        Fixture::attach().copied().pod(&[(NETWORKS, "net2")]).waits(2, Stage::Annotation, "", MigrationNeed::None);
    }

    #[test]
    fn what_delays_the_copy_to_the_vmi_is_the_reason() {
        let waits = |fixture: Fixture, part: &str| fixture.waits(1, Stage::Spec, part, MigrationNeed::None);
        waits(Fixture::attach().cluster_info(InPlace::Yes, "v1.0.1", &[]), "a restart: KubeVirt v1.0.1");
        let mut scheduling = Fixture::attach();
        scheduling.vmi["status"]["phase"] = json!("Scheduling");
        waits(scheduling, "phase is Scheduling");
        let mut restart = Fixture::attach();
        restart.vm["status"]["conditions"] = json!([{"type": "RestartRequired", "status": "True", "message": "a\nb"}]);
        waits(restart, "RestartRequired (a b)");
        waits(Fixture::attach().condition("Synchronized", "False", "no"), "copy it to the VMI; KubeVirt reports (no)");
    }

    #[test]
    fn after_fifteen_seconds_a_migration_is_needed() {
        let requested = || Fixture::attach().requested();
        let required = |status: &str| requested().condition("MigrationRequired", status, "");
        required("False").waits(3, Stage::Multus, "waits 15 s", MigrationNeed::None);
        required("True").waits(3, Stage::Multus, "which KubeVirt starts", MigrationNeed::Automatic);
        required("True").cluster_info(InPlace::No, "v1.9.0", &[]).waits(
            3,
            Stage::Multus,
            "a user must start (KubeVirt lacks workloadUpdateMethods LiveMigrate)",
            MigrationNeed::Manual,
        );
        required("True").condition("LiveMigratable", "False", "disk is local").waits(
            3,
            Stage::Multus,
            "the guest cannot migrate (disk is local)",
            MigrationNeed::Automatic,
        );
    }

    #[test]
    fn before_1_6_the_cluster_decides_whether_a_migration_is_needed() {
        let old = |in_place| Fixture::attach().requested().cluster_info(in_place, "v1.5.0", &["LiveMigrate"]);
        old(InPlace::Yes).waits(3, Stage::Multus, "controller", MigrationNeed::None);
        old(InPlace::No).waits(3, Stage::Multus, "KubeVirt v1.5.0 starts none", MigrationNeed::Manual);
        let sriov = Fixture::attach().sriov().cluster_info(InPlace::Yes, "v1.5.0", &[]);
        sriov.waits(2, Stage::Annotation, "a user must start", MigrationNeed::Manual);
    }

    #[test]
    fn a_migration_is_reported_by_its_phase_and_a_failed_one_by_its_reason() {
        let required = || Fixture::attach().requested().condition("MigrationRequired", "True", "");
        required().migrations(&["Failed", "Running"]).waits(
            3,
            Stage::Multus,
            "migration \"m\": Running",
            MigrationNeed::Running,
        );
        required().migrations(&[""]).waits(3, Stage::Multus, "not started yet", MigrationNeed::Running);
        let mut failed = required().migrations(&["Failed"]);
        failed.vmi["status"]["migrationState"] = json!({"failed": true, "failureReason": "no room"});
        failed.waits(3, Stage::Multus, "KubeVirt starts; the last one failed (no room)", MigrationNeed::Automatic);
        let mut ours = required().migrations(&["Succeeded"]);
        ours.started_migration = Some("m");
        ours.waits(
            3,
            Stage::Multus,
            "KubeVirt to update the VMI's status; migration \"m\" has succeeded",
            MigrationNeed::None,
        );
        required().migrations(&["Succeeded"]).waits(
            3,
            Stage::Multus,
            "which KubeVirt starts",
            MigrationNeed::Automatic,
        );
        let mut other = required().migrations(&["Running"]);
        other.migrations.as_mut().unwrap()[0]["spec"]["vmiName"] = json!("other");
        other.waits(3, Stage::Multus, "which KubeVirt starts", MigrationNeed::Automatic);
    }

    #[test]
    fn the_pod_of_the_guest_is_the_one_on_its_node() {
        let mut fixture = Fixture::attach().copied();
        let mut gone = pod("gone", "node-a", &[]);
        gone["status"]["phase"] = json!("Succeeded");
        fixture.pods = Some(vec![gone, pod("here", "node-a", &[]), pod("target", "node-b", &[])]);
        fixture.waits(2, Stage::Annotation, "pod \"here\"", MigrationNeed::None);
        let mut unseen = Fixture::attach().copied();
        unseen.pods = None;
        unseen.waits(2, Stage::Annotation, "no permission to read pods", MigrationNeed::None);
    }

    #[test]
    fn a_guest_that_ends_stops_the_attach() {
        let mut stopped = Fixture::attach();
        stopped.vmi = Value::Null;
        stopped.stopped("does not run");
        let mut stopping = Fixture::attach();
        stopping.vmi["metadata"]["deletionTimestamp"] = json!("2026-11-01T00:00:00Z");
        stopping.stopped("is being stopped");
        let mut ended = Fixture::attach();
        ended.vmi["status"]["phase"] = json!("Failed");
        ended.stopped("has ended (Failed)");
    }

    #[test]
    fn a_change_of_another_client_stops_the_progress() {
        let mut removed = Fixture::attach();
        removed.vm["spec"]["template"]["spec"] = guest(&[("blue", "absent")]);
        removed.stopped("removed it");
        let mut back = Fixture::detach();
        back.vm["spec"]["template"]["spec"] = guest(&[("blue", "")]);
        back.stopped("added it");
    }

    #[test]
    fn a_detach_is_done_when_the_status_no_longer_has_the_nic() {
        Fixture::detach().waits(1, Stage::Spec, "KubeVirt to copy it", MigrationNeed::None);
        Fixture::detach().absent().waits(2, Stage::Domain, "the guest to release it", MigrationNeed::None);
        Fixture::detach().absent().seen("").waits(2, Stage::Domain, "the guest to release it", MigrationNeed::None);
        Fixture::detach().absent().seen("multus-status").waits(
            3,
            Stage::Status,
            "its removal from the pod",
            MigrationNeed::None,
        );
        let mut gone = Fixture::detach().absent();
        gone.vmi["status"]["interfaces"] = json!([]);
        gone.done(&[Stage::Template, Stage::Spec, Stage::Domain, Stage::Status]);
        let mut stopped = Fixture::detach();
        stopped.vmi = Value::Null;
        stopped.done(&[Stage::Template]);
    }

    #[test]
    fn a_pod_that_keeps_the_nic_needs_a_migration() {
        let out = || Fixture::detach().absent().seen("multus-status");
        out().condition("MigrationRequired", "False", "").waits(3, Stage::Status, "15 s", MigrationNeed::None);
        let required = out().condition("MigrationRequired", "True", "");
        required.waits(3, Stage::Status, "which KubeVirt starts", MigrationNeed::Automatic);
        let old = out().cluster_info(InPlace::No, "v1.5.0", &[]);
        old.waits(3, Stage::Status, "a user must start", MigrationNeed::Manual);
    }

    #[test]
    fn the_attach_method_depends_on_the_cluster() {
        let of = |in_place: Fact<InPlace>, is_sriov: bool| {
            attach_method(is_sriov, &ClusterInfo { in_place, kubevirt: Some(kubevirt("v1.9.0", &["LiveMigrate"])) })
        };
        assert_eq!(of(Fact::Known(InPlace::Yes), false), AttachMethod::InPlace);
        assert_eq!(of(Fact::Known(InPlace::Yes), true), AttachMethod::Migration(AutoMigration::On));
        assert_eq!(of(Fact::Known(InPlace::No), false), AttachMethod::Migration(AutoMigration::On));
        assert_eq!(of(Fact::Unknown, false), AttachMethod::Unknown);
        let perhaps = Fact::Known(InPlace::SomeNodes { ready: 1, desired: 2 });
        assert_eq!(of(perhaps, false), AttachMethod::InPlaceOnSomeNodes { ready: 1, desired: 2 });
    }

    #[test]
    fn objects_of_another_shape_are_handled() {
        for odd in [json!(null), json!([]), json!({"spec": 5, "status": {"interfaces": {"a": 1}, "conditions": "x"}})] {
            let target = Target { vm: "vm".to_owned(), nic: "blue".to_owned(), direction: Direction::Attach };
            let odds = [odd.clone()];
            let snapshot = Snapshot {
                vm: Some(&odd),
                vmi: Some(&odd),
                pods: Some(&odds),
                migrations: Some(&odds),
                started_migration: Some("m"),
            };
            assert!(matches!(observe(&target, &snapshot, &ClusterInfo::default()).state, State::Stopped(_)));
            let out = Target { direction: Direction::Detach, ..target };
            assert_eq!(observe(&out, &snapshot, &ClusterInfo::default()).state, State::Done);
        }
    }
}
