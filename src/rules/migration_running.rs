//! NP111.

use super::{Case, CauseType, Finding, in_place, live_change::forecast::Swap, rule};
use crate::{
    api::quote::quote,
    change::{MigrationStart, Nic},
    facts::{
        Fact, FactKind, Facts, Vm, Vmi,
        attachment::InPlace,
        nic::{GuestNic, HotplugMethod, NetworkRole},
    },
    settings::{HotplugSettings, Settings},
};

rule! {
    /// NICs of a VM change while it migrates, or a migration starts while a NIC is being attached or unplugged.
    ///
    /// ## Why
    /// KubeVirt creates the target pod of a migration from the NICs that the guest has when the migration starts. A NIC
    /// that is added or removed in the meantime may be missing in that pod, or stay in it, until the next migration.
    /// KubeVirt recommends to finish one before the other starts. A network that changes in the meantime takes another
    /// migration.
    ///
    /// ## Example
    /// `dyniface1` was added to the VM and has not reached the guest yet when a user creates:
    /// ```yaml
    /// kind: VirtualMachineInstanceMigration
    /// spec:
    ///   vmiName: vm-fedora
    /// ```
    NP111, "migration-running", Hotplug, Warn,
    field: "domain.devices.interfaces[]",
    fix: "wait until the migration has finished or the NIC is attached, then try again",
}

fn check(case: &Case) -> Vec<Finding> {
    let plugged = case.each_plugged(&RULE, |nic, vmi| evaluate(case, nic, vmi));
    let unplugged = case.each_unplugged(&RULE, |nic, vmi| evaluate(case, nic, vmi));
    let swapped = || {
        let migration = running_migration(case, *case.live().known()?)?;
        Swap::all(case).iter().find_map(|swap| evaluate_swap(case, swap, &migration))
    };
    plugged.into_iter().chain(unplugged).next().or_else(swapped).into_iter().collect()
}

fn evaluate(case: &Case, nic: &Nic, vmi: &Vmi) -> Option<Finding> {
    let migration = running_migration(case, vmi)?;
    let effect = if nic.is_absent() { "stay" } else { "be missing" };
    let what = format!("{migration} has not finished: {} may {effect} in the new pod", quote(nic.name));
    Some(RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what))
}

/// Evaluates a changed network. The target pod has the old one, so KubeVirt asks for another migration afterwards.
fn evaluate_swap(case: &Case, swap: &Swap, migration: &str) -> Option<Finding> {
    let Swap { nic, guest, network } = swap;
    let what = format!(
        "{migration} has not finished: {} moves to {network} only by the next one",
        quote(nic.name),
        network = quote(network)
    );
    let is_applied = guest.role == NetworkRole::Additional;
    is_applied.then(|| RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what))
}

/// Returns the words for the migration of the guest that has not finished.
fn running_migration(case: &Case, vmi: &Vmi) -> Option<String> {
    match &case.facts.migration {
        Fact::Known(name) => Some(format!("migration {name}", name = quote(name))),
        Fact::Absent | Fact::Unknown => vmi.is_migrating.then(|| "a migration".to_owned()),
    }
}

/// Checks the start of a migration: whether a NIC of the guest is still being attached or unplugged.
pub(super) fn check_start(start: &MigrationStart, facts: &Facts, settings: &Settings) -> Vec<Finding> {
    let guest = start.vmi_name;
    match facts.live() {
        Fact::Known(vmi) => {
            let fault = |what: String| vec![RULE.fault(CauseType::Invalid, "spec.vmiName".to_owned(), what)];
            let vm = facts.vm.known();
            if let Some(nic) = vm.and_then(|vm| not_in_guest(vm, vmi, &settings.hotplug)) {
                let what = if nic.is_absent {
                    format!(
                        "{} was unplugged from VM {guest}, but its VMI still has it",
                        quote(&nic.name),
                        guest = quote(guest)
                    )
                } else {
                    format!(
                        "{} was added to VM {guest}, but its VMI does not have it yet",
                        quote(&nic.name),
                        guest = quote(guest)
                    )
                };
                return fault(what);
            }
            match not_settled(vmi, &in_place(&facts.attachment, settings), &settings.hotplug) {
                Some(nic) => {
                    let action = if nic.is_absent { "unplugged" } else { "attached" };
                    fault(format!(
                        "{} of {guest} is still being {action}: migrate afterwards",
                        quote(&nic.name),
                        guest = quote(guest)
                    ))
                }
                None => Vec::new(),
            }
        }
        Fact::Absent => Vec::new(),
        Fact::Unknown => {
            let what = format!(
                "whether a NIC of {guest} is being attached was not checked: its VMI is not known",
                guest = quote(guest)
            );
            vec![RULE.unknown(FactKind::Vmi, what)]
        }
    }
}

/// Returns a NIC of the template that KubeVirt has yet to copy to the VMI, or to set absent there.
fn not_in_guest<'m>(vm: &'m Vm, vmi: &Vmi, settings: &HotplugSettings) -> Option<&'m GuestNic> {
    let mut pluggable = vm.nics.iter().filter(|nic| nic.hotplug_under(settings) != HotplugMethod::None);
    pluggable.find(|nic| match vmi.nic(&nic.name) {
        Some(there) => nic.is_absent && !there.is_absent,
        None => !nic.is_absent,
    })
}

