//! The VMs and VMIs of a cluster. There may be a hundred thousand, so equal parts of them are stored once.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    interner::Interner,
    listing::{AnyListing, Listing},
    mac_index::{Holder, MacIndex, macs_on_networks},
    network_index::{NetworkIndex, OF_MULTUS, networks},
};
use crate::{
    api::{mac::Mac, network::NadRef, vmi::Phase},
    facts::{
        Fact, NetworkUsers, Placement, Vm, Vmi,
        nic::{GuestNic, HotplugMethod},
        vmi::StatusNic,
    },
    k8s::Key,
    pci::Devices,
};

/// How many guests of a network are named.
const NAMED_USERS: usize = 8;

/// The VMs and VMIs.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    vmis: Listing<Arc<Vmi>>,
    vms: Listing<Arc<Vm>>,
    macs: MacIndex,
    /// The networks of the VMIs.
    networks: NetworkIndex,
    /// Lists of NICs: a VM and its VMI nearly always have the same.
    nics: Interner<Vec<GuestNic>>,
    seen: Interner<Vec<StatusNic>>,
    devices: Interner<Devices>,
    placements: Interner<Placement>,
    /// The names of nodes.
    nodes: Interner<str>,
    /// The VMs with a NIC that their running guest does not have yet.
    unattached: BTreeSet<Key>,
}

impl Guests {
    pub(crate) fn vmi(&self, namespace: &str, name: &str) -> Fact<&Arc<Vmi>> {
        self.vmis.get(namespace, name)
    }

    pub(crate) fn vm(&self, namespace: &str, name: &str) -> Fact<&Arc<Vm>> {
        self.vms.get(namespace, name)
    }

    /// Whether a VMI is stored with the same facts.
    pub(crate) fn contains_vmi(&self, namespace: &str, name: &str, vmi: &Vmi) -> bool {
        self.vmi(namespace, name).known().is_some_and(|stored| ***stored == *vmi)
    }

    /// Whether a VM is stored with the same facts.
    pub(crate) fn contains_vm(&self, namespace: &str, name: &str, vm: &Vm) -> bool {
        self.vm(namespace, name).known().is_some_and(|stored| ***stored == *vm)
    }

    /// Inserts or replaces a VMI.
    pub(crate) fn upsert_vmi(&mut self, namespace: &str, name: &str, mut vmi: Vmi) {
        self.nics.intern(&mut vmi.nics);
        self.seen.intern(&mut vmi.status_nics);
        if let Some(devices) = &mut vmi.boot.current_devices {
            self.devices.intern(devices);
        }
        if let Some(placement) = &mut vmi.placement {
            self.placements.intern(placement);
        }
        self.nodes.intern(&mut vmi.node);
        if let Fact::Known(vm) = self.vm(namespace, name) {
            share(&vm.macs, &mut vmi.macs);
        }
        self.remove_vmi(namespace, name);
        let macs = macs_on_networks(&vmi.nics, &vmi.macs, namespace);
        self.macs.add(&full_name(namespace, name), Holder::Vmi, macs);
        self.networks.add(&vmi.nics, namespace);
        self.vmis.insert(namespace, name, Arc::new(vmi));
        self.note_unattached(namespace, name);
    }

    /// Inserts or replaces a VM.
    pub(crate) fn upsert_vm(&mut self, namespace: &str, name: &str, mut vm: Vm) {
        self.nics.intern(&mut vm.nics);
        if let Fact::Known(vmi) = self.vmi(namespace, name) {
            share(&vmi.macs, &mut vm.macs);
        }
        self.remove_vm(namespace, name);
        let macs = macs_on_networks(&vm.nics, &vm.macs, namespace);
        self.macs.add(&full_name(namespace, name), Holder::Vm, macs);
        self.vms.insert(namespace, name, Arc::new(vm));
        self.note_unattached(namespace, name);
    }

