//! What is wrong with one guest.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use serde_json::{Value, json};

use crate::{
    admission::{Judged, Severity},
    change::MigrationStart,
    cli::{
        check::{Level, UnknownFacts, WithVersion, findings_of_new},
        guests::{FoundGuests, Guest},
        slots::{BusView, bus_after_restart},
        status::place_of,
    },
    cluster::store::Store,
    facts::{Fact, FactSource, migration::Obstacle},
    hotplug::{
        place::{GuestReport, Need, Surroundings, report},
        progress::Direction,
    },
    kubevirt::{NEWEST_KNOWN, Version},
    rules::{FreePorts, PortCount, Rule},
    settings::Settings,
};

/// What a finding is about; the worst first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Topic {
    NotJudged,
    WillNotBoot,
    NicStuck,
    Denied,
    NicDropped,
    CannotMigrate,
    FullNow,
    FullLater,
    Warned,
    NicPending,
    NotChecked,
}

impl Topic {
    pub(super) const ALL: [Self; 11] = [
        Self::NotJudged,
        Self::WillNotBoot,
        Self::NicStuck,
        Self::Denied,
        Self::NicDropped,
        Self::CannotMigrate,
        Self::FullNow,
        Self::FullLater,
        Self::Warned,
        Self::NicPending,
        Self::NotChecked,
    ];

    /// Returns the name in JSON and SARIF.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::NotJudged => "not-judged",
            Self::WillNotBoot => "will-not-boot",
            Self::NicStuck => "nic-stuck",
            Self::Denied => "denied",
            Self::NicDropped => "nic-dropped",
            Self::CannotMigrate => "cannot-migrate",
            Self::FullNow => "ports-full",
            Self::FullLater => "ports-full-after-restart",
            Self::Warned => "warned",
            Self::NicPending => "nic-pending",
            Self::NotChecked => "not-checked",
        }
    }

    /// Returns the heading of its findings.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::NotJudged => "Cannot be judged",
            Self::WillNotBoot => "Would not boot",
            Self::NicStuck => "NIC waits for a user",
            Self::Denied => "Would be denied if created now",
            Self::NicDropped => "NIC is lost at the next restart",
            Self::CannotMigrate => "Cannot migrate",
            Self::FullNow => "No free PCI port now",
            Self::FullLater => "No free PCI port after the next restart",
            Self::Warned => "Would draw a warning if created now",
            Self::NicPending => "NIC is on its way",
            Self::NotChecked => "Was not checked",
        }
    }

    fn level(self) -> Level {
        match self {
            Self::NotJudged | Self::WillNotBoot | Self::NicStuck | Self::Denied => Level::Error,
            Self::NicDropped | Self::CannotMigrate | Self::FullNow | Self::FullLater | Self::Warned => Level::Warning,
            Self::NicPending | Self::NotChecked => Level::Note,
        }
    }
}

/// Something that is wrong with a guest.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) topic: Topic,
    pub(super) level: Level,
    /// The rule that found it; `None` for what the objects show.
    pub(super) rule: Option<&'static Rule>,
    /// The NIC; empty if it is about the guest.
    pub(super) nic: String,
    /// The path of the field; empty if it is not about a field.
    pub(super) field: String,
    pub(super) what: String,
    pub(super) fix: String,
    /// Whether only the version of `--kubevirt-version` has it.
    pub(super) is_new: bool,
}

impl Finding {
    pub(super) fn of(topic: Topic, what: String, fix: &str) -> Self {
        let (nic, field) = (String::new(), String::new());
        Self { topic, level: topic.level(), rule: None, nic, field, what, fix: fix.to_owned(), is_new: false }
    }

    /// Returns the id of the rule, else that of the topic.
    pub(super) fn id(&self) -> &'static str {
        self.rule.map_or(self.topic.id(), |rule| rule.id)
    }
}

/// A guest with what is wrong with it.
#[derive(Clone, Debug)]
pub(super) struct AuditedGuest {
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// Whether it runs; `None` if that is not known.
    pub(super) runs: Option<bool>,
    pub(super) ports: FreePorts,
    /// Its NICs, each with its network and its place.
    pub(super) nics: Vec<[String; 3]>,
    /// The worst first.
    pub(super) findings: Vec<Finding>,
    /// The number of its PCI bus after the next restart in [`Buses`], if it is to be shown.
    pub(super) bus: Option<usize>,
}

