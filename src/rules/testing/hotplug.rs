//! The builder for updates of a VM that runs in a cluster without problems.

use std::sync::Arc;

use super::{Expect, assert_as_expected, findings_under, review_of_kind};
use crate::{
    api::{
        cluster, instancetype,
        network::{NadRef, Network},
    },
    facts::{
        Attachment, Expansion, Expansions, Fact, Facts, KubeVirt, Preference, Vm, Vmi,
        attachment::{InPlace, ReadyNodes},
        nad::{Nad, NadLookup},
        nodes::{Node, Nodes},
        vmi::StatusNic,
    },
    rules::{Finding, Rule},
    settings::Settings,
};

/// An interface and its network, in JSON.
type Pair<'t> = (&'t str, &'t str);

/// A change of the VM `vm-fedora`, which runs with one masquerade NIC on KubeVirt 1.9 in a cluster without problems:
/// the networks exist, the dynamic-networks controller is ready, and the VM can migrate.
pub(crate) struct Hotplug {
    old: Vec<(String, String)>,
    new: Vec<(String, String)>,
    domain: String,
    annotations: String,
    spec: String,
    preference: String,
    is_new: bool,
    is_vmi: bool,
    owners: String,
    resource: cluster::KubeVirt,
    facts: Facts,
    settings: Settings,
}

impl Hotplug {
    /// Adds this interface, which must be named `dyniface1`, on the multus network `new-fancy-net`.
    pub(crate) fn of(interface: &str) -> Self {
        let network = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
        Self::between(None, Some((interface, network)))
    }

    /// Changes a NIC of the guest.
    pub(crate) fn modify(old: Pair, new: Pair) -> Self {
        Self::between(Some(old), Some(new))
    }

    /// Removes a NIC of the guest from the lists.
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
            spec: String::new(),
            preference: String::new(),
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
        hotplug = hotplug.nodes(&["{}"; 3]);
        hotplug.facts.migration = Fact::Absent;
        hotplug.facts.mac_users = Fact::Known(Vec::new());
        hotplug
            .kubevirt("v1.9.0", &[])
            .in_place(InPlace::Yes)
            .running()
            .nad("demo/new-fancy-net", r#"{"cniVersion": "0.3.1", "type": "bridge"}"#)
    }

    /// Sets the running guest to the guest of the old object.
    fn running(mut self) -> Self {
        let vmi = format!(
            r#"{{"spec": {}, "status": {{"phase": "Running", "nodeName": "node-0", "conditions": [{{"type": "LiveMigratable", "status": "True"}}]}}}}"#,
            self.guest(&self.old)
        );
        self.facts.vmi = Fact::Known(Arc::new(Vmi::from(&serde_json::from_str(&vmi).unwrap())));
        self
    }

    /// Replaces the network of the new NICs.
    pub(crate) fn on(mut self, network: &str) -> Self {
        for (_, old) in &mut self.new {
            network.clone_into(old);
        }
        self.with_absent_networks()
    }

    /// Adds one more NIC.
    pub(crate) fn with(mut self, interface: &str, network: &str) -> Self {
        self.new.push((interface.to_owned(), network.to_owned()));
        self
    }

    /// Sets KubeVirt's version and its feature gates.
    pub(crate) fn kubevirt(mut self, version: &str, gates: &[&str]) -> Self {
        version.clone_into(&mut self.resource.status.observed_version);
        self.resource.spec.configuration.developer_configuration.feature_gates =
            gates.iter().map(|&gate| gate.to_owned()).collect();
        self.with_resource()
    }

    /// Sets the rollout strategy and the methods to update workloads.
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

    /// Makes the KubeVirt resource unknown.
    pub(crate) fn kubevirt_unknown(mut self) -> Self {
        self.facts.kubevirt = Fact::Unknown;
        self
    }

    /// Sets whether NICs can be attached to a running pod.
    pub(crate) fn in_place(self, in_place: InPlace) -> Self {
        let multus = Fact::Known(ReadyNodes { ready: 3, desired: 3 });
        let attachment = Attachment { in_place, has_thick_multus: in_place != InPlace::No, multus };
        self.facts(|facts| facts.attachment = Fact::Known(attachment))
    }