    pub(crate) fn remove_vmi(&mut self, namespace: &str, name: &str) {
        let Some(vmi) = self.vmis.take(namespace, name) else { return };
        self.unattached.remove(&(namespace.to_owned(), name.to_owned()));
        let macs = macs_on_networks(&vmi.nics, &vmi.macs, namespace);
        self.macs.remove(&full_name(namespace, name), Holder::Vmi, macs);
        self.networks.remove(&vmi.nics, namespace);
        self.nics.release(&vmi.nics);
        self.seen.release(&vmi.status_nics);
        if let Some(devices) = &vmi.boot.current_devices {
            self.devices.release(devices);
        }
        if let Some(placement) = &vmi.placement {
            self.placements.release(placement);
        }
        self.nodes.release(&vmi.node);
    }

    pub(crate) fn remove_vm(&mut self, namespace: &str, name: &str) {
        let Some(vm) = self.vms.take(namespace, name) else { return };
        self.unattached.remove(&(namespace.to_owned(), name.to_owned()));
        let macs = macs_on_networks(&vm.nics, &vm.macs, namespace);
        self.macs.remove(&full_name(namespace, name), Holder::Vm, macs);
        self.nics.release(&vm.nics);
    }

    pub(crate) fn vmis(&self) -> &dyn AnyListing {
        &self.vmis
    }

    pub(crate) fn vmis_mut(&mut self) -> &mut dyn AnyListing {
        &mut self.vmis
    }

    pub(crate) fn vms(&self) -> &dyn AnyListing {
        &self.vms
    }

    pub(crate) fn vms_mut(&mut self) -> &mut dyn AnyListing {
        &mut self.vms
    }

    /// Returns the guests by their MAC addresses.
    pub(crate) fn macs(&self) -> &MacIndex {
        &self.macs
    }

    #[cfg(test)]
    pub(crate) fn other_user(&self, mac: Mac, network: &str, own: &str) -> Option<&str> {
        self.macs.other_user(mac, network, own)
    }

    /// Returns the running guests that use a network, which default networks of this namespace of Multus name too.
    pub(crate) fn users_of_network(&self, network: NadRef, multus_namespace: &str) -> NetworkUsers {
        let of_multus = NadRef { namespace: OF_MULTUS, ..network };
        let is_of_multus = network.namespace == multus_namespace;
        let is_it = |nad: NadRef| nad == network || is_of_multus && nad == of_multus;
        let mut namespaces: Vec<&str> = self.networks.namespaces(network).collect();
        if is_of_multus {
            namespaces.extend(self.networks.namespaces(of_multus));
        }
        namespaces.sort_unstable_by_key(|&namespace| (namespace != network.namespace, namespace));
        namespaces.dedup();
        let mut users = NetworkUsers::default();
        for namespace in namespaces {
            let uses = |vmi: &Vmi| vmi.is_live() && networks(&vmi.nics, namespace).any(&is_it);
            let mut names: Vec<&str> =
                self.vmis.iter_in(namespace).filter(|(_, vmi)| uses(vmi)).map(|(name, _)| name).collect();
            names.sort_unstable();
            users.count += names.len();
            let missing = NAMED_USERS - users.guests.len();
            users.guests.extend(names.into_iter().take(missing).map(|name| full_name(namespace, name)));
        }
        users
    }

    /// Notes a VM whose running guest lacks a NIC of the template. The removal of the VM or VMI before has removed the
    /// note.
    fn note_unattached(&mut self, namespace: &str, name: &str) {
        let (Fact::Known(vm), Fact::Known(vmi)) = (self.vm(namespace, name), self.vmi(namespace, name)) else { return };
        if runs(vmi) && lacking(vm, vmi).next().is_some() {
            self.unattached.insert((namespace.to_owned(), name.to_owned()));
        }
    }

    /// Returns the VMs with a NIC that their running guest does not have yet, and the names of those NICs.
    pub(crate) fn unattached(&self) -> impl Iterator<Item = (&Key, Vec<&str>)> {
        self.unattached.iter().filter_map(|key| {
            let (namespace, name) = key;
            let (vm, vmi) = (self.vm(namespace, name).known().copied()?, self.vmi(namespace, name).known().copied()?);
            Some((key, lacking(vm, vmi).map(|nic| &*nic.name).collect()))
        })
    }

