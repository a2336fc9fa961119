//! Feature gates: the version since which each is on, and the precedence of the lists of the KubeVirt resource.

use super::Version;

/// A feature gate that a rule reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gate {
    /// KubeVirt copies hotpluggable volumes of a VM's template to its running guest.
    DeclarativeHotplugVolumes,
    /// Volumes are hotplugged by a subresource, and not by the template.
    HotplugVolumes,
    /// NICs can be plugged into a running guest.
    HotplugNics,
    /// Devices of NICs are requested by the network-resources-injector: KubeVirt reads no NetworkAttachmentDefinition.
    ExternalNetResourceInjection,
    /// A changed `networkName` of a live VM is applied by migration.
    LiveUpdateNadRef,
    /// Networks of DRA devices (`networks[].resourceClaim`).
    NetworkDevicesWithDra,
    /// `interfaces[].passtBinding`.
    PasstBinding,
    /// NUMA-aware placement of PCI devices (alpha).
    PciNumaAwareTopology,
    /// Plugins that may rewrite the domain of a guest (alpha).
    Plugins,
    /// A migration renames pod interfaces with ordinal names.
    PodSecondaryInterfaceNamingUpgrade,
    /// `interfaces[].portRanges`.
    PortRangesSpec,
}

/// The maturity of a gate in a version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Maturity {
    /// Off unless listed.
    Alpha,
    /// Since 1.9 on unless disabled; before 1.9 as alpha.
    Beta,
    /// Always on.
    GenerallyAvailable,
}

impl Gate {
    /// Returns the name in `featureGates[]`, which is case-sensitive.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ExternalNetResourceInjection => "ExternalNetResourceInjection",
            Self::DeclarativeHotplugVolumes => "DeclarativeHotplugVolumes",
            Self::HotplugNics => "HotplugNICs",
            Self::HotplugVolumes => "HotplugVolumes",
            Self::LiveUpdateNadRef => "LiveUpdateNADRef",
            Self::NetworkDevicesWithDra => "NetworkDevicesWithDRA",
            Self::PasstBinding => "PasstBinding",
            Self::PciNumaAwareTopology => "PCINUMAAwareTopology",
            Self::Plugins => "Plugins",
            Self::PodSecondaryInterfaceNamingUpgrade => "PodSecondaryInterfaceNamingUpgrade",
            Self::PortRangesSpec => "PortRangesSpec",
        }
    }

    /// Returns the maturity of the gate in a version.
    fn maturity(self, version: Version) -> Maturity {
        let since = |major, minor| version.is_at_least(major, minor);
        match self {
            Self::HotplugNics if since(1, 4) => Maturity::GenerallyAvailable,
            Self::LiveUpdateNadRef if since(1, 9) => Maturity::GenerallyAvailable,
            Self::ExternalNetResourceInjection if since(1, 10) => Maturity::GenerallyAvailable,
            Self::ExternalNetResourceInjection
            | Self::LiveUpdateNadRef
            | Self::PasstBinding
            | Self::PodSecondaryInterfaceNamingUpgrade
                if since(1, 8) =>
            {
                Maturity::Beta
            }
            Self::DeclarativeHotplugVolumes if since(1, 9) => Maturity::Beta,
            Self::NetworkDevicesWithDra if since(1, 10) => Maturity::Beta,
            _ => Maturity::Alpha,
        }
    }
}

/// The lists of `spec.configuration.developerConfiguration`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GateLists {
    /// `featureGates[]`.
    pub enabled: Vec<String>,
    /// `disabledFeatureGates[]`, which KubeVirt has read since 1.8.
    pub disabled: Vec<String>,
}