/// The PCI buses of guests. Guests with equal buses, such as those of one template, share one.
#[derive(Debug, Default)]
pub(super) struct Buses {
    pub(super) list: Vec<Value>,
    numbers: HashMap<String, usize>,
}

impl Buses {
    fn number(&mut self, bus: Value) -> usize {
        *self.numbers.entry(bus.to_string()).or_insert_with(|| {
            self.list.push(bus);
            self.list.len() - 1
        })
    }
}

impl AuditedGuest {
    /// Returns what sorts guests: the worst first.
    pub(super) fn rank(&self) -> (bool, Option<Topic>, Reverse<usize>, String, String) {
        let worst = self.findings.first().map(|finding| finding.topic);
        let count = Reverse(self.findings.len());
        // A guest without findings comes last.
        (worst.is_none(), worst, count, self.namespace.clone(), self.name.clone())
    }
}

/// Evaluates guests by the same facts.
pub(super) struct GuestAuditor<'a> {
    pub(super) found: &'a FoundGuests,
    pub(super) settings: &'a Settings,
    /// The version of KubeVirt in the cluster.
    pub(super) present: Option<Version>,
    /// The version of `--kubevirt-version`.
    pub(super) wanted: Option<Version>,
    /// Whether the PCI bus is to be shown.
    pub(super) has_bus: bool,
}

impl GuestAuditor<'_> {
    /// Evaluates a guest. Adds the facts that were not known, and its bus.
    pub(super) fn audit(&self, guest: &Guest, unknown: &mut UnknownFacts, buses: &mut Buses) -> AuditedGuest {
        let store = &self.found.store;
        let (mut audited, bus) = match self.wanted {
            Some(version) => self.evaluate(guest, &WithVersion { store, version }, version, unknown),
            None => self.evaluate(guest, store, self.present.unwrap_or(NEWEST_KNOWN), unknown),
        };
        if let (Some(version), Some(present)) = (self.wanted, self.present)
            && present != version
        {
            let (today, _) = self.evaluate(guest, store, present, unknown);
            let identity =
                |finding: &Finding| (finding.topic, finding.id(), finding.nic.clone(), finding.field.clone());
            let today: HashSet<_> = today.findings.iter().map(identity).collect();
            for finding in &mut audited.findings {
                finding.is_new = !today.contains(&identity(finding));
            }
        }
        audited.bus = bus.filter(|_| self.has_bus).map(|bus| buses.number(bus.value()));
        audited
    }

    /// Evaluates a guest by facts; returns its bus too, if that can be drawn.
    fn evaluate(
        &self,
        guest: &Guest,
        facts: &dyn FactSource,
        version: Version,
        unknown: &mut UnknownFacts,
    ) -> (AuditedGuest, Option<BusView>) {
        let report = report(&Surroundings { facts, ..self.found.around(guest, self.settings) });
        let (kind, object) = match (&guest.vm, &guest.vmi) {
            (Some(vm), _) => ("VirtualMachine", vm),
            (None, Fact::Known(vmi)) => ("VirtualMachineInstance", vmi),
            (None, _) => ("VirtualMachineInstance", &Value::Null),
        };
        let mut findings = Vec::new();
        let bus = bus_after_restart(guest.vm.as_ref(), guest.vmi.known(), &self.found.store, version).ok();
        add_boot_error(bus.as_ref(), &mut findings);
        for judged in findings_of_new(facts, self.settings, kind, &typed(object, kind)) {
            if let (Some(missing), Some(rule)) = (judged.missing, judged.rule) {
                unknown.entry(missing.as_str()).or_default().insert(rule.id);
                continue;
            }
            findings.extend(judged_finding(judged, object, &findings));
        }
        add_nics(&report, object, &mut findings);
        add_ports(&report, &mut findings);
        findings.extend(migratable(guest, &self.found.store, self.settings));
        findings.sort_by_key(|finding| finding.topic);
        let audited = AuditedGuest {
            kind,
            namespace: guest.namespace.clone(),
            name: guest.name.clone(),
            uid: object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned(),
            runs: report.is_running(),
            ports: report.ports,
            nics: report
                .nics
                .into_iter()
                .map(|nic| {
                    let place = place_of(&nic);
                    [nic.name, nic.network, place]
                })
                .collect(),
            findings,
            bus: None,
        };
        (audited, bus)
    }
}

