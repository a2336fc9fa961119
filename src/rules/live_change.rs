//! NP108.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::network::Network,
    change::{Change, Nic},
    facts::{
        Fact, FactKind, Vmi,
        kubevirt::{AutoMigration, KubeVirt},
        vmi::Migratable,
    },
    kubevirt::gates::Gate,
};

rule! {
    /// A NIC of a running VM is dropped or changed in a way that takes a restart.
    ///
    /// ## Why
    /// KubeVirt adds NICs to a running guest, takes those with `state: absent` and sets links up and down. Everything
    /// else waits for the next restart, and until then the VM shows RestartRequired, which keeps back further changes.
    /// Often nobody meant it: `interfaces` and `networks` are atomic lists, so an apply of an old manifest replaces them
    /// whole and drops a NIC that was plugged meanwhile. A changed `networkName` is applied by live migration since
    /// KubeVirt 1.8 (feature gate LiveUpdateNADRef), if the VM can migrate.
    ///
    /// A VM without any NIC in its template gets one on the pod network from KubeVirt, running or stopped, unless
    /// `autoattachPodInterface` is false. The first NIC that is written takes that one away at the next boot.
    ///
    /// ## Example
    /// A manifest without `dyniface1` is applied to a VM that runs with it:
    /// ```yaml
    /// interfaces:
    /// - name: defaultnetwork
    ///   masquerade: {}
    /// ```
    NP108, "live-change", Hotplug, Warn,
    field: "domain.devices.interfaces[]",
    fix: "unplug with state: absent, put back what was dropped, or restart the VM",
}

fn check(case: &Case) -> Vec<Finding> {
    let nics = &case.change.nics;
    // A VMI is changed by KubeVirt alone, which knows what it does.
    let is_virtual_machine = case.change.after.vmi.is_none();
    if !is_virtual_machine {
        return Vec::new();
    }
    if nics.removed.is_empty() && nics.modified.is_empty() {
        return judge_first(case.change).into_iter().collect();
    }
    case.if_live(&RULE, |vmi| {
        let stays = |nic: &&Nic| !nic.is_absent() && vmi.nic(nic.name).is_some_and(|nic| !nic.is_absent);
        let removed = nics.removed.iter().filter(stays).map(|nic| judge_removed(case.change, nic));
        let modified = nics.modified.iter().filter(|(_, nic)| vmi.has_nic(nic.name));
        removed.chain(modified.filter_map(|(old, new)| judge_modified(case, old, new, vmi))).collect()
    })
}

/// The NIC that KubeVirt gives to a guest without any goes when the first one is written.
fn judge_first(change: &Change) -> Option<Finding> {
    let after = change.after.guest;
    let had_default = change.before.is_some_and(|before| before.guest.gets_default_nic());
    let is_meant = after.domain.devices.autoattach_pod_interface == Some(false);
    if !had_default || is_meant || after.networks.iter().any(Network::is_default) {
        return None;
    }
    let nic = change.nics.added.iter().find(|nic| !nic.is_absent())?;
    let what =
        format!("with {:?} the pod NIC goes that KubeVirt gives to a VM without NICs: at the next boot", nic.name);
    let fix = "write that NIC too (networks: pod: {}), or autoattachPodInterface: false if it shall go";
    Some(RULE.fault(CauseType::Invalid, change.nic_field(nic), what).with_fix(fix.to_owned()))
}

fn judge_removed(change: &Change, nic: &Nic) -> Finding {
    let field = format!("{}.domain.devices.interfaces", change.after.path);
    let what =
        format!("{:?} was dropped without state: absent (by an old manifest?): it stays until a restart", nic.name);
    RULE.fault(CauseType::Invalid, field, what)
}

