//! NP112.

use super::{Case, CauseType, Finding, plug_of, rule};
use crate::{
    change::Nic,
    facts::{
        Fact, FactKind, Vmi,
        attachment::InPlace,
        kubevirt::{AutoMigration, KubeVirt},
        nic::HotplugMethod,
        vmi::Migratable,
    },
    kubevirt::Version,
};

rule! {
    /// A NIC is plugged into a running VM, and nothing in the cluster can attach it, or only a migration can.
    ///
    /// ## Why
    /// There are two ways into a running guest. In place: Multus as a daemon and its dynamic-networks controller attach
    /// the NIC to the pod. By live migration: the new pod is born with it; SR-IOV always goes this way. Where neither is
    /// open, the NIC waits for ever and nothing tells of it. Since KubeVirt 1.6 the migration starts by itself, but only
    /// with `vmRolloutStrategy: LiveUpdate` (the default) and `LiveMigrate` among the `workloadUpdateMethods` of the
    /// KubeVirt resource; before, somebody has to create a VirtualMachineInstanceMigration.
    ///
    /// ## Example
    /// A NIC is added to a running VM in a cluster without dynamic-networks controller, and the VM has a disk that only
    /// its own node can reach:
    /// ```yaml
    /// kind: VirtualMachineInstance
    /// status:
    ///   conditions:
    ///   - type: LiveMigratable
    ///     status: "False"
    ///     reason: DisksNotLiveMigratable
    /// ```
    NP112, "attachment-path", Hotplug, Deny,
    field: "domain.devices.interfaces[]",
    fix: "deploy Multus' dynamic-networks controller, make the VM able to migrate, or stop it first",
}

/// The first version that hotplugs SR-IOV NICs.
const SRIOV_SINCE: Version = Version::new(1, 1, 0);

/// How long a condition's message may be to be quoted whole, in characters.
const MESSAGE_AT_MOST: usize = 160;

fn check(case: &Case) -> Vec<Finding> {
    case.each_plugged(&RULE, |nic, vmi| match plug_of(nic) {
        // That it cannot be hotplugged at all is told by the rules about binding and network.
        HotplugMethod::None => None,
        HotplugMethod::Sriov if is_too_old_for_sriov(case) => None,
        HotplugMethod::Sriov => Some(evaluate_migration(case, nic, vmi, &Blocked::SRIOV)),
        HotplugMethod::Bridge => judge_bridge(case, nic, vmi),
    })
}

fn is_too_old_for_sriov(case: &Case) -> bool {
    let version = case.facts.kubevirt.known().and_then(|kubevirt| kubevirt.version);
    version.is_some_and(|version| version < SRIOV_SINCE)
}

fn judge_bridge(case: &Case, nic: &Nic, vmi: &Vmi) -> Option<Finding> {
    let name = nic.name;
    match case.in_place() {
        Fact::Known(InPlace::Yes) => None,
        Fact::Known(InPlace::SomeNodes { ready, desired }) => {
            let what =
                format!("{name:?} may wait: the dynamic-networks controller is ready on {ready} of {desired} nodes");
            Some(RULE.advice(case.change.nic_field(nic), what))
        }
        Fact::Known(InPlace::No) | Fact::Absent => Some(evaluate_migration(case, nic, vmi, &Blocked::NO_CONTROLLER)),
        Fact::Unknown => Some(RULE.unknown(
            FactKind::DaemonSet,
            format!("how {name:?} reaches the guest was not checked: DaemonSets are not known"),
        )),
    }
}

/// Why a NIC cannot be attached in place, and what else there is to do.
struct Blocked {
    because: &'static str,
    fix: &'static str,
    /// Where there is one node only.
    fix_of_one_node: &'static str,
}

impl Blocked {
    const NO_CONTROLLER: Self = Self {
        because: "there is no ready dynamic-networks controller",
        fix: RULE.fix,
        fix_of_one_node: "deploy Multus' dynamic-networks controller, add a node, or stop the VM first",
    };
    const SRIOV: Self = Self {
        because: "an SR-IOV NIC needs a live migration",
        fix: "make the VM able to migrate, or stop it first",
        fix_of_one_node: "add a node, or stop the VM first",
    };
}

/// Judges a NIC that only a migration can attach.
fn evaluate_migration(case: &Case, nic: &Nic, vmi: &Vmi, blocked: &Blocked) -> Finding {
    let Blocked { because, fix, fix_of_one_node } = blocked;
    let name = nic.name;
    let field = case.change.nic_field(nic);
    match &vmi.migratable {
        Migratable::No { reason, message } => {
            let quoted = quote(reason, message);
            let what = format!("{name:?} can never be attached: {because}, and the VM cannot migrate{quoted}");
            RULE.fault(CauseType::Invalid, field, what).with_fix((*fix).to_owned())
        }
        _ if case.facts.nodes == Fact::Known(1) => {
            let what = format!("{name:?} can never be attached: {because}, and with one node there is nowhere to go");
            RULE.fault(CauseType::Invalid, field, what).with_fix((*fix_of_one_node).to_owned())
        }
        Migratable::Unknown => {
            let what = format!("{name:?} needs a live migration, and the VM does not tell whether it can migrate");
            RULE.advice(field, what)
        }
        Migratable::Yes => match &case.facts.kubevirt {
            Fact::Known(kubevirt) => RULE.advice(field, who_migrates(name, kubevirt)),
            Fact::Absent | Fact::Unknown => RULE.unknown(
                FactKind::KubeVirt,
                format!("{name:?} waits for a migration; whether one starts was not checked"),
            ),
        },
    }
}

