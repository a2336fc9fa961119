//! NP001.

use std::collections::BTreeSet;

use super::{Case, CauseType, Finding, rule};
use crate::api::quote::quote;

rule! {
    /// Two networks of one VM have the same name.
    ///
    /// ## Why
    /// KubeVirt pairs networks and interfaces by name. Of two networks with the same name it finds only the last one,
    /// so the other one would be attached to nothing.
    ///
    /// ## Example
    /// ```yaml
    /// networks:
    /// - name: blue
    ///   multus: {networkName: blue-net}
    /// - name: blue
    ///   multus: {networkName: green-net}
    /// ```
    NP001, "duplicate-network-name", Shape, Deny,
    field: "networks[].name",
    fix: "choose a name that no other network uses, and give its interface the same name",
}

fn check(case: &Case) -> Vec<Finding> {
    let networks = &case.change.after.guest.networks;
    let names = case.change.nics_by_name().filter(|nic| nic.network.is_some());
    if names.count() == networks.len() {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    networks
        .iter()
        .enumerate()
        .filter(|(_, network)| !seen.insert(network.name.as_str()))
        .map(|(index, network)| {
            let field = format!("{}.name", case.change.network_field(index));
            let what = format!("network name {} is already in use", quote(&network.name));
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
                (r#"{"networks": [{"name": "a", "pod": {}}, {"name": "b", "pod": {}}]}"#, Expect::Silent),
                (
                    r#"{"networks": [{"name": "a", "pod": {}}, {"name": "b"}, {"name": "a"}, {"name": "a"}]}"#,
                    Expect::Faults(&["spec.template.spec.networks[2].name", "spec.template.spec.networks[3].name"]),
                ),
            ],
        );
    }
}
