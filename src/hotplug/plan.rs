//! The plan of a change of several NICs of a VM: the VM as the change would write it, and what becomes of each NIC.
//!
//! The change is the one that `addinterface` and `removeinterface` make, NIC after NIC. The webhook's evaluation then
//! judges the result as one update.

use std::{str::FromStr, sync::Arc};

use json_patch::{AddOperation, PatchOperation, RemoveOperation, TestOperation};
use serde_json::{Value, json};

use super::{
    edit::{Edit, EditError, EditRequest, edit, review_of},
    progress::objects::{list, name_is},
};
use crate::{
    admission::{self, Evaluator, Outlook},
    api::{json_patch::pointer, mac::Mac},
    facts::{FactSource, nad::closest_name},
    rules::{NicChange, Timing},
    settings::Settings,
};

/// The path of the guest in a VM.
const TEMPLATE: &str = "spec.template.spec";

/// One step of a plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PlanStep {
    /// Add or remove a NIC.
    Edit(EditRequest),
    /// Set a field of a NIC.
    Set(FieldChange),
}

/// A new value of a field of a NIC, written as `NIC.FIELD=VALUE`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldChange {
    /// The name of the NIC.
    pub nic: String,
    /// The field.
    pub field: NicField,
    /// The value.
    pub value: String,
}

/// A field of a NIC that a plan can set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NicField {
    /// `state` of the interface: `up`, `down` or `absent`.
    State,
    /// `model` of the interface.
    Model,
    /// `macAddress` of the interface.
    Mac,
    /// `multus.networkName` of the network.
    Network,
}

/// Why a text is not a change of a field.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FieldChangeError {
    /// It has another form.
    #[error("write NIC.FIELD=VALUE, such as blue.state=down; the fields are state, model, mac and network")]
    Form,
    /// The value does not fit the field.
    #[error("{0}")]
    Value(String),
}

impl FromStr for FieldChange {
    type Err = FieldChangeError;

    fn from_str(text: &str) -> Result<Self, FieldChangeError> {
        let (target, value) = text.split_once('=').ok_or(FieldChangeError::Form)?;
        let (nic, field) = target.rsplit_once('.').ok_or(FieldChangeError::Form)?;
        let field = match field {
            "state" => NicField::State,
            "model" => NicField::Model,
            "mac" | "macAddress" => NicField::Mac,
            "network" | "networkName" => NicField::Network,
            _ => return Err(FieldChangeError::Form),
        };
        if nic.is_empty() || value.is_empty() {
            return Err(FieldChangeError::Form);
        }
        if field == NicField::State && !matches!(value, "up" | "down" | "absent") {
            return Err(FieldChangeError::Value(format!("{value:?} is not a state: write up, down or absent")));
        }
        if field == NicField::Mac && value.parse::<Mac>().is_err() {
            return Err(FieldChangeError::Value(format!("{value:?} is not a MAC address")));
        }
        Ok(Self { nic: nic.to_owned(), field, value: value.to_owned() })
    }
}

/// The plan of a change.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The JSON patch that makes the change; it fails if another client has changed the VM meanwhile. Empty if nothing
    /// changes.
    pub patch: Vec<PatchOperation>,
    /// The VM after the change.
    pub object: Value,
    /// What becomes of it; `None` if nothing changes.
    pub outlook: Option<Outlook>,
    /// NICs whose change is impossible before any rule judges it, and why.
    pub impossible: Vec<(String, String)>,
    /// NICs that need no change, and why.
    pub unchanged: Vec<(String, String)>,
}

impl Plan {
    /// Whether the change is impossible, or the webhook denies it.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        !self.impossible.is_empty() || self.outlook.as_ref().is_some_and(|outlook| !outlook.verdict.is_allowed())
    }

    /// Whether it is not known when a NIC reaches the guest, or whether something prevents that.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        let Some(outlook) = &self.outlook else { return false };
        outlook.nics.iter().any(|nic| matches!(nic.timing, Timing::Unknown(_)))
    }

    /// Returns the number of ports that are free after the running guest has changed; `None` if it is unknown or
    /// unlimited.
    #[must_use]
    pub fn free_after(&self) -> Option<u64> {
        let outlook = self.outlook.as_ref()?;
        let is_made =
            |timing: &Timing| matches!(timing, Timing::AtOnce | Timing::OnSomeNodes { .. } | Timing::ByMigration(_));
        let count = |change: NicChange| {
            let nics = outlook.nics.iter().filter(|nic| nic.change == change && is_made(&nic.timing));
            nics.count() as u64
        };
        let free = outlook.ports.now.free()? + count(NicChange::Remove);
        Some(free.saturating_sub(count(NicChange::Add)))
    }
}