/// Returns a NIC of the VMI that is still being attached or unplugged. A NIC that cannot be attached in place does not
/// count: it needs the migration.
fn not_settled<'i>(vmi: &'i Vmi, in_place: &Fact<InPlace>, settings: &HotplugSettings) -> Option<&'i GuestNic> {
    let comes_in_place = !matches!(in_place, Fact::Known(InPlace::No));
    let mut bridges = vmi.nics.iter().filter(|nic| nic.hotplug_under(settings) == HotplugMethod::Bridge);
    bridges.find(|nic| {
        let is_in_domain = vmi.status_nic(&nic.name).is_some_and(|seen| seen.is_in_domain);
        if nic.is_absent { is_in_domain } else { comes_in_place && !is_in_domain }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{RULE, check_start};
    use crate::{
        change::MigrationStart,
        facts::{Attachment, Fact, Facts, Vm, Vmi, attachment::InPlace},
        rules::testing::{Expect, Hotplug},
        settings::Settings,
    };

    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]);
    const FAULT_OF_VMI: Expect = Expect::Faults(&["spec.domain.devices.interfaces[1]"]);

    #[test]
    fn nics_must_not_change_during_a_migration() {
        let absent = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
        let plug: fn() -> Hotplug = || Hotplug::of(NIC);
        let plug_on_vmi: fn() -> Hotplug = || Hotplug::of(NIC).on_vmi();
        for (case, fault) in [(plug, FAULT), (plug_on_vmi, FAULT_OF_VMI)] {
            case().expect(&RULE, &Expect::Silent);
            case().vmi(|vmi| vmi.is_migrating = true).expect(&RULE, &fault);
            case().facts(|facts| facts.migration = Fact::Known("migration-job".into())).expect(&RULE, &fault);
        }
        let unplug = || Hotplug::modify((NIC, NET), (absent, NET));
        let migrating = unplug().vmi(|vmi| vmi.is_migrating = true);
        migrating.expect(&RULE, &FAULT);
        let what = &migrating.findings(&RULE)[0].what;
        assert!(what.ends_with("may stay in the new pod"), "{what}");
        unplug().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_network_that_changes_during_a_migration_takes_another_one() {
        let other = r#"{"name": "dyniface1", "multus": {"networkName": "net-b"}}"#;
        let swap = || Hotplug::modify((NIC, NET), (NIC, other));
        swap().expect(&RULE, &Expect::Silent);
        let migrating = swap().vmi(|vmi| vmi.is_migrating = true);
        migrating.expect(&RULE, &FAULT);
        let what = &migrating.findings(&RULE)[0].what;
        assert_eq!(what, "a migration has not finished: \"dyniface1\" moves to \"net-b\" only by the next one");
        let restarts = swap().kubevirt("v1.8.4", &[]).vmi(|vmi| vmi.is_migrating = true);
        restarts.expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_stopped_vm_is_not_checked_and_an_unknown_vmi_is_reported() {
        Hotplug::of(NIC).stopped().expect(&RULE, &Expect::Silent);
        Hotplug::of(NIC).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }

    fn vmi(nics: &str, seen: &str) -> Fact<Arc<Vmi>> {
        let text = format!(
            r#"{{"spec": {{"domain": {{"devices": {{"interfaces": [{nics}]}}}}, "networks": [{NET}]}},
                "status": {{"phase": "Running", "interfaces": [{seen}]}}}}"#
        );
        Fact::Known(Arc::new(Vmi::from(&serde_json::from_str(&text).unwrap())))
    }

    fn vm() -> Fact<Arc<Vm>> {
        let text = format!(
            r#"{{"spec": {{"template": {{"spec": {{"domain": {{"devices": {{"interfaces": [{NIC}]}}}},
                "networks": [{NET}]}}}}}}}}"#
        );
        Fact::Known(Arc::new(Vm::from(&serde_json::from_str(&text).unwrap())))
    }

    #[test]
    fn a_migration_must_not_start_while_a_nic_is_being_attached_or_unplugged() {
        let start = MigrationStart { namespace: "demo", vmi_name: "vm-fedora" };
        let seen = r#"{"name": "dyniface1", "infoSource": "domain, multus-status"}"#;
        let in_pod = r#"{"name": "dyniface1", "infoSource": "multus-status"}"#;
        let absent = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
        for (vmi, vm, in_place, expected) in [
            (vmi("", ""), vm(), InPlace::Yes, "does not have it yet"),
            (vmi("", ""), vm(), InPlace::No, "does not have it yet"),
            (vmi(absent, seen), Fact::Absent, InPlace::No, "is still being unplugged"),
            (vmi(absent, in_pod), Fact::Absent, InPlace::Yes, ""),
            (vmi(NIC, in_pod), vm(), InPlace::Yes, "is still being attached"),
            (vmi(NIC, ""), vm(), InPlace::Yes, "is still being attached"),
            (vmi(NIC, ""), vm(), InPlace::No, ""),
            (vmi(NIC, seen), vm(), InPlace::Yes, ""),
            (vmi("", ""), Fact::Absent, InPlace::Yes, ""),
            (Fact::Absent, vm(), InPlace::Yes, ""),
            (Fact::Unknown, vm(), InPlace::Yes, "was not checked"),
        ] {
            let attachment = Attachment { in_place, has_thick_multus: true, multus: Fact::Unknown };
            let facts = Facts { vmi, vm, attachment: Fact::Known(attachment), ..Facts::default() };
            let findings = check_start(&start, &facts, &Settings::default());
            match findings.as_slice() {
                [] => assert_eq!(expected, "", "{facts:?} {in_place:?}"),
                [finding] => assert!(!expected.is_empty() && finding.what.contains(expected), "{finding:?}"),
                _ => panic!("{findings:?}"),
            }
        }
    }
}
