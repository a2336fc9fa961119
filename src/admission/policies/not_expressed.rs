//! The rules that no policy expresses, and why.

use super::NotExpressed;

macro_rules! not_expressed {
    ($($rule:ident: $reason:literal,)+) => {
        /// Every rule that no policy expresses, sorted by id.
        pub static NOT_EXPRESSED: &[NotExpressed] =
            &[$(NotExpressed { rule: stringify!($rule), reason: $reason }),+];
    };
}

not_expressed! {
    NP101: "whether the gate is on depends on the configuration and the version of KubeVirt, in the KubeVirt resource",
    NP105: "a policy cannot read the NetworkAttachmentDefinition that the request names",
    NP106: "free PCI ports depend on the running guest and on the PCI layout of its KubeVirt version",
    NP107: "free PCI ports depend on the PCI layout of the KubeVirt version, on instancetypes and on preferences",
    NP108: "the template must be compared with the running guest, which is another object",
    NP109: "whether the guest has the NIC, and whether its KubeVirt can unplug it, is in other objects",
    NP110: "the phase of the guest is in the VMI, which is another object",
    NP111: "running migrations are other objects",
    NP112: "whether Multus attaches NICs to running pods is shown by DaemonSets, and migration needs the VMI and nodes",
    NP113: "the MAC addresses of other VMs, and the wires of their networks, are in other objects",
    NP114: "without nicplug no controller copies the NIC, so the annotation nicplug.io/persist has no effect",
    NP115: "without nicplug no webhook carries out the annotations nicplug.io/add-interfaces and remove-interfaces",
    NP116: "the rollout strategy is in the KubeVirt resource, and what goes live depends on the running guest",
    NP117: "the names that the running guest uses are in the VMI, which is another object",
    NP118: "the number of vCPUs depends on instancetypes, on defaults of the cluster and on the running guest",
    NP119: "the guests that use the network are other objects",
    NP120: "CEL cannot find the name that a misspelt one resembles, and most of them have no effect without nicplug",
}
