//! Disks that are hotplugged onto a port which `nicplug.io/reserve-ports` keeps for NICs.

use super::{RULE, wanted_ports};
use crate::{
    api::{
        guest::{GuestSpec, Volume},
        quote::quote,
    },
    facts::Fact,
    kubevirt::gates::Gate,
    pci::{self, HotplugCapacity},
    rules::{Case, Finding, pci_slots::Ports},
};

/// Returns advice about virtio disks that the change adds to a running guest. Each takes a port, and none of them waits
/// for a restart, so that a NIC for which the VM reserves a port may find it taken.
pub(super) fn check(case: &Case) -> Option<Finding> {
    if !case.change.changes_disks() {
        return None;
    }
    let (before, after) = (case.change.before?, case.change.after);
    let wanted = wanted_ports(case, &after);
    let Fact::Known(vmi) = case.live() else { return None };
    if wanted == 0 || !is_copied(case) {
        return None;
    }
    let added = added_disks(before.guest, after.guest);
    let first = added.first()?;
    let ports = Ports::of(case, vmi).ok()??;
    if !matches!(ports.boot.capacity, HotplugCapacity::Port(_)) {
        return None;
    }
    // NICs that were plugged since the boot have taken their share of the reservation.
    let kept = wanted.saturating_sub(ports.nics.saturating_sub(ports.boot.nics));
    let left = ports.left.saturating_sub(added.len() as u64);
    if left >= kept {
        return None;
    }
    let more = match added.len() {
        1 => String::new(),
        count => format!(" (of {count})"),
    };
    let what = format!(
        "disk {}{more} takes a PCI port that nicplug.io/reserve-ports keeps: {left} of {kept} left",
        quote(first)
    );
    let fix = "use bus scsi for a hotplugged disk, or reserve more ports and restart the VM".to_owned();
    Some(RULE.advice(format!("{}.domain.devices.disks", after.path), what).with_fix(fix))
}

/// Whether the guest gets the disks at once. KubeVirt copies those of a VM's template under
/// `DeclarativeHotplugVolumes`, and not under `HotplugVolumes` (`handleDeclarativeVolumeHotplug` in
/// `pkg/virt-controller/watch/vm/vm.go` of v1.9.0), where virt-controller itself writes the template and the guest.
fn is_copied(case: &Case) -> bool {
    let is_declarative = case.has(Gate::DeclarativeHotplugVolumes) == Some(true);
    let is_imperative = case.has(Gate::HotplugVolumes) == Some(true);
    case.change.after.vmi.is_some() || case.facts.by_controller || (is_declarative && !is_imperative)
}

