//! The VMs and VMIs of a cluster, of which there may be a hundred thousand: what they have alike is kept once.

use std::sync::Arc;

use super::{
    interner::Interner,
    listing::{AnyListing, Listing},
    mac_index::{Holder, MacIndex, Macs, Place, places},
};
use crate::{
    api::mac::Mac,
    facts::{Fact, Vm, Vmi, nic::GuestNic, vmi::StatusNic},
    pci::Devices,
};

/// The guests, by VM and by VMI.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    vmis: Listing<Held<Vmi>>,
    vms: Listing<Held<Vm>>,
    macs: MacIndex,
    /// Lists of NICs: a VM and its VMI have nearly always the same.
    nics: Interner<Vec<GuestNic>>,
    seen: Interner<Vec<StatusNic>>,
    surveys: Interner<Devices>,
}

/// An object as it is kept. Its addresses stand beside its NICs, and not in them: they differ where all else is alike.
#[derive(Debug)]
struct Held<T> {
    facts: Arc<T>,
    macs: Macs,
}

impl<T: PartialEq> Held<T> {
    fn is(&self, facts: &T, macs: &Macs) -> bool {
        *self.facts == *facts && self.macs == *macs
    }
}

impl Held<Vmi> {
    fn places<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = Place<'a>> {
        places(&self.facts.nics, &self.macs, namespace)
    }
}

impl Held<Vm> {
    fn places<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = Place<'a>> {
        places(&self.facts.nics, &self.macs, namespace)
    }
}

impl Guests {
    pub(crate) fn vmi(&self, namespace: &str, name: &str) -> Fact<&Arc<Vmi>> {
        self.vmis.get(namespace, name).map(|held| &held.facts)
    }

    pub(crate) fn vm(&self, namespace: &str, name: &str) -> Fact<&Arc<Vm>> {
        self.vms.get(namespace, name).map(|held| &held.facts)
    }

    /// Whether a VMI is known just so.
    pub(crate) fn contains_vmi(&self, namespace: &str, name: &str, vmi: &Vmi, macs: &Macs) -> bool {
        self.vmis.get(namespace, name).known().is_some_and(|held| held.is(vmi, macs))
    }

    /// Whether a VM is known just so.
    pub(crate) fn contains_vm(&self, namespace: &str, name: &str, vm: &Vm, macs: &Macs) -> bool {
        self.vms.get(namespace, name).known().is_some_and(|held| held.is(vm, macs))
    }

    /// Takes a VMI in, in place of the one of its name.
    pub(crate) fn upsert_vmi(&mut self, namespace: &str, name: &str, mut vmi: Vmi, macs: Macs) {
        self.nics.share(&mut vmi.nics);
        self.seen.share(&mut vmi.status_nics);
        if let Some(devices) = &mut vmi.boot.current_devices {
            self.surveys.share(devices);
        }
        self.remove_vmi(namespace, name);
        let held = Held { facts: Arc::new(vmi), macs };
        self.macs.add(&full_name(namespace, name), Holder::Vmi, held.places(namespace));
        self.vmis.insert(namespace, name, held);
    }

    /// Takes a VM in, in place of the one of its name.
    pub(crate) fn upsert_vm(&mut self, namespace: &str, name: &str, mut vm: Vm, macs: Macs) {
        self.nics.share(&mut vm.nics);
        self.remove_vm(namespace, name);
        let held = Held { facts: Arc::new(vm), macs };
        self.macs.add(&full_name(namespace, name), Holder::Vm, held.places(namespace));
        self.vms.insert(namespace, name, held);
    }

    pub(crate) fn remove_vmi(&mut self, namespace: &str, name: &str) {
        let Some(held) = self.vmis.take(namespace, name) else { return };
        self.macs.remove(&full_name(namespace, name), Holder::Vmi, held.places(namespace));
        self.nics.release(&held.facts.nics);
        self.seen.release(&held.facts.status_nics);
        if let Some(devices) = &held.facts.boot.current_devices {
            self.surveys.release(devices);
        }
    }

    pub(crate) fn remove_vm(&mut self, namespace: &str, name: &str) {
        let Some(held) = self.vms.take(namespace, name) else { return };
        self.macs.remove(&full_name(namespace, name), Holder::Vm, held.places(namespace));
        self.nics.release(&held.facts.nics);
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

    /// A guest other than `own` that has the address on the network, all three as `namespace/name`.
    pub(crate) fn other_user(&self, mac: Mac, network: &str, own: &str) -> Option<&str> {
        self.macs.other_user(mac, network, own)
    }

    /// Whether all guests are known.
    pub(crate) fn is_synced(&self) -> bool {
        self.vms.is_synced() && self.vmis.is_synced()
    }

    /// Whether nothing is left of any guest.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let pooled = self.nics.len() + self.seen.len() + self.surveys.len();
        pooled + self.vmis.count() + self.vms.count() == 0 && self.macs.is_empty()
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
    use crate::{
        api::{vm::VirtualMachine, vmi::VirtualMachineInstance},
        cluster::store::mac_index::macs_of,
    };

    /// The spec of a guest with NICs of these names; each has an address of its own.
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
                guests.upsert_vmi("demo", name, Vmi::from(&vmi), macs_of(&vmi.spec));
            }
            Holder::Vm => {
                let text = format!(r#"{{"spec": {{"template": {{"spec": {spec}}}}}}}"#);
                let vm: VirtualMachine = serde_json::from_str(&text).unwrap();
                guests.upsert_vm("demo", name, Vm::from(&vm), macs_of(&vm.spec.template.spec));
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
    fn guests_that_are_alike_have_one_list_of_nics_and_one_survey() {
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

    proptest! {
        #[test]
        fn what_has_gone_or_changed_is_forgotten(
            steps in prop::collection::vec((0_u8..3, any::<bool>(), prop::option::of(prop::collection::vec(0_u8..3, 0..3))), 0..24)
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
            let different: BTreeSet<_> = model.values().collect();
            let different_of_instances: BTreeSet<_> =
                model.iter().filter(|((_, is_vm), _)| !is_vm).map(|(_, nics)| nics).collect();
            prop_assert_eq!(guests.vmis.count() + guests.vms.count(), model.len());
            prop_assert_eq!((guests.nics.len(), guests.seen.len()), (different.len(), different_of_instances.len()));
            for (name, is_vm) in model.into_keys() {
                remove(&mut guests, &name.to_string(), holder(is_vm));
            }
            prop_assert!(guests.is_empty());
        }
    }
}