fn judge_modified(case: &Case, old: &Nic, new: &Nic, vmi: &Vmi) -> Option<Finding> {
    let name = new.name;
    let field = case.change.nic_field(new);
    if let Some(changed) = changed_field(old, new) {
        let what = format!("{changed} of {name:?} changes at the next restart: the VM is running");
        return Some(RULE.fault(CauseType::Invalid, field, what));
    }
    let network = new.network_name()?;
    let is_as_it_runs = vmi.nic(name).and_then(|nic| nic.network.as_deref()) == Some(network);
    if old.network_name() == Some(network) || is_as_it_runs {
        return None;
    }
    Some(judge_network(case, field, name, vmi))
}

fn judge_network(case: &Case, field: String, name: &str, vmi: &Vmi) -> Finding {
    let kubevirt = match &case.facts.kubevirt {
        Fact::Known(kubevirt) => kubevirt,
        Fact::Absent | Fact::Unknown => {
            return RULE.unknown(
                FactKind::KubeVirt,
                format!("how the network of {name:?} changes was not checked: KubeVirt is not known"),
            );
        }
    };
    if !kubevirt.has(Gate::LiveUpdateNadRef) {
        let what = format!("the network of {name:?} changes at the next restart: LiveUpdateNADRef is off");
        return RULE.fault(CauseType::Invalid, field, what);
    }
    match &vmi.migratable {
        Migratable::Yes => RULE.advice(field, by_migration(name, kubevirt)),
        Migratable::No { reason, .. } => {
            let what = format!("the network of {name:?} changes at the next restart: no live migration ({reason})");
            RULE.fault(CauseType::Invalid, field, what)
        }
        // KubeVirt takes a VM without the condition for one that cannot migrate.
        Migratable::Unknown => {
            let what = format!("the network of {name:?} changes at the next restart: not LiveMigratable yet");
            RULE.fault(CauseType::Invalid, field, what)
        }
    }
}

fn by_migration(name: &str, kubevirt: &KubeVirt) -> String {
    match kubevirt.auto_migration() {
        AutoMigration::Off(setting) if setting.contains(',') => {
            format!("the network of {name:?} waits for a migration; KubeVirt lacks LiveUpdate and LiveMigrate")
        }
        AutoMigration::Off(setting) => {
            format!("the network of {name:?} waits for a migration; KubeVirt lacks {setting}")
        }
        AutoMigration::On | AutoMigration::TooOld(_) | AutoMigration::Unknown => {
            format!("the network of {name:?} changes by a live migration of the VM")
        }
    }
}

/// The first field that differs and takes a restart; the state of a NIC and the name of its network do not.
fn changed_field(old: &Nic, new: &Nic) -> Option<&'static str> {
    let (one, other) = (old.interface?.value, new.interface?.value);
    let differs = [
        (one.bindings != other.bindings, "the binding"),
        (one.model_or_default() != other.model_or_default(), "model"),
        (one.mac_address != other.mac_address, "macAddress"),
        (one.pci_address != other.pci_address, "pciAddress"),
        (one.ports != other.ports, "ports"),
        (one.port_ranges != other.port_ranges, "portRanges"),
        (one.dhcp_options != other.dhcp_options, "dhcpOptions"),
        (one.boot_order != other.boot_order, "bootOrder"),
        (one.acpi_index != other.acpi_index, "acpiIndex"),
        (one.tag != other.tag, "tag"),
        (source_differs(old, new), "the network source"),
    ];
    differs.into_iter().find_map(|(differs, field)| differs.then_some(field))
}