/// Returns a finding if a running guest cannot migrate: by its condition, or by the settings, nodes and quotas, which the
/// condition does not consider.
fn migratable(guest: &Guest, store: &Store, settings: &Settings) -> Option<Finding> {
    let vmi = guest.vmi.known()?;
    if vmi.pointer("/status/phase").and_then(Value::as_str) != Some("Running") {
        return None;
    }
    if let Some(finding) = not_migratable(vmi) {
        return Some(finding);
    }
    let start = MigrationStart { namespace: &guest.namespace, vmi_name: &guest.name };
    let facts = store.facts_to_move(&start, settings.attachment.multus_namespace.as_ref());
    let obstacle = Obstacle::of_guest(&facts, settings, facts.live().known()?)?;
    let fix = match obstacle {
        Obstacle::Plugin { .. } => "plan a restart for a NIC that needs a migration and for a drain of its node",
        Obstacle::Unavailable { .. } => "make one of these nodes schedulable before you drain the node of the guest",
        Obstacle::Quota { .. } => "raise the quota before the guest migrates",
        _ => "make another node fit, or plan a restart for a NIC that needs a migration and for a drain of its node",
    };
    Some(Finding::of(Topic::CannotMigrate, format!("the running guest cannot migrate: {obstacle}"), fix))
}

/// Returns the object with its type, which an item of a list may lack.
fn typed(object: &Value, kind: &str) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), json!("kubevirt.io/v1"));
        fields.insert("kind".to_owned(), json!(kind));
    }
    object
}

fn add_boot_error(bus: Option<&BusView>, findings: &mut Vec<Finding>) {
    if let Some(why) = bus.and_then(BusView::boot_error) {
        let fix = "remove devices or change the annotations that set the PCI topology, before the next restart";
        let why = why.strip_prefix("This guest cannot boot: ").unwrap_or(why);
        findings.push(Finding::of(Topic::WillNotBoot, why.to_owned(), fix));
    }
}

/// Returns what a finding of the webhook means for an object that exists. A guest that does not boot is reported once.
fn judged_finding(judged: Judged, object: &Value, before: &[Finding]) -> Option<Finding> {
    let is_boot = judged.rule.is_some_and(|rule| rule.name == "boot-pci-slots");
    let topic = match (judged.severity, judged.rule) {
        (Severity::Denied, None) => Topic::NotJudged,
        (_, Some(_)) if is_boot && before.iter().any(|finding| finding.topic == Topic::WillNotBoot) => return None,
        (Severity::Denied, Some(_)) => Topic::Denied,
        (Severity::Warned, _) => Topic::Warned,
        (Severity::Unchecked, _) => Topic::NotChecked,
    };
    let nic = nic_of(object, &judged.field);
    let finding = Finding::of(topic, judged.what, &judged.fix);
    Some(Finding { rule: judged.rule, nic, field: judged.field, ..finding })
}

/// Returns the name of the NIC that a field belongs to.
fn nic_of(object: &Value, field: &str) -> String {
    let Some((list, rest)) = ["interfaces[", "networks["].iter().find_map(|list| field.split_once(list)) else {
        return String::new();
    };
    let list_name = if field.contains("interfaces[") { "interfaces" } else { "networks" };
    let path = format!("/{}{list_name}", list.replace('.', "/"));
    let entry = rest.split_once(']').and_then(|(index, _)| index.parse::<usize>().ok());
    let name = entry.and_then(|index| object.pointer(&path)?.get(index)?.get("name")?.as_str());
    name.unwrap_or_default().to_owned()
}

