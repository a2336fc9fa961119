//! NP102 to NP104: a NIC that an update adds to the template of a running VM.

use super::{Check, Policy, Scope};

/// What all three do not see.
const GUEST_UNSEEN: [&str; 3] = [
    "The VM's status shows whether the guest runs (printableStatus Running, Paused or Migrating); nicplug reads the \
     VMI, and also judges a guest that is starting.",
    "A NIC counts as plugged if the update adds it to the template; nicplug compares with the running guest, so it \
     also judges a NIC that is still pending, and allows one that the guest has already.",
    "VMIs and status.interfaceRequests are not judged. The annotation nicplug.io/apply=on-restart exempts a VM; no \
     warning and no Event says that the change waits.",
];

/// NP102.
pub(super) static HOTPLUG_BINDING: Policy = Policy {
    rule: "NP102",
    scope: Scope::Hotplug,
    checks: &[Check {
        name: "bootOnlyBindings",
        found: "variables.plugged
  .filter(interface, !has(interface.bridge) && !has(interface.sriov) &&
    !(interface.name in variables.newerInterfaces) &&
    ['slirp', 'masquerade', 'macvtap', 'passt', 'passtBinding', 'binding']
      .filter(key, key in interface).size() == 1 &&
    !(has(interface.binding) && interface.binding.name in HOTPLUG_BINDINGS))
  .map(interface, strings.quote(interface.name) + ' cannot be hotplugged: ' +
    ['slirp', 'masquerade', 'macvtap', 'passt', 'passtBinding', 'binding']
      .filter(key, key in interface)
      .map(key, key == 'binding' ? 'binding plugin ' + strings.quote(interface.binding.name) : key)[0] +
    ' is attached at boot only')",
        fix: "use bridge: {} (or sriov: {} with an SR-IOV network)",
    }],
    limits: &[
        "SR-IOV hotplug on KubeVirt before 1.1 is not denied: the version is in the KubeVirt resource.",
        GUEST_UNSEEN[0],
        GUEST_UNSEEN[1],
        GUEST_UNSEEN[2],
    ],
};

/// NP103.
pub(super) static HOTPLUG_MODEL: Policy = Policy {
    rule: "NP103",
    scope: Scope::Hotplug,
    checks: &[Check {
        name: "otherModels",
        found: "variables.plugged
  .filter(interface, has(interface.bridge) && !(interface.?model.orValue('') in ['', 'virtio']))
  .map(interface, strings.quote(interface.name) + ' cannot be hotplugged with model ' +
    strings.quote(interface.model) + ': only virtio can')",
        fix: "set model: virtio, or omit model",
    }],
    limits: &GUEST_UNSEEN,
};

/// NP104.
pub(super) static HOTPLUG_NETWORK: Policy = Policy {
    rule: "NP104",
    scope: Scope::Hotplug,
    checks: &[Check {
        name: "bootOnlyNetworks",
        found: "variables.pluggedNetworks
  .filter(network, has(network.pod) || network.?multus.?default.orValue(false) ||
    (has(network.resourceClaim) && !has(network.multus)))
  .map(network, strings.quote(network.?name.orValue('')) + ' cannot be hotplugged: ' +
    (has(network.pod) ? 'the pod network' :
      network.?multus.?default.orValue(false) ? 'the multus default network' : 'a resource claim') +
    ' is attached at boot only')",
        fix: "use multus: {networkName: NAD} without default: true, or stop the VM first",
    }],
    limits: &GUEST_UNSEEN,
};