/// Whether the networks differ in more than the name of the NetworkAttachmentDefinition.
fn source_differs(old: &Nic, new: &Nic) -> bool {
    let (Some(old), Some(new)) = (old.network, new.network) else { return false };
    let (old, new) = (old.value, new.value);
    let default = |network: &Network| network.multus.as_ref().map(|multus| multus.default);
    default(old) != default(new)
        || old.pod != new.pod
        || old.resource_claim != new.resource_claim
        || old.unknown_sources != new.unknown_sources
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::vmi::Migratable,
        rules::testing::{Expect, Hotplug, table, table_of_updates},
    };

    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]);
    const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
    const OTHER_NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "net-b"}}"#;
    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;

    #[test]
    fn a_dropped_nic_is_named() {
        let dropped = Hotplug::remove((NIC, NET));
        dropped.expect(&RULE, &Expect::Faults(&["spec.template.spec.domain.devices.interfaces"]));
        assert!(dropped.findings(&RULE)[0].what.contains("\"dyniface1\""));
    }

    #[test]
    fn a_nic_that_was_unplugged_before_may_be_dropped() {
        let absent = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
        Hotplug::remove((absent, NET)).expect(&RULE, &Expect::Silent);
        Hotplug::remove((NIC, NET)).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_changed_field_takes_a_restart_and_a_link_state_does_not() {
        for (fields, expect) in [
            (r#""bridge": {}, "state": "down""#, Expect::Silent),
            (r#""bridge": {}, "state": "up""#, Expect::Silent),
            (r#""bridge": {}, "state": "absent""#, Expect::Silent),
            (r#""bridge": {}, "model": "virtio""#, Expect::Silent),
            (r#""bridge": {}, "model": "e1000e""#, FAULT),
            (r#""bridge": {}, "macAddress": "02:00:00:00:00:01""#, FAULT),
            (r#""sriov": {}"#, FAULT),
        ] {
            let new = format!(r#"{{"name": "dyniface1", {fields}}}"#);
            Hotplug::modify((NIC, NET), (&new, NET)).expect(&RULE, &expect);
        }
        Hotplug::modify((NIC, NET), (NIC, r#"{"name": "dyniface1", "pod": {}}"#)).expect(&RULE, &FAULT);
    }

    #[test]
    fn a_changed_network_goes_by_migration_where_it_can() {
        let changed = || Hotplug::modify((NIC, NET), (NIC, OTHER_NET));
        changed().expect(&RULE, &Expect::Advice);
        changed().kubevirt("v1.5.0", &[]).expect(&RULE, &FAULT);
        changed().kubevirt("v1.7.0", &["LiveUpdateNADRef"]).expect(&RULE, &Expect::Advice);
        let no = Migratable::No { reason: "DisksNotLiveMigratable".into(), message: "".into() };
        changed().vmi(|vmi| vmi.migratable = no).expect(&RULE, &FAULT);
        changed().vmi(|vmi| vmi.migratable = Migratable::Unknown).expect(&RULE, &FAULT);
        changed().kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        let stage = changed().rollout("Stage", &[]).findings(&RULE);
        assert!(stage[0].what.contains("LiveMigrate"), "{stage:?}");
    }

    #[test]
    fn the_first_nic_takes_the_pod_nic_away() {
        const DYNIFACE1: &str = r#"{"networks": [{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}],
            "domain": {"devices": {"interfaces": [{"name": "dyniface1", "bridge": {}}]}}}"#;
        const WITH_POD: &str = r#"{"networks": [{"name": "default", "pod": {}}, {"name": "a", "multus": {"networkName": "n"}}],
            "domain": {"devices": {"interfaces": [{"name": "default", "bridge": {}}, {"name": "a", "bridge": {}}]}}}"#;
        const MEANT: &str = r#"{"networks": [{"name": "a", "multus": {"networkName": "n"}}], "domain": {"devices": {
            "autoattachPodInterface": false, "interfaces": [{"name": "a", "bridge": {}}]}}}"#;
        const FIELD: &str = "spec.template.spec.domain.devices.interfaces[0]";
        table_of_updates(
            &RULE,
            &[(DYNIFACE1, Expect::Faults(&[FIELD])), (WITH_POD, Expect::Silent), (MEANT, Expect::Silent)],
        );
        table(&RULE, &[(DYNIFACE1, Expect::Silent)]);
    }

    #[test]
    fn what_is_not_known_to_run_is_told() {
        Hotplug::remove((NIC, NET)).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