    /// Returns where a NIC of a VM is.
    pub(crate) fn attachment_of(&self, namespace: &str, name: &str, nic: &str) -> NicAttachment {
        if !self.is_synced() {
            return NicAttachment::Unknown;
        }
        let Fact::Known(vm) = self.vm(namespace, name) else { return NicAttachment::Gone };
        let Some(nic) = vm.nics.iter().find(|other| &*other.name == nic && !other.is_absent) else {
            return NicAttachment::Gone;
        };
        match self.vmi(namespace, name) {
            Fact::Known(vmi) if runs(vmi) && has_attached(vmi, nic) => NicAttachment::Attached,
            Fact::Known(vmi) if runs(vmi) => NicAttachment::Lacking,
            Fact::Known(_) | Fact::Absent => NicAttachment::NotRunning,
            Fact::Unknown => NicAttachment::Unknown,
        }
    }

    /// Whether all VMs and VMIs are known.
    pub(crate) fn is_synced(&self) -> bool {
        self.vms.is_synced() && self.vmis.is_synced()
    }

    /// Whether all VMIs are known.
    pub(crate) fn knows_all_vmis(&self) -> bool {
        self.vmis.is_synced()
    }

    /// Whether the store of guests, with its interners, is empty.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let interned =
            self.nics.len() + self.seen.len() + self.devices.len() + self.placements.len() + self.nodes.len();
        interned + self.unattached.len() + self.vmis.count() + self.vms.count() == 0
            && self.macs.is_empty()
            && self.networks.is_empty()
    }
}

/// Where a NIC of a template is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NicAttachment {
    /// The running guest has it.
    Attached,
    /// The VM, or the NIC in its template, does not exist any more.
    Gone,
    /// The running guest lacks it.
    Lacking,
    /// The guest does not run.
    NotRunning,
    /// Not all VMs and VMIs are known.
    Unknown,
}

fn runs(vmi: &Vmi) -> bool {
    vmi.phase == Phase::Running && !vmi.is_deleting
}

/// Returns the NICs of a template that a running guest lacks.
fn lacking<'g>(vm: &'g Vm, vmi: &'g Vmi) -> impl Iterator<Item = &'g GuestNic> {
    vm.nics.iter().filter(|nic| !nic.is_absent && !has_attached(vmi, nic))
}

/// Whether a running guest has a NIC. KubeVirt hotplugs no NIC of some bindings, so the guest booted with those that
/// its spec has.
fn has_attached(vmi: &Vmi, nic: &GuestNic) -> bool {
    vmi.status_nic(&nic.name).is_some_and(|seen| seen.is_in_domain)
        || vmi.nic(&nic.name).is_some_and(|own| own.hotplug == HotplugMethod::None)
}

/// Replaces the MAC addresses of an object by those of the other object of its guest if they are equal, as nearly always.
fn share(others: &Arc<[Option<Mac>]>, own: &mut Arc<[Option<Mac>]>) {
    if others == own {
        *own = Arc::clone(others);
    }
}

