//! What KubeVirt does with an update of a running VM: which NICs change now, and what waits for a restart.
//!
//! KubeVirt compares the new template with the guest, and never with the old template: `syncRestartRequired` in
//! `pkg/virt-controller/watch/vm/vm.go`, `IsRestartRequired` in `pkg/network/vmliveupdate/restart.go`, and `Sync` in
//! `pkg/network/controllers/vm.go` (v1.6.6, v1.8.4, v1.9.0).

use crate::{
    annotations::interfaces::DEFAULT_NIC,
    api::{
        guest::{Devices, GuestSpec},
        mac::Mac,
        network::{Bindings, Interface, NadRef, Network},
        vm::VirtualMachine,
    },
    change::{Nic, NicsByName, ObjectView},
    facts::{
        Fact, NicPreference, Vmi,
        nic::{GuestNic, NetworkRole, hash_of_source, written},
    },
    kubevirt::gates::Gate,
    rules::Case,
};

/// What KubeVirt does with an update of a running VM.
#[derive(Debug)]
pub(in crate::rules) struct Forecast<'c> {
    /// NICs whose link goes up or down now.
    pub(in crate::rules) links: Vec<Nic<'c>>,
    /// NICs whose network name KubeVirt copies to the guest now.
    pub(in crate::rules) swapped: Vec<Swap<'c>>,
    /// What differs between the new template and the guest after KubeVirt has copied what it can.
    pub(in crate::rules) differences: Vec<Difference<'c>>,
    /// What happens to the condition `RestartRequired`.
    pub(in crate::rules) restart: Restart,
}

/// A changed network name of a NIC, which then means another NetworkAttachmentDefinition.
#[derive(Clone, Copy, Debug)]
pub(in crate::rules) struct Swap<'c> {
    /// The NIC of the new template.
    pub(in crate::rules) nic: Nic<'c>,
    /// The NIC of the guest.
    pub(in crate::rules) guest: &'c GuestNic,
    /// The new network, as written.
    pub(in crate::rules) network: &'c str,
}

/// A difference between the new template and the guest that only a boot removes.
#[derive(Clone, Copy, Debug)]
pub(in crate::rules) enum Difference<'c> {
    /// The template has no such NIC.
    Dropped(&'c GuestNic),
    /// A field of a NIC differs.
    Field(Nic<'c>, &'static str),
    /// The template has a pod network, the guest has none.
    PodNetwork(Option<Nic<'c>>),
    /// A plugged NIC has no model, and the preference gives it this one, which the running device does not get.
    NoModel(Nic<'c>, &'c str),
    /// A field of `domain.devices` differs.
    Devices(&'static str),
}

/// What happens to the condition `RestartRequired` of the VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::rules) enum Restart {
    /// It stays unset.
    None,
    /// It is set.
    New,
    /// It stays set.
    Standing,
    /// It is removed.
    Withdrawn,
}

impl<'c> Forecast<'c> {
    /// Returns the forecast for the update of a VM that runs as this guest.
    pub(in crate::rules) fn of(case: &Case<'c>, vmi: &'c Vmi) -> Self {
        let after = &case.change.after;
        let mut forecast =
            Self { links: Vec::new(), swapped: Vec::new(), differences: Vec::new(), restart: Restart::None };
        let Some(before) = &case.change.before else { return forecast };
        let (old, new) = (before.nics(), after.nics());
        let preference = NicPreference::of_new(case.change, case.facts, vmi);
        forecast.compare_nics(case, vmi, &old, &new, &preference);
        let is_standing = before.vm.is_some_and(VirtualMachine::requires_restart);
        if is_withdrawn(case, vmi, before, &preference, is_standing) {
            forecast.restart = if is_standing { Restart::Withdrawn } else { Restart::None };
        } else if !forecast.differences.is_empty() {
            forecast.restart = if is_standing { Restart::Standing } else { Restart::New };
        } else if is_standing {
            forecast.restart = Restart::Withdrawn;
        }
        let devices: Vec<_> = differences_of_devices(&after.guest.domain.devices, vmi, &preference).collect();
        if !devices.is_empty() {
            if matches!(forecast.restart, Restart::None | Restart::Withdrawn) {
                forecast.differences.clear();
            }
            forecast.restart = if is_standing { Restart::Standing } else { Restart::New };
            forecast.differences.extend(devices);
        }
        forecast
    }

    fn compare_nics(
        &mut self,
        case: &Case<'c>,
        vmi: &'c Vmi,
        old: &NicsByName<'c>,
        new: &NicsByName<'c>,
        preference: &NicPreference<'c>,
    ) {
        let copies_networks = case.has(Gate::LiveUpdateNadRef) == Some(true);
        let has_ordinal_names = vmi.has_ordinal_names();
        let mut has_pod_network = false;
        for (index, guest) in vmi.nics.iter().enumerate() {
            let nic = new.get(&guest.name).filter(|nic| nic.interface.is_some()).copied();
            let is_unplugged = guest.is_absent || (!has_ordinal_names && nic.is_some_and(|nic| nic.is_absent()));
            if is_unplugged && vmi.status_nic(&guest.name).is_none() {
                // KubeVirt removes it from the guest.
                continue;
            }
            has_pod_network |= guest.role == NetworkRole::Pod;
            let Some(nic) = nic else {
                self.differences.push(Difference::Dropped(guest));
                continue;
            };
            let mac = vmi.macs.get(index).copied().flatten();
            let field = different_field(old.get(nic.name), &nic, guest, mac, preference);
            let name_differs = nic.network_name() != guest.network.as_deref();
            if let Some(field) = field.or_else(|| (!copies_networks && name_differs).then_some(NETWORK_NAME)) {
                self.differences.push(Difference::Field(nic, field));
            }
            if !guest.is_absent && !nic.is_absent() && nic.is_down() != guest.is_down {
                self.links.push(nic);
            }
            if copies_networks {
                self.swapped.extend(Swap::of(case, nic, guest));
            }
        }
        for nic in new.iter().filter(|nic| is_copied(case, nic) && !vmi.has_nic(nic.name)) {
            has_pod_network |= is_on_pod_network(nic);
            let has_model = nic.interface.is_some_and(|entry| written(entry.value.model.as_ref()).is_some());
            if let Some(model) = preference.model.filter(|_| !has_model) {
                self.differences.push(Difference::NoModel(*nic, model));
            }
        }
        let checks_pod_network = case.version().is_some_and(|version| version.is_at_least(1, 8));
        let mut networks = case.change.after.guest.networks.iter();
        if checks_pod_network && !has_pod_network && networks.any(|network| network.pod.is_some()) {
            self.differences.push(Difference::PodNetwork(new.iter().find(|nic| is_on_pod_network(nic)).copied()));
        }
    }

    /// Returns the field of a NIC that waits for a boot.
    pub(in crate::rules) fn waiting_field(&self, name: &str) -> Option<&'static str> {
        self.differences.iter().find_map(|difference| match difference {
            Difference::Field(nic, field) if nic.name == name => Some(*field),
            _ => None,
        })
    }
}

