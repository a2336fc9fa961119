//! The rules as admission policies in CEL, which the API server evaluates itself: for clusters without a webhook.
//!
//! [`EXPRESSED`] has the rules that CEL can express, each with what its policy does not cover, and [`NOT_EXPRESSED`]
//! has the others with the reason. A policy sees the request only: no other object, and nothing that nicplug watches.
//! [`export`] writes both as manifests.

mod hotplug;
mod manifest;
mod mutation;
mod not_expressed;
mod shape;
mod variables;
mod version;

pub use self::{
    manifest::{Export, Options, export},
    mutation::Mutating,
    not_expressed::NOT_EXPRESSED,
    version::{KubernetesVersion, KubernetesVersionError},
};

/// Every rule that a policy expresses, sorted by id.
pub static EXPRESSED: &[&Policy] = &[
    &shape::DUPLICATE_NETWORK_NAME,
    &shape::DUPLICATE_INTERFACE_NAME,
    &shape::INTERFACE_WITHOUT_NETWORK,
    &shape::NETWORK_WITHOUT_INTERFACE,
    &shape::NETWORK_SOURCE,
    &shape::INTERFACE_BINDING,
    &shape::INTERFACE_STATE,
    &shape::INTERFACE_FIELDS,
    &shape::RESOURCE_CLAIM,
    &hotplug::HOTPLUG_BINDING,
    &hotplug::HOTPLUG_MODEL,
    &hotplug::HOTPLUG_NETWORK,
];

/// A rule as a ValidatingAdmissionPolicy.
#[derive(Debug)]
pub struct Policy {
    /// The id of the rule.
    pub rule: &'static str,
    /// The requests that the policy covers.
    pub scope: Scope,
    /// What the policy denies.
    pub checks: &'static [Check],
    /// What the rule finds and the policy does not, or the other way round, each as one sentence.
    pub limits: &'static [&'static str],
}

/// The requests that a policy covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Every request that creates or changes NICs of a VM, VMI, replica set or pool.
    Shape,
    /// Updates of VMs whose guest runs.
    Hotplug,
}

/// One thing that a policy denies.
#[derive(Debug)]
pub struct Check {
    /// The variable that holds what was found.
    pub name: &'static str,
    /// A list of sentences in CEL: what is wrong, as the rule words it. The API server returns the first one.
    pub found: &'static str,
    /// How to fix it; the message appends it after a semicolon.
    pub fix: &'static str,
}

/// A rule that no policy expresses.
#[derive(Debug)]
pub struct NotExpressed {
    /// The id of the rule.
    pub rule: &'static str,
    /// The reason, as one clause.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rules::{RULES, find};

    #[test]
    fn every_rule_is_either_expressed_or_listed_with_its_reason() {
        let expressed = EXPRESSED.iter().map(|policy| policy.rule);
        let mut ids: Vec<&str> = expressed.chain(NOT_EXPRESSED.iter().map(|rule| rule.rule)).collect();
        ids.sort_unstable();
        assert_eq!(ids, RULES.iter().map(|rule| rule.id).collect::<Vec<_>>());
        for rule in NOT_EXPRESSED {
            assert!(rule.reason.len() > 20 && !rule.reason.ends_with('.'), "{rule:?}");
        }
    }

    #[test]
    fn the_names_of_checks_are_unique_in_a_policy_and_no_fix_is_empty() {
        for policy in EXPRESSED {
            let names: BTreeSet<&str> = policy.checks.iter().map(|check| check.name).collect();
            assert_eq!(names.len(), policy.checks.len(), "{policy:?}");
            assert!(policy.checks.iter().all(|check| !check.fix.is_empty() && !check.fix.contains('\'')));
            assert!(policy.limits.iter().all(|limit| limit.ends_with('.')), "{policy:?}");
            assert!(find(policy.rule).is_some());
        }
    }
}
