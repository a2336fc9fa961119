//! Where a live migration can move a guest: the nodes other than its own that it may run on. NP108 and NP112 use this.
//!
//! KubeVirt renders the guest's `nodeSelector` and affinity again for the target pod, and keeps it off the guest's own
//! node. The condition LiveMigratable says nothing about nodes. Taints are not judged.

use std::{cell::OnceCell, fmt, sync::Arc};

use super::{
    Facts, Nad, Vmi,
    nodes::{Node, Nodes},
};
use crate::{api::quote::quote, change::Nic, settings::Settings};

/// Why a migration of a guest cannot succeed, or not now. As text it continues a sentence such as "it needs a live
/// migration, and".
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Obstacle {
    /// By the settings, a guest with a NIC on a network of this plugin does not migrate.
    Plugin {
        /// The type of the plugin.
        plugin: String,
        /// The NIC.
        nic: String,
    },
    /// The cluster has no other node that runs guests.
    OneNode,
    /// The guest requires what no other node has: in this field.
    Pinned(&'static str),
    /// The nodes that the guest may run on accept no pods now.
    Unavailable {
        /// Whether one of them is cordoned.
        are_cordoned: bool,
        /// The name of the first.
        first: String,
        /// The number of the others.
        more: usize,
    },
    /// None of the nodes that the guest may run on offers the resource of the network.
    NoResource(String),
    /// A ResourceQuota has no room for a second pod of the guest.
    Quota {
        /// Its name.
        name: String,
        /// What is left of what is needed.
        shortage: String,
    },
}

impl Obstacle {
    /// Returns what hinders a migration that attaches or moves a NIC of a guest; `None` if nothing does, as far as is
    /// known.
    #[must_use]
    pub fn of(
        facts: &Facts,
        settings: &Settings,
        vmi: &Vmi,
        targets: &Targets,
        nic: &Nic,
        namespace: &str,
    ) -> Option<Self> {
        // The guest is moved with all its NICs. One whose network changes is on the new network then.
        let own = facts.known_nad(nic, namespace);
        let others = networks(facts).filter(|(name, _)| *name != nic.name);
        let of_plugins = Self::of_plugins(settings, own.iter().map(|nad| (nic.name, nad)).chain(others));
        of_plugins
            .or_else(|| Self::of_nodes(facts, vmi, targets, nic, namespace))
            .or_else(|| Self::of_quotas(facts, vmi))
    }

    /// Returns what hinders a migration of a guest as it is; `None` if nothing does, as far as is known, and in a cluster
    /// with one node.
    #[must_use]
    pub fn of_guest(facts: &Facts, settings: &Settings, vmi: &Vmi) -> Option<Self> {
        let nodes = facts.nodes.known().filter(|nodes| nodes.count() > 1);
        let of_targets = || nodes.and_then(|nodes| Self::of_targets(&Targets::default().of(nodes, vmi)?, vmi));
        let of_plugins = Self::of_plugins(settings, networks(facts));
        of_plugins.or_else(of_targets).or_else(|| Self::of_quotas(facts, vmi))
    }

    fn of_quotas(facts: &Facts, vmi: &Vmi) -> Option<Self> {
        let mut quotas = facts.quotas.known()?.iter();
        quotas.find_map(|quota| Some(Self::Quota { name: quota.name.to_string(), shortage: quota.shortage(vmi)? }))
    }

    fn of_plugins<'f>(
        settings: &Settings,
        mut networks: impl Iterator<Item = (&'f str, &'f Arc<Nad>)>,
    ) -> Option<Self> {
        let never = &settings.attachment.never_by_migration;
        if never.is_empty() {
            return None;
        }
        let plugin_of = |nad: &Nad| never.iter().find(|never| nad.network.plugins.iter().any(|it| **it == ***never));
        networks.find_map(|(nic, nad)| Some(Self::Plugin { plugin: plugin_of(nad)?.clone(), nic: nic.to_owned() }))
    }

    fn of_nodes(facts: &Facts, vmi: &Vmi, targets: &Targets, nic: &Nic, namespace: &str) -> Option<Self> {
        let nodes = facts.nodes.known()?;
        if nodes.count() == 1 {
            return Some(Self::OneNode);
        }
        let targets = targets.of(nodes, vmi)?;
        if let Some(obstacle) = Self::of_targets(&targets, vmi) {
            return Some(obstacle);
        }
        let resource = resource_of(facts, nic, namespace)?;
        let offers = targets.iter().any(|(_, node)| node.is_available() && node.may_offer(&resource));
        (!offers).then_some(Self::NoResource(resource))
    }

    fn of_targets(targets: &[(&str, &Node)], vmi: &Vmi) -> Option<Self> {
        let [(first, _), more @ ..] = targets else {
            let field = vmi.placement.as_ref().map_or("nodeSelector", |placement| placement.field());
            return Some(Self::Pinned(field));
        };
        if targets.iter().any(|(_, node)| node.is_available()) {
            return None;
        }
        let are_cordoned = targets.iter().any(|(_, node)| node.is_cordoned);
        Some(Self::Unavailable { are_cordoned, first: (*first).to_owned(), more: more.len() })
    }

    /// Whether it stays until a user changes the cluster or the guest.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Plugin { .. } | Self::OneNode | Self::Pinned(_))
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin { plugin, nic } => {
                write!(formatter, "plugin {plugin} of {nic} does not migrate", nic = quote(nic))
            }
            Self::OneNode => write!(formatter, "no other node can take the guest (one node)"),
            Self::Pinned(field) => write!(formatter, "no other node fits its {field}"),
            Self::Unavailable { are_cordoned, first, more } => {
                let state = if *are_cordoned { "cordoned" } else { "not schedulable" };
                let more = if *more > 0 { format!(" and {more} more") } else { String::new() };
                write!(formatter, "the other nodes are {state} ({first}{more})")
            }
            Self::Quota { name, shortage } => write!(formatter, "quota {name} has {shortage}", name = quote(name)),
            Self::NoResource(resource) => write!(formatter, "no other node offers {resource}"),
        }
    }
}