/// The field whose change waits for a boot where KubeVirt does not copy it.
pub(in crate::rules) const NETWORK_NAME: &str = "networkName";

impl<'c> Swap<'c> {
    /// Returns the NICs of a running VM whose network KubeVirt changes now because of the request.
    pub(in crate::rules) fn all(case: &Case<'c>) -> Vec<Self> {
        let is_relevant = case.change.after.vm.is_some() && case.change.requests.is_none();
        // Most changes leave the network as it is, and need no forecast.
        let is_on_other = |nic: &Nic, vmi: &Vmi| {
            vmi.nic(nic.name).is_some_and(|guest| guest.network.as_deref() != nic.network_name())
        };
        match case.live() {
            Fact::Known(vmi)
                if is_relevant
                    && changed_nics(case).any(|nic| is_on_other(nic, vmi))
                    && case.has(Gate::LiveUpdateNadRef) == Some(true) =>
            {
                let Forecast { swapped, .. } = Forecast::of(case, vmi);
                swapped.into_iter().filter(|swap| swap.is_of_request(case)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the request changes the NIC.
    pub(in crate::rules) fn is_of_request(&self, case: &Case) -> bool {
        changed_nics(case).any(|changed| changed.name == self.nic.name)
    }

    fn of(case: &Case<'c>, nic: Nic<'c>, guest: &'c GuestNic) -> Option<Self> {
        let (network, running) = (nic.network_name()?, guest.network.as_deref()?);
        // Multus looks for a default network without a namespace in one of its own, never in that of the VM.
        let is_default = guest.role == NetworkRole::Default;
        let namespace = if is_default { "" } else { case.change.subject.namespace };
        let differs = NadRef::parse(network, namespace) != NadRef::parse(running, namespace);
        differs.then_some(Self { nic, guest, network })
    }
}

/// Returns the NICs that the request changes, also those that it unplugs.
fn changed_nics<'c>(case: &Case<'c>) -> impl Iterator<Item = &'c Nic<'c>> {
    let nics = &case.change.nics;
    nics.modified.iter().map(|(_, nic)| nic).chain(&nics.set_absent)
}

/// Returns whether KubeVirt sets no `RestartRequired` for the NICs although the guest differs, because the template is
/// as at the start of the guest. If the old template is not the one of the start, that one is unknown here: then the
/// condition of the VM shows whether the old template equals it.
fn is_withdrawn(case: &Case, vmi: &Vmi, before: &ObjectView, preference: &NicPreference, is_standing: bool) -> bool {
    let after = case.change.after.guest;
    let stored = NicPreference::of_stored(case.change, case.facts, vmi);
    let is_unchanged = has_same_nics((before.guest, &stored), (after, preference));
    if vmi.start_generation() == Some(before.metadata.generation) {
        return is_unchanged;
    }
    let runs_on_default_nic = after.gets_default_nic() && vmi.has_nic(DEFAULT_NIC);
    (is_unchanged && !is_standing) || runs_on_default_nic
}

/// Returns whether two templates have the same NICs in the same order, as KubeVirt compares them.
fn has_same_nics((one, of_one): (&GuestSpec, &NicPreference), (other, of_other): (&GuestSpec, &NicPreference)) -> bool {
    let is_same = |(one, other): (&Interface, &Interface)| {
        one.name == other.name
            && written(one.state.as_ref()) == written(other.state.as_ref())
            && written(one.mac_address.as_ref()) == written(other.mac_address.as_ref())
            && of_one.model_of(one) == of_other.model_of(other)
    };
    let is_same_network = |(one, other): (&Network, &Network)| {
        let names = (one.multus.as_ref(), other.multus.as_ref());
        let has_same_name = names.0.map(|multus| &*multus.network_name) == names.1.map(|multus| &*multus.network_name);
        one.name == other.name && has_same_name && hash_of_source(one) == hash_of_source(other)
    };
    let (interfaces, others) = (one.interfaces(), other.interfaces());
    interfaces.len() == others.len()
        && one.networks.len() == other.networks.len()
        && interfaces.iter().zip(others).all(is_same)
        && of_one.hashes_of(one).eq(of_other.hashes_of(other))
        && one.networks.iter().zip(&other.networks).all(is_same_network)
}

fn differences_of_devices<'c>(
    devices: &Devices,
    vmi: &Vmi,
    preference: &NicPreference,
) -> impl Iterator<Item = Difference<'c>> {
    let multiqueue = devices.network_interface_multiqueue.or(preference.multiqueue);
    let autoattach_pod = devices.autoattach_pod_interface.or(preference.autoattach_pod);
    let fields = [
        (multiqueue != vmi.multiqueue, "networkInterfaceMultiqueue"),
        (autoattach_pod != vmi.autoattach_pod, "autoattachPodInterface"),
    ];
    fields.into_iter().filter_map(|(differs, field)| differs.then_some(Difference::Devices(field)))
}

/// Returns the first field in which a NIC differs from the guest's, apart from its state and the name of its network.
fn different_field(
    old: Option<&Nic>,
    nic: &Nic,
    guest: &GuestNic,
    mac: Option<Mac>,
    preference: &NicPreference,
) -> Option<&'static str> {
    let interface = nic.interface?.value;
    let was = old.and_then(|old| old.interface).map(|entry| entry.value);
    if preference.hash_of(interface, nic.network.map(|entry| entry.value)) != guest.interface_hash {
        return Some(was.and_then(|was| changed_field(was, interface)).unwrap_or("a field"));
    }
    if preference.model_of(interface) != guest.model.as_deref() {
        return Some("model");
    }
    // KubeVirt compares the text. The text of the guest's address is not in memory, but that of the old template is.
    let address = written(interface.mac_address.as_ref());
    let old_address = was.map(|was| written(was.mac_address.as_ref()));
    let read = |address: Option<&str>| address.and_then(|address| address.parse::<Mac>().ok());
    let is_rewritten = old_address.is_some_and(|old| old != address && read(old) == read(address));
    if read(address) != mac || is_rewritten {
        return Some("macAddress");
    }
    let source = nic.network.map(|entry| entry.value);
    if source.map_or(0, hash_of_source) != guest.source_hash {
        let pod = |network: Option<&'_ Network>| network.is_some_and(|network| network.pod.is_some());
        let is_range = guest.role == NetworkRole::Pod && pod(source);
        return Some(if is_range { "vmNetworkCIDR" } else { "the network source" });
    }
    None
}

