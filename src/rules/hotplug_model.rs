//! NP103.

use super::{Case, CauseType, Finding, rule};
use crate::api::quote::quote;

rule! {
    /// A bridge NIC is plugged into a running VM with a model other than virtio.
    ///
    /// ## Why
    /// KubeVirt supports hotplug of virtio NICs only. It nevertheless copies a NIC of another model to the running
    /// guest, and asks the hypervisor to hotplug a device that does not support it.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: dyniface1
    ///   bridge: {}
    ///   model: e1000e
    /// ```
    NP103, "hotplug-model", Hotplug, Deny,
    field: "domain.devices.interfaces[].model",
    fix: "set model: virtio, or omit model",
}

fn check(case: &Case) -> Vec<Finding> {
    case.each_plugged(&RULE, |nic, _| {
        let entry = nic.interface?;
        let model = entry.value.model_or_default();
        if entry.value.bindings.bridge.is_none() || model == "virtio" {
            return None;
        }
        let field = format!("{}.model", case.change.interface_field(entry.index));
        let what = format!(
            "{} cannot be hotplugged with model {model}: only virtio can",
            quote(nic.name),
            model = quote(model)
        );
        Some(RULE.fault(CauseType::Invalid, field, what))
    })
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, Hotplug};

    #[test]
    fn a_bridge_nic_must_be_virtio() {
        const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1].model"]);
        for (fields, expect) in [
            (r#""bridge": {}"#, Expect::Silent),
            (r#""bridge": {}, "model": "virtio""#, Expect::Silent),
            (r#""bridge": {}, "model": """#, Expect::Silent),
            (r#""bridge": {}, "model": "e1000e""#, FAULT),
            (r#""bridge": {}, "model": "rtl8139""#, FAULT),
            (r#""sriov": {}, "model": "e1000e""#, Expect::Silent),
        ] {
            Hotplug::of(&format!(r#"{{"name": "dyniface1", {fields}}}"#)).expect(&RULE, &expect);
        }
    }

    #[test]
    fn a_vm_that_is_not_known_to_run_is_not_checked() {
        let e1000e = r#"{"name": "dyniface1", "bridge": {}, "model": "e1000e"}"#;
        Hotplug::of(e1000e).stopped().expect(&RULE, &Expect::Silent);
        Hotplug::of(e1000e).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
