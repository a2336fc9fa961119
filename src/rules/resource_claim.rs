//! NP009.

use std::collections::{HashMap, HashSet, hash_map};

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::network::{Interface, ResourceClaimSource},
    api::quote::quote,
    facts::FactKind,
    kubevirt::gates::Gate,
};

rule! {
    /// A network's DRA claim is invalid, or the VM cannot use it.
    ///
    /// ## Why
    /// A network with `resourceClaim` gets its device from a claim of the pod (KubeVirt 1.9, feature gate
    /// NetworkDevicesWithDRA). The claim must be listed in `resourceClaims` of the same spec, each request of it serves
    /// one network, the interface must pass the device through with sriov or a binding plugin, and the VM must not have
    /// multus networks as well.
    ///
    /// ## Example
    /// ```yaml
    /// networks:
    /// - name: blue
    ///   resourceClaim: {claimName: nics, requestName: blue}
    /// resourceClaims: []
    /// ```
    NP009, "resource-claim", Shape, Deny,
    field: "networks[].resourceClaim",
    fix: "set claimName to a claim in resourceClaims and requestName to one of its requests",
}

fn check(case: &Case) -> Vec<Finding> {
    let guest = case.change.after.guest;
    let mut claims = guest.networks.iter().filter(|network| network.resource_claim.is_some());
    let Some(first) = claims.next() else { return Vec::new() };
    let whole = |what, fix: &str| {
        let field = format!("{}.networks", case.change.after.path);
        vec![RULE.fault(CauseType::Invalid, field, what).with_fix(fix.to_owned())]
    };
    match case.has(Gate::NetworkDevicesWithDra) {
        None => {
            return vec![RULE.unknown(
                FactKind::KubeVirt,
                "feature gate NetworkDevicesWithDRA was not checked: the KubeVirt resource is not known",
            )];
        }
        Some(false) => {
            let what = format!(
                "network {} has a resourceClaim, but feature gate NetworkDevicesWithDRA is off",
                quote(&first.name)
            );
            let fix = "add NetworkDevicesWithDRA to spec.configuration.developerConfiguration.featureGates of the \
                       KubeVirt resource, or use another source";
            return whole(what, fix);
        }
        Some(true) => {}
    }
    if let Some(multus) = guest.networks.iter().find(|network| network.multus.is_some()) {
        let what = format!(
            "one VM cannot have both network {} (resourceClaim) and network {} (multus)",
            quote(&first.name),
            quote(&multus.name)
        );
        return whole(what, "use resourceClaim for all of them, or multus for all");
    }
    Claims::of(case).check()
}

/// Checks the claims of a guest's networks.
struct Claims<'c> {
    case: &'c Case<'c>,
    /// Names in `resourceClaims[]`.
    listed: HashSet<&'c str>,
    /// The interface of each network: the first one with its name.
    interfaces: HashMap<&'c str, (usize, &'c Interface<'c>)>,
    /// `CLAIM/REQUEST`, with the network that uses it.
    used: HashMap<String, &'c str>,
}

impl<'c> Claims<'c> {
    fn of(case: &'c Case<'c>) -> Self {
        let guest = case.change.after.guest;
        let interfaces = guest.interfaces().iter().enumerate().rev();
        Self {
            case,
            listed: guest.resource_claims.iter().map(|claim| claim.name.as_str()).collect(),
            interfaces: interfaces.map(|(index, interface)| (interface.name.as_str(), (index, interface))).collect(),
            used: HashMap::new(),
        }
    }

    fn check(mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (index, network) in self.case.change.after.guest.networks.iter().enumerate() {
            let Some(claim) = &network.resource_claim else { continue };
            let name = network.name.as_str();
            findings.extend(self.binding(name));
            findings.extend(self.missing_names(index, name, claim));
            if !claim.claim_name.is_empty() && !claim.request_name.is_empty() {
                findings.extend(self.not_listed(index, name, claim));
                findings.extend(self.used_twice(index, name, claim));
            }
        }
        findings
    }

    /// KubeVirt reports this fault at the whole list of interfaces, and so does nicplug; the fix names the interface.
    fn binding(&self, network: &str) -> Option<Finding> {
        let (index, interface) = self.interfaces.get(network)?;
        let bindings = &interface.bindings;
        if bindings.sriov.is_some() || bindings.plugin.is_some() || bindings.is_unknown() {
            return None;
        }
        let field = format!("{}.domain.devices.interfaces", self.case.change.after.path);
        let what = format!(
            "the resourceClaim of network {network} needs an interface with sriov or a binding plugin",
            network = quote(network)
        );
        let fix = format!("set sriov or binding in {}", self.case.change.interface_field(*index));
        Some(RULE.fault(CauseType::Invalid, field, what).with_fix(fix))
    }

