//! The judgement: every rule, and what rules say.
//!
//! A rule is plain data and one function from a [`Case`] to findings. It has no state, reads no clock and no network,
//! and never sees what another rule found. A new rule is one new file and one line in [`RULES`].

mod attachment_path;
mod boot_pci_slots;
mod duplicate_interface_name;
mod duplicate_mac;
mod duplicate_network_name;
mod enforcing;
mod feature_gate;
mod hot_unplug;
mod hotplug_binding;
mod hotplug_model;
mod hotplug_network;
mod interface_binding;
mod interface_fields;
mod interface_request;
mod interface_state;
mod interface_without_network;
mod live_change;
mod migration_running;
mod name_in_use;
mod network_attachment;
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

pub use self::enforcing::Enforcing;
use crate::{
    api::review::ObjectKind,
    change::{Change, MigrationStart, Nic, NicDiff},
    facts::{
        Fact, FactKind, Facts, Vmi,
        attachment::{Attachment, InPlace},
        nic::HotplugMethod,
    },
    kubevirt::gates::Gate,
    settings::{DynamicNetworks, Enforcement, Settings},
};

/// Every rule, by id. An id is never used again for something else.
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
];

/// One thing that nicplug enforces.
#[derive(Debug)]
pub struct Rule {
    /// `NP` and three digits.
    pub id: &'static str,
    /// The pattern that it catches, in kebab case.
    pub name: &'static str,
    /// Which requests it judges.
    pub scope: Scope,
    /// What happens with its findings unless settings say otherwise.
    pub enforcement: Enforcement,
    /// The field that it points at, from the guest's spec.
    pub field: &'static str,
    /// What to do about a finding, in words that follow the finding after a semicolon.
    pub fix: &'static str,
    /// Summary, why and example, in Markdown.
    doc: &'static str,
    check: fn(&Case) -> Vec<Finding>,
}

/// Which requests a rule judges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Whatever makes or changes NICs: live or not, VM, VMI or template.
    Shape,
    /// What a guest boots with: whatever makes a guest, or changes the template of one.
    Boot,
    /// What is plugged into, or taken from, a running guest. A few such rules look at a new guest as well, and advise.
    Hotplug,
    /// The annotation of a VMI that asks for NICs to be mirrored into its VM's template, and NICs added under it.
    Persist,
    /// Annotations of a VM that ask to add or remove NICs.
    Request,
}

impl Scope {
    /// As tables write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Shape => "shape",
            Self::Hotplug => "hotplug",
            Self::Persist => "persist",
            Self::Request => "request",
        }
    }

    /// Whether a change is any business of such rules. This is all that most requests cost.
    fn covers(self, change: &Change) -> bool {
        match self {
            Self::Boot => change.before.is_none() || change.after.vmi.is_none(),
            Self::Shape => change.changes_nics(),
            Self::Persist => change.requests_persist(),
            Self::Request => change.requests_nics(),
            Self::Hotplug => {
                let is_guest = matches!(change.subject.kind, ObjectKind::Vm | ObjectKind::Vmi);
                is_guest && !change.nics.is_empty()
            }
        }
    }
}

/// Declares the rule of a file: its documentation, then what identifies it.
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
    /// The documentation in Markdown: a summary, then sections.
    #[must_use]
    pub fn doc(&self) -> String {
        let lines = self.doc.lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// The first sentence of the documentation.
    #[must_use]
    pub fn summary(&self) -> String {
        let doc = self.doc();
        let summary = doc.split("\n\n").next().unwrap_or_default();
        summary.replace('\n', " ")
    }

    /// Something that is wrong.
    pub(crate) fn fault(&'static self, cause: CauseType, field: String, what: String) -> Finding {
        let (kind, fix) = (FindingKind::Fault(cause), Cow::Borrowed(self.fix));
        Finding { rule: self, field, kind, what, fix, missing: None }
    }

    /// Something that cannot work for certain, whatever the cluster is like.
    pub(crate) fn certain(&'static self, cause: CauseType, field: String, what: String) -> Finding {
        Finding { kind: FindingKind::Certain(cause), ..self.fault(cause, field, what) }
    }

    /// Something that is allowed, and good to know.
    pub(crate) fn advice(&'static self, field: String, what: String) -> Finding {
        Finding { rule: self, field, kind: FindingKind::Advice, what, fix: Cow::Borrowed(""), missing: None }
    }

    /// Something that could not be checked.
    pub(crate) fn unchecked(&'static self, what: impl Into<String>) -> Finding {
        Finding { kind: FindingKind::Unchecked, ..self.advice(String::new(), what.into()) }
    }

    /// Something that could not be checked for want of a fact about an object of this kind.
    pub(crate) fn unknown(&'static self, missing: FactKind, what: impl Into<String>) -> Finding {
        Finding { missing: Some(missing), ..self.unchecked(what) }
    }
}