    /// Sets the nodes that run guests, each as JSON: `node-0`, on which the guest runs, `node-1`, and so on.
    pub(crate) fn nodes(self, nodes: &[&str]) -> Self {
        let read = |node: &&str| Arc::new(Node::from(&serde_json::from_str::<cluster::Node>(node).unwrap()));
        let nodes: Vec<_> = nodes.iter().map(read).enumerate().map(|(i, node)| (format!("node-{i}"), node)).collect();
        let nodes = Nodes::of(nodes.iter().map(|(name, node)| (name.as_str(), node)));
        self.facts(|facts| facts.nodes = Fact::Known(Arc::new(nodes)))
    }

    /// Adds a NetworkAttachmentDefinition, named as `namespace/name`, with this config.
    pub(crate) fn nad(self, name: &str, config: &str) -> Self {
        self.with_nad(name, Nad::read(config, ""))
    }

    /// Adds a NetworkAttachmentDefinition of SR-IOV devices.
    pub(crate) fn sriov_nad(self, name: &str) -> Self {
        self.with_nad(name, Nad::read("", "example.com/vf"))
    }

    /// Adds a NetworkAttachmentDefinition, named as `namespace/name`.
    pub(crate) fn with_nad(mut self, name: &str, nad: Nad) -> Self {
        let nad = NadLookup { nad: Fact::Known(Arc::new(nad)), ..NadLookup::default() };
        self.facts.nads.insert(NadRef::parse(name, "demo"), nad);
        self.with_absent_networks()
    }

    /// Makes every network that the change names and that was not added absent.
    fn with_absent_networks(mut self) -> Self {
        for (_, network) in &self.new {
            let network: Network = serde_json::from_str(network).unwrap();
            let Some(multus) = &network.multus else { continue };
            let name = NadRef::parse(&multus.network_name, "demo");
            if self.facts.nads.lookup(name).nad == Fact::Unknown {
                let elsewhere = NadRef { namespace: "other", ..name };
                let is_elsewhere = self.facts.nads.lookup(elsewhere).nad.known().is_some();
                let suggestion = is_elsewhere.then(|| elsewhere.full_name());
                self.facts.nads.insert(name, NadLookup { nad: Fact::Absent, suggestion, conflict: None });
            }
        }
        self
    }

    /// Adds a NIC to the VMI's status, with the name of its interface in the pod.
    pub(crate) fn seen(self, name: &str, pod_interface: &str) -> Self {
        let seen = StatusNic { name: name.into(), pod_interface: pod_interface.into(), is_in_domain: true };
        self.vmi(|vmi| Arc::make_mut(&mut vmi.status_nics).push(seen))
    }

    /// Changes the facts about the VMI.
    pub(crate) fn vmi(mut self, change: impl FnOnce(&mut Vmi)) -> Self {
        if let Fact::Known(vmi) = &mut self.facts.vmi {
            change(Arc::make_mut(vmi));
        }
        self
    }

    /// Changes the facts.
    pub(crate) fn facts(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(&mut self.facts);
        self
    }

    /// Replaces the settings.
    pub(crate) fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Stops the VM.
    pub(crate) fn stopped(mut self) -> Self {
        self.facts.vmi = Fact::Absent;
        self
    }

    /// Makes the VMI unknown.
    pub(crate) fn vmi_unknown(mut self) -> Self {
        self.facts.vmi = Fact::Unknown;
        self
    }

    /// Makes the request one about the VMI.
    pub(crate) fn on_vmi(mut self) -> Self {
        self.is_vmi = true;
        self
    }

