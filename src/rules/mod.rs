//! The rules: what nicplug checks. One file per rule.
//!
//! A rule is plain data and one function from a [`Case`] to findings. It has no state, reads neither clock nor network,
//! and never sees the findings of another rule. A new rule is one new file and two lines here: its module and its entry
//! in [`RULES`]. How strictly a finding counts is decided in `admission::enforcement`.

mod annotation;
mod attachment_path;
mod boot_pci_slots;
mod duplicate_interface_name;
mod duplicate_mac;
mod duplicate_network_name;
mod feature_gate;
mod finding;
mod hot_unplug;
mod hotplug_binding;
mod hotplug_model;
mod hotplug_network;
mod interface_binding;
mod interface_fields;
mod interface_request;
mod interface_state;
mod interface_without_network;
pub(crate) mod isolation;
mod live_change;
mod migration_running;
mod name_in_use;
mod network_attachment;
mod network_in_use;
mod network_source;
mod network_without_interface;
mod pci_slots;
mod persist;
mod queue_memory;
mod resource_claim;
mod rollout_strategy;
#[cfg(test)]
pub(crate) mod testing;
mod vmi_phase;

use std::borrow::Cow;

pub use self::{
    finding::{AtRestart, CauseType, Finding, FindingKind},
    isolation::is_isolated,
    live_change::timing::{NicChange, Timing, timings},
    pci_slots::counts::{FreePorts, PortCount, free_ports},
};
use crate::{
    api::{network::Bindings, quote::quote, review::ObjectKind},
    change::{Change, MigrationStart, NetworkChange, Nic, NicDiff},
    facts::{
        Fact, FactKind, Facts, KubeVirt, Vmi,
        attachment::{Attachment, InPlace},
        migration::{Obstacle, Targets},
        nic::{GuestNic, HotplugMethod},
    },
    kubevirt::{Version, gates::Gate},
    pci::PortUsage,
    settings::{DynamicNetworks, Enforcement, Settings},
};

/// Every rule, sorted by id. An id is never reused for another rule.
pub static RULES: &[&Rule] = &[
    &duplicate_network_name::RULE,
    &duplicate_interface_name::RULE,
    &interface_without_network::RULE,
    &network_without_interface::RULE,
    &network_source::RULE,
    &interface_binding::RULE,
    &interface_state::RULE,
    &interface_fields::RULE,
    &resource_claim::RULE,
    &feature_gate::RULE,
    &hotplug_binding::RULE,
    &hotplug_model::RULE,
    &hotplug_network::RULE,
    &network_attachment::RULE,
    &pci_slots::RULE,
    &boot_pci_slots::RULE,
    &live_change::RULE,
    &hot_unplug::RULE,
    &vmi_phase::RULE,
    &migration_running::RULE,
    &attachment_path::RULE,
    &duplicate_mac::RULE,
    &persist::RULE,
    &interface_request::RULE,
    &rollout_strategy::RULE,
    &name_in_use::RULE,
    &queue_memory::RULE,
    &network_in_use::RULE,
    &annotation::RULE,
];

/// One check.
#[derive(Debug)]
pub struct Rule {
    /// `NP` and three digits.
    pub id: &'static str,
    /// The pattern that it detects, in kebab case; equal to the name of its file.
    pub name: &'static str,
    /// The requests that it covers.
    pub scope: Scope,
    /// The default enforcement, which settings and namespaces can override.
    pub enforcement: Enforcement,
    /// The field that its findings usually point at, relative to the guest's spec.
    pub field: &'static str,
    /// How to fix a finding; messages append it after a semicolon.
    pub fix: &'static str,
    /// Summary, reason and example, in Markdown.
    doc: &'static str,
    check: fn(&Case) -> Vec<Finding>,
}

/// The requests that a rule covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Every request that creates or changes NICs, of a running or stopped VM, a VMI or a template.
    Shape,
    /// Every request that creates a guest, changes a guest's template, or changes the disks of a guest.
    Boot,
    /// Requests that plug NICs into a running guest or unplug them. A few of these rules also warn about a new guest.
    Hotplug,
    /// Requests that set the annotation `nicplug.io/persist` of a VMI, or add NICs under it.
    Persist,
    /// Requests that set the annotations of a VM to add, remove or unplug NICs, or annotations without effect.
    Request,
    /// Requests that delete a NetworkAttachmentDefinition or change its configuration.
    Network,
}

