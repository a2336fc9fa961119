//! Builders for the tables in rule files: a whole review is made and read, so a rule is tested on what it really gets.

use std::sync::Arc;

use super::{Case, Finding, FindingKind, Rule};
use crate::{
    api::{
        cluster,
        network::{NadRef, Network},
        review,
    },
    change::Change,
    facts::{
        Attachment, Fact, Facts, KubeVirt, Vm, Vmi,
        attachment::InPlace,
        nad::{CniConfig, Nad, NadLookup},
        vmi::StatusNic,
    },
    settings::{Enforcement, Settings},
};

/// What a rule should say.
#[derive(Debug)]
pub(crate) enum Expect {
    /// Nothing.
    Silent,
    /// Faults at these fields, in this order, and nothing else.
    Faults(&'static [&'static str]),
    /// Advice only.
    Advice,
    /// That something was not checked, and nothing else.
    Unchecked,
}

/// Judges VMs that are being created with these guests (`spec.template.spec`).
pub(crate) fn table(rule: &'static Rule, rows: &[(&str, Expect)]) {
    for (guest, expect) in rows {
        assert_findings(rule, &review_of("CREATE", &vm_of(guest), "null"), &Facts::default(), expect);
    }
}

/// As [`table`], on a KubeVirt v1.9.0 with this `spec.configuration`.
pub(crate) fn table_on(rule: &'static Rule, configuration: &str, rows: &[(&str, Expect)]) {
    let resource = format!(
        r#"{{"spec": {{"configuration": {configuration}}}, "status": {{"observedKubeVirtVersion": "v1.9.0"}}}}"#
    );
    let resource: cluster::KubeVirt = serde_json::from_str(&resource).unwrap();
    let facts = Facts { kubevirt: Fact::Known(Arc::new(KubeVirt::from(resource))), ..Facts::default() };
    for (guest, expect) in rows {
        assert_findings(rule, &review_of("CREATE", &vm_of(guest), "null"), &facts, expect);
    }
}

/// Judges VMs whose guest was `{}` until now.
pub(crate) fn table_of_updates(rule: &'static Rule, rows: &[(&str, Expect)]) {
    for (guest, expect) in rows {
        assert_findings(rule, &review_of("UPDATE", &vm_of(guest), &vm_of("{}")), &Facts::default(), expect);
    }
}

/// A guest (`spec.template.spec`) of one NIC named `a`: the rest of the interface and of the network.
pub(crate) fn nic(interface: &str, network: &str) -> String {
    format!(
        r#"{{"domain": {{"devices": {{"interfaces": [{{"name": "a", {interface}}}]}}}},
            "networks": [{{"name": "a", {network}}}]}}"#
    )
}