/// Returns the NICs of the guest with their networks, as far as they are known.
fn networks(facts: &Facts) -> impl Iterator<Item = (&str, &Arc<Nad>)> {
    facts.guest_networks.iter().map(|of| (&*of.nic, &of.nad))
}

/// The nodes that the guest of a change may be moved to. They are searched once, when the first NIC needs them: the
/// requirements of a guest may be long, and the change and the cluster large.
#[derive(Debug, Default)]
pub struct Targets(OnceCell<Option<Vec<usize>>>);

impl Targets {
    fn of<'n>(&self, nodes: &'n Nodes, vmi: &Vmi) -> Option<Vec<(&'n str, &'n Node)>> {
        let found = self.0.get_or_init(|| allowed(nodes, vmi)).as_ref()?;
        Some(found.iter().filter_map(|&index| nodes.at(index)).collect())
    }
}

/// Returns the indices of the nodes other than its own that a guest may run on; `None` if its requirements are not known,
/// or if its own node is unknown and may be any of several.
fn allowed(nodes: &Nodes, vmi: &Vmi) -> Option<Vec<usize>> {
    if vmi.placement.as_ref().is_some_and(|placement| !placement.is_known()) {
        return None;
    }
    let is_allowed =
        |name: &str, node: &Node| vmi.placement.as_ref().is_none_or(|placement| placement.allows(name, node));
    let allowed = nodes.iter().enumerate().filter(|(_, (name, node))| **name != *vmi.node && is_allowed(name, node));
    let allowed: Vec<_> = allowed.map(|(index, _)| index).collect();
    match (vmi.node.is_empty(), allowed.len()) {
        (false, _) => Some(allowed),
        // The guest runs on one of them.
        (true, 0 | 1) => Some(Vec::new()),
        (true, _) => None,
    }
}

/// Returns the resource that the network of a NIC needs.
fn resource_of(facts: &Facts, nic: &Nic, namespace: &str) -> Option<String> {
    facts.known_nad(nic, namespace)?.resource.as_deref().map(str::to_owned)
}

/// Returns the resource of a NIC's network that the guest's own node does not offer.
#[must_use]
pub fn missing_on_own_node(facts: &Facts, vmi: &Vmi, nic: &Nic, namespace: &str) -> Option<String> {
    let node = facts.nodes.known()?.get(&vmi.node)?;
    resource_of(facts, nic, namespace).filter(|resource| !node.may_offer(resource))
}
