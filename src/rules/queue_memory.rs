//! NP118.

use std::mem;

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::network::Interface,
    facts::{Vmi, expand::with_guest, nic::written, vmi::queues_per_nic},
};

rule! {
    /// A VM with multiqueue has so many vCPUs and NICs that their queues exhaust guest memory.
    ///
    /// ## Why
    /// With `networkInterfaceMultiqueue` every virtio NIC has one queue per vCPU, and the guest allocates buffers for
    /// each queue. In a Windows guest with 8 vCPUs and 10 NICs, 80 queues used most of the 8 GiB of memory (kubevirt
    /// issue 18012). The limit is `queueMemory.maxQueues` in the settings, 64 by default.
    ///
    /// ## Example
    /// ```yaml
    /// domain:
    ///   cpu:
    ///     cores: 16
    ///   devices:
    ///     networkInterfaceMultiqueue: true
    ///     interfaces:
    ///     # five NICs
    /// ```
    NP118, "queue-memory", Hotplug, Warn,
    field: "domain.devices.networkInterfaceMultiqueue",
    fix: "use fewer NICs, or remove networkInterfaceMultiqueue",
}

fn check(case: &Case) -> Vec<Finding> {
    if !case.is_new() {
        // The result is that of the guest, whichever NIC is plugged.
        let mut is_evaluated = false;
        return case.each_plugged(&RULE, |_, vmi| {
            if mem::replace(&mut is_evaluated, true) {
                return None;
            }
            let interfaces = case.change.after.guest.interfaces().iter();
            let nics = interfaces.filter(|interface| has_queues(interface, model_of(interface, vmi))).count();
            evaluate(case, nics, vmi.queues_per_nic)
        });
    }
    let of_guest = with_guest(&case.change.after, case.facts.expansion(), |guest, _| {
        let interfaces = guest.interfaces().iter();
        let nics = interfaces.filter(|interface| has_queues(interface, interface.model_or_default())).count();
        evaluate(case, nics, queues_per_nic(guest)?)
    });
    of_guest.flatten().into_iter().collect()
}

/// Returns the model of a NIC of a running guest, which a preference may have set. A plugged NIC without a model is
/// virtio.
fn model_of<'m>(interface: &'m Interface, vmi: &'m Vmi) -> &'m str {
    let of_guest = || vmi.nic(&interface.name).and_then(|nic| nic.model.as_deref());
    written(interface.model.as_ref()).or_else(of_guest).unwrap_or(interface.model_or_default())
}

fn has_queues(interface: &Interface, model: &str) -> bool {
    interface.bindings.sriov.is_none() && !interface.is_absent() && model.starts_with("virtio")
}

fn evaluate(case: &Case, nics: usize, queues_per_nic: u32) -> Option<Finding> {
    let view = &case.change.after;
    let queues = u32::try_from(nics).unwrap_or(u32::MAX).saturating_mul(queues_per_nic);
    let limit = case.settings.queue_memory.max_queues;
    if queues_per_nic <= 1 || queues <= limit {
        return None;
    }
    let field = format!("{}.domain.devices.networkInterfaceMultiqueue", view.path);
    let what = format!("{nics} NICs with {queues_per_nic} queues each: {queues} queues can exhaust guest memory");
    Some(RULE.fault(CauseType::Invalid, field, what))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::RULE;
    use crate::{
        facts::{Fact, Instancetype},
        rules::testing::{Expect, Hotplug},
        settings::Settings,
    };

    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.networkInterfaceMultiqueue"]);

    #[test]
    fn queues_are_counted_over_all_virtio_nics() {
        for (queues, expect) in [(0, Expect::Silent), (1, Expect::Silent), (32, Expect::Silent), (33, FAULT)] {
            Hotplug::of(NIC).vmi(|vmi| vmi.queues_per_nic = queues).expect(&RULE, &expect);
        }
        let e1000e = Hotplug::of(r#"{"name": "dyniface1", "bridge": {}, "model": "e1000e"}"#);
        e1000e.vmi(|vmi| vmi.queues_per_nic = 33).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_new_vm_is_checked_by_its_template() {
        let domain = r#""cpu": {"cores": 33}, "devices": {"networkInterfaceMultiqueue": true, "#;
        Hotplug::of(NIC).created().domain(domain).expect(&RULE, &FAULT);
        Hotplug::of(NIC).created().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn an_expanded_vm_is_checked_with_its_vcpus_and_models() {
        let with = |devices: &str, vcpus: u32| {
            Hotplug::of(NIC).created().preferring(devices).facts(|facts| {
                let instancetype = Instancetype { vcpus, ..Instancetype::default() };
                facts.expansions.as_mut().unwrap().after.instancetype = Fact::Known(Arc::new(instancetype));
            })
        };
        let multiqueue = r#""preferredNetworkInterfaceMultiQueue": true"#;
        with(multiqueue, 33).expect(&RULE, &FAULT);
        with(multiqueue, 32).expect(&RULE, &Expect::Silent);
        with("", 33).expect(&RULE, &Expect::Silent);
        let e1000e = format!(r#"{multiqueue}, "preferredInterfaceModel": "e1000e""#);
        with(&e1000e, 33).expect(&RULE, &Expect::Silent);
        with(multiqueue, 33).unread().expect(&RULE, &Expect::Silent);
        // The NIC of the guest has the preferred model, the plugged one is virtio.
        let plug = |queues| Hotplug::of(NIC).preferring(&e1000e).vmi(|vmi| vmi.queues_per_nic = queues);
        plug(64).expect(&RULE, &Expect::Silent);
        plug(65).expect(&RULE, &FAULT);
    }

    #[test]
    fn the_limit_is_a_setting() {
        let case = |limit: u32| {
            let settings = Settings::parse(&format!("queueMemory: {{maxQueues: {limit}}}"), &[]).unwrap();
            Hotplug::of(NIC).vmi(|vmi| vmi.queues_per_nic = 8).settings(settings)
        };
        case(15).expect(&RULE, &FAULT);
        case(16).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn an_unknown_vmi_is_reported() {
        Hotplug::of(NIC).stopped().expect(&RULE, &Expect::Silent);
        Hotplug::of(NIC).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