    fn missing_names(&self, index: usize, network: &str, claim: &ResourceClaimSource) -> impl Iterator<Item = Finding> {
        let fields = [("claimName", claim.claim_name.is_empty()), ("requestName", claim.request_name.is_empty())];
        fields.into_iter().filter(|(_, is_missing)| *is_missing).map(move |(key, _)| {
            let field = format!("{}.resourceClaim.{key}", self.case.change.network_field(index));
            RULE.fault(
                CauseType::Required,
                field,
                format!("the resourceClaim of network {network} has no {key}", network = quote(network)),
            )
        })
    }

    fn not_listed(&self, index: usize, network: &str, claim: &ResourceClaimSource) -> Option<Finding> {
        let name = claim.claim_name.as_str();
        if self.listed.contains(name) {
            return None;
        }
        let field = format!("{}.resourceClaim.claimName", self.case.change.network_field(index));
        let what = format!(
            "claim {name} of network {network} is not listed in resourceClaims",
            name = quote(name),
            network = quote(network)
        );
        let fix = format!("add an entry with that name to {}.resourceClaims", self.case.change.after.path);
        Some(RULE.fault(CauseType::NotFound, field, what).with_fix(fix))
    }

    fn used_twice(&mut self, index: usize, network: &'c str, claim: &ResourceClaimSource) -> Option<Finding> {
        // KubeVirt, too, compares claim and request as one text.
        let pair = format!("{}/{}", claim.claim_name, claim.request_name);
        match self.used.entry(pair) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(network);
                None
            }
            hash_map::Entry::Occupied(entry) => {
                let what = format!(
                    "network {network} uses request {}, as does network {}",
                    quote(entry.key()),
                    quote(entry.get()),
                    network = quote(network)
                );
                let fault = RULE.fault(CauseType::Duplicate, self.case.change.network_field(index), what);
                Some(fault.with_fix("use a different request for each network".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, table, table_on};

    const ON: &str = r#"{"developerConfiguration": {"featureGates": ["NetworkDevicesWithDRA"]}}"#;

    fn guest(bindings: [&str; 2], networks: [&str; 2]) -> String {
        format!(
            r#"{{"domain": {{"devices": {{"interfaces": [{{"name": "a", {}}}, {{"name": "b", {}}}]}}}},
                "networks": [{{"name": "a", {}}}, {{"name": "b", {}}}], "resourceClaims": [{{"name": "nics"}}]}}"#,
            bindings[0], bindings[1], networks[0], networks[1]
        )
    }

    fn claim(claim: &str, request: &str) -> String {
        format!(r#""resourceClaim": {{"claimName": "{claim}", "requestName": "{request}"}}"#)
    }

    const SRIOV: [&str; 2] = [r#""sriov": {}"#, r#""sriov": {}"#];

    #[test]
    fn verdicts() {
        let (x, y, other) = (claim("nics", "x"), claim("nics", "y"), claim("other", "x"));
        for (guest, expect) in [
            (guest(SRIOV, [&x, &y]), Expect::Silent),
            (guest([SRIOV[0], r#""binding": {"name": "p"}"#], [&x, &y]), Expect::Silent),
            (guest([SRIOV[0], r#""teleport": {}"#], [&x, &y]), Expect::Silent),
            (guest(SRIOV, [&x, r#""pod": {}"#]), Expect::Silent),
            (
                guest([r#""bridge": {}"#, SRIOV[0]], [&x, &y]),
                Expect::Faults(&["spec.template.spec.domain.devices.interfaces"]),
            ),
            (guest(SRIOV, [&x, &other]), Expect::Faults(&["spec.template.spec.networks[1].resourceClaim.claimName"])),
            (guest(SRIOV, [&x, &x]), Expect::Faults(&["spec.template.spec.networks[1]"])),
            (
                guest(SRIOV, [&x, r#""resourceClaim": {}"#]),
                Expect::Faults(&[
                    "spec.template.spec.networks[1].resourceClaim.claimName",
                    "spec.template.spec.networks[1].resourceClaim.requestName",
                ]),
            ),
            (
                guest(SRIOV, [&other, r#""multus": {"networkName": "n"}"#]),
                Expect::Faults(&["spec.template.spec.networks"]),
            ),
        ] {
            table_on(&RULE, ON, &[(&guest, expect)]);
        }
    }

    #[test]
    fn without_the_gate_there_is_one_fault_and_without_facts_none() {
        let faulty = guest([r#""bridge": {}"#, SRIOV[0]], [&claim("", ""), &claim("other", "x")]);
        table_on(&RULE, "{}", &[(&faulty, Expect::Faults(&["spec.template.spec.networks"]))]);
        table(&RULE, &[(&faulty, Expect::Unchecked)]);
    }
}