impl Scope {
    /// Every scope, each at the index of its value.
    const ALL: [Self; 6] = [Self::Shape, Self::Boot, Self::Hotplug, Self::Persist, Self::Request, Self::Network];

    /// Returns the name in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Shape => "shape",
            Self::Hotplug => "hotplug",
            Self::Persist => "persist",
            Self::Request => "request",
            Self::Network => "network",
        }
    }

    /// Returns whether rules of this scope apply to a change. For most requests this is the only cost of a rule.
    fn covers(self, change: &Change) -> bool {
        match self {
            Self::Boot => change.before.is_none() || change.after.vmi.is_none() || change.changes_disks(),
            Self::Shape => change.changes_nics(),
            Self::Persist => change.requests_persist(),
            Self::Request => change.requests_nics() || change.sets_unplug() || change.may_misspell(),
            Self::Network => false,
            Self::Hotplug => match change.subject.kind {
                ObjectKind::Vm | ObjectKind::Vmi => !change.nics.is_empty() || change.changes_all_nics(),
                // NP108 reports what a changed template does to the guests of a pool.
                ObjectKind::Pool => change.before.is_some() && !change.nics.is_empty(),
                ObjectKind::Migration | ObjectKind::Nad | ObjectKind::Other | ObjectKind::ReplicaSet => false,
            },
        }
    }
}