fn add_nics(report: &GuestReport, object: &Value, findings: &mut Vec<Finding>) {
    let template = object.pointer("/spec/template/spec/domain/devices/interfaces").and_then(Value::as_array);
    for nic in &report.nics {
        let is_in_template = template.is_some_and(|all| all.iter().any(|interface| interface["name"] == *nic.name));
        let Some(topic) = topic_of_nic(nic.need, nic.direction, is_in_template) else { continue };
        let finding = Finding::of(topic, format!("{:?} {}", nic.name, nic.why), &nic.fix);
        findings.push(Finding { nic: nic.name.clone(), ..finding });
    }
}

/// Returns what the place of a NIC means; `None` if it is where it belongs.
fn topic_of_nic(need: Need, direction: Direction, is_in_template: bool) -> Option<Topic> {
    match (need, direction) {
        (Need::Nothing, _) => None,
        (Need::Time, _) => Some(Topic::NicPending),
        (Need::Action, Direction::Detach) if !is_in_template => Some(Topic::NicDropped),
        (Need::Action, _) => Some(Topic::NicStuck),
    }
}

fn add_ports(report: &GuestReport, findings: &mut Vec<Finding>) {
    let will_not_boot = findings.iter().any(|finding| finding.topic == Topic::WillNotBoot);
    if let PortCount::Free { free: 0, at_boot, name, estimate } = &report.ports.now {
        let about = if estimate.is_some() { ", by estimate" } else { "" };
        let what = match at_boot {
            0 => format!("the guest booted without a free {name}{about}"),
            1 => format!("the {name} that was free at boot is in use{about}"),
            _ => format!("all {at_boot} {name}s that were free at boot are in use{about}"),
        };
        findings.push(Finding::of(Topic::FullNow, what, "restart the VM before you add a NIC"));
    }
    if let (PortCount::Free { free: 0, name, .. }, false) = (&report.ports.after_restart, will_not_boot) {
        let what = format!("after the next restart no {name} is free");
        let fix = "reserve ports with the annotation nicplug.io/reserve-ports of the VM before the restart";
        findings.push(Finding::of(Topic::FullLater, what, fix));
    }
}