/// Plans the steps for a VM, as it was read from the API server.
///
/// # Errors
/// The VM does not conform to the API of KubeVirt.
pub fn plan(
    vm: &Value,
    steps: &[PlanStep],
    facts: &Arc<dyn FactSource>,
    settings: &Settings,
) -> Result<Plan, EditError> {
    let mut plan =
        Plan { patch: Vec::new(), object: vm.clone(), outlook: None, impossible: Vec::new(), unchanged: Vec::new() };
    for step in steps {
        match step {
            PlanStep::Edit(request) => plan.edit(request, facts, settings)?,
            PlanStep::Set(change) => plan.set(change)?,
        }
    }
    if plan.patch.is_empty() {
        return Ok(plan);
    }
    let path = pointer("metadata", &["resourceVersion"]);
    if let Some(value) = vm.pointer(path.as_str()).cloned() {
        plan.patch.insert(0, PatchOperation::Test(TestOperation { path, value }));
    }
    let body = review_of(vm, &plan.object, true);
    let outlook = Evaluator::new(facts.as_ref(), settings).outlook(&admission::parse(&body));
    plan.outlook = Some(outlook.ok_or_else(|| EditError::Unreadable("a field has another type".to_owned()))?);
    Ok(plan)
}

impl Plan {
    fn edit(
        &mut self,
        request: &EditRequest,
        facts: &Arc<dyn FactSource>,
        settings: &Settings,
    ) -> Result<(), EditError> {
        let nic = request.nic();
        if matches!(request, EditRequest::Remove(_)) && !self.has_nic(nic) {
            self.impossible.push((nic.to_owned(), self.no_such_nic(nic)));
            return Ok(());
        }
        match edit(&self.object, request, facts, settings, true) {
            Ok(edit) if edit.is_needed() => self.take(edit),
            Ok(_) => {
                let why = match request {
                    EditRequest::Add(_) => "the template has it already",
                    EditRequest::Remove(_) => "it is absent already",
                };
                self.unchanged.push((nic.to_owned(), why.to_owned()));
            }
            Err(error @ EditError::Unreadable(_)) => return Err(error),
            Err(EditError::Malformed(why) | EditError::NameInUse(why) | EditError::NotFound(why)) => {
                self.impossible.push((nic.to_owned(), why));
            }
        }
        Ok(())
    }

    fn take(&mut self, edit: Edit) {
        // One test of the whole VM replaces the tests of each edit.
        let operations = edit.patch.0.into_iter();
        self.patch.extend(operations.filter(|operation| !matches!(operation, PatchOperation::Test(_))));
        self.object = edit.object;
    }

    fn set(&mut self, change: &FieldChange) -> Result<(), EditError> {
        let FieldChange { nic, field, value } = change;
        let below: &[&str] =
            if *field == NicField::Network { &["networks"] } else { &["domain", "devices", "interfaces"] };
        let lists = pointer(TEMPLATE, below);
        let index = list(&self.object, lists.as_str()).iter().position(|entry| name_is(entry, nic));
        let Some(index) = index else {
            self.impossible.push((nic.clone(), self.no_such_nic(nic)));
            return Ok(());
        };
        let key: &[&str] = match field {
            NicField::State => &["state"],
            NicField::Model => &["model"],
            NicField::Mac => &["macAddress"],
            NicField::Network => &["multus", "networkName"],
        };
        let index = index.to_string();
        let path = pointer(TEMPLATE, &[below, &[index.as_str()], key].concat());
        let old = self.object.pointer(path.as_str());
        if *field == NicField::Network && old.is_none() {
            self.impossible.push((nic.clone(), format!("{nic:?} is not on a network of Multus")));
            return Ok(());
        }
        // `up` is the state of a NIC without one.
        let is_reset = *field == NicField::State && value == "up";
        let operation = match old {
            Some(old) if old == &json!(value) => None,
            None if is_reset => None,
            Some(_) if is_reset => Some(PatchOperation::Remove(RemoveOperation { path })),
            _ => Some(PatchOperation::Add(AddOperation { path, value: json!(value) })),
        };
        let Some(operation) = operation else {
            self.unchanged.push((nic.clone(), "the template has this value already".to_owned()));
            return Ok(());
        };
        let patched = json_patch::patch(&mut self.object, std::slice::from_ref(&operation));
        patched.map_err(|error| EditError::Unreadable(error.to_string()))?;
        self.patch.push(operation);
        Ok(())
    }