/// Declares the rule of a file: its documentation, id, name, scope, default enforcement, field and fix.
macro_rules! rule {
    (
        $(#[doc = $doc:literal])+
        $id:ident, $name:literal, $scope:ident, $enforcement:ident,
        field: $field:literal,
        fix: $fix:literal,
    ) => {
        $(#[doc = $doc])+
        pub(super) static RULE: $crate::rules::Rule = $crate::rules::Rule {
            id: stringify!($id),
            name: $name,
            scope: $crate::rules::Scope::$scope,
            enforcement: $crate::settings::Enforcement::$enforcement,
            field: $field,
            fix: $fix,
            doc: concat!($($doc, "\n"),+),
            check,
        };
    };
}
pub(crate) use rule;

impl Rule {
    /// Returns the documentation in Markdown: a summary, then sections.
    #[must_use]
    pub fn doc(&self) -> String {
        let lines = self.doc.lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// Returns the first sentence of the documentation.
    #[must_use]
    pub fn summary(&self) -> String {
        let doc = self.doc();
        let summary = doc.split("\n\n").next().unwrap_or_default();
        summary.replace('\n', " ")
    }

    /// Returns why the rule exists, in one line: the section of the documentation about it.
    #[must_use]
    pub fn why(&self) -> String {
        let doc = self.doc();
        let (_, section) = doc.split_once("## Why\n").unwrap_or_default();
        section.split("\n## ").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Returns a finding that something is wrong.
    pub(crate) fn fault(&'static self, cause: CauseType, field: String, what: String) -> Finding {
        let (kind, fix, at_restart) = (FindingKind::Fault(cause), Cow::Borrowed(self.fix), AtRestart::Applied);
        Finding { rule: self, field, kind, what, fix, at_restart, missing: None }
    }

    /// Returns a finding that something certainly cannot work, in any cluster.
    pub(crate) fn certain(&'static self, cause: CauseType, field: String, what: String) -> Finding {
        Finding { kind: FindingKind::Certain(cause), ..self.fault(cause, field, what) }
    }

    /// Returns a finding about something that is allowed, but that the user should know.
    pub(crate) fn advice(&'static self, field: String, what: String) -> Finding {
        let (kind, fix, at_restart) = (FindingKind::Advice, Cow::Borrowed(""), AtRestart::Applied);
        Finding { rule: self, field, kind, what, fix, at_restart, missing: None }
    }

    /// Returns a finding that something could not be checked.
    pub(crate) fn unchecked(&'static self, what: impl Into<String>) -> Finding {
        Finding { kind: FindingKind::Unchecked, ..self.advice(String::new(), what.into()) }
    }

    /// Runs the check of the rule; a panic in it is a finding.
    fn run(&'static self, check: impl FnOnce() -> Vec<Finding>) -> Vec<Finding> {
        self.isolated(check).unwrap_or_else(|| vec![self.internal_error()])
    }

    /// Runs the check of the rule, or something else that uses its parts; `None` if it panics.
    #[allow(clippy::unused_self, reason = "a test chooses the rule that panics")]
    fn isolated<T>(&self, part: impl FnOnce() -> T) -> Option<T> {
        isolation::isolated(|| {
            #[cfg(test)]
            testing::panic_if_requested(self);
            part()
        })
    }

    /// Returns the finding that the rule itself failed.
    fn internal_error(&'static self) -> Finding {
        let what = format!("internal error in {}: the rule was not checked", self.id);
        let fix = "report the error in the log of nicplug to its developers, or switch the rule off";
        let (kind, at_restart) = (FindingKind::InternalError, AtRestart::AppliedAtOnce);
        Finding { kind, at_restart, fix: Cow::Borrowed(fix), ..self.advice("metadata.name".to_owned(), what) }
    }

    /// Returns a finding that something could not be checked because a fact about an object of this kind is unknown.
    pub(crate) fn unknown(&'static self, missing: FactKind, what: impl Into<String>) -> Finding {
        Finding { missing: Some(missing), ..self.unchecked(what) }
    }
}

/// The input of a rule: a change, the facts about its surroundings, and the settings.
#[derive(Debug)]
pub struct Case<'c> {
    /// The request.
    pub change: &'c Change<'c>,
    /// What is known about the cluster.
    pub facts: &'c Facts,
    /// The administrator's settings.
    pub settings: &'c Settings,
    /// The running guest that the change affects; most rules ask for it.
    live: Fact<&'c Vmi>,
    targets: Targets,
}

/// Evaluates one NIC of a running guest.
type NicCheck<'e, 'c> = &'e mut dyn FnMut(&Nic<'c>, &'c Vmi) -> Option<Finding>;

impl<'c> Case<'c> {
    /// Returns the input of the rules for a change.
    #[must_use]
    pub fn new(change: &'c Change<'c>, facts: &'c Facts, settings: &'c Settings) -> Self {
        Self { change, facts, settings, live: live(change, facts), targets: Targets::default() }
    }

    /// Evaluates each NIC that the change plugs into a running guest; see [`Self::plugged`].
    pub(crate) fn each_plugged(
        &self,
        rule: &'static Rule,
        mut evaluate: impl FnMut(&Nic<'c>, &'c Vmi) -> Option<Finding>,
    ) -> Vec<Finding> {
        self.evaluate_plugged(rule, &mut evaluate)
    }

    /// Evaluates each NIC that the change unplugs from a running guest; see [`Self::unplugged`].
    pub(crate) fn each_unplugged(
        &self,
        rule: &'static Rule,
        mut evaluate: impl FnMut(&Nic<'c>, &'c Vmi) -> Option<Finding>,
    ) -> Vec<Finding> {
        self.evaluate_unplugged(rule, &mut evaluate)
    }

    /// One function for all rules: a generic one would be compiled for each rule, and code that runs once per request
    /// takes longer to fetch than to execute.
    fn evaluate_plugged(&self, rule: &'static Rule, evaluate: NicCheck<'_, 'c>) -> Vec<Finding> {
        let NicDiff { added, modified, .. } = &self.change.nics;
        // A modified NIC is probably in the guest already, so an unknown guest is reported only for added NICs.
        let reports_unknown = !added.is_empty();
        if !reports_unknown && (modified.is_empty() || self.live().known().is_none()) {
            return Vec::new();
        }
        self.if_live(rule, |vmi| self.plugged(vmi).filter_map(|nic| evaluate(nic, vmi)).collect())
    }

    fn evaluate_unplugged(&self, rule: &'static Rule, evaluate: NicCheck<'_, 'c>) -> Vec<Finding> {
        if self.change.nics.set_absent.is_empty() {
            return Vec::new();
        }
        self.if_live(rule, |vmi| self.unplugged(vmi).filter_map(|nic| evaluate(nic, vmi)).collect())
    }

    /// Returns the NICs that the change plugs into a running guest.
    ///
    /// They do not include a NIC that is added as `absent` or that the guest has already: KubeVirt copies neither. They
    /// do include a changed NIC that the old template had but the guest does not have: KubeVirt compares the template
    /// with the guest, not with the old template.
    pub(crate) fn plugged(&self, vmi: &'c Vmi) -> impl Iterator<Item = &'c Nic<'c>> {
        let NicDiff { added, modified, .. } = &self.change.nics;
        let is_vm = self.change.subject.kind == ObjectKind::Vm;
        let copied = modified.iter().map(|(_, nic)| nic).filter(move |_| is_vm);
        let exists = move |nic: &Nic| is_vm && vmi.has_nic(nic.name);
        added.iter().chain(copied).filter(move |nic| !nic.is_absent() && !exists(nic))
    }

    /// Returns the NICs that the change unplugs with `state: absent` from a running guest that has them.
    pub(crate) fn unplugged(&self, vmi: &'c Vmi) -> impl Iterator<Item = &'c Nic<'c>> {
        let is_plugged = |nic: &&Nic| vmi.nic(nic.name).is_some_and(|nic| !nic.is_absent);
        self.change.nics.set_absent.iter().filter(is_plugged)
    }

    /// Evaluates a change of a running guest; reports that nothing was checked if it is unknown whether the guest runs.
    pub(crate) fn if_live(&self, rule: &'static Rule, evaluate: impl FnOnce(&'c Vmi) -> Vec<Finding>) -> Vec<Finding> {
        match self.live() {
            _ if self.is_new() => Vec::new(),
            Fact::Known(vmi) => evaluate(vmi),
            Fact::Absent => Vec::new(),
            Fact::Unknown => {
                let name = &self.change.subject.name;
                let what =
                    format!("hotplug was not checked: whether {name} is running is not known", name = quote(name));
                vec![rule.unknown(FactKind::Vmi, what)]
            }
        }
    }

    /// Returns a finding that PCI ports were not counted, usually because the KubeVirt version is unknown.
    pub(crate) fn uncounted(&self, rule: &'static Rule, what: String) -> Finding {
        match self.version() {
            Some(_) => rule.unchecked(what),
            None => rule.unknown(FactKind::KubeVirt, what),
        }
    }

    /// Returns whether a feature gate is on; `None` if the KubeVirt resource is unknown.
    pub(crate) fn has(&self, gate: Gate) -> Option<bool> {
        self.facts.kubevirt.known().map(|kubevirt| kubevirt.has(gate))
    }

    /// Returns what may rewrite the domain of a guest; its ports are then an estimate.
    pub(crate) fn domain_rewrite(&self, usage: &PortUsage) -> Option<&'static str> {
        match self.facts.kubevirt.known() {
            Some(kubevirt) => kubevirt.domain_rewrite(usage),
            None => KubeVirt::default().domain_rewrite(usage),
        }
    }

    /// Returns the version of KubeVirt; `None` if it is unknown.
    pub(crate) fn version(&self) -> Option<Version> {
        self.facts.kubevirt.known().and_then(|kubevirt| kubevirt.version)
    }

    /// Returns whether the object is being created, so that nothing runs yet.
    pub(crate) fn is_new(&self) -> bool {
        self.change.before.is_none()
    }

    /// Returns how a NIC reaches a running guest. nicplug's mutating webhook sets `bridge` on a NIC without a binding.
    pub(crate) fn plug_of(&self, nic: &Nic) -> HotplugMethod {
        let (Some(interface), Some(network)) = (nic.interface, nic.network) else { return HotplugMethod::None };
        let is_additional_network = network.value.multus.is_some() && !network.value.is_default();
        let bindings = &interface.value.bindings;
        if is_additional_network && (bindings.is_empty() || self.hotplugs_plugin(bindings).is_some()) {
            return HotplugMethod::Bridge;
        }
        HotplugMethod::of(interface.value, Some(network.value))
    }

    /// Returns the binding plugin with which, by the settings, this KubeVirt hotplugs NICs as with bridge binding.
    pub(crate) fn hotplugs_plugin<'b>(&self, bindings: &'b Bindings) -> Option<&'b str> {
        let plugin = bindings.plugin.as_ref()?.name.as_str();
        self.settings.hotplug.bindings.iter().any(|name| name == plugin).then_some(plugin)
    }

    /// Returns how the KubeVirt of the settings hotplugs a NIC of a guest.
    pub(crate) fn plug_of_guest(&self, nic: &GuestNic) -> HotplugMethod {
        nic.hotplug_under(&self.settings.hotplug)
    }

    /// Returns what hinders a migration of the running guest that attaches or moves a NIC.
    pub(crate) fn obstacle(&self, vmi: &Vmi, nic: &Nic) -> Option<Obstacle> {
        Obstacle::of(self.facts, self.settings, vmi, &self.targets, nic, self.change.subject.namespace)
    }

    /// Returns whether a NIC can be attached to a running pod; see [`in_place`].
    pub(crate) fn in_place(&self) -> Fact<InPlace> {
        in_place(&self.facts.attachment, self.settings)
    }

    /// Returns the running guest that the change affects; absent if there is none. It is absent too if KubeVirt stops
    /// the guest with this change, or if the guest has no pod yet: KubeVirt then does not hotplug the change.
    pub(crate) fn live(&self) -> Fact<&'c Vmi> {
        self.live
    }
}

