//! NP119.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::quote::quote,
    change::NetworkChange,
    facts::{Fact, FactKind, Facts, NetworkUsers},
};

rule! {
    /// A NetworkAttachmentDefinition is deleted, or its configuration changes, while running guests use it.
    ///
    /// ## Why
    /// A running guest keeps the NIC that it has. But Multus reads the NetworkAttachmentDefinition for each new pod: after
    /// its deletion the guest can neither be migrated nor start again, and after another configuration each migration
    /// or start attaches the NIC by the new one, while the other guests keep the old one.
    ///
    /// nicplug reviews only UPDATE and DELETE of NetworkAttachmentDefinitions, in a webhook of its own whose failure policy
    /// is `Ignore`. An update that leaves `spec.config` as it is, in whatever layout, is not a finding, nor are guests
    /// that are being deleted or have ended.
    ///
    /// ## Example
    /// ```sh
    /// kubectl delete network-attachment-definitions blue
    /// ```
    NP119, "network-in-use", Network, Warn,
    field: "spec.config",
    fix: "stop the guests or remove their NICs on this network first",
}

/// The number of guests that a message names.
const NAMED: usize = 2;

/// No [`Change`](crate::change::Change) is in the scope of the rule: see [`check_network`].
fn check(_: &Case) -> Vec<Finding> {
    Vec::new()
}

/// Checks a change of a NetworkAttachmentDefinition.
pub(super) fn check_network(change: &NetworkChange, facts: &Facts) -> Vec<Finding> {
    let network = change.network().full_name();
    match &facts.network_users {
        Fact::Known(users) if users.count > 0 => {
            let guests = if users.count == 1 { "guest" } else { "guests" };
            let (count, names) = (users.count, names(users, change.namespace));
            let what =
                format!("network {network} is in use by {count} running {guests}: {names}", network = quote(&network));
            let field = if change.is_deletion { "metadata.name" } else { "spec.config" };
            vec![RULE.fault(CauseType::Invalid, field.to_owned(), what)]
        }
        Fact::Known(_) | Fact::Absent => Vec::new(),
        Fact::Unknown => {
            let what = format!(
                "whether running guests use network {network} was not checked: they are not known",
                network = quote(&network)
            );
            vec![RULE.unknown(FactKind::Vmi, what)]
        }
    }
}

/// Returns the names of the first guests, and the number of the others: `vm-a, vm-b and 1 more`.
fn names(users: &NetworkUsers, own_namespace: &str) -> String {
    let named = users.guests.iter().take(NAMED);
    let names: Vec<&str> = named
        .map(|guest| match guest.split_once('/') {
            Some((namespace, name)) if namespace == own_namespace => name,
            _ => guest,
        })
        .collect();
    match users.count - names.len() {
        0 => names.join(" and "),
        others => format!("{} and {others} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::FindingKind;

    fn finding(is_deletion: bool, network_users: Fact<NetworkUsers>) -> Option<Finding> {
        let change = NetworkChange { namespace: "demo", name: "blue", is_deletion, multus_namespace: None };
        let mut findings = check_network(&change, &Facts { network_users, ..Facts::default() });
        assert!(findings.len() < 2, "{findings:?}");
        findings.pop()
    }

    #[test]
    fn the_guests_of_a_network_are_named_and_counted() {
        for (guests, count, message) in [
            (&["demo/vm-a"][..], 1, "1 running guest: vm-a"),
            (&["demo/vm-a", "prod/vm-b"], 2, "2 running guests: vm-a and prod/vm-b"),
            (&["demo/vm-a", "demo/vm-b", "demo/vm-c"], 3, "3 running guests: vm-a, vm-b and 1 more"),
            (&["demo/vm-a", "demo/vm-b"], 900, "900 running guests: vm-a, vm-b and 898 more"),
        ] {
            let guests = guests.iter().map(|guest| (*guest).to_owned()).collect();
            for (is_deletion, field) in [(true, "metadata.name"), (false, "spec.config")] {
                let users = Fact::Known(NetworkUsers { guests: Vec::clone(&guests), count });
                let found = finding(is_deletion, users).unwrap();
                assert_eq!((&*found.field, found.kind), (field, FindingKind::Fault(CauseType::Invalid)));
                assert_eq!(found.what, format!("network \"demo/blue\" is in use by {message}"));
            }
        }
    }

    #[test]
    fn a_network_without_users_is_silent_and_unknown_users_are_reported() {
        assert!(finding(true, Fact::Known(NetworkUsers::default())).is_none());
        assert_eq!(finding(true, Fact::Unknown).unwrap().kind, FindingKind::Unchecked);
    }
}
