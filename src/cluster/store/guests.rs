//! The VMs and VMIs of a cluster, of which there may be a hundred thousand: what they have alike is kept once.

use std::sync::Arc;

use super::{
    interner::Pool,
    listing::{Listing, Roll},
    mac_index::{Holder, MacIndex, Macs, Place, places},
};
use crate::{
    api::mac::Mac,
    facts::{Fact, Instance, Machine, nic::GuestNic, vmi::SeenNic},
    pci::Survey,
};

/// The guests, by VM and by VMI.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    instances: Listing<Held<Instance>>,
    machines: Listing<Held<Machine>>,
    macs: MacIndex,
    /// Lists of NICs: a VM and its VMI have nearly always the same.
    nics: Pool<Vec<GuestNic>>,
    seen: Pool<Vec<SeenNic>>,
    surveys: Pool<Survey>,
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

impl Held<Instance> {
    fn places<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = Place<'a>> {
        places(&self.facts.nics, &self.macs, namespace)
    }
}

impl Held<Machine> {
    fn places<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = Place<'a>> {
        places(&self.facts.nics, &self.macs, namespace)
    }
}

impl Guests {
    pub(crate) fn instance(&self, namespace: &str, name: &str) -> Fact<&Arc<Instance>> {
        self.instances.get(namespace, name).map(|held| &held.facts)
    }

    pub(crate) fn machine(&self, namespace: &str, name: &str) -> Fact<&Arc<Machine>> {
        self.machines.get(namespace, name).map(|held| &held.facts)
    }

    /// Whether a VMI is known just so.
    pub(crate) fn holds_instance(&self, namespace: &str, name: &str, instance: &Instance, macs: &Macs) -> bool {
        self.instances.get(namespace, name).known().is_some_and(|held| held.is(instance, macs))
    }

    /// Whether a VM is known just so.
    pub(crate) fn holds_machine(&self, namespace: &str, name: &str, machine: &Machine, macs: &Macs) -> bool {
        self.machines.get(namespace, name).known().is_some_and(|held| held.is(machine, macs))
    }

    /// Takes a VMI in, in place of the one of its name.
    pub(crate) fn put_instance(&mut self, namespace: &str, name: &str, mut instance: Instance, macs: Macs) {
        self.nics.share(&mut instance.nics);
        self.seen.share(&mut instance.seen);
        if let Some(survey) = &mut instance.boot.now {
            self.surveys.share(survey);
        }
        self.remove_instance(namespace, name);
        let held = Held { facts: Arc::new(instance), macs };
        self.macs.add(&full_name(namespace, name), Holder::Instance, held.places(namespace));
        self.instances.insert(namespace, name, held);
    }

    /// Takes a VM in, in place of the one of its name.
    pub(crate) fn put_machine(&mut self, namespace: &str, name: &str, mut machine: Machine, macs: Macs) {
        self.nics.share(&mut machine.nics);
        self.remove_machine(namespace, name);
        let held = Held { facts: Arc::new(machine), macs };
        self.macs.add(&full_name(namespace, name), Holder::Machine, held.places(namespace));
        self.machines.insert(namespace, name, held);
    }

    pub(crate) fn remove_instance(&mut self, namespace: &str, name: &str) {
        let Some(held) = self.instances.take(namespace, name) else { return };
        self.macs.remove(&full_name(namespace, name), Holder::Instance, held.places(namespace));
        self.nics.release(&held.facts.nics);
        self.seen.release(&held.facts.seen);
        if let Some(survey) = &held.facts.boot.now {
            self.surveys.release(survey);
        }
    }

    pub(crate) fn remove_machine(&mut self, namespace: &str, name: &str) {
        let Some(held) = self.machines.take(namespace, name) else { return };
        self.macs.remove(&full_name(namespace, name), Holder::Machine, held.places(namespace));
        self.nics.release(&held.facts.nics);
    }

    pub(crate) fn instances(&self) -> &dyn Roll {
        &self.instances
    }

    pub(crate) fn instances_mut(&mut self) -> &mut dyn Roll {
        &mut self.instances
    }