fn live<'c>(change: &Change, facts: &'c Facts) -> Fact<&'c Vmi> {
    if change.after.stops() || change.subject.kind == ObjectKind::Pool {
        return Fact::Absent;
    }
    match facts.live() {
        Fact::Known(vmi) if vmi.has_no_pod_yet() => Fact::Absent,
        live => live,
    }
}

/// Returns whether a NIC can be attached to a running pod; a setting overrides what the cluster shows.
pub(crate) fn in_place(attachment: &Fact<Attachment>, settings: &Settings) -> Fact<InPlace> {
    match (settings.attachment.dynamic_networks, attachment) {
        (DynamicNetworks::Yes, _) => Fact::Known(InPlace::Yes),
        (DynamicNetworks::No, _) | (DynamicNetworks::Auto, Fact::Absent) => Fact::Known(InPlace::No),
        (DynamicNetworks::Auto, Fact::Known(attachment)) => Fact::Known(attachment.in_place),
        (DynamicNetworks::Auto, Fact::Unknown) => Fact::Unknown,
    }
}

/// Evaluates the start of a migration.
#[must_use]
pub fn evaluate_migration(
    start: &MigrationStart,
    facts: &Facts,
    settings: &Settings,
    is_off: impl Fn(&Rule) -> bool,
) -> Vec<Finding> {
    if is_off(&migration_running::RULE) {
        return Vec::new();
    }
    migration_running::RULE.run(|| migration_running::check_start(start, facts, settings))
}

