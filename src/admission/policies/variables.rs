//! The variables of policies: parts of the request that several checks read.
//!
//! `dyn` keeps the type checker of the API server from a warning about each field that another kind has: one policy
//! covers VMs, VMIs, replica sets and pools.

use super::Scope;

/// A variable of a policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) expression: &'static str,
}

/// Where the kinds have their guest, as `domain` and `networks`.
const GUEST: &str = "dyn(object).?spec.?virtualMachineTemplate.?spec.?template.?spec
  .or(dyn(object).?spec.?template.?spec)
  .or(dyn(object).?spec)
  .orValue({})";

/// Every variable, each after those that it uses.
pub(super) static VARIABLES: &[Variable] = &[
    Variable { name: "guest", expression: GUEST },
    Variable { name: "interfaces", expression: "variables.guest.?domain.?devices.?interfaces.orValue([])" },
    Variable { name: "networks", expression: "variables.guest.?networks.orValue([])" },
    Variable { name: "interfaceNames", expression: "variables.interfaces.map(interface, interface.?name.orValue(''))" },
    Variable { name: "networkNames", expression: "variables.networks.map(network, network.?name.orValue(''))" },
    // Of several networks with one name KubeVirt uses the last one.
    Variable {
        name: "podNetworks",
        expression: "variables.networkNames.filter(name,
  has(variables.networks[variables.networkNames.lastIndexOf(name)].pod))",
    },
    Variable {
        name: "defaultNetworks",
        expression: "variables.networks
  .filter(network, has(network.pod) || network.?multus.?default.orValue(false))
  .map(network, network.?name.orValue(''))",
    },
    // An unknown field with an object as value may be the source or the binding of a newer KubeVirt.
    Variable {
        name: "newerNetworks",
        expression: "variables.networks
  .filter(network, network.exists(key,
    !(key in ['name', 'pod', 'multus', 'resourceClaim']) && type(network[key]) == map))
  .map(network, network.?name.orValue(''))",
    },
    Variable {
        name: "newerInterfaces",
        expression: "variables.interfaces
  .filter(interface, interface.exists(key,
    !(key in ['name', 'bridge', 'masquerade', 'sriov', 'passtBinding', 'binding', 'slirp', 'macvtap', 'passt',
      'model', 'macAddress', 'pciAddress', 'state', 'ports', 'portRanges', 'dhcpOptions', 'bootOrder', 'acpiIndex',
      'tag']) && type(interface[key]) == map))
  .map(interface, interface.name)",
    },
    Variable {
        name: "hasPreference",
        expression: "dyn(object).?spec.?virtualMachineTemplate.?spec.?preference
  .or(dyn(object).?spec.?preference).hasValue()",
    },
    Variable { name: "claims", expression: "variables.networks.filter(network, has(network.resourceClaim))" },
    // KubeVirt reports a claim beside a multus network alone, before it looks at the claims.
    Variable {
        name: "judgedClaims",
        expression: "variables.networks.exists(network, has(network.multus)) ? [] : variables.claims",
    },
    Variable {
        name: "completeClaims",
        expression: "variables.judgedClaims.filter(network,
  network.resourceClaim.?claimName.orValue('') != '' && network.resourceClaim.?requestName.orValue('') != '')",
    },
    Variable {
        name: "claimRequests",
        expression: "variables.completeClaims
  .map(network, network.resourceClaim.claimName + '/' + network.resourceClaim.requestName)",
    },
    // The NICs that the stored object has: an interface and a network of one name.
    Variable {
        name: "storedNames",
        expression: "[dyn(oldObject).?spec.?template.?spec.or(dyn(oldObject).?spec).orValue({})]
  .map(guest, [
    guest.?networks.orValue([]).map(network, network.?name.orValue('')),
    guest.?domain.?devices.?interfaces.orValue([]).map(interface, interface.?name.orValue(''))
  ])
  .map(names, names[1].filter(name, name in names[0]))[0]",
    },
    Variable {
        name: "absentNames",
        expression: "variables.interfaces
  .filter(interface, interface.?state.orValue('') == 'absent')
  .map(interface, interface.name)",
    },
    Variable {
        name: "plugged",
        expression: "variables.interfaceNames
  .filter(name, !(name in variables.storedNames) && !(name in variables.absentNames))
  .map(name, variables.interfaces[variables.interfaceNames.lastIndexOf(name)])",
    },
    Variable {
        name: "pluggedNetworks",
        expression: "variables.networkNames
  .filter(name, !(name in variables.storedNames) && !(name in variables.absentNames))
  .map(name, variables.networks[variables.networkNames.lastIndexOf(name)])",
    },
];