fn who_migrates(name: &str, kubevirt: &KubeVirt) -> String {
    match kubevirt.auto_migration() {
        AutoMigration::On => format!("{name:?} is attached by a live migration, which KubeVirt starts by itself"),
        AutoMigration::Off(settings) if settings.contains(',') => {
            format!("{name:?} waits: no migration starts without LiveUpdate and LiveMigrate in KubeVirt")
        }
        AutoMigration::Off(setting) => {
            format!("{name:?} waits: no migration starts, as KubeVirt lacks {setting}")
        }
        AutoMigration::TooOld(_) => {
            format!("{name:?} waits until somebody creates a VirtualMachineInstanceMigration")
        }
        AutoMigration::Unknown => {
            format!("{name:?} waits for a migration; before KubeVirt 1.6 somebody has to create it")
        }
    }
}

/// Reason and message of a condition, in brackets.
fn quote(reason: &str, message: &str) -> String {
    match (reason, message) {
        ("", "") => String::new(),
        (reason, "") => format!(" ({reason})"),
        (reason, message) if message.chars().count() > MESSAGE_AT_MOST => format!(" ({reason})"),
        ("", message) => format!(" ({message:?})"),
        (reason, message) => format!(" ({reason}: {message:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::{Fact, attachment::InPlace, vmi::Migratable},
        rules::testing::{Expect, Hotplug},
        settings::Settings,
    };

    const BRIDGE: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const SRIOV: &str = r#"{"name": "dyniface1", "sriov": {}}"#;
    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]);

    fn not_migratable() -> Migratable {
        Migratable::No { reason: "DisksNotLiveMigratable".into(), message: "PVC data is not shared".into() }
    }

    #[test]
    fn in_place_is_the_way_of_a_bridge_nic_and_never_of_sriov() {
        Hotplug::of(BRIDGE).expect(&RULE, &Expect::Silent);
        Hotplug::of(r#"{"name": "dyniface1"}"#).in_place(InPlace::No).expect(&RULE, &Expect::Advice);
        Hotplug::of(SRIOV).expect(&RULE, &Expect::Advice);
        let immobile = || Hotplug::of(SRIOV).vmi(|vmi| vmi.migratable = not_migratable());
        immobile().expect(&RULE, &FAULT);
        immobile().kubevirt("v1.0.0", &["HotplugNICs"]).expect(&RULE, &Expect::Silent);
        Hotplug::of(BRIDGE).vmi(|vmi| vmi.migratable = not_migratable()).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_controller_on_some_nodes_is_told_with_its_figures() {
        let findings = Hotplug::of(BRIDGE).in_place(InPlace::SomeNodes { ready: 2, desired: 3 }).findings(&RULE);
        assert!(findings[0].what.contains("2 of 3 nodes"), "{findings:?}");
    }

    #[test]
    fn without_any_way_the_reason_is_quoted() {
        let case = Hotplug::of(BRIDGE).in_place(InPlace::No).vmi(|vmi| vmi.migratable = not_migratable());
        case.expect(&RULE, &FAULT);
        let what = &case.findings(&RULE)[0].what;
        assert!(what.contains("DisksNotLiveMigratable") && what.contains("PVC data"), "{what}");
        let one_node = Hotplug::of(BRIDGE).in_place(InPlace::No).facts(|facts| facts.nodes = Fact::Known(1));
        one_node.expect(&RULE, &FAULT);
        Hotplug::of(BRIDGE).facts(|facts| facts.nodes = Fact::Known(1)).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_migration_that_nobody_starts_is_told_with_the_missing_setting() {
        for (version, strategy, methods, part) in [
            ("v1.9.0", "", &["LiveMigrate"][..], "starts by itself"),
            ("v1.9.0", "LiveUpdate", &[], "workloadUpdateMethods LiveMigrate"),
            ("v1.9.0", "Stage", &["LiveMigrate"], "vmRolloutStrategy LiveUpdate"),
            ("v1.9.0", "Stage", &["Evict"], "LiveUpdate and LiveMigrate"),
            ("v1.5.0", "LiveUpdate", &["LiveMigrate"], "creates a VirtualMachineInstanceMigration"),
            ("", "LiveUpdate", &["LiveMigrate"], "before KubeVirt 1.6"),
        ] {
            let case = Hotplug::of(BRIDGE).in_place(InPlace::No).kubevirt(version, &[]).rollout(strategy, methods);
            case.expect(&RULE, &Expect::Advice);
            let findings = case.findings(&RULE);
            assert!(findings[0].what.contains(part), "{findings:?}");
        }
    }

    #[test]
    fn a_setting_overrules_what_the_cluster_shows() {
        for (word, shown, expect) in [
            ("yes", InPlace::No, Expect::Silent),
            ("no", InPlace::Yes, Expect::Advice),
            ("auto", InPlace::Yes, Expect::Silent),
        ] {
            let settings = Settings::parse(&format!("attachment: {{dynamicNetworks: {word}}}"), &[]).unwrap();
            Hotplug::of(BRIDGE).in_place(shown).settings(settings).expect(&RULE, &expect);
        }
    }

    #[test]
    fn unknown_facts_are_told_and_deny_nothing() {
        Hotplug::of(BRIDGE).facts(|facts| facts.attachment = Fact::Unknown).expect(&RULE, &Expect::Unchecked);
        Hotplug::of(BRIDGE).in_place(InPlace::No).kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        let untold = Hotplug::of(BRIDGE).in_place(InPlace::No);
        untold.vmi(|vmi| vmi.migratable = Migratable::Unknown).expect(&RULE, &Expect::Advice);
        Hotplug::of(BRIDGE).instance_unknown().expect(&RULE, &Expect::Unchecked);
    }

    #[test]
    fn a_stopped_vm_needs_no_way() {
        Hotplug::of(BRIDGE).in_place(InPlace::No).stopped().expect(&RULE, &Expect::Silent);
    }
}