/// Returns a finding if KubeVirt reports that a guest cannot migrate.
fn not_migratable(vmi: &Value) -> Option<Finding> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let conditions = vmi.pointer("/status/conditions").and_then(Value::as_array)?;
    let condition = conditions.iter().find(|condition| text(condition, "type") == "LiveMigratable")?;
    if text(condition, "status") != "False" {
        return None;
    }
    let why: Vec<String> =
        ["reason", "message"].map(|key| text(condition, key)).into_iter().filter(|part| !part.is_empty()).collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(": ")) };
    let what = format!("the running guest cannot migrate{why}");
    let fix = "make it live-migratable, or plan a restart for a NIC that needs a migration and for a drain of its node";
    Some(Finding::of(Topic::CannotMigrate, what, fix))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::k8s::kind::Kind;

    #[test]
    fn a_field_belongs_to_the_nic_of_its_list_entry() {
        let object = json!({"spec": {"template": {"spec": {"networks": [{"name": "a"}, {"name": "b"}],
            "domain": {"devices": {"interfaces": [{"name": "c"}]}}}}}});
        for (field, nic) in [
            ("spec.template.spec.networks[1].multus.networkName", "b"),
            ("spec.template.spec.domain.devices.interfaces[0].model", "c"),
            ("spec.template.spec.networks[7]", ""),
            ("spec.template.spec.domain", ""),
            ("", ""),
        ] {
            assert_eq!(nic_of(&object, field), nic, "{field}");
        }
    }

    #[test]
    fn a_running_guest_cannot_migrate_by_its_condition_or_by_its_nodes() {
        let node = |name: &str, is_cordoned: bool, zone: &str| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels":
                {"kubevirt.io/schedulable": "true", "zone": zone}}, "spec": {"unschedulable": is_cordoned}})
        };
        let pinned = "the running guest cannot migrate: no other node fits its nodeSelector";
        let cordoned = "the running guest cannot migrate: the other nodes are cordoned (node-b)";
        let condition = "the running guest cannot migrate (DisksNotLiveMigratable: no RWX)";
        for (phase, status, nodes, expected) in [
            ("Running", "False", vec![], Some(condition)),
            ("Succeeded", "False", vec![], None),
            ("Running", "True", vec![], None),
            ("Running", "True", vec![node("node-a", false, "x")], None),
            ("Running", "True", vec![node("node-a", false, "x"), node("node-b", false, "x")], None),
            ("Running", "True", vec![node("node-a", false, "x"), node("node-b", true, "x")], Some(cordoned)),
            ("Running", "True", vec![node("node-a", false, "x"), node("node-b", false, "y")], Some(pinned)),
            ("Succeeded", "True", vec![node("node-a", false, "x"), node("node-b", false, "y")], None),
        ] {
            let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
                "spec": {"nodeSelector": {"zone": "x"}, "domain": {"devices": {}}},
                "status": {"phase": phase, "nodeName": "node-a", "conditions": [{"type": "LiveMigratable",
                    "status": status, "reason": "DisksNotLiveMigratable", "message": "no RWX"}]}});
            let mut store = Store::default();
            store.apply(Kind::Vmi, &vmi.to_string()).unwrap();
            for node in &nodes {
                store.apply(Kind::Node, &node.to_string()).unwrap();
            }
            for kind in [Kind::Vmi, Kind::Node] {
                store.finish_sync(kind);
            }
            let guest = Guest { namespace: "shop".into(), name: "web".into(), vm: None, vmi: Fact::Known(vmi) };
            let finding = migratable(&guest, &store, &Settings::default());
            assert_eq!(finding.as_ref().map(|finding| finding.what.as_str()), expected, "{phase} {status} {nodes:?}");
        }
    }

    #[test]
    fn a_running_guest_cannot_migrate_with_a_plugin_of_the_settings() {
        let network = |name: &str, plugin: &str| {
            json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"config": json!({"cniVersion": "0.4.0", "type": plugin}).to_string()}})
        };
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"domain": {"devices": {"interfaces": [{"name": "a", "bridge": {}}, {"name": "b", "bridge": {}}]}},
                "networks": [{"name": "a", "multus": {"networkName": "blue"}},
                    {"name": "b", "multus": {"networkName": "passed"}}]},
            "status": {"phase": "Running", "nodeName": "node-a"}});
        let mut store = Store::default();
        store.apply(Kind::Vmi, &vmi.to_string()).unwrap();
        for network in [network("blue", "bridge"), network("passed", "host-device")] {
            store.apply(Kind::Nad, &network.to_string()).unwrap();
        }
        let guest = Guest { namespace: "shop".into(), name: "web".into(), vm: None, vmi: Fact::Known(vmi) };
        let expected = "the running guest cannot migrate: plugin host-device of \"b\" does not migrate";
        for (settings, expected) in [
            ("{}", None),
            ("attachment: {neverByMigration: [macvtap]}", None),
            ("attachment: {neverByMigration: [macvtap, host-device]}", Some(expected)),
        ] {
            let finding = migratable(&guest, &store, &Settings::parse(settings, &[]).unwrap());
            assert_eq!(finding.as_ref().map(|finding| finding.what.as_str()), expected, "{settings}");
            assert!(finding.is_none_or(|finding| finding.fix.starts_with("plan a restart")));
        }
    }

    #[test]
    fn a_nic_that_the_template_has_lost_is_dropped_and_one_that_waits_for_a_user_is_stuck() {
        for (need, direction, is_in_template, expected) in [
            (Need::Nothing, Direction::Attach, true, None),
            (Need::Time, Direction::Attach, true, Some(Topic::NicPending)),
            (Need::Action, Direction::Attach, true, Some(Topic::NicStuck)),
            (Need::Action, Direction::Detach, true, Some(Topic::NicStuck)),
            (Need::Action, Direction::Detach, false, Some(Topic::NicDropped)),
        ] {
            assert_eq!(topic_of_nic(need, direction, is_in_template), expected, "{need:?} {direction:?}");
        }
    }

    #[test]
    fn every_topic_has_its_own_id_and_the_order_is_that_of_the_list() {
        let ids: BTreeSet<&str> = Topic::ALL.iter().map(|topic| topic.id()).collect();
        assert_eq!(ids.len(), Topic::ALL.len());
        assert!(Topic::ALL.is_sorted() && Topic::ALL.map(Topic::level).is_sorted_by(|a, b| a <= b));
    }
}
