//! NP108.

mod pool;

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
    /// A NIC of a running VM is removed or changed in a way that needs a restart.
    ///
    /// ## Why
    /// KubeVirt adds NICs to a running guest, unplugs those with `state: absent`, and sets links up and down. Every
    /// other change waits for the next restart; until then the VM has the condition RestartRequired, which blocks
    /// further changes. Such a change is often a mistake: `interfaces` and `networks` are atomic lists, so applying an
    /// outdated manifest replaces both lists and removes a NIC that was plugged in the meantime. A changed
    /// `networkName` is applied by live migration since KubeVirt 1.8 (feature gate LiveUpdateNADRef), if the VM can
    /// migrate.
    ///
    /// If a VM, running or stopped, has no NIC in its template, KubeVirt gives it one on the pod network, unless
    /// `autoattachPodInterface` is false. The first NIC in the template removes this default NIC at the next boot.
    ///
    /// An update of a VirtualMachinePool restarts its guests: KubeVirt deletes each guest whose VM differs from the template
    /// of the pool, at most `maxUnavailable` together (by default all), and its VM starts it anew. With `updateStrategy`
    /// `opportunistic` the pool changes its VMs only, and with `unmanaged` nothing.
    ///
    /// ## Example
    /// A manifest without `dyniface1` is applied to a VM that runs with this NIC:
    /// ```yaml
    /// interfaces:
    /// - name: defaultnetwork
    ///   masquerade: {}
    /// ```
    NP108, "live-change", Hotplug, Warn,
    field: "domain.devices.interfaces[]",
    fix: "unplug with state: absent, add the removed NIC again, or restart the VM",
}

fn check(case: &Case) -> Vec<Finding> {
    if let Some(pool) = case.change.after.pool {
        return pool::check(case, pool).into_iter().collect();
    }
    let nics = &case.change.nics;
    // Only KubeVirt changes a VMI, and it changes only what it can apply.
    let is_virtual_machine = case.change.after.vmi.is_none();
    if !is_virtual_machine {
        return Vec::new();
    }
    if nics.removed.is_empty() && nics.modified.is_empty() {
        return evaluate_first(case.change).into_iter().collect();
    }
    case.if_live(&RULE, |vmi| {
        let is_plugged = |nic: &&Nic| !nic.is_absent() && vmi.nic(nic.name).is_some_and(|nic| !nic.is_absent);
        let removed = nics.removed.iter().filter(is_plugged).map(|nic| evaluate_removed(case.change, nic));
        let modified = nics.modified.iter().filter(|(_, nic)| vmi.has_nic(nic.name));
        removed.chain(modified.filter_map(|(old, new)| evaluate_modified(case, old, new, vmi))).collect()
    })
}

/// Evaluates the first NIC of a template, which replaces the default NIC that KubeVirt gives to a guest without any.
fn evaluate_first(change: &Change) -> Option<Finding> {
    let after = change.after.guest;
    let had_default = change.before.is_some_and(|before| before.guest.gets_default_nic());
    let is_intended = after.domain.devices.autoattach_pod_interface == Some(false);
    if !had_default || is_intended || after.networks.iter().any(Network::is_default) {
        return None;
    }
    let nic = change.nics.added.iter().find(|nic| !nic.is_absent())?;
    let what = format!("adding {:?} removes the default pod-network NIC at the next boot", nic.name);
    let fix = "add that NIC too (a network with pod: {}), or set autoattachPodInterface: false to remove it";
    Some(RULE.fault(CauseType::Invalid, change.nic_field(nic), what).with_fix(fix.to_owned()))
}

fn evaluate_removed(change: &Change, nic: &Nic) -> Finding {
    let field = format!("{}.domain.devices.interfaces", change.after.path);
    let what =
        format!("{:?} was removed without state: absent (outdated manifest?) and stays until a restart", nic.name);
    RULE.fault(CauseType::Invalid, field, what)
}

