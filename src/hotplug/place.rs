//! Where each NIC of a VM is (template, VMI, pod or guest), why it is not further, and what to do about it.
//!
//! It is a pure evaluation of the objects around one guest, for `nicplug status` and `nicplug why`, and for a server
//! that watches NICs. The module `progress` finds the stage; the rules that judge a new NIC find what prevents the next
//! one, as if the NIC were added now; Events add what other programs reported.

mod events;
mod judgement;
mod network;
mod nic;
mod pending;
mod since;

use std::collections::BTreeMap;

use serde_json::Value;

use self::judgement::{Judgement, boot_nics};
pub use self::pending::PendingReason;
use super::progress::{
    self, Direction, MigrationNeed, Progress, Snapshot, Stage, State, Target,
    objects::{end_of, has_nic, is_in_domain, list, name_is, name_of, text},
};
use crate::{
    facts::{Fact, FactSource, nic::HotplugMethod},
    rules::FreePorts,
    settings::Settings,
};

/// The label of a guest's pods that holds the uid of the VMI.
pub const CREATED_BY: &str = "kubevirt.io/created-by";

/// The objects around one guest, as the API returns them, and the facts about its cluster.
#[derive(Clone, Copy)]
pub struct Surroundings<'s> {
    /// The VirtualMachine; `None` for a VMI without one.
    pub vm: Option<&'s Value>,
    /// The VirtualMachineInstance.
    pub vmi: Fact<&'s Value>,
    /// Pods of the namespace; `None` without permission to read them.
    pub pods: Option<&'s [Value]>,
    /// Migrations of the namespace; `None` without permission to read them.
    pub migrations: Option<&'s [Value]>,
    /// Events of type Warning in the namespace; `None` without permission to read them.
    pub events: Option<&'s [Value]>,
    /// The facts by which the rules judge.
    pub facts: &'s dyn FactSource,
    /// The settings of the rules.
    pub settings: &'s Settings,
}

/// The NICs of a guest.
#[derive(Clone, Debug)]
pub struct GuestReport {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Whether there is a VM, and not only a VMI.
    pub has_vm: bool,
    /// Whether the guest runs; unknown if the VMI cannot be read.
    pub runs: Fact<()>,
    /// Its NICs: in the order of the template, then those of the guest only.
    pub nics: Vec<NicReport>,
    /// Its free PCI ports.
    pub ports: FreePorts,
}

impl GuestReport {
    /// Returns whether the guest runs; `None` if that is not known.
    #[must_use]
    pub fn is_running(&self) -> Option<bool> {
        match self.runs {
            Fact::Known(()) => Some(true),
            Fact::Absent => Some(false),
            Fact::Unknown => None,
        }
    }
}

/// One NIC of a guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NicReport {
    /// Its name.
    pub name: String,
    /// `multus.networkName`, or `pod` for the pod network.
    pub network: String,
    /// The name of its binding; empty if KubeVirt or nicplug chooses it.
    pub binding: String,
    /// Its model; `virtio` by default.
    pub model: String,
    /// Its MAC address, if it is known.
    pub mac: Option<String>,
    /// How far it is.
    pub place: Place,
    /// Whether it is attached or detached.
    pub direction: Direction,
    /// A time at which it was there already, in RFC 3339.
    pub since: Option<String>,
    /// Whether the guest booted with it; `None` if that is not known.
    pub is_of_boot: Option<bool>,
    /// What it needs to get further.
    pub need: Need,
    /// The kind of reason why it is not further; `None` if it is where it belongs.
    pub reason: Option<PendingReason>,
    /// Why it is not further, as the end of a sentence that begins with its name; empty if it is where it belongs.
    pub why: String,
    /// What to do about it; empty if nothing.
    pub fix: String,
    /// Whether a user must start a live migration.
    pub needs_migration: bool,
    /// What could not be read and might say more.
    pub unread: Vec<&'static str>,
}

