//! Frozen slot annotations that an update removes from the template of a VM.

use super::{RULE, annotations_of, devices_of_template, expanded_devices};
use crate::{
    api::{quote::quote, review::ObjectKind},
    change::ObjectView,
    facts::Fact,
    pci::{PortBudget, Scheme, SlotCount},
    rules::{Case, CauseType, Finding},
};

/// Returns a finding about a slot count that an update removes or changes. KubeVirt freezes the PCI topology of a guest
/// in two annotations of the template; a tool that applies its own manifest prunes them, and then the next boot places
/// every device anew.
pub(super) fn check(case: &Case) -> Option<Finding> {
    let change = case.change;
    let (before, after) = (change.before?, change.after);
    let count = slot_count(&before)?;
    let is_kept = change.subject.kind != ObjectKind::Vm || slot_count(&after) == Some(count);
    if is_kept || is_written_back(case) {
        return None;
    }
    let kubevirt = case.facts.kubevirt.known()?;
    let version = kubevirt.version.filter(|&version| Scheme::of(version).reads_slot_count())?;
    let expanded = expanded_devices(&after, case.facts.expansion(), &**kubevirt).ok()?;
    let devices = expanded.or_else(|| devices_of_template(&after, &**kubevirt).ok())?;
    let ports = |slots: Option<SlotCount>| {
        let usage = slots.map_or_else(|| devices.port_usage.clone(), |slots| devices.port_usage.with_slot_count(slots));
        let budget = PortBudget::of(&usage, &devices.nics, version);
        budget.boot_error.is_none().then_some((budget.placeholders, budget.extra_controllers))
    };
    let (frozen, now) = (ports(Some(SlotCount::Number(count.parse().ok()?)))?, ports(None)?);
    if frozen == now {
        return None;
    }
    let what = format!(
        "without kubevirt.io/pci-interface-slot-count {count} every device of the guest moves at its next boot",
        count = quote(count)
    );
    let field = annotations_of(after.path, change.subject.kind);
    Some(RULE.fault(CauseType::Invalid, field, what).with_fix("put the annotations of the template back".to_owned()))
}

/// Whether KubeVirt writes the annotations back: it does for a running guest whose template has no topology version
/// (`syncPCITopologyAnnotationsToVM`). Also true if it is unknown whether the guest runs.
fn is_written_back(case: &Case) -> bool {
    match case.live() {
        Fact::Known(_) => {
            let annotations = case.change.after.guest_metadata.annotations.as_deref();
            annotations.is_none_or(|annotations| annotations.topology_version.as_deref().is_none_or(str::is_empty))
        }
        Fact::Absent => false,
        Fact::Unknown => true,
    }
}

fn slot_count<'r>(view: &ObjectView<'r>) -> Option<&'r str> {
    view.guest_metadata.annotations.as_deref()?.slot_count.as_deref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::RULE;
    use crate::{
        facts::{Fact, Facts, KubeVirt, Vmi},
        kubevirt::Version,
        rules::testing::findings_of_update_with,
    };

    const BOTH: &str = r#""kubevirt.io/pci-topology-version": "v2", "kubevirt.io/pci-interface-slot-count": "11""#;
    const VERSION: &str = r#""kubevirt.io/pci-topology-version": "v2""#;

    fn vm(annotations: &str) -> String {
        format!(
            r#"{{"spec": {{"template": {{"metadata": {{"annotations": {{{annotations}}}}}, "spec": {{
                "domain": {{"devices": {{"interfaces": [{{"name": "default", "masquerade": {{}}}}]}}}},
                "networks": [{{"name": "default", "pod": {{}}}}]}}}}}}}}"#
        )
    }

    #[test]
    fn a_slot_count_that_is_pruned_moves_the_devices() {
        let stopped = || Fact::Absent;
        let running = || {
            let vmi = serde_json::from_str(r#"{"status": {"phase": "Running"}}"#).unwrap();
            Fact::Known(Arc::new(Vmi::from(&vmi)))
        };
        for (version, vmi, old, new, is_reported) in [
            ((1, 9, 0), stopped(), BOTH, "", true),
            ((1, 9, 0), stopped(), BOTH, VERSION, true),
            ((1, 9, 0), stopped(), BOTH, BOTH, false),
            ((1, 9, 0), stopped(), "", BOTH, false),
            ((1, 5, 0), stopped(), BOTH, "", false),
            ((1, 9, 0), running(), BOTH, "", false),
            ((1, 9, 0), running(), BOTH, VERSION, true),
            ((1, 9, 0), Fact::Unknown, BOTH, "", false),
            ((1, 9, 0), stopped(), r#""kubevirt.io/pci-interface-slot-count": "4""#, "", false),
            ((1, 9, 0), stopped(), r#""kubevirt.io/pci-interface-slot-count": "x""#, "", false),
        ] {
            let version = Some(Version::new(version.0, version.1, version.2));
            let kubevirt = Fact::Known(Arc::new(KubeVirt { version, ..KubeVirt::default() }));
            let facts = Facts { kubevirt, vmi, ..Facts::default() };
            let findings = findings_of_update_with(&RULE, &vm(old), &vm(new), &facts);
            let found = findings.iter().any(|finding| finding.what.contains("every device of the guest moves"));
            assert_eq!(found, is_reported, "{version:?} {old} {new}: {findings:?}");
        }
    }
}
