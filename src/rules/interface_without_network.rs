//! NP003.

use super::{Case, CauseType, Finding, rule};
use crate::api::quote::quote;

rule! {
    /// An interface has no network with the same name.
    ///
    /// ## Why
    /// An interface is one half of a NIC: the device in the guest. The network with the same name defines what the
    /// device is attached to. Without it the VM cannot start.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: blue
    ///   bridge: {}
    /// networks: []
    /// ```
    NP003, "interface-without-network", Shape, Deny,
    field: "domain.devices.interfaces[].name",
    fix: "add an entry with that name to networks, or remove the interface",
}

fn check(case: &Case) -> Vec<Finding> {
    // Almost every change: no NIC has to be looked up by its name.
    if case.change.nics_by_name().all(|nic| nic.network.is_some()) {
        return Vec::new();
    }
    let guest = case.change.after.guest;
    let interfaces = guest.interfaces().iter().enumerate();
    interfaces
        .filter(|(_, interface)| case.change.nic(&interface.name).is_none_or(|nic| nic.network.is_none()))
        .map(|(index, interface)| {
            let field = format!("{}.name", case.change.interface_field(index));
            let what = format!("interface {} has no network with the same name", quote(&interface.name));
            RULE.fault(CauseType::Invalid, field, what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, table};

    #[test]
    fn verdicts() {
        table(
            &RULE,
            &[
                (
                    r#"{"domain": {"devices": {"interfaces": [{"name": "a"}]}}, "networks": [{"name": "a"}]}"#,
                    Expect::Silent,
                ),
                (r#"{"networks": [{"name": "a"}]}"#, Expect::Silent),
                (
                    r#"{"domain": {"devices": {"interfaces": [{"name": "a"}, {"name": "b"}]}}, "networks": [{"name": "a"}]}"#,
                    Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1].name"]),
                ),
            ],
        );
    }
}