/// What a rule says about one place of the object.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Whose finding it is.
    pub rule: &'static Rule,
    /// The path of the field, as in `spec.networks[0].name`; empty when no field is meant.
    pub field: String,
    /// How it is meant.
    pub kind: FindingKind,
    /// What is wrong, with the value quoted: lower case, no full stop.
    pub what: String,
    /// What to do.
    pub fix: Cow<'static, str>,
    /// Which fact was not known, where that is why nothing was judged.
    pub missing: Option<FactKind>,
}

impl Finding {
    /// The same finding, allowed.
    pub(crate) fn into_advice(self) -> Self {
        let kind = match self.kind {
            FindingKind::Certain(_) | FindingKind::Fault(_) => FindingKind::Advice,
            kind => kind,
        };
        Self { kind, ..self }
    }

    /// The same finding with a fix that names values.
    pub(crate) fn with_fix(self, fix: String) -> Self {
        Self { fix: Cow::Owned(fix), ..self }
    }
}

/// How a finding is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FindingKind {
    /// Wrong: denied or warned of, as the rule is enforced.
    Fault(CauseType),
    /// Wrong beyond doubt: denied unless settings name the rule, even where the rule only warns by default.
    Certain(CauseType),
    /// Allowed, with a warning.
    Advice,
    /// Not judged, with a warning.
    Unchecked,
}

/// Kubernetes' cause types (`k8s.io/apimachinery/pkg/apis/meta/v1`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CauseType {
    /// A value that has to be unique is not.
    Duplicate,
    /// The value is wrong.
    Invalid,
    /// The value names something that is not there.
    NotFound,
    /// The value is none of those that are known.
    NotSupported,
    /// The value is missing.
    Required,
}

impl CauseType {
    /// The name in `details.causes[].reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Required => "FieldValueRequired",
        }
    }
}

/// What a rule judges: a change, the facts around it and the settings.
#[derive(Clone, Copy, Debug)]
pub struct Case<'c> {
    /// The request.
    pub change: &'c Change<'c>,
    /// The cluster.
    pub facts: &'c Facts,
    /// The administrator's choices.
    pub settings: &'c Settings,
}

/// Judges one NIC of a guest that runs.
type Judge<'j, 'c> = &'j mut dyn FnMut(&Nic<'c>, &'c Vmi) -> Option<Finding>;

impl<'c> Case<'c> {
    /// Judges each NIC that the change plugs into a running guest; see [`Self::plugged`].
    pub(crate) fn each_plugged(
        &self,
        rule: &'static Rule,
        mut evaluate: impl FnMut(&Nic<'c>, &'c Vmi) -> Option<Finding>,
    ) -> Vec<Finding> {
        self.judge_plugged(rule, &mut evaluate)
    }

    /// Judges each NIC that the change takes from a running guest; see [`Self::unplugged`].
    pub(crate) fn each_unplugged(
        &self,
        rule: &'static Rule,
        mut evaluate: impl FnMut(&Nic<'c>, &'c Vmi) -> Option<Finding>,
    ) -> Vec<Finding> {
        self.judge_unplugged(rule, &mut evaluate)
    }

    /// One function for all rules: as a generic one each rule had its own, and code that runs once a request costs more
    /// to fetch than to run.
    fn judge_plugged(&self, rule: &'static Rule, evaluate: Judge<'_, 'c>) -> Vec<Finding> {
        let NicDiff { added, modified, .. } = &self.change.nics;
        // What only changes has probably been there before: no reason to tell that nobody knows.
        let is_told_when_unknown = !added.is_empty();
        if !is_told_when_unknown && (modified.is_empty() || self.live().known().is_none()) {
            return Vec::new();
        }
        self.if_live(rule, |vmi| self.plugged(vmi).filter_map(|nic| evaluate(nic, vmi)).collect())
    }

    fn judge_unplugged(&self, rule: &'static Rule, evaluate: Judge<'_, 'c>) -> Vec<Finding> {
        if self.change.nics.set_absent.is_empty() {
            return Vec::new();
        }
        self.if_live(rule, |vmi| self.unplugged(vmi).filter_map(|nic| evaluate(nic, vmi)).collect())
    }

    /// The NICs that the change plugs into a guest that runs.
    ///
    /// Not plugged are a NIC that is added as `absent` and one that the guest has already: KubeVirt copies neither.
    /// Plugged is a NIC that the template had already and the guest has not, when it changes: KubeVirt compares the
    /// template with the guest, and not with what the template was.
    pub(crate) fn plugged(&self, vmi: &'c Vmi) -> impl Iterator<Item = &'c Nic<'c>> {
        let NicDiff { added, modified, .. } = &self.change.nics;
        let is_vm = self.change.subject.kind == ObjectKind::Vm;
        let copied = modified.iter().map(|(_, nic)| nic).filter(move |_| is_vm);
        let is_there = move |nic: &Nic| is_vm && vmi.has_nic(nic.name);
        added.iter().chain(copied).filter(move |nic| !nic.is_absent() && !is_there(nic))
    }

