//! The VMs and VMIs of a cluster, of which there may be a hundred thousand: what they have alike is kept once.

use std::sync::Arc;

use super::{
    listing::{Listing, Roll},
    macs::{Holder, MacIndex, Macs, Place, places},
    pool::Pool,
};
use crate::{
    api::mac::Mac,
    facts::{Fact, Instance, Machine, instance::SeenNic, nic::GuestNic},
    pci::Survey,
};

/// The guests, by VM and by VMI.
#[derive(Debug, Default)]
pub(super) struct Guests {
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
    pub(super) fn instance(&self, namespace: &str, name: &str) -> Fact<&Arc<Instance>> {
        self.instances.get(namespace, name).map(|held| &held.facts)
    }

    pub(super) fn machine(&self, namespace: &str, name: &str) -> Fact<&Arc<Machine>> {
        self.machines.get(namespace, name).map(|held| &held.facts)
    }

    /// Whether a VMI is known just so.
    pub(super) fn holds_instance(&self, namespace: &str, name: &str, instance: &Instance, macs: &Macs) -> bool {
        self.instances.get(namespace, name).known().is_some_and(|held| held.is(instance, macs))
    }

    /// Whether a VM is known just so.
    pub(super) fn holds_machine(&self, namespace: &str, name: &str, machine: &Machine, macs: &Macs) -> bool {
        self.machines.get(namespace, name).known().is_some_and(|held| held.is(machine, macs))
    }

    /// Takes a VMI in, in place of the one of its name.
    pub(super) fn put_instance(&mut self, namespace: &str, name: &str, mut instance: Instance, macs: Macs) {
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
    pub(super) fn put_machine(&mut self, namespace: &str, name: &str, mut machine: Machine, macs: Macs) {
        self.nics.share(&mut machine.nics);
        self.remove_machine(namespace, name);
        let held = Held { facts: Arc::new(machine), macs };
        self.macs.add(&full_name(namespace, name), Holder::Machine, held.places(namespace));
        self.machines.insert(namespace, name, held);
    }

    pub(super) fn remove_instance(&mut self, namespace: &str, name: &str) {
        let Some(held) = self.instances.take(namespace, name) else { return };
        self.macs.remove(&full_name(namespace, name), Holder::Instance, held.places(namespace));
        self.nics.release(&held.facts.nics);
        self.seen.release(&held.facts.seen);
        if let Some(survey) = &held.facts.boot.now {
            self.surveys.release(survey);
        }
    }

    pub(super) fn remove_machine(&mut self, namespace: &str, name: &str) {
        let Some(held) = self.machines.take(namespace, name) else { return };
        self.macs.remove(&full_name(namespace, name), Holder::Machine, held.places(namespace));
        self.nics.release(&held.facts.nics);
    }

    pub(super) fn instances(&self) -> &dyn Roll {
        &self.instances
    }

    pub(super) fn instances_mut(&mut self) -> &mut dyn Roll {
        &mut self.instances
    }

    pub(super) fn machines(&self) -> &dyn Roll {
        &self.machines
    }

    pub(super) fn machines_mut(&mut self) -> &mut dyn Roll {
        &mut self.machines
    }

    /// A guest other than `own` that has the address on the network, all three as `namespace/name`.
    pub(super) fn other_user(&self, mac: Mac, network: &str, own: &str) -> Option<&str> {
        self.macs.other_user(mac, network, own)
    }

    /// Whether all guests are known.
    pub(super) fn is_complete(&self) -> bool {
        self.machines.is_complete() && self.instances.is_complete()
    }

    /// Whether nothing is left of any guest.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let pooled = self.nics.len() + self.seen.len() + self.surveys.len();
        pooled + self.instances.count() + self.machines.count() == 0 && self.macs.is_empty()
    }
}

fn full_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