impl GateLists {
    /// Whether a gate is on in a cluster of this version. If the version is unknown, every gate has to be listed.
    ///
    /// The precedence since 1.9 is: generally available, listed, disabled, beta. Before 1.9 a beta gate has to be
    /// listed: KubeVirt 1.8 reads `disabledFeatureGates[]`, but turns no gate on that is not listed.
    #[must_use]
    pub fn is_on(&self, gate: Gate, version: Option<Version>) -> bool {
        let lists = |list: &[String]| list.iter().any(|name| name == gate.name());
        let maturity = version.map_or(Maturity::Alpha, |version| gate.maturity(version));
        if maturity == Maturity::GenerallyAvailable || lists(&self.enabled) {
            return true;
        }
        let beta_is_on = version.is_some_and(|version| version.is_at_least(1, 9));
        maturity == Maturity::Beta && beta_is_on && !lists(&self.disabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gate, version, listed, disabled, on.
    const TABLE: &[(Gate, &str, bool, bool, bool)] = &[
        (Gate::HotplugNics, "v0.59.0", false, false, false),
        (Gate::HotplugNics, "v1.0.0", true, false, true),
        (Gate::HotplugNics, "v1.3.1", false, false, false),
        (Gate::HotplugNics, "v1.3.1", true, false, true),
        (Gate::HotplugNics, "v1.4.0-rc.0", false, false, true),
        (Gate::HotplugNics, "v1.9.0", false, true, true),
        (Gate::HotplugNics, "v1.10.0", false, false, true),
        (Gate::HotplugNics, "", false, false, false),
        (Gate::HotplugNics, "", true, false, true),
        (Gate::PasstBinding, "v1.7.0", false, false, false),
        (Gate::PasstBinding, "v1.7.0", true, false, true),
        (Gate::PasstBinding, "v1.8.0", false, false, false),
        (Gate::PasstBinding, "v1.8.0", false, true, false),
        (Gate::PasstBinding, "v1.8.0", true, true, true),
        (Gate::LiveUpdateNadRef, "v1.7.2", false, false, false),
        (Gate::LiveUpdateNadRef, "v1.8.0", false, false, false),
        (Gate::LiveUpdateNadRef, "v1.8.0", false, true, false),
        (Gate::PasstBinding, "v1.8.4", false, false, false),
        (Gate::PasstBinding, "v1.9.0", false, false, true),
        (Gate::PasstBinding, "v1.9.0", false, true, false),
        (Gate::LiveUpdateNadRef, "v1.8.4", true, false, true),
        (Gate::LiveUpdateNadRef, "v1.9.0", false, true, true),
        (Gate::PortRangesSpec, "v1.9.0", false, false, false),
        (Gate::PortRangesSpec, "v1.9.0", true, false, true),
        (Gate::NetworkDevicesWithDra, "v1.9.0", false, false, false),
        (Gate::NetworkDevicesWithDra, "v1.9.0", true, true, true),
    ];

    #[test]
    fn every_gate_is_on_in_the_right_versions() {
        for &(gate, version, listed, disabled, on) in TABLE {
            let list = |set: bool| if set { vec![gate.name().to_owned()] } else { Vec::new() };
            let lists = GateLists { enabled: list(listed), disabled: list(disabled) };
            assert_eq!(lists.is_on(gate, version.parse().ok()), on, "{gate:?} {version:?} {listed} {disabled}");
        }
    }

    /// The minor versions since which each gate is alpha, beta and generally available, from KubeVirt's list of gates at
    /// its tags; `None` if it never is.
    type Since = Option<(u16, u16)>;
    const SINCE: &[(Gate, Since, Since)] = &[
        (Gate::DeclarativeHotplugVolumes, Some((1, 9)), None),
        (Gate::ExternalNetResourceInjection, Some((1, 8)), Some((1, 10))),
        (Gate::HotplugNics, None, Some((1, 4))),
        (Gate::HotplugVolumes, None, None),
        (Gate::LiveUpdateNadRef, Some((1, 8)), Some((1, 9))),
        (Gate::NetworkDevicesWithDra, Some((1, 10)), None),
        (Gate::PasstBinding, Some((1, 8)), None),
        (Gate::PciNumaAwareTopology, None, None),
        (Gate::Plugins, None, None),
        (Gate::PodSecondaryInterfaceNamingUpgrade, Some((1, 8)), None),
        (Gate::PortRangesSpec, None, None),
    ];

    #[test]
    fn every_gate_is_on_in_every_minor_version_as_kubevirt_decides() {
        let minors = [(0, 58), (0, 59)].into_iter().chain((0..=10).map(|minor| (1, minor)));
        for minor @ (major, number) in minors {
            for &(gate, beta, available) in SINCE {
                for (is_listed, is_disabled) in [(false, false), (true, false), (false, true), (true, true)] {
                    let list = |set: bool| if set { vec![gate.name().to_owned()] } else { Vec::new() };
                    let lists = GateLists { enabled: list(is_listed), disabled: list(is_disabled) };
                    let has = |since: Since| since.is_some_and(|since| minor >= since);
                    let is_on_as_beta = has(beta) && minor >= (1, 9) && !is_disabled;
                    let expected = has(available) || is_listed || is_on_as_beta;
                    let is_on = lists.is_on(gate, Some(Version::new(major, number, 0)));
                    assert_eq!(is_on, expected, "{gate:?} {minor:?} listed {is_listed} disabled {is_disabled}");
                }
            }
        }
    }

    #[test]
    fn gate_names_are_case_sensitive() {
        let lists = GateLists { enabled: vec!["hotplugnics".to_owned()], disabled: Vec::new() };
        assert!(!lists.is_on(Gate::HotplugNics, Some(Version::new(1, 3, 1))));
    }
}