fn vm_of(guest: &str) -> String {
    format!(r#"{{"spec": {{"template": {{"spec": {guest}}}}}}}"#)
}

/// An interface and its network, in JSON; empty where there is none.
type Pair<'t> = (&'t str, &'t str);

/// A change of the VM `vm-fedora`, which runs with one masquerade NIC on KubeVirt 1.9 in a cluster where everything is
/// well: the networks are there, the dynamic-networks controller is ready, and the VM can migrate.
pub(crate) struct Hotplug {
    old: Vec<(String, String)>,
    new: Vec<(String, String)>,
    domain: String,
    annotations: String,
    is_new: bool,
    is_vmi: bool,
    owners: String,
    resource: cluster::KubeVirt,
    facts: Facts,
    settings: Settings,
}

impl Hotplug {
    /// The interface to add, named `dyniface1`, on the multus network `new-fancy-net`.
    pub(crate) fn of(interface: &str) -> Self {
        let network = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
        Self::between(None, Some((interface, network)))
    }

    /// A NIC that the guest has and that becomes another.
    pub(crate) fn modify(old: Pair, new: Pair) -> Self {
        Self::between(Some(old), Some(new))
    }

    /// A NIC that the guest has and that is dropped.
    pub(crate) fn remove(old: Pair) -> Self {
        Self::between(Some(old), None)
    }

    fn between(old: Option<Pair>, new: Option<Pair>) -> Self {
        let owned = |pair: Option<Pair>| pair.map(|(interface, network)| (interface.to_owned(), network.to_owned()));
        let mut hotplug = Self {
            old: owned(old).into_iter().collect(),
            new: owned(new).into_iter().collect(),
            domain: r#""devices": {"#.to_owned(),
            annotations: String::new(),
            is_new: false,
            is_vmi: false,
            owners: String::new(),
            resource: cluster::KubeVirt::default(),
            facts: Facts::default(),
            settings: Settings::default(),
        };
        hotplug.resource.spec.workload_update_strategy.workload_update_methods = vec!["LiveMigrate".to_owned()];
        hotplug.facts.vm = Fact::Absent;
        hotplug.facts.isolation = Fact::Absent;
        hotplug.facts.nodes = Fact::Known(3);
        hotplug.facts.migration = Fact::Absent;
        hotplug.facts.mac_users = Fact::Known(Vec::new());
        hotplug
            .kubevirt("v1.9.0", &[])
            .in_place(InPlace::Yes)
            .running()
            .nad("demo/new-fancy-net", r#"{"cniVersion": "0.3.1", "type": "bridge"}"#)
    }

    /// The guest as the old object has it.
    fn running(mut self) -> Self {
        let vmi = format!(
            r#"{{"spec": {}, "status": {{"phase": "Running", "conditions": [{{"type": "LiveMigratable", "status": "True"}}]}}}}"#,
            self.guest(&self.old)
        );
        self.facts.vmi = Fact::Known(Arc::new(Vmi::from(&serde_json::from_str(&vmi).unwrap())));
        self
    }

    /// Another network to attach to.
    pub(crate) fn on(mut self, network: &str) -> Self {
        for (_, old) in &mut self.new {
            network.clone_into(old);
        }
        self.with_networks_that_are_not_there()
    }

    /// One more NIC to add.
    pub(crate) fn with(mut self, interface: &str, network: &str) -> Self {
        self.new.push((interface.to_owned(), network.to_owned()));
        self
    }

    /// Another KubeVirt.
    pub(crate) fn kubevirt(mut self, version: &str, gates: &[&str]) -> Self {
        version.clone_into(&mut self.resource.status.observed_version);
        self.resource.spec.configuration.developer_configuration.feature_gates =
            gates.iter().map(|&gate| gate.to_owned()).collect();
        self.with_resource()
    }

    /// Another rollout strategy, and other methods to update workloads.
    pub(crate) fn rollout(mut self, strategy: &str, methods: &[&str]) -> Self {
        strategy.clone_into(&mut self.resource.spec.configuration.vm_rollout_strategy);
        self.resource.spec.workload_update_strategy.workload_update_methods =
            methods.iter().map(|&method| method.to_owned()).collect();
        self.with_resource()
    }

    fn with_resource(mut self) -> Self {
        self.facts.kubevirt = Fact::Known(Arc::new(KubeVirt::from(self.resource.clone())));
        self
    }

    /// Nobody may read the KubeVirt resource.
    pub(crate) fn kubevirt_unknown(mut self) -> Self {
        self.facts.kubevirt = Fact::Unknown;
        self
    }

    /// Another way of NICs into a running pod.
    pub(crate) fn in_place(self, in_place: InPlace) -> Self {
        let attachment = Attachment { in_place, has_thick_multus: in_place != InPlace::No };
        self.facts(|facts| facts.attachment = Fact::Known(attachment))
    }

    /// A network, as `namespace/name`, with this config.
    pub(crate) fn nad(self, name: &str, config: &str) -> Self {
        self.with_nad(name, Nad { config: CniConfig::read(config), has_resource: false })
    }

    /// A network of SR-IOV devices.
    pub(crate) fn sriov_nad(self, name: &str) -> Self {
        self.with_nad(name, Nad { config: CniConfig::OnNodes, has_resource: true })
    }

    fn with_nad(mut self, name: &str, nad: Nad) -> Self {
        let nad = NadLookup { nad: Fact::Known(Arc::new(nad)), suggestion: None };
        self.facts.nads.insert(NadRef::parse(name, "demo"), nad);
        self.with_networks_that_are_not_there()
    }

    /// Whatever is named and was not declared does not exist.
    fn with_networks_that_are_not_there(mut self) -> Self {
        for (_, network) in &self.new {
            let network: Network = serde_json::from_str(network).unwrap();
            let Some(multus) = &network.multus else { continue };
            let name = NadRef::parse(&multus.network_name, "demo");
            if self.facts.nads.lookup(name).nad == Fact::Unknown {
                let elsewhere = NadRef { namespace: "other", ..name };
                let is_elsewhere = self.facts.nads.lookup(elsewhere).nad.known().is_some();
                let suggestion = is_elsewhere.then(|| elsewhere.to_string());
                self.facts.nads.insert(name, NadLookup { nad: Fact::Absent, suggestion });
            }
        }
        self
    }

    /// The guest's status shows one more NIC, with the interface that the pod has for it.
    pub(crate) fn seen(self, name: &str, pod_interface: &str) -> Self {
        let seen = StatusNic { name: name.into(), pod_interface: pod_interface.into(), is_in_domain: true };
        self.vmi(|vmi| Arc::make_mut(&mut vmi.status_nics).push(seen))
    }

    /// Other facts about the guest.
    pub(crate) fn vmi(mut self, change: impl FnOnce(&mut Vmi)) -> Self {
        if let Fact::Known(vmi) = &mut self.facts.vmi {
            change(Arc::make_mut(vmi));
        }
        self
    }

    /// Other facts.
    pub(crate) fn facts(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(&mut self.facts);
        self
    }

    /// Other settings.
    pub(crate) fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The VM does not run.
    pub(crate) fn stopped(mut self) -> Self {
        self.facts.vmi = Fact::Absent;
        self
    }

    /// Nobody may read VMIs.
    pub(crate) fn instance_unknown(mut self) -> Self {
        self.facts.vmi = Fact::Unknown;
        self
    }

    /// The request is about the VMI.
    pub(crate) fn on_vmi(mut self) -> Self {
        self.is_vmi = true;
        self
    }

    /// The request is about the VMI of a VM whose template has these NICs: interfaces and networks as JSON lists.
    pub(crate) fn on_vmi_of(self, interfaces: &str, networks: &str) -> Self {
        let vm = format!(
            r#"{{"spec": {{"template": {{"spec": {{"domain": {{"devices": {{"interfaces": {interfaces}}}}},
                "networks": {networks}}}}}}}}}"#
        );
        let vm = Vm::from(&serde_json::from_str(&vm).unwrap());
        self.on_vmi().owned_by("VirtualMachine").facts(|facts| facts.vm = Fact::Known(Arc::new(vm)))
    }

    /// An object of this kind and of the same name owns the object.
    pub(crate) fn owned_by(mut self, kind: &str) -> Self {
        self.owners = format!(r#"{{"kind": "{kind}", "name": "vm-fedora", "uid": "u"}}"#);
        self
    }

    /// The VM is being made, with all its NICs.
    pub(crate) fn created(mut self) -> Self {
        self.is_new = true;
        self.stopped()
    }

    /// Another beginning of `domain`, up to the fields of `devices`.
    pub(crate) fn domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.domain);
        self
    }

    /// Annotations of the new object, as the fields of a JSON object.
    pub(crate) fn annotated(mut self, annotations: &str) -> Self {
        annotations.clone_into(&mut self.annotations);
        self
    }

    /// NICs, by name, that the guest and its VM have on bridges already.
    pub(crate) fn having(mut self, names: &[&str]) -> Self {
        for (place, name) in names.iter().enumerate() {
            let nic = (
                format!(r#"{{"name": "{name}", "bridge": {{}}}}"#),
                format!(r#"{{"name": "{name}", "multus": {{"networkName": "new-fancy-net"}}}}"#),
            );
            self.old.insert(place, nic.clone());
            self.new.insert(place, nic);
        }
        self.running()
    }

    /// Holds the rule to what it should say.
    pub(crate) fn expect(&self, rule: &'static Rule, expect: &Expect) {
        assert_as_expected(rule, &self.review(), &self.findings(rule), expect);
    }

    /// What the rule says.
    pub(crate) fn findings(&self, rule: &'static Rule) -> Vec<Finding> {
        findings_under(rule, &self.review(), &self.facts, &self.settings)
    }

    /// The request as the API server would send it.
    pub(crate) fn review(&self) -> String {
        let object = |nics: &[(String, String)], annotations: &str| {
            let guest = self.guest(nics);
            let spec = if self.is_vmi { guest } else { format!(r#"{{"template": {{"spec": {guest}}}}}"#) };
            format!(
                r#"{{"metadata": {{"name": "vm-fedora", "namespace": "demo", "annotations": {{{annotations}}},
                    "ownerReferences": [{}]}}, "spec": {spec}}}"#,
                self.owners
            )
        };
        let kind = if self.is_vmi { "VirtualMachineInstance" } else { "VirtualMachine" };
        let (operation, old) =
            if self.is_new { ("CREATE", "null".to_owned()) } else { ("UPDATE", object(&self.old, "")) };
        review_of_kind(kind, operation, &object(&self.new, &self.annotations), &old)
    }

    fn guest(&self, nics: &[(String, String)]) -> String {
        let interfaces: Vec<&str> = nics.iter().map(|(interface, _)| interface.as_str()).collect();
        let networks: Vec<&str> = nics.iter().map(|(_, network)| network.as_str()).collect();
        let after = |list: &[&str]| if list.is_empty() { String::new() } else { format!(", {}", list.join(", ")) };
        format!(
            r#"{{"domain": {{{} "interfaces": [{{"name": "defaultnetwork", "masquerade": {{}}}}{}]}}}},
                "networks": [{{"name": "defaultnetwork", "pod": {{}}}}{}]}}"#,
            self.domain,
            after(&interfaces),
            after(&networks)
        )
    }
}

