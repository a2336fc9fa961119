//! NP118.

use super::{Case, CauseType, Finding, rule};
use crate::{api::network::Interface, facts::vmi::queues_per_nic};

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
        let findings = case.each_plugged(&RULE, |_, vmi| evaluate(case, vmi.queues_per_nic));
        return findings.into_iter().take(1).collect();
    }
    // An instancetype may set vCPUs that the template does not show; the VMI shows them.
    let view = &case.change.after;
    let queues = if view.needs_expansion() { None } else { queues_per_nic(view.guest) };
    queues.and_then(|queues| evaluate(case, queues)).into_iter().collect()
}

fn evaluate(case: &Case, queues_per_nic: u32) -> Option<Finding> {
    let view = &case.change.after;
    let is_counted = |interface: &&Interface| {
        let bindings = &interface.bindings;
        bindings.sriov.is_none() && !interface.is_absent() && interface.model_or_default().starts_with("virtio")
    };
    let nics = view.guest.interfaces().iter().filter(is_counted).count();
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
    use super::RULE;
    use crate::{
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
