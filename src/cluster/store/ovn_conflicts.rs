//! NetworkAttachmentDefinitions that give one OVN network different settings.

use std::collections::BTreeMap;

use crate::{api::network::NadRef, facts::cni::OvnNetwork};

/// The OVN networks whose definitions have different settings. Most clusters have none.
#[derive(Debug)]
pub(super) struct OvnConflicts(BTreeMap<Box<str>, Conflict>);

#[derive(Debug)]
struct Conflict {
    /// The settings of the first definition by namespace and name.
    settings: u64,
    /// The first definition.
    first: String,
    /// The first definition with other settings.
    other: String,
}

impl OvnConflicts {
    /// Compares all definitions of OVN networks, in n·log n.
    pub(super) fn of<'n>(definitions: impl Iterator<Item = (NadRef<'n>, &'n OvnNetwork)>) -> Self {
        let mut definitions: Vec<_> = definitions.collect();
        definitions.sort_unstable_by_key(|&(name, network)| (&network.name, name));
        let of_networks = definitions.chunk_by(|(_, one), (_, other)| one.name == other.name);
        let conflicts = of_networks.filter_map(|definitions| {
            let (first, network) = definitions.first()?;
            let (other, _) = definitions.iter().find(|(_, other)| other.settings != network.settings)?;
            let conflict = Conflict { settings: network.settings, first: first.full_name(), other: other.full_name() };
            Some((network.name.clone(), conflict))
        });
        Self(conflicts.collect())
    }

    /// Returns the first definition of the same network with other settings, as `namespace/name`.
    pub(super) fn with(&self, network: &OvnNetwork) -> Option<&str> {
        let Conflict { settings, first, other } = self.0.get(&network.name)?;
        Some(if network.settings == *settings { other } else { first })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_definition_with_other_settings_is_found(kinds in prop::collection::vec((0..3_u8, 0..3_u64), 0..12)) {
            let networks: Vec<OvnNetwork> = kinds
                .into_iter()
                .map(|(name, settings)| OvnNetwork { name: name.to_string().into(), settings, ..OvnNetwork::default() })
                .collect();
            // Not in the order of the names.
            let names: Vec<String> = (0..networks.len()).map(|index| format!("{:02}", index * 7 % 12)).collect();
            let all = || names.iter().map(|name| NadRef { namespace: "demo", name }).zip(&networks);
            let conflicts = OvnConflicts::of(all());
            for network in &networks {
                let differs = |other: &OvnNetwork| network.name == other.name && network.settings != other.settings;
                let expected = all().filter(|(_, other)| differs(other)).map(|(name, _)| name).min();
                let expected = expected.map(NadRef::full_name);
                prop_assert_eq!(conflicts.with(network), expected.as_deref());
            }
        }
    }
}