/// How far a NIC is on its way to the guest.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// Only the template of the VM has it.
    Template,
    /// The VMI has it.
    Vmi,
    /// The pod has it.
    Pod,
    /// The guest has it.
    Guest,
}

impl Place {
    /// Every place, in order.
    pub const ALL: [Self; 4] = [Self::Template, Self::Vmi, Self::Pod, Self::Guest];

    /// Returns the name in tables and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Vmi => "vmi",
            Self::Pod => "pod",
            Self::Guest => "guest",
        }
    }
}

/// What a NIC needs to get further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// Nothing: it is where it belongs.
    Nothing,
    /// Time: the next step is made by a program.
    Time,
    /// A user must do something.
    Action,
}

impl Need {
    /// Returns the name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Time => "time",
            Self::Action => "action",
        }
    }
}

/// The objects around a guest, prepared for its NICs.
struct GuestView<'s> {
    around: &'s Surroundings<'s>,
    judgement: &'s Judgement,
    snapshot: Snapshot<'s>,
    /// The number of NICs at boot, if it was recorded.
    boot_nics: Option<u64>,
    /// How each NIC of the guest is hotplugged.
    plugs: BTreeMap<String, HotplugMethod>,
}

/// Why a NIC is not further.
struct Diagnosis {
    place: Place,
    need: Need,
    reason: Option<PendingReason>,
    why: String,
    fix: String,
    needs_migration: bool,
}

impl Diagnosis {
    fn settled(place: Place) -> Self {
        Self {
            place,
            need: Need::Nothing,
            reason: None,
            why: String::new(),
            fix: String::new(),
            needs_migration: false,
        }
    }

    fn because(place: Place, need: Need, why: &str, fix: &str) -> Self {
        let reason = PendingReason::by_need(need);
        Self { place, need, reason, why: why.to_owned(), fix: fix.to_owned(), needs_migration: false }
    }
}

/// Reports where each NIC of a guest is.
#[must_use]
pub fn report(around: &Surroundings) -> GuestReport {
    let vmi = around.vmi.known().copied();
    let guest = around.vm.or(vmi).unwrap_or(&Value::Null);
    let judgement = Judgement::of(around);
    let pods = around.pods.map(|pods| pods_of(pods, vmi));
    let observed = GuestView {
        around,
        judgement: &judgement,
        snapshot: Snapshot {
            vm: around.vm,
            vmi,
            pods: pods.as_deref(),
            migrations: around.migrations,
            started_migration: None,
        },
        boot_nics: boot_nics(vmi),
        plugs: judgement::plugs(vmi),
    };
    GuestReport {
        namespace: text(guest, "/metadata/namespace").to_owned(),
        name: name_of(guest).to_owned(),
        has_vm: around.vm.is_some(),
        runs: runs(around),
        nics: observed.nics(),
        ports: judgement.ports,
    }
}

/// Returns the pods of a guest.
fn pods_of(pods: &[Value], vmi: Option<&Value>) -> Vec<Value> {
    let uid = vmi.map(|vmi| text(vmi, "/metadata/uid")).unwrap_or_default();
    let label = |pod: &Value| {
        let labels = pod.pointer("/metadata/labels");
        labels.and_then(|labels| labels.get(CREATED_BY)).and_then(Value::as_str).map(str::to_owned)
    };
    pods.iter().filter(|pod| !uid.is_empty() && label(pod).as_deref() == Some(uid)).cloned().collect()
}

/// Whether the guest runs. If the VMI cannot be read, the status of the VM shows it.
fn runs(around: &Surroundings) -> Fact<()> {
    match around.vmi {
        Fact::Known(vmi) if end_of(vmi).is_none() => Fact::Known(()),
        Fact::Known(_) | Fact::Absent => Fact::Absent,
        Fact::Unknown => around.vm.map_or(Fact::Unknown, runs_by_status),
    }
}

/// Whether the guest of a VM runs, by the status of the VM.
pub(super) fn runs_by_status(vm: &Value) -> Fact<()> {
    match vm.pointer("/status/created").and_then(Value::as_bool) {
        Some(true) => Fact::Known(()),
        Some(false) => Fact::Absent,
        None => Fact::Unknown,
    }
}

