//! NP004.

use super::{Case, CauseType, Finding, rule};
use crate::api::quote::quote;

rule! {
    /// A network has no interface with the same name.
    ///
    /// ## Why
    /// A network is one half of a NIC: what the NIC is attached to. The interface with the same name is the device in
    /// the guest. Without it nothing in the guest would use the network.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces: []
    /// networks:
    /// - name: blue
    ///   multus: {networkName: blue-net}
    /// ```
    NP004, "network-without-interface", Shape, Deny,
    field: "networks[].name",
    fix: "add an interface with that name to domain.devices.interfaces, or remove the network",
}

fn check(case: &Case) -> Vec<Finding> {
    // Almost every change: no NIC has to be looked up by its name.
    if case.change.nics_by_name().all(|nic| nic.interface.is_some()) {
        return Vec::new();
    }
    let networks = case.change.after.guest.networks.iter().enumerate();
    networks
        .filter(|(_, network)| case.change.nic(&network.name).is_none_or(|nic| nic.interface.is_none()))
        .map(|(index, network)| {
            let field = format!("{}.name", case.change.network_field(index));
            let what = format!("network {} has no interface with the same name", quote(&network.name));
            RULE.fault(CauseType::Required, field, what)
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
                (r#"{"domain": {"devices": {"interfaces": [{"name": "a"}]}}}"#, Expect::Silent),
                (
                    r#"{"domain": {"devices": {"interfaces": [{"name": "a"}]}}, "networks": [{"name": "b"}, {"name": "a"}]}"#,
                    Expect::Faults(&["spec.template.spec.networks[0].name"]),
                ),
            ],
        );
    }
}