fn evaluate_modified(case: &Case, old: &Nic, new: &Nic, vmi: &Vmi) -> Option<Finding> {
    let name = new.name;
    let field = case.change.nic_field(new);
    if let Some(changed) = changed_field(old, new) {
        let what = format!("{changed} of {name:?} changes at the next restart: the VM is running");
        return Some(RULE.fault(CauseType::Invalid, field, what));
    }
    let network = new.network_name()?;
    let is_current = vmi.nic(name).and_then(|nic| nic.network.as_deref()) == Some(network);
    if old.network_name() == Some(network) || is_current {
        return None;
    }
    Some(evaluate_network(case, field, name, vmi))
}

fn evaluate_network(case: &Case, field: String, name: &str, vmi: &Vmi) -> Finding {
    let kubevirt = match &case.facts.kubevirt {
        Fact::Known(kubevirt) => kubevirt,
        Fact::Absent | Fact::Unknown => {
            return RULE.unknown(
                FactKind::KubeVirt,
                format!("how the network of {name:?} changes was not checked: the KubeVirt resource is not known"),
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
        // KubeVirt treats a VM without the condition as one that cannot migrate.
        Migratable::Unknown => {
            let what = format!("the network of {name:?} changes at the next restart: not LiveMigratable yet");
            RULE.fault(CauseType::Invalid, field, what)
        }
    }
}

fn by_migration(name: &str, kubevirt: &KubeVirt) -> String {
    match kubevirt.auto_migration() {
        AutoMigration::Off(setting) if setting.contains(',') => {
            format!("the network of {name:?} waits for a migration: KubeVirt lacks LiveUpdate and LiveMigrate")
        }
        AutoMigration::Off(setting) => {
            format!("the network of {name:?} waits for a migration: KubeVirt lacks {setting}")
        }
        AutoMigration::On | AutoMigration::TooOld(_) | AutoMigration::Unknown => {
            format!("the network of {name:?} is changed by a live migration of the VM")
        }
    }
}

/// Returns the first changed field that needs a restart. The state of a NIC and the name of its network do not.
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

/// Returns whether the networks differ in more than the name of the NetworkAttachmentDefinition.
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
    fn a_removed_nic_is_named() {
        let removed = Hotplug::remove((NIC, NET));
        removed.expect(&RULE, &Expect::Faults(&["spec.template.spec.domain.devices.interfaces"]));
        assert!(removed.findings(&RULE)[0].what.contains("\"dyniface1\""));
    }

    #[test]
    fn a_nic_that_was_unplugged_before_may_be_removed() {
        let absent = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
        Hotplug::remove((absent, NET)).expect(&RULE, &Expect::Silent);
        Hotplug::remove((NIC, NET)).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_changed_field_needs_a_restart_and_a_link_state_does_not() {
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
    fn a_network_is_changed_by_migration_if_the_vm_can_migrate() {
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
    fn the_first_nic_removes_the_default_nic() {
        const DYNIFACE1: &str = r#"{"networks": [{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}],
            "domain": {"devices": {"interfaces": [{"name": "dyniface1", "bridge": {}}]}}}"#;
        const WITH_POD: &str = r#"{"networks": [{"name": "default", "pod": {}}, {"name": "a", "multus": {"networkName": "n"}}],
            "domain": {"devices": {"interfaces": [{"name": "default", "bridge": {}}, {"name": "a", "bridge": {}}]}}}"#;
        const INTENDED: &str = r#"{"networks": [{"name": "a", "multus": {"networkName": "n"}}], "domain": {"devices": {
            "autoattachPodInterface": false, "interfaces": [{"name": "a", "bridge": {}}]}}}"#;
        const FIELD: &str = "spec.template.spec.domain.devices.interfaces[0]";
        table_of_updates(
            &RULE,
            &[(DYNIFACE1, Expect::Faults(&[FIELD])), (WITH_POD, Expect::Silent), (INTENDED, Expect::Silent)],
        );
        table(&RULE, &[(DYNIFACE1, Expect::Silent)]);
    }

    #[test]
    fn an_unknown_vmi_is_reported() {
        Hotplug::remove((NIC, NET)).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