/// What the rule says of an update of a VM of which nothing else is known.
pub(crate) fn findings_of_update(rule: &'static Rule, old: &str, new: &str) -> Vec<Finding> {
    findings(rule, &review_of("UPDATE", new, old), &Facts::default())
}

/// What the rule says of an update of a VMI of which nothing else is known.
pub(crate) fn findings_of_vmi_update(rule: &'static Rule, old: &str, new: &str) -> Vec<Finding> {
    findings(rule, &review_of_kind("VirtualMachineInstance", "UPDATE", new, old), &Facts::default())
}

/// What the rule says of an update of a VM's status.
pub(crate) fn findings_of_status(rule: &'static Rule, old: &str, new: &str, facts: &Facts) -> Vec<Finding> {
    let review =
        review_of("UPDATE", new, old).replacen("\"operation\"", "\"subResource\": \"status\", \"operation\"", 1);
    let review::ParsedRequest::Valid(request) = review::read(review.as_bytes()).unwrap() else {
        panic!("faulty: {review}")
    };
    let Some(change) = Change::of(&request) else { return Vec::new() };
    let case = Case { change: &change, facts, settings: &Settings::default() };
    if rule.scope.covers(&change) { (rule.check)(&case) } else { Vec::new() }
}

fn review_of(operation: &str, object: &str, old_object: &str) -> String {
    review_of_kind("VirtualMachine", operation, object, old_object)
}