    /// The NICs that the change takes by `state: absent` from a guest that runs and has them.
    pub(crate) fn unplugged(&self, vmi: &'c Vmi) -> impl Iterator<Item = &'c Nic<'c>> {
        let leaves = |nic: &&Nic| vmi.nic(nic.name).is_some_and(|nic| !nic.is_absent);
        self.change.nics.set_absent.iter().filter(leaves)
    }

    /// Judges a change of a guest that runs; tells what was not checked when nobody knows whether it does.
    pub(crate) fn if_live(&self, rule: &'static Rule, evaluate: impl FnOnce(&'c Vmi) -> Vec<Finding>) -> Vec<Finding> {
        match self.live() {
            _ if self.is_new() => Vec::new(),
            Fact::Known(vmi) => evaluate(vmi),
            Fact::Absent => Vec::new(),
            Fact::Unknown => {
                let name = &self.change.subject.name;
                let what = format!("hotplug was not checked: whether {name:?} is running is not known");
                vec![rule.unknown(FactKind::Vmi, what)]
            }
        }
    }

    /// What a rule says that could not count PCI ports: mostly since nobody knows which KubeVirt there is.
    pub(crate) fn uncounted(&self, rule: &'static Rule, what: String) -> Finding {
        match self.facts.kubevirt.known().and_then(|kubevirt| kubevirt.version) {
            Some(_) => rule.unchecked(what),
            None => rule.unknown(FactKind::KubeVirt, what),
        }
    }

    /// Whether a feature gate is on; `None` while the KubeVirt resource is not known.
    pub(crate) fn has(&self, gate: Gate) -> Option<bool> {
        self.facts.kubevirt.known().map(|kubevirt| kubevirt.has(gate))
    }

    /// Whether the object is being made: nothing runs yet.
    pub(crate) fn is_new(&self) -> bool {
        self.change.before.is_none()
    }

    /// Whether a NIC can be attached to a running pod; a setting overrules what the cluster shows.
    pub(crate) fn in_place(&self) -> Fact<InPlace> {
        in_place(&self.facts.attachment, self.settings)
    }

    fn live(&self) -> Fact<&'c Vmi> {
        self.facts.live()
    }
}

/// How a NIC reaches a guest that runs. One without a binding gets `bridge`, from our own mutation.
pub(crate) fn plug_of(nic: &Nic) -> HotplugMethod {
    let (Some(interface), Some(network)) = (nic.interface, nic.network) else { return HotplugMethod::None };
    let is_further_network = network.value.multus.is_some() && !network.value.is_default();
    if is_further_network && interface.value.bindings.is_empty() {
        return HotplugMethod::Bridge;
    }
    HotplugMethod::of(interface.value, Some(network.value))
}

/// Whether a NIC can be attached to a running pod; a setting overrules what the cluster shows.
pub(crate) fn in_place(attachment: &Fact<Attachment>, settings: &Settings) -> Fact<InPlace> {
    match (settings.attachment.dynamic_networks, attachment) {
        (DynamicNetworks::Yes, _) => Fact::Known(InPlace::Yes),
        (DynamicNetworks::No, _) | (DynamicNetworks::Auto, Fact::Absent) => Fact::Known(InPlace::No),
        (DynamicNetworks::Auto, Fact::Known(attachment)) => Fact::Known(attachment.in_place),
        (DynamicNetworks::Auto, Fact::Unknown) => Fact::Unknown,
    }
}

/// Judges the start of a migration.
#[must_use]
pub fn evaluate_migration(
    start: &MigrationStart,
    facts: &Facts,
    settings: &Settings,
    enforcing: Enforcing,
) -> Vec<Finding> {
    if enforcing.of(&migration_running::RULE) == Enforcement::Off {
        return Vec::new();
    }
    migration_running::check_start(start, facts, &in_place(&facts.attachment, settings))
}

/// Asks every rule that is not off; findings come in the order of the rules.
#[must_use]
pub fn evaluate(case: &Case, enforcing: Enforcing) -> Vec<Finding> {
    let is_asked = |rule: &&&Rule| rule.scope.covers(case.change) && enforcing.of(rule) != Enforcement::Off;
    let mut findings = Vec::new();
    for rule in RULES.iter().filter(is_asked) {
        findings.append(&mut (rule.check)(case));
    }
    findings
}

/// The ids of all rules.
#[must_use]
pub fn ids() -> Vec<&'static str> {
    RULES.iter().map(|rule| rule.id).collect()
}

/// The rule of an id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_in_order() {
        assert!(ids().is_sorted_by(|one, other| one < other), "{:?}", ids());
        for rule in RULES {
            let digits = rule.id.strip_prefix("NP").unwrap();
            assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{}", rule.id);
        }
    }

    #[test]
    fn every_rule_is_documented_as_the_house_wants_it() {
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

    #[test]
    fn a_rule_is_found_by_its_id_in_any_case() {
        assert_eq!(find("np101").unwrap().name, "feature-gate");
        assert!(find("NP999").is_none());
    }
}