fn full_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::api::{vm::VirtualMachine, vmi::VirtualMachineInstance};

    /// Returns the spec of a guest with NICs of these names; each has a different MAC address.
    fn spec(nics: &[u8]) -> String {
        let interface =
            |nic: &u8| format!(r#"{{"name": "n{nic}", "bridge": {{}}, "macAddress": "02:00:00:00:00:{nic:02x}"}}"#);
        let network = |nic: &u8| format!(r#"{{"name": "n{nic}", "multus": {{"networkName": "net{nic}"}}}}"#);
        let [interfaces, networks] = [
            nics.iter().map(interface).collect::<Vec<_>>().join(","),
            nics.iter().map(network).collect::<Vec<_>>().join(","),
        ];
        format!(r#"{{"domain": {{"devices": {{"interfaces": [{interfaces}]}}}}, "networks": [{networks}]}}"#)
    }

    fn upsert(guests: &mut Guests, name: &str, holder: Holder, nics: &[u8]) {
        let spec = spec(nics);
        match holder {
            Holder::Vmi => {
                let seen = nics.iter().map(|nic| format!(r#"{{"name": "n{nic}"}}"#)).collect::<Vec<_>>().join(",");
                let text = format!(r#"{{"spec": {spec}, "status": {{"interfaces": [{seen}]}}}}"#);
                let vmi: VirtualMachineInstance = serde_json::from_str(&text).unwrap();
                guests.upsert_vmi("demo", name, Vmi::from(&vmi));
            }
            Holder::Vm => {
                let text = format!(r#"{{"spec": {{"template": {{"spec": {spec}}}}}}}"#);
                let vm: VirtualMachine = serde_json::from_str(&text).unwrap();
                guests.upsert_vm("demo", name, Vm::from(&vm));
            }
        }
    }

    fn remove(guests: &mut Guests, name: &str, holder: Holder) {
        match holder {
            Holder::Vmi => guests.remove_vmi("demo", name),
            Holder::Vm => guests.remove_vm("demo", name),
        }
    }

    #[test]
    fn equal_guests_share_their_nics_and_devices() {
        let mut guests = Guests::default();
        for name in ["a", "b"] {
            upsert(&mut guests, name, Holder::Vm, &[1, 2]);
            upsert(&mut guests, name, Holder::Vmi, &[1, 2]);
        }
        let [a, b] = ["a", "b"].map(|name| Arc::clone(guests.vmi("demo", name).known().unwrap()));
        let vm = Arc::clone(guests.vm("demo", "a").known().unwrap());
        assert!(
            Arc::ptr_eq(&a.nics, &b.nics)
                && Arc::ptr_eq(&a.nics, &vm.nics)
                && Arc::ptr_eq(&a.status_nics, &b.status_nics)
        );
        assert!(Arc::ptr_eq(a.boot.current_devices.as_ref().unwrap(), b.boot.current_devices.as_ref().unwrap()));
        let mac = "02:00:00:00:00:01".parse().unwrap();
        assert_eq!(guests.other_user(mac, "demo/net1", "demo/a"), Some("demo/b"));
    }

    #[test]
    fn the_running_guests_of_a_network_are_counted_and_the_first_ones_named() {
        let vmi = |network: &str, more: &str| {
            let text = format!(
                r#"{{"metadata": {{{more}}}, "spec": {{"domain": {{"devices": {{"interfaces": [
                    {{"name": "a", "bridge": {{}}}}]}}}}, "networks": [{{"name": "a", "multus": {network}}}]}}}}"#
            );
            Vmi::from(&serde_json::from_str(&text).unwrap())
        };
        let mut guests = Guests::default();
        for number in 0..12 {
            guests.upsert_vmi("demo", &format!("vm-{number:02}"), vmi(r#"{"networkName": "blue"}"#, ""));
        }
        guests.upsert_vmi("demo", "vm-00", vmi(r#"{"networkName": "blue"}"#, r#""deletionTimestamp": "2026-11-01""#));
        guests.upsert_vmi("a-first", "vm", vmi(r#"{"networkName": "demo/blue"}"#, ""));
        guests.upsert_vmi("z-last", "vm", vmi(r#"{"networkName": "demo/red"}"#, ""));
        guests.upsert_vmi("z-last", "tenant", vmi(r#"{"networkName": "red", "default": true}"#, ""));
        let users =
            |name, multus_namespace| guests.users_of_network(NadRef { namespace: "demo", name }, multus_namespace);
        let blue = users("blue", "kube-system");
        assert_eq!((blue.count, blue.guests.len()), (12, NAMED_USERS));
        assert_eq!((&*blue.guests[0], &*blue.guests[7]), ("demo/vm-01", "demo/vm-08"), "one is being deleted");
        assert_eq!(users("red", "kube-system").guests, ["z-last/vm"]);
        assert_eq!(users("red", "demo").guests, ["z-last/tenant", "z-last/vm"], "a default network is Multus' own");
        assert_eq!(users("green", "demo"), NetworkUsers::default());
    }

    proptest! {
        #[test]
        fn removed_and_replaced_guests_leave_nothing_behind(
            steps in prop::collection::vec(
                (0_u8..3, any::<bool>(), prop::option::of(prop::collection::vec(0_u8..3, 0..3))),
                0..24,
            )
        ) {
            let mut guests = Guests::default();
            let mut model = BTreeMap::<(u8, bool), Vec<u8>>::new();
            let holder = |is_vm| if is_vm { Holder::Vm } else { Holder::Vmi };
            for (name, is_vm, nics) in steps {
                if let Some(nics) = nics {
                    upsert(&mut guests, &name.to_string(), holder(is_vm), &nics);
                    model.insert((name, is_vm), nics);
                } else {
                    remove(&mut guests, &name.to_string(), holder(is_vm));
                    model.remove(&(name, is_vm));
                }
            }
            let distinct: BTreeSet<_> = model.values().collect();
            let distinct_of_vmis: BTreeSet<_> =
                model.iter().filter(|((_, is_vm), _)| !is_vm).map(|(_, nics)| nics).collect();
            prop_assert_eq!(guests.vmis.count() + guests.vms.count(), model.len());
            prop_assert_eq!((guests.nics.len(), guests.seen.len()), (distinct.len(), distinct_of_vmis.len()));
            for (name, is_vm) in model.into_keys() {
                remove(&mut guests, &name.to_string(), holder(is_vm));
            }
            prop_assert!(guests.is_empty());
        }
    }

    #[test]
    fn a_nic_that_the_running_guest_lacks_is_found_until_the_guest_has_it() {
        let vm = |nics: &str| format!(r#"{{"spec": {{"template": {{"spec": {nics}}}}}}}"#);
        let vmi = |phase: &str, nics: &str, seen: &str| {
            format!(r#"{{"spec": {nics}, "status": {{"phase": "{phase}", "interfaces": [{seen}]}}}}"#)
        };
        let in_domain = |nic: u8| format!(r#"{{"name": "n{nic}", "infoSource": "domain"}}"#);
        let [one, two] = [spec(&[1]), spec(&[1, 2])];
        let masquerade = two.replace(r#""n2", "bridge""#, r#""n2", "masquerade""#);
        let absent = two.replace(r#""n2", "bridge": {}"#, r#""n2", "state": "absent", "bridge": {}"#);
        let in_pod = format!(r#"{}, {{"name": "n2", "infoSource": "multus-status"}}"#, in_domain(1));
        let both = format!("{}, {}", in_domain(1), in_domain(2));
        for (template, guest, lacking, attachment) in [
            (&two, Some(vmi("Running", &one, &in_domain(1))), true, NicAttachment::Lacking),
            (&two, Some(vmi("Running", &two, &in_pod)), true, NicAttachment::Lacking),
            (&two, Some(vmi("Running", &two, &both)), false, NicAttachment::Attached),
            (&two, Some(vmi("Scheduled", &two, "")), false, NicAttachment::NotRunning),
            (&two, None, false, NicAttachment::NotRunning),
            (&masquerade, Some(vmi("Running", &masquerade, &in_domain(1))), false, NicAttachment::Attached),
            (&masquerade, Some(vmi("Running", &one, &in_domain(1))), true, NicAttachment::Lacking),
            (&absent, Some(vmi("Running", &one, &in_domain(1))), false, NicAttachment::Gone),
            (&one, Some(vmi("Running", &two, &both)), false, NicAttachment::Gone),
        ] {
            let mut guests = Guests::default();
            let text = vm(template);
            guests.upsert_vm("demo", "vm", Vm::from(&serde_json::from_str::<VirtualMachine>(&text).unwrap()));
            assert_eq!(guests.attachment_of("demo", "vm", "n2"), NicAttachment::Unknown);
            if let Some(text) = &guest {
                let vmi: VirtualMachineInstance = serde_json::from_str(text).unwrap();
                guests.upsert_vmi("demo", "vm", Vmi::from(&vmi));
            }
            guests.vms_mut().set_synced(true);
            guests.vmis_mut().set_synced(true);
            let found: Vec<Vec<&str>> = guests.unattached().map(|(_, nics)| nics).collect();
            assert_eq!(found, if lacking { vec![vec!["n2"]] } else { Vec::new() }, "{template} {guest:?}");
            assert_eq!(guests.attachment_of("demo", "vm", "n2"), attachment, "{template} {guest:?}");
            guests.remove_vm("demo", "vm");
            guests.remove_vmi("demo", "vm");
            assert!(guests.is_empty(), "{guest:?}");
        }
    }
}
