//! Feature gates: the version since which each is on, and the precedence of the lists of the KubeVirt resource.

use super::Version;

/// A feature gate that a rule reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gate {
    /// NICs can be plugged into a running guest.
    HotplugNics,
    /// A changed `networkName` of a live VM is applied by migration.
    LiveUpdateNadRef,
    /// Networks of DRA devices (`networks[].resourceClaim`).
    NetworkDevicesWithDra,
    /// `interfaces[].passtBinding`.
    PasstBinding,
    /// `interfaces[].portRanges`.
    PortRangesSpec,
}

/// The maturity of a gate in a version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Maturity {
    /// Off unless listed.
    Alpha,
    /// Since 1.8 on unless disabled; before 1.8 as alpha.
    Beta,
    /// Always on.
    GenerallyAvailable,
}

impl Gate {
    /// Returns the name in `featureGates[]`, which is case-sensitive.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HotplugNics => "HotplugNICs",
            Self::LiveUpdateNadRef => "LiveUpdateNADRef",
            Self::NetworkDevicesWithDra => "NetworkDevicesWithDRA",
            Self::PasstBinding => "PasstBinding",
            Self::PortRangesSpec => "PortRangesSpec",
        }
    }

    /// Returns the maturity of the gate in a version.
    fn maturity(self, version: Version) -> Maturity {
        let since = |major, minor| version.is_at_least(major, minor);
        match self {
            Self::HotplugNics if since(1, 4) => Maturity::GenerallyAvailable,
            Self::LiveUpdateNadRef if since(1, 9) => Maturity::GenerallyAvailable,
            Self::LiveUpdateNadRef | Self::PasstBinding if since(1, 8) => Maturity::Beta,
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
    /// The precedence since 1.8 is: generally available, listed, disabled, beta. Before 1.8 a beta gate has to be
    /// listed.
    #[must_use]
    pub fn is_on(&self, gate: Gate, version: Option<Version>) -> bool {
        let lists = |list: &[String]| list.iter().any(|name| name == gate.name());
        let maturity = version.map_or(Maturity::Alpha, |version| gate.maturity(version));
        if maturity == Maturity::GenerallyAvailable || lists(&self.enabled) {
            return true;
        }
        let beta_is_on = version.is_some_and(|version| version.is_at_least(1, 8));
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
        (Gate::PasstBinding, "v1.8.0", false, false, true),
        (Gate::PasstBinding, "v1.8.0", false, true, false),
        (Gate::PasstBinding, "v1.8.0", true, true, true),
        (Gate::LiveUpdateNadRef, "v1.7.2", false, false, false),
        (Gate::LiveUpdateNadRef, "v1.8.0", false, false, true),
        (Gate::LiveUpdateNadRef, "v1.8.0", false, true, false),
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

    #[test]
    fn gate_names_are_case_sensitive() {
        let lists = GateLists { enabled: vec!["hotplugnics".to_owned()], disabled: Vec::new() };
        assert!(!lists.is_on(Gate::HotplugNics, Some(Version::new(1, 3, 1))));
    }
}