/// Returns the first changed field of an interface, apart from its state, model and MAC address.
fn changed_field(one: &Interface, other: &Interface) -> Option<&'static str> {
    let differs = [
        (one.bindings != other.bindings, "the binding"),
        (one.options.pci_address != other.options.pci_address, "pciAddress"),
        (one.options.ports != other.options.ports, "ports"),
        (one.options.port_ranges != other.options.port_ranges, "portRanges"),
        (one.options.dhcp_options != other.options.dhcp_options, "dhcpOptions"),
        (one.options.boot_order != other.options.boot_order, "bootOrder"),
        (one.options.acpi_index != other.options.acpi_index, "acpiIndex"),
        (one.options.tag != other.options.tag, "tag"),
    ];
    differs.into_iter().find_map(|(differs, field)| differs.then_some(field))
}

/// Returns whether KubeVirt copies a NIC of the template that the guest does not have.
fn is_copied(case: &Case, nic: &Nic) -> bool {
    let bindings = nic.interface.map(|entry| &entry.value.bindings);
    let is_copied = |bindings: &Bindings| {
        bindings.bridge.is_some() || bindings.sriov.is_some() || case.hotplugs_plugin(bindings).is_some()
    };
    !nic.is_absent() && bindings.is_some_and(is_copied)
}

fn is_on_pod_network(nic: &Nic) -> bool {
    nic.network.is_some_and(|entry| entry.value.pod.is_some())
}