fn review_of_kind(kind: &str, operation: &str, object: &str, old_object: &str) -> String {
    format!(
        r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{
            "uid": "u", "kind": {{"group": "kubevirt.io", "version": "v1", "kind": "{kind}"}},
            "namespace": "demo", "name": "vm-fedora", "operation": "{operation}", "userInfo": {{"username": "alice"}},
            "object": {object}, "oldObject": {old_object}}}}}"#
    )
}

/// Reads a review and judges it with one rule.
pub(crate) fn findings(rule: &'static Rule, review: &str, facts: &Facts) -> Vec<Finding> {
    findings_under(rule, review, facts, &Settings::default())
}

fn findings_under(rule: &'static Rule, review: &str, facts: &Facts, settings: &Settings) -> Vec<Finding> {
    let review::ParsedRequest::Valid(request) = review::read(review.as_bytes()).unwrap() else {
        panic!("faulty: {review}")
    };
    let change = Change::of(&request).unwrap();
    let case = Case { change: &change, facts, settings };
    if rule.scope.covers(&change) { (rule.check)(&case) } else { Vec::new() }
}

fn assert_findings(rule: &'static Rule, review: &str, facts: &Facts, expect: &Expect) {
    assert_as_expected(rule, review, &findings(rule, review, facts), expect);
}

fn assert_as_expected(rule: &'static Rule, review: &str, findings: &[Finding], expect: &Expect) {
    let is_as_expected = match expect {
        Expect::Silent => findings.is_empty(),
        Expect::Faults(fields) => {
            findings.iter().all(|finding| matches!(finding.kind, FindingKind::Fault(_)))
                && findings.iter().map(|finding| finding.field.as_str()).eq(fields.iter().copied())
        }
        Expect::Advice => is_each(findings, FindingKind::Advice),
        Expect::Unchecked => is_each(findings, FindingKind::Unchecked),
    };
    assert!(is_as_expected, "{}: expected {expect:?} of {review}, found {findings:#?}", rule.id);
    for finding in findings {
        assert_fits(finding);
    }
}

/// How long a warning may be, as the verdict has it; rules know no verdict.
const WARNING_LENGTH: usize = 120;

/// Whatever becomes a warning under the rule's own enforcement is not cut, with names of 20 letters too.
fn assert_fits(finding: &Finding) {
    let is_denial = matches!(finding.kind, FindingKind::Fault(_)) && finding.rule.enforcement == Enforcement::Deny;
    let names = ["dyniface1", "dyniface2", "vm-fedora", "vm-other", "new-fancy-net", "no-such-net", "demo"];
    let what = names.iter().fold(finding.what.clone(), |what, name| what.replace(name, &"x".repeat(20)));
    let length = what.chars().count() + " [NP000]".len();
    assert!(is_denial || length <= WARNING_LENGTH, "{length} characters: {what}");
}

fn is_each(findings: &[Finding], kind: FindingKind) -> bool {
    !findings.is_empty() && findings.iter().all(|finding| finding.kind == kind)
}