    /// Makes the request one about the VMI of a VM whose template has these interfaces and networks, as JSON lists.
    pub(crate) fn on_vmi_of(self, interfaces: &str, networks: &str) -> Self {
        let vm = format!(
            r#"{{"spec": {{"template": {{"spec": {{"domain": {{"devices": {{"interfaces": {interfaces}}}}},
                "networks": {networks}}}}}}}}}"#
        );
        let vm = Vm::from(&serde_json::from_str(&vm).unwrap());
        self.on_vmi().owned_by("VirtualMachine").facts(|facts| facts.vm = Fact::Known(Arc::new(vm)))
    }

    /// Adds an owner of this kind and of the same name.
    pub(crate) fn owned_by(mut self, kind: &str) -> Self {
        self.owners = format!(r#"{{"kind": "{kind}", "name": "vm-fedora", "uid": "u"}}"#);
        self
    }

    /// Makes the request the creation of the VM.
    pub(crate) fn created(mut self) -> Self {
        self.is_new = true;
        self.stopped()
    }

    /// Replaces the beginning of `domain`, up to the fields of `devices`.
    pub(crate) fn domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.domain);
        self
    }

    /// Sets the annotations of the new object, as the fields of a JSON object.
    pub(crate) fn annotated(mut self, annotations: &str) -> Self {
        annotations.clone_into(&mut self.annotations);
        self
    }

    /// Adds fields to the spec of the new VM, as the fields of a JSON object.
    pub(crate) fn spec(mut self, fields: &str) -> Self {
        self.spec = format!("{fields}, ");
        self
    }

    /// Makes KubeVirt expand the VM with a preference, whose `spec.devices` has these fields, and gives the model to each
    /// NIC of the guest that has none.
    pub(crate) fn preferring(mut self, devices: &str) -> Self {
        let object = format!(r#"{{"spec": {{"devices": {{{devices}}}}}}}"#);
        let preference = Preference::from(&serde_json::from_str::<instancetype::Preference>(&object).unwrap());
        self.preference = r#""preference": {"name": "pe"}, "#.to_owned();
        let model = Some(preference.devices.interface_model.clone()).filter(|model| !model.is_empty());
        let expansion = Expansion { instancetype: Fact::Absent, preference: Fact::Known(Arc::new(preference)) };
        self.facts.expansions = Some(Box::new(Expansions { before: expansion.clone(), after: expansion }));
        self.vmi(|vmi| {
            for nic in Arc::make_mut(&mut vmi.nics) {
                nic.model = nic.model.take().or_else(|| model.clone());
            }
        })
    }

    /// Makes the instancetype and the preference of the VM unknown.
    pub(crate) fn unread(self) -> Self {
        self.facts(|facts| facts.expansions = Some(Box::default()))
    }

    /// Gives the guest and its VM bridge NICs with these names, before and after the change.
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

    /// Asserts the findings of a rule.
    pub(crate) fn expect(&self, rule: &'static Rule, expect: &Expect) {
        assert_as_expected(rule, &self.review(), &self.findings(rule), expect);
    }

    /// Returns the findings of a rule.
    pub(crate) fn findings(&self, rule: &'static Rule) -> Vec<Finding> {
        findings_under(rule, &self.review(), &self.facts, &self.settings)
    }

    /// Returns the AdmissionReview as the API server would send it.
    pub(crate) fn review(&self) -> String {
        let object = |nics: &[(String, String)], annotations: &str, fields: &str| {
            let guest = self.guest(nics);
            let spec = if self.is_vmi {
                guest
            } else {
                format!(r#"{{{fields}{}"template": {{"spec": {guest}}}}}"#, self.preference)
            };
            format!(
                r#"{{"metadata": {{"name": "vm-fedora", "namespace": "demo", "annotations": {{{annotations}}},
                    "ownerReferences": [{}]}}, "spec": {spec}}}"#,
                self.owners
            )
        };
        let kind = if self.is_vmi { "VirtualMachineInstance" } else { "VirtualMachine" };
        let (operation, old) =
            if self.is_new { ("CREATE", "null".to_owned()) } else { ("UPDATE", object(&self.old, "", "")) };
        review_of_kind(kind, operation, &object(&self.new, &self.annotations, &self.spec), &old)
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
