//! NP002.

use std::collections::BTreeSet;

use super::{Case, CauseType, Finding, rule};
use crate::api::quote::quote;

rule! {
    /// Two interfaces of one VM have the same name.
    ///
    /// ## Why
    /// KubeVirt pairs interfaces and networks by name, and reports the state of a NIC by its name. It cannot
    /// distinguish two interfaces with the same name.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: blue
    ///   bridge: {}
    /// - name: blue
    ///   bridge: {}
    /// ```
    NP002, "duplicate-interface-name", Shape, Deny,
    field: "domain.devices.interfaces[].name",
    fix: "choose a name that no other interface uses, and give its network the same name",
}

fn check(case: &Case) -> Vec<Finding> {
    let interfaces = case.change.after.guest.interfaces();
    let names = case.change.nics_by_name().filter(|nic| nic.interface.is_some());
    if names.count() == interfaces.len() {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    interfaces
        .iter()
        .enumerate()
        .filter(|(_, interface)| !seen.insert(interface.name.as_str()))
        .map(|(index, interface)| {
            let field = format!("{}.name", case.change.interface_field(index));
            let what = format!("interface name {} is already in use", quote(&interface.name));
            RULE.fault(CauseType::Duplicate, field, what)
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
                (r#"{"domain": {"devices": {"interfaces": [{"name": "a"}, {"name": "A"}]}}}"#, Expect::Silent),
                (
                    r#"{"domain": {"devices": {"interfaces": [{"name": "a"}, {"name": "a", "state": "absent"}]}}}"#,
                    Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1].name"]),
                ),
            ],
        );
    }
}