/// Evaluates a change of a network.
#[must_use]
pub fn evaluate_network(change: &NetworkChange, facts: &Facts, is_off: impl Fn(&Rule) -> bool) -> Vec<Finding> {
    let rule = &network_in_use::RULE;
    if is_off(rule) { Vec::new() } else { rule.run(|| network_in_use::check_network(change, facts)) }
}

/// Evaluates every rule that covers the change and is not off; findings are in the order of [`RULES`].
#[must_use]
pub fn evaluate(case: &Case, is_off: impl Fn(&Rule) -> bool) -> Vec<Finding> {
    // Many rules have one scope.
    let covers = Scope::ALL.map(|scope| scope.covers(case.change));
    let applies = |rule: &&&Rule| covers.get(rule.scope as usize) == Some(&true) && !is_off(rule);
    let mut findings = Vec::new();
    for rule in RULES.iter().filter(applies) {
        findings.append(&mut rule.run(|| (rule.check)(case)));
    }
    findings
}

/// Returns the ids of all rules.
#[must_use]
pub fn ids() -> Vec<&'static str> {
    RULES.iter().map(|rule| rule.id).collect()
}

/// Returns the rule with this id, in upper or lower case.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{testing::Hotplug, *};
    use crate::{
        api::vmi::Phase,
        facts::{NamespaceIsolation, attachment::ReadyNodes, vmi::Migratable},
    };

    #[test]
    fn ids_are_unique_and_in_order() {
        assert!(ids().is_sorted_by(|one, other| one < other), "{:?}", ids());
        for rule in RULES {
            let digits = rule.id.strip_prefix("NP").unwrap();
            assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{}", rule.id);
        }
    }

    #[test]
    fn every_rule_has_a_summary_a_reason_an_example_and_a_fix() {
        for rule in RULES {
            let doc = rule.doc();
            for section in ["\n\n## Why\n", "\n\n## Example\n"] {
                assert!(doc.contains(section), "{} has no section {section:?}", rule.id);
            }
            let summary = rule.summary();
            assert!(summary.ends_with('.') && summary.chars().count() <= 120, "{}: {summary}", rule.id);
            assert!(!rule.fix.ends_with('.') && rule.fix.starts_with(char::is_lowercase), "{}: {}", rule.id, rule.fix);
            assert!(rule.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", rule.name);
        }
    }

    /// The faults of all rules of scope hotplug.
    fn hotplug_faults(hotplug: &Hotplug) -> Vec<Finding> {
        let rules = RULES.iter().filter(|rule| rule.scope == Scope::Hotplug);
        let findings = rules.flat_map(|rule| hotplug.findings(rule));
        findings.filter(|finding| matches!(finding.kind, FindingKind::Fault(_) | FindingKind::Certain(_))).collect()
    }

    #[test]
    fn no_hotplug_rule_has_a_fault_if_the_guest_stops_or_has_no_pod_yet() {
        let plug = || Hotplug::of(r#"{"name": "dyniface1", "bridge": {}, "model": "e1000e"}"#);
        assert!(!hotplug_faults(&plug()).is_empty());
        for spec in [r#""runStrategy": "Halted""#, r#""running": false"#] {
            assert!(hotplug_faults(&plug().spec(spec)).is_empty(), "{spec}");
            assert!(hotplug_faults(&plug().spec(spec).vmi_unknown()).is_empty(), "{spec}");
        }
        for spec in ["Always", "Manual", "Once", "RerunOnFailure", "WaitAsReceiver"] {
            let spec = format!(r#""runStrategy": "{spec}""#);
            assert!(!hotplug_faults(&plug().spec(&spec)).is_empty(), "{spec}");
        }
        for phase in [Phase::Unset, Phase::Other("Pending".into())] {
            assert!(hotplug_faults(&plug().vmi(|vmi| vmi.phase = phase.clone())).is_empty(), "{phase}");
        }
        let phase = Phase::Other("Scheduling".into());
        assert!(!hotplug_faults(&plug().vmi(|vmi| vmi.phase = phase)).is_empty());
    }

    #[test]
    fn a_restart_cures_every_fault_except_those_of_an_unusable_network() {
        use AtRestart::{Applied, AppliedAtOnce, Fails};

        let bridge = || Hotplug::of(r#"{"name": "dyniface1", "bridge": {}}"#);
        let on =
            |name: &str| bridge().on(&format!(r#"{{"name": "dyniface1", "multus": {{"networkName": "{name}"}}}}"#));
        let with = |config: &str| bridge().nad("demo/new-fancy-net", config);
        let ovn = |rest: &str| {
            with(&format!(
                r#"{{"type": "ovn-k8s-cni-overlay", "name": "n", "netAttachDefName": "demo/new-fancy-net", {rest}}}"#
            ))
        };
        let cannot_migrate = |multus: Fact<ReadyNodes>| {
            bridge().vmi(|vmi| vmi.migratable = Migratable::No { reason: "".into(), message: "".into() }).facts(
                |facts| {
                    let attachment = Attachment { in_place: InPlace::No, has_thick_multus: false, multus };
                    facts.attachment = Fact::Known(attachment);
                },
            )
        };
        let of = |interface: &str| Hotplug::of(interface);
        let isolated = Fact::Known(Arc::new(NamespaceIsolation::default()));
        for (hotplug, expected) in [
            (bridge().kubevirt("v1.3.1", &[]), ("NP101", Applied)),
            (of(r#"{"name": "dyniface1", "masquerade": {}}"#), ("NP102", Applied)),
            (of(r#"{"name": "dyniface1", "bridge": {}, "model": "e1000e"}"#), ("NP103", Applied)),
            (bridge().on(r#"{"name": "dyniface1", "pod": {}}"#), ("NP104", Applied)),
            (on("no-such-net"), ("NP105", Fails)),
            (on("a/b/c"), ("NP105", Fails)),
            (with("{not json"), ("NP105", Fails)),
            (of(r#"{"name": "dyniface1", "sriov": {}}"#), ("NP105", Fails)),
            (on("other/red").nad("other/red", "").facts(|facts| facts.isolation = isolated), ("NP105", Fails)),
            (ovn(r#""topology": "layer2", "role": "primary""#), ("NP105", Fails)),
            (ovn(r#""topology": "layer3""#), ("NP105", Applied)),
            (cannot_migrate(Fact::Known(ReadyNodes { ready: 3, desired: 3 })), ("NP112", Applied)),
            (cannot_migrate(Fact::Known(ReadyNodes { ready: 0, desired: 3 })), ("NP112", Applied)),
            (cannot_migrate(Fact::Absent), ("NP112", Fails)),
            (bridge().rollout("Stage", &[]), ("NP116", AppliedAtOnce)),
        ] {
            let faults = hotplug_faults(&hotplug);
            let found: Vec<_> = faults.iter().map(|fault| (fault.rule.id, fault.at_restart)).collect();
            assert_eq!(found, [expected], "{faults:?}");
        }
    }

    #[test]
    fn each_scope_is_at_its_index() {
        for (index, scope) in Scope::ALL.into_iter().enumerate() {
            assert_eq!(scope as usize, index);
        }
        assert!(RULES.iter().all(|rule| Scope::ALL.contains(&rule.scope)));
    }

    #[test]
    fn a_rule_is_found_by_its_id_in_any_case() {
        assert_eq!(find("np101").unwrap().name, "feature-gate");
        assert!(find("NP999").is_none());
    }
}