    fn has_nic(&self, nic: &str) -> bool {
        self.names().any(|name| name == nic)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let interfaces = list(&self.object, "/spec/template/spec/domain/devices/interfaces").iter();
        interfaces.filter_map(|interface| interface.get("name")?.as_str())
    }

    fn no_such_nic(&self, nic: &str) -> String {
        match closest_name(nic, self.names()) {
            Some(near) => format!("the template has no NIC {nic:?}; did you mean {near:?}?"),
            None => format!("the template has no NIC {nic:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::Weight, cluster::store::Store, facts::kubevirt::AutoMigration, hotplug::edit::NewNic,
        k8s::kind::Kind, rules::FreePorts, settings::Enforcement,
    };

    fn vm() -> Value {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "vm", "namespace": "demo", "resourceVersion": "7"},
            "spec": {"runStrategy": "Always", "template": {"spec": {
                "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}, {"name": "blue", "bridge": {}}]}},
                "networks": [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "net"}}]}}}})
    }

    /// A cluster in which the VM runs with three free ports, or does not run.
    fn cluster(runs: bool, has_controller: bool) -> Arc<dyn FactSource> {
        let mut store = Store::complete();
        fill(&mut store, runs, has_controller);
        Arc::new(store)
    }

    fn fill(store: &mut Store, runs: bool, has_controller: bool) {
        let daemon = |name: &str, command: &str| {
            json!({"metadata": {"name": name, "namespace": "kube-system"},
                "spec": {"template": {"spec": {"containers": [{"command": [command]}]}}},
                "status": {"numberReady": 2, "desiredNumberScheduled": 2}})
        };
        let node = |name: &str| json!({"metadata": {"name": name, "labels": {"kubevirt.io/schedulable": "true"}}});
        let mut objects = vec![
            (
                Kind::KubeVirt,
                json!({"metadata": {"name": "kubevirt"}, "status": {"observedKubeVirtVersion": "v1.9.0"}}),
            ),
            (Kind::Nad, json!({"metadata": {"name": "net", "namespace": "demo"}, "spec": {}})),
            (Kind::DaemonSet, daemon("multus", "/usr/src/multus-cni/bin/multus-daemon")),
            (Kind::Node, node("node-a")),
            (Kind::Node, node("node-b")),
        ];
        if has_controller {
            objects.push((Kind::DaemonSet, daemon("dnc", "/dynamic-networks-controller")));
        }
        if runs {
            objects.push((
                Kind::Vmi,
                json!({"metadata": {"name": "vm", "namespace": "demo",
                    "annotations": {"nicplug.io/boot-slots": "v1:port=2,nics=2,disks=0"}},
                    "spec": vm()["spec"]["template"]["spec"],
                    "status": {"phase": "Running", "nodeName": "node-a",
                        "conditions": [{"type": "LiveMigratable", "status": "True"}],
                        "interfaces": [
                            {"name": "default", "infoSource": "domain"},
                            {"name": "blue", "infoSource": "domain, multus-status", "podInterfaceName": "pod16477688c0e"}]}}),
            ));
        }
        for (kind, object) in objects {
            store.apply(kind, &object.to_string()).unwrap();
        }
    }

    fn add(name: &str) -> PlanStep {
        let network_name = "net".to_owned();
        PlanStep::Edit(EditRequest::Add(NewNic { name: name.to_owned(), network_name, ..NewNic::default() }))
    }

    fn remove(name: &str) -> PlanStep {
        PlanStep::Edit(EditRequest::Remove(name.to_owned()))
    }

    fn set(text: &str) -> PlanStep {
        PlanStep::Set(text.parse().unwrap())
    }

    fn plan_in(facts: &Arc<dyn FactSource>, steps: &[PlanStep]) -> Plan {
        plan(&vm(), steps, facts, &Settings::default()).unwrap()
    }

    fn timing(plan: &Plan, nic: &str) -> Timing {
        let outlook = plan.outlook.as_ref().unwrap();
        outlook.nics.iter().find(|outlook| outlook.name == nic).unwrap().timing.clone()
    }

    #[test]
    fn each_nic_has_its_own_time() {
        let facts = cluster(true, true);
        let plan = plan_in(&facts, &[add("red"), remove("blue"), set("default.model=e1000e")]);
        assert_eq!(timing(&plan, "red"), Timing::AtOnce);
        assert_eq!(timing(&plan, "blue"), Timing::AtOnce);
        assert!(matches!(timing(&plan, "default"), Timing::AtRestart(_)));
        assert!(!plan.is_refused(), "{:?}", plan.outlook);
        let migrated = plan_in(&cluster(true, false), &[add("red")]);
        let off = Timing::ByMigration(AutoMigration::Off("workloadUpdateMethods LiveMigrate"));
        assert_eq!(timing(&migrated, "red"), off);
        assert_eq!(timing(&plan_in(&facts, &[set("blue.state=down")]), "blue"), Timing::AtOnce);
        assert_eq!(timing(&plan_in(&cluster(false, true), &[add("red")]), "red"), Timing::AtStart);
        assert_eq!(timing(&plan_in(&facts, &[set("blue.mac=02:00:00:00:00:01")]), "blue"), {
            Timing::AtRestart("KubeVirt does not change macAddress of a running guest".to_owned())
        });
    }

    #[test]
    fn the_nic_that_gets_no_port_is_the_one_that_is_denied() {
        let facts = cluster(true, true);
        let plan = plan_in(&facts, &[add("red"), add("green"), add("white")]);
        assert!(plan.is_refused());
        let outlook = plan.outlook.as_ref().unwrap();
        let denied: Vec<&str> =
            outlook.nics.iter().filter(|nic| nic.denials().next().is_some()).map(|nic| nic.name.as_str()).collect();
        assert_eq!(denied.len(), 1, "{outlook:#?}");
        let allowed = plan_in(&facts, &[add("red"), add("green")]);
        let ports = &allowed.outlook.as_ref().unwrap().ports;
        assert_eq!((ports.now.free(), allowed.free_after()), (Some(2), Some(0)), "{ports:?}");
        assert!(!allowed.is_refused());
    }

    #[test]
    fn a_fault_denies_for_itself_only_and_others_of_its_rule_wait() {
        let mut vm = vm();
        vm["metadata"]["annotations"] = json!({"nicplug.io/apply": "on-restart"});
        let settings = Settings::default().with_rule("NP108", Enforcement::Deny);
        let mut facts = Store::complete();
        let nad = json!({"metadata": {"name": "other", "namespace": "demo"}, "spec": {}});
        let steps = [set("blue.network=other"), set("blue.model=e1000e"), set("default.model=e1000e")];
        fill(&mut facts, true, true);
        facts.apply(Kind::Nad, &nad.to_string()).unwrap();
        let facts: Arc<dyn FactSource> = Arc::new(facts);
        let plan = plan(&vm, &steps, &facts, &settings).unwrap();
        let outlook = plan.outlook.as_ref().unwrap();
        let weights = |name: &str| -> Vec<(&str, Weight)> {
            let nic = outlook.nics.iter().find(|nic| nic.name == name).unwrap();
            let of_rule = nic.reasons.iter().filter(|reason| reason.rule == "NP108");
            of_rule.map(|reason| (reason.rule, reason.weight)).collect()
        };
        assert_eq!(weights("blue"), [("NP108", Weight::Denied)], "{outlook:#?}");
        assert_eq!(weights("default"), [("NP108", Weight::Postponed)], "{outlook:#?}");
        assert!(
            outlook.nics.iter().any(|nic| nic.is_postponed() && nic.sentence().starts_with("at the next restart: "))
        );
    }

    #[test]
    fn a_nic_that_fails_at_the_restart_never_comes() {
        let mut vm = vm();
        vm["metadata"]["annotations"] = json!({"nicplug.io/apply": "on-restart"});
        let steps = [set("blue.network=missing")];
        let plan = plan(&vm, &steps, &cluster(true, true), &Settings::default()).unwrap();
        let nic = &plan.outlook.as_ref().unwrap().nics[0];
        let sentence = nic.sentence();
        assert!(sentence.starts_with("never, and the VM does not start with it: "), "{sentence}");
        assert!(sentence.ends_with("[NP105]"), "{sentence}");
    }

    #[test]
    fn what_a_failed_rule_would_decide_is_not_known() {
        let facts = cluster(true, true);
        {
            let _guard = crate::rules::testing::panic_in("NP108");
            let plan = plan_in(&facts, &[add("red")]);
            assert_eq!(timing(&plan, "red"), Timing::Unknown("an internal error in nicplug".to_owned()));
            assert!(plan.outlook.unwrap().ports.now.free().is_some());
        }
        let _guard = crate::rules::testing::panic_in("NP106");
        let plan = plan_in(&facts, &[add("red")]);
        assert_eq!(timing(&plan, "red"), Timing::AtOnce);
        assert_eq!(plan.outlook.unwrap().ports, FreePorts::unknown("an internal error in nicplug"));
    }

    #[test]
    fn a_guest_that_is_as_planned_already_needs_nothing() {
        let facts = cluster(true, true);
        let mut without = vm();
        for list in ["/spec/template/spec/domain/devices/interfaces", "/spec/template/spec/networks"] {
            without.pointer_mut(list).unwrap().as_array_mut().unwrap().truncate(1);
        }
        let again = plan(&without, &[add("blue")], &facts, &Settings::default()).unwrap();
        assert_eq!(timing(&again, "blue"), Timing::Unchanged);
    }

    #[test]
    fn the_patch_makes_the_planned_vm_and_tests_its_version() {
        let plan = plan_in(&cluster(true, true), &[add("red"), remove("blue"), set("default.state=down")]);
        let mut vm = vm();
        json_patch::patch(&mut vm, &plan.patch).unwrap();
        assert_eq!(vm, plan.object);
        let mut changed = vm.clone();
        changed["metadata"]["resourceVersion"] = json!("8");
        assert!(json_patch::patch(&mut changed, &plan.patch).is_err());
        assert!(matches!(plan.patch[0], PatchOperation::Test(_)));
    }

    #[test]
    fn a_change_that_is_none_or_that_cannot_be_is_named() {
        let facts = cluster(true, true);
        let plan = plan_in(&facts, &[add("blue"), set("blue.state=up")]);
        assert!(plan.patch.is_empty() && plan.outlook.is_none() && plan.unchanged.len() == 2, "{plan:?}");
        let wrong = plan_in(&facts, &[remove("blu1"), set("none.state=down"), set("default.network=net")]);
        let why: Vec<&str> = wrong.impossible.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(why[0], "the template has no NIC \"blu1\"; did you mean \"blue\"?");
        assert_eq!(why[1], "the template has no NIC \"none\"");
        assert_eq!(why[2], "\"default\" is not on a network of Multus");
        assert!(wrong.is_refused());
    }

    #[test]
    fn a_change_of_a_field_is_read_from_its_text() {
        let change: FieldChange = "blue.network=infra/vlan7".parse().unwrap();
        assert_eq!(
            (change.nic.as_str(), change.field, change.value.as_str()),
            ("blue", NicField::Network, "infra/vlan7")
        );
        for text in [
            "blue",
            "blue.state",
            "state=down",
            "blue.colour=red",
            ".state=up",
            "blue.state=",
            "blue.state=off",
            "blue.mac=1",
        ] {
            assert!(text.parse::<FieldChange>().is_err(), "{text}");
        }
    }
}