/// Returns the interfaces and networks of a guest's spec by name, in the order of the interfaces.
fn entries(spec: Option<&Value>) -> Vec<(&str, &Value, Option<&Value>)> {
    let Some(spec) = spec else { return Vec::new() };
    let networks: BTreeMap<&str, &Value> =
        list(spec, "/networks").iter().map(|network| (text(network, "/name"), network)).collect();
    let interfaces = list(spec, "/domain/devices/interfaces").iter();
    interfaces
        .map(|interface| {
            let name = text(interface, "/name");
            (name, interface, networks.get(name).copied())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{cluster::store::Store, k8s::kind::Kind};

    /// The objects of a cluster with KubeVirt 1.9 and one VM, which a test changes before it reports the NICs.
    struct Fixture {
        vm: Option<Value>,
        vmi: Fact<Value>,
        pods: Option<Vec<Value>>,
        migrations: Option<Vec<Value>>,
        events: Option<Vec<Value>>,
        methods: Vec<&'static str>,
        has_controller: bool,
        nodes: usize,
    }

    fn guest(nics: &[Value]) -> Value {
        let networks = nics.iter().map(|nic| match nic["name"].as_str() {
            Some("default") => json!({"name": "default", "pod": {}}),
            name => json!({"name": name, "multus": {"networkName": "net"}}),
        });
        json!({"domain": {"devices": {"interfaces": nics}}, "networks": networks.collect::<Vec<_>>()})
    }

    fn boot_nic() -> Value {
        json!({"name": "default", "masquerade": {}})
    }

    fn nic() -> Value {
        json!({"name": "blue", "bridge": {}})
    }

    fn warning(kind: &str, name: &str, reason: &str, message: &str, time: &str) -> Value {
        json!({"type": "Warning", "involvedObject": {"kind": kind, "name": name}, "reason": reason, "message": message,
            "lastTimestamp": time})
    }

    impl Fixture {
        /// A running VM whose template has a NIC that the VMI does not have yet, in a cluster with a controller.
        fn added() -> Self {
            let status = json!({"phase": "Running", "nodeName": "node-a",
                "conditions": [{"type": "LiveMigratable", "status": "True"}],
                "phaseTransitionTimestamps": [{"phase": "Running", "phaseTransitionTimestamp": "2026-11-27T08:00:00Z"}],
                "interfaces": [{"name": "default", "infoSource": "domain", "mac": "02:00:00:00:00:01"}]});
            let managed = json!([{"time": "2026-11-27T09:00:00Z", "fieldsV1": {"f:spec": {"f:template": {"f:spec":
                {"f:domain": {"f:devices": {"f:interfaces": {}}}}}}}}]);
            Self {
                vm: Some(json!({"metadata": {"name": "vm", "namespace": "demo", "managedFields": managed},
                    "spec": {"runStrategy": "Always", "template": {"spec": guest(&[boot_nic(), nic()])}}})),
                vmi: Fact::Known(json!({"metadata": {"name": "vm", "namespace": "demo", "uid": "u"},
                    "spec": guest(&[boot_nic()]), "status": status})),
                pods: Some(vec![json!({"metadata": {"name": "launcher", "labels": {(CREATED_BY): "u"}},
                    "spec": {"nodeName": "node-a"}, "status": {"phase": "Running"}})]),
                migrations: Some(Vec::new()),
                events: Some(Vec::new()),
                methods: vec!["LiveMigrate"],
                has_controller: true,
                nodes: 2,
            }
        }

        /// The same, and the VMI has the NIC.
        fn copied() -> Self {
            let mut fixture = Self::added();
            fixture.vmi_mut()["spec"] = guest(&[boot_nic(), nic()]);
            fixture
        }

        fn without_controller(self) -> Self {
            Self { has_controller: false, ..self }
        }

        fn template(mut self, nics: &[Value]) -> Self {
            self.vm.as_mut().unwrap()["spec"]["template"]["spec"] = guest(nics);
            self
        }

        fn vmi_mut(&mut self) -> &mut Value {
            match &mut self.vmi {
                Fact::Known(vmi) => vmi,
                Fact::Absent | Fact::Unknown => panic!("the guest does not run"),
            }
        }

        fn seen(mut self, source: &str) -> Self {
            let status = &mut self.vmi_mut()["status"];
            status["interfaces"].as_array_mut().unwrap().push(json!({"name": "blue", "infoSource": source}));
            self
        }

        fn condition(mut self, condition: Value) -> Self {
            let conditions = self.vmi_mut()["status"]["conditions"].as_array_mut().unwrap();
            conditions.retain(|other| other["type"] != condition["type"]);
            conditions.push(condition);
            self
        }

        fn report(&self) -> GuestReport {
            let mut store = Store::complete();
            let controller = json!({"metadata": {"name": "dnc", "namespace": "kube-system"},
                "spec": {"template": {"spec": {"containers": [{"command": ["/dynamic-networks-controller"]}]}}},
                "status": {"numberReady": 1, "desiredNumberScheduled": 1}});
            let multus = json!({"metadata": {"name": "multus", "namespace": "kube-system"},
                "spec": {"template": {"spec": {"containers": [{"command": ["/usr/src/multus-cni/bin/multus-daemon"]}]}}},
                "status": {"numberReady": 1, "desiredNumberScheduled": 1}});
            let kubevirt = json!({"metadata": {"name": "kubevirt", "namespace": "kubevirt"},
                "spec": {"workloadUpdateStrategy": {"workloadUpdateMethods": self.methods}},
                "status": {"observedKubeVirtVersion": "v1.9.0"}});
            let nad = json!({"metadata": {"name": "net", "namespace": "demo"}, "spec": {}});
            let mut objects = vec![(Kind::KubeVirt, kubevirt), (Kind::Nad, nad), (Kind::DaemonSet, multus)];
            if self.has_controller {
                objects.push((Kind::DaemonSet, controller));
            }
            for number in 0..self.nodes {
                let name = format!("node-{}", char::from(b'a' + u8::try_from(number).unwrap()));
                objects.push((
                    Kind::Node,
                    json!({"metadata": {"name": name, "labels": {"kubevirt.io/schedulable": "true"}}}),
                ));
            }
            objects.extend(self.vm.clone().map(|vm| (Kind::Vm, vm)));
            objects.extend(self.vmi.known().map(|vmi| (Kind::Vmi, vmi.clone())));
            for (kind, object) in objects {
                store.apply(kind, &object.to_string()).unwrap();
            }
            report(&Surroundings {
                vm: self.vm.as_ref(),
                vmi: self.vmi.as_ref(),
                pods: self.pods.as_deref(),
                migrations: self.migrations.as_deref(),
                events: self.events.as_deref(),
                facts: &store,
                settings: &Settings::default(),
            })
        }

        fn blue(&self) -> NicReport {
            let report = self.report();
            report.nics.into_iter().find(|nic| nic.name == "blue").unwrap()
        }

        /// Checks place and need of the NIC, and parts of the reason and the fix.
        #[track_caller]
        fn expect(&self, place: Place, need: Need, why: &[&str], fix: &str) {
            let nic = self.blue();
            assert_eq!((nic.place, nic.need), (place, need), "{nic:#?}");
            for part in why {
                assert!(nic.why.contains(part), "{part:?} is not in {:?}", nic.why);
            }
            assert!(nic.fix.contains(fix) && nic.fix.is_empty() == fix.is_empty(), "{fix:?} is not in {:?}", nic.fix);
        }
    }

    #[test]
    fn a_nic_goes_from_the_template_to_the_guest() {
        Fixture::added().expect(Place::Template, Need::Time, &["waits for KubeVirt to copy it"], "");
        Fixture::copied().expect(Place::Vmi, Need::Time, &["request it from Multus on pod \"launcher\""], "");
        Fixture::copied().seen("multus-status").expect(Place::Pod, Need::Time, &["waits for libvirt"], "");
        Fixture::copied().seen("domain, multus-status").expect(Place::Guest, Need::Nothing, &[""], "");
        // KubeVirt before 0.59 writes no source.
        Fixture::copied().seen("").expect(Place::Guest, Need::Nothing, &[""], "");
        let agent = Fixture::copied().seen("domain").condition(json!({"type": "AgentConnected", "status": "True"}));
        agent.expect(Place::Guest, Need::Nothing, &[""], "");
    }

    #[test]
    fn a_nic_shows_its_network_binding_model_and_address_and_since_when_it_is_there() {
        let report = Fixture::added().report();
        let [first, second] = report.nics.as_slice() else { panic!("{report:?}") };
        assert_eq!(
            (first.network.as_str(), first.binding.as_str(), first.model.as_str()),
            ("pod", "masquerade", "virtio")
        );
        assert_eq!(first.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!((first.place, first.since.as_deref()), (Place::Guest, Some("2026-11-27T08:00:00Z")));
        assert_eq!((second.network.as_str(), second.binding.as_str()), ("net", "bridge"));
        assert_eq!((second.place, second.since.as_deref()), (Place::Template, Some("2026-11-27T09:00:00Z")));
        assert_eq!(report.runs, Fact::Known(()));
    }

    #[test]
    fn what_the_rules_find_is_the_reason() {
        let network = |name: &str| {
            let mut fixture = Fixture::copied();
            for pointer in ["/spec/template/spec/networks/1/multus/networkName", "/spec/networks/1/multus/networkName"]
            {
                let object =
                    if pointer.contains("template") { fixture.vm.as_mut().unwrap() } else { fixture.vmi_mut() };
                *object.pointer_mut(pointer).unwrap() = json!(name);
            }
            fixture
        };
        let typo = network("ent");
        typo.expect(
            Place::Vmi,
            Need::Action,
            &["\"ent\" does not exist in namespace \"demo\""],
            "create or fix the Net",
        );
        let masquerade = Fixture::added().template(&[boot_nic(), json!({"name": "blue", "masquerade": {}})]);
        masquerade.expect(Place::Template, Need::Action, &["cannot be hotplugged"], "bridge");
        let one_node = Fixture { nodes: 1, ..Fixture::copied().without_controller() };
        one_node.expect(Place::Vmi, Need::Action, &["the cluster has only one node"], "dynamic-networks controller");
        let blocked = json!({"type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable"});
        let required = json!({"type": "MigrationRequired", "status": "True"});
        let immobile = Fixture::copied().without_controller().condition(blocked).condition(required);
        immobile.expect(
            Place::Vmi,
            Need::Action,
            &["the guest cannot migrate (DisksNotLiveMigratable)"],
            "live-migratable",
        );
        assert!(!immobile.blue().needs_migration, "a migration cannot help");
    }

    #[test]
    fn a_nic_that_the_next_restart_brings_waits_for_it() {
        let nic = json!({"name": "blue", "bridge": {}, "model": "e1000e"});
        // The settings may have let a console store it, so the annotation is not needed.
        for annotations in [json!({}), json!({"nicplug.io/apply": "on-restart"})] {
            let mut fixture = Fixture::added().template(&[boot_nic(), nic.clone()]);
            fixture.vm.as_mut().unwrap()["metadata"]["annotations"] = annotations;
            assert_eq!(fixture.blue().reason, Some(PendingReason::Restart), "{:?}", fixture.blue());
            // A restart does not cure a network that is missing.
            let network = "/spec/template/spec/networks/1/multus/networkName";
            *fixture.vm.as_mut().unwrap().pointer_mut(network).unwrap() = json!("missing");
            assert_eq!(fixture.blue().reason, Some(PendingReason::Rule), "{:?}", fixture.blue());
        }
        let mut plain = Fixture::added();
        plain.vm.as_mut().unwrap()["metadata"]["annotations"] = json!({"nicplug.io/apply": "on-restart"});
        assert_eq!(plain.blue().reason, Some(PendingReason::Controller), "KubeVirt copies it without a restart");
    }

    #[test]
    fn a_migration_starts_by_itself_or_a_user_starts_it() {
        let required = || {
            let since = "2026-11-27T10:00:00Z";
            let condition = json!({"type": "MigrationRequired", "status": "True", "lastTransitionTime": since});
            Fixture::copied().without_controller().condition(condition)
        };
        required().expect(Place::Vmi, Need::Time, &["a live migration, which KubeVirt starts"], "");
        assert_eq!(required().blue().since.as_deref(), Some("2026-11-27T10:00:00Z"));
        let manual = Fixture { methods: Vec::new(), ..required() };
        manual.expect(Place::Vmi, Need::Action, &["a user must start", "LiveMigrate"], "start a live migration");
        assert!(manual.blue().needs_migration);
        let mut running = required();
        running.migrations = Some(vec![
            json!({"metadata": {"name": "m"}, "spec": {"vmiName": "vm"}, "status": {"phase": "Scheduling"}}),
        ]);
        running.expect(Place::Vmi, Need::Time, &["migration \"m\": Scheduling"], "");
    }

    #[test]
    fn a_warning_of_another_program_is_quoted_if_it_is_about_the_nic() {
        let with = |events: Vec<Value>| {
            let mut fixture = Fixture::copied();
            let target =
                json!({"metadata": {"name": "target", "labels": {(CREATED_BY): "u"}}, "status": {"phase": "Pending"}});
            fixture.pods.as_mut().unwrap().push(target);
            fixture.events = Some(events);
            fixture
        };
        let time = "2026-11-27T10:00:00Z";
        for (event, part) in [
            (
                warning("Pod", "target", "FailedScheduling", "0/3 nodes", time),
                "Event FailedScheduling of Pod \"target\" (0/3",
            ),
            (warning("Pod", "launcher", "Failed", "adding pod16477688c0e: no bridge", time), "no bridge"),
            (warning("VirtualMachineInstance", "vm", "SyncFailed", "No more available PCI slots", time), "PCI slots"),
            (warning("VirtualMachine", "vm", "Odd", "NIC \"blue\" is odd", time), "is odd"),
        ] {
            with(vec![event]).expect(Place::Vmi, Need::Action, &[part], "Event");
        }
        for event in [
            warning("Pod", "launcher", "Unhealthy", "probe failed", time),
            warning("Pod", "other", "FailedScheduling", "pod16477688c0e", time),
            warning("VirtualMachineInstance", "other", "SyncFailed", "x", time),
        ] {
            with(vec![event.clone()]).expect(Place::Vmi, Need::Time, &["waits for"], "");
        }
        let newest = with(vec![
            warning("Pod", "target", "FailedScheduling", "newer", time),
            warning("Pod", "target", "FailedScheduling", "older", "2026-11-27T09:59:00Z"),
        ]);
        newest.expect(Place::Vmi, Need::Action, &["newer"], "Event");
    }

    #[test]
    fn a_changed_network_comes_by_a_migration() {
        let moved = |network: &str| {
            let mut fixture = Fixture::copied().seen("domain, multus-status");
            let entry = json!([{"name": network, "namespace": "demo", "interface": "pod16477688c0e"}]).to_string();
            let annotations = json!({"k8s.v1.cni.cncf.io/networks": entry});
            fixture.pods.as_mut().unwrap()[0]["metadata"]["annotations"] = annotations;
            fixture
        };
        moved("net").expect(Place::Guest, Need::Nothing, &[""], "");
        let why = "has network \"demo/old\" in the pod, and waits for a live migration to \"demo/net\"";
        moved("old").expect(Place::Guest, Need::Time, &[why, "which KubeVirt starts"], "");
        let manual = Fixture { methods: Vec::new(), ..moved("old") };
        manual.expect(Place::Guest, Need::Action, &[why, "a user must start"], "start a live migration");
        let blocked = json!({"type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable"});
        moved("old").condition(blocked).expect(
            Place::Guest,
            Need::Action,
            &["cannot migrate (Disks"],
            "live-migratable",
        );
    }

    #[test]
    fn a_nic_that_leaves_waits_for_the_guest_or_for_a_migration() {
        let absent = || json!({"name": "blue", "bridge": {}, "state": "absent"});
        let leaving = || Fixture::copied().template(&[boot_nic(), absent()]);
        leaving().seen("domain").expect(Place::Guest, Need::Time, &["is being removed", "KubeVirt to copy it"], "");
        let mut gone = leaving();
        gone.vmi_mut()["spec"] = guest(&[boot_nic()]);
        gone.expect(Place::Template, Need::Nothing, &["the guest does not have it"], "");
        let dropped = Fixture::copied().template(&[boot_nic()]).seen("domain");
        dropped.expect(Place::Guest, Need::Action, &["not in the template any more"], "restart the VM");
        assert_eq!(dropped.blue().direction, Direction::Detach);
        let automatic = Fixture::copied().template(&[]).seen("domain");
        automatic.expect(Place::Guest, Need::Nothing, &[""], "");
    }

    #[test]
    fn a_stopped_vm_gets_its_nics_at_the_next_start() {
        let stopped = Fixture { vmi: Fact::Absent, ..Fixture::added() };
        stopped.expect(Place::Template, Need::Nothing, &["at the next start"], "");
        assert_eq!(stopped.report().ports.now, crate::rules::PortCount::NotRunning);
        assert!(stopped.report().ports.after_restart.free().is_some());
        let mut starting = Fixture::copied();
        starting.vmi_mut()["status"]["phase"] = json!("Scheduling");
        starting.expect(Place::Vmi, Need::Time, &["the guest to run; its phase is Scheduling"], "");
    }

    #[test]
    fn what_the_user_cannot_read_is_named() {
        let mut blind = Fixture::copied();
        (blind.pods, blind.migrations, blind.events) = (None, None, None);
        assert_eq!(blind.blue().unread, ["pods", "VirtualMachineInstanceMigrations", "Events"]);
        let mut without_vmi = Fixture { vmi: Fact::Unknown, ..Fixture::copied() };
        without_vmi.expect(Place::Template, Need::Time, &["whether the guest has it is not known"], "");
        assert_eq!(without_vmi.report().runs, Fact::Unknown);
        without_vmi.vm.as_mut().unwrap()["status"] = json!({"created": true});
        assert_eq!(without_vmi.report().runs, Fact::Known(()), "the status of the VM shows it");
    }

    #[test]
    fn free_ports_are_counted_as_the_rule_counts_them() {
        let mut stamped = Fixture::copied().seen("domain");
        stamped.vmi_mut()["metadata"]["annotations"] = json!({"nicplug.io/boot-slots": "v1:port=3,nics=1,disks=0"});
        let ports = stamped.report().ports;
        assert_eq!((ports.now.free(), ports.now.short().as_str()), (Some(2), "2"), "{ports:?}");
        assert!(ports.after_restart.free().is_some(), "{ports:?}");
        let estimate = Fixture::copied().seen("domain").report().ports.now;
        assert!(estimate.short().starts_with('~'), "{estimate:?}");
    }

    #[test]
    fn a_vmi_without_a_vm_has_no_template() {
        let alone = Fixture { vm: None, ..Fixture::copied().seen("domain") };
        let report = alone.report();
        assert!(!report.has_vm && report.nics.iter().all(|nic| nic.need == Need::Nothing), "{report:?}");
        assert_eq!(report.name, "vm");
        let estimate = report.ports.now.short();
        assert!(estimate.starts_with('~'), "{estimate}");
        assert!(matches!(report.ports.after_restart, crate::rules::PortCount::Unknown(_)), "{:?}", report.ports);
    }
}