/// Returns the variables that expressions use, directly or by another variable, in the order of [`VARIABLES`].
pub(super) fn used_by<'e>(expressions: impl Iterator<Item = &'e str>) -> Vec<Variable> {
    let mut texts: Vec<&str> = expressions.collect();
    let mut used: Vec<Variable> = Vec::new();
    // Each variable comes after those that it uses.
    for variable in VARIABLES.iter().rev() {
        if texts.iter().any(|text| uses(text, variable.name)) {
            texts.push(variable.expression);
            used.push(*variable);
        }
    }
    used.reverse();
    used
}

/// Whether an expression uses a variable, and not one whose name only begins like it.
fn uses(text: &str, name: &str) -> bool {
    let mut rests = text.split("variables.").skip(1);
    rests.any(|rest| rest.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric())))
}

/// A condition without which the API server does not evaluate a policy. Conditions cannot use variables.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatchCondition {
    pub(super) name: &'static str,
    pub(super) expression: &'static str,
}

impl Scope {
    pub(super) fn match_conditions(self) -> &'static [MatchCondition] {
        match self {
            Self::Shape => &[MatchCondition {
                name: "nics-change",
                expression: "request.operation == 'CREATE' ||
[[dyn(object), dyn(oldObject)]
  .map(object, object.?spec.?virtualMachineTemplate.?spec.?template.?spec
    .or(object.?spec.?template.?spec)
    .or(object.?spec)
    .orValue({}))
  .map(guest, [guest.?domain.?devices.?interfaces.orValue([]), guest.?networks.orValue([])])
].exists(nics, nics[0] != nics[1])",
            }],
            Self::Hotplug => &[
                MatchCondition {
                    name: "guest-runs",
                    expression: "dyn(object).?status.?printableStatus.orValue('') in
  ['Running', 'Paused', 'Migrating'] &&
dyn(object).?spec.?runStrategy.orValue('') != 'Halted' &&
dyn(object).?spec.?running.orValue(true) &&
!has(object.metadata.deletionTimestamp)",
                },
                MatchCondition {
                    name: "does-not-wait-for-restart",
                    expression: "dyn(object).metadata.?annotations[?'nicplug.io/apply'].orValue('') != 'on-restart'",
                },
                // A controller retries a denied update without limit, and its user does not see the reason.
                MatchCondition {
                    name: "not-by-virt-controller",
                    expression: "!(request.userInfo.username.startsWith('system:serviceaccount:') &&
  request.userInfo.username.endsWith(':kubevirt-controller'))",
                },
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_the_variables_that_it_uses_and_those_that_they_use() {
        let names: Vec<&str> =
            used_by(["variables.podNetworks.size()"].into_iter()).iter().map(|variable| variable.name).collect();
        assert_eq!(names, ["guest", "networks", "networkNames", "podNetworks"]);
    }

    #[test]
    fn every_variable_is_used_and_comes_after_those_that_it_uses() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            let later = VARIABLES.iter().skip(index);
            assert!(later.clone().all(|later| !uses(variable.expression, later.name)), "{variable:?}");
            let of_policies = crate::admission::policies::EXPRESSED.iter().flat_map(|policy| policy.checks);
            let is_used = of_policies.map(|check| check.found).any(|text| uses(text, variable.name))
                || later.into_iter().any(|later| uses(later.expression, variable.name));
            assert!(is_used, "{variable:?}");
        }
    }
}
