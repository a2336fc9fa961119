//! The default binding as a MutatingAdmissionPolicy: `bridge: {}` on an added NIC without a binding.

use super::version::KubernetesVersion;

/// Whether the default binding is exported.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mutating {
    /// If the version of Kubernetes has MutatingAdmissionPolicies in its stable API.
    #[default]
    Auto,
    /// Also for a version that has them as alpha or beta, which are off unless the cluster enables them.
    Always,
    /// Never.
    Never,
}

/// The first version with the stable API.
pub(super) const STABLE_SINCE: KubernetesVersion = KubernetesVersion::new(1, 36);

/// Returns the version of the API in a version of Kubernetes; `None` before the alpha.
pub(super) fn api_version(kubernetes: KubernetesVersion) -> Option<&'static str> {
    const BETA_SINCE: KubernetesVersion = KubernetesVersion::new(1, 34);
    const ALPHA_SINCE: KubernetesVersion = KubernetesVersion::new(1, 32);
    if kubernetes >= STABLE_SINCE {
        Some("v1")
    } else if kubernetes >= BETA_SINCE {
        Some("v1beta1")
    } else if kubernetes >= ALPHA_SINCE {
        Some("v1alpha1")
    } else {
        None
    }
}

/// The NICs that an update adds without a binding, by the index of the interface.
pub(super) const UNBOUND: (&str, &str) = (
    "unbound",
    "variables.interfaceNames
  .filter(name, !(name in variables.storedNames) && !(name in variables.newerInterfaces) &&
    name in variables.networkNames && !(name in variables.podNetworks))
  .map(name, variables.interfaceNames.lastIndexOf(name))
  .filter(index,
    ['bridge', 'masquerade', 'sriov', 'passtBinding', 'binding', 'slirp', 'macvtap', 'passt']
      .all(key, !(key in variables.interfaces[index])))",
);

/// The operations: `interfaces` is an atomic list, which an apply configuration cannot change.
pub(super) const PATCH: &str = "variables.unbound.map(index, JSONPatch{
  op: 'add',
  path: (has(dyn(object).spec.template) ? '/spec/template/spec' : '/spec') +
    '/domain/devices/interfaces/' + string(index) + '/bridge',
  value: {}
})";