    pub(crate) fn machines(&self) -> &dyn Roll {
        &self.machines
    }

    pub(crate) fn machines_mut(&mut self) -> &mut dyn Roll {
        &mut self.machines
    }

    /// A guest other than `own` that has the address on the network, all three as `namespace/name`.
    pub(crate) fn other_user(&self, mac: Mac, network: &str, own: &str) -> Option<&str> {
        self.macs.other_user(mac, network, own)
    }

    /// Whether all guests are known.
    pub(crate) fn is_complete(&self) -> bool {
        self.machines.is_complete() && self.instances.is_complete()
    }

    /// Whether nothing is left of any guest.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let pooled = self.nics.len() + self.seen.len() + self.surveys.len();
        pooled + self.instances.count() + self.machines.count() == 0 && self.macs.is_empty()
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
        api::vm::{VirtualMachine, VirtualMachineInstance},
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

    fn put(guests: &mut Guests, name: &str, holder: Holder, nics: &[u8]) {
        let spec = spec(nics);
        match holder {
            Holder::Instance => {
                let seen = nics.iter().map(|nic| format!(r#"{{"name": "n{nic}"}}"#)).collect::<Vec<_>>().join(",");
                let text = format!(r#"{{"spec": {spec}, "status": {{"interfaces": [{seen}]}}}}"#);
                let vmi: VirtualMachineInstance = serde_json::from_str(&text).unwrap();
                guests.put_instance("demo", name, Instance::from(&vmi), macs_of(&vmi.spec));
            }
            Holder::Machine => {
                let text = format!(r#"{{"spec": {{"template": {{"spec": {spec}}}}}}}"#);
                let vm: VirtualMachine = serde_json::from_str(&text).unwrap();
                guests.put_machine("demo", name, Machine::from(&vm), macs_of(&vm.spec.template.spec));
            }
        }
    }

    fn remove(guests: &mut Guests, name: &str, holder: Holder) {
        match holder {
            Holder::Instance => guests.remove_instance("demo", name),
            Holder::Machine => guests.remove_machine("demo", name),
        }
    }

    #[test]
    fn guests_that_are_alike_have_one_list_of_nics_and_one_survey() {
        let mut guests = Guests::default();
        for name in ["a", "b"] {
            put(&mut guests, name, Holder::Machine, &[1, 2]);
            put(&mut guests, name, Holder::Instance, &[1, 2]);
        }
        let [a, b] = ["a", "b"].map(|name| Arc::clone(guests.instance("demo", name).known().unwrap()));
        let machine = Arc::clone(guests.machine("demo", "a").known().unwrap());
        assert!(Arc::ptr_eq(&a.nics, &b.nics) && Arc::ptr_eq(&a.nics, &machine.nics) && Arc::ptr_eq(&a.seen, &b.seen));
        assert!(Arc::ptr_eq(a.boot.now.as_ref().unwrap(), b.boot.now.as_ref().unwrap()));
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
            let holder = |is_machine| if is_machine { Holder::Machine } else { Holder::Instance };
            for (name, is_machine, nics) in steps {
                if let Some(nics) = nics {
                    put(&mut guests, &name.to_string(), holder(is_machine), &nics);
                    model.insert((name, is_machine), nics);
                } else {
                    remove(&mut guests, &name.to_string(), holder(is_machine));
                    model.remove(&(name, is_machine));
                }
            }
            let different: BTreeSet<_> = model.values().collect();
            let different_of_instances: BTreeSet<_> =
                model.iter().filter(|((_, is_machine), _)| !is_machine).map(|(_, nics)| nics).collect();
            prop_assert_eq!(guests.instances.count() + guests.machines.count(), model.len());
            prop_assert_eq!((guests.nics.len(), guests.seen.len()), (different.len(), different_of_instances.len()));
            for (name, is_machine) in model.into_keys() {
                remove(&mut guests, &name.to_string(), holder(is_machine));
            }
            prop_assert!(guests.is_empty());
        }
    }
}