/// Returns the names of the virtio disks of hotpluggable volumes that only the new guest has.
fn added_disks(before: &GuestSpec, after: &GuestSpec) -> Vec<String> {
    let (Ok(before), Ok(disks), Ok(volumes)) =
        (before.domain.devices.disks.read(), pci::virtio_disks(after), after.volumes.read())
    else {
        return Vec::new();
    };
    let is_hotpluggable =
        |name: &str| volumes.iter().find(|volume| volume.name.as_str() == name).is_some_and(Volume::is_hotpluggable);
    let is_new = |name: &String| before.iter().all(|disk| disk.name.as_str() != name.as_str()) && is_hotpluggable(name);
    disks.into_iter().filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{Facts, KubeVirt, Vmi},
        kubevirt::gates::GateLists,
        pci::{NoRegistry, PciOptions},
        rules::{
            FindingKind,
            testing::{findings_of_update_with, findings_of_vmi_update_with},
        },
    };
    use std::sync::Arc;

    /// Returns a guest of 1Gi with one NIC and these disks, each with a volume.
    fn guest(disks: &[(&str, &str, bool)]) -> String {
        let disk = |(name, bus, _): &(&str, &str, bool)| format!(r#"{{"name": "{name}", "disk": {{"bus": "{bus}"}}}}"#);
        let volume = |(name, _, hotpluggable): &(&str, &str, bool)| {
            format!(r#"{{"name": "{name}", "dataVolume": {{"name": "{name}", "hotpluggable": {hotpluggable}}}}}"#)
        };
        let join = |parts: Vec<String>| parts.join(",");
        format!(
            r#"{{"domain": {{"devices": {{"interfaces": [{{"name": "a", "masquerade": {{}}}}], "disks": [{}]}}}},
                "networks": [{{"name": "a", "pod": {{}}}}], "volumes": [{}]}}"#,
            join(disks.iter().map(disk).collect()),
            join(disks.iter().map(volume).collect())
        )
    }

    fn facts(gates: &[&str]) -> Facts {
        let text = format!(r#"{{"spec": {}, "status": {{"phase": "Running"}}}}"#, guest(&[("root", "virtio", false)]));
        let mut vmi = Vmi::from(&serde_json::from_str(&text).unwrap());
        vmi.boot.stamp = crate::facts::boot::Stamp::Valid("v1:port=4,nics=1,disks=1".parse().unwrap());
        let enabled = gates.iter().map(|&gate| gate.to_owned()).collect();
        let gates = GateLists { enabled, disabled: Vec::new() };
        let kubevirt = KubeVirt { version: "v1.9.0".parse().ok(), gates, ..KubeVirt::default() };
        Facts { kubevirt: Fact::Known(Arc::new(kubevirt)), vmi: Fact::Known(Arc::new(vmi)), ..Facts::default() }
    }

    /// Returns what the rule says of disks that join a guest that reserves this number of ports.
    fn says(reserved: u64, disks: &[(&str, &str, bool)], facts: &Facts, is_vm: bool) -> Vec<String> {
        let annotations = format!(r#"{{"nicplug.io/reserve-ports": "{reserved}"}}"#);
        let mut all = vec![("root", "virtio", false)];
        let object = |disks: &[(&str, &str, bool)]| {
            let spec = if is_vm { format!(r#"{{"template": {{"spec": {}}}}}"#, guest(disks)) } else { guest(disks) };
            format!(r#"{{"metadata": {{"annotations": {annotations}}}, "spec": {spec}}}"#)
        };
        let old = object(&all);
        all.extend_from_slice(disks);
        let new = object(&all);
        let of = if is_vm { findings_of_update_with } else { findings_of_vmi_update_with };
        let findings = of(&RULE, &old, &new, facts);
        assert!(findings.iter().all(|finding| finding.kind == FindingKind::Advice), "{findings:?}");
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_hotplugged_virtio_disk_that_takes_a_reserved_port_is_reported() {
        let disk = ("data", "virtio", true);
        let other = ("more", "virtio", true);
        let taken = "disk \"data\" takes a PCI port that nicplug.io/reserve-ports keeps: 3 of 4 left";
        for is_vm in [true, false] {
            assert_eq!(says(4, &[disk], &facts(&[]), is_vm), [taken]);
            assert!(says(3, &[disk], &facts(&[]), is_vm).is_empty(), "four ports are free");
            let two = says(3, &[disk, other], &facts(&[]), is_vm);
            assert!(two[0].starts_with("disk \"data\" (of 2) takes") && two[0].ends_with("2 of 3 left"), "{two:?}");
            assert!(says(4, &[("data", "scsi", true)], &facts(&[]), is_vm).is_empty());
            assert!(says(4, &[("data", "virtio", false)], &facts(&[]), is_vm).is_empty(), "it waits for a restart");
            assert!(says(0, &[disk], &facts(&[]), is_vm).is_empty());
        }
    }

    #[test]
    fn a_disk_that_kubevirt_does_not_copy_or_of_a_stopped_vm_takes_no_port_now() {
        let disk = [("data", "virtio", true)];
        assert!(says(4, &disk, &facts(&["HotplugVolumes"]), true).is_empty());
        assert_eq!(says(4, &disk, &Facts { by_controller: true, ..facts(&["HotplugVolumes"]) }, true).len(), 1);
        assert!(says(4, &disk, &Facts { vmi: Fact::Absent, ..facts(&[]) }, true).is_empty());
    }

    #[test]
    fn a_nic_that_was_plugged_has_used_its_part_of_the_reservation() {
        let mut facts = facts(&[]);
        if let Fact::Known(vmi) = &mut facts.vmi {
            let vmi = Arc::make_mut(vmi);
            let two = r#"{"domain": {"devices": {"interfaces": [{"name": "a", "masquerade": {}}, {"name": "b", "bridge": {}}],
                "disks": [{"name": "root", "disk": {"bus": "virtio"}}]}}}"#;
            let spec: GuestSpec = serde_json::from_str(two).unwrap();
            vmi.nics = crate::facts::nic::GuestNic::all(&spec).into();
            vmi.boot.current_devices =
                Some(Arc::new(pci::count_devices(&spec, &PciOptions::default(), &NoRegistry).unwrap()));
        }
        // Of three reserved ports one has a NIC. Three of four ports are free, so two are left with the disk.
        assert!(says(3, &[("data", "virtio", true)], &facts, true).is_empty());
        assert_eq!(says(4, &[("data", "virtio", true)], &facts, true).len(), 1);
    }
}
